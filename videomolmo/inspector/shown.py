"""What is shown of an object: its points on a frame, and its way over time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

MOST_LISTED = 200  # objects with a row and a line of their own: more cannot be told apart, and take minutes


def listed(objects: int) -> range:
    """Ids of the objects that lists and plots tell of one by one."""
    return range(1, min(objects, MOST_LISTED) + 1)


class Point(NamedTuple):
    """A point on a frame: where the model pointed, or where a person clicked.

    Attributes:
        x, y: pixels of the frame.
        object: id from 1; None where the point is followed by no object (outside the frame).
        positive: on the object, or off it.
        corrected: whether a person put it there.
        index: among the points of this object on this frame, as `Corrections.remove_point` takes it.
    """

    x: float
    y: float
    object: int | None
    positive: bool = True
    corrected: bool = False
    index: int = 0


class Series(NamedTuple):
    """An object over time, a number per frame: centre of mass (NaN where it is not seen) and area, in pixels."""

    x: Float[np.ndarray, " frames"]
    y: Float[np.ndarray, " frames"]
    area: Float[np.ndarray, " frames"]
