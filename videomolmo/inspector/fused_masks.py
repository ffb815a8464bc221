"""Masks after a fusion rule, the decisions of the rule, and tracks, as tables."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Float, Integer

from videomolmo.fusion import match_objects
from videomolmo.inspector.packed_masks import NOWHERE, Strip, in_pixels, shared
from videomolmo.inspector.segments import DECISIONS, Fused, Segment, behind_key, fuse_segment
from videomolmo.inspector.store import MaskStore


class Matching:
    """The windows of a result with identities given out anew.

    Args:
        store: masks of the run.
        least: least overlap of a pair, from 0 to 1; None pairs nothing.

    Attributes:
        objects: how many there are now.
        labels: key frame to {stored id: new id} of the objects that it shows.
    """

    def __init__(self, store: MaskStore, least: float | None) -> None:
        self.store, self.least, self.objects = store, least, 0
        self.labels: dict[int, dict[int, int]] = {}
        self._windows: list[tuple[dict[int, int], dict[int, int]]] = []
        right: dict[int, int] = {}
        for window in range(len(store.starts)):
            segments = store.segments(window)
            left = {s.thing: right.get(s.thing) or self._new() for s in segments if s.reach_forward[:1].any()}
            self.labels[store.starts[window]] = left
            right = self._right(segments, left)
            self._windows.append((left, right))

    def _new(self) -> int:
        self.objects += 1
        return self.objects

    def _right(self, segments: list[Segment], left: dict[int, int]) -> dict[int, int]:
        """New ids of the objects of the right key frame."""
        if self.least is not None and all(s.stop - s.start == 1 for s in segments):
            return dict(left)  # nothing lies between these key frames: as stored
        there = [s for s in segments if s.thing in left]
        back = [s for s in segments if s.reach_backward[1:].any()]
        if self.least is None or not back:
            return {s.thing: self._new() for s in back}
        pairs = match_objects(overlap_between(there, back), self.least) if there else []
        found = {back[j].thing: left[there[i].thing] for i, j in pairs}
        return {s.thing: found.get(s.thing) or self._new() for s in back}

    def segments(self, window: int) -> list[Segment]:
        """Objects of a window under their new ids."""
        left, right = self._windows[window]
        stored = {segment.thing: segment for segment in self.store.segments(window)}
        there = {new: stored[old] for old, new in left.items()}
        back = {new: stored[old] for old, new in right.items()}
        return [_pair(new, there.get(new), back.get(new)) for new in sorted({*there, *back})]


def overlap_between(there: list[Segment], back: list[Segment]) -> np.ndarray:
    """IoU over space and time of every forward with every backward propagation of a window, key frame left out."""
    overlap = np.zeros((len(there), len(back)))
    for (i, a), (j, b) in ((left, right) for left in enumerate(there) for right in enumerate(back)):
        frames = range(a.start + 1, min(a.stop, b.stop))
        common = sum(shared(a.forward, b.backward, at) for at in frames)
        total = a.forward.areas()[1:].sum() + b.backward.areas()[1:].sum() - common
        overlap[i, j] = common / total if total else 0.0
    return overlap


def _pair(thing: int, there: Segment | None, back: Segment | None) -> Segment:
    """One object made of the forward masks of one stored object and the backward masks of another."""
    if there is not None and back is not None and there.thing == back.thing:
        return replace(there, thing=thing)
    one = there or back
    count = one.stop - one.start
    reach_forward, reach_backward = np.full(count, there is not None), np.full(count, back is not None)
    reach_backward[0] = reach_forward[0]
    own = there.forward.cut(one.start, one.start + 1) if there is not None else None
    after = back.backward.cut(one.start + 1, one.stop) if back is not None else None
    forward = None if there is None else there.forward
    return replace(
        one, thing=thing, forward=forward, backward=behind_key(one.start, count, own, after),
        reach_forward=reach_forward, reach_backward=reach_backward, stored=None,
    )  # fmt: skip


MOST_BYTES = 256 << 20
MASK_LAYERS = ("forward", "backward", "fused", "disagreement")
_REACHING = ("forward", "backward", "disagreement")  # layers that may show nothing at all


class Source(Protocol):
    """Anything that gives the segments of a window: the run's, corrected ones, or those with other identities."""

    objects: int

    def segments(self, window: int) -> list[Segment]: ...


class Patch(NamedTuple):
    """An object's mask where it is: rows from `top`, columns from `left`, in pixels of the frame."""

    thing: int
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


class Belief:
    """What is believed under one rule. Safe from any thread.

    Args:
        store: its windows.
        source: of segments.
        rule, tau: see `fuse_segment`.
        keep_stored: whether masks that the run saved are taken.
    """

    def __init__(self, store: MaskStore, source: Source, rule: str, tau: float, keep_stored: bool) -> None:
        self.store, self.source, self.rule, self.tau, self.keep_stored = store, source, rule, tau, keep_stored
        self._kept: OrderedDict[int, list[Fused]] = OrderedDict()
        self._bytes = 0
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
                self._bytes -= _size(self._kept.pop(window, []))
                self._reach.pop(window, None)

    def forget(self) -> None:
        """Make room: masks can be read and fused again; the tables stay."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0
            self.store.forget()

    def fused(self, window: int) -> list[Fused]:
        """Objects of a window after the rule."""
        with self._lock:
            if window in self._kept:
                self._kept.move_to_end(window)
                return self._kept[window]
            found = [fuse_segment(s, self.rule, self.tau, self.keep_stored) for s in self.source.segments(window)]
            self._kept[window] = found
            self._bytes += _size(found)
            while self._bytes > MOST_BYTES and len(self._kept) > 1:
                self._bytes -= _size(self._kept.popitem(last=False)[1])
            self._rows.setdefault(window, self._row(window, found))
            return found

    def _row(self, window: int, found: list[Fused]) -> tuple[np.ndarray, ...]:
        start, stop = self.store.span(window)
        shape = (stop - start, self.objects)
        agreement, x, y = (np.full(shape, np.nan) for _ in range(3))
        codes, area = np.full(shape, DECISIONS.index("none")), np.zeros(shape, np.int64)
        for one in found:
            s = one.segment
            place = slice(s.start - start, s.stop - start), s.thing - 1
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
                        self._bytes -= _size(self._kept.pop(window, []))
                        self.fused(window)
                rows = [self._rows[window] for window in windows]
                columns = zip(*rows, strict=True)
                self._tables = Tables(*map(np.concatenate, columns)) if rows else self._row_of_nothing()
            return self._tables

    def _row_of_nothing(self) -> Tables:
        empty = np.zeros((0, self.objects))
        return Tables(empty, empty.astype(int), empty, empty, empty.astype(int))

    def reasons(self) -> dict[str, str]:
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
            forward, backward, box = segment.cut(t, t + 1).directions()
            return _cut(segment.thing, np.unpackbits(forward[0] ^ backward[0], axis=-1).view(bool), box, width)
        strip: Strip | None = one.strip if layer == "fused" else getattr(segment, layer)
        if strip is None or strip.box == NOWHERE:
            return None
        return _cut(segment.thing, strip.at(t), strip.box, width)


def _cut(thing: int, mask: np.ndarray, box: tuple, width: int) -> Patch:
    top, _, left, right = in_pixels(box, width)
    return Patch(thing, top, left, mask[:, : right - left])


def _size(found: list[Fused]) -> int:
    return sum(one.segment.bytes + one.strip.bits.nbytes for one in found)
