"""The folder of a sweep: finished trials appear in one piece, and all that is read is checked: it may be anybody's."""

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator, ConfigDict, Field
from typing_extensions import TypedDict  # pydantic takes that of typing from Python 3.12 on only

from videomolmo.errors import BadInput
from videomolmo.io import untrusted
from videomolmo.io.files import LOCK, check_folder, is_temporary, unused_name, write_json, write_text
from videomolmo.sweep.grid import COLUMNS, Grid, Notebook, read_notebook

FILE, NOTEBOOK = "sweep.json", "notebook.ipynb"
DONE, FAILED, DAMAGED, MISSING = "done", "failed", "damaged", "missing"
OWN = {FILE, "cells", "running", "sweep.lock"}  # the last two of earlier versions; a killed start has no sweep.json
KEY = re.compile(r".+,([0-9a-f]{10})")
STRICT = ConfigDict(extra="allow", strict=True)
LARGEST = 2**28  # bytes of a state file; a sweep of a million trials has fewer


def _without_ours(parameters: dict[str, Any]) -> dict[str, Any]:
    if taken := parameters.keys() & set(COLUMNS):
        raise ValueError(f"{taken.pop()} is a column of the sweep's own")
    return parameters


class Planned(TypedDict):
    """A trial in sweep.json."""

    __pydantic_config__ = STRICT
    name: str
    parameters: dict[str, Any]


class SweepFile(TypedDict):
    """sweep.json: what is to be run."""

    __pydantic_config__ = STRICT
    notebook: str
    sha256: str
    varied: list[str]
    repeats: list[str]
    cells: dict[str, Planned]


class DoneFile(TypedDict):
    """done.json of a trial."""

    __pydantic_config__ = STRICT
    parameters: Annotated[dict[str, Any], AfterValidator(_without_ours)]
    notebook_sha256: str
    commit: str | None
    versions: dict[str, str]
    machine: str
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    table: NotRequired[str | None]


class FailedFile(DoneFile):
    """failed.json of a trial."""

    error: str
    traceback: str
    log: NotRequired[str | None]


MARKS = {DONE: ("done.json", DoneFile), FAILED: ("failed.json", FailedFile)}


@dataclass(frozen=True)
class Record:
    """What lies in the folder of a finished trial.

    Attributes:
        folder: with notebook.ipynb, and what the notebook wrote.
        status: DONE or FAILED; DAMAGED where neither can be told.
        metadata: of done.json or failed.json; where damaged, `error` says why.
    """

    folder: Path
    status: str
    metadata: dict[str, Any]


class Store:
    """`out`/sweep.json, notebook.ipynb as it was swept, cells/ with a folder for each finished trial, and cache/.

    A trial is worked on in a hidden folder, see `io.files.unfinished`, and moves to cells/ when it has ended, so that
    what stands there is whole, whatever was killed when. Only the holder of the folder, see `io.files.held`, writes
    sweep.json.
    """

    def __init__(self, out: Path) -> None:
        self.out = Path(out).absolute()
        self.cells, self.notebook, self.cache = self.out / "cells", self.out / NOTEBOOK, self.out / "cache"

    def manifest(self) -> dict[str, Any]:
        """The content of sweep.json.

        Raises:
            BadInput: the folder holds no sweep, or the file is damaged.
        """
        if not os.path.lexists(self.out / FILE):
            raise BadInput(f"{self.out} holds no sweep; give a folder that `videomolmo sweep` wrote")
        try:
            return _read_state(self.out / FILE, SweepFile)
        except BadInput as error:
            raise BadInput(f"{self.out}: {error}; run the sweep again, or give another folder") from None

    def check(self, notebook: Notebook) -> None:
        """BadInput unless this notebook can be swept here: not in a folder of other things, or of another state."""
        check_place(self.out)
        self.check_links()
        name, hashes = self._swept()
        if hashes - {notebook.sha256}:
            raise BadInput(
                f"{self.out} holds runs of {name} as it was then, and {notebook.path} differs from "
                f"it; give a new folder, so that one table speaks of one notebook"
            )
        there = self.out.iterdir() if self.out.is_dir() else ()
        if not hashes and {path.name for path in there if not is_temporary(path)} - OWN:
            raise BadInput(f"{self.out} is not empty and holds no sweep; give a new folder")

    def check_links(self) -> None:
        """BadInput where a link could lead out of the folder, or a file and a folder have changed places."""
        for path in (self.cells, self.notebook, self.out / FILE, self.out / LOCK):
            right = path.is_dir() if path == self.cells else path.is_file()
            if os.path.lexists(path) and (path.is_symlink() or not right):
                raise BadInput(f"{path} is a link, or no file or folder of a sweep; move it, or give another folder")

    def _swept(self) -> tuple[str, set[str]]:
        """Name of the notebook that was swept here, and its hashes: one, or none where nothing was done.

        After a power cut sweep.json may be empty; then the finished trials know, or the notebook as it was swept.

        Raises:
            BadInput: it is damaged, and there is nothing of these.
        """
        if not os.path.lexists(self.out / FILE):
            return "", set()
        try:
            manifest = self.manifest()
            return manifest["notebook"], {manifest["sha256"]}
        except BadInput:
            ended = (record for record in self.records().values() if record.status != DAMAGED)
            hashes = {record.metadata["notebook_sha256"] for record in ended} or ({self._kept_hash()} - {None})
            if not hashes and (self.out / FILE).read_bytes().strip(b"\0\n "):
                raise
            return "a notebook", hashes

    def create(self, notebook: Notebook, grid: Grid) -> None:
        """Write what is to be run, if `check` still agrees now that the folder is held."""
        self.check(notebook)
        self.cells.mkdir(exist_ok=True)
        cells = {one.key: {"name": one.name, "parameters": dict(one.parameters)} for one in grid.trials}
        metadata = {
            "notebook": notebook.path.name.encode(errors="replace").decode(), "sha256": notebook.sha256,
            "varied": grid.varied, "repeats": grid.repeats, "cells": cells,
        }  # fmt: skip
        write_json(self.out / FILE, metadata)  # first: a folder without it is not ours
        if self._kept_hash() != notebook.sha256:
            write_text(self.notebook, notebook.text)

    def _kept_hash(self) -> str | None:
        """Hash of the notebook that all trials run; None where there is none, or a damaged one."""
        try:
            return read_notebook(self.notebook).sha256
        except BadInput:
            return None

    def commit(self, folder: Path, status: str, metadata: dict[str, Any]) -> None:
        """Move the folder of a trial that has ended to its place, in one step; one that is done there already stays.

        One that failed before is replaced; what is damaged is set aside as NAME.1.old, or the first number not taken.
        """
        write_json(folder / MARKS[status][0], metadata)
        before = [_record(path) for path in self.cells.glob(f"*,{key_in(folder.name)}")]
        if any(record.status == DONE for record in before):
            return
        for number, record in enumerate(before):
            aside = folder.with_name(f"before {number}")  # goes with the hidden folder
            os.rename(record.folder, unused_name(record.folder) if record.status == DAMAGED else aside)
        os.rename(folder, self.cells / folder.name)

    def records(self) -> dict[str, Record]:
        """All trials by their key that are finished, or whose record is damaged.

        Raises:
            BadInput: a link leads out of the folder.
        """
        self.check_links()
        found: dict[str, Record] = {}
        for folder in sorted(self.cells.iterdir()) if self.cells.is_dir() else ():
            if KEY.fullmatch(folder.name):
                record, key = _record(folder), key_in(folder.name)
                if key not in found or record.status != DAMAGED:
                    found[key] = record
        return found


def check_place(folder: Path) -> None:
    """BadInput where no work may go to a folder: it is a file, cannot be written, or no notebook can hold its name."""
    try:
        if "\0" in str(folder):
            raise ValueError
        str(folder.absolute()).encode()  # parameters and executed notebooks hold it as text
    except ValueError:
        raise BadInput(f"{str(folder)!r} has bytes that are no UTF-8 text; choose another folder") from None
    check_folder(folder, overwrite=True, results=False)  # what is there stays, apart from what is ours


def _read_state(path: Path, kind: Any) -> dict[str, Any]:
    """The content of a state file; BadInput where it is a link, cannot be read, or is not of this kind."""
    try:
        if path.is_symlink():
            raise BadInput("a link")
        return untrusted.parse(kind, untrusted.read_bytes(path, LARGEST), "content")
    except (OSError, BadInput) as error:
        why = getattr(error, "strerror", None) or str(error)
    raise BadInput(f"{path.name} is damaged ({' '.join(why.split()):.200})")


def _record(folder: Path) -> Record:
    try:
        if folder.is_symlink():
            raise BadInput("it is a link")
        for status, (mark, kind) in MARKS.items():
            if os.path.lexists(folder / mark):
                return Record(folder, status, _read_state(folder / mark, kind))
        raise BadInput("it holds no done.json or failed.json")
    except BadInput as error:
        return Record(folder, DAMAGED, {"error": str(error)})


def key_in(name: str) -> str:
    """The key at the end of a folder's name."""
    return name.rpartition(",")[2]


def now() -> str:
    """The time as text, UTC, in seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
