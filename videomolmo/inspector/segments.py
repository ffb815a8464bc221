"""Objects between two neighbouring key frames, as stored and after a fusion rule."""

from __future__ import annotations

import math
import threading
from bisect import bisect_right
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from videomolmo.errors import BadInput
from videomolmo.io.cache import BoundedCache
from videomolmo.io.untrusted import StoredArrays
from videomolmo.mask_store import (
    LAYERS,
    Box,
    ClipShape,
    MaskStore,
    PackedMasks,
    centres,
    count_bits,
    crop,
    pack,
    read_window,
    union_box,
)
from videomolmo.masks.windows import fuse_window

MAX_BYTES = 256 << 20  # of masks in memory
DECISIONS = ("key", "intersection", "union", "fallback", "single direction", "forward", "backward", "mixed", "none")
SETTINGS = ("tau", "left_distance", "right_distance")  # options of rules that need nothing stored
_MADE, _TAKEN = ("intersection", "union", "forward", "backward"), ("forward", "backward", "intersection", "union")
_ORDERS = dict.fromkeys(("iou", "intersection", "union"), _MADE) | dict.fromkeys(
    ("left", "right", "larger", "smaller", "nearest", "forward", "backward"), _TAKEN
)  # what a mask is called when several names fit
_CODE = {name: code for code, name in enumerate(DECISIONS)}


@dataclass(frozen=True, eq=False)
class Segment:
    """One object on frames `start` … `stop - 1`.

    Attributes:
        object_id: id from 1.
        left, right: the key frames on both sides; None where the clip begins or ends. `left` is `start`, or lies before
            it when only a part of the stretch is described.
        forward, backward: masks, None where that direction does not reach. On the left key frame both are its own mask.
        reach_forward, reach_backward: whether the direction reaches, per frame.
        stored: fused masks as the run saved them, None where they must be made.
    """

    object_id: int
    start: int
    stop: int
    left: int | None
    right: int | None
    forward: PackedMasks | None
    backward: PackedMasks | None
    reach_forward: Bool[np.ndarray, " frames"]
    reach_backward: Bool[np.ndarray, " frames"]
    stored: PackedMasks | None = None

    @property
    def on_key(self) -> bool:
        """Whether the first frame is a key frame."""
        return self.left == self.start

    @property
    def bytes(self) -> int:
        """Memory of the masks."""
        return sum(packed.bits.nbytes for packed in (self.forward, self.backward, self.stored) if packed is not None)

    def slice(self, start: int, stop: int) -> Segment:
        """The part from `start` to before `stop`."""
        start, stop = max(start, self.start), min(stop, self.stop)
        part = slice(start - self.start, stop - self.start)
        packed_masks = {name: getattr(self, name) for name in ("forward", "backward", "stored")}
        return replace(
            self, start=start, stop=stop,
            reach_forward=self.reach_forward[part], reach_backward=self.reach_backward[part],
            **{name: None if packed is None else packed.slice(start, stop) for name, packed in packed_masks.items()},
        )  # fmt: skip

    @cached_property
    def agreement(self) -> Float[np.ndarray, " frames"]:
        """IoU of the two directions; NaN where one does not reach."""
        forward, backward, _ = self.directions()
        union, common = count_bits(forward | backward), count_bits(forward & backward)
        overlap = np.where(union == 0, 1.0, common / np.maximum(union, 1))
        return np.where(self.reach_forward & self.reach_backward, overlap, np.nan)

    def directions(self, *others: PackedMasks) -> tuple[np.ndarray, np.ndarray, Box]:
        """Bits of the forward and the backward masks within one box that holds `others` too, and the box."""
        box = union_box(packed.box for packed in (self.forward, self.backward, *others) if packed is not None)
        shape = (self.stop - self.start, box[1] - box[0], box[3] - box[2])
        pair = (np.zeros(shape, np.uint8) if s is None else s.packed(box) for s in (self.forward, self.backward))
        return *pair, box


def total_bytes(segments: list[Segment]) -> int:
    """Memory of the masks of segments."""
    return sum(segment.bytes for segment in segments)


EMPTY_WINDOW = 64  # frames told of together where nothing was stored


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
        self._cache, self.lock = BoundedCache(MAX_BYTES, total_bytes), threading.RLock()

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
            if (found := self._cache.get(window)) is None:
                found = self._cache.put(window, self._read(window) if self.starts[window] in self._files else [])
            return found

    def clear_cache(self) -> None:
        """Free the windows, which can be read again."""
        with self.lock:
            self._cache.clear()

    def _read(self, window: int) -> list[Segment]:
        start, stop = self.span(window)
        path = self._files[start]
        try:
            data = read_window(path, ClipShape(self.frames, self.objects, *self.size))
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
            sides = (packed_masks["forward"], packed_masks["backward"], reach["forward"], reach["backward"])
            found.append(Segment(object_id, start, start + frames, start, right, *sides, packed_masks["fused"]))
        return found

    @staticmethod
    def _packed(data: dict[str, np.ndarray], layer: str, start: int, row: int, frames: int) -> PackedMasks | None:
        return crop(start, data[layer][:frames, row]) if layer in data else None

    @staticmethod
    def _reach(data: dict[str, np.ndarray], layer: str, row: int, frames: int) -> np.ndarray:
        if layer not in data or f"has_{layer}" not in data:
            return np.zeros(frames, bool)
        return data[f"has_{layer}"][:frames, row].astype(bool)


@dataclass(frozen=True, eq=False)
class Fused:
    """A segment after a rule: masks, the decision on each frame, and the centre and area of each mask."""

    segment: Segment
    packed: PackedMasks
    codes: np.ndarray
    x: Float[np.ndarray, " frames"]
    y: Float[np.ndarray, " frames"]
    area: np.ndarray

    def slice(self, start: int, stop: int) -> Fused:
        """The part from `start` to before `stop`, within its frames."""
        part = slice(start - self.segment.start, stop - self.segment.start)
        tables = (self.codes[part], self.x[part], self.y[part], self.area[part])
        return Fused(self.segment.slice(start, stop), self.packed.slice(start, stop), *tables)


def join_objects(found: list[Fused]) -> list[Fused]:
    """At most one mask of each object on a frame: of several tracks that are one object, what any of them has."""
    own: dict[int, list[Fused]] = {}
    for one in found:
        own.setdefault(one.segment.object_id, []).append(one)
    return [part for several in own.values() for part in _joined(several)]


def _joined(several: list[Fused]) -> list[Fused]:
    spans = sorted((one.segment.start, one.segment.stop) for one in several)
    if all(before[1] <= after[0] for before, after in pairwise(spans)):
        return several
    parts = []
    for start, stop in pairwise(sorted({edge for span in spans for edge in span})):
        there = [one for one in several if one.segment.start <= start and one.segment.stop >= stop]
        parts += [reduce(_union, (one.slice(start, stop) for one in there))] if there else []
    return parts


def _union(a: Fused, b: Fused) -> Fused:
    """Both as one object, on the same frames."""
    forward, backward = (
        _either(getattr(a.segment, side), getattr(b.segment, side)) for side in ("forward", "backward")
    )
    segment = replace(
        a.segment, forward=forward, backward=backward, stored=None,
        reach_forward=a.segment.reach_forward | b.segment.reach_forward,
        reach_backward=a.segment.reach_backward | b.segment.reach_backward,
    )  # fmt: skip
    both = np.where(a.codes == b.codes, a.codes, _CODE["mixed"])
    codes = np.where(b.area == 0, a.codes, np.where(a.area == 0, b.codes, both))
    packed = _either(a.packed, b.packed)
    return Fused(segment, packed, codes, *centres(packed.bits, packed.box))


def _either(a: PackedMasks | None, b: PackedMasks | None) -> PackedMasks | None:
    """The pixels of both."""
    if a is None or b is None:
        return b if a is None else a
    box = union_box((a.box, b.box))
    return crop(a.start, a.packed(box) | b.packed(box), box)


def fuse_segment(segment: Segment, rule: str, tau: float, keep_stored: bool) -> Fused:
    """Apply a rule to a segment as the run does: key frames keep their own mask, the end of the clip its forward one.

    Args:
        segment: one object between two key frames.
        rule, tau: see `videomolmo.fusion.fuse`.
        keep_stored: take the masks that the run saved, where there are any.
    """
    if keep_stored and segment.stored is not None:
        forward, backward, box = segment.directions(segment.stored)
        bits = segment.stored.packed(box)
    else:
        forward, backward, box = segment.directions()
        masks = (np.unpackbits(side, axis=-1).view(bool) for side in (forward, backward))
        before = segment.start - (segment.left if segment.left is not None else -1)
        after = None if segment.right is None else segment.right - segment.start
        bits = np.packbits(fuse_window(*masks, rule, tau, before=before, after=after, on_key=segment.on_key), axis=-1)
    codes = _decide(segment, forward, backward, bits, rule, tau)
    return Fused(segment, crop(segment.start, bits, box), codes, *centres(bits, box))


def prepend_key_frame(start: int, count: int, own: PackedMasks | None, backward: PackedMasks | None) -> PackedMasks:
    """Backward masks of a stretch: on its key frame the own mask of the object, after it those propagated, if any."""
    box = union_box(packed.box for packed in (own, backward) if packed is not None)
    masks = np.zeros((count, box[1] - box[0], 8 * (box[3] - box[2])), bool)
    for packed in (own, backward):
        if packed is not None and len(packed):
            masks[packed.start - start : packed.stop - start] = packed.masks(box)
    return pack(start, masks, box)


def _decide(
    segment: Segment, forward: np.ndarray, backward: np.ndarray, fused: np.ndarray, rule: str, tau: float
) -> np.ndarray:
    """The decision on each frame, read off the masks; where several fit, the one that the rule is about."""
    has_forward, has_backward, some = (_flat(bits).any(axis=1) for bits in (forward, backward, fused))
    both = segment.reach_forward & segment.reach_backward
    same = {
        "intersection": _equal(fused, forward & backward), "union": _equal(fused, forward | backward),
        "forward": _equal(fused, forward), "backward": _equal(fused, backward),
    }  # fmt: skip
    if rule == "iou":
        same["intersection"] &= segment.agreement >= tau  # equal masks are both; τ decides what it is called
    order = _ORDERS.get(rule, ("intersection", "forward", "backward", "union"))
    codes = np.full(len(fused), _CODE["mixed"])
    for name in reversed(order):
        codes[same[name]] = _CODE[name]
    codes[both & (has_forward ^ has_backward)] = _CODE["fallback"]
    codes[~both] = _CODE["single direction"]
    codes[~some] = _CODE["none"]
    if segment.on_key and segment.reach_forward[0]:
        codes[0] = _CODE["key"]
    return codes


def _flat(bits: np.ndarray) -> np.ndarray:
    return bits.reshape(len(bits), math.prod(bits.shape[1:]))


def _equal(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (_flat(a) == _flat(b)).all(axis=1)
