"""Evaluation of whole-video answers: one that knows the truth scores full marks, one that does not says so."""

from __future__ import annotations

import json

import numpy as np
import pytest

from videomolmo.cli import main
from videomolmo.datasets import read_dataset
from videomolmo.errors import BadInput
from videomolmo.evaluation import whole_videos
from videomolmo.protocols import as_question
from videomolmo.systems import load_grounder
from videomolmo.systems.molmo2 import Molmo2Pointer, as_tracking
from videomolmo.training.video_samples import point_message, timed_points, track_message

pytest.importorskip("transformers.models.molmo2", reason="this transformers has no Molmo 2")
from tiny_molmo2 import untaught

SMALL = {"clips": 1, "height": 64, "width": 64}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return untaught(tmp_path_factory.mktemp("molmo2"))


@pytest.fixture(scope="module")
def grounder(folder):
    return load_grounder(str(folder), device="cpu")


@pytest.fixture
def knows(monkeypatch):
    """A model that knows the answers of some records, as training has them."""

    def learn(records, task: str, asked: list | None = None) -> None:
        answers = {}
        for record in records:
            for one in record.expressions:
                times = np.arange(len(record.frame_names)) / record.fps
                if task == "track":
                    shown, question = times[:: round(record.fps / 2)], as_tracking(as_question(one.text), 2.0)
                    answers[question] = track_message(record, one, times, shown, 2.0, "").answer
                else:
                    points = timed_points(record, one, times)
                    answers[as_question(one.text)] = point_message(record, one, points, "", task == "count").answer

        def write(_, frames, times, request):
            (asked if asked is not None else []).append(request)
            return answers[request], 0

        monkeypatch.setattr(Molmo2Pointer, "_write", write)

    return learn


def mean_of(table, metric: str, kind: str = "(all)") -> float:
    rows = table[(table["clip"] == "(all)") & (table["kind"] == kind) & (table["metric"] == metric)]
    return float(rows["value"].iloc[0])


def test_points_that_are_right_score_full_marks_in_every_category(grounder, knows, tmp_path):
    records, asked = read_dataset("point_video_nano", **SMALL), []
    knows(records, "point", asked)
    table = whole_videos.evaluate(grounder, records, tmp_path)
    kinds = {one.expressions[0].kind for one in records}
    assert len(kinds) == 8 == len(asked)
    assert all(
        mean_of(table, metric, kind) == 1 for kind in ("(all)", *kinds) for metric in whole_videos.METRICS["point"]
    )
    again = whole_videos.evaluate(grounder, records, tmp_path)
    assert len(asked) == 8 and again["value"].equals(table["value"])  # answers are kept
    text = whole_videos.comparison("point_video_nano", table)
    assert "point f1 on point_video_nano | 100.0 | measured here" in text
    assert "| Molmo2-4B | Molmo2-VP F1 | 39.9 | quoted from" in text and "| GPT-5 | Molmo2-VP F1 | 4.1 |" in text


def test_counts_are_scored_by_our_rule_and_the_evaluators(grounder, knows, tmp_path, monkeypatch):
    records = read_dataset("count_video_nano", **SMALL | {"clips": 2})
    knows(records, "count")
    table = whole_videos.evaluate(grounder, records, tmp_path / "right")
    assert mean_of(table, "count exact") == mean_of(table, "count close") == 1 and mean_of(table, "count error") == 0
    none = sum(not record.expressions[0].count for record in records)
    assert none and mean_of(table, "molmo2 exact") == 1 - none / len(records)  # it does not take "none" for a number
    monkeypatch.setattr(Molmo2Pointer, "_write", lambda *_: ("many", 0))
    table = whole_videos.evaluate(grounder, records, tmp_path / "wrong")
    assert mean_of(table, "count invalid") == 1 and mean_of(table, "count exact") == 0
    rows = table[(table["clip"] == "(all)") & (table["metric"] == "count error") & (table["kind"] == "(all)")]
    assert rows["low"].iloc[0] < rows["value"].iloc[0] < rows["high"].iloc[0]


def test_tracks_become_masks_and_are_scored_as_points_too(grounder, knows, tmp_path):
    records = read_dataset("track_video_nano", **SMALL | {"seconds": 3.0})[:1]
    knows(records, "track")
    table = whole_videos.evaluate(grounder, records, tmp_path)
    assert mean_of(table, "HOTA") == mean_of(table, "track f1") == 1 and mean_of(table, "J&F") > 0.6
    assert "MeViS valid J&F | 56.2 | quoted" in whole_videos.comparison("track_video_nano", table)


def test_a_question_that_is_refused_counts_nothing_and_is_listed(grounder, tmp_path, monkeypatch):
    def refuse(*_):
        raise BadInput("no room")

    monkeypatch.setattr(Molmo2Pointer, "_write", refuse)
    records = read_dataset("point_video_nano", **SMALL)[:2]
    table = whole_videos.evaluate(grounder, records, tmp_path)
    told = json.loads((tmp_path / "missing.json").read_text())
    assert mean_of(table, "point f1") == 0 and told["count"] == 2 and {*told["reasons"].values()} == {"no room"}


def test_the_command_prints_means_with_intervals_beside_quoted_figures(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Molmo2Pointer, "_write", lambda *_: ("There are none.", 0))
    command = ["evaluate", "--benchmark", "count_video_nano", "--limit", "3", "--out", str(tmp_path / "out"),
               "--model", str(folder), "--compare"]  # fmt: skip
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "low" in text and "count exact" in text and "Gemini 3 Pro | Molmo2-VC exact | 37.1 | quoted" in text
    command = [*command[:-3], "--model", "nano"]
    assert main(command) == 2 and "about whole videos; give a Molmo 2" in capsys.readouterr().err
