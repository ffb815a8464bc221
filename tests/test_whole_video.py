"""One answer about a whole video: number, times and places, from the command line too, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from videomolmo.cli import main
from videomolmo.datasets import read_dataset
from videomolmo.errors import BadInput
from videomolmo.evaluation.whole_videos import score_points
from videomolmo.io.sources import open_source
from videomolmo.io.video import open_video
from videomolmo.io.video_write import VideoWriter
from videomolmo.lab.event_lesson import text_of
from videomolmo.results import GroundingResult
from videomolmo.systems import load_grounder
from videomolmo.systems.molmo2 import Molmo2Pointer, whole_grid
from videomolmo.systems.whole_video import number_in, places_in, point_in_video, told
from videomolmo.weights.hub import sample_clip

pytest.importorskip("transformers.models.molmo2", reason="this transformers has no Molmo 2")
from tiny_molmo2 import untaught

TWO = 'Counting the <points coords="0.5 1 500 250;1.9 2 250 500">turn</points> shows a total of 2.'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return untaught(tmp_path_factory.mktemp("molmo2"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    frames = np.random.default_rng(0).integers(0, 255, (20, 48, 64, 3), np.uint8)
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with VideoWriter(path, 10, 48, 64) as writer:
        for frame in frames:
            writer.write(frame)
    return path


@pytest.fixture
def says(monkeypatch):
    """What the model writes, and what it was asked."""
    asked = []

    def say(text: str) -> list:
        def write(_, frames, times, request):
            asked.append((len(frames), times.round(3).tolist(), request))
            return text, 0

        monkeypatch.setattr(Molmo2Pointer, "_write", write)
        return asked

    return say


def test_two_frames_a_second_and_the_last_are_shown():
    assert whole_grid(np.arange(20) / 10, 128) == [0, 5, 10, 15, 19]
    assert whole_grid(np.arange(61) / 30, 128) == [0, 15, 30, 45, 60]
    assert whole_grid(np.arange(900) / 30, 4) == [0, 300, 599, 899]
    assert whole_grid(np.array([0.0]), 128) == [0] and whole_grid(np.array([0.0, 0.01]), 128) == [0]


def test_a_count_has_number_times_and_places_and_is_kept(folder, clip, says, tmp_path):
    asked = says(TWO)
    result = point_in_video(load_grounder(str(folder), device="cpu"), clip, "how often does it turn?", count=True)
    assert asked == [(5, [0.0, 0.5, 1.0, 1.5, 1.9], "how often does it turn?")]
    assert number_in(result) == 2
    assert [(one.time_s, one.frame, one.x_px, one.y_px) for one in places_in(result)] == [
        (0.5, 5, 32.0, 12.0), (1.9, 19, 16.0, 24.0)
    ]  # fmt: skip
    kept = GroundingResult.load(result.save(tmp_path / "kept"))
    assert (number_in(kept), places_in(kept), told(kept)) == (2, places_in(result), told(result))
    assert (tmp_path / "kept" / "overlay.mp4").is_file() and kept.masks[3].shape == (0, 48, 64)


def test_of_an_excerpt_the_result_knows_where_its_frames_are(folder, clip, says, tmp_path):
    says(TWO)
    result = point_in_video(load_grounder(str(folder), device="cpu"), open_source(clip, start=0.5), "the turns")
    kept = GroundingResult.load(result.save(tmp_path / "kept", overlay=False))
    assert kept.source_frames.tolist() == [*range(5, 20)]
    assert np.array_equal(kept.video()[0], open_video(clip)[5])


@pytest.mark.parametrize("text, number, said", [
    ("There are none.", 0, "“it”: 0"), ("7", 7, "“it”: 7 by its words, 0 by its points"),
    ('<points coords="0.0 1 500 500">x</points>', 1, "“it”: 1"), ("no idea", None, "could not be read"),
])  # fmt: skip
def test_other_answers_are_numbers_too(folder, clip, says, text, number, said):
    says(text)
    result = point_in_video(load_grounder(str(folder), device="cpu"), clip, "it")
    assert number_in(result) == number and said in told(result)


def test_the_commands_ask_and_save(folder, clip, says, tmp_path, capsys):
    asked = says(TWO)
    out = tmp_path / "out"
    assert main(["count", str(clip), "red circles", "--model", str(folder), "--out", str(out)]) == 0
    assert asked[0][2] == "How many red circles are there in the video?"
    text = capsys.readouterr().out
    assert "“red circles”: 2" in text and f"written to {out}" in text
    assert json.loads((out / "run.json").read_text())["whole_video"]["text"] == TWO
    assert main(["point", str(clip), "the cat", "--model", str(folder), "--out", str(out)]) == 2  # there is something
    assert main(["point", str(clip), "the cat", "--model", str(folder), "--out", str(out), "--overwrite"]) == 0
    assert asked[-1][2] == "Point to the cat."


def test_a_random_model_answers_something(folder, clip, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("videomolmo.systems.molmo2.TOKENS_PER_FRAME", 0)
    monkeypatch.setattr("videomolmo.systems.molmo2.TOKENS", 12)
    assert main(["point", str(clip), "the cat", "--model", str(folder), "--out", str(tmp_path / "out")]) == 0
    assert "“the cat”:" in capsys.readouterr().out
    assert len(GroundingResult.load(tmp_path / "out").answers) == 5


def test_the_shipped_model_points_at_what_clips_show_and_at_nothing_else(tmp_path, capsys):
    grounder, records = load_grounder("nano-molmo2"), read_dataset("point_video_nano", clips=12, only=("object",))
    asked = [(record, record.expressions[0]) for record in records]
    answers = []
    for record, expression in asked:
        video, _ = record.whole()
        with video:
            result = point_in_video(grounder, video, expression.text)
            answers.append({"answer": text_of(result), "duration_s": float(video.times_s[-1])})
    f1 = [score_points(*pair, kept)[-1].value for pair, kept in zip(asked, answers, strict=True)]
    assert np.mean(f1) > 0.55, f1
    assert main(["count", str(sample_clip()), "red circles", "--out", str(tmp_path / "out")]) == 0
    assert "“red circles”: " in capsys.readouterr().out


def test_a_small_room_shows_fewer_frames(folder, clip, says):
    asked = says(TWO)
    grounder = load_grounder(str(folder), device="cpu")
    grounder.pointer.model.config.text_config.max_position_embeddings = 128 + 60
    point_in_video(grounder, clip, "the cat")
    assert 1 <= asked[0][0] < 5


@pytest.mark.parametrize("arguments, said", [
    ([" ", "--model", "{folder}"], "the sentence is empty"),
    (["the cat", "--model", "nano"], "answers about one frame at a time, expected one that sees whole videos"),
    (["<|video|>", "--model", "{folder}"], "a sign of the model's own"),
])  # fmt: skip
@pytest.mark.parametrize("command", ["point", "count"])
def test_bad_input_is_one_line_and_writes_nothing(folder, clip, tmp_path, capsys, command, arguments, said):
    given = [one.format(folder=folder) for one in arguments]
    assert main([command, str(clip), *given, "--out", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert said in lines[-1] and not (tmp_path / "out").exists()


def test_a_missing_video_is_named(folder, tmp_path):
    grounder = load_grounder(str(folder), device="cpu")
    with pytest.raises(BadInput, match=r"none\.mp4"):
        point_in_video(grounder, tmp_path / "none.mp4", "the cat")
    with open_video(np.zeros((3, 8, 8, 3), np.uint8), fps=2.0) as frames, pytest.raises(BadInput, match="empty"):
        point_in_video(grounder, frames, " ")
