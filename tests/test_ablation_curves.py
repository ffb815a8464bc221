"""Learning curves: the table that is made from a training's logs, and the shipped one."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from videomolmo.io import provenance
from videomolmo.lab.nano import recipe as nano
from videomolmo.lab.nano import recipe as training_curves
from videomolmo.lab.nano.pointing_stage import stage_folder
from videomolmo.lab.nano.recipe import COLUMNS, TABLE, curves, main, read_recipe
from videomolmo.training.log import append_log
from videomolmo.weights.hub import data_folder, nano_pointing_96

STAGES = [
    {"name": "see", "past": False, "language": False},
    {"name": "look", "past": True, "language": False},
    {"name": "follow on", "past": True, "language": True},
]
NOW = ("vision_pretrain", "motion_warmup", "temporal_finetune_2")


@pytest.fixture
def run(tmp_path) -> Path:
    """A finished run of three short stages; the first was killed after step 120 and went on from step 100."""
    folder = tmp_path / "run"
    recipe = {"seed": 7, "share": 0.1, "temporal": "addition", "stages": STAGES, "commit": "abc"}
    logs = {
        "see": [(50, {"shape": 0.2}), (100, {"shape": 0.3}), (120, {"shape": 0.9}), (120, {"shape": 0.4})],
        "look_addition": [(50, {"shape": 0.5, "motion": 0.6})],
        "follow on_addition": [(50, {"first": 0.7, "tens": 0.8, "facts": 3.0}), (90, {"first": 0.75})],
    }
    for name, rows in logs.items():
        (folder / name).mkdir(parents=True)
        for step, measured in rows:
            append_log(folder / name / "log.jsonl", stage=name.partition("_")[0], step=step, **measured)
    append_log(folder / "see" / "log.jsonl", damaged="checkpoint.safetensors is no whole checkpoint")
    (folder / "pointing_96").mkdir()
    (folder / "pointing_96" / "recipe.json").write_text(json.dumps(recipe))
    return folder


def test_stages_come_one_after_the_other_and_the_last_word_on_a_step_counts(run):
    table = curves(run, read_recipe(run))
    assert tuple(table.columns) == COLUMNS
    assert table["stage"].tolist() == ["see"] * 3 + ["look"] + ["follow on"] * 2
    assert table["total_step"].tolist() == [50, 100, 120, 170, 220, 260]
    assert table["shape"].dropna().tolist() == [0.2, 0.3, 0.4, 0.5]
    assert table["tens"].dropna().tolist() == [0.8] and table["text"].isna().all()


def test_without_a_temporal_module_the_stages_that_train_it_are_not_there(run):
    recipe = read_recipe(run) | {"temporal": "none"}
    shutil.move(run / "follow on_addition", run / "follow on_none")
    assert curves(run, recipe)["stage"].unique().tolist() == ["see", "follow on"]


def test_the_command_writes_the_table_and_what_made_it(run, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([str(run), "--out", str(out), "--machine", "two cores"]) == 0
    assert capsys.readouterr().out.strip() == str(out / TABLE)
    assert sorted(path.name for path in out.iterdir()) == [TABLE, "training_curves.json"]
    assert len(pd.read_csv(out / TABLE)) == 6
    about = json.loads((out / "training_curves.json").read_text())
    assert about == {
        "seed": 7, "share": 0.1, "temporal": "addition", "commit": "abc", "machine": "two cores",
        "sha256": provenance.sha256(out / TABLE),
    }  # fmt: skip
    training_curves.write(run, out)
    assert json.loads((out / "training_curves.json").read_text())["machine"] == "not recorded"


@pytest.mark.parametrize("gone", ["pointing_96/recipe.json", "look_addition/log.jsonl"])
def test_an_unfinished_run_is_refused_in_one_line(run, tmp_path, capsys, gone):
    (run / gone).unlink()
    assert main([str(run), "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert told.startswith("training_curves: ") and gone in told and told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_run_begun_under_earlier_stage_names_is_found(run):
    assert stage_folder(run, "motion_warmup", "addition") == run / "look_addition"
    assert stage_folder(run, "vision_pretrain", None) == run / "see"
    (run / "vision_pretrain").mkdir()
    assert stage_folder(run, "vision_pretrain", None) == run / "vision_pretrain"
    renamed = [stage | {"name": name} for stage, name in zip(STAGES, NOW, strict=True)]
    table = curves(run, read_recipe(run) | {"stages": renamed[1:]})
    assert table["stage"].unique().tolist() == list(NOW[1:])


def test_the_shipped_curves_cover_the_recipe_and_say_what_made_them():
    path = data_folder() / "ablations" / TABLE
    ends = nano.read_curves().groupby("stage", sort=False)["step"].max().to_dict()
    assert list(ends.items()) == [(stage.name, stage.steps) for stage in nano.POINTING_STAGES]
    about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert about["sha256"] == provenance.sha256(path), "the table was changed by hand"
    recipe = read_recipe(nano_pointing_96().parent)  # the shipped weights are those of this run
    assert recipe["seed"] == 1 and about.items() >= {n: v for n, v in recipe.items() if n != "stages"}.items()
    assert about["machine"] not in ("", "not recorded")
