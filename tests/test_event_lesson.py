"""Notebook 09's clip, its true answers, and how the inspector shows answers that belong to moments. No model runs."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
from inspector_bench import Browser

import videomolmo
from videomolmo.datasets import read_dataset
from videomolmo.evaluation.whole_videos import score_points
from videomolmo.inspector.doubt import doubtful_frames
from videomolmo.inspector.static_page import chosen_frames
from videomolmo.io.drawing import png_bytes
from videomolmo.lab import event_lesson as lesson
from videomolmo.lab.exercises import check_moments_exercise
from videomolmo.lab.nano.molmo2_examples import answer_of
from videomolmo.points import read_points
from videomolmo.results import GroundingResult
from videomolmo.synth.event_questions import CATEGORIES, ask_about
from videomolmo.synth.event_scenes import ANOMALIES
from videomolmo.systems.whole_video import number_in, places_in

TWO_AT_ONCE = '<points coords="1.0 1 250 250 2 750 500;3.5 3 500 750">hit</points>'


@pytest.fixture(scope="module")
def clip():
    return lesson.lesson_clip()


@pytest.fixture
def answered(clip):
    return partial(lesson.as_answered, clip=clip, question="every hit", tracker=object())


def test_each_answer_says_what_the_others_do_not(clip):
    asked = lesson.lesson_questions(clip)
    said = {task: lesson.read_off(answer_of(clip, one, task), clip) for task, one in asked.items()}
    assert [said[task]["how many"] for task in ("track", "point", "count")] == ["3", "4", "3"]
    assert said["point"]["times"] == "1.5 s, 2.5 s, 3.5 s, 4.5 s" and said["track"]["times"] == "0 to 6 s"
    assert said["track"]["points of each number"] == "6 + 13 + 5"
    assert said["count"]["points of each number"] == "1 + 1 + 1"
    circles = [target.things[0] for target in asked["count"].targets]
    assert clip.seen[:, circles].sum(axis=1).max() == 2  # so no frame shows all three
    names = [clip.things[at].name for at in circles]
    assert len({*names}) == 2  # the one that comes looks like the one that left


def test_mistakes_are_scored_as_the_notebook_says(clip):
    point = lesson.lesson_questions(clip)["point"]
    scores = {name: lesson.score(clip, point, text)[:3] for name, text in lesson.mistakes(clip, point).items()}
    assert scores["exact"] == scores["half a second late"] == (1, 1, 1)
    assert scores["a second late"] == scores["elsewhere"] == scores["none"] == (0, 0, 0)
    assert scores["one left out"][:2] == (1, 0.75) and scores["each twice"][:2] == (0.5, 1)


@pytest.mark.parametrize("number", [2, 7])
def test_the_notebook_scores_as_evaluation_does(number):
    category = CATEGORIES[number]
    clip, (asked, *_) = ask_about(lesson.HELD_OUT + number, category)
    record = read_dataset("point_video_nano")[number]
    assert record.expressions[0].text == asked.phrase
    text = lesson.mistakes(clip, asked)["one left out"] if len(asked.targets) > 1 else answer_of(clip, asked, "point")
    rows = score_points(record, record.expressions[0], {"answer": text, "duration_s": lesson.SECONDS})
    assert [row.value for row in rows] == pytest.approx(list(lesson.score(clip, asked, text)[:3]))


def test_every_anomaly_has_a_clip_with_its_moment_in_the_middle():
    for verb in ANOMALIES:
        clip = lesson.anomaly_clip(verb)
        asked = lesson.question_about(clip, verb)
        assert len(asked.targets) == 1 and lesson.score(clip, asked, answer_of(clip, asked, "point")).f1 == 1
        assert lesson.around(clip, clip.anomalies[0].time_s).shape[1] > 5 * 120  # six frames, or five near an end


def test_true_answers_are_drawn_on_their_frames(clip):
    point = lesson.lesson_questions(clip)["point"]
    with_rings = lesson.pointed(clip, answer_of(clip, point, "point"))
    without = lesson.pointed(clip, "There are none.")
    assert with_rings.shape == without.shape and (with_rings != without).any() and png_bytes(without)


def test_the_reader_of_moments_is_checked():
    assert check_moments_exercise(lambda text: []).startswith("not yet: where there is one point")
    assert check_moments_exercise(lambda text: 1 // 0).endswith("modulo by zero")

    def read(text):
        found = read_points(text, 1000, 1000)
        times = [] if found.times is None else found.times
        return [(t, n, round(x), round(y)) for t, n, (x, y) in zip(times, found.ids, found.points_px, strict=True)] if (
            len(times)) else []  # fmt: skip

    assert check_moments_exercise(read).startswith("right")


def test_moments_go_to_the_browser_and_are_painted_where_they_belong(answered, tmp_path):
    result = answered(TWO_AT_ONCE)
    kept = GroundingResult.load(result.save(tmp_path / "kept", overlay=False))
    inspector = videomolmo.inspect(kept, other=answered("There are none."), folder=tmp_path / "exports")
    browser = Browser(inspector)
    (first, second), canvas = inspector.state.canvas.moments, inspector.state.canvas
    assert (first[0], first[1], second[0], second[1]) == (6, [1, 2], 21, [3]) and canvas.moments_beside == []
    assert first[4] == "1.0 s · frame 6 · 1: x 24 y 24 px  2: x 72 y 48 px" and json.dumps(canvas.moments)
    browser.go(6)
    there = browser.picture.astype(int)
    inspector.state.set_view(points=False)
    without = browser.picture.astype(int)
    changed = np.abs(there - without).max(axis=2) > 60
    rows, columns = np.nonzero(changed)
    assert changed.any() and columns.max() < there.shape[1] and rows.min() > 0.1 * there.shape[0]
    browser.go(7)
    plain = browser.picture
    inspector.state.set_view(points=True)
    assert np.abs(browser.picture.astype(int) - plain).max() < 40  # nothing was pointed at there
    assert any("points at times, without masks" in line for line in inspector.inspection.missing())
    assert doubtful_frames(inspector.inspection) == {}  # that nothing is pointed at on most frames is no doubt
    assert inspector.plots._draw({"t": 0, "theme": "light"}) == {}


def test_the_static_page_shows_the_moments_and_the_answer_once(answered):
    inspector = videomolmo.inspect(answered(TWO_AT_ONCE), other=answered("There are none."))
    assert {6, 21} <= {*chosen_frames(inspector.state.shown)}
    from videomolmo.inspector.static_page import _text

    text = _text(inspector.state.shown)
    assert text.count("<points") == 1 and "1.0 s · frame 6 · 1: x 24 y 24 px" in text and "There are none." in text
    assert inspector.picture().startswith(b"\x89PNG")


def test_answers_about_whole_videos_differ_where_a_point_is_alone(answered):
    moved = TWO_AT_ONCE.replace("750 500", "260 900").replace("3.5 3", "4.0 3")
    inspector = videomolmo.inspect(answered(TWO_AT_ONCE), other=answered(moved))
    differences = inspector.state.differences
    assert {at: value for at, value in enumerate(differences.per_frame) if value} == {6: 0.5, 21: 1, 24: 1}
    assert [differences.next_difference(at) for at in (0, 6, 21, 24)] == [6, 21, 24, 6]
    same = videomolmo.inspect(answered(TWO_AT_ONCE), other=answered(TWO_AT_ONCE.replace("250 250", "270 250")))
    assert same.state.differences.next_difference(0) is None


def test_a_result_with_masks_has_no_moments():
    from inspector_bench import made_result

    assert videomolmo.inspect(made_result()).state.canvas.moments == []


def test_a_written_answer_is_a_result_like_a_model_s(answered):
    result = answered("Counting the " + TWO_AT_ONCE + " shows a total of 3.")
    assert number_in(result) == 3 and [(one.time_s, one.frame) for one in places_in(result)] == [
        (1.0, 6),
        (1.0, 6),
        (3.5, 21),
    ]
    assert lesson.text_of(result).startswith("Counting the <points")
