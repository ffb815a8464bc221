"""The temporal ablation: what all cells share, what a cell learns and answers, and the table that the README shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from videomolmo.errors import BadInput
from videomolmo.lab import temporal_ablation, temporal_data, temporal_report, temporal_training
from videomolmo.lab import temporal_training as cells
from videomolmo.lab import temporal_training as view
from videomolmo.lab.exercises import answer_loss_of, check_loss_exercise, check_windows_exercise, windows_of
from videomolmo.lab.nano import initial_weights
from videomolmo.lab.nano.batches import COLOUR_CLASSES, MOTION_CLASSES, SHAPE_CLASSES
from videomolmo.lab.nano.checkpoint import load_checkpoint
from videomolmo.lab.nano.rendered_clips import render_clip
from videomolmo.lab.temporal_data import LONGEST, TEST, EncodedClips
from videomolmo.lab.temporal_training import LinearReadout
from videomolmo.model import VideoMolmoForConditionalGeneration
from videomolmo.model.config import TEMPORAL_KINDS
from videomolmo.model.decoding import answer_loss
from videomolmo.model.temporal import to_windows
from videomolmo.weights.hub import nano_pointing_96

SMALL = replace(TEST, clips=14)
TINY = cells.stages(warmup=2, joint=1)
SIZE = temporal_ablation.Size(warmup=2, joint=1, train_clips=14, test_clips=14)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def clips(cache) -> EncodedClips:
    return temporal_data.encode_clips(SMALL, cache)


# What all cells share


def test_the_grid_runs_every_different_cell_once_and_the_most_telling_first():
    grid = temporal_ablation.grid()
    assert len(grid) == len(set(grid)) == 3 * (1 + 3 * 6 + 5)  # attention to all of one frame is attention to its mean
    assert {cell.variant for cell in grid[:5]} == set(TEMPORAL_KINDS)
    assert {cell.context for cell in grid[:5]} == {0, 4} and {cell.seed for cell in grid[:5]} == {1}
    assert temporal_ablation.grid(["none", "addition"], [0], [5]) == [temporal_ablation.Cell("none", 0, 5)]
    assert temporal_ablation.Cell("cross_attention_all", 1, 1) in temporal_ablation.grid(
        ["cross_attention_all"], [1], [1]
    )


@pytest.mark.parametrize(
    "wrong", [{"variants": ["average"]}, {"variants": []}, {"contexts": [7]}, {"seeds": []}, {"seeds": [-1]}]
)
def test_the_grid_names_what_it_does_not_know(wrong):
    with pytest.raises(BadInput, match=f"{next(iter(wrong))} is .*expected"):
        temporal_ablation.grid(**wrong)


def test_clips_are_seen_once_and_then_read(clips, cache, monkeypatch):
    monkeypatch.setattr(VideoMolmoForConditionalGeneration, "from_pretrained", lambda *_: pytest.fail("encoded again"))
    again = temporal_data.encode_clips(SMALL, cache)
    assert (again.features == clips.features).all() and again.objects == clips.objects


def test_features_are_those_of_the_shipped_tower(clips):
    model = VideoMolmoForConditionalGeneration.from_pretrained(nano_pointing_96())
    frames, ids, things = render_clip(SMALL, 3)
    pixels = temporal_training.processor_of(model).image.pixels_only(frames)
    with torch.inference_mode():
        features = model.encode_frames(pixels)[:, 0].numpy()
    assert np.allclose(clips.features[3], features, atol=0.02, rtol=2e-3)
    assert (clips.ids[3] == ids[-1]).all() and clips.objects[3] == things


def test_a_batch_holds_the_last_frames_oldest_first(clips):
    batch = clips.batch(np.array([5, 2]), 3)
    assert torch.equal(batch["features"][:, 0], torch.from_numpy(clips.features[[5, 2], -1]))
    assert torch.equal(batch["past"][1, :, 0], torch.from_numpy(clips.features[2, LONGEST - 3 : LONGEST]))
    assert torch.equal(batch["window_moved"].nan_to_num(), torch.from_numpy(clips.moved[[5, 2], 2]).nan_to_num())
    single = clips.batch(np.array([5]), 0)
    assert "past" not in single and single["window_moved"].isnan().all()


def test_a_mixed_frame_takes_each_window_whole_from_its_clip(clips):
    chosen = next(temporal_data.mixed_batches(clips, 3, 1, seed=4))
    batch = clips.batch(chosen, 2)
    grid = round(clips.features.shape[2] ** 0.5)
    frames = [to_windows(torch.from_numpy(clips.features[:, at])[:, None], grid)[:, 0] for at in (-1, -3)]
    for row, at in ((0, 0), (1, 17), (2, 35)):
        clip = int(chosen[row, at])
        assert torch.equal(to_windows(batch["features"], grid)[row, 0, at], frames[0][clip, at])
        assert torch.equal(to_windows(batch["past"][:, 0], grid)[row, 0, at], frames[1][clip, at])
        assert batch["window_shape"][row, at] == clips.labels["shape"][clip, at]


def test_mixed_batches_are_the_same_for_a_seed_and_show_more_objects_than_frames_do(clips):
    def take(seed: int) -> list:
        return [chosen.tolist() for chosen in temporal_data.mixed_batches(clips, 4, 5, seed)]

    assert take(1) == take(1) != take(2)
    shown = clips.labels["colour"] > 0
    able = shown.any(0) & ~shown.all(0)
    there = np.concatenate(
        [shown[chosen, np.arange(36)][:, able] for chosen in temporal_data.mixed_batches(clips, 40, 5, 3)]
    )
    assert abs(there.mean() - (1 - temporal_data.BACKGROUND)) < 0.05 < there.mean() - shown.mean()


def test_questions_can_be_answered_and_come_once_of_each_kind(clips):
    asked = temporal_data.questions(clips)
    assert len({(question.clip, question.kind) for question in asked}) == len(asked) > 10
    assert {question.kind for question in asked} == set(temporal_data.KINDS)
    for question in asked:
        meant = [
            n for n, thing in enumerate(clips.objects[question.clip]) if question.query.means(thing) and thing.seen
        ]
        assert tuple(meant) == question.targets and len(meant) == (question.kind != "absent motion")
        assert question.query.phrase in question.text


# A cell


def test_variants_begin_alike_and_only_what_lies_behind_the_tower_is_trained(clips):
    start = initial_weights.single_frame_start()
    for variant in ("addition", "cross_attention"):
        state = cells.train(variant, 2, 1, clips, TINY).state_dict()
        same = {name for name in start if torch.equal(state[name], start[name])}
        assert {name for name in start if name.startswith(("model.vision.", "model.language."))} <= same
        assert not {name for name in start if name.startswith("model.connector.projector")} & same
    assert state["model.temporal.attention.wo.weight"].abs().max() > 0  # it began at zero


def test_a_cell_is_a_function_of_its_seed(clips):
    one, again, other = (cells.train("cross_attention", 1, seed, clips, TINY).state_dict() for seed in (1, 1, 2))
    name = "model.connector.projector.down.weight"
    assert torch.equal(one[name], again[name]) and not torch.equal(one[name], other[name])


@pytest.mark.parametrize("empty", [0, 1])
def test_a_stage_without_steps_is_left_out_and_the_other_is_trained_as_always(clips, monkeypatch, empty):
    budget, seen = [replace(stage, steps=2) for stage in TINY], []
    budget[empty] = replace(budget[empty], steps=0)

    def watch(both, optimiser, average, batch, stage, step):
        seen.append((stage.name, stage.max_lr, step, batch["features"].sum().item()))
        return advance(both, optimiser, average, batch, stage, step)

    advance = cells.advance
    monkeypatch.setattr(cells, "advance", watch)
    trained = cells.train("addition", 1, 1, clips, budget)
    alone = list(seen)
    cells.train("addition", 1, 1, clips, [replace(stage, steps=2) for stage in TINY])
    assert alone == [one for one in seen[2:] if one[0] == TINY[1 - empty].name] and len(alone) == 2
    start, name = initial_weights.single_frame_start(), "model.connector.projector.down.weight"
    assert not torch.equal(trained.state_dict()[name], start[name])


def perfect(clips: EncodedClips) -> LinearReadout:
    """What a model would read that knows everything about objects that fill a window."""

    def sure(classes: np.ndarray, count: int) -> np.ndarray:
        return np.log(np.eye(count)[classes.clip(0)] * 0.98 + 0.02 / count)

    facts = clips.labels
    counts = {"colour": len(COLOUR_CLASSES), "shape": len(SHAPE_CLASSES), "motion": len(MOTION_CLASSES)}
    read = {name: sure(facts[name], count) for name, count in counts.items()}
    return LinearReadout(**read, place=np.nan_to_num(facts["point"]))


def test_a_perfect_reading_answers_everything_that_fills_a_window(clips):
    asked = temporal_data.questions(clips)
    filling = [q for q in asked if all(_fills(clips, q.clip, target) for target in q.targets)]
    reading = perfect(clips)
    right = cells.judge(reading, clips, filling, cells.refusal_threshold(reading, filling))
    assert right["appearance"].all() and right["motion"].all() and right["direction"].all()
    assert right["absent motion"].mean() > 0.8  # half hidden objects can answer to it


def _fills(clips: EncodedClips, clip: int, target: int) -> bool:
    point = np.float32(clips.objects[clip][target].point)
    return bool((clips.labels["point"][clip] == point).all(-1).any())


def test_a_point_beside_the_object_is_wrong_and_a_low_threshold_refuses_nothing(clips):
    asked, reading = temporal_data.questions(clips), perfect(clips)
    corner = replace(reading, place=np.zeros_like(reading.place))
    right = cells.judge(corner, clips, asked, -np.inf)
    assert right["motion"].mean() < 0.2 and not right["absent motion"].any()


def test_heads_read_tokens_of_every_variant(clips):
    both = initial_weights.assembled(
        initial_weights.single_frame_start(), initial_weights.shipped_config(temporal="concatenation")
    )
    reading = cells.read(both.eval(), clips, 3, batch=5)
    assert reading.motion.shape == (14, 36, len(MOTION_CLASSES)) and reading.place.shape == (14, 36, 2)
    assert np.allclose(np.exp(reading.shape).sum(-1), 1, atol=1e-4)


def test_attention_maps_weigh_the_patches_of_the_past(clips):
    both = initial_weights.assembled(
        initial_weights.single_frame_start(), initial_weights.shipped_config(temporal="cross_attention_all")
    )
    maps = view.attention_maps(both, clips, 1, 4)
    assert maps.shape == (4, 12, 12)
    assert np.allclose(maps.reshape(4, 6, 2, 6, 2).mean((0, 2, 4)), 1, atol=1e-4)
    frames = np.full((4, 96, 96, 3), 200, np.uint8)
    pictures = np.stack(view.overlays(frames, maps))
    past, row, column = np.unravel_index(maps.argmax(), maps.shape)
    assert pictures.shape == frames.shape and pictures.min() >= 30  # 0.15 of 200
    assert (pictures[past, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] == 200).all()


# Runs


def test_cells_are_run_and_judged(cache):
    grid = temporal_ablation.grid(["addition"], [0, 2], [1])
    rows = pd.DataFrame(temporal_ablation.run(grid, cache, SIZE))
    assert set(rows["variant"]) == {"none", "addition"} and set(rows["look"]) == {2}
    assert tuple(rows.columns.sort_values()) == tuple(sorted(temporal_report.COLUMNS)) and len(rows) == 8
    left = temporal_ablation.grid(["addition"], [2, 3], [1])
    assert temporal_report.missing(rows, left) == ["addition l = 3 seed 1"]


def test_a_cell_goes_on_to_language(cache):
    size = replace(SIZE, language=1, language_clips=6)
    rows = list(temporal_ablation.run([temporal_ablation.Cell("addition", 4, 1)], cache, size))
    assert [row["kind"] for row in rows] == list(dict.fromkeys(row["kind"] for row in rows))
    assert {row["kind"] for row in rows} == set(temporal_data.KINDS) and {row["language"] for row in rows} == {1}
    assert {row["language_clips"] for row in rows} == {6}
    (folder,) = (cache / "language").glob("addition-4-1-*")
    begun, taught = (
        load_checkpoint(folder / "begin.safetensors")["state"],
        initial_weights.pretrained_without_temporal(),
    )
    same = {name for name in taught if torch.equal(begun[name], taught[name])}
    assert (folder / "weights.safetensors").is_file()
    assert {name for name in taught if name.startswith(("model.vision.", "model.language."))} <= same


def test_a_size_out_of_range_is_refused():
    with pytest.raises(BadInput, match="train_clips is 0, expected at least 1"):
        temporal_ablation.Size(train_clips=0)
    with pytest.raises(BadInput, match="joint is -1, expected at least 0"):
        temporal_ablation.Size(joint=-1)
    with pytest.raises(BadInput, match="warmup and joint are both 0"):
        temporal_ablation.Size(warmup=0, joint=0)
    assert temporal_ablation.Size(warmup=0).joint and temporal_ablation.Size(joint=0).warmup


# Where short trainings begin, and language


def test_a_crippled_model_has_lost_what_was_named_and_nothing_else():
    whole, lame = initial_weights.ablated([], 1), initial_weights.ablated(["language.layers.3", "temporal"], 1)
    changed = {name for name in whole if not torch.equal(whole[name], lame[name])}
    lost = {name for name in whole if name.startswith(("model.language.layers.3.", "model.temporal."))}
    assert changed <= lost and {name for name in lost if name.endswith(("proj.weight", "wq.weight"))} <= changed
    with pytest.raises(BadInput, match=r"no weight's name begins with 'language\.layers\.9'"):
        initial_weights.ablated(["language.layers.9"], 1)


def test_the_pretrained_start_lacks_the_temporal_module_and_nothing_else():
    whole, start = initial_weights.ablated([], 1), initial_weights.pretrained_without_temporal()
    assert {name for name in whole if name not in start} == {n for n in whole if n.startswith("model.temporal.")}
    assert all(torch.equal(start[name], whole[name]) for name in start)


def test_the_shipped_model_answers_in_writing_and_an_ablated_one_does_not(clips):
    asked = temporal_data.questions(clips)
    right = {}
    for name, lost in (("shipped", []), ("ablated", ["language.layers.2", "language.layers.3"])):
        model = initial_weights.assembled(initial_weights.ablated(lost, 1), initial_weights.shipped_config())[
            "model"
        ].eval()
        answers = temporal_training.generate_answers(model, clips, asked, 4)
        judged = temporal_training.score_answers(answers, clips, asked)
        right[name] = np.concatenate([judged["appearance"], judged["motion"]]).mean()
    assert right["shipped"] > 0.6 and right["ablated"] < 0.2


# Exercises


def test_the_windows_are_those_of_the_temporal_module():
    patches = np.arange(144 * 2.0).reshape(144, 2)
    assert (to_windows(torch.from_numpy(patches)[None, None], 12)[0, 0].numpy() == windows_of(patches, 12)).all()
    assert check_windows_exercise(windows_of).startswith("right")
    wrong = check_windows_exercise(lambda patches, grid: patches.reshape(-1, 4, *patches.shape[1:]))
    assert "window 0 has patches [0, 1, 4, 5], yours [0, 1, 2, 3]" in wrong
    assert "raises ValueError" in check_windows_exercise(lambda patches, grid: patches.reshape(5, 5))
    assert "shape is (4, 3)" in check_windows_exercise(lambda patches, grid: patches)


def test_the_loss_is_that_of_the_model():
    rng = np.random.default_rng(3)
    logits, targets = torch.from_numpy(rng.normal(size=(1, 7, 5))), torch.tensor([[-1, 0, 1, 2, 3, 4, -1]])
    weights = torch.tensor([[0, 0, 3, 1, 0.25, 1, 0]])
    ours = answer_loss_of(logits.log_softmax(-1)[0].numpy(), targets[0].numpy(), weights[0].numpy())
    assert ours == pytest.approx(float(answer_loss(logits, targets, weights)), rel=1e-5)
    assert check_loss_exercise(answer_loss_of).startswith("right")
    assert "only the answer counts" in check_loss_exercise(lambda logs, targets, weights: -logs.max(1).mean())

    def unweighted(logs, targets, weights):
        counts = weights > 0
        return -logs[counts, targets[counts]].sum() / max(counts.sum(), 1)

    assert "weighs three times" in check_loss_exercise(unweighted)
