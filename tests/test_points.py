"""Answer texts: writing, reading, what is refused and why, and parity with both reference readers."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videomolmo.errors import BadInput
from videomolmo.points import molmo_pixels, read_points, videomolmo_pixels, write_points

GOLDEN = Path(os.environ.get("VIDEOMOLMO_GOLDEN", Path(__file__).parents[2] / "shared" / "golden"))
HEIGHT, WIDTH = 360, 640


def golden(name: str) -> dict:
    """One file of reference outputs, or a skipped test."""
    path = GOLDEN / name
    if not path.exists():
        pytest.skip(f"no golden data {name}; set VIDEOMOLMO_GOLDEN to the folder that holds it")
    return json.loads(path.read_text())


def parse_cases() -> list[dict]:
    return golden("model/points/point_text_cases.json")["parse_cases"]


def read(text: str):
    return read_points(text, HEIGHT, WIDTH)


# Writing


def test_written_text_is_the_reference_text():
    for case in golden("model/points/point_text_cases.json")["format_cases"]:
        scale = case["scale"]  # a number: the points are percent already; a pair: pixels per percent, x and y
        height, width = (100, 100) if scale == 100 else (round(scale[1] * 100), round(scale[0] * 100))
        assert write_points(np.array(case["points"]), "red cup", height, width) == case["text"]


def test_written_text_is_molmos_text_for_percent_points():
    for case in golden("eval/format.json")["image"]:
        points = np.array(case["points_percent"], dtype=float).reshape(-1, 2)
        assert write_points(points, case["label"], height=100, width=100) == case["molmo1"]


def test_rounding_comes_before_sorting():
    """76.12 rounds to 76.1 like 76.11, so y decides."""
    text = write_points(np.array([[76.12, 10.0], [76.11, 90.0], [5.0, 99.0]]), "a", 100, 100)
    expected = '<points x1="5.0" y1="99.0" x2="76.1" y2="10.0" x3="76.1" y3="90.0" alt="a">a</points>'
    assert text == expected


def test_point_order_does_not_change_the_text():
    points = np.random.default_rng(0).uniform(0, HEIGHT, (20, 2))
    assert write_points(points, "a", HEIGHT, WIDTH) == write_points(points[::-1].copy(), "a", HEIGHT, WIDTH)


@pytest.mark.parametrize("point", [(-1.0, 5.0), (5.0, 361.0), (np.nan, 5.0), (np.inf, 5.0)])
def test_a_point_outside_the_frame_is_not_written(point):
    with pytest.raises(BadInput, match="outside the frame of width 640 and height 360"):
        write_points(np.array([point]), "a", HEIGHT, WIDTH)


def test_minus_zero_is_written_as_zero():
    assert 'x="0.0" y="0.0"' in write_points(np.array([[-0.0, 0.0]]), "a", HEIGHT, WIDTH)


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-1, 5)])
def test_a_frame_without_pixels_is_refused(size):
    with pytest.raises(BadInput, match="at least 1 pixel"):
        write_points(np.zeros((0, 2)), "a", *size)
    with pytest.raises(BadInput, match="at least 1 pixel"):
        read_points("There are none.", *size)


# Round trip


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1, width=32), st.floats(0, 1, width=32)), max_size=12),
    st.text(max_size=20),
    st.integers(1, 4000),
    st.integers(1, 4000),
)
def test_round_trip(fractions, label, height, width):
    """What was written is read back within half a tenth of a percent (a pixel on the far border becomes the last)."""
    points = np.array(fractions, dtype=np.float64).reshape(-1, 2) * [width - 1, height - 1]
    answer = read_points(write_points(points, label, height, width), height, width)
    assert answer.outcome == ("found" if len(points) else "absent")
    assert answer.label == (label if len(points) else "")
    assert answer.inside.all() and len(answer.points_px) == len(points)
    tolerance = np.array([width, height]) * 0.0005 + 1e-3
    for point in points:
        assert (np.abs(answer.points_px - point) <= tolerance).all(axis=1).any()


@pytest.mark.parametrize(
    "label", ['the "big" one', "a < b > c", "R&B &amp; &quot;x&quot;", "it's", 'x="1.0" y="2.0"', ""]
)
def test_labels_come_back(label):
    text = write_points(np.array([[64.0, 36.0]]), label, HEIGHT, WIDTH)
    answer = read(text)
    assert (answer.label, answer.points_px.tolist()) == (label, [[64.0, 36.0]])
    assert videomolmo_pixels(text, WIDTH, HEIGHT) == [[64, 36]]  # the label cannot add points for other readers either


# Reading: found


@pytest.mark.parametrize(
    "text",
    [
        '<point x="10.0" y="50.0" alt="cup">cup</point>',
        "  <point x='10' y='50.' alt='cup'>cup</point>\n",
        '<POINT\tX=" 10.0 "\n Y = "50.0">cup</POINT>',
        '<point y="50.0" x="10.0" alt="cup">cup</point>',
        '<point alt="cup" y="50.0" x="10.0"/>',
        '<points t="3" x="10.0" y="50.0" alt="cup">cup</points>',
        '<points x10="10.0" y10="50.0" alt="cup">cup',
        'Counting the <point x="10.0" y="50.0" alt="cup">cup</point> shows a total of 1.<|endoftext|>',
        '<points x1="1.0" alt="a">a</points> <point x="+10.0" y="50.0" alt="b">cup</point> <point x="3',
    ],
)
def test_tolerated_forms(text):
    answer = read(text)
    assert (answer.outcome, answer.problem, answer.label, answer.text) == ("found", None, "cup", text)
    assert answer.points_px.tolist() == [[64.0, 180.0]] and answer.points_px.dtype == np.float32


def test_raw_quotes_and_brackets_in_the_label_are_read():
    """The reference writes labels unescaped, so a model trained on its texts may do the same."""
    answer = read('<point x="8.6" y="18.2" alt="the "big" one > x">the "big" one</point>')
    assert (answer.outcome, answer.label) == ("found", 'the "big" one')


def test_order_and_duplicates_are_kept():
    answer = read('<points x1="9" y1="8" x2="1" y2="2" x1="9" y1="8"></points> <point x="0" y="0">')
    expected = [[9, 8], [1, 2], [9, 8], [0, 0]]
    np.testing.assert_allclose(answer.points_px, np.array(expected) / 100 * [WIDTH, HEIGHT], atol=1e-4)


def test_far_border_is_the_last_pixel():
    answer = read('<points x1="100.0" y1="0" x2="99.99999999" y2="100" x3="99.9" y3="50"></points>')
    assert answer.inside.all()
    assert answer.points_px[:2].tolist() == [[639.0, 0.0], [639.0, 359.0]]
    assert answer.points_px[2, 0] == pytest.approx(639.36)


def test_outside_the_frame_is_kept_and_marked():
    answer = read('<points x1="120.5" y1="50" x2="-3" y2="50" x3="100.1" y3="100" x4="1" y4="1"></points>')
    assert (answer.outcome, answer.inside.tolist()) == ("found", [False, False, False, True])
    assert answer.points_px[:, 0].tolist() == pytest.approx([771.2, -19.2, 640.64, 6.4])


# Reading: absent


@pytest.mark.parametrize(
    "text",
    [
        "There are none.",
        " there are  none",
        "THERE ARE NONE!\n",
        "There are none.<|endoftext|>",
        "This isn't in the image.",
        "This isn’t in the video",
        '"This isn\'t in the video."',
    ],
)
def test_refusals(text):
    answer = read(text)
    assert (answer.outcome, answer.points_px.shape, answer.inside.shape) == ("absent", (0, 2), (0,))
    assert answer.problem is None


@pytest.mark.parametrize(
    "text", ["There are none in front.", "none", "There are 5.", "There are none. There are none."]
)
def test_almost_refusals_are_malformed(text):
    assert read(text).outcome == "malformed"


# Reading: malformed


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "empty text"),
        (" \n", "empty text"),
        ("It is on the left.", "no coordinates: neither a point tag nor a refusal"),
        ("Click(50.0, 50.0)", "no coordinates: neither"),
        ('<points x1="10.0" y1="20.0" x2="11.0" alt="cut', "cut off in the middle of a tag"),
        ('<points x1="10.0" y1="20.0" x2="1', "cut off in the middle of a tag"),
        ('<points x1="10.0" y1="20.0"', "cut off in the middle of a tag"),
        ("Here: <poi", "cut off in the middle of a tag"),
        ('<point x="1.2.3" y="50.0" alt="a">a</point>', "number not readable: x='1.2.3'"),
        ('<point x="1" y="nan">a</point>', "number not readable: y='nan'"),
        ('<point x="1e3" y="5">a</point>', "number not readable: x='1e3'"),
        ('<point x="٣" y="5">a</point>', "number not readable"),
        ('<point x="9' + "9" * 500 + '" y="5">a</point>', "number too large for a percentage: x='999"),
        ('<point x="10.0" alt="a">a</point>', "x without y"),
        ('<points x1="1" y1="2" x2="3">a</points>', "x2 without y2"),
        ('<points y7="3">a</points>', "y7 without x7"),
        ('<points x1="1" x1="2" y1="3" y1="4">a</points>', "x1 twice without y1"),
        ('<points x1="10.0" y2="20.0" alt="a">a</points>', "index mismatch: x1 and y2"),
        ('<point alt="a">a</point>', "no coordinates in the tag"),
        ('<points coords="1 1 697 094">red car</points>', "no coordinates in the tag"),
        ('<point x=10 y=20 alt="a">a</point>', "unexpected text in a tag: 'x=10 y=20"),
        ('<points t="8" There are none. t="9" x="1" y="2">a</points>', "unexpected text in a tag: 'There are none."),
        ('<point x="1" y="2" </point>', "unexpected text in a tag"),
    ],
)
def test_malformed_answers_say_why(text, problem):
    answer = read(text)
    assert answer.outcome == "malformed"
    assert problem in answer.problem and "\n" not in answer.problem
    assert answer.points_px.shape == (0, 2)


PIECES = [
    "<point",
    "<points",
    " x1=",
    " y1=",
    ' x="1"',
    " y='2'",
    '"',
    "'",
    ">",
    "/>",
    "</point>",
    "1.2",
    "alt=",
    " ",
    "é",
]


@settings(deadline=None, max_examples=300)
@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=30).map("".join)))
def test_any_text_gives_an_answer(text):
    answer = read(text)
    assert answer.outcome in ("found", "absent", "malformed") and answer.text == text
    assert (answer.problem is not None) == (answer.outcome == "malformed")
    assert (len(answer.points_px) > 0) == (answer.outcome == "found") and len(answer.inside) == len(answer.points_px)
    assert np.isfinite(answer.points_px).all()
    inside = answer.points_px[answer.inside].astype(int)
    assert (inside >= 0).all() and (inside < [WIDTH, HEIGHT]).all()


@pytest.mark.parametrize(
    "unit", ['<point x="', "<point", "x", " ", "<point " + " " * 40, "<point a=\"<point b='", 'alt="a ']
)
@pytest.mark.parametrize("length", [190_000, 10_000_000])
def test_hostile_text_is_read_in_linear_time(unit, length):
    text = '<point alt="' + unit * (length // len(unit))
    start = time.process_time()
    assert read(text).outcome == "malformed"
    assert time.process_time() - start < 2


# The references' readers


@pytest.mark.parametrize("reader", [videomolmo_pixels, molmo_pixels])
def test_reference_readers_on_the_model_cases(reader):
    key = {videomolmo_pixels: "videomolmo_pixels", molmo_pixels: "molmo_eval_extract_points"}[reader]
    for case in parse_cases():
        check_reference(reader, case, case[key])


@pytest.mark.parametrize("reader", [videomolmo_pixels, molmo_pixels])
def test_reference_readers_on_the_evaluation_cases(reader):
    key = {videomolmo_pixels: "videomolmo", molmo_pixels: "molmo1"}[reader]
    for case in golden("eval/parse.json")["cases"]:
        check_reference(reader, case, case["expected"][key])


def check_reference(reader, case: dict, expected) -> None:
    arguments = case["text"], case["width"], case["height"]
    if "ValueError" in str(expected):
        with pytest.raises(ValueError, match="could not convert"):
            reader(*arguments)
    else:
        points = reader(*arguments)
        assert len(points) == len(expected), case["text"]
        np.testing.assert_allclose(np.reshape(points, (-1, 2)), np.reshape(expected, (-1, 2)), atol=1e-6)


def test_our_reader_agrees_with_molmos_on_well_formed_answers():
    """The same float pixels wherever both find points, but for the border and what Molmo drops."""
    compared = 0
    for case in parse_cases():
        answer = read_points(case["text"], case["height"], case["width"])
        expected = case["molmo_eval_extract_points"]
        if answer.outcome == "found" and len(expected) == len(answer.points_px) and answer.inside.all():
            np.testing.assert_allclose(answer.points_px, np.array(expected), rtol=1e-6, atol=1.001)
            compared += 1
    assert compared >= 15
