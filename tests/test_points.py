"""Answer texts: writing, reading, what is refused and why, any text at all, and parity with the references' readers."""

import json
import math
import re
import time

import numpy as np
import pytest
from golden import HOW, ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.points import has_molmo1_format, molmo_pixels, read_like_molmo1, read_like_videomolmo, videomolmo_pixels
from reference.points_molmo2 import (
    read_like_molmo2_entries,
    read_like_molmo2_points,
    read_like_molmo2_time_points,
    read_like_molmo2_tracks,
)

from videomolmo.errors import BadInput
from videomolmo.points import TrackPoint, read_points, write_like_videomolmo, write_points
from videomolmo.systems.molmo2_formats import write_count, write_timed_points, write_tracks

HEIGHT, WIDTH = 360, 640


def golden(name: str) -> dict:
    """One file of reference outputs, or a skipped test."""
    path = ROOT / name
    if not path.exists():
        pytest.skip(f"{HOW} ({name})")
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


@pytest.mark.parametrize("write", [write_points, write_count, write_like_videomolmo])
@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), max_size=12))
def test_every_molmo1_text_comes_back(write, tenths):
    """Points on the grid of the text come back exactly, by our reader and by the references' own."""
    points = np.array(tenths, dtype=float).reshape(-1, 2)
    text = write(points, "a b", 1000, 1000)
    wanted = sorted(np.minimum(points, 999).tolist())
    assert sorted(read_points(text, 1000, 1000).points_px.tolist()) == wanted
    assert np.allclose(sorted(read_like_molmo1(text, 1000, 1000).found), sorted(points.tolist()))
    assert len(read_like_videomolmo(text, 1000, 1000).found) == len(points)


TIMES = st.lists(st.integers(0, 5000), min_size=1, max_size=6, unique=True).map(lambda tenths: np.sort(tenths) / 10)
PLACES = st.tuples(st.integers(0, 1000), st.integers(0, 1000))


@pytest.mark.parametrize("style", ["html-v1", "html-v2"])
@pytest.mark.parametrize("mode", ["point", "point_then_count", "count_then_point", "count"])
@given(data=st.data(), times=TIMES, label=st.text(max_size=9))
def test_timed_points_come_back(style, mode, data, times, label):
    frames = [np.array(data.draw(st.lists(PLACES, max_size=4)), dtype=float).reshape(-1, 2) for _ in times]
    text = write_timed_points(
        times, frames, label, 1000, 1000, mode=mode, style=style, alt=data.draw(st.text(max_size=3))
    )
    rows = [(when, *place) for when, frame in zip(times, frames, strict=True) for place in sorted(frame.tolist())]
    if not rows or mode == "count":
        assert text == (str(len(rows)) if rows else "There are none.")
        return
    answer = read_points(text, 1000, 1000)
    assert (answer.outcome, answer.problem, answer.label) == ("found", None, label or answer.label)
    assert np.column_stack([answer.times, answer.points_px]).tolist() == [
        [when, min(x, 999), min(y, 999)] for when, x, y in rows
    ]
    assert answer.ids.tolist() == list(range(1, len(rows) + 1))
    assert read_like_molmo2_time_points(text, 1000, 1000).found == rows


@pytest.mark.parametrize("style", ["html-v1", "html-v2"])
@given(data=st.data(), times=TIMES)
def test_tracks_come_back(style, data, times):
    objects = st.dictionaries(st.sampled_from("abcd"), st.tuples(PLACES, st.booleans()), max_size=4)
    frames = [
        [TrackPoint(name, *place, occluded) for name, (place, occluded) in data.draw(objects).items()] for _ in times
    ]
    text = write_tracks(times, frames, "dog", 1000, 1000, style=style)
    visible = [
        (when, {(p.x, p.y): p.object_id for p in frame if not p.occluded})
        for when, frame in zip(times, frames, strict=True)
    ]
    read_back = read_like_molmo2_tracks(text, 1000, 1000, fps=10).found
    assert [frame.time for frame in read_back] == [when for when, places in visible if places]
    assert (text == "There are none.") == (not read_back)
    names: dict[str, str] = {}
    for frame, places in zip(read_back, [places for _, places in visible if places], strict=True):
        assert set(frame.points.values()) == set(places) and frame.frame == round(frame.time * 10)
        if len(places) == len(frame.points):  # no two objects in one place
            assert all(names.setdefault(number, places[at]) == places[at] for number, at in frame.points.items())
    assert len(set(names.values())) == len(names)


def test_tracks_without_visible_points():
    hidden = [TrackPoint(1, -5.0, 3.0, occluded=True)]
    assert write_tracks([], [], "dog", 9, 9) == write_tracks([0.0], [hidden], "dog", 9, 9) == "There are none."
    assert write_tracks([], [], "dog", 9, 9, exact=True) == "No tracks available."
    assert write_tracks([0.0], [hidden], "dog", 9, 9, exact=True) == ""


def test_image_numbers_are_written_as_integers():
    frames = [np.array([[5.0, 5.0]]), np.zeros((0, 2)), np.array([[0.0, 10.0]])]
    text = write_timed_points(np.arange(1, 4), frames, "<a>", 10, 10)
    assert text == '<points coords="1 1 500 500;2 ;3 2 000 1000">&lt;a&gt;</points>'
    assert read_like_molmo2_entries(text, [10, 10, 20], [10, 10, 20]).found == [(1, "1", 5.0, 5.0), (3, "2", 0.0, 20.0)]
    assert read_points(text, 10, 10).times.tolist() == [1.0, 3.0]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"times": [-0.5]}, "time -0.5 s"),
        ({"times": [math.nan]}, "time nan s"),
        ({"times": [1e9]}, "below 1e"),
        ({"points_px": [np.array([[11.0, 5.0]])]}, "outside the frame of width 10 and height 10"),
        ({"mode": "pointing"}, "mode 'pointing' is not one of point, "),
        ({"style": "html"}, "style 'html' is not one of html-v1, html-v2"),
    ],
)
def test_timed_points_that_are_not_written(options, problem):
    with pytest.raises(BadInput, match=problem):
        write_timed_points(
            **{"times": [0.5], "points_px": [np.ones((1, 2))], "label": "a"} | options, height=10, width=10
        )


def test_an_object_is_once_in_a_frame():
    with pytest.raises(BadInput, match="object 'a' is given twice at time"):
        write_tracks([0.5], [[TrackPoint("a", 1, 1), TrackPoint("a", 2, 2)]], "dog", 9, 9)


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


@pytest.mark.parametrize(
    ("tag", "label"),
    [
        ('<point x="10" y="50" alt="price < 5">price < 5</point>', "price < 5"),
        ('<points x1="10" y1="50" alt="a<b">a<b</points>', "a<b"),
        ('<point x="10" y="50" alt="<b>bold</b>"/>', "<b>bold</b>"),
        ("<point x='10' y='50' alt='<img>'>", "<img>"),
        ('<point x="10" y="50" alt="the x="3" y="4" button">button</point>', "button"),
    ],
)
def test_a_label_that_looks_like_a_tag_or_an_attribute_is_read(tag, label):
    for text in (tag, f'{tag} <point x="10" y="50" alt="cup">cup</point>'):
        answer = read(text)
        assert (answer.outcome, answer.label) == ("found", label)
        assert np.unique(answer.points_px, axis=0).tolist() == [[64.0, 180.0]]
    cut = '<point x="10" y="50" alt="a < b <point x="3" y="4" alt="b">b</point>'
    assert len(read(cut).points_px) == 1  # the first tag has no end of its own


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


# Reading: found, Molmo 2


@pytest.mark.parametrize(
    "coords",
    [
        "0.5 1 250 500 2 000 1000;62.0 1 999 001",
        "0.5 1 250 500 2 000 1000\t62.0 1 999 001",
        "0.5 1 250 500 2 000 1000,62 1 999 001",
        "0.5 1 250 500 2 000 1000:62 1 999 001",
        " 0.5 1 250 500  2 000 1000 ;\n 62.0 1 999 001 ;",
        "0.5 1 250 500 2 000 1000 62.0 1 999 001",
        "0:00.5 1 250 500 2 000 1000;01:02 1 999 001",
        "0.5 1 250 500; 0.5 2 000 1000; 7.0 ; 00:01:02.0 1 999 001",
    ],
)
@pytest.mark.parametrize(
    "tag",
    [
        '<points coords="{}">cup</points>',
        "<tracks coords='{}'>cup</tracks>",
        '<Track alt="cup" COORDS="{}" fps="2">cup',
        '<points\nalt="cup" coords = "{}" />',
        'There are 3 <points coords="{}">cup</points>.<|endoftext|>',
    ],
)
def test_lists_with_times_and_ids(tag, coords):
    answer = read(tag.format(coords))
    assert (answer.outcome, answer.problem, answer.label) == ("found", None, "cup")
    assert answer.times.tolist() == [0.5, 0.5, 62.0] and answer.ids.tolist() == [1, 2, 1]
    np.testing.assert_allclose(answer.points_px, [[160, 180], [0, 359], [639.36, 0.36]], rtol=1e-6)
    assert answer.inside.all()


def test_percent_has_no_times_and_lists_have():
    assert read('<point x="1" y="2">a</point>').times is None
    assert read("There are none.").ids is None
    both = read('<points coords="1 1 250 500">a</points><point x="25" y="50">b</point>')
    assert both.points_px.tolist() == [[160.0, 180.0]] * 2 and both.times is None and both.ids is None


def test_beyond_1000_per_mille_is_outside():
    assert read('<points coords="1 1 1001 941 2 662 890">x</points>').inside.tolist() == [False, True]


# Reading: absent


@pytest.mark.parametrize(
    "text",
    [
        "There are none.",
        " there are  none",
        "THERE ARE NONE!\n",
        "There are none.<|endoftext|>",
        "No tracks available.",
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
        ('<points coords="">red car</points>', "no coordinates in the tag"),
        ('<points coords="0.5;1.0">red car</points>', "no coordinates in the tag"),
        ('<points coords="0.5 1 583 135;1.0 2 523 100', "cut off in the middle of a tag"),
        ("Here: <trac", "cut off in the middle of a tag"),
        ('<points coords="1 196 601">x</points>', "list of points cut short: id, x and y expected, '196 601' found"),
        ('<points coords="0.5 1 833 672 2 604">x</points>', "list of points cut short"),
        ('<points coords="1 1 45 482">x</points>', "x has three or four digits, not '45'"),
        ('<points coords="1 1 12345 028">x</points>', "x has three or four digits, not '12345'"),
        ('<points coords="0.5 1 47.0 59.8">x</points>', "x has three or four digits, not '47.0'"),
        ('<points coords="1 292 697 2 078 345">x</points>', "y has three or four digits, not '2'"),
        ('<points coords="1.2.3 1 618 921">x</points>', "time not readable: '1.2.3'"),
        ('<points coords="0^1 1 0.845 0.583">x</points>', "time not readable: '0^1'"),
        ('<points coords="0.5 a 845 583">x</points>', "id not readable: 'a'"),
        ('<points coords="0.5 1 ٨45 583">x</points>', "x has three or four digits"),
        ('<points coords="9' + "9" * 500 + ' 1 845 583">x</points>', "time not readable: '999"),
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


# Any text

PIECES = [
    *(
        "<point",
        "<points",
        "<tracks",
        "</points>",
        ">",
        "/>",
        '"',
        "'",
        " ",
        "\n",
        "\t",
        ";",
        ":",
        ",",
        ".",
        "-",
        "é",
        "٣",
    ),
    *(" x1=", " y1=", ' x="1"', " y='2'", 'x1="50.0" y1="7"', "alt=", ' alt="a"', ' coords="', ' coords="1 1 100 050"'),
    *("1", "1.2", "100", "999", "1001", "0.5 1 100 050", "1 47.0 59.8", "9" * 400, "nan", "inf", "1e5"),
    *("Click(1.0, 2.0)", "(1.0, 2.0)", "p=100, 200", "time 0.50\n{", "0: [34.0, 63.0]", "}", "<points 0.5 1 2.0 3.0/>"),
]
TEXTS = st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
COORDS = st.lists(st.sampled_from([*"0123456789.;:, \t", "0.5 1 100 050", "; ", ";"]), max_size=30).map("".join)
ANY_TEXT = st.one_of(TEXTS, COORDS.map('<points coords="{}">a</points>'.format))
STRICT_READERS = {
    "molmo1": lambda text: read_like_molmo1(text, WIDTH, HEIGHT),
    "videomolmo": lambda text: read_like_videomolmo(text, WIDTH, HEIGHT),
    "entries": lambda text: read_like_molmo2_entries(text, WIDTH, HEIGHT),
    "images": lambda text: read_like_molmo2_entries(text, [WIDTH, 5], [HEIGHT, 5]),
    "points": lambda text: read_like_molmo2_points(text, WIDTH, HEIGHT),
    "time points": lambda text: read_like_molmo2_time_points(text, WIDTH, HEIGHT),
    "tracks": lambda text: read_like_molmo2_tracks(text, WIDTH, HEIGHT, fps=29.97),
    "tracks without format": lambda text: read_like_molmo2_tracks(text, WIDTH, HEIGHT, fps=1, with_format=False),
}


@settings(deadline=None, max_examples=300)
@given(ANY_TEXT)
def test_any_text_gives_an_answer(text):
    answer = read(text)
    assert answer.outcome in ("found", "absent", "malformed") and answer.text == text
    assert (answer.problem is not None) == (answer.outcome == "malformed")
    assert (len(answer.points_px) > 0) == (answer.outcome == "found") and len(answer.inside) == len(answer.points_px)
    assert np.isfinite(answer.points_px).all()
    inside = answer.points_px[answer.inside].astype(int)
    assert (inside >= 0).all() and (inside < [WIDTH, HEIGHT]).all()
    assert (answer.times is None) == (answer.ids is None)
    if answer.times is not None:
        assert len(answer.times) == len(answer.ids) == len(answer.points_px) and np.isfinite(answer.times).all()


@pytest.mark.parametrize("reader", STRICT_READERS)
@settings(deadline=None, max_examples=150)
@given(text=ANY_TEXT)
def test_no_strict_reader_raises(reader, text):
    found, failure = STRICT_READERS[reader](text)
    assert all(map(math.isfinite, numbers_in(found)))
    assert failure in (None, "ValueError", "IndexError", "OverflowError", "NotFinite") and not (found and failure)
    assert isinstance(has_molmo1_format(text), bool)


def numbers_in(found) -> list[float]:
    if isinstance(found, (list, tuple)):
        return [number for part in found for number in numbers_in(part)]
    return numbers_in(list(found.values())) if isinstance(found, dict) else [found] * (not isinstance(found, str))


SPOILT = {  # what the references make NaN, infinite or raise on
    "videomolmo": '<points x1="' + "9" * 400 + '" y1="2">a</points>',
    "entries": '<points coords="' + "9" * 400 + ' 1 100 100">a</points>',
    "images": '<points coords="3 1 100 100">a</points>',
    "points": '<points coords=". 1 100 100">a</points>',
    "time points": "<points nan\t1 2.0 3.0/>",
    "tracks": "time " + "9" * 400 + "\n{0: [1.0, 2.0]}",
}


def test_strict_readers_name_the_failure():
    failures = {name: STRICT_READERS[name](text).failure for name, text in SPOILT.items()}
    assert failures == {
        "videomolmo": "OverflowError",
        "entries": "NotFinite",
        "images": "IndexError",
        "points": "ValueError",
        "time points": "NotFinite",
        "tracks": "OverflowError",
    }


@settings(deadline=None, max_examples=500)
@given(ANY_TEXT)
def test_lists_are_found_like_by_nested_searches(text):
    """The published rule, three searches inside one another, slow on hostile texts, against one pass."""
    found = []
    try:
        for tag in re.finditer(r'<(?:points|tracks).*? coords="([0-9\t:;, .]+)"/?>', text):
            for frame in re.finditer(r"(?:^|\t|:|,|;)([0-9.]+) ([0-9. ]+)", tag[1]):
                time_s = float(frame[1])
                for name, x, y in re.findall(r"([0-9]+) ([0-9]{3,4}) ([0-9]{3,4})", frame[2]):
                    if float(x) <= 1000 and float(y) <= 1000:
                        found.append((time_s, name, float(x) / 1000 * WIDTH, float(y) / 1000 * HEIGHT))
    except ValueError:
        assert STRICT_READERS["entries"](text) == ([], "ValueError")
    else:
        finite = all(map(math.isfinite, numbers_in(found)))
        assert STRICT_READERS["entries"](text) == ((found, None) if finite else ([], "NotFinite"))


HOSTILE = [
    *(
        '<point x="',
        "<point",
        "x",
        " ",
        "1",
        "<point " + " " * 40,
        "<point a=\"<point b='",
        '<point x="1" y="2" alt="<" ',
        '"  ',
        'alt="a ',
        '<points x1="1" ',
    ),
    *('x1="1" ', '<points coords="1 1 100 100', ' coords="1 1 100 100">', "1 100 ", "<points\t1 ", "time 1\n{", "p=1"),
]


@pytest.mark.parametrize("unit", HOSTILE)
@pytest.mark.parametrize("length", [190_000, 10_000_000])
def test_hostile_text_is_read_in_linear_time(unit, length):
    text = '<point alt="' + unit * (length // len(unit))
    start = time.process_time()
    assert read(text).outcome == "malformed"
    assert time.process_time() - start < 2


@pytest.mark.parametrize("reader", [has_molmo1_format, *STRICT_READERS.values()], ids=["format", *STRICT_READERS])
def test_strict_readers_take_linear_time(reader):
    """A bound that quadratic time would miss by hours."""
    start = time.process_time()
    for unit in HOSTILE:
        reader('<points coords="' + unit * (500_000 // len(unit)))
    reader('<points x1="1" ' * 666_667)
    assert time.process_time() - start < 20


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
