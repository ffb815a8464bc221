"""Points, tracks and counts to Molmo 2's text: a time, then id, x and y of every point, per mille with three digits."""

from collections.abc import Hashable, Sequence
from itertools import count
from numbers import Integral
from typing import Literal

import numpy as np
from jaxtyping import Num

from videomolmo.errors import BadInput
from videomolmo.points import NO_POINTS, NO_TRACKS, TrackPoint, escape, points_inside, write_points

Style = Literal["html-v1", "html-v2"]
Mode = Literal["point", "point_then_count", "count_then_point", "count"]
BETWEEN_FRAMES = {"html-v1": "\t", "html-v2": ";"}  # pre-training, and the released models
SENTENCES = {
    "point": "{tag}",
    "point_then_count": "Counting the {tag} shows a total of {count}.",
    "count_then_point": "There are {count} {tag}.",
    "count": "{count}",
}
LINE_BREAK = "\n"
LATEST = 1e6  # seconds; the readers take up to six digits


def write_count(points_px: Num[np.ndarray, "points 2"], label: str, height: int, width: int) -> str:
    """The answer to a counting question: the points, then how many they are.

    Arguments and errors are those of `write_points`.

    Source: Molmo, style `point_count`.

    Example:
        >>> write_count(np.array([[320.0, 36.0]]), "dog", height=360, width=640)
        'Counting the <point x="50.0" y="10.0" alt="dog">dog</point> shows a total of 1.'
    """
    number, tag = len(points_px), write_points(points_px, label, height, width)
    return f"Counting the {tag} shows a total of {number}." if number else NO_POINTS


def write_timed_points(
    times: Sequence[float],
    points_px: Sequence[Num[np.ndarray, "points 2"]],
    label: str,
    height: int,
    width: int,
    *,
    mode: Mode = "point",
    style: Style = "html-v2",
    alt: str | None = None,
) -> str:
    """The answer text for points in a video or in images, alone or with their count.

    Within a frame points are sorted by rounded x and then rounded y; they are numbered through all frames, so that the
    last number is the count.

    Args:
        times: of each frame in seconds, written with one decimal; for images their numbers from 1, as integers.
        points_px: of each frame, pixels, x then y, inside it.
        label: what the points are, written as it is but for `& < > "`, which are escaped.
        height: of all frames, pixels.
        width: of all frames, pixels.
        mode: the tag alone, tag and count in either order, or the count alone.
        style: `html-v2` (`;` between frames) of the released models, `html-v1` (a tab) of their pre-training.
        alt: a second name, written before the list if given, in one line, since Molmo 2 stops reading at the next.

    Returns:
        One `<points …>` tag or the sentence around it; `There are none.` for no points in any mode.

    Raises:
        BadInput: a point outside its frame, a time that is negative or not finite, an unknown mode or style.

    Source: Molmo 2, `UnifiedPointFormatter`; a frame without points leaves its bare time, as there.
    Differs: the reference writes points outside the frame (`1050`) and labels that break the tag.

    Example:
        >>> frames = [np.array([[64.0, 36.0]]), np.array([[480.0, 18.0], [320.0, 360.0]])]
        >>> write_timed_points([0.5, 2], frames, "cup", height=360, width=640)
        '<points coords="0.5 1 100 100;2 2 500 1000 3 750 050">cup</points>'
        >>> write_timed_points([1], frames[:1], "cup", height=360, width=640, mode="count_then_point")
        'There are 1 <points coords="1 1 100 100">cup</points>.'
    """
    if mode not in SENTENCES:
        raise BadInput(f"mode {mode!r} is not one of {', '.join(SENTENCES)}")
    between = _between(style)
    numbers, frames = count(1), []
    for time, points in zip(times, points_px, strict=True):
        places = sorted(_per_mille(points, height, width))
        entries = " ".join(f"{number} {x:03d} {y:03d}" for (x, y), number in zip(places, numbers, strict=False))
        frames.append(f"{_time_text(time)} {entries}")
    total = sum(len(points) for points in points_px)
    tag = _tag("points", between.join(frames), label, alt)
    return SENTENCES[mode].format(tag=tag, count=total) if total else NO_POINTS


def write_tracks(
    times: Sequence[float],
    frames: Sequence[Sequence[TrackPoint]],
    label: str,
    height: int,
    width: int,
    *,
    style: Style = "html-v2",
    ends_only: bool = False,
    exact: bool = False,
) -> str:
    """The answer text for objects followed through a video: one tag for all of them.

    Frames are sorted by time; objects are numbered from 1 in the order in which they are first seen (by rounded x and
    then y where several are) and keep their number. Occluded objects and frames without visible ones are left out.

    Args:
        times: of each frame, seconds.
        frames: the objects of each frame.
        label: what the objects are, one for all; `& < > "` are escaped.
        height: of the video, pixels.
        width: of the video, pixels.
        style: see `write_timed_points`.
        ends_only: write only the first and the last appearance of each object, in the order in which frames are given
            (not of their times) and occluded ones included, as the reference does.
        exact: leave texts without points as the reference's formatter does: empty where objects are never visible,
            `No tracks available.` where there are no frames at all.

    Returns:
        One `<tracks …>` tag, or `There are none.`

    Raises:
        BadInput: a visible point outside its frame, an object twice in a frame, a time that is negative or not finite.

    Source: Molmo 2, `UnifiedPointFormatter`.
    Differs: see `write_timed_points`.

    Example:
        >>> frames = [[TrackPoint("b", 64.0, 36.0)], [TrackPoint("a", 0.0, 0.0), TrackPoint("b", 640.0, 18.0)]]
        >>> write_tracks([0.0, 0.5], frames, "dog", height=360, width=640)
        '<tracks coords="0.0 1 100 100;0.5 1 1000 050 2 000 000">dog</tracks>'
    """
    between = _between(style)
    if exact and not frames:
        return NO_TRACKS
    rows = [(time, _by_object(time, points)) for time, points in zip(times, frames, strict=True)]
    numbers: dict[Hashable, int] = {}
    texts = []
    for time, points in sorted(_ends(rows) if ends_only else rows, key=lambda row: row[0]):
        visible = [point for point in points.values() if not point.occluded]
        places = _per_mille(np.array([(point.x, point.y) for point in visible]), height, width)
        placed = sorted(zip(places, (point.object_id for point in visible), strict=True), key=lambda pair: pair[0])
        numbered = sorted((numbers.setdefault(name, len(numbers) + 1), *place) for place, name in placed)
        if numbered:
            texts.append(" ".join([_time_text(time), *(f"{n} {x:03d} {y:03d}" for n, x, y in numbered)]))
    if not texts:
        return "" if exact else NO_POINTS
    return _tag("tracks", between.join(texts), label)


def _by_object(time: float, points: Sequence[TrackPoint]) -> dict[Hashable, TrackPoint]:
    found: dict[Hashable, TrackPoint] = {}
    for point in points:
        if point.object_id in found:
            raise BadInput(f"object {point.object_id!r} is given twice at time {time:g}; give each object one point")
        found[point.object_id] = point
    return found


def _ends(rows: list[tuple[float, dict]]) -> list[tuple[float, dict]]:
    """Only the first and the last row of each object; rows of one time become one."""
    first: dict[Hashable, int] = {}
    last: dict[Hashable, int] = {}
    for at, (_, points) in enumerate(rows):
        for name in points:
            first.setdefault(name, at)
            last[name] = at
    kept: dict[float, dict] = {}
    for at, (time, points) in enumerate(rows):
        ends = {name: point for name, point in points.items() if at in (first[name], last[name])}
        if ends:
            kept.setdefault(time, {}).update(ends)
    return list(kept.items())


def _per_mille(points_px: np.ndarray, height: int, width: int) -> list[tuple[int, int]]:
    rows = points_inside(points_px, height, width).tolist()
    return [(round(1000 * (x / width)), round(1000 * (y / height))) for x, y in rows]


def _time_text(time: float) -> str:
    if not 0 <= time < LATEST - 0.05:  # NaN compares false
        raise BadInput(f"time {time} s: it must be at least 0 and below {LATEST:g}")
    return str(int(time)) if isinstance(time, Integral) else str(abs(round(float(time), 1)))


def _between(style: str) -> str:
    if style not in BETWEEN_FRAMES:
        raise BadInput(f"style {style!r} is not one of {', '.join(BETWEEN_FRAMES)}")
    return BETWEEN_FRAMES[style]


def _tag(name: str, coords: str, label: str, alt: str | None = None) -> str:
    second = "" if alt is None else f' alt="{escape(alt).replace(LINE_BREAK, " ")}"'
    return f'<{name}{second} coords="{coords}">{escape(label)}</{name}>'
