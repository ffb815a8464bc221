"""Who is who again: objects of neighbouring key frames paired by how far their two propagations cover each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from videomolmo.fusion import match_objects
from videomolmo.inspector.segments import Segment, behind_key
from videomolmo.inspector.store import MaskStore
from videomolmo.inspector.strips import shared


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
