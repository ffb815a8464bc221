"""Training in real processes: killed at any moment and gone on with, two together, sharded, launched, interrupted."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from training_runs import finish, fixture_of, free_port, recipe_of, rows_of_blocks, start, tiny_model, weights

from videomolmo.training.checkpoints import read_state
from videomolmo.training.log import read_metrics
from videomolmo.training.recipe import Recipe, read_recipe

pytestmark = pytest.mark.slow
model, rows = fixture_of(tiny_model), fixture_of(rows_of_blocks)
SHARED = {"batch": 8, "micro_batch": 2, "checkpoint_every": 3}


@pytest.fixture(scope="module")
def one(model, rows, tmp_path_factory) -> Recipe:
    """A run of one process, done."""
    recipe = recipe_of(model, rows, tmp_path_factory.mktemp("one"), **SHARED)
    finish(start(recipe))
    return recipe


def same(left: Path, right: Path) -> bool:
    one, other = weights(left), weights(right)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def losses(recipe: Recipe) -> list[float]:
    return [row["loss"] for row in read_metrics(recipe.out)]


def wait_for(condition, within_s: float = 300) -> None:
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.01)


def test_killed_at_any_moment_it_ends_with_the_same_bits(model, rows, tmp_path):
    settings = {
        "steps": 18,
        "checkpoint_every": 3,
        "jitter_pct": 1.0,
        "brightness": 0.2,
        "start_prob": 0.3,
        "workers": 1,
    }
    alone = recipe_of(model, rows, tmp_path / "alone", **settings)
    finish(start(alone))
    killed = recipe_of(model, rows, tmp_path / "killed", **settings)
    folder, chance = Path(killed.out), random.Random(5)
    moments = (
        lambda: len(read_metrics(folder)) >= 4,  # in the middle of steps
        lambda: any(folder.glob("checkpoints/.unfinished_*/*")),  # while a checkpoint is written
        lambda: len(read_metrics(folder)) >= 13,
    )
    for moment in moments:
        process = start(killed)[0]
        wait_for(moment)
        time.sleep(chance.uniform(0, 0.05))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
    finish(start(killed))
    assert same(folder, Path(alone.out))
    assert [row["step"] for row in read_metrics(folder)] == list(range(1, 19))
    assert losses(killed) == losses(alone)
    assert len(list(folder.glob("checkpoints/*"))) == 2 and not list(folder.glob("checkpoints/.*"))


@pytest.mark.parametrize("shard", [False, True], ids=["ddp", "fsdp2"])
def test_two_processes_follow_one_and_hand_over(model, rows, one, tmp_path, shard):
    settings = SHARED | {"gradient_checkpointing": shard}
    two = recipe_of(model, rows, tmp_path / "two", **settings, shard=shard)
    finish(start(two, processes=2))
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    left, right = weights(Path(one.out)), weights(tmp_path / "two")
    assert all(torch.allclose(left[name], right[name], atol=2e-5) for name in left)
    for before, processes in ((one, 2), (two, 1)):
        after = recipe_of(model, rows, tmp_path / f"then_{processes}", **settings, shard=shard)
        finish(start(after, processes, resume=f"{before.out}/checkpoints/step_00000003"))
        assert [row["step"] for row in read_metrics(after.out)] == [4, 5, 6]
        assert losses(after) == pytest.approx(losses(one)[3:], rel=1e-5)


def recipe_file(folder: Path, model: Path, rows: Path, steps: int) -> Path:
    """The file of a recipe whose run lies beside it."""
    path = folder / "recipe.toml"
    path.write_text(
        f'out = "{folder / "run"}"\n[model]\nsource = "{model}"\n[optimiser]\nbatch = 4\nsteps = {steps}\n'
        f'[[data.sets]]\nname = "videomolmo"\npath = "{rows}"\n'
        "[run]\nworkers = 1\ncpu = true\npeak_tflops = 0\nlog_every = 1\ncheckpoint_every = 5000\n"
    )
    return path


def launch(launcher: tuple[str, ...], recipe: Path) -> subprocess.Popen:
    """`videomolmo train` on two processes."""
    return subprocess.Popen(
        [sys.executable, "-m", *launcher, "-m", "videomolmo.cli", "train", str(recipe)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def test_accelerate_launches_two_processes_that_train_as_one(model, rows, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    alone = read_recipe(recipe_file(tmp_path / "one", model, rows, steps=4))
    finish(start(alone))
    options = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port"]
    launcher = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", *options, str(free_port()))
    launched = launch(launcher, recipe_file(tmp_path / "two", model, rows, steps=4))
    said = launched.communicate(timeout=300)[0]
    assert launched.returncode == 0, said
    together = read_metrics(tmp_path / "two" / "run")
    told = json.loads((tmp_path / "two" / "run" / "run.json").read_text())
    assert [one["processes"] for one in told["starts"]] == [2]
    assert [row["loss"] for row in together] == pytest.approx(losses(alone), rel=1e-5)


def test_ctrl_c_on_a_launched_run_saves_and_says_how_to_go_on(model, rows, tmp_path):
    launcher = ("torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port()))
    launched = launch(launcher, recipe_file(tmp_path, model, rows, steps=5000))
    try:
        wait_for(lambda: len(read_metrics(tmp_path / "run")) >= 2, within_s=300)
        os.killpg(launched.pid, signal.SIGINT)  # as a terminal does
        said = launched.communicate(timeout=300)[0]
    finally:
        if launched.poll() is None:
            os.killpg(launched.pid, signal.SIGKILL)
    state = read_state(next((tmp_path / "run" / "checkpoints").glob("step_*")))
    assert state["processes"] == 2 and state["position"] == 4 * state["step"] >= 8
    assert f"stopped after step {state['step']} of 5000; saved in" in said and "Run it again to go on" in said
