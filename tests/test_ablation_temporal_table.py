"""The temporal ablation's table: rows, intervals, plots and the README's block; and what is shipped of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from videomolmo.errors import BadInput
from videomolmo.io.tables import write_csv
from videomolmo.lab import tables, temporal_ablation, temporal_report
from videomolmo.sweep.grid import read_grid, read_notebook
from videomolmo.weights.hub import data_folder

ROOT = Path(__file__).resolve().parents[1]
MARKS = ("<!-- ablation:temporal -->", "<!-- /ablation:temporal -->")


def row(variant: str, context: int, seed: int, right: str, kind: str = "motion") -> dict:
    value = right.count("1") / len(right)
    facts = {"variant": variant, "context": context, "seed": seed, "kind": kind, "value": value, "n": len(right)}
    return facts | {
        **dict.fromkeys(temporal_report.SETTINGS, 1),
        "seconds": 0.1,
        "commit": "",
        "machine": "",
        "right": right,
    }


def written(path: Path, *rows: dict) -> pd.DataFrame:
    """The table that is read from such rows."""
    write_csv(pd.DataFrame(rows), path)
    return temporal_report.load(path)


@pytest.fixture
def table(tmp_path) -> pd.DataFrame:
    """Two seeds of three cells, forty questions: addition is right in half, attention in nine of ten."""
    path, half, most = tmp_path / "table.csv", "0011" * 10, "0111111111" * 4
    cells = (("none", 0, half), ("addition", 4, half), ("cross_attention", 4, most), ("cross_attention", 1, half))
    return written(path, *(row(name, context, seed, of) for seed in (1, 2) for name, context, of in cells))


def test_a_sweeps_table_is_read_and_rows_of_another_budget_are_refused(tmp_path):
    path = tmp_path / "results.csv"
    ours = {"cell": "contexts=-4,0123456789", "variants": '["addition"]', "cell_seconds": 1.5}
    rows = [ours | row("addition", 4, 1, "01"), ours | row("addition", 4, 1, "11", kind="direction")]
    found = written(path, *rows, ours | row("addition", 4, 1, "00"))
    assert tuple(found.columns) == temporal_report.COLUMNS and found["right"].tolist() == ["01", "11"]
    with pytest.raises(BadInput, match=r"holds cells with look = \[1, 2\], expected one budget"):
        written(path, *rows, row("none", 0, 2, "01") | {"look": 2, "settle": 0})


def test_a_missing_or_foreign_table_is_refused(tmp_path):
    with pytest.raises(BadInput, match="is not there"):
        temporal_report.load(tmp_path / "none.csv")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(BadInput, match=r"has columns \['a', 'b'\]"):
        temporal_report.load(tmp_path / "other.csv")


def test_bits_survive_the_file(tmp_path):
    path, right = tmp_path / "table.csv", np.array([False, False, True, False])
    found = written(path, row("none", 0, 1, temporal_report.bits(right)))
    assert temporal_report.answers(found, "addition", 0, "motion").tolist() == [right.tolist()]


def test_intervals_hold_the_mean_and_narrow_with_more_questions():
    rng = np.random.default_rng(1)
    few, many = rng.random((3, 40)) < 0.7, rng.random((3, 4000)) < 0.7
    (mean, low, high), (_, low_many, high_many) = temporal_report.interval(few), temporal_report.interval(many)
    assert low < mean < high and mean == pytest.approx(few.mean())
    assert 0.005 < high_many - low_many < (high - low) / 3 and low_many < 0.7 < high_many
    apart = np.stack([np.ones(4000), np.zeros(4000)])  # two seeds that disagree on everything
    assert temporal_report.interval(apart)[1:] == pytest.approx((0.0, 1.0), abs=1e-5)


def test_differences_are_paired_and_shared_cells_stand_for_both(table):
    mean, low, high = temporal_report.difference(table, ("cross_attention", 4), ("addition", 4), "motion")
    assert mean == pytest.approx(0.4) and low > 0.15 and high < 0.65
    same = temporal_report.difference(table, ("cross_attention_all", 1), ("cross_attention", 1), "motion")
    assert same == (0.0, 0.0, 0.0)
    assert temporal_report.difference(table, ("concatenation", 4), ("none", 0), "motion") is None


def test_cells_of_other_seeds_are_no_pairs(tmp_path):
    path, half, most = tmp_path / "table.csv", "0011" * 10, "0111111111" * 4
    rows = [("addition", 1, half), ("addition", 2, most), ("cross_attention", 2, most), ("cross_attention", 3, most)]
    rows = [row(variant, 4, seed, right) for variant, seed, right in rows]
    table = written(path, *rows)
    assert temporal_report.difference(table, ("cross_attention", 4), ("addition", 4), "motion") == (0.0, 0.0, 0.0)
    table = written(path, *rows, row("none", 0, 7, half))
    assert temporal_report.difference(table, ("addition", 4), ("none", 0), "motion") is None


def test_the_report_says_what_reproduces_and_marks_what_is_missing(table):
    text = temporal_report.markdown(table, ["addition l = 3 seed 1"])
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line.count("|") > 2}
    assert lines["cross-attention beats addition (*72.45* to *69.55*)"].endswith("| reproduces |")
    assert "cannot be told" in lines["addition beats a single frame, hardly (*69.55* to *69.32*)"]
    assert "not run yet" in lines["concatenation lies below a single frame (*68.71*)"]
    assert "| 0.90 (" in lines["cross-attention to the mean"] or "0.50 | 0.90 |" in lines["cross-attention to the mean"]
    assert "Not run yet: 1 cells" in text and "*72.45*" in text


def test_plots_of_an_unfinished_table_are_drawn(table, tmp_path):
    drawn = temporal_report.draw(tmp_path / "table.csv", tmp_path)
    assert {path.suffix for path in drawn} == {".png", ".svg"} and all(path.stat().st_size > 5000 for path in drawn)
    assert {path.name.partition("_")[0] for path in drawn} == {"table"}


# What is shipped


def test_the_shipped_table_is_whole_and_its_lesson_holds():
    shipped = temporal_report.load(temporal_ablation.shipped_table())
    assert not temporal_report.missing(shipped, temporal_ablation.grid())
    assert len(shipped) == len(temporal_ablation.grid()) * len(temporal_report.KINDS)
    for _, one in shipped.iterrows():
        assert len(one["right"]) == one["n"] and one["value"] == pytest.approx(
            one["right"].count("1") / one["n"], abs=1e-4
        )
    assert shipped.iloc[0][list(temporal_report.SETTINGS)].to_dict() == temporal_ablation.SHIPPED.settings
    better = temporal_report.difference(shipped, ("cross_attention", 4), ("addition", 4), "motion")
    assert better[1] > 0.1


def test_shipped_plots_are_of_the_shipped_table(tmp_path):
    shipped = temporal_ablation.shipped_table()
    names = [path.name for path in temporal_report.draw(shipped, tmp_path)]
    assert len(names) == 4
    for path in (shipped.parent / name for name in names):
        if path.suffix == ".png":
            told = Image.open(path).text.get("Description")
            assert told == tables.note_of(shipped), f"{path.name} is of another table: draw it again"
        else:
            text = path.read_text(encoding="utf-8")
            assert tables.note_of(shipped) in text and all(name in text for name in temporal_report.NAMES.values())


def test_the_readme_shows_this_table():
    text = (ROOT / "data/ablations/README.md").read_text(encoding="utf-8")
    assert all(text.count(mark) == 1 for mark in MARKS), f"no block between {' and '.join(MARKS)}"
    shown = text.split(MARKS[0])[1].split(MARKS[1])[0]
    assert shown.strip() == temporal_ablation.block(temporal_ablation.shipped_table(), temporal_ablation.grid()).strip()


@pytest.mark.parametrize("name", ["temporal", "temporal_written"])
def test_the_sweep_covers_the_grid_and_trains_nothing_to_look_at(name):
    notebook = read_notebook(ROOT / "notebooks" / "04_ablation_temporal.ipynb")
    shipped = temporal_report.load(temporal_ablation.shipped_table().with_name(f"{name}.csv"))
    size, found = shipped.iloc[0], set()
    for one in (trial.parameters for trial in read_grid(data_folder() / "sweeps" / f"{name}.toml", notebook).trials):
        found |= set(temporal_ablation.grid(one["variants"], one["contexts"], one["seeds"]))
        asked = [one[f"{stage}_steps"] for stage in ("warmup", "joint", "language")]
        assert asked == size[["look", "settle", "language"]].tolist()
        assert [one["train_clips"], one["test_clips"]] == size[["train_clips", "test_clips"]].tolist()
        assert one["show_attention"] is False
    there = set(map(tuple, shipped[list(temporal_report.CELL)].to_numpy()))
    assert there <= {(cell.variant, cell.context, cell.seed) for cell in found} and notebook.seconds
    assert name != "temporal" or set(temporal_ablation.grid()) <= found
    assert notebook.defaults()["show_attention"] is True and temporal_ablation.Size().language_clips == 1200
