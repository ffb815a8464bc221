"""Training VideoGLaMM by the one trainer: the golden step, what learns, the same bits after a kill, adapters."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_videoglamm
import torch
from golden import near, read_json, tensors
from test_videoglamm_golden import ABSENT, FOLDERS, LOSS, batch_of, gradients_near, model_of
from training_runs import finish, start, weights

from videomolmo.cli import main
from videomolmo.datasets import read_dataset
from videomolmo.errors import BadInput
from videomolmo.systems.videoglamm import VideoGLaMMForConditionalGeneration, VideoGLaMMProcessor
from videomolmo.systems.videoglamm.examples import VIEWS, read_conversations, training_batch
from videomolmo.training import trainer
from videomolmo.training.log import read_metrics
from videomolmo.training.model import accelerator_for, part_of, set_trainable
from videomolmo.training.recipe import Data, Learn, Model, Optimiser, Recipe, Run, Source, read_recipe
from videomolmo.training.trainer import assemble, train
from videomolmo.training.videoglamm import ConversationSamples, GroundedLoss, VideoGLaMM

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = {"clips": 3, "frames": 4, "height": 32, "width": 32}
PUBLISHED = Learn(("lora", "words", "projector", "mask_decoder"), rank=2, alpha=4.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("glamm")
    tiny_videoglamm.save(place)
    return place


def recipe(folder: Path, out: Path, learn: Learn = PUBLISHED, supervised: int = 4, **changes) -> Recipe:
    fast = {name: 5e-3 for name in ("lora", "words", "projector", "mask_decoder", "connector", "language")}
    data = Data(sets=(Source("gcg_nano", options=SMALL),), questions=2, supervised=supervised)
    return Recipe(
        out=str(out), model=Model(str(folder)), learn=learn, data=data,
        optimiser=replace(Optimiser(**fast, batch=2, warmup=1, steps=3), **changes),
        run=Run(workers=0, checkpoint_every=1, cpu=True),
    )  # fmt: skip


def flat(batch: dict) -> dict[str, torch.Tensor]:
    """A golden batch by one name for each tensor."""
    lists = {f"{name}.{number}": value for name in VIEWS for number, value in enumerate(batch[name])}
    words = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    return words | lists | {"offset": torch.tensor(batch["offset"])}


@pytest.mark.parametrize("folder", [pytest.param(path, id=path.name) for path in FOLDERS] or ABSENT)
def test_the_step_is_the_golden_one(folder, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)  # see `plain_kernels` of the other golden tests
    golden, norms = tensors(folder / "outputs.safetensors"), read_json(folder / "train_grad_norms.json")
    model, kind = model_of(folder).train(), VideoGLaMM()
    set_trainable(kind, model, Learn())
    batch = flat(batch_of(tensors(folder / "inputs.safetensors")))
    terms, weight = GroundedLoss(model)(batch), kind.counts(batch).weight
    names = ("ce_loss", "mask_bce_loss", "mask_dice_loss")
    for name, value in zip(names, terms, strict=True):
        near(f"{name}, by the trainer", (value / weight)[None], golden[name], LOSS)
    terms.sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        if parameter.grad is not None:
            parameter.grad /= weight
    gradients_near(model, golden, norms)


def test_nano_learns_in_the_same_parts_and_each_has_its_group(tmp_path):
    wanted = replace(recipe(Path("nano-glamm"), tmp_path, Learn(("connector", "projector", "mask_decoder", "words"))))
    state = assemble(wanted, accelerator_for(wanted))
    assert [group["part"] for group in state.optimiser.param_groups] == [
        "words", "connector", "projector", "mask_decoder",
    ]  # fmt: skip
    record = read_dataset("gcg_nano", clips=1, frames=4)[0]
    processor = VideoGLaMMProcessor.from_pretrained(state.folder)
    told = [read_conversations(record, record.expressions[:2], processor.config.frames)]
    state.loss_module(training_batch(processor, told)).sum().backward()
    for name, parameter in state.model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert not parameter.requires_grad or part_of(state.kind, name) in wanted.learn.names


def test_a_sample_is_a_function_of_its_position_and_masks_are_learnt_on_four_or_eight_frames():
    data = Data(sets=(Source("gcg_nano", options=SMALL | {"frames": 9}),), questions=3, supervised=8)
    samples, again = ConversationSamples(data, 4, seed=1), ConversationSamples(data, 4, seed=1)
    for position in range(4):
        one, other = samples[position], again[position]
        assert one.about == other.about and np.array_equal(one.masks, other.masks)
        assert len(one.frames) == 4 and len(one.masked) == one.about["supervised"] == 8
        assert 1 <= len(one.exchanges) <= 3 and one.masks.shape[1:] == (8, 32, 32)
        assert sum(answer.count("[SEG]") for _, answer in one.exchanges) == len(one.masks)
    assert samples.mark() == again.mark() and len({samples[position].about["clip"] for position in range(3)}) == 3
    assert len(ConversationSamples(replace(data, supervised=4), 4, seed=1)[0].masked) == 4


def test_a_killed_training_goes_on_to_the_same_bits_and_has_learnt(folder, tmp_path):
    settings = {"steps": 6, "batch": 4, "micro_batch": 2}
    finish(start(recipe(folder, tmp_path / "plain", **settings)))
    again = recipe(folder, tmp_path / "again", **settings)
    started = start(again)
    while not list((tmp_path / "again" / "checkpoints").glob("step_*2")):
        started[0].join(0.05)
    os.kill(started[0].pid, signal.SIGKILL)
    started[0].join()
    finish(start(again))
    left, right = weights(tmp_path / "plain"), weights(tmp_path / "again")
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
    rows = read_metrics(tmp_path / "plain")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6] and rows[-1]["loss"] < 0.9 * rows[0]["loss"]
    for row in rows:
        assert row["loss"] == pytest.approx(sum(row[f"loss_{name}"] for name in ("ce", "bce", "dice")), rel=1e-5)
        assert row["rate_words"] == row["rate_lora"] > 0 and row["samples"] == 4


def test_adapters_are_merged_and_written_by_themselves(folder, tmp_path, monkeypatch):
    peft = pytest.importorskip("peft")
    held, export = [], trainer.export
    monkeypatch.setattr(trainer, "export", lambda *given: held.append(given[0]) or export(*given))
    outcome = train(recipe(folder, tmp_path / "run", Learn(("lora",), rank=2, alpha=4.0)), progress=False)
    before, merged = (VideoGLaMMForConditionalGeneration.from_pretrained(one) for one in (folder, outcome.model))
    changed = [name for name, value in merged.state_dict().items() if not torch.equal(value, before.state_dict()[name])]
    assert changed == [f"model.layers.{layer}.self_attn.qkv_proj.weight" for layer in range(2)]
    samples = ConversationSamples(recipe(folder, tmp_path).data, 4, seed=1)
    batch = training_batch(VideoGLaMMProcessor.from_pretrained(outcome.model), [samples[0]])
    loaded = peft.PeftModel.from_pretrained(before, str(tmp_path / "run" / "adapter")).base_model.model
    with torch.no_grad():
        losses = [GroundedLoss(one.eval())(batch) for one in (held[0].model, merged, loaded)]
        start = GroundedLoss(VideoGLaMMForConditionalGeneration.from_pretrained(folder))(batch)
    assert torch.allclose(losses[0], losses[1], atol=1e-5) and torch.allclose(losses[0], losses[2], atol=1e-6)
    assert (losses[0] - start).abs().max() > 1e-3
    stored = tensors(tmp_path / "run" / "checkpoints" / "step_00000003" / "part_0000.safetensors")
    assert stored and all(".lora_" in name for name in stored)


def test_mixed_precision_and_layers_computed_again_follow_float32(folder, tmp_path):
    rows = []
    for name, machine in (("plain", {}), ("again", {"precision": "mixed", "gradient_checkpointing": True})):
        wanted = recipe(folder, tmp_path / name, steps=2, batch=1)
        train(replace(wanted, run=replace(wanted.run, **machine)), progress=False)
        rows.append(read_metrics(tmp_path / name)[0])
    for term in ("loss_ce", "loss_bce", "loss_dice"):
        assert rows[0][term] == pytest.approx(rows[1][term], rel=0.03) and rows[0][term] != rows[1][term]


def test_how_a_batch_is_divided_is_part_of_the_run(folder, tmp_path):
    """As in the released code the loss is the mean over passes; of the other models it is that over all tokens."""
    short = {"learn": Learn(("projector",)), "steps": 1}
    train(recipe(folder, tmp_path, **short), progress=False)
    with pytest.raises(BadInput, match="other optimiser"):
        train(recipe(folder, tmp_path, **short, micro_batch=2), progress=False)


@pytest.mark.parametrize(
    "data, model, said",
    [
        ({"mirror": 0.5}, {}, "data.mirror is 0.5"),
        ({"sets": (Source("generated"),)}, {}, "'generated', which has no grounded answers; expected .*gcg_nano"),
        ({}, {"context": 2}, "model.context is 2, which training VideoGLaMM"),
    ],
)
def test_what_it_cannot_learn_from_is_refused(folder, tmp_path, data, model, said):
    wanted = recipe(folder, tmp_path / "run")
    wanted = replace(wanted, data=replace(wanted.data, **data), model=replace(wanted.model, **model))
    with pytest.raises(BadInput, match=said):
        train(wanted, progress=False)
    assert not (tmp_path / "run").exists()


def test_the_command_trains_by_a_recipe_of_grounded_captions(folder, tmp_path, capsys):
    shipped = Path(__file__).resolve().parents[1] / "data" / "recipes" / "nano_glamm.toml"
    assert read_recipe(shipped).learn.names == ("connector", "words", "projector", "mask_decoder", "lora")
    text = shipped.read_text(encoding="utf-8").replace('"nano-glamm"', f'"{folder.as_posix()}"')
    for before, now in (("batch = 8", "batch = 1"), ("clips = 2000", "clips = 2"), ("steps = 300", "steps = 1"),
                        ("workers = 1", "workers = 0")):  # fmt: skip
        assert before in text
        text = text.replace(before, now)
    (tmp_path / "recipe.toml").write_text(text.replace("micro_batch = 2", "micro_batch = 1"), encoding="utf-8")
    assert main(["train", str(tmp_path / "recipe.toml"), "--out", str(tmp_path / "run")]) == 0
    assert "1 steps; the model is in" in capsys.readouterr().out
    assert (tmp_path / "run" / "adapter" / "adapter_config.json").is_file()
