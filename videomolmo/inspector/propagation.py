"""Runs that corrections need, made by SAM 2: frames encoded once, objects that begin together followed together."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from videomolmo.inspector.corrected import Need
from videomolmo.inspector.runs import Run
from videomolmo.inspector.strips import Strip, pack

if TYPE_CHECKING:
    from videomolmo.masks.tracker import FrameFeatures, MaskTracker

MOST_FEATURES = 32  # frames whose features are kept
Progress = Callable[[int, int], None]


class Cancelled(Exception):
    """The user stopped a correction; masks and records are as before it."""


class Propagation:
    """Follows objects for corrections.

    Args:
        tracker: SAM 2.
        frame: gives frame number t.
        frames: length of the clip.
    """

    def __init__(self, tracker: MaskTracker, frame: Callable[[int], np.ndarray], frames: int) -> None:
        self.tracker, self.frame, self.frames = tracker, frame, frames
        self._features: OrderedDict[int, FrameFeatures] = OrderedDict()

    def run(
        self, needs: Sequence[Need], progress: Progress | None = None, cancel: Callable[[], bool] | None = None
    ) -> dict[Run, Strip]:
        """Masks of all needs.

        Args:
            needs: from clicks on a frame to the farthest frame wanted.
            progress: called with frames done and frames in all.
            cancel: asked before each frame; True stops.

        Raises:
            Cancelled: `cancel` said so.
        """
        groups: dict[tuple[str, int], list[Need]] = {}
        for need in needs:
            groups.setdefault((need.run.direction, need.run.frame), []).append(need)
        order = sorted(groups, key=lambda group: (group[1] if group[0] == "forward" else _first(groups[group]), group))
        total = sum(len(_path(*group, groups[group])) for group in order)
        done, made = 0, {}
        for group in order:
            for at, masks in self._follow(*group, groups[group]):
                done += 1
                if progress is not None:
                    progress(done, total)
                if cancel is not None and cancel():
                    raise Cancelled(f"stopped after {done} of {total} frames")
                made.setdefault(group, []).append((at, masks))
        return {run: strip for group in order for run, strip in _strips(groups[group], made[group])}

    def _follow(self, direction: str, frame: int, needs: list[Need]) -> Any:
        """Frame by frame, the masks of all objects of a group, as bits."""
        clicks = [np.array(need.run.clicks, np.float32) for need in needs]
        path = _path(direction, frame, needs)
        track = self.tracker.start(
            frame, self._encode(frame), [one[:, :2] for one in clicks], [one[:, 2].astype(np.int32) for one in clicks],
            frames=self.frames, reverse=direction == "backward",
        )  # fmt: skip
        yield frame, np.packbits(track.first_masks, axis=-1)
        for at in path[1:]:
            yield at, np.packbits(track.step(at, self._encode(at)), axis=-1)

    def _encode(self, at: int) -> FrameFeatures:
        if at not in self._features:
            self._features[at] = self.tracker.encode(self.frame(at).copy())  # torch warns of arrays that are read only
            while len(self._features) > MOST_FEATURES:
                self._features.popitem(last=False)
        return self._features[at]


def _first(needs: list[Need]) -> int:
    return min(need.start for need in needs)


def _path(direction: str, frame: int, needs: list[Need]) -> range:
    """Frames that a group goes through, its key frame first."""
    if direction == "forward":
        return range(frame, max(need.stop for need in needs))
    return range(frame, _first(needs) - 1, -1)


def _strips(needs: list[Need], steps: list[tuple[int, np.ndarray]]) -> list[tuple[Run, Strip]]:
    """The strip of each need; a backward one ends before its key frame."""
    found = []
    for row, need in enumerate(needs):
        bits = {at: masks[row] for at, masks in steps if need.start <= at < need.stop}
        frames = sorted(bits)
        stacked = np.stack([bits[at] for at in frames])
        found.append((need.run, pack(frames[0], np.unpackbits(stacked, axis=-1).view(bool))))
    return found
