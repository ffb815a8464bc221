"""Molmo 2 as a baseline: what it is shown, what is read of its answers, and a tiny one from its folder to masks."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import seen_throughout
from safetensors.torch import load_file, save_file

from videomolmo.baselines import load_grounder
from videomolmo.baselines.molmo2 import as_tracking, by_time, check_times, inputs_of
from videomolmo.cli import main
from videomolmo.errors import BadInput
from videomolmo.points import TrackPoint, read_points, write_tracks
from videomolmo.results import GroundingResult
from videomolmo.video import open_video

pytest.importorskip("transformers.models.molmo2", reason="this transformers has no Molmo 2")
from tiny_molmo2 import processor_of, taught

EVERY, FPS = 5, 10.0
TIMES = np.array([0.0, 0.5, 1.0])


def read(text: str):
    return read_points(text, height=100, width=200)


def test_a_phrase_is_asked_for_as_tracks_and_a_request_stays():
    assert as_tracking("Point to the red circle.", 29.97 / 5) == "Track the red circle at 5.99 FPS."
    assert as_tracking("Where is the cat?", 2.0) == "Where is the cat?"


def test_the_prompt_shows_the_true_times_also_of_frames_that_come_unevenly():
    processor = processor_of(["a"])
    frames = np.zeros((3, 40, 60, 3), np.uint8)
    inputs = inputs_of(processor, frames, np.array([0.0, 0.3, 1.7]), "<|video|>a")
    text = processor.tokenizer.decode(inputs["input_ids"][0])
    shown = [text.split("<frame_start>")[n].split()[-1].split(">")[-1] for n in range(3)]
    assert shown == ["0.0", "0.3", "1.7"]
    assert inputs["pixel_values_videos"].shape == (3, 36, 588) and inputs["mm_token_type_ids"].any()


def test_points_go_to_the_nearest_frame_in_the_order_of_their_ids():
    text = '<tracks coords="0.0 2 500 500 1 100 100;0.4 1 110 110">dog</tracks>'
    first, second, third = by_time(read(text), TIMES)
    assert (first.outcome, first.ids.tolist()) == ("found", [1, 2])
    assert first.points_px.tolist() == [[20.0, 10.0], [100.0, 50.0]] and first.label == "dog"
    assert second.points_px.tolist() == [[22.0, 11.0]]
    assert (third.outcome, third.text) == ("absent", text) and not len(third.points_px)


@pytest.mark.parametrize("text, outcome", [("There are none.", "absent"), ('<tracks coords="0.0 1 5', "malformed")])
def test_what_is_no_list_counts_for_all_frames(text, outcome):
    assert [one.outcome for one in by_time(read(text), TIMES)] == [outcome] * 3


def test_a_time_at_which_nothing_was_shown_is_no_absence():
    one, *_, last = by_time(read('<points coords="0.0 1 100 100;9.0 2 100 100">dog</points>'), TIMES)
    assert one.outcome == "found"
    assert last.outcome == "malformed" and "9 s, where no frame was shown" in last.problem


def test_points_without_times_tell_of_one_frame_only():
    text = '<point x="50.0" y="50.0" alt="dog">dog</point>'
    assert [one.outcome for one in by_time(read(text), TIMES[:1])] == ["found"]
    assert {one.outcome for one in by_time(read(text), TIMES)} == {"malformed"}


def test_key_frames_too_near_each_other_are_refused():
    check_times(np.arange(10) / 10, every=1)
    with pytest.raises(BadInput, match=r"every is 1: .* use every=4 or more"):
        check_times(np.arange(10) / 30, every=1)


@pytest.fixture(scope="module")
def lesson(clip):
    """What the tiny model is taught of the clip: where an object is, and that there is no other."""
    thing = seen_throughout(clip)[0]
    keys = list(range(0, len(clip.frames), EVERY))
    height, width = clip.frames.shape[1:3]
    points = [clip.things[at][thing].point for at in keys]
    rows = [[TrackPoint(1, x * width, y * height)] for x, y in points]
    times = np.array(keys) / FPS
    tracks = write_tracks(times.tolist(), rows, "thing", height, width)
    return (
        clip,
        keys,
        points,
        [
            (clip.frames[keys], times, "Track the thing at 2 FPS.", tracks),
            (clip.frames[keys], times, "Track the cat at 2 FPS.", "There are none."),
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
    monkeypatch.setattr("videomolmo.baselines.molmo2.MOST_FRAMES", 2)
    grounder = load_grounder(str(folder), device="cpu")
    asked = []
    monkeypatch.setattr(
        "videomolmo.baselines.molmo2.Molmo2Pointer._write",
        lambda self, frames, times, request: asked.append((len(frames), times.tolist())) or "There are none.",
    )
    result = grounder(open_video(clip.frames, fps=FPS), "the thing", every=EVERY)
    assert asked == [(2, [0.0, 0.5]), (1, [0.0])] and result.key_frames == keys


def test_what_molmo_2_does_not_have_is_refused(folder, lesson, capsys, tmp_path):
    with pytest.raises(BadInput, match="quantize: not for Molmo 2"):
        load_grounder(str(folder), quantize="4bit")
    grounder = load_grounder(str(folder), device="cpu", quantize=None, device_map=None)
    with pytest.raises(BadInput, match="context is 4, but Molmo 2 sees all key frames at once"):
        grounder(lesson[0].frames, "the thing", every=EVERY, context=4)
    arguments = ["ground", "--model", str(folder), "--context", "2", "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "context is 2" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_weights_that_do_not_fit_are_never_loaded_silently(folder, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in folder.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    weights = load_file(broken / "model.safetensors")
    lost = next(name for name in weights if "q_proj" in name or "att_proj" in name or "attn" in name)
    save_file({name: value for name, value in weights.items() if name != lost}, broken / "model.safetensors")
    with pytest.raises(BadInput, match="weights are missing or do not fit"):
        load_grounder(str(broken), device="cpu")
    config = json.loads((broken / "config.json").read_text())
    config["text_config"]["hidden_size"] = "wide"
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match="no Molmo 2 that can be loaded"):
        load_grounder(str(broken), device="cpu")
