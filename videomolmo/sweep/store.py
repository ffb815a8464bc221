"""The folder of a sweep: which cells are done, who works in it, and how a finished cell gets there in one piece."""

import itertools
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
from videomolmo.io.files import check_folder, is_temporary, write_json, write_text
from videomolmo.sweep.grid import Grid
from videomolmo.sweep.notebook import Notebook, read_notebook
from videomolmo.sweep.state import DoneFile, DriverFile, FailedFile, SweepFile, read_state

FILE, NOTEBOOK, LOCK = "sweep.json", "notebook.ipynb", "sweep.lock"
DONE, FAILED, DAMAGED, MISSING = "done", "failed", "damaged", "missing"
MARKS = {DONE: ("done.json", DoneFile), FAILED: ("failed.json", FailedFile)}
OWN = {LOCK, FILE, "running", "cells"}  # made before sweep.json, which a killed start leaves unwritten
KEY = re.compile(r".+,([0-9a-f]{10})")
ATTEMPT = re.compile(r"[0-9a-f]{10}-\w{8}")


@dataclass(frozen=True)
class Record:
    """What lies in the folder of a finished cell.

    Attributes:
        folder: with notebook.ipynb, and what the notebook wrote.
        state: "done" or "failed"; "damaged" where neither can be told.
        facts: of done.json or failed.json; where damaged, `error` says why.
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
            BadInput: the folder holds no sweep, or the file is damaged.
        """
        path = self.out / FILE
        if not os.path.lexists(path):
            raise BadInput(f"{self.out} holds no sweep; give a folder that `videomolmo sweep` wrote")
        try:
            return read_state(path, SweepFile)
        except BadInput as error:
            raise BadInput(f"{self.out}: {error}; run the sweep again, or give another folder") from None

    def check(self, notebook: Notebook) -> None:
        """Nothing where this notebook can be swept; touches nothing.

        Raises:
            BadInput: the folder cannot be written, or holds other things, a sweep of another notebook, or of another
                state of this one.
        """
        check_place(self.out)
        self._check_own()
        name, hashes = self._swept()
        if hashes - {notebook.sha256}:
            raise BadInput(
                f"{self.out} holds runs of {name} as it was then, and {notebook.path} differs from "
                f"it; give a new folder, so that one table speaks of one notebook"
            )
        foreign = (
            {path.name for path in self.out.iterdir() if not is_temporary(path)} - OWN if self.out.is_dir() else ()
        )
        if not hashes and foreign:
            raise BadInput(f"{self.out} is not empty and holds no sweep; give a new folder")

    def _check_own(self) -> None:
        """Nothing where what bears our names is ours: no link may lead out of the folder to what is written or removed.

        Raises:
            BadInput: such a link, a file where a folder belongs, or the other way round.
        """
        for name in (self.cells.name, self.running.name, FILE, NOTEBOOK, LOCK):
            path = self.out / name
            right = path.is_dir() if path in (self.cells, self.running) else path.is_file()
            if os.path.lexists(path) and (path.is_symlink() or not right):
                raise BadInput(f"{path} is a link, or no file or folder of a sweep; move it, or give another folder")

    def _swept(self) -> tuple[str, set[str]]:
        """Name of the notebook that was swept here, and its hashes: one, or none where nothing was done.

        After a power cut sweep.json may be empty; then the finished cells know, or the notebook as it was swept.

        Raises:
            BadInput: it is damaged, and there is nothing of these.
        """
        if not os.path.lexists(self.out / FILE):
            return "", set()
        try:
            facts = self.facts()
            return facts["notebook"], {facts["sha256"]}
        except BadInput:
            ended = (record for record in self.records().values() if record.state != DAMAGED)
            hashes = {record.facts["notebook_sha256"] for record in ended} or ({self._kept_hash()} - {None})
            if not hashes and (self.out / FILE).read_bytes().strip(b"\0\n "):
                raise
            return "a notebook", hashes

    def claim(self, notebook: Notebook, grid: Grid) -> None:
        """Write what is to be run.

        Raises:
            BadInput: see `check`; what it saw may be old, this is said under the lock.
        """
        self.check(notebook)
        cells = {cell.key: {"name": cell.name, "parameters": dict(cell.parameters)} for cell in grid.cells}
        facts = {
            "notebook": notebook.path.name.encode(errors="replace").decode(), "sha256": notebook.sha256,
            "varied": grid.varied, "repeats": grid.repeats, "cells": cells,
        }  # fmt: skip
        write_json(self.out / FILE, facts)  # first: a folder without it is not ours
        if self._kept_hash() != notebook.sha256:
            write_text(self.notebook, notebook.text)

    def _kept_hash(self) -> str | None:
        """Hash of the notebook that all cells run; None where there is none, or a damaged one."""
        with suppress(BadInput):
            return read_notebook(self.notebook).sha256
        return None

    @contextmanager
    def locked(self) -> Iterator[str]:
        """A word that stands in the folder while this process works on it: work goes on as long as it stands there.

        Raises:
            BadInput: another process sweeps into this folder, or a link leads out of it.
        """
        from filelock import FileLock, Timeout

        self._check_own()
        self.running.mkdir(parents=True, exist_ok=True)
        self.cells.mkdir(exist_ok=True)
        lock = FileLock(self.out / LOCK)
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
            about = read_state(self._word, DriverFile)
            return f"process {about['pid']} on {about['host']} since {about['since']}"
        except BadInput:
            return "another process"

    def wanted(self, token: str) -> bool:
        """Whether the sweep that handed out this word still wants its cells run."""
        try:
            return read_state(self._word, DriverFile)["token"] == token
        except BadInput:
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
        """Move a cell that has ended to its place, in one step; a cell that another run finished first stays.

        One that failed before is replaced; what is damaged is set aside as NAME.1.old, or the first number not taken.
        """
        write_json(attempt / MARKS[state][0], facts)
        os.chmod(attempt, 0o755)  # mkdtemp gives folders to their maker only
        before = [_record(folder) for folder in self.cells.glob(f"*,{key_in(name)}")]
        if any(record.state == DONE for record in before):
            shutil.rmtree(attempt)
            return
        for record in before:
            if record.state == DAMAGED:
                os.rename(record.folder, _aside(record.folder))
                continue
            old = self.running / f"{key_in(name)}-{uuid.uuid4().hex[:8]}"
            os.rename(record.folder, old)
            shutil.rmtree(old)
        os.rename(attempt, self.cells / name)

    def records(self) -> dict[str, Record]:
        """All cells by their key that are finished, or whose record is damaged.

        Raises:
            BadInput: a link leads out of the folder.
        """
        self._check_own()
        folders = sorted(self.cells.iterdir()) if self.cells.is_dir() else ()
        found: dict[str, Record] = {}
        for folder in folders:
            if KEY.fullmatch(folder.name):
                record, key = _record(folder), key_in(folder.name)
                if key not in found or record.state != DAMAGED:
                    found[key] = record
        return found


def check_place(folder: Path) -> None:
    """Nothing where work may go to a folder, which need not be there yet.

    Raises:
        BadInput: it is a file, cannot be written, or has a name that no notebook can hold.
    """
    try:
        if "\0" in str(folder):
            raise ValueError
        str(folder.absolute()).encode()  # parameters and executed notebooks hold it as text
    except ValueError:
        raise BadInput(f"{str(folder)!r} has bytes that are no UTF-8 text; choose another folder") from None
    check_folder(folder, overwrite=True, results=False)  # what is there stays, apart from what is ours


def _record(folder: Path) -> Record:
    try:
        if folder.is_symlink():
            raise BadInput("it is a link")
        for state, (mark, kind) in MARKS.items():
            if os.path.lexists(folder / mark):
                return Record(folder, state, read_state(folder / mark, kind))
        raise BadInput("it holds no done.json or failed.json")
    except BadInput as error:
        return Record(folder, DAMAGED, {"error": str(error)})


def _aside(folder: Path) -> Path:
    numbered = (folder.with_name(f"{folder.name}.{number}.old") for number in itertools.count(1))
    return next(path for path in numbered if not os.path.lexists(path))


def key_in(name: str) -> str:
    """The key at the end of a folder's name."""
    return name.rpartition(",")[2]


def now() -> str:
    """The time as text, UTC, in seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
