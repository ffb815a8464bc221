"""The command line: one line for every bad input and nothing written, and all files for a good one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from functools import partialmethod
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from videomolmo.cli import main
from videomolmo.errors import BadInput
from videomolmo.grounding import rounded
from videomolmo.io.video import VideoWriter, open_video
from videomolmo.model import VideoMolmoForConditionalGeneration
from videomolmo.points import read_points
from videomolmo.results import GroundingResult
from videomolmo.synth.clips import Clip

NAMES = {"answers.jsonl", "tracks.csv", "overlay.mp4", "run.json", "masks", "propagation"}


@pytest.fixture(autouse=True)
def few_words(monkeypatch):
    """Models with random weights would go on writing for long."""
    short = partialmethod(VideoMolmoForConditionalGeneration.generate, max_new_tokens=6)
    monkeypatch.setattr(VideoMolmoForConditionalGeneration, "generate", short)


@pytest.fixture(scope="module")
def movie(clip: Clip, tmp_path_factory) -> Path:
    """The generated clip as a video file."""
    path = tmp_path_factory.mktemp("movie") / "clip.mp4"
    with VideoWriter(path, 10, *clip.frames.shape[1:3]) as writer:
        for frame in clip.frames:
            writer.write(frame)
    return path


@pytest.fixture
def ground(tiny_folder, tmp_path, monkeypatch, capsys):
    """`ground(video, sentence, …)` runs the command with random weights; gives exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, model: object = None, masks: object = None) -> tuple[int, str, str]:
        own = [
            "--model",
            model or tiny_folder / "pointing",
            "--masks",
            masks or tiny_folder / "masks",
            "--device",
            "cpu",
        ]
        code = main(["ground", *map(str, (*arguments, *own))])
        return code, *capsys.readouterr()

    return run


def assert_refused(outcome: tuple[int, str, str], named: str, out: Path) -> None:
    code, _, errors = outcome
    assert code == 2
    assert errors.startswith("videomolmo: ") and errors.count("\n") == 1 and errors.endswith("\n"), errors
    assert named in errors
    assert not out.exists()


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# Videos that are none


def bad_video(kind: str, folder: Path) -> Path:
    path = folder / "bad.mp4"
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("This is no video.\n" * 50)
    elif kind == "cut before its index":
        with av.open(str(path), "w") as container:  # the index comes last
            stream = container.add_stream("libx264", rate=10)
            stream.width = stream.height = 64
            stream.pix_fmt = "yuv420p"
            for number in range(20):
                picture = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
            container.mux(stream.encode(None))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "sound only":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=44100, layout="mono")
            for number in range(20):
                sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                sound.sample_rate, sound.pts = 44100, 1024 * number
                container.mux(stream.encode(sound))
            container.mux(stream.encode(None))
    elif kind != "missing":
        path = folder / "pictures"
        path.mkdir()
        sizes = {"folder without pictures": [], "folder of two sizes": [(20, 20), (20, 24)]}[kind]
        (path / "notes.txt").write_text("none here")
        for number, size in enumerate(sizes):
            Image.new("RGB", size).save(path / f"{number}.png")
    return path


@pytest.mark.parametrize(
    "kind",
    [
        "missing",
        "empty",
        "text",
        "cut before its index",
        "sound only",
        "folder without pictures",
        "folder of two sizes",
    ],
)
def test_what_is_no_video_is_refused(ground, tmp_path, kind):
    path = bad_video(kind, tmp_path)
    assert_refused(ground(path, "the red circle", "--out", tmp_path / "out"), str(path), tmp_path / "out")


# Arguments


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["", "--every", "5"], "sentence"),
        ([" \t "], "sentence"),
        ([], "sentence"),
        (["the cat", "--every", "0"], "--every is 0"),
        (["the cat", "--every", "-3"], "--every is -3"),
        (["the cat", "--max-frames", "0"], "--max-frames is 0"),
        (["the cat", "--context", "0"], "--context is 0"),
        (["the cat", "--tau", "1.5"], "1.5"),
        (["the cat", "--tau", "-0.1"], "-0.1"),
        (["the cat", "--tau", "nan"], "nan"),
        (["the cat", "--fusion", "average"], "'average'"),
        (["the cat", "--reader", "imageio"], "'imageio'"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(ground, movie, tmp_path, arguments, named):
    assert_refused(ground(movie, *arguments, "--out", tmp_path / "out"), named, tmp_path / "out")


@pytest.mark.parametrize("argument", [("--every", "2.5"), ("--tau", "much"), ("--no-such-option", "1")])
def test_arguments_that_cannot_be_read_are_refused(movie, tmp_path, capsys, argument):
    with pytest.raises(SystemExit) as refused:
        main(["ground", str(movie), "the cat", "--out", str(tmp_path / "out"), *argument])
    assert refused.value.code == 2 and argument[0] in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_unknown_device_is_refused(movie, tmp_path, capsys):
    code = main(["ground", str(movie), "the cat", "--out", str(tmp_path / "out"), "--device", "tpu"])
    assert_refused((code, *capsys.readouterr()), "'tpu'", tmp_path / "out")


# Weights


def spoilt(kind: str, source: Path, target: Path) -> tuple[Path, str]:
    """A copy of a weights folder with one thing wrong, and what the message must name."""
    shutil.copytree(source, target)
    weights, named = target / "model.safetensors", "model.safetensors"
    state = load_file(weights)
    first = sorted(state)[0]
    if kind == "wrong shape":
        save_file(state | {first: torch.zeros(3, 1, 2)}, weights)
        named = first
    elif kind == "one missing":
        save_file({name: value for name, value in state.items() if name != first}, weights)
        named = first
    elif kind == "one too many":
        save_file(state | {"extra.weight": torch.zeros(2)}, weights)
        named = "extra.weight"
    elif kind == "cut off":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif kind == "text":
        weights.write_text("no weights")
    elif kind == "no weights":
        weights.unlink()
    else:
        config = next(path for path in (target / "config.json", target / "config.yaml") if path.exists())
        named = config.name
        if kind == "no configuration":
            config.unlink()
        elif kind == "configuration that is none":
            config.write_text("{ nothing: [")
        elif kind == "configuration out of range":
            text = config.read_text()
            config.write_text(text.replace('"context": 4', '"context": 0'))
            named = "context"
        elif kind == "configuration that runs code":
            config.write_text(f"_target_: os.mkdir\npath: {target / 'made'}\n")
        elif kind == "configuration that runs code by way of SAM 2":
            text = config.read_text()
            seed = "  more:\n    _target_: sam2.modeling.sam2_base.torch.manual_seed\n    seed: 4242\n"
            config.write_text(text.replace("image_encoder:\n", f"image_encoder:\n{seed}", 1))
        else:
            assert kind == "no tokenizer"
            named = "tokenizer"
            for path in target.glob("tokenizer*"):
                path.unlink()
    return target, named


KINDS = ["wrong shape", "one missing", "one too many", "cut off", "text", "no weights", "no configuration",
         "configuration that is none"]  # fmt: skip


@pytest.mark.parametrize("kind", [*KINDS, "configuration out of range", "no tokenizer"])
def test_pointing_weights_that_do_not_fit_are_refused(ground, movie, tiny_folder, tmp_path, kind):
    folder, named = spoilt(kind, tiny_folder / "pointing", tmp_path / "weights")
    assert_refused(ground(movie, "the cat", "--out", tmp_path / "out", model=folder), named, tmp_path / "out")


@pytest.mark.parametrize(
    "kind", [*KINDS, "configuration that runs code", "configuration that runs code by way of SAM 2"]
)
def test_mask_weights_that_do_not_fit_are_refused(ground, movie, tiny_folder, tmp_path, kind):
    folder, named = spoilt(kind, tiny_folder / "masks", tmp_path / "weights")
    torch.manual_seed(1)
    assert_refused(ground(movie, "the cat", "--out", tmp_path / "out", masks=folder), named, tmp_path / "out")
    assert not (folder / "made").exists() and torch.initial_seed() == 1


@pytest.mark.parametrize("option", ["model", "masks"])
def test_unknown_models_are_refused(ground, movie, tmp_path, option):
    outcome = ground(movie, "the cat", "--out", tmp_path / "out", **{option: "molmo-72b"})
    assert_refused(outcome, f"--{option} 'molmo-72b'", tmp_path / "out")


# The folder for the results


def test_a_folder_with_something_in_it_is_left_alone(ground, movie, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "diary.txt").write_text("mine")
    code, _, errors = ground(movie, "the cat", "--out", tmp_path / "out")
    assert code == 2 and errors.count("\n") == 1 and "--overwrite" in errors and str(tmp_path / "out") in errors
    assert tree(tmp_path / "out") == {"diary.txt": b"mine"}


def test_a_file_in_place_of_the_folder_is_left_alone(ground, movie, tmp_path):
    (tmp_path / "out").write_text("mine")
    code, _, errors = ground(movie, "the cat", "--out", tmp_path / "out", "--overwrite")
    assert code == 2 and errors.count("\n") == 1 and "is a file" in errors
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="this user may write everywhere")
def test_a_folder_that_may_not_be_written_is_refused(ground, movie, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert_refused(ground(movie, "the cat", "--out", locked / "out"), "choose another folder", locked / "out")


def test_names_too_long_for_the_disk_are_one_line(ground, movie, tmp_path):
    for arguments in (("x" * 300, "the cat", "--out", tmp_path / "out"), (movie, "the cat", "--out", "y" * 300)):
        assert_refused(ground(*arguments), "too long", tmp_path / "out")


def test_a_reader_that_went_away_is_no_bad_input():
    command = f"{sys.executable} -m videomolmo.cli data list; echo $? >&2"
    gone = subprocess.run(f"({command}) | true", shell=True, capture_output=True, text=True, timeout=300)
    assert gone.stderr.split() in (["141"], ["0"])  # 0 where it was quicker than the reader


def test_an_output_that_knows_no_such_letter_stops_nothing():
    command = [sys.executable, "-m", "videomolmo.cli", "ground", "nowhere.mp4", "红 ×"]
    made = subprocess.run(command, env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True, timeout=300)
    assert made.returncode == 2 and b"nowhere.mp4" in made.stderr and b"Traceback" not in made.stderr


def test_work_is_saved_beside_a_folder_that_came_into_use_meanwhile(ground, movie, tmp_path, monkeypatch):
    from videomolmo.grounding import VideoGrounder

    work = VideoGrounder.__call__

    def meanwhile(*arguments: object, **options: object) -> object:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "notes.txt").write_text("mine")
        return work(*arguments, **options)

    monkeypatch.setattr(VideoGrounder, "__call__", meanwhile)
    code, printed, errors = ground(movie, "the cat", "--out", tmp_path / "out")
    assert code == 0 and "is not empty" in errors and str(tmp_path / "out.1") in printed
    assert tree(tmp_path / "out") == {"notes.txt": b"mine"} and (tmp_path / "out.1" / "run.json").is_file()


def test_without_a_folder_each_run_gets_its_own(ground, movie):
    for folder in ("results/ground", "results/ground.1"):
        code, printed, _ = ground(movie, "the cat")
        assert code == 0 and f"written to {folder}:" in printed and Path(folder, "run.json").is_file()


def test_results_do_not_replace_their_video(ground, movie, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    shutil.copyfile(movie, out / "overlay.mp4")
    before = tree(out)
    code, _, errors = ground(out / "overlay.mp4", "the cat", "--out", out, "--overwrite")
    assert code == 2 and "would be replaced by results" in errors and errors.count("\n") == 1
    assert tree(out) == before


def test_a_sentence_longer_than_the_model_reads_is_refused(ground, movie, tmp_path):
    outcome = ground(movie, "the red circle " * 1000, "--out", tmp_path / "out")
    assert_refused(outcome, "tokens, and this model reads at most 1024", tmp_path / "out")


def test_an_open_video_was_told_before_what_to_read(tiny_grounder, clip):
    for told in ({"max_frames": 2}, {"reader": "decord"}):
        with pytest.raises(BadInput, match="is open already; give them to open_video"):
            tiny_grounder(open_video(clip.frames), "the cat", **told)


@pytest.mark.parametrize("asked", ["many", 2.5, 0])
def test_a_number_of_frames_that_is_none_is_told(tiny_grounder, clip, asked):
    with pytest.raises(BadInput, match=f"max_frames={asked!r}: expected a whole number"):
        tiny_grounder(clip.frames, "the cat", max_frames=asked)


def test_points_at_the_far_border_stay_inside():
    answer = read_points('<points x1="99.9999" y1="50" x2="120" y2="99.9999" alt="a">a</points>', 360, 640)
    assert answer.inside.tolist() == [True, False]
    assert rounded(answer.points_px, [True, False], 640, 360) == [(639.99, 180.0), (768.0, 360.0)]


def test_earlier_results_outlive_a_refused_run(ground, movie, truthful, clip, tmp_path):
    """Whatever is refused, `--overwrite` has not yet thrown anything away."""
    out = tmp_path / "out"
    truthful(clip)
    assert ground(movie, "the things", "--out", out)[0] == 0
    before = tree(out)
    for video, sentence, options in (
        (tmp_path / "none.mp4", "the cat", ()), (movie, "", ()), (movie, "the cat", ("--tau", "2")),
        (bad_video("cut before its index", tmp_path), "the cat", ()),
    ):  # fmt: skip
        assert ground(video, sentence, "--out", out, "--overwrite", *options)[0] == 2
        assert tree(out) == before


def test_earlier_results_outlive_a_run_that_fails_while_pointing(ground, movie, truthful, clip, tmp_path, monkeypatch):
    out = tmp_path / "out"
    truthful(clip)
    assert ground(movie, "the things", "--out", out)[0] == 0
    before = tree(out)

    def fails(*_: object) -> None:
        raise BadInput("clip.mp4: no frame could be decoded")

    monkeypatch.setattr("conftest.TruthfulPointer.answers", fails)
    assert ground(movie, "the things", "--out", out, "--overwrite")[0] == 2
    assert tree(out) == before


# Good runs


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_run_writes_everything(ground, movie, truthful, clip, tiny_folder, tmp_path):
    truthful(clip)
    out = tmp_path / "new" / "out"
    options = ("--every", 5, "--fusion", "nearest", "--tau", 0.4, "--context", 2)
    code, output, errors = ground(movie, "the things", "--out", out, *options)
    assert code == 0 and "Traceback" not in errors
    assert "clip.mp4: 12 frames, 80×64, 10 fps" in output and f"written to {out}" in output
    assert "12 frames · 3 key frames: 3 found" in output
    assert {path.name for path in out.iterdir()} == NAMES
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert run["sentence"] == "the things" and run["video"] == str(movie) and run["warning"] is None
    assert (run["frames"], run["height"], run["width"], run["fps"]) == (12, 64, 80, 10)
    assert run["objects"] >= 2 and len(run["times_s"]) == 12
    wanted = {
        "every": 5,
        "fusion": "nearest",
        "tau": 0.4,
        "context": 2,
        "question": "Point to the things.",
        "reader": "pyav",
    }
    assert run["model"].items() >= wanted.items() and run["model"]["pointing"]["temporal"] == "cross_attention"
    assert run["loaded"]["dtype"] == "float32" and run["loaded"]["quantize"] is None
    assert {run["loaded"]["model"], run["loaded"]["masks"]} == {
        str(tiny_folder / part) for part in ("pointing", "masks")
    }
    weights = run["weights_sha256"]
    for part in ("pointing", "masks"):
        own = [value for name, value in weights.items() if name.startswith(part)]
        assert own == [sha256(tiny_folder / part / "model.safetensors")]
    assert {"python", "torch", "transformers", "sam2", "numpy"} <= set(run["versions"]) and "commit" in run
    assert set(run["seconds"]) == {"io", "vision", "text", "masks", "saving"} and "seed" in run
    answers = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    assert [answer["frame"] for answer in answers] == [0, 5, 10] and {answer["outcome"] for answer in answers} == {
        "found"
    }
    assert len(list((out / "masks").iterdir())) == 12 and len(list((out / "propagation").iterdir())) == 3
    assert set(pd.read_csv(out / "tracks.csv").frame) <= set(range(12))
    with open_video(out / "overlay.mp4") as overlay:
        assert len(overlay) == 12


def test_the_points_of_the_truth_reach_the_result(truthful, clip, movie):
    """Points on key frames are those of the clip, and each object's mask is where SAM 2 was asked."""
    result = truthful(clip, silent={5})(str(movie), "the things", every=5)
    assert [answer.outcome for answer in result.answers] == ["found", "absent", "found"]
    for answer in (result.answers[0], result.answers[2]):
        for x, y in answer.points_px:
            assert clip.masks[answer.frame, :, int(y), int(x)].any()
    assert result.objects >= 2 and not result.masks[5].any()
    assert np.isnan(result.agreement[11]).all()
    assert (
        result.spool.known("backward", 7, result.objects).any()
        and not result.spool.known("forward", 7, result.objects).any()
    )


def test_the_same_run_twice_gives_the_same_files(ground, movie, truthful, clip, tmp_path):
    truthful(clip)
    for name in ("one", "two"):
        assert ground(movie, "the things", "--out", tmp_path / name, "--every", 4)[0] == 0
    one, two = tree(tmp_path / "one"), tree(tmp_path / "two")
    assert one.keys() == two.keys()
    assert {name for name in one if one[name] != two[name]} <= {"run.json", "overlay.mp4"}  # they hold times
    with open_video(tmp_path / "one" / "overlay.mp4") as first, open_video(tmp_path / "two" / "overlay.mp4") as second:
        assert np.array_equal(np.stack(list(first)), np.stack(list(second)))


def test_a_random_model_runs_without_a_fake(ground, movie, tmp_path):
    """Random weights write nonsense; that is an answer too, kept as it is."""
    code, output, _ = ground(movie, "the red circle", "--out", tmp_path / "out", "--max-frames", 7, "--every", 3)
    assert code == 0 and "7 frames · 3 key frames" in output
    result = GroundingResult.load(tmp_path / "out")
    assert len(result.answers) == 3 and all(a.outcome in ("found", "absent", "malformed") for a in result.answers)
    assert all(answer.problem for answer in result.answers if answer.outcome == "malformed")


def test_a_profile_tells_every_stage_and_when_it_ran(ground, movie, tmp_path, monkeypatch):
    told = read_points('<point x="40" y="60" alt="a thing">a thing</point>', 64, 80)
    monkeypatch.setattr("videomolmo.pointing.read_points", lambda *_: told)
    out, trace = tmp_path / "out", tmp_path / "trace.json"
    code, output, _ = ground(movie, "the things", "--out", out, "--every", 4, "--profile", trace)
    assert code == 0 and f"trace written to {trace}" in output
    run, events = json.loads((out / "run.json").read_text()), json.loads(trace.read_text())["traceEvents"]
    stages = {"io/decoding", "io/masks to disk", "vision/preprocessing", "vision/tower", "text/prompt", "saving",
              "text/tokens written", "vision/temporal module, connector", "masks/preprocessing", "masks/encoder",
              "masks/memory attention", "masks/decoder", "masks/memory encoder", "masks/fusion"}  # fmt: skip
    assert stages <= run["stages"].keys() and min(run["stages"][name] for name in stages) > 0
    for part, seconds in run["seconds"].items():
        own = [value for name, value in run["stages"].items() if name.partition("/")[0] == part]
        assert sum(own) == pytest.approx(seconds, abs=0.05)  # as much as it takes to write run.json
    assert stages <= {event["name"] for event in events}
    for stage in stages:
        assert any(line.startswith(stage) for line in output.splitlines())
    before, two = trace.read_bytes(), tmp_path / "two"
    assert_refused(ground(movie, "the things", "--out", two, "--profile", trace), "exists", two)
    many = ground(movie, "the things", "--sentence", "a thing", "--out", two, "--profile", tmp_path / "new")
    assert_refused(many, "--profile goes with one video", two)
    assert trace.read_bytes() == before


def test_folders_of_pictures_run_too(ground, truthful, clip, tmp_path):
    truthful(clip)
    (tmp_path / "pictures").mkdir()
    for number, frame in enumerate(clip.frames):
        Image.fromarray(frame).save(tmp_path / "pictures" / f"frame{number}.png")
    code, output, _ = ground(tmp_path / "pictures", "the things", "--out", tmp_path / "out", "--max-frames", 3)
    assert code == 0 and "pictures: 3 frames" in output


def test_overwrite_replaces_results(ground, movie, truthful, clip, tmp_path):
    truthful(clip)
    out = tmp_path / "out"
    assert ground(movie, "the things", "--out", out)[0] == 0
    (out / "diary.txt").write_text("mine")
    assert ground(movie, "a thing", "--out", out, "--overwrite", "--max-frames", 6)[0] == 0
    assert len(list((out / "masks").iterdir())) == 6 and (out / "diary.txt").read_text() == "mine"
    assert json.loads((out / "run.json").read_text())["sentence"] == "a thing"


@pytest.mark.parametrize("index_first", [True, False], ids=["cut off", "damaged in the middle"])
def test_a_video_that_breaks_gives_what_was_decoded(ground, truthful, clip, tmp_path, index_first):
    path = tmp_path / "broken.mp4"
    with VideoWriter(path, 10, *clip.frames.shape[1:3]) as writer:
        for frame in np.concatenate([clip.frames] * 3):
            writer.write(frame)
    data = path.read_bytes()
    half = data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 2
    path.write_bytes(data[:half] if index_first else data[:half] + bytes(len(data) - half))
    truthful(replace_times(clip, 3))
    code, output, errors = ground(path, "the things", "--out", tmp_path / "out")
    assert code == 0, errors
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert 0 < run["frames"] < 36 and len(run["times_s"]) == run["frames"]
    assert run["warning"].startswith(f"decoded {run['frames']} of ") and f"warning: {run['warning']}" in output
    assert len(list((tmp_path / "out" / "masks").iterdir())) == run["frames"]
    with open_video(tmp_path / "out" / "overlay.mp4") as overlay:
        assert len(overlay) == run["frames"]
    assert GroundingResult.load(tmp_path / "out").warning == run["warning"]


def replace_times(clip: Clip, times: int) -> Clip:
    """The clip, `times` times one after the other."""
    return Clip(
        clip.scene,
        np.concatenate([clip.frames] * times),
        np.concatenate([clip.masks] * times),
        clip.object_facts * times,
    )


def test_without_arguments_the_sample_clip_is_meant(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("videomolmo.weights.hub.sample_clip", lambda: tmp_path / "sample.mp4")
    code = main(["ground", "--out", str(tmp_path / "out")])
    assert code == 2 and f"{tmp_path / 'sample.mp4'}: no such file" in capsys.readouterr().err


def test_training_refuses_what_makes_no_sense(capsys, tmp_path):
    for arguments, named in (
        (["--share", "0"], "share is 0"), (["--share", "2"], "share is 2"), (["--temporal", "magic"], "'magic'"),
    ):  # fmt: skip
        assert main(["train-nano", "--out", str(tmp_path / "runs"), *arguments]) == 2
        errors = capsys.readouterr().err
        assert named in errors and errors.count("\n") == 1 and not (tmp_path / "runs").exists()


def test_a_keyboard_interrupt_is_one_line(ground, movie, tmp_path, monkeypatch):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("videomolmo.grounding.VideoGrounder.from_pretrained", interrupt)
    assert ground(movie, "the cat", "--out", tmp_path / "out") == (
        130,
        "clip.mp4: 12 frames, 80×64, 10 fps\n",
        "videomolmo: interrupted\n",
    )
