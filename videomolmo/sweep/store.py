"""The folder of a sweep: which cells are done, who works in it, and how a finished cell gets there in one piece."""

import json
import os
import re
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videomolmo.errors import BadInput
from videomolmo.result_folder import check_folder
from videomolmo.sweep.grid import Grid
from videomolmo.sweep.notebook import Notebook
from videomolmo.whole_files import is_trace, write_json, write_text

FILE, NOTEBOOK = "sweep.json", "notebook.ipynb"
DONE, FAILED, MISSING = "done", "failed", "missing"
MARKS = {DONE: "done.json", FAILED: "failed.json"}
OWN = {"sweep.lock", "running", "cells"}  # made before sweep.json, which a killed start leaves unwritten
KEY = re.compile(r".+,([0-9a-f]{10})")
ATTEMPT = re.compile(r"[0-9a-f]{10}-\w{8}")


@dataclass(frozen=True)
class Record:
    """What lies in the folder of a finished cell.

    Attributes:
        folder: with notebook.ipynb, and what the notebook wrote.
        state: "done" or "failed".
        facts: of done.json or failed.json.
    """

    folder: Path
    state: str
    facts: dict[str, Any]


class Store:
    """`out`/sweep.json, notebook.ipynb as it was swept, cells/, cache/, and running/ while something runs.

    A cell is worked on in a folder of its own below running/ and moved to cells/ when it has ended, so that what
    stands in cells/ is whole, whatever was killed when.
    """

    def __init__(self, out: Path) -> None:
        self.out = Path(out).absolute()
        self.cells, self.running = self.out / "cells", self.out / "running"

    @property
    def notebook(self) -> Path:
        """The notebook that all cells run; later changes of the original do not reach it."""
        return self.out / NOTEBOOK

    @property
    def cache(self) -> Path:
        """Intermediate results that all cells share."""
        return self.out / "cache"

    def facts(self) -> dict[str, Any]:
        """The content of sweep.json.

        Raises:
            BadInput: the folder holds no sweep.
        """
        try:
            return json.loads((self.out / FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise BadInput(f"{self.out} holds no sweep; give a folder that `videomolmo sweep` wrote") from None

    def check(self, notebook: Notebook) -> None:
        """Nothing where this notebook can be swept; touches nothing.

        Raises:
            BadInput: the folder cannot be written, or holds other things, a sweep of another notebook, or of another
                state of this one.
        """
        check_folder(self.out, overwrite=True, results=False)  # what is there stays, apart from what is ours
        if (self.out / FILE).is_file():
            before = self.facts()
            if before["sha256"] != notebook.sha256:
                raise BadInput(
                    f"{self.out} holds runs of {before['notebook']} as it was then, and {notebook.path} differs from "
                    f"it; give a new folder, so that one table speaks of one notebook"
                )
        elif self.out.is_dir() and {path.name for path in self.out.iterdir() if not is_trace(path)} - OWN:
            raise BadInput(f"{self.out} is not empty and holds no sweep; give a new folder")

    def claim(self, notebook: Notebook, grid: Grid) -> None:
        """Write what is to be run.

        Raises:
            BadInput: see `check`; what it saw may be old, this is said under the lock.
        """
        self.check(notebook)
        cells = {cell.key: {"name": cell.name, "parameters": dict(cell.parameters)} for cell in grid.cells}
        facts = {
            "notebook": notebook.path.name, "sha256": notebook.sha256, "varied": grid.varied, "repeats": grid.repeats,
            "cells": cells,
        }  # fmt: skip
        write_json(self.out / FILE, facts)  # first: a folder without it is not ours
        if not self.notebook.is_file():
            write_text(self.notebook, notebook.path.read_text(encoding="utf-8"))

    @contextmanager
    def locked(self) -> Iterator[str]:
        """A word that stands in the folder while this process works on it: work goes on as long as it stands there.

        Raises:
            BadInput: another process sweeps into this folder.
        """
        from filelock import FileLock, Timeout

        self.running.mkdir(parents=True, exist_ok=True)
        self.cells.mkdir(exist_ok=True)
        lock = FileLock(self.out / "sweep.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise BadInput(f"{self.out} is being swept by {self._driver()}; wait for it, or stop it first") from None
        token = uuid.uuid4().hex
        try:
            self.sweep_up()
            about = {"token": token, "pid": os.getpid(), "host": socket.gethostname(), "since": now()}
            write_json(self._word, about)
            yield token
        finally:
            self.withdraw()
            self.sweep_up()
            with suppress(OSError):
                self.running.rmdir()
            lock.release()

    @property
    def _word(self) -> Path:
        return self.running / "driver.json"

    def _driver(self) -> str:
        try:
            about = json.loads(self._word.read_text(encoding="utf-8"))
            return f"process {about['pid']} on {about['host']} since {about['since']}"
        except (OSError, ValueError):
            return "another process"

    def wanted(self, token: str) -> bool:
        """Whether the sweep that handed out this word still wants its cells run."""
        try:
            return json.loads(self._word.read_text(encoding="utf-8"))["token"] == token
        except (OSError, ValueError):
            return False

    def withdraw(self) -> None:
        """Tell all that work in this folder, on whatever machine, to stop."""
        self._word.unlink(missing_ok=True)

    def sweep_up(self) -> None:
        """Remove what killed runs left behind."""
        for path in self.running.iterdir():
            if ATTEMPT.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)

    def attempt(self, key: str) -> Path:
        """A new folder to run a cell in."""
        return Path(tempfile.mkdtemp(prefix=f"{key}-", dir=self.running))

    def publish(self, attempt: Path, name: str, state: str, facts: dict[str, Any]) -> None:
        """Move a cell that has ended to its place, in one step; a cell that another run finished first stays."""
        write_json(attempt / MARKS[state], facts)
        os.chmod(attempt, 0o755)  # mkdtemp gives folders to their maker only
        before = next(filter(None, map(_record, self.cells.glob(f"*,{key_in(name)}"))), None)
        if before and before.state == DONE:
            shutil.rmtree(attempt)
            return
        if before:
            old = self.running / f"{key_in(name)}-{uuid.uuid4().hex[:8]}"
            os.rename(before.folder, old)
            shutil.rmtree(old)
        os.rename(attempt, self.cells / name)

    def records(self) -> dict[str, Record]:
        """All finished cells by their key."""
        folders = sorted(self.cells.iterdir()) if self.cells.is_dir() else ()
        found = ((key_in(folder.name), _record(folder)) for folder in folders if KEY.fullmatch(folder.name))
        return {key: record for key, record in found if record}


def _record(folder: Path) -> Record | None:
    for state, mark in MARKS.items():
        with suppress(FileNotFoundError, NotADirectoryError):
            return Record(folder, state, json.loads((folder / mark).read_text(encoding="utf-8")))
    return None


def key_in(name: str) -> str:
    """The key at the end of a folder's name."""
    return name.rpartition(",")[2]


def now() -> str:
    """The time as text, UTC, in seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
