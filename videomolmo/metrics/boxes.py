"""Boxes around masks, and how well they agree: left, top, width, height in pixels.

Source: VidSTG's spatial score as VideoGLaMM's evaluation has it, where masks are judged by their boxes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

Box = Sequence[float]


def box_of(mask: Bool[np.ndarray, "height width"], to_last_pixel: bool = False) -> tuple[float, ...] | None:
    """The box around a mask, None around an empty one.

    Args:
        mask: of one object.
        to_last_pixel: whether the box ends at the last row and column, a pixel short, as in VideoGLaMM's evaluation.

    Example:
        >>> box_of(np.array([[False, True, True]]))
        (1.0, 0.0, 2.0, 1.0)
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    more = 0 if to_last_pixel else 1
    sides = columns[-1] - columns[0] + more, rows[-1] - rows[0] + more
    return tuple(map(float, (columns[0], rows[0], *sides)))


def box_iou(one: Box, other: Box) -> float:
    """Intersection over union of two boxes; 0 where both have no area.

    Example:
        >>> box_iou((0, 0, 2, 2), (1, 0, 2, 2))
        0.3333333333333333
    """
    sides = [min(a + c, b + d) - max(a, b) for a, b, c, d in zip(one[:2], other[:2], one[2:], other[2:], strict=True)]
    common = max(sides[0], 0.0) * max(sides[1], 0.0)
    union = one[2] * one[3] + other[2] * other[3] - common
    return float(common / union) if union else 0.0


def box_fit(box: Box, mask: Bool[np.ndarray, "height width"]) -> float:
    """Intersection over union of a box and the box around a mask; 0 of an empty mask.

    Example:
        >>> box_fit((0, 0, 4, 2), np.ones((4, 4), bool)), box_fit((0, 0, 1, 1), np.zeros((4, 4), bool))
        (0.5, 0.0)
    """
    around = box_of(mask)
    return 0.0 if around is None else box_iou(tuple(map(float, box)), around)


def sampled_frames(start: int, end: int, fps: float, wanted_fps: float = 1.0, most: int = 40) -> list[int]:
    """The frames of a video that VidSTG's evaluation looks at: so many a second, evenly fewer where they are too many.

    Example:
        >>> sampled_frames(0, 10, 4.0), sampled_frames(0, 100, 1.0, most=3)
        ([0, 4, 8], [0, 33, 66])
    """
    rate, frames = min(wanted_fps / fps, 1.0), [start]
    for frame in range(start, end):
        if int(frames[-1] * rate) < int(frame * rate):
            frames.append(frame)
    return frames if len(frames) <= most else [frames[at * len(frames) // most] for at in range(most)]
