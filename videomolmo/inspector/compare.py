"""Two results of the same video: where they differ, and which is better."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from videomolmo.fusion import match_objects
from videomolmo.inspector.fused_masks import Patch
from videomolmo.inspector.inspection import Inspection
from videomolmo.inspector.moments import is_whole_video, moments_of
from videomolmo.metrics.point_scores import assign

SAME = 0.01  # a difference below it is none
APART = 2  # frames around a peak
NEAR = 0.1  # of the frame's sides: so close are two points that point at the same


class Differences:
    """Two inspections with one time line.

    Objects are paired by how much their fused masks overlap over the clip. Follows changes of both. Answers about whole
    videos differ where a point of one has none of the other near it on the same frame.

    Args:
        first, second: of the same video; a different size is rescaled, the shorter one ends the comparison.

    Attributes:
        frames: number of frames compared.
    """

    def __init__(self, first: Inspection, second: Inspection) -> None:
        self.first, self.second = first, second
        self.frames = min(first.frames, second.frames)
        self._versions: tuple[int, int] | None = None
        self._pairs: list[tuple[int | None, int | None]] = []
        self._per_frame = np.zeros(self.frames)

    @property
    def known(self) -> bool:
        """Whether they are computed for what both show now; else whoever asks for them waits."""
        return self._versions == self.state

    @property
    def state(self) -> tuple[int, int]:
        """What both show now; another pair of numbers after any change."""
        return self.first.version, self.second.version

    @property
    def pairs(self) -> list[tuple[int | None, int | None]]:
        """(id in first, id in second); None stands for an object that the other one has not."""
        self.compute()
        return self._pairs

    @property
    def per_frame(self) -> Float[np.ndarray, " frames"]:
        """1 - mean IoU of the paired objects that either has there, 0 where both have nothing; share of lone points."""
        self.compute()
        return self._per_frame

    def next_difference(self, after: int) -> int | None:
        """The next frame after `after` where they differ more than on the frames around it.

        From the start when nothing is left; None if they are the same everywhere. Asked again and again it visits the
        peaks in order of time.
        """
        values = self.per_frame
        peaks = [t for t in range(self.frames) if _is_peak(values, t)]
        later = [t for t in peaks if t > after] or peaks
        return later[0] if later else None

    def partners(self, shown: tuple[int, ...] | None) -> tuple[int, ...] | None:
        """Ids in the second result that belong to `shown`, ids in the first, and those of its own; None for all."""
        if shown is None:
            return None
        return tuple(right for left, right in self.pairs if right and (left is None or left in shown))

    def colours(self) -> tuple[int, ...] | None:
        """For each object of the second result whose colour it has: its partner's, or one that the first has not.

        None until they are compared, and where every object has its own anyway.
        """
        if not self.known:
            return None
        taken, found = self.first.objects, []
        partners = {right: left for left, right in self.pairs if right}
        for object_id in range(1, self.second.objects + 1):
            left = partners.get(object_id)
            taken += left is None
            found.append(taken if left is None else left)
        return None if found == list(range(1, len(found) + 1)) else tuple(found)

    def missing(self) -> list[str]:
        """What cannot be compared, a sentence each."""
        a, b, found = self.first, self.second, []
        if a.frames != b.frames:
            found.append(f"One result has {a.frames} frames, the other {b.frames}: {self.frames} are compared.")
        if (a.height, a.width) != (b.height, b.width):
            found.append(
                f"One result is {a.width}×{a.height} pixels, the other {b.width}×{b.height}: its masks are rescaled."
            )
        if (a.truth is None) != (b.truth is None):
            found.append("Only one of the two has ground truth: J&F is shown for that one.")
        return found

    def compute(self) -> None:
        """Compare all frames, once for each state of the two; from any thread, where a change of state ends it."""
        versions = self.state
        if self.known:
            return
        try:
            pairs, per_frame = self._compared(versions)
        except Exception:
            if versions == self.state:
                raise
            return  # masks were changing below it
        self._pairs, self._per_frame, self._versions = pairs, per_frame, versions

    def _compared(self, versions: tuple[int, int]) -> tuple[list[tuple[int | None, int | None]], np.ndarray]:
        """Pairs and differences per frame, from areas of overlap of every pair of objects."""
        if is_whole_video(self.first) and is_whole_video(self.second):
            return [], _points_apart(self.first, self.second, self.frames)
        shape = self.frames, self.first.objects, self.second.objects
        common = np.zeros(shape, np.int64)
        areas = np.zeros((self.frames, shape[1]), np.int64), np.zeros((self.frames, shape[2]), np.int64)
        same_size = (self.first.height, self.first.width) == (self.second.height, self.second.width)
        for t in range(self.frames):
            if versions != self.state:
                raise RuntimeError("another state is shown by now")
            left = self.first.patches("fused", t)
            right = self.second.patches("fused", t) if same_size else self._resized(t)
            for side, patches in zip(areas, (left, right), strict=True):
                for patch in patches:
                    side[t, patch.object_id - 1] = np.count_nonzero(patch.mask)
            for a in left:
                for b in right:
                    common[t, a.object_id - 1, b.object_id - 1] = _common(a, b)
        pairs = _pair(common.sum(axis=0), *(side.sum(axis=0) for side in areas))
        return pairs, _difference(common, *areas, pairs)

    def _resized(self, t: int) -> list[Patch]:
        """The second result's masks in the first one's size."""
        import cv2

        size = self.first.width, self.first.height
        masks = self.second.mask("fused", t)
        scaled = [cv2.resize(mask.view(np.uint8), size, interpolation=cv2.INTER_NEAREST).view(bool) for mask in masks]
        return [Patch(n, 0, 0, mask) for n, mask in enumerate(scaled, start=1) if mask.any()]


def _points_apart(first: Inspection, second: Inspection, frames: int) -> np.ndarray:
    """Share of the points of each frame that the other answer has none near, paired one to one; 0 without any."""
    found, sides = np.zeros(frames), []
    for one in (first, second):
        size = np.array([one.width, one.height])
        sides.append({at: np.array([(p.x_px, p.y_px) for p in places]) / size for at, places in moments_of(one)})
    for at in (at for at in {*sides[0], *sides[1]} if at < frames):
        a, b = (side.get(at, np.zeros((0, 2))) for side in sides)
        near = sum(bool(np.hypot(*(a[n] - b[m])) < NEAR) for n, m in assign(a, b)) if len(a) and len(b) else 0
        found[at] = 1 - near / max(len(a), len(b))
    return found


def _common(a: Patch, b: Patch) -> int:
    """Pixels that two patches share."""
    top, left = max(a.top, b.top), max(a.left, b.left)
    bottom = min(a.top + a.mask.shape[0], b.top + b.mask.shape[0])
    right = min(a.left + a.mask.shape[1], b.left + b.mask.shape[1])
    if top >= bottom or left >= right:
        return 0
    one = a.mask[top - a.top : bottom - a.top, left - a.left : right - a.left]
    other = b.mask[top - b.top : bottom - b.top, left - b.left : right - b.left]
    return int(np.count_nonzero(one & other))


def _pair(common: np.ndarray, first: np.ndarray, second: np.ndarray) -> list[tuple[int | None, int | None]]:
    union = first[:, None] + second[None] - common
    pairs = [(i + 1, j + 1) for i, j in match_objects(common / np.maximum(union, 1), 0.0)]
    taken = {i for i, _ in pairs}, {j for _, j in pairs}
    alone = [(i, None) for i in range(1, len(first) + 1) if i not in taken[0]]
    return [*pairs, *alone, *((None, j) for j in range(1, len(second) + 1) if j not in taken[1])]


def _difference(common: np.ndarray, first: np.ndarray, second: np.ndarray, pairs: list) -> np.ndarray:
    """1 - mean IoU over the pairs of which either has a mask."""
    frames = len(common)
    losses, counts = np.zeros(frames), np.zeros(frames)
    nothing = np.zeros(frames, np.int64)
    for i, j in pairs:
        a = nothing if i is None else first[:, i - 1]
        b = nothing if j is None else second[:, j - 1]
        both = nothing if i is None or j is None else common[:, i - 1, j - 1]
        union = a + b - both
        losses += np.where(union > 0, 1 - both / np.maximum(union, 1), 0)
        counts += union > 0
    return losses / np.maximum(counts, 1)


def _is_peak(values: np.ndarray, t: int) -> bool:
    """Whether nothing within `APART` frames is larger, and nothing before it there as large."""
    around = values[max(0, t - APART) : t + APART + 1]
    before = values[max(0, t - APART) : t]
    return values[t] > SAME and values[t] == around.max() and not (len(before) and before.max() == values[t])
