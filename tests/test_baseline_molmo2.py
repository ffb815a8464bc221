"""Molmo 2 as a baseline: what it is shown, what is read of its answers, and a tiny one from its folder to masks."""

from __future__ import annotations

import json

import miniature_datasets as mini
import numpy as np
import pytest
import torch
from conftest import seen_throughout
from safetensors.torch import load_file, save_file

from videomolmo.cli import main
from videomolmo.errors import BadInput
from videomolmo.io.video import open_video
from videomolmo.points import TrackPoint, read_points
from videomolmo.protocols import as_question
from videomolmo.results import GroundingResult
from videomolmo.systems import load_grounder
from videomolmo.systems.molmo2 import PROMPT, as_tracking, by_time, check_times, inputs_of, shown, shrunk
from videomolmo.systems.molmo2_formats import write_tracks

pytest.importorskip("transformers.models.molmo2", reason="this transformers has no Molmo 2")
from tiny_molmo2 import processor_of, taught

EVERY, FPS = 5, 10.0
TIMES = np.array([0.0, 0.5, 1.0])


def read(text: str):
    return read_points(text, height=100, width=200)


@pytest.mark.parametrize(
    "request_", ["the red circle", "Point to the red circle", "track the red circle.", "Find me the red circle!"]
)
def test_all_requests_for_a_thing_become_one_for_its_tracks(request_):
    assert as_tracking(as_question(request_), 29.97 / 5) == "Track the red circle at 5.99 FPS"


def test_a_question_stays():
    assert as_tracking(as_question("Which dog barks?"), 2.0) == "Which dog barks?"


def test_the_prompt_is_the_published_one():
    wanted = "<|video|><|im_start|>user\nTrack the dog at 2 FPS<|im_end|>\n<|im_start|>assistant\n"
    assert PROMPT.format("Track the dog at 2 FPS") == wanted


@pytest.mark.parametrize("fps, every", [(10, 5), (60000 / 1001, 9), (30000 / 1001, 4), (48, 7), (25, 5)])
def test_the_prompt_shows_the_times_that_answers_are_read_by(fps, every):
    processor = processor_of(["a"])
    times = np.arange(9) * every / fps
    inputs = inputs_of(processor, np.zeros((9, 40, 60, 3), np.uint8), times, "<|video|>a")
    text = processor.tokenizer.decode(inputs["input_ids"][0])
    assert [part.split()[-1].split(">")[-1] for part in text.split("<frame_start>")[:-1]] == shown(times)


def test_the_model_sees_what_its_processor_would_make_of_the_frames():
    processor, frames = processor_of(["a"]), np.random.default_rng(0).integers(0, 255, (3, 40, 130, 3), np.uint8)
    whole = inputs_of(processor, frames, TIMES, "<|video|>a")
    small = inputs_of(processor, np.stack([shrunk(processor, frame) for frame in frames]), TIMES, "<|video|>a")
    assert whole.keys() == small.keys() and all(torch.equal(whole[name], small[name]) for name in whole)
    pixels = whole["pixel_values_videos"]
    assert (
        pixels.shape == (3, 36, 588) and pixels.dtype == torch.float32 and -1 <= pixels.min() < -0.5 < pixels.max() <= 1
    )
    assert whole["mm_token_type_ids"].any()


def test_points_go_to_the_nearest_frame_in_the_order_of_their_ids():
    text = '<tracks coords="0.0 2 500 500 1 100 100;0.3 1 110 110">dog</tracks>'
    first, second, third = by_time(read(text), TIMES)
    assert (first.outcome, first.ids.tolist()) == ("found", [1, 2])
    assert first.points_px.tolist() == [[20.0, 10.0], [100.0, 50.0]] and first.label == "dog"
    assert second.points_px.tolist() == [[22.0, 11.0]]
    assert (third.outcome, third.text) == ("absent", text) and not len(third.points_px)


def test_of_one_object_twice_in_a_frame_the_nearest_in_time_counts():
    text = '<tracks coords="0.0 1 100 100 1 300 300;0.4 1 200 200;0.5 1 900 900">dog</tracks>'
    first, second, _ = by_time(read(text), TIMES)
    assert first.points_px.tolist() == [[20.0, 10.0]] and second.points_px.tolist() == [[180.0, 90.0]]


@pytest.mark.parametrize("text, outcome", [("There are none.", "absent"), ('<tracks coords="0.0 1 5', "malformed")])
def test_what_is_no_list_counts_for_all_frames(text, outcome):
    assert [one.outcome for one in by_time(read(text), TIMES)] == [outcome] * 3


def test_a_time_at_which_nothing_was_shown_is_no_absence():
    one, *_, last = by_time(read('<points coords="0.0 1 100 100;9.0 2 100 100">dog</points>'), TIMES)
    assert one.outcome == "found"
    assert last.outcome == "malformed" and "9 s, where no frame was shown" in last.problem
    *_, kept = by_time(read('<points coords="1.0 1 100 100;9.0 2 100 100">dog</points>'), TIMES)
    assert kept.points_px.tolist() == [[20.0, 10.0]]  # what is right of it stays


@pytest.mark.parametrize(
    "text", ['<point x="50.0" y="50.0" alt="dog">dog</point>', '<points coords="1 1 500 500">dog</points>']
)
def test_of_one_frame_any_point_is(text):
    (one,) = by_time(read(text), TIMES[:1])
    assert one.points_px.tolist() == [[100.0, 50.0]]


def test_points_without_times_tell_nothing_of_several_frames():
    answers = by_time(read('<point x="50.0" y="50.0" alt="dog">dog</point>'), TIMES)
    assert {one.outcome for one in answers} == {"malformed"} and "3 frames were shown" in answers[0].problem


def test_key_frames_too_near_each_other_are_refused_with_what_would_do():
    check_times(np.arange(10) / 10, every=1, most=128)
    with pytest.raises(BadInput, match=r"every is 1, .*use every=3 here"):
        check_times(np.arange(90) / 30, every=1, most=128)
    check_times(np.arange(90) / 30, every=3, most=128)
    with pytest.raises(BadInput, match="use every=2 here"):
        check_times(np.array([0, 0.01, 0.5]), every=1, most=128)
    check_times(np.array([0, 0.01, 0.5, 0.51]), every=1, most=1)  # each of its own part


@pytest.fixture(scope="module")
def lesson(clip):
    """What the tiny model is taught of the clip: where an object is, and that there is no other."""
    thing = seen_throughout(clip)[0]
    keys = list(range(0, len(clip.frames), EVERY))
    height, width = clip.frames.shape[1:3]
    points = [clip.object_facts[at][thing].point for at in keys]
    rows = [[TrackPoint(1, x * width, y * height)] for x, y in points]
    times = np.array(keys) / FPS
    tracks = write_tracks(times.tolist(), rows, "thing", height, width)
    return (
        clip,
        keys,
        points,
        [
            (clip.frames[keys], times, "Track the thing at 2 FPS", tracks),
            (clip.frames[keys], times, "Track the cat at 2 FPS", "There are none."),
        ],
    )


@pytest.fixture(scope="module")
def folder(lesson, one_thread, tmp_path_factory):
    return taught(tmp_path_factory.mktemp("molmo2"), lesson[-1])


def test_a_folder_becomes_points_masks_and_a_saved_result(lesson, folder, tmp_path):
    clip, keys, points, lessons = lesson
    grounder = load_grounder(str(folder), masks="nano", device="cpu")
    written = []
    video = open_video(clip.frames, fps=FPS)
    result = grounder(video, "the thing", every=EVERY, on_text=lambda at, text: written.append((at, text)))
    assert written == [(at, lessons[0][3]) for at in keys]
    height, width = clip.frames.shape[1:3]
    assert [answer.outcome for answer in result.answers] == ["found"] * len(keys)
    for answer, (x, y) in zip(result.answers, points, strict=True):
        assert np.abs(np.array(answer.points_px) - [[x * width, y * height]]).max() < 0.2
    assert result.objects >= 1 and all(result.masks[at].any() for at in keys)
    assert any(name.startswith("pointing:") for name in result.config["weights_sha256"])
    kept = GroundingResult.load(result.save(tmp_path / "kept", overlay=False))
    assert kept.config["model"]["pointing"]["model_type"] == "molmo2"
    absent = grounder(video, "the cat", every=EVERY)
    assert {answer.outcome for answer in absent.answers} == {"absent"} and not absent.objects


def test_a_long_clip_is_asked_about_in_parts(lesson, folder, monkeypatch):
    clip, keys, _, _ = lesson
    monkeypatch.setattr("videomolmo.systems.molmo2.MOST_FRAMES", 2)
    grounder = load_grounder(str(folder), device="cpu")
    asked, written = [], iter(["0.5 1 500 500", "0.0 1 500 500 2 100 100"])

    def write(_, frames, times, __):
        asked.append((len(frames), times.tolist()))
        return f'<tracks coords="{next(written)}">thing</tracks>', 0

    monkeypatch.setattr("videomolmo.systems.molmo2.Molmo2Pointer._write", write)
    result = grounder(open_video(clip.frames, fps=FPS), "the thing", every=EVERY)
    assert asked == [(2, [0.0, 0.5]), (1, [0.0])] and result.key_frames == keys
    assert [len(answer.points_px) for answer in result.answers] == [0, 1, 2]
    assert result.answers[1].points_px == [(40.0, 32.0)]


def test_an_answer_that_is_cut_off_says_so(folder, lesson, monkeypatch):
    monkeypatch.setattr("videomolmo.systems.molmo2.TOKENS", 9)
    monkeypatch.setattr("videomolmo.systems.molmo2.TOKENS_PER_FRAME", 0)
    result = load_grounder(str(folder), device="cpu")(open_video(lesson[0].frames, fps=FPS), "the thing", every=EVERY)
    assert {answer.outcome for answer in result.answers} == {"malformed"}
    assert "longer than 9 tokens" in result.answers[0].problem


def test_half_precision_reads_and_writes(folder, lesson):
    grounder = load_grounder(str(folder), device="cpu", dtype="bfloat16")
    result = grounder(open_video(lesson[0].frames, fps=FPS), "the cat", every=EVERY)
    assert {answer.text for answer in result.answers} == {"There are none."}


def test_what_molmo_2_does_not_have_is_refused(folder, lesson, capsys, tmp_path):
    with pytest.raises(BadInput, match="quantize is '4bit', which is not for Molmo 2"):
        load_grounder(str(folder), quantize="4bit")
    with pytest.raises(BadInput, match="attention is 'bogus', expected one of sdpa"):
        load_grounder(str(folder), device="cpu", attention="bogus")
    grounder = load_grounder(str(folder), device="cpu", quantize=None, device_map=None)
    with pytest.raises(BadInput, match="context is 4, but Molmo 2 sees all key frames at once"):
        grounder(lesson[0].frames, "the thing", every=EVERY, context=4)
    with pytest.raises(BadInput, match=r"the sentence holds '<\|video\|>', a sign of the model's own"):
        grounder(open_video(lesson[0].frames, fps=FPS), "the <|video|> thing", every=EVERY)
    text = grounder.pointer.model.config.text_config
    most, text.max_position_embeddings = text.max_position_embeddings, 100
    with pytest.raises(
        BadInput, match=r"3 key frames and the sentence make .* tokens, and this model reads at most 100"
    ):
        grounder(open_video(lesson[0].frames, fps=FPS), "the thing", every=EVERY)
    text.max_position_embeddings = most
    arguments = ["ground", "--model", str(folder), "--context", "2", "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "context is 2" in capsys.readouterr().err and not (tmp_path / "out").exists()
    root = mini.mevis(tmp_path / "set")
    arguments = ["evaluate", "--benchmark", "mevis", "--path", str(root), "--out", str(tmp_path / "table")]
    assert main([*arguments, "--model", str(folder), "--context", "2"]) == 2
    assert "context is 2" in capsys.readouterr().err and not (tmp_path / "table").exists()


@pytest.fixture
def copied(folder, tmp_path):
    """The folder again, to be broken."""
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in folder.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    return broken


@pytest.mark.parametrize("change", ["less", "more", "wide"])
def test_weights_that_do_not_fit_are_never_loaded_silently(copied, change):
    weights, config = load_file(copied / "model.safetensors"), json.loads((copied / "config.json").read_text())
    layer = next(name for name in weights if name.startswith("model.transformer.blocks.1."))
    if change == "less":
        del weights[layer]
    elif change == "more":
        config["text_config"]["num_hidden_layers"] = 1
    else:
        config["text_config"]["hidden_size"] = "wide"
    save_file(weights, copied / "model.safetensors")
    (copied / "config.json").write_text(json.dumps(config))
    said = "no Molmo 2 that can be loaded" if change == "wide" else "weights are missing or do not fit"
    with pytest.raises(BadInput, match=said):
        load_grounder(str(copied), device="cpu")
