"""The trainer inside one process: recipes, order, samples, what learns, the step itself, checkpoints, stops, logs."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import model_folders, near, read_json, tensors
from safetensors.torch import load_file
from test_model_golden import gradients_near, model_of, train_batch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from training_runs import COLOURS, TINY, fixture_of, recipe_of, rows_of_blocks, tiny_model, weights

from videomolmo.cli import main
from videomolmo.datasets.annotations import Points
from videomolmo.errors import BadInput
from videomolmo.io.cache import key_of
from videomolmo.model import VideoMolmoForConditionalGeneration, VideoMolmoProcessor
from videomolmo.model.tokenizer import load_tokenizer
from videomolmo.training import log as monitors
from videomolmo.training import trainer
from videomolmo.training.checkpoints import Checkpoints
from videomolmo.training.data import (
    DistributedBatchSampler,
    MicroBatches,
    Query,
    Sampler,
    Samples,
    TargetPoint,
    dataloader,
    is_direction_sensitive,
    jitter_point,
    qa_branch,
)
from videomolmo.training.log import Diverged, DivergenceDetector, read_metrics
from videomolmo.training.model import accelerator_for, part_of, set_trainable
from videomolmo.training.pointing import FlopCount, LossModule, Pointing, weight_of
from videomolmo.training.recipe import Data, Learn, Recipe, Source, read_recipe
from videomolmo.training.trainer import assemble, train
from videomolmo.weights.checkpoint import load_model

EXPORT = trainer.export
model, rows = fixture_of(tiny_model), fixture_of(rows_of_blocks)
RECIPES = sorted((Path(__file__).resolve().parents[1] / "data" / "recipes").glob("*.toml"))


pytestmark = pytest.mark.usefixtures("one_thread")


def samples_of(rows: Path, **changes: object) -> Samples:
    return Samples(replace(Data(sets=(Source("videomolmo", str(rows)),)), **changes), context=2, seed=4)


# recipes


def test_defaults_are_the_papers():
    recipe = Recipe()
    optimiser = recipe.optimiser
    assert (optimiser.beta1, optimiser.beta2, optimiser.epsilon, optimiser.clip) == (0.9, 0.95, 1e-6, 1.0)
    assert (optimiser.language, optimiser.vision, optimiser.connector, optimiser.temporal) == (1e-5, 5e-6, 5e-6, 5e-6)
    assert (optimiser.warmup, optimiser.batch, optimiser.micro_batch, optimiser.epochs) == (10, 256, 1, 4)
    assert recipe.run.precision == "float32" and recipe.learn.names == ("vision", "temporal", "connector", "language")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_are_valid(path):
    assert read_recipe(path).model.source


def test_a_recipe_may_begin_with_a_byte_order_mark_and_end_its_lines_as_windows_does(tmp_path):
    text = RECIPES[0].read_text(encoding="utf-8")
    (tmp_path / "recipe.toml").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert read_recipe(tmp_path / "recipe.toml") == read_recipe(RECIPES[0])


@pytest.mark.parametrize(
    "text, message",
    [
        ("[optimiser]\nrate = 1", "unknown keys"),
        ("[optimiser]\nbatch = 2.5", "expected a whole number"),
        ("[optimiser]\nbatch = true", "expected a whole number"),
        ("[optimiser]\nbatch = 6\nmicro_batch = 4", "multiple of micro_batch"),
        ("[run]\nprecision = 'float16'", "one of"),
        ("[learn]\nparts = ['lora', 'language']", "drop one"),
        ("[learn]\nparts = 'heads'", "expected some of"),
        ("[model]\nquantize = '4bit'", "four bits cannot learn"),
        ("[[data.sets]]\nsplit = 'train'", "lacks 'name'"),
        ("data = 3", "expected a table"),
        ("out = ", "is not TOML"),
        ("out = " + "[" * 100_000, "is not TOML"),
    ],
)
def test_a_wrong_recipe_is_refused(tmp_path, capsys, text, message):
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(BadInput, match=message):
        read_recipe(tmp_path / "recipe.toml")
    assert main(["train", str(tmp_path / "recipe.toml"), "--out", str(tmp_path / "run")]) == 2
    assert not (tmp_path / "run").exists()


def test_keys_of_earlier_recipes_are_read_and_their_runs_resumed(tmp_path):
    before, now = tmp_path / "before.toml", tmp_path / "now.toml"
    before.write_text("[data]\nearly = 0.5\nbroken = 'replace'\n[run]\ndrifted = 3\n")
    now.write_text("[data]\nstart_prob = 0.5\non_error = 'replace'\n[run]\ndrift_limit = 3\n")
    recipe = read_recipe(before)
    assert recipe == read_recipe(now) and (recipe.data.start_prob, recipe.run.drift_limit) == (0.5, 3)
    before = "77adb8d243c4fb6a2182f52e94b7b59edd0b1f343fb1910818bf828be3f9c5fa"  # of earlier runs
    assert key_of(Recipe().reproducibility_key()) == before
    settings = recipe.reproducibility_key()["data"]
    assert settings["early"] == 0.5 and not {"start_prob", "on_error"} & set(settings)
    now.write_text("[data]\nstart_prob = 0.5\nearly = 0.1\n")
    with pytest.raises(BadInput, match=r"\[data\] has unknown keys \['early'\]"):
        read_recipe(now)


# order


def test_every_epoch_has_every_unit_once_and_in_another_order():
    order = Sampler(10, seed=3)
    epochs = [[order.unit(position) for position in range(first, first + 10)] for first in (0, 10)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10)) and epochs[0] != epochs[1]
    assert epochs[0] != [Sampler(10, seed=4).unit(position) for position in range(10)]


@pytest.mark.parametrize("processes, micro", [(1, 1), (1, 3), (2, 2), (4, 3), (3, 4)])
def test_processes_share_a_batch_without_gap_or_overlap(processes, micro):
    parts = [DistributedBatchSampler(12, micro, processes, process) for process in range(processes)]
    seen = [at for part in parts for turn in range(part.passes) for at in part.positions(5, turn)]
    assert sorted(seen) == list(range(60, 72))


# samples


def test_rows_of_a_clip_share_a_frame(rows):
    samples = samples_of(rows, templates=False)
    assert len(samples) == 6
    for position in range(6):
        sample = samples[position]
        assert len(sample.branches) == 2 and sample.past.shape == (min(2, sample.about["frame"]), 32, 32, 3)
        for question, answer in sample.branches:
            colour = question.removeprefix("Point to the ").removesuffix(" block.")
            x, y = (float(part.split('"')[0]) for part in answer.split('="')[1:3])
            pixel = sample.frame[int(y * 0.32), int(x * 0.32)].astype(int)
            assert np.abs(pixel - COLOURS[colour]).max() < 60 and f">{colour} block<" in answer


def test_a_sample_is_a_function_of_its_position(rows):
    settings = dict(jitter_pct=2.0, mirror=0.5, brightness=0.3, contrast=0.3, start_prob=0.5)
    one, other = samples_of(rows, **settings), samples_of(rows, **settings)
    for position in (7, 3, 7):
        left, right = one[position], other[position]
        assert left.about == right.about and np.array_equal(left.frame, right.frame)
    assert one[3].about != one[9].about  # another epoch


def test_worker_processes_change_nothing(model, rows):
    processor = VideoMolmoProcessor(load_tokenizer(model), TINY)
    batches = MicroBatches(
        samples_of(rows, jitter_pct=1.0, start_prob=0.5), processor, DistributedBatchSampler(4, 2, 1, 0), 1, 3
    )
    alone, helped = list(dataloader(batches, 0)), list(dataloader(batches, 2))
    assert len(alone) == len(helped) == 4
    for left, right in zip(alone, helped, strict=True):
        assert left.about == right.about
        assert all(torch.equal(left.tensors[name], right.tensors[name]) for name in left.tensors)


def test_generated_sets_have_answers_and_refusals():
    wanted = {"clips": 12, "frames": 3, "height": 64, "width": 64}
    sets = (Source("generated", options=wanted), Source("vpos_nano", options=wanted | {"clips": 1}, repeat=2))
    samples = Samples(Data(sets=sets, mirror=1.0), context=2, seed=0)
    answers = [answer for position in range(len(samples)) for _, answer in samples[position].branches]
    assert any(answer == "There are none." for answer in answers)
    assert sum(answer.startswith("<point") for answer in answers) > len(answers) / 2


def test_sides_are_never_mirrored_and_points_turn_with_the_frame(rows):
    expression = samples_of(rows).sets[0][0].expressions[0]
    left = Query(replace(expression, text="the dog on the left"), ())
    assert is_direction_sensitive([left]) and not is_direction_sensitive([Query(expression, ())])
    spot = Query(replace(expression, text="a cat"), (TargetPoint(np.array([8.0, 12.0])),))
    rng = np.random.default_rng(0)
    assert 'x="75.0" y="50.0"' in qa_branch(rng, spot, (24, 32), mirrored=True)[1]
    assert qa_branch(rng, left, (24, 32))[1] == "There are none."


def test_noise_stays_in_the_mask():
    mask = np.zeros((40, 60), bool)
    mask[10:14, 20:26] = True
    rng, spot = np.random.default_rng(0), TargetPoint(np.array([22.5, 12.5]), mask)
    points = np.array([jitter_point(rng, spot, 5.0, (40, 60)) for _ in range(200)])
    columns, lines = np.floor(points).astype(int).T
    assert mask[lines, columns].all() and len(np.unique(points, axis=0)) > 100


def test_broken_clips_stop_or_are_replaced(rows, tmp_path):
    broken = rows_of_blocks(tmp_path, clips=3)
    for path in (broken / "clip_1").iterdir():
        path.write_bytes(b"no picture")
    stopping = samples_of(broken)
    with pytest.raises(BadInput, match=r"sample \d+.*clip_1"):
        [stopping[position] for position in range(3)]
    drawn = [samples_of(broken, on_error="replace")[position] for position in range(3)]
    assert sum("replaced" in sample.about for sample in drawn) == 1
    assert "clip_1" not in [sample.about["clip"] for sample in drawn]


def test_nothing_to_ask_is_said(rows, monkeypatch):
    monkeypatch.setattr(Points, "points", lambda self, thing, frame: None)
    with pytest.raises(BadInput, match="no frame on which"):
        samples_of(rows)[0]


# what learns


def test_all_that_learns_gets_a_gradient_and_nothing_else(model, rows):
    for parts in (("everything",), ("temporal",), ("lora", "connector")):
        train_state = assemble(
            recipe_of(model, rows, Path(), parts=parts), accelerator_for(recipe_of(model, rows, Path()))
        )
        processor = VideoMolmoProcessor(load_tokenizer(model), TINY)
        batch = next(
            iter(dataloader(MicroBatches(samples_of(rows), processor, DistributedBatchSampler(2, 2, 1, 0), 0, 1), 0))
        ).tensors
        train_state.loss_module(batch).backward()
        kind = train_state.kind
        for name, parameter in train_state.model.named_parameters():
            chosen = part_of(kind, name) in Learn(parts).names and not kind.has_no_gradient(TINY, name)
            assert (parameter.grad is not None) == parameter.requires_grad == chosen, name


def test_only_the_temporal_module_changes(model, rows, tmp_path):
    train(recipe_of(model, rows, tmp_path / "run", parts=("temporal",), steps=2), progress=False)
    before, after = VideoMolmoForConditionalGeneration.from_pretrained(model).state_dict(), weights(tmp_path / "run")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith("temporal.")}
    held = sum(path.stat().st_size for path in (tmp_path / "run/checkpoints/step_00000002").glob("*.safetensors"))
    assert held < 3.5 * sum(after[name].nbytes for name in changed) + 50_000, "frozen weights are saved again and again"


@pytest.mark.parametrize("quantize", [None, "4bit"])
def test_lora_merges_into_a_plain_model(model, rows, tmp_path, monkeypatch, quantize):
    if quantize:
        pytest.importorskip("bitsandbytes")
    recipe = recipe_of(model, rows, tmp_path / "run", parts=("lora",), steps=3, rank=4, quantize=quantize)
    held = []
    monkeypatch.setattr(trainer, "export", lambda *given: held.append(given[0]) or EXPORT(*given))
    outcome = train(recipe, progress=False)
    plain = load_model(outcome.model)
    processor = VideoMolmoProcessor(load_tokenizer(model), TINY)
    batch = next(
        iter(dataloader(MicroBatches(samples_of(rows), processor, DistributedBatchSampler(2, 2, 1, 0), 0, 1), 0))
    ).tensors
    with torch.no_grad():
        adapted, merged = held[0].model.eval()(**batch).logits, plain(**batch).logits
        start = load_model(model)(**batch).logits
    assert (merged - start).abs().max() > 0.01
    assert torch.allclose(adapted, merged, atol=1e-4) or quantize
    train(recipe, progress=False)  # nothing is left to do: its last checkpoint is read
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in weights(tmp_path / "run").items())
    after = weights(tmp_path / "run")
    changed = [name for name, value in load_model(model).state_dict().items() if not torch.equal(value, after[name])]
    assert changed and all(name.endswith("_proj.weight") for name in changed)


def test_a_part_without_weights_is_refused(rows, tmp_path):
    model = tiny_model(tmp_path / "model", replace(TINY, temporal="addition"))
    with pytest.raises(BadInput, match="temporal='addition'"):
        train(recipe_of(model, rows, tmp_path / "run", parts=("temporal",)), progress=False)
    assert not (tmp_path / "run").exists()


# the step


@pytest.mark.parametrize("folder", model_folders())
def test_the_step_is_the_golden_one(folder):
    golden, norms = tensors(folder / "train_outputs.safetensors"), read_json(folder / "train_grad_norms.json")
    model, (batch, _) = model_of(folder), train_batch(folder)
    set_trainable(Pointing(), model, Learn())
    loss = LossModule(model)(batch)
    loss.backward()
    weight = weight_of(batch)
    near("training loss, by the trainer", (loss / weight)[None], golden["loss"], 1e-5)
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad /= weight
    gradients_near("gradients, by the trainer", model, golden, norms)


def test_accumulation_and_checkpointing_change_only_the_last_bits(model, rows, tmp_path):
    runs = {}
    ways = {"plain": {"micro_batch": 4}, "split": {"micro_batch": 1}, "again": {"gradient_checkpointing": True}}
    for name, changes in ways.items():
        train(recipe_of(model, rows, tmp_path / name, **changes, steps=3), progress=False)
        runs[name] = [(row["loss"], row["grad_norm"]) for row in read_metrics(tmp_path / name)]
    assert np.allclose(runs["plain"], runs["split"], rtol=1e-5) and np.allclose(runs["plain"], runs["again"], rtol=1e-5)


def test_mixed_precision_follows_float32(model, rows, tmp_path):
    curves = []
    for precision in ("float32", "mixed"):
        train(recipe_of(model, rows, tmp_path / precision, precision=precision, steps=3), progress=False)
        curves.append([row["loss"] for row in read_metrics(tmp_path / precision)])
    assert curves[0] != curves[1] and np.allclose(*curves, rtol=0.03)


@pytest.mark.slow
def test_it_overfits_eight_samples(model, tmp_path):
    rows = rows_of_blocks(tmp_path / "rows", clips=8, frames=1, blocks=1)
    recipe = recipe_of(
        model, rows, tmp_path / "run", steps=200, batch=8, micro_batch=8, questions=1, templates=False,
        checkpoint_every=999, language=3e-3, vision=1.5e-3, temporal=1.5e-3, connector=3e-3, warmup=10, peak_tflops=0.0,
    )  # fmt: skip
    outcome = train(recipe, progress=False)
    trained = load_model(outcome.model)
    processor = VideoMolmoProcessor(load_tokenizer(outcome.model), trained.config)
    samples = Samples(recipe.data, context=2, seed=recipe.run.seed)
    texts, wanted = [], []
    for position in range(8):
        sample = samples[position]
        question, answer = sample.branches[0]
        inputs = {name: value[None] for name, value in processor(sample.frame, question, sample.past).items()}
        keys = ("input_ids", "pixels", "past_pixels", "image_input_idx")
        ids = trained.generate(**{key: inputs[key] for key in keys}, max_new_tokens=60)
        texts.append(processor.decode(ids[0, inputs["input_ids"].shape[1] :]))
        wanted.append(answer)
    assert texts == wanted


# going on, stopping, telling


def test_a_signal_saves_and_the_run_goes_on(model, rows, tmp_path, monkeypatch, capsys):
    plain = recipe_of(model, rows, tmp_path / "plain")
    train(plain, progress=False)
    count, tell = iter(range(100)), monitors.Monitor.log
    monkeypatch.setattr(
        monitors.Monitor, "log",
        lambda self, *row: (tell(self, *row), next(count) == 2 and os.kill(os.getpid(), signal.SIGTERM))[0],
    )  # fmt: skip
    stopped = train(replace(plain, out=str(tmp_path / "stopped")), progress=False)
    assert (stopped.step, stopped.model, stopped.stopped_by) == (3, None, signal.SIGTERM)
    assert stopped.checkpoint.name == "step_00000003"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    done = train(replace(plain, out=str(tmp_path / "stopped")), progress=False)
    assert done.step == 6 and done.model == tmp_path / "stopped" / "model"
    left, right = weights(tmp_path / "plain"), weights(tmp_path / "stopped")
    assert all(torch.equal(left[name], right[name]) for name in left)
    starts = json.loads((tmp_path / "stopped" / "run.json").read_text())["starts"]
    assert [start["step"] for start in starts] == [0, 3]
    with pytest.raises(BadInput, match="other optimiser"):
        train(recipe_of(model, rows, tmp_path / "stopped", language=1e-5), progress=False)


def test_checkpoints_leave_what_is_not_theirs(model, rows, tmp_path):
    recipe = recipe_of(model, rows, tmp_path / "run", checkpoint_every=1, keep=1, steps=3)
    strange = tmp_path / "run" / "checkpoints" / "step_00000001"
    train(replace(recipe, run=replace(recipe.run, checkpoint_every=3)), progress=False)
    strange.mkdir()
    (strange / "state.json").write_text('{"step": 1, "run": "another"}')
    (strange / "notes.txt").write_text("mine")
    left = tmp_path / "run" / "checkpoints" / ".unfinished_step_00000002"
    left.mkdir()
    (left / "part_0000.safetensors").write_bytes(b"cut off")
    (left / ".tmpgu7KAW").write_bytes(b"cut off in safetensors, before it gave the file its name")
    (left / "thesis.txt").write_text("mine")
    train_state = assemble(recipe, accelerator_for(recipe))
    Checkpoints(strange.parent, "yet another", 1).save(train_state, {"step": 9})
    assert (strange / "notes.txt").is_file() and (strange / "state.json").is_file()
    assert [path.name for path in left.iterdir()] == ["thesis.txt"]
    assert (strange.parent / "step_00000003").is_dir() and (strange.parent / "step_00000009").is_dir()


def test_a_damaged_checkpoint_is_named(model, rows, tmp_path):
    recipe = recipe_of(model, rows, tmp_path / "run", steps=4)
    train(recipe, progress=False)
    last = tmp_path / "run" / "checkpoints" / "step_00000004"
    whole = (last / "part_0000.safetensors").read_bytes()
    (last / "part_0000.safetensors").write_bytes(b"")
    with pytest.raises(BadInput, match="resume from an earlier"):
        train(recipe, resume=last, progress=False)
    (last / "part_0000.safetensors").write_bytes(whole)
    before = weights(tmp_path / "run")
    done = train(recipe, resume=last.with_name("step_00000002"), progress=False)
    assert done.step == 4 and all(torch.equal(before[name], value) for name, value in weights(tmp_path / "run").items())
    slower = recipe_of(model, rows, tmp_path / "slower", steps=4, language=1e-4)
    train(slower, resume=last, progress=False)
    train(replace(slower, out=str(tmp_path / "slow")), resume=last.with_name("step_00000002"), progress=False)
    assert [row["rate_language"] <= 1e-4 for row in read_metrics(tmp_path / "slow")] == [True, True]
    with pytest.raises(BadInput, match="is no checkpoint"):
        train(recipe, resume=tmp_path, progress=False)


def test_a_loss_that_is_not_a_number_stops_with_its_sample(model, rows, tmp_path, monkeypatch, capsys):
    pass_of, count = LossModule.forward, iter(range(100))
    monkeypatch.setattr(
        LossModule, "forward", lambda self, batch: pass_of(self, batch) * (float("nan") if next(count) == 9 else 1)
    )
    recipe = recipe_of(model, rows, tmp_path / "run")
    with pytest.raises(Diverged, match=r"step 3 of 6: the loss is not finite.*offending"):
        train(recipe, progress=False)
    found = json.loads((tmp_path / "run/offending/step_00000002_process_0.json").read_text())
    culprit = found["passes"][-1]["samples"][0]
    assert culprit["position"] == 9 and culprit["branches"]
    again = Samples(recipe.data, context=2, seed=recipe.run.seed)[9]
    batch = load_file(tmp_path / "run/offending/step_00000002_process_0.safetensors")
    processor = VideoMolmoProcessor(load_tokenizer(model), TINY)
    example = processor.training_example(again.frame, [list(pair) for pair in again.branches], again.past)
    assert again.about == culprit and torch.equal(batch["pixels"][0], example["pixels"])


def test_a_diverging_loss_is_noticed():
    detector = DivergenceDetector(limit=5.0)
    assert not any(detector.is_diverging(loss) for loss in [30.0, *[1.0] * 60])
    assert not detector.is_diverging(4.0) and detector.is_diverging(9.0) and detector.is_diverging(float("inf"))


def test_what_a_run_tells(model, rows, tmp_path):
    train(recipe_of(model, rows, tmp_path / "run", peak_tflops=0.001), progress=False)
    metrics = read_metrics(tmp_path / "run")
    assert [row["step"] for row in metrics] == [1, 2, 3, 4, 5, 6]
    first = metrics[0]
    assert first["samples"] == 4 and first["samples_per_s"] > 0 and first["tokens_per_s"] > first["samples_per_s"]
    assert first["share_of_peak"] == pytest.approx(first["tflops"] / 0.001, rel=1e-5)
    assert 0 <= first["data_wait_share"] <= 1 and first["rate_vision"] == pytest.approx(1e-3)
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.value for event in board.Scalars("loss")] == pytest.approx([row["loss"] for row in metrics])


def test_arithmetic_is_counted_as_torch_counts_it(model, rows):
    processor = VideoMolmoProcessor(load_tokenizer(model), TINY)
    batch = next(
        iter(dataloader(MicroBatches(samples_of(rows), processor, DistributedBatchSampler(1, 1, 1, 0), 0, 1), 0))
    ).tensors
    tiny = VideoMolmoForConditionalGeneration.from_pretrained(model).train()
    set_trainable(Pointing(), tiny, Learn())
    # as plain products: which fused attention kernels of a CPU are counted differs between releases of torch
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        LossModule(tiny)(batch).backward()
    counted = FlopCount(TINY, Learn()).operations(1, batch["input_ids"].shape[1])
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.01)
    assert FlopCount(TINY, Learn(("temporal",))).operations(1, 60) < 0.8 * FlopCount(TINY, Learn()).operations(1, 60)
