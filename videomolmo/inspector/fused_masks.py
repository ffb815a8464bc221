"""Masks after a fusion rule, the decisions of the rule, and tracks, as tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Float, Integer

from videomolmo.inspector.segments import (
    DECISIONS,
    MAX_BYTES,
    Fused,
    Segment,
    SegmentStore,
    fuse_segment,
    join_objects,
    prepend_key_frame,
)
from videomolmo.io.cache import BoundedCache
from videomolmo.mask_store import NOWHERE, PackedMasks, in_pixels, intersection_area
from videomolmo.masks.windows import Identities


class Matching:
    """The windows of a result with identities given out anew.

    Args:
        store: masks of the run.
        min_overlap: least overlap of a pair, from 0 to 1; None pairs nothing.

    Attributes:
        labels: key frame to {stored id: new id} of the objects that it shows.
    """

    def __init__(self, store: SegmentStore, min_overlap: float | None) -> None:
        self.store, self.min_overlap, self._identities = store, min_overlap, Identities()
        self.labels: dict[int, dict[int, int]] = {}
        self._windows: list[tuple[dict[int, int], dict[int, int]]] = []
        right: dict[int, int] = {}
        for window in range(len(store.starts)):
            segments = store.segments(window)
            left = {
                s.object_id: right.get(s.object_id) or self._identities.new()
                for s in segments
                if s.reach_forward[:1].any()
            }
            self.labels[store.starts[window]] = left
            right = self._right(segments, left)
            self._windows.append((left, right))

    def _right(self, segments: list[Segment], left: dict[int, int]) -> dict[int, int]:
        """New ids of the objects of the right key frame."""
        if self.min_overlap is not None and all(s.stop - s.start == 1 for s in segments):
            return dict(left)  # nothing lies between these key frames: as stored
        forward = [s for s in segments if s.object_id in left]
        backward = [s for s in segments if s.reach_backward[1:].any()]
        found: list[int | None] = [None] * len(backward)
        if self.min_overlap is not None and forward and backward:
            ids = [left[s.object_id] for s in forward]
            found = self._identities.follow(ids, overlap_between(forward, backward), self.min_overlap)
        return {s.object_id: new or self._identities.new() for s, new in zip(backward, found, strict=True)}

    @property
    def objects(self) -> int:
        """How many there are now."""
        return self._identities.count

    def segments(self, window: int) -> list[Segment]:
        """Objects of a window under their new ids."""
        left, right = self._windows[window]
        stored = {segment.object_id: segment for segment in self.store.segments(window)}
        forward = {new: stored[old] for old, new in left.items()}
        backward = {new: stored[old] for old, new in right.items()}
        return [_pair(new, forward.get(new), backward.get(new)) for new in sorted({*forward, *backward})]


def overlap_between(forward: list[Segment], backward: list[Segment]) -> np.ndarray:
    """IoU over space and time of every forward with every backward propagation of a window, key frame left out."""
    overlap = np.zeros((len(forward), len(backward)))
    for (i, a), (j, b) in ((left, right) for left in enumerate(forward) for right in enumerate(backward)):
        frames = range(a.start + 1, min(a.stop, b.stop))
        common = sum(intersection_area(a.forward, b.backward, at) for at in frames)
        total = a.forward.areas()[1:].sum() + b.backward.areas()[1:].sum() - common
        overlap[i, j] = common / total if total else 0.0
    return overlap


def _pair(object_id: int, ahead: Segment | None, behind: Segment | None) -> Segment:
    """One object made of the forward masks of one stored object and the backward masks of another."""
    if ahead is not None and behind is not None and ahead.object_id == behind.object_id:
        return replace(ahead, object_id=object_id)
    one = ahead or behind
    count = one.stop - one.start
    reach_forward, reach_backward = np.full(count, ahead is not None), np.full(count, behind is not None)
    reach_backward[0] = reach_forward[0]
    own = ahead.forward.slice(one.start, one.start + 1) if ahead is not None else None
    after = behind.backward.slice(one.start + 1, one.stop) if behind is not None else None
    forward = None if ahead is None else ahead.forward
    return replace(
        one, object_id=object_id, forward=forward, backward=prepend_key_frame(one.start, count, own, after),
        reach_forward=reach_forward, reach_backward=reach_backward, stored=None,
    )  # fmt: skip


MASK_LAYERS = ("forward", "backward", "fused", "disagreement")
_REACHING = ("forward", "backward", "disagreement")  # layers that may show nothing at all


class Source(Protocol):
    """Anything that gives the segments of a window: the run's, corrected ones, or those with other identities."""

    objects: int

    def segments(self, window: int) -> list[Segment]: ...


class Patch(NamedTuple):
    """An object's mask where it is: rows from `top`, columns from `left`, in pixels of the frame."""

    object_id: int
    top: int
    left: int
    mask: Bool[np.ndarray, "height width"]


class Tables(NamedTuple):
    """One number per frame and object: IoU of the directions, code in `DECISIONS`, centre and area of the mask."""

    agreement: Float[np.ndarray, "frames objects"]
    codes: Integer[np.ndarray, "frames objects"]
    x: Float[np.ndarray, "frames objects"]
    y: Float[np.ndarray, "frames objects"]
    area: Integer[np.ndarray, "frames objects"]


class FusedMasks:
    """Masks and tables of a clip fused by one rule. Safe from any thread.

    Args:
        store: its windows.
        source: of segments.
        rule, tau: see `fuse_segment`.
        keep_stored: whether masks that the run saved are taken.
    """

    def __init__(self, store: SegmentStore, source: Source, rule: str, tau: float, keep_stored: bool) -> None:
        self.store, self.source, self.rule, self.tau, self.keep_stored = store, source, rule, tau, keep_stored
        self._cache = BoundedCache(MAX_BYTES, _size)
        self._rows: dict[int, tuple[np.ndarray, ...]] = {}
        self._tables: Tables | None = None
        self._reach: dict[int, tuple[bool, bool, bool]] = {}
        self._lock = store.lock  # one for both: they call each other

    @property
    def objects(self) -> int:
        return self.source.objects

    def replace_source(self, source: Source, windows: Iterable[int]) -> None:
        """Other segments in some windows."""
        with self._lock:
            grown = source.objects != self.source.objects
            self.source, self._tables = source, None
            for window in list(self._rows) if grown else windows:
                self._rows.pop(window, None)
            for window in windows:
                self._cache.pop(window)
                self._reach.pop(window, None)

    def clear_cache(self) -> None:
        """Free the masks, which can be read and fused again; the tables stay."""
        with self._lock:
            self._cache.clear()
            self.store.clear_cache()

    def fused(self, window: int) -> list[Fused]:
        """Objects of a window after the rule."""
        with self._lock:
            if (found := self._cache.get(window)) is not None:
                return found
            own = [fuse_segment(s, self.rule, self.tau, self.keep_stored) for s in self.source.segments(window)]
            found = join_objects(own)
            self._cache.put(window, found)
            self._rows.setdefault(window, self._row(window, found))
            return found

    def _row(self, window: int, found: list[Fused]) -> tuple[np.ndarray, ...]:
        start, stop = self.store.span(window)
        shape = (stop - start, self.objects)
        agreement, x, y = (np.full(shape, np.nan) for _ in range(3))
        codes, area = np.full(shape, DECISIONS.index("none")), np.zeros(shape, np.int64)
        for one in found:
            s = one.segment
            place = slice(s.start - start, s.stop - start), s.object_id - 1
            agreement[place], codes[place] = s.agreement, one.codes
            x[place], y[place], area[place] = one.x, one.y, one.area
        return agreement, codes, x, y, area

    def tables(self) -> Tables:
        """Of the whole clip; every window is read once."""
        with self._lock:
            if self._tables is None:
                windows = range(len(self.store.starts))
                for window in windows:
                    if window not in self._rows:
                        self._cache.pop(window)
                        self.fused(window)
                rows = [self._rows[window] for window in windows]
                columns = zip(*rows, strict=True)
                self._tables = Tables(*map(np.concatenate, columns)) if rows else self._row_of_nothing()
            return self._tables

    def _row_of_nothing(self) -> Tables:
        empty = np.zeros((0, self.objects))
        return Tables(empty, empty.astype(int), empty, empty, empty.astype(int))

    def unavailable_layers(self) -> dict[str, str]:
        """Layers that show nothing on any frame, with the reason."""
        gone = {name: f"no {name} masks were stored" for name in ("forward", "backward")}
        gone["disagreement"] = "no frame has masks of both directions"
        for window in range(len(self.store.starts)):
            for name, reaches in zip(_REACHING, self._reaching(window), strict=True):
                if reaches:
                    gone.pop(name, None)
            if not gone:
                break
        return gone

    def _reaching(self, window: int) -> tuple[bool, bool, bool]:
        """Whether anything of a window is in the layers of `_REACHING`; kept, as it is asked after every change."""
        with self._lock:
            if window not in self._reach:
                found = np.zeros(3, bool)
                for segment in self.source.segments(window):
                    forward, backward = segment.reach_forward, segment.reach_backward
                    after = slice(int(segment.on_key), None)  # a key frame's own mask came in neither direction
                    found |= (forward.any(), backward[after].any(), (forward & backward)[after].any())
                self._reach[window] = tuple(found.tolist())
            return self._reach[window]

    def patches(self, layer: str, t: int) -> list[Patch]:
        """Objects that a layer shows on frame `t`, in the order of their ids."""
        window = self.store.window_of(t)
        if window < 0:
            return []
        found = []
        for one in self.fused(window):
            if one.segment.start <= t < one.segment.stop:
                patch = self._patch(one, layer, t)
                if patch is not None and patch.mask.any():
                    found.append(patch)
        return found

    def _patch(self, one: Fused, layer: str, t: int) -> Patch | None:
        segment, width = one.segment, self.store.size[1]
        if layer == "disagreement":
            at = t - segment.start
            if not (segment.reach_forward[at] and segment.reach_backward[at]):
                return None
            forward, backward, box = segment.slice(t, t + 1).directions()
            return _cut(segment.object_id, np.unpackbits(forward[0] ^ backward[0], axis=-1).view(bool), box, width)
        packed: PackedMasks | None = one.packed if layer == "fused" else getattr(segment, layer)
        if packed is None or packed.box == NOWHERE:
            return None
        return _cut(segment.object_id, packed.at(t), packed.box, width)


def _cut(object_id: int, mask: np.ndarray, box: tuple, width: int) -> Patch:
    top, _, left, right = in_pixels(box, width)
    return Patch(object_id, top, left, mask[:, : right - left])


def _size(found: list[Fused]) -> int:
    return sum(one.segment.bytes + one.packed.bits.nbytes for one in found)
