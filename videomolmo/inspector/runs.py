"""Propagations that corrections asked for, kept by what they started from, in memory and beside the result."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from videomolmo.errors import BadInput
from videomolmo.inspector.correction_log import FOLDER
from videomolmo.inspector.edits import Clicks
from videomolmo.inspector.strips import Strip
from videomolmo.spool import Told
from videomolmo.stored import MOST_ARRAY_BYTES, StoredArrays


class Run(NamedTuple):
    """One object followed in one direction from clicks on one frame. Names what is kept, not how far it reaches."""

    direction: str
    thing: int
    frame: int
    clicks: Clicks

    def name(self, result: str | None) -> str:
        """Of its file, for a result (see `result_key`); None: as files were named that do not tell of which result."""
        told = self if result is None else (result, self)
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16] + ".npz"


class Runs:
    """Masks of runs.

    Args:
        folder: of the result; None keeps them in memory only.
        result: see `result_key`; the same clicks on another result lead to other masks.
        clip: frames, objects and size of the result.
        unnamed: take files, too, that do not tell of which result they are.
    """

    def __init__(self, folder: Path | None, result: str, clip: Told, unnamed: bool = False) -> None:
        self._clip = clip
        self.folder = None if folder is None else folder / FOLDER
        self._results = (result, None) if unnamed else (result,)
        self._kept: dict[Run, Strip] = {}

    def get(self, run: Run, start: int, stop: int) -> Strip | None:
        """Its masks on frames `start` … `stop - 1`, None where they were not made or cannot be read."""
        strip = self._kept.get(run)
        if not _covers(strip, start, stop):
            strip = self._read(run, start, stop)
            if strip is None:
                return None
            self._kept[run] = strip
        return strip.cut(start, stop)

    def put(self, run: Run, strip: Strip, *, write: bool = True) -> None:
        """Keep a run; its file is written whole or not at all.

        Args:
            run, strip: what was made, and its masks.
            write: to the folder too, if there is one.

        Raises:
            OSError: the file cannot be written; the masks are kept in memory.
        """
        self._kept[run] = strip
        if self.folder is None or not write:
            return
        self.folder.mkdir(exist_ok=True)
        target = self.folder / run.name(self._results[0])
        unfinished = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            with open(unfinished, "wb") as file:
                np.savez_compressed(
                    file, bits=strip.bits, start=strip.start, box=np.array(strip.box), made_from=json.dumps(run)
                )
            os.replace(unfinished, target)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise

    def move(self, folder: Path) -> None:
        """From memory to the folder of a result."""
        self.folder = folder / FOLDER
        for run, strip in self._kept.items():
            self.put(run, strip)

    def _read(self, run: Run, start: int, stop: int) -> Strip | None:
        """From the first of its files that reaches far enough."""
        for result in self._results if self.folder is not None else ():
            try:
                strip = self._strip(self.folder / run.name(result))
            except (OSError, BadInput):
                continue
            if _covers(strip, start, stop):
                return strip
        return None

    def _strip(self, path: Path) -> Strip:
        """What a file holds, if it fits into the clip.

        Raises:
            OSError, BadInput: it cannot be read, or does not fit.
        """
        frames, _, height, width = self._clip
        with StoredArrays(path) as stored:
            start = int(stored.read("start", "iu", ()))
            top, bottom, left, right = box = tuple(int(edge) for edge in stored.read("box", "iu", (4,)))
            fits = 0 <= top <= bottom <= height and 0 <= left <= right <= -(-width // 8)
            if not (fits and 0 <= start < frames):
                raise BadInput(f"{path}: masks from frame {start} within {box} do not fit the clip")
            room = min((frames - start) * (bottom - top) * (right - left), MOST_ARRAY_BYTES)
            return Strip(start, box, stored.read("bits", "u1", (None, bottom - top, right - left), room))


def _covers(strip: Strip | None, start: int, stop: int) -> bool:
    return strip is not None and strip.start <= start and strip.stop >= stop
