"""What all answer formats share: the sentences for none, escaped labels, the size of a frame."""

from collections.abc import Hashable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Num

from videomolmo.errors import BadInput
from videomolmo.plain import as_array

NO_POINTS = "There are none."
NO_TRACKS = "No tracks available."
REFUSALS = frozenset({"there are none", "this isnt in the image", "this isnt in the video", "no tracks available"})
END_OF_TEXT = "<|endoftext|>"

# Label characters that would break the tag. "&" first when writing, last when reading.
ESCAPES = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"))


class TrackPoint(NamedTuple):
    """Where one object is in one frame.

    Args:
        object_id: anything that names the object throughout the video.
        x: pixels from the left.
        y: pixels from the top.
        occluded: known but not visible, hence not written.
    """

    object_id: Hashable
    x: float
    y: float
    occluded: bool = False


class Broken(ValueError):
    """Why a tag or a text cannot be read; never leaves this package."""


def escape(label: str) -> str:
    """A label that cannot be taken for a part of its tag."""
    for character, escaped in ESCAPES:
        label = label.replace(character, escaped)
    return label


def unescape(label: str) -> str:
    """The label that was escaped."""
    for character, escaped in reversed(ESCAPES):
        label = label.replace(escaped, character)
    return label


def short(text: str) -> str:
    """At most 40 characters of a text, for a message."""
    return text if len(text) <= 40 else text[:39] + "…"


def frame_size(height: int, width: int) -> Float64[np.ndarray, "2"]:
    """(width, height), in the order of x and y.

    Raises:
        BadInput: a frame without pixels.
    """
    if not (height >= 1 and width >= 1):
        raise BadInput(f"frame of height {height} and width {width}: both must be at least 1 pixel")
    return np.array([width, height], dtype=np.float64)


def points_inside(points_px: Num[np.ndarray, "points 2"], height: int, width: int) -> Float64[np.ndarray, "points 2"]:
    """The same points, after checking that they lie in the frame, both borders included.

    Raises:
        BadInput: no points, a point outside the frame or not finite, or a frame without pixels.
    """
    size = frame_size(height, width)
    points_px = as_array(points_px, "points").astype(np.float64)
    if points_px.size % 2:
        raise BadInput(f"points of shape {points_px.shape}: expected (points, 2), x then y")
    points_px = points_px.reshape(-1, 2)
    outside = ~((points_px >= 0) & (points_px <= size)).all(axis=1)  # NaN compares false, hence outside
    if outside.any():
        x, y = points_px[outside][0].tolist()
        raise BadInput(
            f"point ({x:g}, {y:g}) is outside the frame of width {width} and height {height}; leave it out or clip it"
        )
    return points_px
