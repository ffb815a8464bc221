"""The whole recipe of the shipped pointing weights, from nothing to two models that load, at a size of seconds."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from videomolmo.cli import main
from videomolmo.model import PointingModel
from videomolmo.training import nano, pointing
from videomolmo.training.run_state import load_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def small(monkeypatch) -> list[str]:
    """Every stage in batches of two; returns the stages that were trained, as they end."""
    for name in ("POINTING_STAGES", "LARGER_STAGES"):
        stages = getattr(nano, name)
        few = tuple(replace(one, batch=2, distinct=min(one.distinct, 1)) for one in stages)
        monkeypatch.setattr(nano, name, few)
    trained = []
    own = pointing.save_checkpoint

    def save(path, **state) -> None:
        trained.append(path.parent.name)
        own(path, **state)

    monkeypatch.setattr(pointing, "save_checkpoint", save)
    return trained


def test_the_recipe_leads_from_nothing_to_both_models_and_is_not_done_twice(small, tmp_path):
    command = ["train-nano", "--only", "pointing", "--share", "0.0001", "--threads", "1", "--out", str(tmp_path)]
    assert main(command) == 0
    names = [stage.name for stage in nano.POINTING_STAGES + nano.LARGER_STAGES]
    assert [name.removesuffix("_cross_attention") for name in small] == names
    for folder, size in (("pointing_96", 96), ("pointing", 144)):
        assert PointingModel.from_pretrained(tmp_path / folder).config.image.size_px == size
    recipe = json.loads((tmp_path / "pointing" / "recipe.json").read_text(encoding="utf-8"))
    assert [stage["name"] for stage in recipe["stages"]] == names and recipe["share"] == 0.0001
    last = [load_checkpoint(tmp_path / f"{name}_cross_attention" / "weights.pt")["state"] for name in names[-2:]]
    name = "language.layers.0.mlp.up_proj.weight"
    mean = (last[0][f"model.{name}"] + last[1][f"model.{name}"]) / 2
    shipped = load_file(tmp_path / "pointing" / "model.safetensors")[name]
    assert recipe["averaged"] == 2 and torch.equal(shipped, mean.half())

    small.clear()
    (tmp_path / "follow larger_cross_attention" / "weights.pt").unlink()
    assert main(command) == 0
    assert small == ["follow larger_cross_attention"]  # what was lost comes again, all else is kept
