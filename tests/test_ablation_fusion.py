"""The fusion ablation: clips and clicks, shared propagations, scores, table, and what is shipped of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from videomolmo.errors import BadInput
from videomolmo.fusion import RULES
from videomolmo.io import provenance
from videomolmo.lab import fusion_ablation
from videomolmo.lab.exercises import check_agreed_exercise
from videomolmo.lab.fusion_ablation import (
    ORACLE,
    OURS,
    PAPER,
    Propagations,
    Setting,
    Sides,
    by_agreement,
    fuse_window,
    scores_of,
    settings,
    worst_frame,
)
from videomolmo.lab.fusion_report import (
    COLUMNS,
    HELD_OUT,
    cell,
    draw,
    grid_scores,
    interval,
    make_table,
    markdown,
    named,
    read_table,
    write_table,
)
from videomolmo.lab.hard_clips import KINDS, MIN_AREA_PX, POINTS, click, hard_clip
from videomolmo.metrics import j_and_f
from videomolmo.sweep.grid import read_grid, read_notebook
from videomolmo.weights.hub import data_folder

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = data_folder() / "ablations" / "fusion.csv"
MARKS = ("<!-- ablation:fusion -->", "<!-- /ablation:fusion -->")


# Clips and clicks


def test_a_seed_gives_one_clip_of_its_kind():
    for seed, kind in enumerate(KINDS):
        one, again = (hard_clip(seed, frames=4, size=48) for _ in range(2))
        assert one.kind == kind and one.masks.shape == (4, one.masks.shape[1], 48, 48) and 2 <= one.masks.shape[1] <= 3
        assert np.array_equal(one.frames, again.frames) and np.array_equal(one.masks, again.masks)


def test_each_kind_is_hard_in_its_own_way():
    hidden, step = {kind: [] for kind in KINDS}, {kind: [] for kind in KINDS}
    for seed in range(12):
        clip = hard_clip(seed, frames=31, size=64)
        areas = clip.masks.sum(axis=(2, 3))
        hidden[clip.kind].append((areas[5:-5] < 4).mean())
        rows = np.indices((64, 64))
        there = areas > 20
        centres = np.einsum("tohw,chw->toc", clip.masks, rows) / np.maximum(areas, 1)[..., None]
        moved = np.linalg.norm(np.diff(centres, axis=0), axis=2)[there[1:] & there[:-1]]
        step[clip.kind].append(np.quantile(moved, 0.9))
    assert np.mean(hidden["occlusion"]) > 0.1 > np.mean(hidden["fast"])
    assert np.mean(step["fast"]) > 1.5 * np.mean(step["crossing"])


def test_clicks_are_inside_or_beside_as_told():
    beside, total = 0, 0
    for seed in range(6):
        clip = hard_clip(seed, frames=5, size=96)
        for at, thing in np.ndindex(clip.masks.shape[:2]):
            mask = clip.masks[at, thing]
            clean, noisy = (click(clip, at, thing, points) for points in POINTS)
            if mask.sum() < MIN_AREA_PX:
                assert clean is None and noisy is None
                continue
            (x, y), (u, v) = clean[0].astype(int), noisy[0].astype(int)
            assert mask[y, x] and 0 <= u < 96 and 0 <= v < 96
            assert np.array_equal(noisy, click(clip, at, thing, "noisy"))
            beside, total = beside + (not mask[v, u]), total + 1
    assert 0.03 < beside / total < 0.35
    with pytest.raises(BadInput, match="clean or noisy"):
        click(clip, 0, 0, "exact")


# Propagations, with nano SAM 2 on short clips


@pytest.fixture(scope="module")
def short():
    """Clips of seven frames, so that SAM 2 has little to do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fusion_ablation, "FRAMES", 7)
        patch.setattr(fusion_ablation, "SIZE", 96)
        fusion_ablation.encoded.cache_clear()
        yield
    fusion_ablation.encoded.cache_clear()


@pytest.fixture(scope="module")
def cache(tmp_path_factory, short) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_a_shared_propagation_is_that_of_its_own(cache):
    shared, alone = Propagations(1, "clean", (3, 6), cache), Propagations(1, "clean", (3,), cache)
    for one, other in zip(shared.windows(3), alone.windows(3), strict=True):
        assert one.start == other.start and np.array_equal(one.truth, other.truth)
        assert np.array_equal(one.forward, other.forward) and np.array_equal(one.backward, other.backward)
    assert [window.start for window in shared.windows(3)] == [0, 3]
    (whole,) = shared.windows(6)
    assert whole.left_distance.tolist() == [1, 2, 3, 4, 5] and whole.right_distance.tolist() == [5, 4, 3, 2, 1]
    assert np.array_equal(whole.truth, hard_clip(1, frames=7, size=96).masks[1:6])


def test_propagations_follow_the_objects_from_both_sides(cache):
    (window,) = Propagations(1, "clean", (6,), cache).windows(6)
    near = [(window.forward[0], window.truth[0]), (window.backward[-1], window.truth[-1])]
    assert all(
        j_and_f(truth, mask).j > 0.5 for masks, truths in near for mask, truth in zip(masks, truths, strict=True)
    )


def test_the_grid_goes_on_from_its_cache(cache, monkeypatch):
    chosen = settings(["iou", "nearest", ORACLE], [0.3])
    first = grid_scores([1, 2], chosen, cache, every=[3, 6], points=["clean"], prepare=(3, 6))
    assert {key: value.shape for key, value in first.items()} == {("clean", 3): (2, 5, 2), ("clean", 6): (2, 5, 2)}
    monkeypatch.setattr(fusion_ablation, "_propagate_all", lambda *_: pytest.fail("propagated again"))
    monkeypatch.setattr(fusion_ablation, "scores_of", lambda *_: pytest.fail("scored again"))
    again = grid_scores([1, 2], chosen, cache, every=[3, 6], points=["clean"], prepare=(3, 6))
    assert all(np.array_equal(first[key], again[key]) for key in first)


@pytest.mark.parametrize("seeds, every", [([], [3]), ([1], [1]), ([1], [31]), ([-1], [3])])
def test_a_grid_of_nothing_is_refused(tmp_path, seeds, every):
    with pytest.raises(BadInput, match="expected at least one clip"):
        grid_scores(seeds, settings(), tmp_path, every=every)
    assert not any(tmp_path.iterdir())


# Scores, on masks made by hand


@pytest.fixture
def windows() -> list[Sides]:
    """Two windows of random masks; in the second the forward side is lost."""
    rng = np.random.default_rng(0)
    found = []
    for start in (0, 4):
        forward, backward, truth = rng.random((3, 3, 2, 8, 9)) < 0.4
        found.append(Sides(start, forward & (start == 0), backward, truth, np.arange(1, 4), np.arange(3, 0, -1)))
    return found


def test_scores_are_means_over_frames_and_objects(windows):
    chosen = settings()
    scores = scores_of(windows, chosen)
    for n, setting in enumerate(chosen):
        if setting.rule != ORACLE:
            pairs = [
                (w.truth[t, k], fuse_window(w, setting)[t, k]) for w in windows for t in range(3) for k in range(2)
            ]
            expected = np.mean([j_and_f(truth, mask)[:2] for truth, mask in pairs], axis=0)
            np.testing.assert_allclose(scores[n], expected)
    oracle = scores[chosen.index(Setting(ORACLE))].mean()
    assert all(oracle >= scores[chosen.index(Setting(side))].mean() for side in ("forward", "backward", "nearest"))


def test_the_worst_frame_has_both_sides(windows):
    window, at, thing = worst_frame(windows)
    assert window.start == 0 and window.forward[at, thing].any() and window.backward[at, thing].any()


def test_agreement_table_counts_frames_with_both_sides(windows):
    table = by_agreement(windows)
    assert table["frames"].sum() == 6 and {"intersection", "union", "nearest"} < set(table.columns)
    same = [Sides(0, w.backward, w.backward, w.truth, w.left_distance, w.right_distance) for w in windows]
    assert by_agreement(same).index.tolist() == ["0.7 … 1"]


def test_settings_hold_the_papers_rule_and_ours():
    assert settings([], [])[:2] == (PAPER, OURS) and len(set(settings())) == len(settings()) == len(RULES) + 5
    with pytest.raises(BadInput, match="unknown"):
        settings(["mean"])
    with pytest.raises(BadInput, match="0 to 1"):
        settings(["iou"], [2])


# The table


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng, chosen = np.random.default_rng(1), settings()
    scores = {(points, k): rng.random((6, len(chosen), 2)) for points in POINTS for k in (3, 5, 10)}
    for made in scores.values():
        made[:, chosen.index(Setting(ORACLE))] = 1
    return make_table(scores, chosen, range(6), {"commit": "abc", "machine": "here"})


def test_intervals_are_percentiles_of_means_of_drawn_clips():
    values, rng = np.array([0.1, 0.5, 0.2, 0.9]), np.random.default_rng(0)
    means = [np.mean([values[n] for n in row]) for row in rng.integers(4, size=(5000, 4))]
    np.testing.assert_allclose(interval(values), np.quantile(means, [0.025, 0.975]))


def test_differences_are_paired(table):
    paper, ours = (cell(table, *setting, 5, "clean") for setting in (PAPER, OURS))
    assert paper["difference"] == paper["difference_high"] == 0 == ours["ours"]
    assert ours["difference"] == pytest.approx(ours["value"] - paper["value"]) == paper["ours"]
    assert ours["difference_low"] < ours["difference"] < ours["difference_high"]
    assert cell(table, *OURS, 5, "clean", kind="fast")["n"] == 2 and ours["n"] == 6 and ours["seeds"] == "0-5"
    j, f = (cell(table, *OURS, 5, "clean", metric=name)["value"] for name in "JF")
    assert ours["value"] == pytest.approx((j + f) / 2)


def test_a_table_is_read_as_it_was_written(table, tmp_path):
    path = write_table(table, tmp_path / "new" / "table.csv")
    assert [one.name for one in path.parent.iterdir()] == ["table.csv"]
    pd.testing.assert_frame_equal(read_table(path), table, rtol=1e-4)
    assert set(named(table)["name"]) >= {"iou, τ = 0.3", "agreed"}
    with pytest.raises(BadInput, match="is not there; make it with `videomolmo sweep`"):
        read_table(tmp_path / "none.csv")
    pd.testing.assert_frame_equal(
        read_table(write_table(table.assign(cell="a"), tmp_path / "swept.csv")), read_table(path)
    )
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(BadInput, match="columns"):
        read_table(tmp_path / "other.csv")
    with pytest.raises(BadInput, match="0 rows"):
        cell(table, "iou", 0.31, 5, "clean")


def test_the_block_says_what_the_table_says(table):
    text = markdown(table)
    lines, row = text.splitlines(), cell(table, *OURS, 10, "noisy")
    ours = next(line for line in lines if line.startswith("| `agreed` (ours)"))
    assert ours.split("|")[-2].strip().startswith((f"{100 * row['value']:.1f} (", f"**{100 * row['value']:.1f}** ("))
    assert next(line for line in lines if line.startswith("| `")).startswith("| `oracle`")
    assert all(f"| `{rule}`" in text for rule in RULES) and "| *quoted*, Ref-DAVIS17 | *70.3* | *72.3* |" in text


# What is shipped


@pytest.fixture(scope="module")
def shipped() -> pd.DataFrame:
    return read_table(SHIPPED)


def test_shipped_table_is_whole_and_from_held_out_clips(shipped):
    assert tuple(shipped.columns) == COLUMNS and shipped["value"].between(0, 1).all()
    assert shipped["n"].max() >= 60 and shipped["seeds"].unique().tolist() == [f"{HELD_OUT}-{HELD_OUT + 59}"]
    cells = shipped.groupby(["every", "points", "kind", "metric"]).size()
    assert (cells == len(settings())).all() and len(cells) == 4 * 2 * (3 + len(KINDS))


@pytest.mark.parametrize("points", POINTS)
@pytest.mark.parametrize("every", [5, 10])
def test_our_rule_beats_the_papers_on_held_out_clips(shipped, every, points):
    assert cell(shipped, *OURS, every, points)["difference_low"] > 0
    assert cell(shipped, ORACLE, None, every, points)["ours_high"] < 0  # and the oracle beats ours


def test_shipped_plots_are_of_the_shipped_table(shipped, tmp_path):
    copy = tmp_path / "fusion.csv"
    copy.write_bytes(SHIPPED.read_bytes())
    names = [path.name for path in draw(copy)]
    assert len(names) == 4
    wanted = f"SHA-256 of fusion.csv: {provenance.sha256(SHIPPED)}"
    for path in (SHIPPED.parent / name for name in names):
        if path.suffix == ".png":
            assert Image.open(path).text["Description"] == wanted, f"{path.name} is of another table: draw it again"
        else:
            text = path.read_text(encoding="utf-8")
            assert wanted in text and "agreed" in text and "oracle" in text


def test_cost_was_measured():
    cost = json.loads(SHIPPED.with_suffix(".json").read_text(encoding="utf-8"))["cost"]
    assert cost["cells"] == len(settings()) * 8 and cost["ratio"] == pytest.approx(
        cost["grid_s"] / cost["cell_s"], 0.01
    )


def test_readme_shows_the_shipped_table(shipped):
    text = (ROOT / "data/ablations/README.md").read_text(encoding="utf-8")
    block = re.search(f"{MARKS[0]}\n(.*?){MARKS[1]}", text, re.DOTALL)
    assert block, f"data/ablations/README.md has no block between {' and '.join(MARKS)}"
    assert block[1].strip() == markdown(shipped).strip()


# The notebook and its exercise

SOLUTION = """
def my_rule(forward, backward, left_distance, right_distance):
    if not forward.any() or not backward.any():
        return forward | backward
    if (forward & backward).sum() / (forward | backward).sum() >= 0.3:
        return forward & backward
    return forward if left_distance <= right_distance else backward"""


def test_exercise():
    space: dict = {}
    exec(SOLUTION, space)
    assert check_agreed_exercise(space["my_rule"]).startswith("right")
    assert "left key frame is nearer" in check_agreed_exercise(lambda a, b, left, right: a & b)
    assert "equally near" in check_agreed_exercise(
        lambda a, b, left, right: space["my_rule"](a, b, left + 0.5, right)  # a tie goes to the wrong side
    )
    assert "ZeroDivisionError" in check_agreed_exercise(lambda a, b, left, right: np.array(1 // 0))


def test_the_grid_file_fits_the_notebook():
    notebook = read_notebook(ROOT / "notebooks" / "05_ablation_fusion.ipynb")
    cells = read_grid(data_folder() / "sweeps" / "fusion.toml", notebook).trials
    assert len(cells) == len(fusion_ablation.EVERY) * len(POINTS)
    assert {tuple(one.parameters["shared_every"]) for one in cells} == {fusion_ablation.EVERY}
    one = cells[0].parameters
    assert settings(one["rules"], one["taus"]) == settings([*one["rules"]], fusion_ablation.TAUS)
    assert set(one["rules"]) == {*RULES, ORACLE}


@pytest.mark.slow
def test_notebook_runs_and_its_lesson_holds(tmp_path, monkeypatch):
    papermill = pytest.importorskip("papermill")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(ROOT / "notebooks" / "05_ablation_fusion.ipynb", as_version=4)
    solved = nbformat.from_dict(notebook.cells[-1])
    solved.source, solved.id = SOLUTION + "\n\n\n" + solved.source.partition("\n\n\n")[2], "solution"
    notebook.cells.append(solved)
    nbformat.write(notebook, tmp_path / "in.ipynb")
    results = tmp_path / "results"
    few = {"clips": 1, "every": [6], "noise": ["clean"], "rules": ["nearest", "oracle"], "taus": [0.3]}
    papermill.execute_notebook(
        str(tmp_path / "in.ipynb"), str(tmp_path / "out.ipynb"), parameters={**few, "results_folder": str(results)},
        cwd=str(tmp_path), progress_bar=False, kernel_name="python3",
    )  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == {"in.ipynb", "out.ipynb", "results"}  # nothing elsewhere
    table = read_table(results / "results.csv")
    assert set(table["rule"]) == {"iou", "agreed", "nearest", "oracle"} and table["n"].max() == 1
    oracle, ours = cell(table, ORACLE, None, 6, "clean"), cell(table, *OURS, 6, "clean")
    assert 0 < ours["value"] <= 1 and oracle["difference"] > -0.05
    done = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    printed = ["".join(o.get("text", "") for o in one.outputs if o.get("name") != "stderr") for one in done.cells[-2:]]
    assert printed[0].startswith("not yet") and printed[1].startswith("right")
