"""Files and folders of results: written atomically, and never over what is not ours."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videomolmo.errors import BadInput
from videomolmo.io.plain_values import as_path
from videomolmo.io.untrusted import parse, read_bytes

if TYPE_CHECKING:
    from filelock import BaseFileLock


LOCK = ".videomolmo.lock"  # in a folder that a process holds
WINDOW_FILE = re.compile(r"\d{5,}\.npz")
UNFINISHED = ".unfinished."  # how folders begin that hold what takes its place once it is whole
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


@contextmanager
def atomic_file(path: str | Path, *, replace: bool = True) -> Iterator[Path]:
    """Where to write a file: its own name in a hidden folder beside it, from which it moves when the block ends well.

    It is on the disk before it takes the place of an earlier file, so that a power cut leaves the one or the other.

    Args:
        path: of the file; its folder is made where missing.
        replace: whether an earlier file may be replaced.

    Raises:
        BadInput: there is such a file, and `replace` is False.
        OSError: it cannot be written; see `explain_os_error`.
    """
    path = Path(path)
    with explain_os_error("cannot be written", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(path.parent) as place:
            yield place / path.name
            move_into_place(place / path.name, path, replace=replace)


@contextmanager
def atomic_files(folder: str | Path, last: str) -> Iterator[Path]:
    """Where to write files that appear in `folder` when the block ends well; `last` is the sign that all are there.

    Raises:
        OSError: they cannot be written; see `explain_os_error`.
    """
    folder = Path(folder)
    with explain_os_error("cannot be written", folder):
        folder.mkdir(parents=True, exist_ok=True)
        with temporary_folder(folder) as place:
            (place / "files").mkdir()
            yield place / "files"
            move_all_into_place(sorted((place / "files").iterdir(), key=lambda path: path.name == last), folder)


@contextmanager
def new_file(path: str | Path, suffix: str) -> Iterator[Path]:
    """Where to write a new file, see `atomic_file`.

    Raises:
        BadInput: the file exists, has another suffix, or no folder.
    """
    path = Path(path)
    if path.suffix.lower() != suffix:
        raise BadInput(f"{path}: expected a name that ends in {suffix}")
    _check_parent(path)
    if os.path.lexists(path):
        raise BadInput(f"{path} exists; give another name")
    with atomic_file(path, replace=False) as new:
        yield new


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """An empty folder that takes its place when the block ends well.

    Raises:
        BadInput: something that is not an empty folder is there, or no folder to put it in.
    """
    path = Path(path)
    if os.path.lexists(path) and (not path.is_dir() or any(path.iterdir())):
        raise BadInput(f"{path} exists and is not empty; give a new folder")
    _check_parent(path)
    with explain_os_error("cannot be written", path), temporary_folder(path.absolute().parent) as place:
        (place / "files").mkdir()
        yield place / "files"
        move_into_place(place / "files", path, replace=False)


def _check_parent(path: Path) -> None:
    if not path.absolute().parent.is_dir():
        raise BadInput(f"{path}: its folder {path.parent} does not exist; create it first")


def move_into_place(source: Path, path: Path, *, replace: bool = True) -> None:
    """Move a file, or a folder with files, to its place once it is on the disk; `replace` as in `atomic_file`."""
    for file in [*source.rglob("*"), source] if source.is_dir() else [source]:
        sync(file)
    if replace:
        os.replace(source, path)
    else:
        _link_new(source, path)
    sync(path.parent)


def move_all_into_place(sources: Iterable[Path], folder: Path) -> None:
    """Move files into a folder, under their names; as `move_into_place`, but many at once."""
    sources = list(sources)
    for source in sources:
        sync(source)
    for source in sources:
        os.replace(source, folder / source.name)
    sync(folder)


def _link_new(source: Path, path: Path) -> None:
    """Give a file or folder its name where nothing else has that; an empty folder does not count."""
    try:
        if source.is_dir():
            os.rename(source, path)
        else:
            os.link(source, path)
    except OSError as error:  # some disks know no such links
        if os.path.lexists(path):
            raise BadInput(f"{path} exists; give another name") from error
        os.replace(source, path)


def sync(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk."""
    with contextlib.suppress(PermissionError):  # a folder, on Windows
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        except OSError as error:
            if error.errno not in {errno.EINVAL, errno.EBADF, *_NO_LOCKS}:  # of disks that have no such thing
                raise
        finally:
            os.close(number)


def write_text(path: Path, text: str) -> None:
    """Write text atomically, in UTF-8."""
    with atomic_file(path) as unfinished_file:
        unfinished_file.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write plain JSON atomically, indented."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


@contextmanager
def explain_os_error(trouble: str, path: Path) -> Iterator[None]:
    """Have an OSError that leaves the block say what could not be done, such as "cannot be written", and to which path.

    One that names another file speaks for itself.
    """
    try:
        yield
    except OSError as error:
        if hasattr(error, "reason") or (error.filename and UNFINISHED not in os.fsdecode(error.filename)):
            raise
        named = OSError(error.errno, f"{trouble} ({os_reason(error)})", str(path))
        named.reason = os_reason(error)
        raise named from error


def os_reason(error: OSError) -> str:
    """What the system says, without the path."""
    return getattr(error, "reason", None) or error.strerror or str(error) or type(error).__name__


@contextmanager
def locked_folder(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Work in a folder that nobody else has locked; what dead processes left there unfinished is removed.

    Args:
        folder: made where missing.
        wait: until whoever holds it lets go.

    Raises:
        BadInput: another process holds it, and `wait` is False.
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = try_lock(folder, wait=wait)
    if lock is None:
        raise BadInput(f"another process works in {folder}; wait for it, stop it first, or give another folder")
    try:
        remove_abandoned(folder, UNFINISHED)
        yield
    finally:
        with contextlib.suppress(OSError):
            (folder / LOCK).unlink()  # before the lock goes: who opened it meanwhile sees that it is no longer there
        lock.release()


def try_lock(folder: Path, *, wait: bool = False) -> "BaseFileLock | None":
    """The lock on a folder, as long as this process lives; None where another one, or other work in this one, has it.

    Where the disk knows no locks, it is not locked: work goes on, and nothing that others left is removed.

    Raises:
        OSError: the folder is gone, or cannot be written.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK, thread_local=False)
    try:
        lock.acquire(blocking=wait)
    except Timeout:
        return None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return lock


def locked_temporary_folder(parent: Path, prefix: str) -> "tuple[Path, BaseFileLock]":
    """A new locked folder in `parent`, and its lock; what dead processes left under such names is removed before."""
    remove_abandoned(parent, prefix)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        with contextlib.suppress(FileNotFoundError):  # another process took it for a dead one's: it was not held yet
            if (lock := try_lock(folder)) is not None:
                return folder, lock


def remove_locked(folder: Path, lock: "BaseFileLock") -> None:
    """Remove a folder of `locked_temporary_folder`."""
    lock.release()
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def temporary_folder(beside: Path) -> Iterator[Path]:
    """A hidden folder in `beside`, gone when the block ends; what is done moves to its place by `move_into_place`."""
    folder, lock = locked_temporary_folder(beside, UNFINISHED)
    try:
        yield folder
    finally:
        remove_locked(folder, lock)


def remove_at_once(folder: Path) -> None:
    """Remove a folder so that, killed at any moment, nobody finds half of it under its name."""
    with temporary_folder(folder.parent) as place:
        os.rename(folder, place / folder.name)


def remove_abandoned(parent: Path, prefix: str) -> None:
    """Remove the folders of `locked_temporary_folder` in `parent`, under such names, that no living process holds."""
    try:  # scandir: a run writes into folders of thousands of files, a path for each of which would cost more than it
        with os.scandir(parent) as entries:
            names = [one.name for one in entries if one.name.startswith(prefix) and one.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return
    for path in (parent / name for name in names):
        with contextlib.suppress(OSError):  # somebody else's, or gone meanwhile
            if (lock := try_lock(path)) is not None and lock.is_locked:
                remove_locked(path, lock)


def unused_name(path: Path) -> Path:
    """A name beside a file or folder that nothing has: settings.json.1.old and so on."""
    names = (path.with_name(f"{path.name}.{number}.old") for number in itertools.count(1))
    return next(name for name in names if not os.path.lexists(name))


def is_temporary(path: Path) -> bool:
    """Whether a path only shows that a process works in the folder, or was killed there."""
    return path.name == LOCK or path.name.startswith(UNFINISHED)


def check_new(folder: Path) -> None:
    """BadInput unless a folder is empty or not there yet, so that nothing in it can be overwritten."""
    if folder.exists() and (not folder.is_dir() or not all(map(is_temporary, folder.iterdir()))):
        raise BadInput(f"{folder} is there already and not empty; name a new folder, nothing was written")


OWN = {"sentence", "times_s", "objects"}  # by which a run.json is known as ours
BETWEEN = {"videomolmo": "this result is being replaced"}  # run.json while it is
RECORDING = "recorded_frames.mp4"  # of a live source
FILES = (
    "answers.jsonl",
    "tracks.csv",
    "overlay.mp4",
    RECORDING,
    "run.json",
)  # run.json comes last: it makes a folder a result
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
    given, folder = folder, as_path(folder)
    if folder is None:
        raise BadInput(f"the folder for the results is {given!r}, expected a path")
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is a file; give a folder for the results")
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise BadInput(f"{folder}: no permission to write in {nearest}; choose another folder")
    if not overwrite and folder.is_dir() and not all(map(is_temporary, folder.iterdir())):
        raise BadInput(f"{folder} is not empty; choose another folder, or --overwrite to replace the results in it")
    for name in FILES:
        if (folder / name).is_dir():
            raise BadInput(f"{folder / name} is a folder, expected a file of results; move it or choose another folder")
    for name, pattern in FOLDERS.items():
        _check_inner(folder / name, pattern)
    if (video := as_path(source)) is not None:
        _check_source(folder, video)
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
        content = read_bytes(folder / FILES[-1])
        is_blank = not content.strip(b"\0")  # what a power cut may leave of a file
        metadata = BETWEEN if is_blank else parse(dict[str, Any], content, FILES[-1])
        ours = metadata.keys() >= OWN or metadata == BETWEEN
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
        with temporary_folder(folder) as place:
            for name in FOLDERS:
                (place / name).mkdir()
            yield place
            with locked_folder(folder, wait=True):
                check_folder(folder, overwrite=overwrite, source=source)  # others may have written there meanwhile
                _commit(place, folder)
            made = []
    except OSError as error:
        raise BadInput(f"{folder}: cannot write there ({os_reason(error)}); choose another folder") from error
    finally:
        for path in made:  # empty again
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def _commit(place: Path, folder: Path) -> None:
    """Move finished results from `place` to where they belong; in between run.json says so, and no mixture is read."""
    _backup_corrections(folder)
    write_json(folder / FILES[-1], BETWEEN)
    for name, pattern in FOLDERS.items():
        (folder / name).mkdir(exist_ok=True)
        for path in (folder / name).iterdir():
            if pattern.fullmatch(path.name):
                path.unlink()
        move_all_into_place((place / name).iterdir(), folder / name)
    for name in FILES:
        if (place / name).exists():
            move_into_place(place / name, folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


def _backup_corrections(folder: Path) -> None:
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
