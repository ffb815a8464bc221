"""An answer about many frames, taken apart: which of its points belong to which frame that was shown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from videomolmo.errors import BadInput
from videomolmo.points import Answer

TENTH = 0.1  # seconds: how exactly times are shown and written


def in_milliseconds(times: Float[np.ndarray, " frames"]) -> list[int]:
    """Times (seconds) as they are handed to Molmo 2's processor."""
    return np.round(1000 * times).astype(int).tolist()


def shown(times: Float[np.ndarray, " frames"]) -> list[str]:
    """Times (seconds) as the prompt shows them: of the same milliseconds, or halves would be rounded another way."""
    return [f"{milliseconds / 1000:.1f}" for milliseconds in in_milliseconds(times)]


def check_times(times: Float[np.ndarray, " frames"], every: int, most: int) -> None:
    """Nothing for a clip whose key frames are shown with different times.

    Args:
        times: of all frames, seconds.
        every: frames from one key frame to the next.
        most: key frames shown at once; each such part begins at 0.

    Raises:
        BadInput: two of a part are shown alike; says from which `every` on they are not.
    """

    def apart(step: int) -> bool:
        keys = times[::step]
        parts = [keys[first : first + most] for first in range(0, len(keys), most)]
        return all(len(set(shown(part - part[0]))) == len(part) for part in parts)

    if not apart(every):
        better = next(step for step in range(every + 1, every + 1 + len(times)) if apart(step))  # one frame at last
        raise BadInput(
            f"every is {every}, which shows two key frames with one time: Molmo 2 knows times in tenths of a second; "
            f"use every={better} here"
        )


def by_time(answer: Answer, times: Float[np.ndarray, " frames"]) -> list[Answer]:
    """What an answer says of each frame, by the nearest time that was shown.

    Points of a frame come in the order of their ids; of one id the nearest in time counts. A frame that is not named
    has no points: it is absent there. Points that no frame is near make the nearest one malformed, unless it has
    others; so do points without times, for all frames, unless only one was shown.

    Args:
        answer: of all frames.
        times: of the frames, seconds from 0.
    """
    if answer.outcome != "found" or len(times) == 1:
        return [answer] * len(times)
    if answer.times is None:
        return [_malformed(answer, f"points without times, and {len(times)} frames were shown")] * len(times)
    ticks = np.array([float(one) for one in shown(times)])
    distance = np.abs(answer.times[:, None] - ticks)
    nearest, far = distance.argmin(axis=1), distance.min(axis=1)
    reach = max(TENTH, np.diff(ticks).min() / 2) + 1e-9
    return [_of_frame(answer, np.flatnonzero(nearest == n), far, reach) for n in range(len(times))]


def _of_frame(answer: Answer, rows: np.ndarray, far: np.ndarray, reach: float) -> Answer:
    """The answer's part for the frame that `rows`, its points, are nearest to; `far` seconds each."""
    near = rows[far[rows] <= reach]
    if len(rows) and not len(near):
        return _malformed(answer, f"points at {answer.times[rows[0]]:g} s, where no frame was shown")
    best: dict[int, int] = {}
    for row in near[np.argsort(far[near], kind="stable")].tolist():
        best.setdefault(int(answer.ids[row]), row)
    chosen = np.array([best[name] for name in sorted(best)], int)
    parts = {name: getattr(answer, name)[chosen] for name in ("points_px", "inside", "times", "ids")}
    if len(chosen):
        return replace(answer, **parts)
    return replace(answer, outcome="absent", label="", **parts | {"times": None, "ids": None})


def _malformed(answer: Answer, problem: str) -> Answer:
    nothing = {"points_px": answer.points_px[:0], "inside": answer.inside[:0], "times": None, "ids": None}
    return replace(answer, outcome="malformed", label="", problem=problem, **nothing)
