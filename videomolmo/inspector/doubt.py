"""Frames of a result that a person should look at first, each with the reason."""

from __future__ import annotations

import numpy as np

from videomolmo.inspector.inspection import Inspection, listed
from videomolmo.inspector.moments import is_whole_video

JUMP = 2.0  # an area that grows or shrinks by this factor from one frame to the next


def doubtful_frames(one: Inspection) -> dict[int, str]:
    """Number of a frame to the reason why its masks are in doubt, in order of time.

    Of a stretch in which the directions of an object agree less than τ, the frame where they agree least; key frames
    without an answer; frames where an object vanishes, or its area jumps.
    """
    found: dict[int, list[str]] = {}
    wanting = ("malformed",) if is_whole_video(one) else ("absent", "malformed")  # events are absent most of the time
    for frame, outcome in one.outcomes().items():
        if outcome in wanting:
            found.setdefault(frame, []).append(f"the answer is {outcome}")
    agreement = one.agreement
    for object_id in listed(one):
        name = one.name_of(object_id)
        for frame in _minima(agreement[:, object_id - 1], one.tau):
            value = agreement[frame, object_id - 1]
            found.setdefault(frame, []).append(f"the directions of {name} agree at IoU {value:.2f} only")
        area = one.series(object_id).area
        before, after = area[:-1], area[1:]
        for frame in np.flatnonzero((before > 0) & (after == 0)) + 1:
            found.setdefault(int(frame), []).append(f"{name} vanishes")
        ratio = after / np.maximum(before, 1)
        jumps = (before > 0) & (after > 0) & ((ratio > JUMP) | (ratio < 1 / JUMP))
        for frame in np.flatnonzero(jumps) + 1:
            found.setdefault(int(frame), []).append(f"the area of {name} is {ratio[frame - 1]:.1f} times that before")
    return {frame: "; ".join(found[frame]) for frame in sorted(found)}


def _minima(values: np.ndarray, bound: float) -> list[int]:
    """The frame of the least value in each stretch below a bound."""
    below = np.flatnonzero(np.nan_to_num(values, nan=np.inf) < bound)
    runs = np.split(below, np.flatnonzero(np.diff(below) > 1) + 1)
    return [int(run[values[run].argmin()]) for run in runs if len(run)]
