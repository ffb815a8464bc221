"""What comes out of a sweep: one table, figures with the right numbers and intervals, one page without a network."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from small_notebooks import PARAMETERS, write_notebook

from videomolmo.cli import main
from videomolmo.io.files import locked_folder, temporary_folder
from videomolmo.sweep.grid import read_grid, read_notebook
from videomolmo.sweep.report import choose_view, means, measures, select
from videomolmo.sweep.store import Store
from videomolmo.sweep.table import collect

GRID = '[grid]\nrule = ["a", "b", "bad"]\ntau = [0.5, 0.7]\n[repeats]\nseed = 3\n'
MADE_BY = {"commit": "abc", "versions": {"python": "3"}, "machine": "a machine", "notebook_sha256": "0" * 64}


def score(rule: str, tau: float, seed: int) -> float:
    return {"a": 0.5, "b": 0.7}[rule] + tau / 10 + seed * 0.01


def rows(parameters: dict) -> str:
    """A cell's own table: two clips, two measures."""
    value = score(parameters["rule"], parameters["tau"], parameters["seed"])
    lines = [f"{clip},{m},{value + d + e}" for clip, d in (("x", -0.1), ("y", 0.1)) for m, e in (("J", 0), ("F", 0.2))]
    return "\n".join(["clip,measure,value", *lines])


@pytest.fixture
def swept(tmp_path) -> Callable[..., Store]:
    """`swept()` gives the folder of a sweep as workers leave it; one cell is missing, "bad" ones failed."""

    def make(grid: str = GRID, table: Callable[[dict], str | None] = rows, parameters: str = PARAMETERS) -> Store:
        notebook = read_notebook(write_notebook(tmp_path / "small.ipynb", parameters))
        (tmp_path / "grid.toml").write_text(grid)
        cells, store = read_grid(tmp_path / "grid.toml", notebook), Store(tmp_path / "out")
        with locked_folder(store.out):
            store.create(notebook, cells)
        for cell in cells.trials[:-1] if len(cells.trials) > 1 else cells.trials:
            with temporary_folder(store.out) as place:
                attempt, facts = place / cell.name, MADE_BY | {"seconds": 2.0}
                attempt.mkdir()
                facts |= {"parameters": dict(cell.parameters), "given": dict(cell.given)}
                if cell.parameters["rule"] == "bad":
                    facts |= {"error": "ValueError: <bad>", "traceback": "line 1\nline <2>"}
                    facts |= {"log": "no <memory>"} if cell.parameters["seed"] == 0 else {}
                    store.commit(attempt, "failed", facts)
                    continue
                if (text := table(cell.parameters)) is not None:
                    (attempt / "results").mkdir()
                    (attempt / "results" / "results.csv").write_text(text)
                    facts["table"] = "results/results.csv"
                store.commit(attempt, "done", facts)
        return store

    return make


def own_columns(table: pd.DataFrame) -> list[str]:
    return [name for name in ("clip", "measure", "value") if name in table]


def test_the_table_has_every_row_with_its_parameters_and_what_made_it(swept):
    store = swept()
    table = collect(store)
    assert len(table) == 2 * 2 * 3 * 4 and table["cell"].nunique() == 12
    assert table.columns.tolist() == [
        "cell", "rule", "factor", "tau", "sizes", "context", "seed", "signs_folder", "clip", "measure", "value",
        "seconds", "commit", "versions", "machine", "notebook",
    ]  # fmt: skip
    assert set(table["sizes"]) == {"[1, 2]"} and set(table["versions"]) == {"python=3"}
    wanted = [score(*one) for one in zip(table["rule"], table["tau"], table["seed"], strict=True)]
    assert np.allclose(table.groupby("cell")["value"].transform("mean") - 0.1, wanted)
    assert len(pd.read_parquet(store.out / "results.parquet")) == len(pd.read_csv(store.out / "results.csv")) == 48


def test_names_that_a_notebook_uses_itself_stay_its_own(swept):
    def table(parameters: dict) -> str:
        return f"tau,rule,seconds\n0.1,{parameters['rule']},7\n0.2,{parameters['rule']},7"

    found = collect(swept('[grid]\nrule = ["a", "b", "c"]', table))
    assert found["tau"].tolist() == [0.1, 0.2] * 2 and set(found["cell_tau"]) == {0.5}
    assert set(found["seconds"]) == {7} and set(found["cell_seconds"]) == {2}
    assert "cell_rule" not in found and found["rule"].tolist() == ["a", "a", "b", "b"]


def test_cells_without_a_table_have_one_row_and_mixed_kinds_become_text(swept):
    store = swept(
        "[grid]\nwhat = ['a', 1, 2.5]", lambda parameters: None, PARAMETERS.replace("tau: float = 0.5", "what = None")
    )
    found = collect(store)
    assert found["what"].tolist() == ["a", "1"] and found["seconds"].tolist() == [2, 2]
    assert pd.read_parquet(store.out / "results.parquet")["what"].tolist() == ["a", "1"]


def test_a_table_of_a_header_alone_loses_no_cell(swept):
    store = swept('[grid]\nrule = ["a", "b", "c"]', lambda p: "clip,value" if p["rule"] == "a" else "clip,value\nx,1")
    found = collect(store)
    assert found["rule"].tolist() == ["a", "b"] and found["value"].isna().tolist() == [True, False]
    assert "table_error" not in found


def test_a_report_is_of_the_grid_that_was_asked_for_last(swept, capsys):
    """A quick trial in the same folder is no part of what is swept afterwards."""
    swept('[fixed]\ntau = 0.1\n[grid]\nrule = ["a", "bad", "b", "b2"]')
    store = swept('[fixed]\ntau = 0.9\n[grid]\nrule = ["a", "b", "c"]')
    assert set(collect(store)["tau"]) == {0.1, 0.9}
    assert main(["sweep", "report", str(store.out)]) == 0
    page = (store.out / "report.html").read_text()
    shown = [value for trace in drawn(page) for value in numbers(trace["y"])]
    wanted = [score(rule, 0.9, 0) + d + e for rule in "ab" for d in (-0.1, 0.1) for e in (0, 0.2)]
    assert shown and all(np.isclose(value, wanted).any() for value in shown)
    assert "rule=bad" not in page


def test_cells_without_a_value_can_be_chosen():
    table = pd.DataFrame({"tau": [None, 0.5], "value": [1, 2]})
    for written, value in (("", 1), ("0.5", 2)):
        assert select(table, {"tau": written})["value"].tolist() == [value]


@pytest.mark.parametrize("digits", ["01" * 250, "0101", "1" * 20])
def test_a_column_of_digits_stays_as_it_was_written(swept, digits):
    def table(parameters: dict) -> str:
        first = digits if parameters["rule"] == "a" else "11"  # one cell decides for all
        return f"right,whole,half,said,gap\n{first},1,0.50,True,\n10,-2,1e-3,False,3"

    store = swept('[grid]\nrule = ["a", "b", "c"]', table)
    found, wanted = collect(store), [digits, "10", "11", "10"]
    assert found["right"].tolist() == wanted
    assert pd.read_parquet(store.out / "results.parquet")["right"].tolist() == wanted
    assert pd.read_csv(store.out / "results.csv", dtype=str)["right"].tolist() == wanted
    kinds = {name: found[name].dtype.kind for name in ("whole", "half", "said", "gap")}
    assert kinds == {"whole": "i", "half": "f", "said": "b", "gap": "f"}
    assert found["half"].tolist() == [0.5, 0.001] * 2 and found["gap"].dropna().tolist() == [3, 3]


def test_whole_numbers_of_a_column_with_gaps_keep_their_last_digit(swept):
    large = 2**53 + 1  # the first that a float does not hold
    store = swept('[fixed]\nrule = "a"', lambda _: f"id,seed\n{large},0\n,0\n7,0")
    assert collect(store)["id"].dropna().tolist() == [str(large), "7"]
    (store.out / "cells" / next(iter(store.records().values())).folder.name / "results" / "results.csv").write_text(
        f"id,seed\n{large},0\n7,0"
    )
    assert collect(store)["id"].tolist() == [large, 7] and "cell_seed" not in collect(store)


BAD_TABLES = {
    "empty": ("", "No columns to parse"), "ragged": ("a,b\n1,2\n1,2,3", "Expected 2 fields in line 3, saw 3"),
    "too many": ("a,b\n1,2,3\n4,5,6", "more values than the header has names"), "bytes": (b"a\n\xff", "utf-8"),
    "gone": (None, "No such file"),
}  # fmt: skip


@pytest.mark.parametrize("content, told", BAD_TABLES.values(), ids=BAD_TABLES)
def test_a_table_that_went_bad_is_named_and_keeps_nothing_else_away(swept, capsys, content, told):
    store = swept('[grid]\nrule = ["a", "b", "c"]', lambda p: rows({"rule": "a"} | {n: p[n] for n in ("tau", "seed")}))
    (_, lost), (_, kept) = sorted(store.records().items(), key=lambda pair: pair[1].metadata["parameters"]["rule"])
    path = lost.folder / "results" / "results.csv"
    path.unlink() if content is None else path.write_bytes(content if isinstance(content, bytes) else content.encode())
    table = collect(store)
    assert table["value"].notna().sum() == 4 and set(table.dropna(subset="value")["cell"]) == {kept.folder.name}
    (bare,) = table[table["cell"] == lost.folder.name].to_dict("records")
    assert told in bare["table_error"] and bare["rule"] == "a" and "\n" not in bare["table_error"]
    assert main(["sweep", "report", str(store.out), "--where", "rule=b"]) == 0
    page = (store.out / "report.html").read_text()
    assert "their tables cannot be read" in page and f"<li>{lost.folder.name}: results.csv is no table" in page


def test_a_sweep_says_which_cells_left_no_rows(swept, tmp_path, capsys):
    out = swept('[fixed]\nrule = "a"').out
    (cell,) = (out / "cells").iterdir()
    sweep = ["sweep", str(tmp_path / "small.ipynb"), "--grid", str(tmp_path / "grid.toml"), "--out", str(out)]
    assert main(sweep) == 0 and not capsys.readouterr().err
    (cell / "results" / "results.csv").write_text("")
    assert main(sweep) == 1
    told = capsys.readouterr().err
    assert f"without its rows: {cell.name}: results.csv is no table" in told and f"remove cells/{cell.name}" in told


def test_a_cell_is_published_once_and_a_failed_one_replaced(swept):
    store = swept('[grid]\nrule = ["bad"]')
    (key, record), facts = next(iter(store.records().items())), MADE_BY | {"seconds": 1.0, "parameters": {}}
    assert record.status == "failed"
    for seconds in (1.0, 9.0):
        with temporary_folder(store.out) as place:
            (place / record.folder.name).mkdir()
            store.commit(place / record.folder.name, "done", facts | {"seconds": seconds})
    assert store.records()[key].status == "done" and store.records()[key].metadata["seconds"] == 1.0
    assert len(list(store.cells.iterdir())) == 1


def test_columns_find_their_places(swept):
    table = collect(swept())
    own = own_columns(table)
    view = choose_view(table, ["rule", "tau"], own, ["seed"])
    assert view.shown == ["tau", "rule", "measure"] and view.averaged == ("clip",)
    view = choose_view(table, ["rule", "tau"], own, ["seed"], x="rule", facet="clip")
    assert view.shown == ["rule", "tau", "clip"] and view.averaged == ("measure",)
    assert measures(table, own, view, None) == ["value"] and measures(table, own, view, "seconds") == ["seconds"]


def test_intervals_are_over_repetitions_and_nothing_else(swept):
    table = collect(swept())
    view = choose_view(table, ["rule", "tau"], own_columns(table), ["seed"])
    point = means(table, view, "value").set_index(["rule", "tau", "measure"]).loc[("b", 0.7, "J")]
    seeds = [score("b", 0.7, seed) for seed in range(3)]
    low, high = stats.t.interval(0.95, 2, np.mean(seeds), stats.sem(seeds))
    assert point["repetitions"] == 3 and point["rows"] == 3 * 2 and point["mean"] == pytest.approx(np.mean(seeds))
    assert (point["mean"] - point["half"], point["mean"] + point["half"]) == pytest.approx((low, high))
    alone = choose_view(table, ["rule", "tau"], own_columns(table), [])
    assert means(table, alone, "value")["half"].isna().all()


def drawn(page: str) -> list[dict]:
    """The traces of all figures of a page, arrays decoded."""
    found = []
    for at in re.finditer(r"Plotly\.newPlot\(\s*\"[\w-]+\",\s*", page):
        found += json.JSONDecoder().raw_decode(page, at.end())[0]
    return found


def numbers(values: list | dict) -> list[float]:
    if isinstance(values, dict):
        values = np.frombuffer(base64.b64decode(values["bdata"]), np.dtype(values["dtype"])).tolist()
    return values


def test_the_report_shows_the_numbers_and_what_is_not_there(swept, capsys):
    out = swept().out
    assert main(["sweep", "report", str(out)]) == 0
    assert f"written to {out / 'report.html'}" in capsys.readouterr().out
    page = (out / "report.html").read_text()
    assert "18 cells: 12 done, 5 failed, 1 missing. Points are means over seed" in page
    assert "Averaged over, because there was no place to show it: clip." in page
    assert "Rows of the table behind a point: 6." in page  # three seeds, two clips
    traces = {(one["name"], one["xaxis"]): one for one in drawn(page)}
    assert len(traces) == 4
    trace = next(one for (name, _), one in traces.items() if name == "b" and np.isclose(numbers(one["y"])[0], 0.76))
    assert numbers(trace["x"]) == [0.5, 0.7] and numbers(trace["y"]) == pytest.approx([0.76, 0.78])
    assert numbers(trace["error_y"]["array"]) == pytest.approx([stats.t.ppf(0.975, 2) * 0.01 / 3**0.5] * 2)
    assert page.count("ValueError: &lt;bad&gt;") == 5 and "line &lt;2&gt;" in page
    assert page.count("log ends:</p><pre>no &lt;memory&gt;</pre>") == 2
    assert "Missing cells" in page and "<li>rule=bad,tau=0.7,seed=2," in page
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", page)  # nothing is fetched
    for link in re.findall(r'href="(cells/[^"]+)/notebook\.ipynb"', page):
        assert (out / link.replace("%3D", "=").replace("%2C", ",")).is_dir()


def test_the_report_draws_what_is_asked_for(swept, tmp_path, capsys):
    out = swept().out
    page = tmp_path / "a.html"
    asked = ["--x", "rule", "--y", "seconds", "--colour", "measure", "--facet", "tau", "--html", str(page)]
    assert main(["sweep", "report", str(out), *asked]) == 0
    traces = drawn(page.read_text())
    assert {one["name"] for one in traces} == {"J", "F"} and traces[0]["x"] == ["a", "b"]
    assert not (out / "report.html").exists()
    only = ["--where", "measure=J", "--where", "tau=0.5", "--where", "clip=x"]
    assert main(["sweep", "report", str(out), *only, "--html", str(page)]) == 0
    assert "Only measure = J. Only tau = 0.5. Only clip = x." in page.read_text()
    (trace,) = drawn(page.read_text())
    assert trace["x"] == ["a", "b"] and numbers(trace["y"]) == pytest.approx([0.46, 0.66])
    for wrong, told in (
        (["--x", "nothing"], "no column 'nothing'"), (["--y", "measure"], "no column of numbers 'measure'"),
        (["--where", "rule=z"], "no row has rule = z; the column holds a, b"),
        (["--where", "rule"], "is no condition"),
        (["--over", "none"], "no column 'none'"), (["--where", "none=1"], "no column 'none'"),
        (["--html", str(tmp_path / "no" / "a.html")], "cannot be written"),
        (["--html", str(tmp_path / "grid.toml")], "no report of a sweep"),
    ):  # fmt: skip
        assert main(["sweep", "report", str(out), *wrong]) == 2 and told in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong, told",
    [
        (["--x", "tau", "--colour", "tau"], "--colour is 'tau', which is --x already"),
        (["--colour", "rule", "--facet", "rule"], "--facet is 'rule', which is --colour already"),
        (["--x", "tau", "--y", "tau"], "--y is 'tau', which is --x already"),
        (["--x", "seed"], "--x is 'seed', which repeats the settings already"),
        (["--y", "seed"], "--y is 'seed', which repeats the settings already"),
        (["--over", "tau", "--facet", "tau"], "--facet is 'tau', which repeats the settings already"),
        (["--x", "mean"], "a column 'mean' cannot be shown"),
    ],
)  # fmt: skip
def test_a_column_has_one_place_in_a_figure(swept, capsys, wrong, told):
    def table(parameters: dict) -> str:
        head, *lines = rows(parameters).split()
        return "\n".join([f"{head},mean", *(f"{line},2" for line in lines)])

    out = swept('[grid]\nrule = ["a", "b"]\ntau = [0.5, 0.7]\n[repeats]\nseed = 2', table).out
    assert main(["sweep", "report", str(out), *wrong]) == 2
    errors = capsys.readouterr().err
    assert told in errors and errors.count("\n") == 1


def test_a_measure_is_no_axis_and_any_column_of_the_notebook_may_be_one(swept):
    out = swept().out
    assert main(["sweep", "report", str(out), "--y", "tau"]) == 0  # the axis that would be chosen
    assert main(["sweep", "report", str(out), "--x", "value", "--y", "seconds"]) == 0
    (trace, *_) = drawn((out / "report.html").read_text())
    assert len(numbers(trace["x"])) > 2 and set(numbers(trace["y"])) == {2}


def test_a_sweep_with_nothing_done_has_no_report(swept, capsys):
    assert main(["sweep", "report", str(swept('[fixed]\nrule = "bad"').out)]) == 2
    assert "no cell is done yet" in capsys.readouterr().err
