"""What ends a training run early, or keeps it from going on: signals, bad data, a diverging loss, other data."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_runs import fixture_of, recipe_of, rows_of_blocks, tiny_model, weights

from videomolmo.cli import main
from videomolmo.errors import BadInput
from videomolmo.io import provenance
from videomolmo.training import log, trainer
from videomolmo.training.data import Samples
from videomolmo.training.log import Diverged, DivergenceDetector
from videomolmo.training.pointing import LossModule
from videomolmo.training.recipe import Optimiser, Run
from videomolmo.training.trainer import train

model, rows = fixture_of(tiny_model), fixture_of(rows_of_blocks)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("turn", [0, 2])
def test_a_signal_within_the_first_step_leaves_nothing_that_cannot_go_on(model, rows, tmp_path, monkeypatch, turn):
    """Before the optimiser's first step it has no state: a checkpoint of then would be another beginning, or none."""
    plain = recipe_of(model, rows, tmp_path / "plain", steps=3)
    train(plain, progress=False)
    pass_of, count = LossModule.forward, iter(range(100))

    def stopped(self, batch):
        if next(count) == turn:
            os.kill(os.getpid(), signal.SIGTERM)
        return pass_of(self, batch)

    monkeypatch.setattr(LossModule, "forward", stopped)
    again = replace(plain, out=str(tmp_path / "again"))
    outcome = train(again, progress=False)
    assert (outcome.step, outcome.checkpoint, outcome.stopped_by) == (0, None, signal.SIGTERM)
    assert not list((tmp_path / "again" / "checkpoints").glob("*"))
    train(again, progress=False)
    left, right = weights(tmp_path / "plain"), weights(tmp_path / "again")
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_clip_ends_the_run_in_one_line_and_may_be_replaced_from_there(model, tmp_path, capsys, workers):
    broken = rows_of_blocks(tmp_path, clips=3)
    for path in (broken / "clip_1").iterdir():
        path.write_bytes(b"no picture")
    recipe = recipe_of(model, broken, tmp_path / "run", steps=2, workers=workers)
    with pytest.raises(BadInput, match=r"sample \d+, .*clip_1.*data.on_error to 'replace'") as caught:
        train(recipe, progress=False)
    assert "\n" not in str(caught.value)
    assert train(replace(recipe, data=replace(recipe.data, on_error="replace")), progress=False).step == 2


def test_a_worker_that_dies_ends_the_run_in_one_line(model, rows, tmp_path, monkeypatch):
    own = Samples.__getitem__

    def dies(self, position):
        if torch.utils.data.get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return own(self, position)

    monkeypatch.setattr(Samples, "__getitem__", dies)
    recipe = recipe_of(model, rows, tmp_path / "run", steps=2, workers=2)
    with pytest.raises(BadInput, match=r"^train: one of 2 processes that read data died .*fewer run\.workers or 0$"):
        train(recipe, progress=False)
    assert not multiprocessing.active_children()
    monkeypatch.undo()
    assert train(recipe, progress=False).step == 2


def test_without_shared_memory_the_training_process_reads_data_itself(model, rows, tmp_path, monkeypatch, capsys):
    def none(*_: object) -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr("_multiprocessing.SemLock", none)  # what fails without /dev/shm
    assert train(recipe_of(model, rows, tmp_path / "run", steps=1, workers=2), progress=False).step == 1
    assert "train: no further processes here (No such file or directory; is /dev/shm" in capsys.readouterr().err


def test_data_that_came_since_are_another_run(model, tmp_path):
    """With one clip more the order of all is another: samples would be seen twice, or never."""
    listed = rows_of_blocks(tmp_path, clips=4) / "train.jsonl"
    lines = listed.read_text(encoding="utf-8")
    listed.write_text("".join(lines.splitlines(keepends=True)[:6]), encoding="utf-8")
    recipe = recipe_of(model, tmp_path, tmp_path / "run", steps=2)
    train(recipe, progress=False)
    listed.write_text(lines, encoding="utf-8")
    with pytest.raises(BadInput, match="a training run with other samples"):
        train(recipe, progress=False)


def test_a_mean_that_creeps_up_is_noticed():
    detector = DivergenceDetector(limit=20, drift=4)
    assert not any(detector.is_diverging(1.0) for _ in range(30))
    steady = [detector.is_diverging(11.9) for _ in range(20)]  # what a model of 150 000 words says that knows nothing
    assert any(steady) and not any(steady[:3])
    detector = DivergenceDetector(limit=20, drift=4)
    growing = [detector.is_diverging(0.8 * 1.25**step) for step in range(60)]
    assert any(growing)
    kept = DivergenceDetector(20, 4, **detector.state())
    assert kept.state() == detector.state()
    noisy = DivergenceDetector(limit=20, drift=4)
    assert not any(noisy.is_diverging(loss) for loss in [2.0, 0.3, 1.0, 3.0] * 30)


def test_a_diverging_loss_stops_the_run_and_its_samples_are_kept(model, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(log, "SPAN", 3)
    own = LossModule.forward
    count = iter(range(1000))
    monkeypatch.setattr(LossModule, "forward", lambda self, batch: own(self, batch) * (50 if next(count) >= 20 else 1))
    with pytest.raises(Diverged, match=r"step 6 of 9: the loss is .* after .*offending"):
        train(recipe_of(model, rows, tmp_path / "run", steps=9), progress=False)
    (story,) = (tmp_path / "run" / "offending").glob("*.json")
    passes = json.loads(story.read_text(encoding="utf-8"))["passes"]
    assert len(passes) == 4 and all(turn["samples"][0]["branches"] for turn in passes)
    tensors = load_file(story.with_suffix(".safetensors"))
    assert tensors["pixels"].shape[0] == 1


def test_a_checkpoint_that_a_run_went_on_from_is_not_taken_twice(model, rows, tmp_path, capsys):
    first = recipe_of(model, rows, tmp_path / "first", steps=2, checkpoint_every=1)
    train(first, progress=False)
    start = tmp_path / "first" / "checkpoints" / "step_00000001"
    longer = recipe_of(model, rows, tmp_path / "longer", steps=4, checkpoint_every=1)
    train(longer, resume=start, progress=False)
    with pytest.raises(BadInput, match=r"already went on from .* to step 4; leave --resume away"):
        train(longer, resume=start, progress=False)
    assert (tmp_path / "longer" / "checkpoints" / "step_00000004").is_dir()
    short = recipe_of(model, rows, tmp_path / "short", steps=1)
    with pytest.raises(BadInput, match="after step 2, this run has 1"):
        train(short, resume=start.with_name("step_00000002"), progress=False)
    assert not (tmp_path / "short").exists()


def test_two_processes_do_not_train_in_one_folder(model, rows, tmp_path):
    recipe = recipe_of(model, rows, tmp_path / "run", steps=1)
    train(recipe, progress=False)
    holder = (
        "import sys\nfrom filelock import FileLock\n"
        "lock = FileLock(sys.argv[1])\nlock.acquire()\nprint('held', flush=True)\ninput()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path / "run" / "training.lock")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as other:  # fmt: skip
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BadInput, match="another process trains in"):
            train(recipe, progress=False)
        other.communicate("\n")
    assert train(recipe, progress=False).step == 1


def test_numbers_that_no_run_can_have_are_refused():
    for part, name, value in (
        (Optimiser, "epochs", float("inf")),
        (Optimiser, "clip", float("nan")),
        (Run, "seed", 2**32),
    ):
        with pytest.raises(BadInput, match=f"{part.__name__.lower()}.{name} is "):
            part(**{name: value})


def test_a_folder_that_cannot_be_used_is_refused_before_the_model_is_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trainer, "assemble", lambda *_: pytest.fail("the model was read"))
    config = tmp_path / "recipe.toml"
    config.write_text("[optimiser]\nsteps = 1\n", encoding="utf-8")
    assert main(["train", str(config), "--out", str(config / "run")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize("content", ["", '{"seed": '])
def test_settings_that_a_kill_cut_off_are_named(tmp_path, content):
    (tmp_path / "settings.json").write_text(content, encoding="utf-8")
    with pytest.raises(BadInput, match=r"settings.json cannot be read .*give a new folder"):
        provenance.write_or_verify_manifest(tmp_path, {"seed": 1}, "a run")
    with pytest.raises(BadInput, match="cannot be used"):
        provenance.write_or_verify_manifest(tmp_path / "settings.json" / "run", {"seed": 1}, "a run")


def test_a_claim_that_was_killed_halfway_is_claimed_again(tmp_path):
    (tmp_path / ".settings.json.4711").write_text('{"se', encoding="utf-8")
    provenance.write_or_verify_manifest(Path(tmp_path), {"seed": 1}, "a run")
    assert json.loads((tmp_path / "settings.json").read_text(encoding="utf-8")) == {"seed": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]


@pytest.mark.parametrize("name", [".settings.json.swp", ".settings.json.4711.bak", "settings.json.4711"])
def test_somebody_elses_file_is_never_taken_for_a_killed_claim(tmp_path, name):
    (tmp_path / name).write_text("mine", encoding="utf-8")
    with pytest.raises(BadInput, match="not empty, and what it holds is not run"):
        provenance.write_or_verify_manifest(tmp_path, {"seed": 1}, "run")
    assert (tmp_path / name).read_text(encoding="utf-8") == "mine"
