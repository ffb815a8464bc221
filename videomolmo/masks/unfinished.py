"""What is finished of a run that may be killed: it lies in a folder, and the same command goes on from there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from videomolmo.errors import BadInput
from videomolmo.io.cache import key_of
from videomolmo.io.files import (
    FILES,
    FOLDERS,
    UNFINISHED,
    WINDOW_FILE,
    atomic_file,
    explain_os_error,
    is_temporary,
    remove_at_once,
    sync,
)
from videomolmo.io.plain_values import as_json
from videomolmo.io.provenance import locked_manifest
from videomolmo.io.schemas import Answer
from videomolmo.io.untrusted import StoredArrays, parse, read_bytes
from videomolmo.mask_store import MaskStore
from videomolmo.results import KeyAnswer

ANSWERS, STATE, SAVING = "answers.jsonl", "state.npz", "saving"
_ARRAYS = {"reached": (), "ids": (None,), "count": (), "seen": (None,), "at": (None,), "width": (),
           "bits": (None, None, None)}  # fmt: skip


class Unfinished:
    """Answers and masks of a run so far; what was cut off in the middle is removed when this is made.

    Args:
        folder: that this process holds; see `unfinished`.

    Attributes:
        answers: those that are there, by key frame.
        store: masks of the windows before the frame `reached`.
        state: how windows go on from there, see `videomolmo.masks.windows.track_windows`; None from the start.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.answers, self.state = folder, _read_answers(folder / ANSWERS), _read_state(folder / STATE)
        for path in folder.iterdir():
            if WINDOW_FILE.fullmatch(path.name) and int(path.stem) >= self.reached:
                path.unlink()
        self.store = MaskStore(folder)

    @property
    def reached(self) -> int:
        """Frames whose masks are final."""
        return 0 if self.state is None else int(self.state["reached"])

    @property
    def objects(self) -> int:
        """Identities given to objects so far."""
        return 0 if self.state is None else int(self.state["count"])

    def add(self, answer: KeyAnswer) -> None:
        """Keep an answer, unless it is there."""
        if answer.frame not in self.answers:
            path = self.folder / ANSWERS
            with explain_os_error("an answer cannot be written", path), open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(vars(answer), ensure_ascii=False, default=as_json) + "\n")
            self.answers[answer.frame] = answer

    def keep(self, state: Mapping[str, np.ndarray]) -> None:
        """Let all windows before `state["reached"]`, which are in the store, be final."""
        for path in (self.folder / ANSWERS, *self.store.files(self.reached)):
            sync(path)
        with atomic_file(self.folder / STATE) as path:
            np.savez(path, **state)
        self.state = dict(state)

    def may_replace(self, out: Path) -> bool:
        """Whether `out` holds nothing but what a process wrote that was killed while it saved this run."""
        names = {path.name for path in out.iterdir() if not is_temporary(path)} if out.is_dir() else set()
        return (self.folder / SAVING).exists() and names <= {*FILES, *FOLDERS}

    def saves(self) -> None:
        """To be said before the result of this run is saved."""
        (self.folder / SAVING).touch()

    def remove(self) -> None:
        """Remove all of it, at once for whoever looks; masks of its result are gone then."""
        remove_at_once(self.folder)


@contextmanager
def unfinished(out: Path, asked: Mapping[str, Any]) -> Iterator[Unfinished]:
    """What is finished of a run, in `out`.unfinished (see `place_of`); removed where nothing is.

    Args:
        out: where the result will be.
        asked: all that decides the result, in JSON values; recorded, and compared where there is something.

    Raises:
        BadInput: it is of another run, or another process works there.
    """
    folder = place_of(out)
    with locked_manifest(folder, asked, "an unfinished run", {ANSWERS, STATE}):
        run = Unfinished(folder)
        try:
            yield run
        finally:
            if folder.is_dir() and not run.answers and run.state is None:
                run.remove()


def place_of(out: Path) -> Path:
    """The folder of what is finished of a run into `out`: beside it, or in it where nothing can be written beside."""
    out = out if out.name not in ("", "..") else Path(os.path.abspath(out))
    if out.is_dir() and not os.access(out.parent, os.W_OK):
        return out / f"{UNFINISHED}run"
    return out.parent / f"{out.name}.unfinished"


def video_identity(video: str | os.PathLike) -> dict[str, Any]:
    """What tells a video file, or a folder of images, from another one or an earlier one of its name, for JSON."""
    path = Path(video).resolve()
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    facts = [(os.fsencode(file.name).hex(), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
    name = os.fsencode(path).decode("utf-8", "backslashreplace")
    return {"video": name, "sizes_and_times_of_its_files": key_of({"files": facts})}


def _read_answers(path: Path) -> dict[int, KeyAnswer]:
    """Answers of a log up to the first that is not whole, where the file is cut off."""
    found: dict[int, KeyAnswer] = {}
    if not path.exists():
        return found
    length, lines = 0, read_bytes(path).split(b"\n")
    with suppress(BadInput):
        for line in lines[:-1]:
            answer = KeyAnswer.read(parse(Answer, line, str(path)))
            found[answer.frame] = answer
            length += len(line) + 1
    os.truncate(path, length)
    return found


def _read_state(path: Path) -> dict[str, np.ndarray] | None:
    with suppress(OSError, BadInput), StoredArrays(path) as stored:
        return {name: stored.read(name, "u1" if name == "bits" else "iu", shape) for name, shape in _ARRAYS.items()}
    return None
