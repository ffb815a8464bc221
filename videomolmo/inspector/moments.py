"""Answers that belong to moments: what a model pointed at in a whole video, and when.

Seen in: notebooks/09_point_track_count.ipynb
"""

from __future__ import annotations

from itertools import groupby

from videomolmo.inspector.inspection import Inspection
from videomolmo.systems.whole_video import Place, places_in


def is_whole_video(one: Inspection) -> bool:
    """Whether a result answers one question about a whole video: points at times, without masks."""
    return isinstance(one.result.config.get("whole_video"), dict)


def moments_of(one: Inspection) -> list[tuple[int, list[Place]]]:
    """Frames that were pointed at with their points, in order of time; none of results with masks."""
    places = places_in(one.result) if is_whole_video(one) else []
    return [(frame, list(group)) for frame, group in groupby(places, key=lambda place: place.frame)]


def said_of(places: list[Place]) -> str:
    """One line about the points of a moment."""
    points = "  ".join(f"{place.number}: x {place.x_px:.0f} y {place.y_px:.0f} px" for place in places)
    return f"{places[0].time_s:.1f} s · frame {places[0].frame} · {points}"


def answer_lines(one: Inspection) -> list[str]:
    """The one answer, in full, and its moments."""
    lines = [one.result.config["whole_video"].get("text"), *(said_of(places) for _, places in moments_of(one))]
    return [f"  {line}" for line in lines]
