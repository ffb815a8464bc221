"""Systems that others add: those of videomolmo/systems/README.md as they stand there, and parts that break rules."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import videomolmo
from videomolmo import systems
from videomolmo.cli import main
from videomolmo.errors import BadInput
from videomolmo.fusion import fuse, iou
from videomolmo.grounding import VideoGrounder
from videomolmo.inspector.exports import export_labels
from videomolmo.inspector.ground_truth import open_truth
from videomolmo.inspector.inspection import Inspection
from videomolmo.io.video import open_video
from videomolmo.points import read_points
from videomolmo.protocols import Segmentation
from videomolmo.results import GroundingResult
from videomolmo.systems import SYSTEMS, load_grounder
from videomolmo.weights.hub import sample_clip, sample_truth

PAGE = (Path(systems.__file__).parent / "README.md").read_text(encoding="utf-8")
SYSTEM, NOTEBOOK, SEGMENTER = re.findall(r"```python\n(.+?)```", PAGE, re.S)
(ENTRY_POINTS,) = re.findall(r"```toml\n(.+?)```", PAGE, re.S)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Iterator[Path]:
    """A folder with "clip.mp4", the sample clip, and nothing registered that stays."""
    (tmp_path / "clip.mp4").write_bytes(sample_clip().read_bytes())
    monkeypatch.chdir(tmp_path)
    before = dict(SYSTEMS)
    yield tmp_path
    SYSTEMS.clear()
    SYSTEMS.update(before)


@pytest.fixture
def installed(here, monkeypatch) -> None:
    """The page's system as an installed package."""
    (here / "colour_system.py").write_text(SYSTEM, encoding="utf-8")
    about = here / "colour_system-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: colour-system\nVersion: 1.0\n")
    points = re.sub(r'\[project\.entry-points\."(.+)"\]', r"[\1]", ENTRY_POINTS).replace('"', "")
    (about / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(here)


def test_a_system_has_thirty_lines():
    assert len(SYSTEM.splitlines()) <= 35


def test_an_installed_system_is_a_model_of_the_command_line(here, installed):
    line = ["ground", "clip.mp4", "the red circle", "--model", "colour", "--device", "cpu", "--max-frames", "9"]
    assert main([*line, "--out", "out"]) == 0
    run = json.loads((here / "out" / "run.json").read_text(encoding="utf-8"))
    assert run["model"]["colours"] == ["red", "green", "blue"] and run["model"]["device"] == "cpu"
    assert [name.split(":")[0] for name in run["weights_sha256"]] == ["masks"]
    result = GroundingResult.load(here / "out")
    assert [answer.outcome for answer in result.answers] == ["found", "found"] and result.masks[8].any()


def test_an_installed_system_is_evaluated(here, installed):
    line = ["evaluate", "--benchmark", "generated", "--limit", "1", "--model", "colour", "--device", "cpu"]
    assert main([*line, "--out", "table"]) == 0
    assert "J&F" in set(pd.read_csv(here / "table" / "results.csv")["metric"])


def test_a_system_is_known_in_a_notebook_by_its_name(here):
    names: dict = {}
    exec(SYSTEM + NOTEBOOK, names)
    result = names["result"]
    truth = open_truth(sample_truth(), result.frames, (result.height, result.width))
    assert {answer.outcome for answer in result.answers} == {"found"}
    assert iou(result.masks[0], truth.masks(0)).max() > 0.7  # the star is red, too
    absent = load_grounder("colour", device="cpu")("clip.mp4", "the purple one", max_frames=6)
    assert {answer.outcome for answer in absent.answers} == {"absent"} and not absent.objects


def test_a_folder_is_loaded_by_whoever_its_configuration_names(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text('{"model_type": "colour"}')
    (tmp_path / "model.safetensors").touch()
    heard = []
    monkeypatch.setitem(SYSTEMS, "colour", lambda *given, **options: heard.append((given, options)))
    load_grounder(str(tmp_path), "nano", "cpu", dtype="float16")
    assert heard == [((str(tmp_path), "nano", "cpu"), {"offline": False, "dtype": "float16"})]


def test_a_loader_that_is_gone_is_told(monkeypatch):
    monkeypatch.setitem(SYSTEMS, "colour", "nowhere.at.all:load")
    with pytest.raises(BadInput, match=r"system 'colour' lies in nowhere\.at\.all:load, which cannot be imported"):
        load_grounder("colour")


def test_a_segmenter_ends_in_the_same_result(here):
    names: dict = {}
    exec(SEGMENTER, names)
    result = names["result"]
    frames = np.stack(list(open_video("clip.mp4")))
    bright = frames.mean(axis=3) > 200
    assert np.array_equal(result.masks[:, 0], bright) and result.objects == 1
    assert {answer.text for answer in result.answers} == {"What is bright."}
    folder = result.save("out", overlay=False)
    look = Inspection(folder)
    assert look.frames == len(frames) and np.array_equal(look.mask("fused", 3)[0], bright[3])
    assert export_labels(look, "coco", here / "coco.json") == [] and (here / "coco.json").is_file()
    assert "what is bright" in GroundingResult.load(folder).summary()


class Halves:
    """A segmenter of two objects, the halves of a frame, in parts of 4 frames."""

    def __init__(self, ids=(2, 1), frames: int = 12, **wrong: object) -> None:
        self.ids, self.frames, self.wrong = ids, frames, wrong

    def describe(self, context):
        return {"context": context}

    def segment(self, frames, question):
        height, width = question.video.height, question.video.width
        left = np.broadcast_to(np.arange(width) < width // 2, (height, width))
        masks = np.broadcast_to(np.stack([left, ~left]), (4, 2, height, width)).copy()
        for _ in range(0, self.frames, 4):
            yield Segmentation(self.ids, self.wrong.get("masks", masks), "both halves")


def test_parts_become_windows_behind_a_last_key_frame(clip, tmp_path):
    result = VideoGrounder(segmenter=Halves())(clip.frames, "the halves", context=3)
    assert result.key_frames == [0, 4, 8] and result.config["model"]["context"] == 3
    assert result.masks[7, 1].sum() and not result.masks[7, 1, :, 40:].any()  # the left half has identity 2
    assert set(result.tracks.source) == {"key", "forward"} and len(result.tracks) == 24
    assert np.isnan(result.agreement[1:4]).all() and not result.backward[1:4].any()
    look = Inspection(result.save(tmp_path / "out", overlay=False))
    assert np.array_equal(look.mask("forward", 6), result.masks[6]) and not look.mask("backward", 6).any()
    for rule in ("iou", "left", "union", "forward"):
        assert np.array_equal(fuse(result.forward[6], result.backward[6], rule), result.masks[6])


@pytest.mark.parametrize(
    "segmenter, said",
    [
        (Halves(frames=8), "masks of 8 frames, expected 12"),
        (Halves(frames=16), r"masks \(4, 2, 64, 80\) from frame 12 of 12"),
        (Halves(ids=(1, 1)), r"names objects \(1, 1\), expected different numbers from 1"),
        (Halves(ids=(0, 1)), r"names objects \(0, 1\)"),
        (Halves(ids=(1,)), r"expected bool \(frames, 1, 64, 80\)"),
        (Halves(masks=np.zeros((4, 2, 64, 80))), "gave float64 masks"),
    ],
)
def test_masks_that_do_not_fit_are_refused(clip, segmenter, said):
    with pytest.raises(BadInput, match=said):
        VideoGrounder(segmenter=segmenter)(clip.frames, "the halves")


class Blind:
    """A tracker that never sees anything."""

    def encode(self, frame):
        return SimpleNamespace(height=len(frame), width=len(frame[0]))


class Says:
    """A pointer that answers on these frames, absent on all."""

    def __init__(self, *keys: int) -> None:
        self.keys = keys

    def describe(self, context):
        return {}

    def answers(self, frames, question):
        for at in self.keys:
            yield at, read_points("There are none.", 64, 80)


def test_a_pointer_that_takes_no_frames_is_followed_to_the_end(clip):
    result = VideoGrounder(Says(0, 5, 10), Blind())(clip.frames, "the cat")
    assert result.frames == 12 and result.key_frames == [0, 5, 10]


@pytest.mark.parametrize(
    "keys, said",
    [
        ((0, 6), "answers on frame 6, expected the next key frame, 5, or no more"),
        ((0, 5), "gave 2 answers, expected 3"),
        ((0, 5, 10, 15), "answers on frame 15"),
    ],
)
def test_a_pointer_answers_once_on_each_key_frame(clip, keys, said):
    with pytest.raises(BadInput, match=said):
        VideoGrounder(Says(*keys), Blind())(clip.frames, "the cat")


def test_half_a_system_is_refused():
    for parts in ({}, {"pointer": Says()}, {"tracker": Blind()}, {"pointer": Says(), "segmenter": Halves()}):
        with pytest.raises(BadInput, match="expected a pointer with a tracker, or a segmenter"):
            VideoGrounder(**parts)
    assert videomolmo.load_grounder is load_grounder
