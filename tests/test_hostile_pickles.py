"""Pickles that somebody made or damaged: none is run; what earlier versions pickled still opens."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import re
import shutil
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_runs import finish, fixture_of, recipe_of, rows_of_blocks, smallest_model, start, weights

from videomolmo.errors import BadInput
from videomolmo.lab.nano.checkpoint import load_checkpoint
from videomolmo.masks.sam2 import load_published
from videomolmo.training import checkpoints, earlier
from videomolmo.training.checkpoints import restore
from videomolmo.training.model import TrainState, accelerator_for
from videomolmo.training.recipe import Recipe
from videomolmo.training.trainer import assemble, train
from videomolmo.weights.pickled import read_torch, unpickle

EARLIER = Path(__file__).parent / "fixtures" / "earlier_checkpoints"  # written when checkpoints were pickles
model, rows = fixture_of(smallest_model), fixture_of(rows_of_blocks)
pytestmark = pytest.mark.usefixtures("one_thread")


def recipe_in(model: Path, rows: Path, out: Path, **changes: object) -> Recipe:
    return recipe_of(model, rows, out, **{"parts": ("temporal",), "steps": 4, "checkpoint_every": 2} | changes)


@pytest.fixture(scope="module")
def train_state(model, rows) -> TrainState:
    recipe = recipe_in(model, rows, Path())
    return assemble(recipe, accelerator_for(recipe))


class Harm:
    """What pickles can do: here it writes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.system, (f"touch '{self.mark}'",)


def harms(mark: Path) -> dict[str, bytes]:
    """Pickles that run a command where they are believed."""
    call = f"touch '{mark}'"
    metadata = b"ctorch.distributed.checkpoint.metadata\nMetadata\n"
    return {
        "reduce": pickle.dumps(Harm(mark)),
        "old": pickle.dumps(Harm(mark), protocol=0),
        "global": b"cos\nsystem\n(V" + call.encode() + b"\ntR.",
        "eval": b"cbuiltins\neval\n(V__import__('os').system(" + repr(call).encode() + b")\ntR.",
        "inst": b"(V" + call.encode() + b"\nios\nsystem\n.",
        "dotted": b"\x80\x04\x8c\x25torch.distributed.checkpoint.metadata\x8c\x17os.system.__globals__\x93.",
        "apply": b"ctorch.jit\n_apply\n.",
        "getattr": b"cbuiltins\ngetattr\n(" + metadata + b"V__init__\ntR.",
        "class": b"\x80\x02" + metadata + b"(K\x00}X\x08\x00\x00\x00__init__cos\nsystem\nstb.",
        "class state": b"\x80\x02" + metadata + b"N}X\x08\x00\x00\x00__init__K\x01s\x86b.",
        "hidden": pickle.dumps({"state_dict_metadata": {"x": Harm(mark)}, "storage_data": {}}),
        "memo": b"\x80\x02Nr\xff\xff\xff\x7f.",
        "frame": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.",
        "extension": b"\x80\x02\x82\x01.",
        "outside": b"\x80\x02X\x01\x00\x00\x00xQ.",
        "nothing": b"",
    }


def stage_file(pickled: bytes) -> bytes:
    """A file as torch.save writes them, around a pickle."""
    whole, out = zipfile.ZipFile(EARLIER / "stage" / "weights.pt"), io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for member in whole.namelist():
            archive.writestr(member, pickled if member.endswith("data.pkl") else whole.read(member))
    return out.getvalue()


KINDS = sorted(harms(Path("x")))


@pytest.mark.parametrize("kind", KINDS)
def test_no_pickle_runs(train_state, tmp_path, kind):
    mark = tmp_path / "it_ran"
    harm = harms(mark)[kind]
    new = checkpoints.Checkpoints(tmp_path / "new", "mine", 1).save(train_state, {"step": 1})
    (new / ".metadata").write_bytes(harm)
    restore(train_state, new)  # a file that today's checkpoints do not have
    old = tmp_path / "step_00000002"
    shutil.copytree(EARLIER / "alone" / "step_00000002", old)
    (old / ".metadata").write_bytes(harm)
    with pytest.raises(BadInput, match=r"step_00000002 cannot be read \(.*\); resume from") as caught:
        restore(train_state, old)
    assert "\n" not in str(caught.value)
    for name in ("checkpoint.safetensors", "checkpoint.pt", "sam2.1_hiera_tiny.pt"):
        for content in (harm, stage_file(harm)):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(BadInput):
                load_checkpoint(tmp_path / name)
            if name.startswith("sam2"):
                with pytest.raises(BadInput, match="not a SAM 2 checkpoint"):
                    load_published("facebook/sam2.1-hiera-tiny", tmp_path / name)
    assert not mark.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_no_pickle_within_an_earlier_checkpoints_tensors_runs(train_state, tmp_path, kind):
    old = tmp_path / "step_00000002"
    shutil.copytree(EARLIER / "alone" / "step_00000002", old)
    data = (old / "__0_0.distcp").read_bytes()
    harm = stage_file(harms(tmp_path / "it_ran")[kind])
    for begin in (at.start() for at in re.finditer(b"PK\x03\x04.{26}archive/data.pkl", data, re.DOTALL)):
        data = data[:begin] + harm[: len(data) - begin] + data[begin + len(harm) :]
    (old / "__0_0.distcp").write_bytes(data)
    with pytest.raises(BadInput):
        restore(train_state, old)
    assert not (tmp_path / "it_ran").exists()


def test_the_harm_would_be_done_without_care(tmp_path):
    for kind in ("reduce", "old", "global", "eval", "inst", "hidden"):
        pickle.loads(harms(tmp_path / kind)[kind])
        assert (tmp_path / kind).exists()


def test_what_a_pickle_does_to_its_classes_ends_with_it(train_state):
    metadata = b"ctorch.distributed.checkpoint.metadata\nMetadata\n"
    known = earlier._known()
    for harm in (metadata + b"N}V__setstate__\nK\x01s\x86b.", metadata + b")\x81N}V__setstate__\nK\x01s\x86b."):
        try:
            unpickle(b"\x80\x02" + harm, known)
        except ValueError:
            continue
    assert restore(train_state, EARLIER / "alone" / "step_00000002")["step"] == 2


@pytest.mark.parametrize("seed", range(5))
def test_damaged_pickles_and_archives_are_refused_in_words(train_state, tmp_path, seed):
    chance = random.Random(seed)
    old = tmp_path / "step_00000002"
    shutil.copytree(EARLIER / "sharded" / "step_00000002", old)
    for path in (old / ".metadata", old / "__1_0.distcp"):
        data = path.read_bytes()
        for _ in range(15):
            changed = bytearray(data)
            for _ in range(chance.choice((1, 3, 30))):
                changed[chance.randrange(len(data))] = chance.randrange(256)
            path.write_bytes(changed[: chance.choice((len(data), chance.randrange(len(data))))])
            try:
                restore(train_state, old)
            except BadInput as error:
                assert "\n" not in str(error)
        path.write_bytes(data)
    data = (EARLIER / "stage" / "checkpoint.pt").read_bytes()
    for _ in range(60):
        changed = bytearray(data)
        changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        try:
            read_torch(io.BytesIO(changed))
        except ValueError as error:
            assert "\n" not in str(error)


class Block:
    """A block of numbers beside a pickle: its name and how many there should be."""

    def __init__(self, name: str, count: int) -> None:
        self.told = ("storage", torch.FloatStorage, name, "cpu", count)


class View:
    """A tensor in a pickle: of a block, from `offset` on, with a shape and strides."""

    def __init__(self, *given: object) -> None:
        self.given = (*given, False, OrderedDict())

    def __reduce__(self) -> tuple:
        return torch._utils._rebuild_tensor_v2, self.given


class Torch(pickle.Pickler):
    def persistent_id(self, value: object) -> object:
        return value.told if isinstance(value, Block) else None


def archive_of(*views: View, blocks: int = 1, kind: int = zipfile.ZIP_STORED) -> io.BytesIO:
    """A file of torch.save with blocks of four numbers."""
    pickled, out = io.BytesIO(), io.BytesIO()
    Torch(pickled, protocol=2).dump(list(views))
    with zipfile.ZipFile(out, "w", kind) as archive:
        archive.writestr("archive/data.pkl", pickled.getvalue())
        for number in range(blocks):
            archive.writestr(f"archive/data/{number}", bytes(16))
    return out


def test_an_archive_cannot_ask_for_more_memory_than_it_has_bytes():
    block = Block("0", 4)
    assert read_torch(archive_of(View(block, 0, (2, 2), (2, 1))))[0].shape == (2, 2)
    odd = {
        "huge": View(Block("0", 2**50), 0, (2**50,), (1,)), "negative": View(Block("0", -1), 0, (1,), (1,)),
        "expanded": View(block, 0, (10**12,), (0,)), "beyond": View(block, 2, (4,), (1,)),
        "strides": View(block, 0, (4,), (5,)), "shape": View(block, 0, (-2, -2), (2, 1)),
        "before": View(block, -1, (4,), (1,)),
        "name": View(Block("../../x", 4), 0, (4,), (1,)), "count": View(Block("0", 3), 0, (3,), (1,)),
        "no block": View(3, 0, (4,), (1,)), "words": View(block, "0", "4", None), "half": View(block, 0, (1.5,), (1,)),
    }  # fmt: skip
    for name, view in odd.items():
        with pytest.raises(ValueError):
            pytest.fail(f"{name}: {read_torch(archive_of(view))}")
    with pytest.raises(ValueError, match="packed"):
        read_torch(archive_of(View(block, 0, (4,), (1,)), kind=zipfile.ZIP_DEFLATED))
    data = archive_of(View(block, 0, (4,), (1,))).getvalue()
    at = data.rindex(b"PK\x01\x02")  # where the list of members says how large a block is
    lying = data[: at + 20] + struct.pack("<II", 2**31, 2**31) + data[at + 28 :]
    with pytest.raises(ValueError):
        read_torch(io.BytesIO(lying))


# checkpoints of earlier versions


@pytest.mark.parametrize("kind", ["alone", "sharded"])
def test_earlier_checkpoints_still_open(model, rows, train_state, tmp_path, kind):
    folder = EARLIER / kind / "step_00000002"
    assert restore(train_state, folder)["step"] == 2
    flat = checkpoints._flat(checkpoints._tensors(train_state))
    wanted = load_file(EARLIER / kind / "expected.safetensors")
    wanted = {name.replace("optimiser.", "optimiser.state."): value for name, value in wanted.items()}
    wanted = {name if name.startswith("optimiser") else f"model.{name}": value for name, value in wanted.items()}
    assert flat.keys() == wanted.keys() and all(torch.equal(flat[name], value) for name, value in wanted.items())
    done = train(recipe_in(model, rows, tmp_path / "run"), resume=folder, progress=False)
    assert done.step == 4 and (tmp_path / "run" / "checkpoints" / "step_00000004" / "index.json").is_file()


def test_a_run_of_an_earlier_version_goes_on(model, rows, tmp_path):
    recipe = recipe_in(model, rows, tmp_path / "run")
    train(recipe, progress=False)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    old = tmp_path / "run" / "checkpoints" / "step_00000002"
    shutil.copytree(EARLIER / "alone" / old.name, old)
    train(recipe, progress=False)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["starts"][-1]["step"] == 2
    assert (old / ".metadata").is_file() and (old.with_name("step_00000004") / "index.json").is_file()


@pytest.mark.slow
def test_two_processes_read_what_one_or_two_wrote_earlier(model, rows, tmp_path):
    for kind in ("alone", "sharded"):
        after = [recipe_in(model, rows, tmp_path / f"{kind}_{n}", shard=True, micro_batch=2) for n in (1, 2)]
        for recipe, processes in zip(after, (1, 2), strict=True):
            finish(start(recipe, processes, resume=str(EARLIER / kind / "step_00000002")))
        left, right = (weights(Path(recipe.out)) for recipe in after)
        assert all(torch.allclose(left[name], right[name], atol=2e-5) for name in left)
