"""Points to Molmo 1's text, which VideoMolmo inherits: percent with one decimal, one tag for all points."""

import numpy as np
from jaxtyping import Float64, Num

from videomolmo.points.text import NO_POINTS, escape, frame_size, points_inside


def write_points(points_px: Num[np.ndarray, "points 2"], label: str, height: int, width: int) -> str:
    """The answer text for points in a frame: one tag, or the sentence for none.

    Percent of the frame, rounded to one decimal, sorted by rounded x and then rounded y, so that one set of points has
    one text.

    Args:
        points_px: pixels, x then y, inside the frame (0 … width, 0 … height).
        label: what the points are, written as attribute and as content; `& < > "` are escaped.
        height: of the frame, pixels.
        width: of the frame, pixels.

    Returns:
        `<point …>` for one point, `<points …>` for more, `There are none.` for none.

    Raises:
        BadInput: a point outside the frame or not finite, or a frame without pixels.

    Source: Molmo, pointing data format.
    Differs: the reference writes the label as it is, so a quote in it breaks the tag. VideoMolmo's training script
        sorts before rounding, which makes the order of two points within 0.1 percent depend on invisible digits (see
        `write_like_videomolmo`).

    Example:
        >>> write_points(np.array([[450.0, 36.0], [76.8, 120.0]]), "dog", height=360, width=640)
        '<points x1="12.0" y1="33.3" x2="70.3" y2="10.0" alt="dog">dog</points>'
        >>> write_points(np.zeros((0, 2)), "dog", height=360, width=640)
        'There are none.'
    """
    percent = np.round(_percent(points_px, height, width), 1) + 0.0  # + 0.0 turns -0.0 into 0.0
    return _tag(sorted(percent.tolist()), label)


def write_like_videomolmo(points_px: Num[np.ndarray, "points 2"], label: str, height: int, width: int) -> str:
    """The text that VideoMolmo was trained on, to the character; for parity tests and for its own training rows.

    Arguments and errors are those of `write_points`. Two things are not as there: points are sorted before they are
    rounded, and only the sentence for none begins with a space.

    Source: VideoMolmo's final training script.

    Example:
        >>> write_like_videomolmo(np.zeros((0, 2)), "dog", height=360, width=640)
        ' There are none.'
    """
    percent = _percent(points_px, height, width) + 0.0
    return _tag(sorted(percent.tolist()), label) if len(percent) else f" {NO_POINTS}"


def _percent(points_px: np.ndarray, height: int, width: int) -> Float64[np.ndarray, "points 2"]:
    return points_inside(points_px, height, width) / (frame_size(height, width) / 100)


def _tag(rows: list[list[float]], label: str) -> str:
    """Percent rows in the order given, and the label twice; the sentence for no rows."""
    if not rows:
        return NO_POINTS
    name = "point" if len(rows) == 1 else "points"
    indices = [""] if len(rows) == 1 else range(1, len(rows) + 1)
    coordinates = " ".join(f'x{i}="{x:.1f}" y{i}="{y:.1f}"' for i, (x, y) in zip(indices, rows, strict=True))
    safe_label = escape(label)
    return f'<{name} {coordinates} alt="{safe_label}">{safe_label}</{name}>'
