"""Propagations that corrections asked for, kept by what they started from, in memory and beside the result."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from videomolmo.inspector.edits import Clicks
from videomolmo.inspector.strips import Strip

FOLDER = "corrections"


class Run(NamedTuple):
    """One object followed in one direction from clicks on one frame. Names what is kept, not how far it reaches."""

    direction: str
    thing: int
    frame: int
    clicks: Clicks

    @property
    def name(self) -> str:
        """Of its file."""
        return hashlib.sha256(json.dumps(self).encode()).hexdigest()[:16] + ".npz"


class Runs:
    """Masks of runs.

    Args:
        folder: of the result; None keeps them in memory only.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = None if folder is None else folder / FOLDER
        self._kept: dict[Run, Strip] = {}

    def get(self, run: Run, start: int, stop: int) -> Strip | None:
        """Its masks on frames `start` … `stop - 1`, None where they were not made or cannot be read."""
        strip = self._kept.get(run)
        if not _covers(strip, start, stop):
            strip = self._read(run)
            if not _covers(strip, start, stop):
                return None
            self._kept[run] = strip
        return strip.cut(start, stop)

    def put(self, run: Run, strip: Strip) -> None:
        """Keep a run; its file is written whole or not at all."""
        self._kept[run] = strip
        if self.folder is None:
            return
        self.folder.mkdir(exist_ok=True)
        target = self.folder / run.name
        unfinished = target.with_name(f".{target.name}.{os.getpid()}")
        with open(unfinished, "wb") as file:
            np.savez_compressed(
                file, bits=strip.bits, start=strip.start, box=np.array(strip.box), made_from=json.dumps(run)
            )
        os.replace(unfinished, target)

    def _read(self, run: Run) -> Strip | None:
        if self.folder is None:
            return None
        try:
            with np.load(self.folder / run.name, allow_pickle=False) as data:
                return Strip(int(data["start"]), tuple(int(edge) for edge in data["box"]), data["bits"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None


def _covers(strip: Strip | None, start: int, stop: int) -> bool:
    return strip is not None and strip.start <= start and strip.stop >= stop
