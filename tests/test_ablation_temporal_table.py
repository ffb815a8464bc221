"""The temporal ablation's table: rows, intervals, plots and the README's block; and what is shipped of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from videomolmo.errors import BadInput
from videomolmo.lab import tables, temporal_ablation, temporal_report
from videomolmo.sweep.grid import read_grid
from videomolmo.sweep.notebook import read_notebook
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


@pytest.fixture
def table(tmp_path) -> pd.DataFrame:
    """Two seeds of three cells, forty questions: addition is right in half, attention in nine of ten."""
    path, half, most = tmp_path / "table.csv", "0011" * 10, "0111111111" * 4
    for seed in (1, 2):
        temporal_report.append(path, [row("none", 0, seed, half), row("addition", 4, seed, half)])
        temporal_report.append(path, [row("cross_attention", 4, seed, most), row("cross_attention", 1, seed, half)])
    return temporal_report.load(path)


def test_a_table_stays_whole_when_writing_fails(tmp_path, monkeypatch):
    path = tmp_path / "table.csv"
    temporal_report.append(path, [row("none", 0, 1, "01")])
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        temporal_report.append(path, [row("none", 0, 2, "01")])
    assert path.read_bytes() == before


WRITER = """
import json, sys, time
from pathlib import Path
from videomolmo.lab import temporal_report
path, name, row = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
(path.parent / f"{name}.ready").touch()
while len(list(path.parent.glob("*.ready"))) < 2:
    time.sleep(0.01)
for seed in range(20):
    temporal_report.append(path, [row | {"variant": name, "seed": seed}])
"""


def test_two_processes_lose_no_row_of_each_other(tmp_path):
    path, names, one = tmp_path / "table.csv", ["addition", "concatenation"], json.dumps(row("", 4, 0, "01"))
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name, one]) for name in names]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert temporal_report.load(path).groupby("variant")["seed"].nunique().to_dict() == dict.fromkeys(names, 20)


def test_the_first_rows_of_a_cell_stay_and_rows_of_another_budget_are_refused(tmp_path):
    path = tmp_path / "table.csv"
    temporal_report.append(path, [row("none", 0, 1, "01")])
    temporal_report.append(path, [row("none", 0, 1, "11"), row("none", 0, 1, "11", kind="direction")])
    assert temporal_report.load(path)["right"].tolist() == ["01", "11"]
    with pytest.raises(BadInput, match=r"look = \[1\], not 2; give a new file"):
        temporal_report.append(path, [row("none", 0, 2, "01") | {"look": 2, "settle": 0}])


def test_rows_of_cells_are_theirs_alone(table):
    chosen = temporal_report.rows_of(
        table, [temporal_ablation.Cell("none", 0, 1), temporal_ablation.Cell("cross_attention", 4, 2)]
    )
    assert chosen[list(temporal_report.CELL)].values.tolist() == [["none", 0, 1], ["cross_attention", 4, 2]]
    assert temporal_report.rows_of(table, []).empty and len(table) == 8


def test_a_missing_or_foreign_table_is_refused(tmp_path):
    with pytest.raises(BadInput, match="is not there"):
        temporal_report.load(tmp_path / "none.csv")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(BadInput, match=r"has columns \['a', 'b'\]"):
        temporal_report.load(tmp_path / "other.csv")


def test_bits_survive_the_file(tmp_path):
    path, right = tmp_path / "table.csv", np.array([False, False, True, False])
    temporal_report.append(path, [row("none", 0, 1, temporal_report.bits(right))])
    assert temporal_report.answers(temporal_report.load(path), "addition", 0, "motion").tolist() == [right.tolist()]


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
    temporal_report.append(path, [row(variant, 4, seed, right) for variant, seed, right in rows])
    table = temporal_report.load(path)
    assert temporal_report.difference(table, ("cross_attention", 4), ("addition", 4), "motion") == (0.0, 0.0, 0.0)
    temporal_report.append(path, [row("none", 0, 7, half)])
    assert temporal_report.difference(temporal_report.load(path), ("addition", 4), ("none", 0), "motion") is None


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


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["run", "--variants", "average"], "variants is .*expected some of none, addition"),
        (["run", "--look", "0", "--settle", "0"], "look and settle are both 0"),
        (["run", "--threads", "0"], "threads is 0, expected at least 1"),
        (["write", "--seeds", "-1"], "seeds is"),
        (["write", "--language", "-2"], "language is -2, expected at least 0"),
        (["report"], "none.csv is not there"),
    ],
)
def test_the_command_refuses_in_one_line(capsys, tmp_path, arguments, said):
    assert temporal_ablation.main([*arguments, "--out", str(tmp_path / "none.csv"), "--cache", str(tmp_path)]) == 2
    told = capsys.readouterr()
    assert re.fullmatch(f"temporal: .*{said}.*\n", told.err) and not told.out and not any(tmp_path.iterdir())


# What is shipped


def test_the_shipped_table_is_whole_and_its_lesson_holds():
    shipped = temporal_report.load(temporal_ablation.shipped_table())
    assert not temporal_report.missing(shipped, temporal_ablation.grid())
    assert len(shipped) == len(temporal_ablation.grid()) * len(temporal_report.KINDS)
    for _, one in shipped.iterrows():
        assert len(one["right"]) == one["n"] and one["value"] == pytest.approx(
            one["right"].count("1") / one["n"], abs=1e-4
        )
    assert temporal_report.finished(shipped, temporal_ablation.SHIPPED.settings)
    better = temporal_report.difference(shipped, ("cross_attention", 4), ("addition", 4), "motion")
    assert better[1] > 0.1


def test_shipped_plots_are_of_the_shipped_table(tmp_path):
    shipped = temporal_ablation.shipped_table()
    names = [path.name for path in temporal_report.draw(shipped, tmp_path)]
    assert len(names) == 4
    for path in (shipped.parent / name for name in names):
        if path.suffix == ".png":
            told = Image.open(path).text.get("Description")
            assert told == tables.note_of(shipped), f"{path.name} is of another table: draw it again, `temporal report`"
        else:
            text = path.read_text(encoding="utf-8")
            assert tables.note_of(shipped) in text and all(name in text for name in temporal_report.NAMES.values())


def test_the_readme_shows_this_table():
    text = (ROOT / "data/ablations/README.md").read_text(encoding="utf-8")
    assert all(text.count(mark) == 1 for mark in MARKS), f"no block between {' and '.join(MARKS)}"
    shown = text.split(MARKS[0])[1].split(MARKS[1])[0]
    assert (
        shown.strip() == temporal_ablation.block(temporal_ablation.shipped_table(), temporal_ablation.grid()).strip()
    ), "`temporal report`"


def test_the_sweep_covers_the_grid_and_trains_nothing_to_look_at():
    notebook = read_notebook(ROOT / "notebooks" / "04_ablation_temporal.ipynb")
    swept = read_grid(data_folder() / "sweeps" / "temporal.toml", notebook).cells
    size, found = temporal_ablation.SHIPPED, set()
    for one in (cell.parameters for cell in swept):
        found |= set(temporal_ablation.grid(one["variants"], one["contexts"], one["seeds"]))
        assert (one["look_steps"], one["settle_steps"]) == (size.look, size.settle)
        assert (one["train_clips"], one["test_clips"]) == (size.train_clips, size.test_clips)
        assert one["show_attention"] is False
    assert set(temporal_ablation.grid()) <= found and notebook.seconds and notebook.defaults()["show_attention"] is True
