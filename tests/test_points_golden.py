"""Strict readers and writers against what the references make of the same texts and points."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from golden import HOW, ROOT, read_json
from reference.points import Reading, has_molmo1_format, read_like_molmo1, read_like_videomolmo
from reference.points_molmo2 import (
    TrackFrame,
    read_like_molmo2_entries,
    read_like_molmo2_points,
    read_like_molmo2_time_points,
    read_like_molmo2_tracks,
)

from videomolmo import points
from videomolmo.errors import BadInput
from videomolmo.points import TrackPoint
from videomolmo.systems.molmo2_formats import write_count, write_timed_points, write_tracks

TOLERANCE = 1e-6
ERROR = "error"


def cases(file: str, part: str) -> list[Any]:
    """Every case of one part of a golden file as a pytest parameter; one skipped parameter where there is none."""
    path = ROOT / "eval" / file
    found = read_json(path).get(part, []) if path.is_file() else []
    absent = pytest.param(None, marks=pytest.mark.skip(reason=HOW), id="absent")
    return [pytest.param(case, id=case["id"]) for case in found] or [absent]


def agree(found: Any, wanted: Any) -> bool:
    """Equal in structure, in order and in text; numbers within the tolerance."""
    if isinstance(found, TrackFrame):
        found = found._asdict()
    if isinstance(wanted, dict):
        return (
            isinstance(found, dict)
            and found.keys() == wanted.keys()
            and all(agree(found[k], wanted[k]) for k in wanted)
        )
    if isinstance(wanted, list):
        return (
            isinstance(found, (list, tuple))
            and len(found) == len(wanted)
            and all(agree(a, b) for a, b in zip(found, wanted, strict=True))
        )
    if isinstance(wanted, str) or isinstance(found, str):
        return found == wanted
    return math.isclose(found, wanted, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def has_no_number(wanted: Any) -> bool:
    """Whether NaN or infinity, which golden data writes as text, stands anywhere in it."""
    if isinstance(wanted, (list, dict)):
        return any(map(has_no_number, wanted.values() if isinstance(wanted, dict) else wanted))
    return wanted in ("nan", "inf", "-inf")


def check(reading: Reading | bool, wanted: Any) -> None:
    if isinstance(reading, bool):
        assert reading == wanted
    elif isinstance(wanted, dict) and ERROR in wanted:
        assert reading == Reading([], wanted[ERROR])
    elif has_no_number(wanted):
        assert reading == Reading([], "NotFinite")
    else:
        assert reading.failure is None and agree(reading.found, wanted), f"{reading} is not {wanted}"


READERS = {
    "molmo1": lambda text, *size, fps: read_like_molmo1(text, *size),
    "molmo1_valid_format": lambda text, *size, fps: has_molmo1_format(text),
    "videomolmo": lambda text, *size, fps: read_like_videomolmo(text, *size),
    "molmo2_unified": lambda text, *size, fps: read_like_molmo2_entries(text, *size),
    "molmo2_points": lambda text, *size, fps: read_like_molmo2_points(text, *size),
    "molmo2_time_points": lambda text, *size, fps: read_like_molmo2_time_points(text, *size),
    "molmo2_tracks": lambda text, *size, fps: read_like_molmo2_tracks(text, *size, fps),
    "molmo2_tracks_no_format": lambda text, *size, fps: read_like_molmo2_tracks(text, *size, fps, with_format=False),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("case", cases("parse.json", "cases"))
def test_strict_readers(case, reader):
    if reader not in case["expected"]:
        pytest.skip(f"case {case['id']} says nothing of {reader}")
    check(READERS[reader](case["text"], case["width"], case["height"], fps=case["fps"]), case["expected"][reader])


@pytest.mark.parametrize("case", cases("parse.json", "cases"))
def test_every_reference_has_a_reader(case):
    assert set(case["expected"]) <= set(READERS)


@pytest.mark.parametrize("case", cases("parse.json", "multi_image"))
def test_strict_reader_of_several_images(case):
    check(read_like_molmo2_entries(case["text"], case["widths"], case["heights"]), case["expected"])


@pytest.mark.parametrize("case", cases("parse.json", "cases"))
def test_tolerant_reader_agrees_with_molmo2s_where_both_read_a_list(case):
    """The same ids and pixels inside, but for the far border. Times may differ: Molmo 2 cuts `01:02.5` to 2.5 s."""
    height, width, wanted = case["height"], case["width"], case["expected"]["molmo2_unified"]
    answer = points.read_points(case["text"], height, width)
    assert np.isfinite(answer.points_px).all()
    if answer.times is not None and ERROR not in wanted and answer.inside.sum() == len(wanted):
        assert answer.ids[answer.inside].tolist() == [int(row[1]) for row in wanted]
        border = np.array([width - 1, height - 1])
        places = np.minimum(np.array([row[2:] for row in wanted]).reshape(-1, 2), border)
        np.testing.assert_allclose(np.minimum(answer.points_px[answer.inside], border), places, rtol=1e-6, atol=1e-4)


# Writing


def check_text(wanted: Any, write: Callable[..., str], *arguments: Any, **options: Any) -> None:
    """The text is the reference's, or refused where the reference raises."""
    if isinstance(wanted, dict):
        with pytest.raises(BadInput):
            write(*arguments, **options)
    else:
        assert write(*arguments, **options) == wanted


def molmo2_texts(case: dict) -> list[tuple[str, str, Any]]:
    """(style, mode, text) of all Molmo 2 texts of a case; keys are like `molmo2_html-v2_alt` and `html-v2_count`."""
    keys = {key: key.removeprefix("molmo2_") for key in case}
    return [(*name.partition("_")[::2], case[key]) for key, name in keys.items() if name.startswith("html-v")]


@pytest.mark.parametrize("case", cases("format.json", "image"))
def test_texts_about_an_image(case):
    """Percent points are pixels of a frame of 100 x 100."""
    label, places = case["label"], np.array(case["points_percent"], dtype=float).reshape(-1, 2)
    check_text(case["molmo1"], points.write_points, places, label, 100, 100)
    check_text(case["molmo1_count"], write_count, places, label, 100, 100)
    check_text(case["videomolmo"], points.write_like_videomolmo, places, label, 100, 100)
    for style, mode, wanted in molmo2_texts(case):
        options = {"alt": f"other {label}"} if mode == "alt" else {"mode": mode}
        check_text(wanted, write_timed_points, [1], [places], label, 100, 100, style=style, **options)


@pytest.mark.parametrize("case", cases("format.json", "video_points"))
def test_texts_about_points_in_a_video(case):
    places = [np.array(frame, dtype=float).reshape(-1, 2) for frame in case["points"]]
    arguments = case["timestamps"], places, case["label"], case["height"], case["width"]
    for style, mode, wanted in molmo2_texts(case):
        check_text(wanted, write_timed_points, *arguments, style=style, mode=mode)


@pytest.mark.parametrize("case", cases("format.json", "video_tracks"))
def test_texts_about_tracks(case):
    frames = [
        [TrackPoint(row["id"], *row["point"], row["occluded"]) for row in frame["points"]] for frame in case["frames"]
    ]
    times = [frame["time"] for frame in case["frames"]]
    for style, ends, wanted in molmo2_texts(case):
        options = {"style": style, "ends_only": ends == "start_end", "exact": True}
        check_text(wanted, write_tracks, times, frames, case["label"], case["height"], case["width"], **options)
