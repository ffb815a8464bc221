"""Grids: which cells they make, and what is refused before anything is written or run."""

from __future__ import annotations

import ast
import json
import re
import sys
import tomllib
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from small_notebooks import BODY, PARAMETERS, write_notebook

from videomolmo.cli import main
from videomolmo.errors import BadInput
from videomolmo.io.cluster import Executor
from videomolmo.io.files import locked_folder
from videomolmo.sweep.grid import Grid, fits, read_grid, read_notebook
from videomolmo.sweep.run import as_time, estimate, make_plan
from videomolmo.sweep.store import Record, Store

ROOT = Path(__file__).parent.parent
TEMPORAL = ("temporal", "temporal_written")
SHIPPED = sorted((ROOT / "data" / "sweeps").glob("*.toml"))


@pytest.fixture
def notebook(tmp_path) -> Path:
    return write_notebook(tmp_path / "small.ipynb")


@pytest.fixture
def cells(tmp_path, notebook):
    """`cells("[grid] …")` reads such a grid for the small notebook."""

    def read(text: str) -> Grid:
        (tmp_path / "grid.toml").write_text(text)
        return read_grid(tmp_path / "grid.toml", read_notebook(notebook))

    return read


def settings(grid: Grid, *names: str) -> list[tuple]:
    return [tuple(cell.parameters[name] for name in names) for cell in grid.trials]


def test_lists_multiply_and_settings_come_before_repetitions(cells):
    grid = cells('[grid]\nrule = ["a", "b"]\ntau = [0.5, 1]\n[repeats]\nseed = 2')
    settings_once = [("a", 0.5), ("a", 1.0), ("b", 0.5), ("b", 1.0)]
    assert settings(grid, "rule", "tau", "seed") == [(*one, seed) for seed in (0, 1) for one in settings_once]
    assert grid.varied == ("rule", "tau") and grid.repeats == ("seed",)
    assert grid.trials[1].name.startswith("rule=a,tau=1.0,seed=0,") and isinstance(grid.trials[1].given["tau"], float)
    assert grid.trials[0].given == {"rule": "a", "tau": 0.5, "seed": 0} and grid.trials[0].parameters["factor"] == 1


def test_explicit_cells_stand_beside_the_grid_or_alone(cells):
    both = cells('[fixed]\nfactor = 7\n[grid]\nrule = ["a"]\n[[cells]]\nrule = "b"\nfactor = 8')
    assert settings(both, "rule", "factor") == [("a", 7), ("b", 8)] and both.varied == ("factor", "rule")
    alone = cells('[[cells]]\nrule = "b"\n[[cells]]\nrule = "b"\n[[cells]]\nsizes = [3]\n[repeats]\nseed = [5, 9]')
    assert settings(alone, "rule", "sizes", "seed") == [
        ("b", [1, 2], 5), ("good", [3], 5), ("b", [1, 2], 9), ("good", [3], 9),
    ]  # fmt: skip
    assert settings(cells("[fixed]\nfactor = 3"), "factor") == [(3,)]


def test_a_cell_is_known_by_its_settings_however_they_were_said(cells):
    one = cells('[grid]\nrule = ["a"]').trials[0]
    assert cells('[fixed]\nrule = "a"\nfactor = 1\ntau = 0.5').trials[0].key == one.key  # the rest are defaults
    assert cells('[grid]\nrule = ["a", "b"]\n[repeats]\nseed = 2').trials[0].key == one.key
    assert cells('[grid]\nrule = ["a"]\nfactor = [2]').trials[0].key != one.key


def test_names_of_folders_hold_what_every_system_can_write(cells):
    names = [cell.name for cell in cells('[grid]\nrule = ["a/b: *?", "", "ü", "long %s"]' % ("x" * 300)).trials]
    assert [name.rpartition(",")[0] for name in names][:3] == ["rule=a-b", "rule=none", "rule=ü"]
    assert max(map(len, names)) < 100 and len(set(names)) == 4


@pytest.mark.parametrize(
    "text, told",
    [
        ("[grid]\nrul = ['a']", "'rul' is no parameter of small.ipynb, which has rule, factor, tau, sizes, context"),
        ("[grid]\nrul = ['a']", "did you mean 'rule'?"),
        ("[fixed]\ntau = 'high'", "tau = \"high\" is a text, expected 'tau: float = 0.5'"),
        ("[fixed]\nfactor = 1.5", "factor = 1.5 is a number"),
        ("[fixed]\nfactor = true", "factor = true is true or false"),
        ("[grid]\nsizes = [[1], [2.5]]", "sizes = [2.5] is a list, expected 'sizes: list[int] = [1, 2]'"),
        ("[grid]\nrule = 'a'", "rule = 'a' is no list of values"),
        ("[grid]\nrule = []", "no list of values"),
        ("[grid]\nfactor = [1, 2, 1]", "factor names a value twice"),
        ("[grid]\nrule = ['a']\n[fixed]\nrule = 'b'", "rule stands in [fixed] and in [grid]"),
        ("[grid]\nseed = [1]\n[repeats]\nseed = 2", "seed stands in [repeats] and elsewhere"),
        ("[repeats]\nseed = 0", "seed = 0 in [repeats] is below 1"),
        ("[fixed]\nresults_folder = 'x'", "results_folder is set by the sweep itself"),
        ("[fixed]\nrule = 1979-05-27", "rule has the value 1979-05-27, which JSON does not know"),
        ("[fixed]\ntau = nan", "tau has the value nan"),
        ("[fixed]\ncontext = 'all'", "expected 'context: int | None = None'"),
        ("[gird]\nrule = ['a']", "'gird' is no part of a grid"),
        ("cells = 3", "cells is no list of tables"),
        ("grid = 3", "grid is 3, expected a table"),
        ("[grid", "not TOML"),
        ("[fixed]\nrule = 'ü'", "not UTF-8 (byte 16)"),
        ("seconds_per_run = 'long'", "seconds_per_run is 'long', expected seconds"),
        ("seconds_per_run = 0", "seconds_per_run is 0, expected seconds"),
        ("seconds_per_run = inf", "seconds_per_run is inf, expected seconds"),
    ],
)  # fmt: skip
def test_what_a_grid_may_not_say(tmp_path, notebook, capsys, text, told):
    (tmp_path / "grid.toml").write_text(text, encoding="latin-1")
    before = sorted(tmp_path.iterdir())
    assert main(["sweep", str(notebook), "--grid", str(tmp_path / "grid.toml"), "--out", str(tmp_path / "out")]) == 2
    errors = capsys.readouterr().err
    assert told in errors and errors.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["NOTEBOOK"], "--grid is missing"),
        (["NOTEBOOK", "--grid", "GRID"], "--out is missing"),
        (["NOTEBOOK", "elsewhere", "--grid", "GRID", "--out", "OUT"], "one notebook at a time"),
        (["none.ipynb", "--grid", "GRID", "--out", "OUT"], "none.ipynb: no such notebook"),
        (["GRID", "--grid", "GRID", "--out", "OUT"], "not a notebook"),
        (["NOTEBOOK", "--grid", "none.toml", "--out", "OUT"], "none.toml: cannot be read"),
        (["NOTEBOOK", "--grid", "GRID", "--out", "FULL"], "is not empty and holds no sweep"),
        (["NOTEBOOK", "--grid", "GRID", "--out", "OUT", "--workers", "0"], "--workers is 0"),
        (["NOTEBOOK", "--grid", "GRID", "--out", "OUT", "--cluster", "cloud"], "--cluster is 'cloud', expected one of"),
        (["NOTEBOOK", "--grid", "GRID", "--out", "OUT", "--cluster", "slurm", "--scheduler", "tcp://a"], "two places"),
        (["NOTEBOOK", "--grid", "GRID", "--out", "OUT", "--scheduler", "tcp://a", "--workers", "2"], "brings its own"),
        (["NOTEBOOK", "--grid", "GRID", "--out", "OUT", "--scheduler", "nowhere"], "no Dask scheduler answers"),
        (["NOTEBOOK", "--grid", "GRID", "--out", "OUT", "--x", "tau"], "--x belongs to `videomolmo sweep report`"),
        (["report"], "the sweep's folder is missing"),
        (["report", "OUT"], "OUT holds no sweep"),
        (["report", "FULL", "--retry-failed"], "--retry-failed belongs to running a sweep"),
    ],
)  # fmt: skip
def test_what_the_command_refuses(tmp_path, notebook, capsys, monkeypatch, arguments, told):
    monkeypatch.setattr("videomolmo.io.cluster.ANSWER_WITHIN_S", 1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "diary.txt").touch()
    (tmp_path / "grid.toml").write_text("")
    paths = {"NOTEBOOK": notebook, "GRID": tmp_path / "grid.toml", "OUT": tmp_path / "OUT", "FULL": tmp_path / "full"}
    before = sorted(tmp_path.rglob("*"))
    assert main(["sweep", *(str(paths.get(one, one)) for one in arguments)]) == 2
    errors = capsys.readouterr().err
    assert told in errors and errors.splitlines()[-1].startswith("videomolmo: ")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_batch_system_needs_its_package_and_its_commands(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(BadInput, match=r"pip install 'videomolmo\[cluster\]'"), Executor(cluster="slurm").client():
        pass
    assert Executor(workers=3).max_workers == 3 and Executor(workers=10_000).threads == 1
    assert Executor(scheduler="tcp://a").max_workers is None and Executor(cluster="slurm").threads is None


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_grids_fit_the_notebooks_they_name(path):
    command = re.search(r"videomolmo sweep (notebooks/\S+\.ipynb) --grid (\S+)", path.read_text(encoding="utf-8"))
    assert command, f"{path} does not say which notebook it is for"
    assert ROOT / command[2] == path
    assert len(read_grid(path, read_notebook(ROOT / command[1])).trials) > 1


def test_shipped_grids_state_the_seconds_that_were_measured():
    shipped = {path.stem: tomllib.loads(path.read_text(encoding="utf-8")) for path in SHIPPED}
    cost = json.loads((ROOT / "data" / "ablations" / "fusion.json").read_text())["cost"]
    fusion, tables = shipped["fusion"], {name: ROOT / "data" / "ablations" / f"{name}.csv" for name in TEMPORAL}
    cells = len(fusion["grid"]["noise"]) * len(fusion["grid"]["every"])
    measured = {
        "fusion": cost["grid_s"] * fusion["fixed"]["clips"] / cost["clips"] / cells,
    }
    for name, path in tables.items():
        measured[name] = pd.read_csv(path).drop_duplicates(["variant", "context", "seed"])["seconds"].mean()
    decoded = pd.read_csv(ROOT / "data" / "ablations" / "caption_decoders.csv").drop_duplicates(["branch", "clip"])
    measured["captions"] = decoded["seconds"].mean() * shipped["captions"]["fixed"]["clips"]
    words = pd.read_csv(ROOT / "data" / "ablations" / "words_or_tokens.csv")
    measured["words_or_tokens"] = words.drop_duplicates(["points", "attention", "samples", "seed"])["seconds"].mean()
    assert measured.keys() == shipped.keys()
    for name, seconds in measured.items():
        assert seconds < shipped[name]["seconds_per_run"] < seconds + 30, name  # the notebook around the work


def test_only_what_decides_a_run_changes_the_hash_of_a_notebook(tmp_path, notebook):
    before = read_notebook(notebook).sha256
    content = nbformat.read(notebook, as_version=4)
    content.cells[1].outputs = [nbformat.v4.new_output("stream", text="seen")]
    content.metadata["language_info"] = {"name": "python"}
    nbformat.write(content, notebook)
    assert read_notebook(notebook).sha256 == before
    assert read_notebook(write_notebook(tmp_path / "b.ipynb", body=BODY + "# more")).sha256 != before


def test_a_changed_notebook_is_not_mixed_with_its_former_self(tmp_path, notebook, cells, capsys):
    store, grid = Store(tmp_path / "out"), cells("")
    with locked_folder(store.out):
        store.create(read_notebook(notebook), grid)
    write_notebook(notebook, body=BODY + "# changed")
    assert main(["sweep", str(notebook), "--grid", str(tmp_path / "grid.toml"), "--out", str(tmp_path / "out")]) == 2
    assert "holds runs of small.ipynb as it was then" in capsys.readouterr().err
    assert store.notebook.read_text() != notebook.read_text()


def test_parameters_are_read_as_python_reads_them(tmp_path):
    source = PARAMETERS + 'text = "a # b"\nmany = [\n    1,\n    2,\n]\nopen_end: float\nwhere = some_call()\n'
    found = read_notebook(write_notebook(tmp_path / "a.ipynb", parameters=source)).parameters
    assert found["text"].default == "a # b" and found["many"].default == [1, 2]
    assert "open_end" not in found and found["where"].default is ... and found["context"].default is None
    assert found["where"].accept("anything") == "anything" and found["many"].accept(["a"]) == ["a"]
    with pytest.raises(BadInput, match="0 cells are tagged"):
        nbformat.write(nbformat.v4.new_notebook(), tmp_path / "b.ipynb")
        read_notebook(tmp_path / "b.ipynb")
    with pytest.raises(BadInput, match="not Python"):
        read_notebook(write_notebook(tmp_path / "c.ipynb", parameters="a ="))


@pytest.mark.parametrize(
    "annotation, right, wrong",
    [
        ("int", [1], [True, 1.0, "1", None]),
        ("float", [1, 1.5], [True, "1"]),
        ("'str | None'", ["a", None], [1]),
        ("Optional[bool]", [True, None], [0]),
        ("Literal['a', 'b']", ["a"], ["c", 1]),
        ("list[str]", [[], ["a"]], [["a", 1], "a"]),
        ("dict[str, list[int]]", [{}, {"a": [1]}], [{"a": 1}]),
        ("np.ndarray", [1, "a"], []),
    ],
)
def test_values_fit_annotations(annotation, right, wrong):
    wanted = ast.parse(annotation, mode="eval").body
    assert all(fits(value, wanted) for value in right) and not any(fits(value, wanted) for value in wrong)


def test_the_cost_is_guessed_from_what_is_known_best(cells):
    grid = cells("[grid]\nfactor = [1, 2, 3, 4, 5]")
    keys = [cell.key for cell in grid.trials]
    records = {
        keys[0]: Record(Path("a"), "done", {"seconds": 10.0}), keys[1]: Record(Path("b"), "done", {"seconds": 30.0}),
        keys[2]: Record(Path("c"), "failed", {"seconds": 1.0}),
    }  # fmt: skip
    plan = make_plan(grid, records)
    assert [cell.key for cell in plan.to_run] == keys[3:]
    assert [cell.key for cell in make_plan(grid, records, retry_failed=True).to_run] == keys[2:]
    assert estimate(plan, 2, None, 5).startswith("2 cells to run × 20.0 s (mean of 2 finished) = 40.0 s of work, ab")
    assert "about 20.0 s with 2 at once" in estimate(plan, 2, None, None)
    assert "× 3.0 s (as you say)" in estimate(plan, None, 3, 5) and "at once" not in estimate(plan, None, 3, 5)
    assert "× 5.0 s (the notebook's metadata say so of its defaults)" in estimate(make_plan(grid, {}), 2, None, 5)
    assert "× 7.0 s (seconds_per_run of the grid)" in estimate(make_plan(grid, {}), 2, None, 5, 7)
    assert "(mean of 2 finished)" in estimate(plan, 2, None, 5, 7) and "(as you say)" in estimate(plan, 2, 3, 5, 7)
    assert "; an estimate: " in estimate(make_plan(grid, {}), 2, None, 5)
    assert "not known" in estimate(make_plan(grid, {}), 2, None, None)
    assert estimate(make_plan(cells(""), {cells("").trials[0].key: records[keys[0]]}), 2, 3, 5) == "nothing to run"
    assert as_time(3599.7) == "1 h 0 min"


def test_a_dry_run_lists_and_writes_nothing(tmp_path, capsys):
    notebook = write_notebook(tmp_path / "small.ipynb", videomolmo={"seconds_per_run": 90})
    (tmp_path / "grid.toml").write_text("[grid]\nfactor = [1, 2]")
    before = sorted(tmp_path.iterdir())
    arguments = ["sweep", str(notebook), "--grid", str(tmp_path / "grid.toml"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--dry-run", "--workers", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "small.ipynb: 2 cells" and [line.split()[:2] for line in lines[1:3]] == [["run", "missing"]] * 2
    assert "2 cells to run × 1 min 30 s (the notebook's metadata say so of its defaults) = 3 min 0 s of" in lines[3]
    (tmp_path / "grid.toml").write_text("seconds_per_run = 600\n[grid]\nfactor = [1, 2]")
    assert main([*arguments, "--dry-run", "--workers", "2"]) == 0
    assert "2 cells to run × 10 min 0 s (seconds_per_run of the grid) = 20 min 0 s of work" in capsys.readouterr().out
    for seconds in ("0", "nan"):
        assert main([*arguments, "--dry-run", "--seconds-per-cell", seconds]) == 2
        assert "--seconds-per-cell is" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_a_notebook_that_says_it_takes_no_number_of_seconds_is_refused(tmp_path):
    for seconds in ("a minute", -1, True):
        with pytest.raises(BadInput, match="seconds_per_run in its metadata is"):
            read_notebook(write_notebook(tmp_path / "a.ipynb", videomolmo={"seconds_per_run": seconds}))
    assert read_notebook(write_notebook(tmp_path / "a.ipynb", videomolmo="fast")).seconds is None
