"""Corrections on disk: a line each in corrections.jsonl beside the result they were made on, only ever added."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from videomolmo.errors import BadInput
from videomolmo.inspector.edits import History
from videomolmo.results import GroundingResult
from videomolmo.spool import Told
from videomolmo.stored import Correction, parse, read_bytes

LOG = "corrections.jsonl"
FOLDER = "corrections"  # masks made for them, see `Runs`


def result_key(result: GroundingResult) -> str:
    """A name for what a run found, the same in memory and on disk, and when its video or its folder is moved."""
    size = (result.objects, result.height, result.width)
    facts = (result.sentence, size, result.times_s.round(6).tolist(), result.config)
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


class CorrectionLog:
    """The records of one result's corrections.

    Args:
        folder: of the result; None: nothing is written.
        result: see `result_key`; stands in every record, so that no other result in this folder takes it for its own.
        clip: frames, objects and size of the result.

    Attributes:
        problems: lines that could not be read or are not of this result, a sentence each.
        unkept: why corrections stay in memory although there is a folder; None while they are written.
    """

    def __init__(self, folder: Path | None, result: str, clip: Told) -> None:
        self.folder, self.result, self.clip = folder, result, clip
        self.problems: list[str] = []
        self.unkept: str | None = None
        self._size = 0

    def read(self) -> History:
        """All records of this result that make sense, in order; `problems` tells of the others."""
        history, self.problems, self._size = History(self.clip.objects), [], 0
        if self.folder is None:
            return history
        try:
            data = read_bytes(self.folder / LOG)
        except FileNotFoundError:
            return history
        except (OSError, BadInput) as error:
            self.problems = [f"{LOG} cannot be read ({error}); the corrections in it are not shown"]
            if isinstance(error, BadInput):
                self.give_up(f"{LOG} cannot be read")
            return history
        self._size = len(data)
        bad, others = [], 0
        for number, line in enumerate(data.split(b"\n"), start=1):
            if not line.strip():
                continue
            try:
                record = self._record(line)
                if record is None:
                    others += 1
                else:
                    history.add(record)
            except BadInput as error:
                bad.append(f"line {number}: {error}")
        if bad:
            self.problems.append(f"{LOG}, {'; '.join(bad[:3])}{' …' * (len(bad) > 3)}: not shown, as no corrections")
        if others:
            self.problems.append(f"{LOG}: corrections of another result ({others}) are not shown")
        return history

    def _record(self, line: bytes) -> dict[str, Any] | None:
        """The record of a line; None where it is of another result. Older records name none: they are taken."""
        record = parse(dict[str, Any], line, LOG)
        if record.get("result", self.result) != self.result:
            return None
        parse(Correction, line, LOG)
        if record.get("frame", 0) >= self.clip.frames:
            raise BadInput(f"frame {record['frame']} is not in the clip")
        for x, y, _ in record.get("clicks", ()):
            if not (0 <= x <= self.clip.width and 0 <= y <= self.clip.height):
                raise BadInput(f"point ({x:g}, {y:g}) is not in the frame")
        return record

    def in_step(self) -> bool:
        """Whether the file is as it was when it was read or written here last."""
        if self.folder is None or self.unkept:
            return True
        try:
            return (self.folder / LOG).stat().st_size == self._size
        except OSError:
            return self._size == 0

    def check_room(self) -> None:
        """Find out before any work is done whether it can be kept; `unkept` tells."""
        if self.folder is None or self.unkept:
            return
        there = [self.folder, *(path for name in (LOG, FOLDER) if (path := self.folder / name).exists())]
        closed = [path for path in there if not os.access(path, os.W_OK)]
        if closed or not self.folder.is_dir():
            self.give_up(f"{(closed or there)[0]} cannot be written")

    def give_up(self, reason: str | OSError) -> None:
        """Write nothing from now on: a record that follows on lost ones would mean something else."""
        self.unkept = f"corrections are kept in memory only, until this result is closed: {reason}"

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a record in one write, so that a reader sees it whole or not at all."""
        if self.folder is None or self.unkept:
            return
        line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
        try:
            with open(self.folder / LOG, "a+b") as file:
                if file.seek(0, os.SEEK_END):
                    file.seek(-1, os.SEEK_END)
                    # an earlier write was cut short; its line stays as it is, and is reported
                    line = line if file.read(1) == b"\n" else b"\n" + line
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
                self._size = file.tell()
        except OSError as error:
            self.give_up(error)
