"""The whole recipe of the shipped pointing weights, from nothing to two models that load, at a size of seconds."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from videomolmo.cli import main
from videomolmo.lab.nano import pointing_stage
from videomolmo.lab.nano import recipe as nano
from videomolmo.lab.nano.checkpoint import load_weights
from videomolmo.model import VideoMolmoForConditionalGeneration

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def small(monkeypatch) -> list[str]:
    """Every stage in batches of two; returns the stages that were trained, as they end."""
    for name in ("POINTING_STAGES", "LARGER_STAGES", "FINER_STAGES"):
        stages = getattr(nano, name)
        few = tuple(replace(one, batch=2, cached_batches=min(one.cached_batches, 1)) for one in stages)
        monkeypatch.setattr(nano, name, few)
    trained = []
    own = pointing_stage.save_checkpoint

    def save(path, **state) -> None:
        trained.append(path.parent.name)
        own(path, **state)

    monkeypatch.setattr(pointing_stage, "save_checkpoint", save)
    return trained


def test_the_recipe_leads_from_nothing_to_both_models_and_is_not_done_twice(small, tmp_path):
    command = ["train-nano", "--only", "pointing", "--share", "0.0001", "--threads", "1", "--out", str(tmp_path)]
    assert main(command) == 0
    names = [stage.name for stage in nano.POINTING_STAGES + nano.LARGER_STAGES + nano.FINER_STAGES]
    assert [name.removesuffix("_cross_attention") for name in small] == names
    for folder, size in (("pointing_96", 96), ("pointing", 144)):
        assert VideoMolmoForConditionalGeneration.from_pretrained(tmp_path / folder).config.image.size_px == size
    recipe = json.loads((tmp_path / "pointing" / "recipe.json").read_text(encoding="utf-8"))
    assert [stage["name"] for stage in recipe["stages"]] == names and recipe["share"] == 0.0001
    chosen = ["temporal_finetune_144_2", "lists_144", "lists_144_2", "lists_144_3"]
    name = "language.layers.0.mlp.up_proj.weight"
    states = [load_weights(tmp_path / f"{stage}_cross_attention" / "weights.safetensors") for stage in chosen]
    mean = torch.stack([state[f"model.{name}"] for state in states]).mean(dim=0)
    shipped = load_file(tmp_path / "pointing" / "model.safetensors")[name]
    assert recipe["averaged"] == chosen and torch.allclose(shipped.float(), mean, atol=1e-3, rtol=1e-3)
    assert not torch.equal(shipped, states[-1][f"model.{name}"].half())

    small.clear()
    (tmp_path / "temporal_finetune_144_cross_attention" / "weights.safetensors").unlink()
    assert main(command) == 0
    assert small == ["temporal_finetune_144_cross_attention"]  # what was lost comes again, all else is kept
