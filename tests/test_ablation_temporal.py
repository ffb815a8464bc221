"""The temporal ablation: what all cells share, what a cell learns and answers, and the table that the README shows."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from videomolmo.ablation import temporal, temporal_data, temporal_language, temporal_report, temporal_table
from videomolmo.ablation import temporal_train as cells
from videomolmo.ablation import temporal_view as view
from videomolmo.ablation.temporal_data import LONGEST, TEST, SeenClips
from videomolmo.ablation.temporal_train import Reading
from videomolmo.errors import BadInput
from videomolmo.exercises import answer_loss_of, check_loss_exercise, check_windows_exercise, windows_of
from videomolmo.model import PointingModel
from videomolmo.model.config import TEMPORAL_KINDS
from videomolmo.model.sequence import answer_loss
from videomolmo.model.temporal import to_windows
from videomolmo.shipped import data_folder, nano_pointing_96
from videomolmo.training import nano, starts
from videomolmo.training.pointing_data import COLOUR_CLASSES, MOTION_CLASSES, SHAPE_CLASSES
from videomolmo.training.rendered import render_clip

SMALL = replace(TEST, clips=14)
TINY = cells.stages(look=2, settle=1)
SIZE = temporal.Size(look=2, settle=1, train_clips=14, test_clips=14)
README = Path(__file__).resolve().parents[1] / "README.md"
MARKS = ("<!-- ablation:temporal -->", "<!-- /ablation:temporal -->")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def clips(cache) -> SeenClips:
    return temporal_data.see(SMALL, cache)


# What all cells share


def test_the_grid_runs_every_different_cell_once_and_the_most_telling_first():
    grid = temporal.grid()
    assert len(grid) == len(set(grid)) == 3 * (1 + 3 * 6 + 5)  # attention to all of one frame is attention to its mean
    assert {cell.variant for cell in grid[:5]} == set(TEMPORAL_KINDS)
    assert {cell.context for cell in grid[:5]} == {0, 4} and {cell.seed for cell in grid[:5]} == {1}
    assert temporal.grid(["none", "addition"], [0], [5]) == [temporal.Cell("none", 0, 5)]
    assert temporal.Cell("cross_attention_all", 1, 1) in temporal.grid(["cross_attention_all"], [1], [1])


@pytest.mark.parametrize(
    "wrong", [{"variants": ["average"]}, {"variants": []}, {"contexts": [7]}, {"seeds": []}, {"seeds": [-1]}]
)
def test_the_grid_names_what_it_does_not_know(wrong):
    with pytest.raises(BadInput, match=f"{next(iter(wrong))} is .*expected"):
        temporal.grid(**wrong)


def test_clips_are_seen_once_and_then_read(clips, cache, monkeypatch):
    monkeypatch.setattr(PointingModel, "from_pretrained", lambda *_: pytest.fail("encoded again"))
    again = temporal_data.see(SMALL, cache)
    assert (again.features == clips.features).all() and again.things == clips.things


def test_features_are_those_of_the_shipped_tower(clips):
    model = PointingModel.from_pretrained(nano_pointing_96())
    frames, ids, things = render_clip(SMALL, 3)
    pixels = temporal_language.processor_of(model).image.pixels_only(frames)
    with torch.inference_mode():
        features = model.encode_frames(pixels)[:, 0].numpy()
    assert np.allclose(clips.features[3], features, atol=0.02, rtol=2e-3)
    assert (clips.ids[3] == ids[-1]).all() and clips.things[3] == things


def test_a_batch_holds_the_last_frames_oldest_first(clips):
    batch = clips.batch(np.array([5, 2]), 3)
    assert torch.equal(batch["features"][:, 0], torch.from_numpy(clips.features[[5, 2], -1]))
    assert torch.equal(batch["past"][1, :, 0], torch.from_numpy(clips.features[2, LONGEST - 3 : LONGEST]))
    assert torch.equal(batch["facts_moved"].nan_to_num(), torch.from_numpy(clips.moved[[5, 2], 2]).nan_to_num())
    single = clips.batch(np.array([5]), 0)
    assert "past" not in single and single["facts_moved"].isnan().all()


def test_a_collage_takes_each_window_whole_from_its_clip(clips):
    chosen = next(temporal_data.collages(clips, 3, 1, seed=4))
    batch = clips.batch(chosen, 2)
    grid = round(clips.features.shape[2] ** 0.5)
    frames = [to_windows(torch.from_numpy(clips.features[:, at])[:, None], grid)[:, 0] for at in (-1, -3)]
    for row, at in ((0, 0), (1, 17), (2, 35)):
        clip = int(chosen[row, at])
        assert torch.equal(to_windows(batch["features"], grid)[row, 0, at], frames[0][clip, at])
        assert torch.equal(to_windows(batch["past"][:, 0], grid)[row, 0, at], frames[1][clip, at])
        assert batch["facts_shape"][row, at] == clips.facts["shape"][clip, at]


def test_collages_are_the_same_for_a_seed_and_show_more_objects_than_frames_do(clips):
    def take(seed: int) -> list:
        return [chosen.tolist() for chosen in temporal_data.collages(clips, 4, 5, seed)]

    assert take(1) == take(1) != take(2)
    shown = clips.facts["colour"] > 0
    able = shown.any(0) & ~shown.all(0)
    there = np.concatenate(
        [shown[chosen, np.arange(36)][:, able] for chosen in temporal_data.collages(clips, 40, 5, 3)]
    )
    assert abs(there.mean() - (1 - temporal_data.BACKGROUND)) < 0.05 < there.mean() - shown.mean()


def test_questions_can_be_answered_and_come_once_of_each_kind(clips):
    asked = temporal_data.questions(clips)
    assert len({(question.clip, question.kind) for question in asked}) == len(asked) > 10
    assert {question.kind for question in asked} == set(temporal_data.KINDS)
    for question in asked:
        meant = [n for n, thing in enumerate(clips.things[question.clip]) if question.query.means(thing) and thing.seen]
        assert tuple(meant) == question.targets and len(meant) == (question.kind != "absent motion")
        assert question.query.phrase in question.text


# A cell


def test_variants_begin_alike_and_only_what_lies_behind_the_tower_is_trained(clips):
    start = starts.single_frame_start()
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


def perfect(clips: SeenClips) -> Reading:
    """What a model would read that knows everything about objects that fill a window."""

    def sure(classes: np.ndarray, count: int) -> np.ndarray:
        return np.log(np.eye(count)[classes.clip(0)] * 0.98 + 0.02 / count)

    facts = clips.facts
    counts = {"colour": len(COLOUR_CLASSES), "shape": len(SHAPE_CLASSES), "motion": len(MOTION_CLASSES)}
    read = {name: sure(facts[name], count) for name, count in counts.items()}
    return Reading(**read, place=np.nan_to_num(facts["point"]))


def test_a_perfect_reading_answers_everything_that_fills_a_window(clips):
    asked = temporal_data.questions(clips)
    filling = [q for q in asked if all(_fills(clips, q.clip, target) for target in q.targets)]
    reading = perfect(clips)
    right = cells.judge(reading, clips, filling, cells.refusal_threshold(reading, filling))
    assert right["appearance"].all() and right["motion"].all() and right["direction"].all()
    assert right["absent motion"].mean() > 0.8  # half hidden objects can answer to it


def _fills(clips: SeenClips, clip: int, target: int) -> bool:
    point = np.float32(clips.things[clip][target].point)
    return bool((clips.facts["point"][clip] == point).all(-1).any())


def test_a_point_beside_the_object_is_wrong_and_a_low_threshold_refuses_nothing(clips):
    asked, reading = temporal_data.questions(clips), perfect(clips)
    corner = replace(reading, place=np.zeros_like(reading.place))
    right = cells.judge(corner, clips, asked, -np.inf)
    assert right["motion"].mean() < 0.2 and not right["absent motion"].any()


def test_heads_read_tokens_of_every_variant(clips):
    both = starts.assembled(starts.single_frame_start(), starts.shipped_config(temporal="concatenation"))
    reading = cells.read(both.eval(), clips, 3, batch=5)
    assert reading.motion.shape == (14, 36, len(MOTION_CLASSES)) and reading.place.shape == (14, 36, 2)
    assert np.allclose(np.exp(reading.shape).sum(-1), 1, atol=1e-4)


def test_attention_maps_weigh_the_patches_of_the_past(clips):
    both = starts.assembled(starts.single_frame_start(), starts.shipped_config(temporal="cross_attention_all"))
    maps = view.attention_maps(both, clips, 1, 4)
    assert maps.shape == (4, 12, 12)
    assert np.allclose(maps.reshape(4, 6, 2, 6, 2).mean((0, 2, 4)), 1, atol=1e-4)
    frames = np.full((4, 96, 96, 3), 200, np.uint8)
    pictures = np.stack(view.overlays(frames, maps))
    past, row, column = np.unravel_index(maps.argmax(), maps.shape)
    assert pictures.shape == frames.shape and pictures.min() >= 30  # 0.15 of 200
    assert (pictures[past, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] == 200).all()


# The table


def test_a_stopped_run_goes_on_and_finished_cells_are_kept(cache, tmp_path):
    out, grid = tmp_path / "temporal.csv", temporal.grid(["addition"], [0, 2], [1])
    first = list(islice(temporal.run(grid, out, cache, SIZE), 4))
    assert len(temporal_table.load(out)) == 4 and {row["variant"] for row in first} == {"none"}
    rest = list(temporal.run(grid, out, cache, SIZE))
    assert {row["variant"] for row in rest} == {"addition"} and len(temporal_table.load(out)) == 8
    assert not list(temporal.run(grid, out, cache, SIZE))
    assert temporal_table.missing(temporal_table.load(out), temporal.grid(["addition"], [3], [1])) == [
        "addition l = 3 seed 1"
    ]
    with pytest.raises(BadInput, match="steps = \\[3\\], not 4"):
        next(temporal.run(grid, out, cache, replace(SIZE, settle=2)))


def test_a_cell_goes_on_to_language(cache, tmp_path):
    size, out = replace(SIZE, language=1, language_clips=6), tmp_path / "written.csv"
    rows = list(temporal.run([temporal.Cell("addition", 4, 1)], out, cache, size))
    assert [row["kind"] for row in rows] == list(dict.fromkeys(row["kind"] for row in rows))
    assert {row["kind"] for row in rows} == set(temporal_data.KINDS) and {row["steps"] for row in rows} == {4}
    assert len(list((cache / "language").glob("addition-4-1-*/weights.pt"))) == 1


def test_a_size_out_of_range_is_refused():
    with pytest.raises(BadInput, match="train_clips is 0, expected at least 1"):
        temporal.Size(train_clips=0)


def row(variant: str, context: int, seed: int, right: str, kind: str = "motion") -> dict:
    value = right.count("1") / len(right)
    facts = {"variant": variant, "context": context, "seed": seed, "kind": kind, "value": value, "n": len(right)}
    return facts | {
        "steps": 3,
        "train_clips": 1,
        "test_clips": 1,
        "seconds": 0.1,
        "commit": "",
        "machine": "",
        "right": right,
    }


@pytest.fixture
def table(tmp_path) -> pd.DataFrame:
    """Two seeds of three cells, forty questions: addition is right in half, attention in nine of ten."""
    path, half, most = tmp_path / "table.csv", "0011" * 10, "0111111111" * 4
    for seed in (1, 2):
        temporal_table.append(path, [row("none", 0, seed, half), row("addition", 4, seed, half)])
        temporal_table.append(path, [row("cross_attention", 4, seed, most), row("cross_attention", 1, seed, half)])
    return temporal_table.load(path)


def test_a_table_stays_whole_when_writing_fails(tmp_path, monkeypatch):
    path = tmp_path / "table.csv"
    temporal_table.append(path, [row("none", 0, 1, "01")])
    before = path.read_bytes()
    monkeypatch.setattr(temporal_table.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        temporal_table.append(path, [row("none", 0, 2, "01")])
    assert path.read_bytes() == before


def test_a_missing_or_foreign_table_is_refused(tmp_path):
    with pytest.raises(BadInput, match="is not there"):
        temporal_table.load(tmp_path / "none.csv")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(BadInput, match=r"has columns \['a', 'b'\]"):
        temporal_table.load(tmp_path / "other.csv")


def test_bits_survive_the_file(tmp_path):
    path, right = tmp_path / "table.csv", np.array([False, False, True, False])
    temporal_table.append(path, [row("none", 0, 1, temporal_table.bits(right))])
    assert temporal_table.answers(temporal_table.load(path), "addition", 0, "motion").tolist() == [right.tolist()]


def test_intervals_hold_the_mean_and_narrow_with_more_questions():
    rng = np.random.default_rng(1)
    few, many = rng.random((3, 40)) < 0.7, rng.random((3, 4000)) < 0.7
    (mean, low, high), (_, low_many, high_many) = temporal_table.interval(few), temporal_table.interval(many)
    assert low < mean < high and mean == pytest.approx(few.mean())
    assert 0.005 < high_many - low_many < (high - low) / 3 and low_many < 0.7 < high_many
    apart = np.stack([np.ones(4000), np.zeros(4000)])  # two seeds that disagree on everything
    assert temporal_table.interval(apart)[1:] == pytest.approx((0.0, 1.0), abs=1e-5)


def test_differences_are_paired_and_shared_cells_stand_for_both(table):
    mean, low, high = temporal_table.difference(table, ("cross_attention", 4), ("addition", 4), "motion")
    assert mean == pytest.approx(0.4) and low > 0.15 and high < 0.65
    same = temporal_table.difference(table, ("cross_attention_all", 1), ("cross_attention", 1), "motion")
    assert same == (0.0, 0.0, 0.0)
    assert temporal_table.difference(table, ("concatenation", 4), ("none", 0), "motion") is None


def test_the_report_says_what_reproduces_and_marks_what_is_missing(table):
    text = temporal_report.markdown(table, ["addition l = 3 seed 1"])
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line.count("|") > 2}
    assert lines["cross-attention beats addition (*72.45* to *69.55*)"].endswith("| reproduces |")
    assert "cannot be told" in lines["addition beats a single frame, hardly (*69.55* to *69.32*)"]
    assert "not run yet" in lines["concatenation lies below a single frame (*68.71*)"]
    assert "| 0.90 (" in lines["cross-attention to the mean"] or "0.50 | 0.90 |" in lines["cross-attention to the mean"]
    assert "Not run yet: 1 cells" in text and "*72.45*" in text


def test_plots_of_an_unfinished_table_are_drawn(table, tmp_path):
    files = temporal_report.draw(table, tmp_path)
    assert {path.suffix for path in files} == {".png", ".svg"} and all(path.stat().st_size > 5000 for path in files)


# What is shipped


def test_the_shipped_table_is_whole_and_its_lesson_holds():
    shipped = temporal_table.load(temporal.shipped_table())
    assert not temporal_table.missing(shipped, temporal.grid())
    assert len(shipped) == len(temporal.grid()) * len(temporal_table.KINDS)
    for _, one in shipped.iterrows():
        assert len(one["right"]) == one["n"] and one["value"] == pytest.approx(
            one["right"].count("1") / one["n"], abs=1e-4
        )
    assert temporal_table.finished(shipped, temporal.SHIPPED.settings)
    better = temporal_table.difference(shipped, ("cross_attention", 4), ("addition", 4), "motion")
    assert better[1] > 0.1


def test_the_readme_shows_this_table():
    text = README.read_text(encoding="utf-8")
    if MARKS[0] not in text:
        pytest.skip("the README has no place for it")
    shown = text.split(MARKS[0])[1].split(MARKS[1])[0]
    assert shown.strip() == temporal.block(temporal.shipped_table(), temporal.grid()).strip()


def test_the_curves_cover_the_recipe():
    curves = pd.read_csv(data_folder() / "ablations" / "training_curves.csv")
    ends = curves.groupby("stage", sort=False)["step"].max().to_dict()
    assert list(ends.items()) == [(stage.name, stage.steps) for stage in nano.POINTING_STAGES]


# Where short trainings begin, and language


def test_a_crippled_model_has_lost_what_was_named_and_nothing_else():
    whole, lame = starts.crippled([], 1), starts.crippled(["language.layers.3", "temporal"], 1)
    changed = {name for name in whole if not torch.equal(whole[name], lame[name])}
    lost = {name for name in whole if name.startswith(("model.language.layers.3.", "model.temporal."))}
    assert changed <= lost and {name for name in lost if name.endswith(("proj.weight", "wq.weight"))} <= changed
    with pytest.raises(BadInput, match=r"no weight's name begins with 'language\.layers\.9'"):
        starts.crippled(["language.layers.9"], 1)


def test_the_shipped_model_answers_in_writing_and_a_crippled_one_does_not(clips):
    asked = temporal_data.questions(clips)
    right = {}
    for name, lost in (("shipped", []), ("crippled", ["language.layers.2", "language.layers.3"])):
        model = starts.assembled(starts.crippled(lost, 1), starts.shipped_config())["model"].eval()
        answers = temporal_language.written(model, clips, asked, 4)
        judged = temporal_language.judge_written(answers, clips, asked)
        right[name] = np.concatenate([judged["appearance"], judged["motion"]]).mean()
    assert right["shipped"] > 0.6 and right["crippled"] < 0.2


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
