"""Drawing in the inspector's picture, its kernel half: what a browser tells, and what is recorded. No browser."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from inspector_bench import HEIGHT, WIDTH, made_result, opened
from inspector_corrected import InstantTracker

from videomolmo.inspector.draw_panel import stroked


@pytest.fixture
def look(tmp_path):
    return partial(opened, tmp_path / "exports", grounder=InstantTracker())


def draw(browser, what: str, *points, frame: int = 2, pane: int = 0) -> None:
    browser.tell(kind="drawn", what=what, frame=frame, pane=pane, points=[list(one) for one in points])


def last(inspector) -> dict:
    return inspector.corrections.records[-1]


def test_a_rectangle_is_a_box_for_the_chosen_object_or_the_one_in_its_middle(look):
    inspector, browser = look()
    inspector.correct.mode.value = "box"
    draw(browser, "box", (24, 20), (35, 9), (10, 6))
    assert last(inspector)["action"] == "add_box" and last(inspector)["box"] == [10, 6, 24, 20]
    assert last(inspector)["object"] == 2 and "box added (object 2)" in inspector.state.words.value
    browser.tell(kind="click", frame=2, pane=0, x=3, y=3)
    assert "drag from one corner" in inspector.state.words.value and len(inspector.corrections.records) == 1
    inspector.correct.object_id.value = None
    draw(browser, "box", (1, 30), (12, 60))  # beyond the lower edge
    assert last(inspector)["box"] == [1, 30, 12, HEIGHT] and inspector.correct.object_id.value == 3
    draw(browser, "box", (5, 5), (5.2, 30))
    assert "drag a larger one" in inspector.state.words.value and inspector.state.canvas.pending == []


def test_a_point_is_dragged_and_says_where_it_can_be_held(look):
    inspector, browser = look()
    grip = lambda x, y: (browser.tell(kind="hover", frame=4, pane=0, x=x, y=y), browser.sent[-1][0]["grip"])[1]  # noqa: E731
    assert grip(18, 6) is None  # a click there navigates
    inspector.correct.mode.value = "add"
    assert grip(19, 7) == (18, 6, 4) and grip(60, 40) is None
    draw(browser, "point", (19, 7), (25, 9.5), frame=4)
    assert last(inspector)["action"] == "move_point" and last(inspector)["from"] == [18, 6]
    assert last(inspector)["clicks"] == [(25, 9.5, 1)] and "point moved" in inspector.state.words.value
    draw(browser, "point", (60, 44), (3, 3), frame=4)
    assert "no point within 4 px" in inspector.state.words.value
    inspector.correct.mode.value = "box"
    draw(browser, "box", (10, 10), (30, 30), frame=4)
    inspector.correct.mode.value = "add"
    assert grip(30, 30) == (30, 30, 4)  # a corner
    draw(browser, "point", (30, 30), (90, 40), frame=4)
    assert last(inspector)["clicks"][1][0] == pytest.approx(WIDTH - 0.01)
    inspector.correct.mode.value = "remove"
    browser.tell(kind="click", frame=4, pane=0, x=10, y=10)
    assert last(inspector)["action"] == "remove_point" and inspector.inspection.corners(4) == []


def test_strokes_are_seen_at_once_and_followed_when_they_are_applied(look):
    inspector, browser = look()
    state, inspection = inspector.state, inspector.inspection
    browser.go(2)
    before, mask = browser.picture, inspection.mask("fused", 2)[0].copy()
    assert inspector.draw.box.layout.display == "none"
    inspector.correct.mode.value, inspector.draw.width.value = "brush", 5
    assert inspector.draw.box.layout.display == "" and state.canvas.pen == [5, "white"]
    draw(browser, "stroke", (12, 4), (40, 40))
    assert np.abs(browser.picture.astype(int) - before).max() > 60 and inspector.corrections.records == []
    assert state.canvas.pen[1] == "#e69f00" and "strokes for object 1 on frame 2" in state.words.value
    draw(browser, "stroke", (12, 4))
    browser.tell(kind="key", key="z")
    assert len(inspector.draw._before) == 1
    for act, words in ((lambda: draw(browser, "stroke", (12, 4), frame=3), "on frame 2 wait"),
                       (lambda: browser.tell(kind="key", key="Enter"), "mask edited")):  # fmt: skip
        act()
        assert words in state.words.value
    drawn = stroked(mask, [(12, 4), (40, 40)], 5, True)
    assert last(inspector)["action"] == "edit_mask" and state.draft is None
    assert np.array_equal(inspection.mask("fused", 2)[0], drawn) and inspection.mask("forward", 3)[0].any()
    inspector.correct.mode.value = "erase"
    draw(browser, "stroke", (0, 0), (12, 3), (WIDTH, HEIGHT))
    browser.tell(kind="key", key="Backspace")
    assert "discarded" in state.words.value and len(inspector.corrections.records) == 1
    draw(browser, "stroke", (12, 4), (14, 6))
    inspector.draw.apply.click()
    assert last(inspector)["area"] == int(stroked(drawn, [(12, 4), (14, 6)], 5, False).sum()) < drawn.sum()
    inspector.correct.undo.click()
    assert np.array_equal(inspection.mask("fused", 2)[0], drawn)


def test_a_stroke_beside_all_objects_asks_for_one_and_may_begin_a_new_one(look):
    inspector, browser = look()
    inspector.correct.mode.value = "brush"
    draw(browser, "stroke", (60, 44))
    assert "go over an object" in inspector.state.words.value and inspector.state.draft is None
    inspector.objects.list.hidden = [1]
    inspector.correct.object_id.value = None
    draw(browser, "stroke", (55, 40), (60, 44))
    before = browser.picture
    browser.tell(kind="click", frame=2, pane=0, x=3, y=3)
    inspector.correct.object_id.value = 1
    draw(browser, "stroke", (12, 4))
    assert "a new object on frame 2 wait" in inspector.state.words.value
    assert np.array_equal(browser.picture, before)
    browser.tell(kind="key", key="Enter")
    assert inspector.inspection.objects == 3 and last(inspector)["object"] == 3
    assert inspector.inspection.mask("fused", 2)[2].any()


def test_keys_make_the_brush_wider_and_what_is_drawn_elsewhere_changes_nothing(look):
    inspector, browser = look(other=made_result())
    width = inspector.draw.width.value
    browser.tell(kind="key", key=")")
    assert inspector.draw.width.value > width
    for _ in range(9):
        browser.tell(kind="key", key="(")
    assert inspector.draw.width.value == 1
    inspector.correct.mode.value = "box"
    draw(browser, "box", (10, 10), (30, 30), pane=1)
    assert "in the left picture" in inspector.state.words.value and inspector.corrections.records == []
    draw(browser, "scribble", (1, 1))
    assert inspector.corrections.records == []


def test_two_pictures_stand_as_they_are_told_and_are_called_so(look):
    inspector, browser = look(other=made_result(shift=4))
    beside = browser.picture.shape
    browser.go(4)
    assert "left: key frame" in browser.sent[-1][0]["captions"][0]
    inspector.state.canvas.arranged = "stack"
    assert browser.picture.shape[1] > 1.5 * beside[1]
    assert "upper: key frame" in browser.sent[-1][0]["captions"][0] and "J&amp;F" not in inspector.compare.line.value
    inspector.state.canvas.arranged = "overlay"
    assert "first: key frame" in browser.sent[-1][0]["captions"][0]


def test_a_round_brush_covers_what_it_goes_over():
    empty, full = np.zeros((20, 30), bool), np.ones((20, 30), bool)
    dot = stroked(empty, [(10.5, 8.5)], 7, True)
    rows, columns = np.nonzero(dot)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (5, 11, 7, 13) and not dot[5, 7]
    assert np.array_equal(stroked(full, [(10.5, 8.5)], 7, False), ~dot)
    assert stroked(empty, [(-5, 8), (1e9, 8)], 3, True)[8].all() and not empty.any()
