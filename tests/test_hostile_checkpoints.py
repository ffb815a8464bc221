"""Training folders that are damaged or made to do harm: nothing they say is run, and what has changed is noticed."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from training_runs import finish, fixture_of, recipe_of, rows_of_blocks, smallest_model, start, weights

from videomolmo.errors import BadInput
from videomolmo.io.provenance import write_or_verify_manifest
from videomolmo.lab.nano.checkpoint import (
    MovingAverage,
    found,
    load_checkpoint,
    load_weights,
    resume,
    save_checkpoint,
    save_progress,
)
from videomolmo.training.checkpoints import Checkpoints, read_state, restore
from videomolmo.training.log import append_log
from videomolmo.training.model import TrainState, accelerator_for
from videomolmo.training.tensor_files import Parts, written
from videomolmo.training.trainer import assemble, train

EARLIER = Path(__file__).parent / "fixtures" / "earlier_checkpoints"  # made before hashes, by pickling

model, rows = fixture_of(smallest_model), fixture_of(rows_of_blocks)
pytestmark = pytest.mark.usefixtures("one_thread")


def recipe_in(model: Path, rows: Path, out: Path, **changes: object):
    return recipe_of(model, rows, out, **{"parts": ("temporal",), "steps": 4, "checkpoint_every": 2} | changes)


@pytest.fixture(scope="module")
def done(model, rows, tmp_path_factory) -> Path:
    """A run that is done, with checkpoints after steps 2 and 4; tests work on copies."""
    folder = tmp_path_factory.mktemp("done") / "run"
    train(recipe_in(model, rows, folder), progress=False)
    return folder


@pytest.fixture
def run(done, tmp_path) -> Path:
    shutil.copytree(done, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def last(run) -> Path:
    return run / "checkpoints" / "step_00000004"


@pytest.fixture(scope="module")
def train_state(model, rows) -> TrainState:
    recipe = recipe_in(model, rows, Path())
    return assemble(recipe, accelerator_for(recipe))


def flipped(data: bytes, at: int, bit: int = 0) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def reseal(folder: Path, change: Callable[[dict], Any] = lambda state: None) -> None:
    """Change state.json as somebody would who knows how it is written: hashes of all files and of itself anew."""
    state = json.loads((folder / "state.json").read_text())
    state["files"] = {name: written(folder / name) for name in state["files"] if (folder / name).is_file()}
    change(state)
    state.pop("sha256", None)
    text = json.dumps(state | {"sha256": None}, indent=1)
    state["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "state.json").write_text(json.dumps(state, indent=1))


# damage


def test_every_changed_byte_is_noticed(last):
    """Of every file, also where the change is a space or lies in what nobody reads."""

    def whole() -> None:
        Parts(last, read_state(last)["files"]).check()

    whole()
    for path in sorted(last.iterdir()):
        data, chance = path.read_bytes(), random.Random(3)
        places = range(len(data)) if path.suffix == ".json" else sorted(chance.sample(range(len(data)), 800))
        for at in places:
            path.write_bytes(flipped(data, at, chance.randrange(8)))
            with pytest.raises(ValueError):
                whole()
        path.write_bytes(data)
    whole()


@pytest.mark.parametrize("name", ["state.json", "index.json", "part_0000.safetensors"])
@pytest.mark.parametrize("kind", ["flipped", "cut", "empty", "longer", "missing", "link", "pipe", "folder", "earlier"])
def test_a_damaged_checkpoint_is_left_out_and_told(model, rows, train_state, done, run, last, capfd, name, kind):
    path = last / name
    if kind == "earlier" and name == "index.json":
        pytest.skip("the same after every step")
    data = path.read_bytes()
    path.unlink()
    if kind in ("flipped", "cut", "empty", "longer"):
        middle = len(data) // 2
        path.write_bytes(
            {"flipped": flipped(data, middle), "cut": data[:middle], "empty": b"", "longer": data + b" "}[kind]
        )
    elif kind == "link":
        (run.parent / "elsewhere").write_bytes(data)
        path.symlink_to(run.parent / "elsewhere")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "earlier":
        shutil.copy(last.with_name("step_00000002") / name, path)
    outcome = train(recipe_in(model, rows, run), progress=False)
    assert outcome.step == 4 and all(torch.equal(weights(done)[key], value) for key, value in weights(run).items())
    told = json.loads((run / "run.json").read_text())["starts"][-1]
    assert told["step"] == 2 and len(told["damaged"]) == 1
    said = capfd.readouterr().err
    assert "step_00000004" in said and "aside_1_step_00000004; resuming after step 2" in said
    aside = last.with_name("aside_1_step_00000004")
    assert kind == "missing" or os.path.lexists(aside / name), "what was damaged is gone"
    assert len(list(aside.iterdir())) == 3 - (kind == "missing")
    with pytest.raises(BadInput) as caught:
        restore(train_state, aside)
    assert "\n" not in str(caught.value)


def test_without_a_whole_checkpoint_nothing_is_begun_anew(model, rows, run):
    for path in run.glob("checkpoints/*/index.json"):
        path.write_bytes(b"")
    with pytest.raises(BadInput, match=r"step_00000004 cannot be read .*no other checkpoint is whole"):
        train(recipe_in(model, rows, run), progress=False)
    assert sorted(path.name for path in run.glob("checkpoints/*")) == ["step_00000002", "step_00000004"]


def test_a_checkpoint_under_another_ones_name_is_left_out(model, rows, done, run, last):
    shutil.rmtree(last)
    shutil.copytree(last.with_name("step_00000002"), last)
    assert train(recipe_in(model, rows, run), progress=False).step == 4
    assert last.with_name("aside_1_step_00000004").is_dir()
    assert all(torch.equal(weights(done)[key], value) for key, value in weights(run).items())


def test_a_damaged_one_is_never_deleted_to_make_room(model, rows, train_state, tmp_path):
    kept = Checkpoints(tmp_path, "mine", keep=1)
    for step in (1, 2):
        kept.save(train_state, {"step": step})
    (tmp_path / "step_00000002" / "state.json").write_text("")
    kept.save(train_state, {"step": 2})
    kept.save(train_state, {"step": 3})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["aside_1_step_00000002", "step_00000003"]


@pytest.mark.slow
def test_two_processes_agree_on_what_is_damaged(model, rows, tmp_path):
    recipe = recipe_in(model, rows, tmp_path / "run", shard=True, micro_batch=2)
    finish(start(recipe, processes=2))
    before, last = weights(tmp_path / "run"), tmp_path / "run" / "checkpoints" / "step_00000004"
    one, other = (last / f"part_000{number}.safetensors" for number in (0, 1))
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)
    finish(start(recipe, processes=2))
    assert last.with_name("aside_1_step_00000004").is_dir() and last.is_dir()
    assert all(torch.equal(before[name], value) for name, value in weights(tmp_path / "run").items())


# checkpoints that somebody made


@pytest.mark.parametrize(
    "name, value",
    [
        ("step", "4"), ("step", 4.5), ("step", -1), ("step", 1e30), ("step", True), ("step", None), ("step", 10**400),
        ("run", 3), ("resumed_from", ["x"]), ("watch", None), ("watch", {"mean": "1"}), ("watch", {"seen": -1}),
        ("watch", {"mean": float("nan")}), ("watch", {"lowest": float("inf")}), ("watch", {"limit": 1.0}),
        ("files", []), ("files", {}), ("files", {"index.json": 3}), ("files", None),
        ("files", {"index.json": {"bytes": -1, "sha256": "0" * 64}}), ("files", {"index.json": {"bytes": 1}}),
    ],
)  # fmt: skip
def test_a_state_of_wrong_types_is_refused(train_state, last, name, value):
    text = json.loads((last / "state.json").read_text()) | {name: value}
    if value == 10**400:  # longer than Python writes whole numbers
        value, text = "X", json.dumps(text | {name: "X"}).replace('"X"', "1" + "0" * 5000)
        (last / "state.json").write_text(text)
    else:
        reseal(last, lambda state: state.update({name: value}))
    with pytest.raises(BadInput) as caught:
        restore(train_state, last)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", "[" * 100_000, '{"step": 4}', '{"a": ' * 50_000, "\xff\0"]
)
def test_a_state_that_is_none_is_refused(train_state, last, text):
    (last / "state.json").write_text(text, encoding="latin-1")
    with pytest.raises(BadInput):
        restore(train_state, last)
    (last / "state.json").write_bytes(b"x" * (17 << 20))
    with pytest.raises(BadInput, match="expected at most"):
        restore(train_state, last)


@pytest.mark.parametrize(
    "name",
    ["../secret", "/etc/passwd", "part_0000.safetensors/../../secret", "..", "", "\0", "part_0009.safetensors"],
)
def test_files_outside_of_the_checkpoint_are_never_opened(train_state, last, name):
    (last.parent / "secret").write_bytes((last / "part_0000.safetensors").read_bytes())
    about = written(last / "part_0000.safetensors")
    reseal(last, lambda state: state["files"].update({name: about}))
    with pytest.raises(BadInput, match=r"expected index\.json|is missing"):
        restore(train_state, last)


def test_an_index_that_means_other_tensors_is_refused(train_state, last):
    index = json.loads((last / "index.json").read_text())
    name = next(name for name in index["tensors"] if name.startswith("model."))
    for change in (
        {"shape": [10**15] * 2}, {"shape": [-1]}, {"shape": [True]}, {"shape": "8"}, {"shape": []}, {"shape": [4, 4]},
        {"parts": []}, {"parts": [0, 0]}, {"parts": [7]}, {"parts": [-1]}, {"parts": ["0"]}, {"parts": [1e300]},
        {"file": "../x"}, {"parts": None},
    ):  # fmt: skip
        changed = index["tensors"] | {name: index["tensors"][name] | change}
        (last / "index.json").write_text(json.dumps({"tensors": changed}))
        reseal(last)
        with pytest.raises(BadInput):
            restore(train_state, last)
    for tensors in ({}, [], None, index["tensors"] | {"model.other": {"shape": [1], "parts": [0]}}):
        (last / "index.json").write_text(json.dumps({"tensors": tensors}))
        reseal(last)
        with pytest.raises(BadInput):
            restore(train_state, last)


def test_parts_that_hold_other_tensors_are_refused(train_state, last):
    path = last / "part_0000.safetensors"
    whole = load_file(path)
    name = next(name for name in whole if whole[name].dim() == 2)
    for odd in (whole[name][:-1], torch.cat([whole[name]] * 2), whole[name][:, :-1], whole[name][0], torch.tensor(1.0)):
        save_file(whole | {name: odd.clone()}, path)
        reseal(last)
        with pytest.raises(BadInput):
            restore(train_state, last)
    save_file({key: value for key, value in whole.items() if key != name}, path)
    reseal(last)
    with pytest.raises(BadInput, match="cannot be read"):
        restore(train_state, last)
    path.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    reseal(last)
    with pytest.raises(BadInput, match="cannot be read"):
        restore(train_state, last)


def test_a_file_with_a_hole_of_a_terabyte_is_refused_before_it_is_read(train_state, last):
    with open(last / "part_0000.safetensors", "r+b") as file:
        try:
            file.truncate(1 << 40)
        except OSError:
            pytest.skip("no such files on this disk")
    state = json.loads((last / "state.json").read_text())
    state["files"]["part_0000.safetensors"]["bytes"] = 1 << 40
    text = json.dumps(state | {"sha256": None}, indent=1)
    state["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (last / "state.json").write_text(json.dumps(state, indent=1))
    with pytest.raises(BadInput, match="has 1099511627776 bytes, expected"):
        restore(train_state, last)


@pytest.mark.parametrize("name", ["checkpoints", "metrics.jsonl", "run.json", "training.lock", "model", "tensorboard"])
def test_a_run_does_not_write_through_links(model, rows, run, tmp_path, name):
    outside = tmp_path / "outside"
    shutil.move(run / name, outside) if (run / name).exists() else outside.write_text("mine")
    before = outside.read_bytes() if outside.is_file() else sorted(outside.rglob("*"))
    (run / name).symlink_to(outside)
    with pytest.raises(BadInput, match=f"{name} is a link"):
        train(recipe_in(model, rows, run), progress=False)
    assert before == (outside.read_bytes() if outside.is_file() else sorted(outside.rglob("*")))


@pytest.mark.parametrize("name", [".unfinished_step_00000006", ".leaving_step_00000001_1", "step_00000009"])
def test_what_a_link_leads_to_is_never_deleted_or_read(train_state, run, tmp_path, name):
    outside = tmp_path / "outside"
    shutil.copytree(run / "checkpoints" / "step_00000004", outside)
    (run / "checkpoints" / name).symlink_to(outside)
    kept = Checkpoints(run / "checkpoints", read_state(outside)["run"], keep=1)
    assert kept.latest().name == "step_00000004"
    if name.endswith("6"):
        with pytest.raises(BadInput, match="is a link"):
            kept.save(train_state, {"step": 6})
    else:
        kept.save(train_state, {"step": 6})
    assert {path.name for path in outside.iterdir()} == {"state.json", "index.json", "part_0000.safetensors"}


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl"])
@pytest.mark.parametrize("text", ["", "3", "[]", "{}", '{"starts": 3}', "[" * 100_000, '{"step": "x"}\n{"step": 1e99}'])
def test_records_of_a_run_that_are_damaged_stop_nothing(model, rows, run, name, text):
    (run / name).write_text(text)
    assert train(recipe_in(model, rows, run), progress=False).step == 4
    told = json.loads((run / "run.json").read_text())
    assert name != "run.json" or ((run / "aside_1_run.json").read_text() == text and told["starts"][-1]["damaged"])


def test_settings_that_are_too_deep_are_refused(tmp_path):
    (tmp_path / "settings.json").write_text("[" * 100_000)
    with pytest.raises(BadInput, match="cannot be read"):
        write_or_verify_manifest(tmp_path, {"seed": 1}, "a run")


# stages of the nano recipe


def stage() -> tuple[nn.Module, torch.optim.Optimizer, MovingAverage]:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    groups = [{"params": net[0].parameters(), "share": 1.0}, {"params": list(net[1:].parameters()), "share": 0.5}]
    return net, torch.optim.AdamW(groups, lr=0.1, betas=(0.9, 0.95)), MovingAverage(net, 0.9)


def stage_step(net: nn.Module, optimiser: torch.optim.Optimizer, average: MovingAverage, step: int) -> None:
    torch.manual_seed(step)
    optimiser.zero_grad()
    net(torch.randn(8, 3)).square().sum().backward()
    optimiser.step()
    average.update(net, step)


def stage_tensors(net: nn.Module, optimiser: torch.optim.Optimizer, average: MovingAverage) -> dict:
    states = optimiser.state_dict()["state"]
    return (
        {f"model.{name}": value for name, value in net.state_dict().items()}
        | {f"average.{name}": value for name, value in average.state.items()}
        | {f"optimiser.{at}.{key}": value for at, state in states.items() for key, value in state.items()}
    )


def test_an_earlier_stage_still_opens(tmp_path):
    shutil.copy(EARLIER / "stage" / "checkpoint.pt", tmp_path)
    shutil.copy(EARLIER / "stage" / "weights.pt", tmp_path)
    parts = stage()
    assert resume(tmp_path / "checkpoint.safetensors", *parts) == 3
    held, wanted = stage_tensors(*parts), load_file(EARLIER / "stage" / "expected.safetensors")
    assert held.keys() == wanted.keys() and all(torch.equal(held[name], value) for name, value in wanted.items())
    assert found(tmp_path / "weights.safetensors") == tmp_path / "weights.pt"
    for name, value in load_weights(tmp_path / "weights.pt").items():
        assert torch.equal(value, wanted[f"average.{name}"])


def test_a_stage_goes_on_to_the_same_bits(tmp_path):
    path, whole = tmp_path / "checkpoint.safetensors", stage()
    for step in range(6):
        stage_step(*whole, step)
        if step == 2:
            save_progress(path, *whole, 3)
    again = stage()
    for step in range(resume(path, *again), 6):
        stage_step(*again, step)
    left, right = stage_tensors(*whole), stage_tensors(*again)
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_every_changed_byte_of_a_stage_is_noticed(tmp_path, capfd):
    path, parts = tmp_path / "checkpoint.safetensors", stage()
    stage_step(*parts, 0)
    save_progress(path, *parts, 1)
    data = path.read_bytes()
    for at in range(0, len(data), 3):
        path.write_bytes(flipped(data, at, at % 8))
        with pytest.raises(BadInput, match="is no whole checkpoint"):
            load_checkpoint(path)
    for cut in (0, 1, 8, 100, len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(BadInput):
            load_checkpoint(path)
    assert resume(path, *stage()) == 0 and "aside_1_checkpoint.safetensors" in capfd.readouterr().err
    told = json.loads((tmp_path / "log.jsonl").read_text())["damaged"]
    assert "is no whole checkpoint" in told and (tmp_path / "aside_1_checkpoint.safetensors").is_file()
    path.write_bytes(data)
    assert resume(path, *stage()) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"step": -1}, {"model": {}}, {"average": {}}, {"optimiser": {"99.exp_avg": torch.zeros(1)}}, {"step": None},
        {"optimiser": {"x": torch.zeros(1)}}, {"optimiser": {"0.exp_avg": torch.zeros(9, 9)}}, {"average": 3},
        {"optimiser": 3}, {"model": {"0.weight": torch.zeros(10**6)}},
    ],
    ids=str,
)  # fmt: skip
def test_a_stage_of_another_model_is_refused(tmp_path, change):
    path, parts = tmp_path / "checkpoint.safetensors", stage()
    stage_step(*parts, 0)
    save_progress(path, *parts, 1)
    saved = {name: value for name, value in (load_checkpoint(path) | change).items() if value is not None}
    save_checkpoint(path, **saved)
    parts = stage()
    before = {name: value.clone() for name, value in parts[0].state_dict().items()}
    if change == {"step": -1}:
        assert resume(path, *parts) == 0 and (tmp_path / "aside_1_checkpoint.safetensors").is_file()
        return
    with pytest.raises(BadInput, match="does not fit this model"):
        resume(path, *parts)
    assert all(torch.equal(before[name], value) for name, value in parts[0].state_dict().items())


def test_a_stage_neither_reads_nor_writes_through_links(tmp_path):
    mine = tmp_path / "mine.txt"
    save_checkpoint(tmp_path / "real.safetensors", state={})
    (tmp_path / "weights.safetensors").symlink_to(tmp_path / "real.safetensors")
    with pytest.raises(BadInput, match="no plain file"):
        load_checkpoint(tmp_path / "weights.safetensors")
    mine.write_text("mine")
    (tmp_path / ".checkpoint.safetensors.tmp").symlink_to(mine)
    save_checkpoint(tmp_path / "checkpoint.safetensors", step=1)
    (tmp_path / "log.jsonl").symlink_to(mine)
    with pytest.raises(BadInput, match="is a link"):
        append_log(tmp_path / "log.jsonl", step=1)
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(BadInput, match="no plain file"):
        load_checkpoint(tmp_path / "pipe.safetensors")
    with pytest.raises(BadInput, match="holds no 'state'"):
        load_weights(tmp_path / "checkpoint.safetensors")
    assert mine.read_text() == "mine"
