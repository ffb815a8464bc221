"""What stays of a run: the trained model as any other model's folder, and what made it."""

from __future__ import annotations

import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from videomolmo import provenance
from videomolmo.model.loading import load_model
from videomolmo.model.tokenizer import load_tokenizer, save_tokenizer
from videomolmo.training.adapters import merge
from videomolmo.training.assemble import Learner
from videomolmo.training.checkpoints import learnt
from videomolmo.training.recipe import Recipe
from videomolmo.whole_files import read_json, write_json


def export(learner: Learner, recipe: Recipe, folder: Path) -> Path:
    """Write the trained model with its tokenizer, adapters merged; `from_pretrained` and `--model` take the folder.

    The first weights are read again on the main process's CPU and what has learnt is put over them, so that frozen
    weights keep their bits even where training held them in half precision or in four bits.

    Args:
        learner: after training; called by all processes.
        recipe: of the run.
        folder: written by the main process.
    """
    state = learnt(learner)
    if learner.accelerator.is_main_process:
        model = load_model(learner.folder)
        model.config = learner.model.config
        merge(model, state, recipe.learn)
        model.save_pretrained(folder)
        save_tokenizer(load_tokenizer(learner.folder), str(folder))
        write_json(folder / "recipe.json", asdict(recipe) | _made_by())
    learner.accelerator.wait_for_everyone()
    return folder


def write_run(folder: Path, recipe: Recipe, processes: int, start: int, total: int, epoch: int) -> None:
    """Add this start of a run to run.json: its recipe, versions, commit and machine.

    Args:
        folder: of the run.
        recipe: as it was given.
        processes: that train together.
        start, total: steps done before, and of the whole run.
        epoch: samples of one epoch.
    """
    path = folder / "run.json"
    told = read_json(path)
    before = told["starts"] if isinstance(told, dict) and isinstance(told.get("starts"), list) else []
    new = {"time": round(time.time(), 1), "step": start, "processes": processes, "recipe": asdict(recipe)} | _made_by()
    write_json(path, {"total_steps": total, "samples_per_epoch": epoch, "starts": [*before, new]})


def _made_by() -> dict[str, Any]:
    return {"versions": provenance.versions(), "commit": provenance.commit(), "machine": platform.platform()}
