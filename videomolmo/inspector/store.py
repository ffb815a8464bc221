"""Segments of a result, read window by window from its files, the least used forgotten first."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from pathlib import Path

import numpy as np

from videomolmo.errors import BadInput
from videomolmo.fusion import RULES
from videomolmo.inspector.packed_masks import PackedMasks, crop
from videomolmo.inspector.segments import SETTINGS, Segment
from videomolmo.io.untrusted import StoredArrays
from videomolmo.mask_store import LAYERS, ClipShape, MaskStore, read_window

MAX_BYTES = 256 << 20  # of masks in memory
EMPTY_WINDOW = 64  # frames told of together where nothing was stored
_MORE = {name for rule in RULES.values() for name in rule.options} - set(SETTINGS)  # what rules need besides


class SegmentStore:
    """The stored masks of a clip. Safe from any thread.

    Windows cover the clip without gaps: those of the files, each from one key frame to the next, and empty ones where
    no file is.

    Args:
        spool: the files; they are read as they are, packed.
        frames, objects, size: of the clip; size is (height, width).

    Attributes:
        starts: first frame of each window.
        key_frames: first frames of those that a file is there for.
        lock: of what is kept in memory.
        problems: what could not be read, a sentence each.
    """

    def __init__(self, spool: MaskStore, frames: int, objects: int, size: tuple[int, int]) -> None:
        self.frames, self.objects, self.size = frames, objects, size
        self._files: dict[int, Path] = {int(path.stem): path for path in spool.files()}
        self._files = {start: path for start, path in self._files.items() if start < frames}
        self.key_frames = sorted(self._files)
        self.starts = sorted({*self._files, *self._gaps()})
        self.problems: dict[int, str] = {}
        self._kept: OrderedDict[int, list[Segment]] = OrderedDict()
        self._bytes, self.lock = 0, threading.RLock()

    def _gaps(self) -> set[int]:
        first = min(self._files, default=self.frames)
        return set(range(0, first, EMPTY_WINDOW))

    def options(self) -> set[str]:
        """Names of all arrays that the first file holds."""
        try:
            with StoredArrays(self._files[self.key_frames[0]]) as stored:
                return set(stored.bytes)
        except (OSError, BadInput, IndexError):
            return set()

    def window_of(self, t: int) -> int:
        """Number of the window that holds frame `t`."""
        return bisect_right(self.starts, t) - 1

    def span(self, window: int) -> tuple[int, int]:
        """First frame of a window and the one after its last."""
        stop = self.starts[window + 1] if window + 1 < len(self.starts) else self.frames
        return self.starts[window], stop

    def segments(self, window: int) -> list[Segment]:
        """Objects of a window that any direction reaches."""
        with self.lock:
            if window in self._kept:
                self._kept.move_to_end(window)
                return self._kept[window]
            found = self._read(window) if self.starts[window] in self._files else []
            self._kept[window] = found
            self._bytes += sum(segment.bytes for segment in found)
            while self._bytes > MAX_BYTES and len(self._kept) > 1:
                _, old = self._kept.popitem(last=False)
                self._bytes -= sum(segment.bytes for segment in old)
            return found

    def clear_cache(self) -> None:
        """Free the windows, which can be read again."""
        with self.lock:
            self._kept.clear()
            self._bytes = 0

    def _read(self, window: int) -> list[Segment]:
        start, stop = self.span(window)
        path = self._files[start]
        try:
            data = read_window(path, ClipShape(self.frames, self.objects, *self.size), _MORE)
        except (OSError, BadInput) as error:
            reason = str(error).removeprefix(f"{path}: ")
            self.problems[start] = f"the masks of frames {start} to {stop - 1} cannot be read ({path.name}: {reason})"
            return []
        return self._segments(data, start, stop)

    def _segments(self, data: dict[str, np.ndarray], start: int, stop: int) -> list[Segment]:
        count = int(data["shape"][0])
        frames = min(count, stop - start)
        right = stop if stop < self.frames and stop in self._files else None
        found = []
        for row, object_id in enumerate(data["ids"].tolist()):
            packed_masks = {layer: self._packed(data, layer, start, row, frames) for layer in LAYERS}
            reach = {name: self._reach(data, name, row, frames) for name in ("forward", "backward")}
            more = {name: data[name][:frames, row] for name in _MORE if name in data}
            sides = (packed_masks["forward"], packed_masks["backward"], reach["forward"], reach["backward"])
            found.append(Segment(object_id, start, start + frames, start, right, *sides, packed_masks["fused"], more))
        return found

    @staticmethod
    def _packed(data: dict[str, np.ndarray], layer: str, start: int, row: int, frames: int) -> PackedMasks | None:
        return crop(start, data[layer][:frames, row]) if layer in data else None

    @staticmethod
    def _reach(data: dict[str, np.ndarray], layer: str, row: int, frames: int) -> np.ndarray:
        if layer not in data or f"has_{layer}" not in data:
            return np.zeros(frames, bool)
        return data[f"has_{layer}"][:frames, row].astype(bool)
