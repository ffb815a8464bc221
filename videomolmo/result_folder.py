"""Folders of results: what lies in them, whether one may be written, and how a new result takes an old one's place."""

import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from videomolmo.errors import BadInput
from videomolmo.spool import WINDOW_FILE
from videomolmo.stored import read_json

OWN = {"sentence", "times_s", "objects"}  # by which a run.json is known as ours
BETWEEN = {"videomolmo": "this result is being replaced"}  # run.json while it is
FILES = ("answers.jsonl", "tracks.csv", "overlay.mp4", "run.json")  # run.json comes last: it makes a folder a result
FOLDERS = {"masks": re.compile(r"\d{5,}\.png"), "propagation": WINDOW_FILE}
CORRECTIONS = ("corrections.jsonl", "corrections")  # a person's work on the result beside them


def check_folder(folder: str | Path, *, overwrite: bool, source: Any = None, results: bool = True) -> Path:
    """Whether results can go to `folder`; touches nothing, so that it can be asked before any work is done.

    Args:
        folder: for the results.
        overwrite: whether earlier results in it may be replaced.
        source: the video, where it is a path: it must not be among what is replaced.
        results: whether results go there, so that what bears their names has to be one.

    Raises:
        BadInput: it holds something and `overwrite` is False, is no folder, cannot be written, or holds other things
            under the names of results.
    """
    if not isinstance(folder, (str, os.PathLike)) or not str(folder):
        raise BadInput(f"the folder for the results is {folder!r}, expected a path")
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is a file; give a folder for the results")
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise BadInput(f"{folder}: no permission to write in {nearest}; choose another folder")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise BadInput(f"{folder} is not empty; choose another folder, or --overwrite to replace the results in it")
    for name in FILES:
        if (folder / name).is_dir():
            raise BadInput(f"{folder / name} is a folder, expected a file of results; move it or choose another folder")
    for name, pattern in FOLDERS.items():
        _check_inner(folder / name, pattern)
    if isinstance(source, (str, Path)):
        _check_source(folder, Path(source))
    if results:
        _check_own(folder)
    return folder


def _check_own(folder: Path) -> None:
    """Nothing where a folder holds no files under the names of results, or a result of ours."""
    files = [name for name in FILES if (folder / name).is_file()]
    inner = [name for name, pattern in FOLDERS.items() if _has_any(folder / name, pattern)]
    if not (files or inner):
        return
    try:
        facts = read_json(folder / FILES[-1])
        ours = facts.keys() >= OWN or facts == BETWEEN
    except (OSError, BadInput):
        ours = False
    if not ours:
        raise BadInput(
            f"{folder} holds {', '.join([*files, *inner])}, but no run.json of a result: they are not this program's; "
            "move them or choose another folder"
        )


def _has_any(folder: Path, pattern: re.Pattern) -> bool:
    return (
        folder.is_dir()
        and os.access(folder, os.R_OK)
        and any(pattern.fullmatch(path.name) for path in folder.iterdir())
    )


def _check_inner(folder: Path, pattern: re.Pattern) -> None:
    """Nothing where a folder of masks is not there, or holds files only under the names of masks."""
    if folder.is_symlink():
        raise BadInput(f"{folder} is a link, expected a folder of results; remove it or choose another folder")
    if not folder.exists():
        return
    if not folder.is_dir():
        raise BadInput(f"{folder} is a file, expected a folder of results; move it or choose another folder")
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise BadInput(f"{folder}: no permission to write there; choose another folder")
    for path in folder.iterdir():
        if pattern.fullmatch(path.name) and path.is_dir():
            raise BadInput(f"{path} is a folder, expected a file of results; move it or choose another folder")


def _check_source(folder: Path, source: Path) -> None:
    """Nothing where the video is not replaced by its own results, whichever way its path leads."""
    ways = {Path(os.path.abspath(source)), source.resolve()}
    for place in (Path(os.path.abspath(folder)), folder.resolve()):
        for written in (place / name for name in (*FILES, *FOLDERS)):
            if any(way.is_relative_to(written) for way in ways):
                raise BadInput(f"the video {source} would be replaced by results; choose another folder than {folder}")


@contextmanager
def new_results(folder: str | Path, *, overwrite: bool, source: Any = None) -> Iterator[Path]:
    """A temporary folder, with those of `FOLDERS` in it, whose content becomes that of `folder` when the block ends.

    Until then nothing in `folder` is touched, and nothing at all when the block ends in an exception. Of earlier
    results files of their names are replaced; a person's corrections of them are set aside under new names.

    Raises:
        BadInput: as `check_folder`, or something cannot be written.
    """
    made: list[Path] = []
    try:
        folder = check_folder(folder, overwrite=overwrite, source=source)
        made = [path for path in (folder, *folder.absolute().parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unfinished.", dir=folder) as place:
            for name in FOLDERS:
                (Path(place) / name).mkdir()
            yield Path(place)
            _take_place(Path(place), folder)
            made = []
    except OSError as error:
        raise BadInput(f"{folder}: cannot write there ({error.strerror or error}); choose another folder") from error
    finally:
        for path in made:  # empty again
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def _take_place(place: Path, folder: Path) -> None:
    """Move finished results from `place` to where they belong; in between run.json says so, and no mixture is read."""
    _set_corrections_aside(folder)
    (place / "between").write_text(json.dumps(BETWEEN), "utf-8")
    os.replace(place / "between", folder / FILES[-1])
    for name, pattern in FOLDERS.items():
        (folder / name).mkdir(exist_ok=True)
        for path in (folder / name).iterdir():
            if pattern.fullmatch(path.name):
                path.unlink()
        for path in (place / name).iterdir():
            os.replace(path, folder / name / path.name)
    for name in FILES:
        if (place / name).exists():
            os.replace(place / name, folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


def _set_corrections_aside(folder: Path) -> None:
    """Rename corrections, which belong to the result that goes: corrections.1.old, or the first number not taken.

    Where there is no result, or no record of corrections, what bears such a name is somebody else's.
    """
    if not ((folder / FILES[-1]).is_file() and (folder / CORRECTIONS[0]).is_file()):
        return
    there = [folder / name for name in CORRECTIONS if os.path.lexists(folder / name)]
    number = 1
    while there and any(os.path.lexists(_aside(folder / name, number)) for name in CORRECTIONS):
        number += 1
    for path in there:
        path.rename(_aside(path, number))


def _aside(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}.{number}.old{path.suffix}")
