"""The recipe of Nano-Molmo2 at a size of seconds: what it begins with, and one command through all its stages."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from videomolmo.cli import main
from videomolmo.lab.nano import molmo2_recipe, molmo2_vision
from videomolmo.systems.molmo2 import load_molmo2
from videomolmo.training.recipe import Source
from videomolmo.training.video_samples import VideoSamples

pytest.importorskip("transformers.models.molmo2", reason="this transformers has no Molmo 2")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """The folder that training begins with, after two steps of seeing."""
    out = tmp_path_factory.mktemp("nano")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(molmo2_vision, "FRAMES", 8)
        patched.setattr(molmo2_recipe, "EXAMPLES", 24)
        molmo2_recipe.write_start(out / "molmo2_start", out / "molmo2_see", seed=1, steps=2)
    return out


class Killed(Exception):
    """Stands for a signal that nobody catches."""


def test_the_model_is_small_and_learns_to_see_from_the_shipped_one(begun, tmp_path, monkeypatch):
    model, processor = load_molmo2(begun / "molmo2_start")
    assert sum(one.numel() for one in model.parameters()) * 2 <= 8e6
    shipped, tower = molmo2_vision.shipped_model(), model.model.vision_tower
    molmo2_vision.begin_vision(tower, shipped)
    assert torch.equal(tower.layers[4].mlp.fc1.weight, shipped.vision.blocks[2].up.weight)
    monkeypatch.setattr(molmo2_vision, "FRAMES", 8)
    monkeypatch.setattr(molmo2_vision, "CHECKPOINT_EVERY", 1)
    frames, begin = molmo2_vision.frames_of(7, 0), {name: value.clone() for name, value in tower.state_dict().items()}
    assert frames.shape == (8, 96, 96, 3)
    before = molmo2_vision.unlike(model, processor, shipped, frames).item()
    molmo2_vision.distil(model, processor, tmp_path / "plain", steps=4, seed=7)
    assert molmo2_vision.unlike(model, processor, shipped, frames).item() < before
    whole = {name: value.clone() for name, value in tower.state_dict().items()}
    own = molmo2_vision.save_progress

    def save(*arguments) -> None:
        own(*arguments)
        raise Killed

    tower.load_state_dict(begin)
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(molmo2_vision, "save_progress", save)
        molmo2_vision.distil(model, processor, tmp_path / "killed", steps=4, seed=7)
    tower.load_state_dict(begin)
    molmo2_vision.distil(model, processor, tmp_path / "killed", steps=4, seed=7)
    assert all(torch.equal(value, whole[name]) for name, value in tower.state_dict().items())


def test_digits_are_single_tokens_and_the_grammar_is_short(begun):
    tokenizer = load_molmo2(begun / "molmo2_start")[1].tokenizer
    text = '<points coords="0.5 1 034 999">circles</points><|im_end|>'
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text and len(ids) < 32
    assert len(tokenizer.encode("0123456789", add_special_tokens=False)) == 10
    assert tokenizer.eos_token_id < molmo2_recipe.VOCABULARY <= tokenizer.convert_tokens_to_ids("<|video|>")


def test_one_command_goes_through_all_stages(begun, monkeypatch):
    tiny = {"height": 48, "width": 48, "seconds": 3.0, "clips": 2}
    stages = tuple(
        (name, steps, rate, tuple(replace(one, options=dict(one.options) | tiny) for one in sets))
        for name, steps, rate, sets in molmo2_recipe.STAGES
    )
    monkeypatch.setattr(molmo2_recipe, "STAGES", stages)
    monkeypatch.setattr(molmo2_recipe, "BATCH", 2)
    monkeypatch.setattr(molmo2_recipe, "MICRO_BATCH", 1)
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # no processes that read
    command = ["train-nano", "--only", "molmo2", "--share", "0.00001", "--threads", "1", "--out", str(begun)]
    assert main(command) == 0 and (begun / "molmo2" / "recipe.json").is_file()
    assert (begun / "molmo2" / "model.safetensors").stat().st_size <= 8e6
    model, _ = load_molmo2(begun / "molmo2")
    assert model.config.model_type == "molmo2"
    written = (begun / "molmo2" / "model.safetensors").stat().st_mtime_ns
    assert main(command) == 0 and (begun / "molmo2_things" / "run.json").is_file()
    assert (begun / "molmo2" / "model.safetensors").stat().st_mtime_ns >= written


def test_every_stage_has_samples(monkeypatch):
    for _, _, _, sets in molmo2_recipe.STAGES:
        few = tuple(replace(one, options=dict(one.options) | {"clips": 1}) for one in sets)
        data = replace(molmo2_recipe.recipe_of("out", "nano", few, 2, 1e-3, 1, 1).data)
        samples = VideoSamples(data, seed=1)
        assert len(samples) >= len(sets) and isinstance(sets[0], Source) and samples[0].messages
