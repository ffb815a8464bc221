"""What `sweep --dry-run` accepts also runs, whatever stands in paths, notebooks and grids; the rest both refuse."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from small_notebooks import write_notebook

from videomolmo.cli import main

FIELD = Path(__file__).resolve().parents[2] / "shared" / "field"
MARK = b"\xef\xbb\xbf"
PARAMETERS = 'tau: "in parts of one" = 0.5\nresults_folder: str = "results"\ncache_folder: str = "cache"\n'
BODY = """
import pathlib
pathlib.Path(results_folder).mkdir()
pathlib.Path(cache_folder).mkdir(parents=True, exist_ok=True)
(pathlib.Path(results_folder) / "results.csv").write_text(f"label,value\\nNA,{tau}\\n")
"""
SAY = """
import csv, json, pathlib
pathlib.Path(results_folder).mkdir()
with open(pathlib.Path(results_folder) / "results.csv", "w", newline="") as file:
    csv.writer(file).writerows([["seen", "value"], [json.dumps(what), 1]])
"""
PATHS = (
    "{tau}", "}{", "{}", "{0} 100% #1? [a-b]* $HOME ~", "'\"\\`;&|<>", "ü 猫 \U0001f40d", "-", "a\nb\tc",
    "{{tau!r:>9}}",
)  # fmt: skip


def runs(notebook: Path, grid: Path, out: Path, *options: str) -> pd.DataFrame:
    """The table of a sweep that a dry run accepts and that runs."""
    command = ["sweep", str(notebook), "--grid", str(grid), f"--out={out}", "--workers", "1", *options]
    assert main([*command, "--dry-run"]) == 0 and not (out / "sweep.json").exists()
    assert main(command) == 0 and main(["sweep", "report", str(out)]) == 0
    return pd.read_parquet(out / "results.parquet")


@pytest.fixture
def grid(tmp_path) -> Path:
    (tmp_path / "grid.toml").write_text("[grid]\ntau = [0.25]")
    return tmp_path / "grid.toml"


@pytest.mark.slow
def test_a_path_may_hold_anything_that_a_file_system_allows(tmp_path, grid):
    folder = tmp_path.joinpath(*PATHS)
    folder.mkdir(parents=True)
    notebook = write_notebook(folder / "{tau} 100%.ipynb", PARAMETERS, BODY)
    grid = grid.rename(folder / "{tau}.toml")
    found = runs(notebook, grid, folder / "{out}", "--cache", str(folder / "{cache}"))
    assert found["value"].tolist() == [0.25] and (folder / "{cache}").is_dir()


METADATA = {
    "none": {}, "no language": {"kernelspec": {"display_name": "x", "name": "no such kernel"}},
    "its own name": {"language_info": {"name": "ipython"}, "kernelspec": None},
    "empty": {"language_info": {"name": ""}},
    "two": {"language_info": {"name": "Python3"}, "kernelspec": {"name": "python3", "language": ""}},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("metadata", METADATA.values(), ids=METADATA)
def test_a_notebook_need_not_say_its_language_and_files_may_begin_with_a_mark(tmp_path, grid, metadata):
    path = write_notebook(tmp_path / "small.ipynb", PARAMETERS, BODY)
    content = json.loads(path.read_text()) | {"metadata": metadata}
    path.write_bytes(MARK + json.dumps(content).replace("\n", "\r\n").encode())
    grid.write_bytes(MARK + b'[grid]\r\ntau = [0.25]\r\n[cluster]\r\nname = "\xc3\xbc"\r\n')
    assert runs(path, grid, tmp_path / "out")["label"].tolist() == ["NA"]


@pytest.mark.slow
@pytest.mark.skipif(not FIELD.is_dir(), reason="files from the field are not here")
@pytest.mark.parametrize("notebook", ["labels.ipynb", "no_metadata.ipynb"])
@pytest.mark.parametrize("grid", ["grid.toml", "grid_bom.toml"])
def test_files_from_the_field_run_and_keep_their_words(tmp_path, notebook, grid):
    found = runs(FIELD / notebook, FIELD / grid, tmp_path / "out")
    assert found["label"].tolist() == ["cat", "None", "NA", "null", "nan"] and set(found["score"]) == {0.5}


@pytest.mark.slow
def test_values_that_a_grid_can_say_run_and_reach_the_table(tmp_path):
    text = ["NA", "=1+1", "a'b\"c\\n{tau}\n", "{x}", "\U0002f800" * 100, "</script>", "%s"]
    notebook = write_notebook(tmp_path / "small.ipynb", "what = None\nresults_folder = 'r'\n", SAY)
    said = ", ".join(json.dumps(one, ensure_ascii=False) for one in (*text, 10**30, True))
    (tmp_path / "grid.toml").write_text(f"[grid]\nwhat = [{said}, {{'a b' = [1, '{{d}}']}}]")
    found = runs(notebook, tmp_path / "grid.toml", tmp_path / "out")
    assert found["what"].tolist() == [*text, str(10**30), "True", '{"a b": [1, "{d}"]}']
    assert [json.loads(one) for one in found["seen"]] == [*text, 10**30, True, {"a b": [1, "{d}"]}]
    (tmp_path / "grid.toml").write_text("[grid]\nwhat = [1, 1000000000000000000000000000000]")
    assert set(runs(notebook, tmp_path / "grid.toml", tmp_path / "large")["what"]) == {"1", str(10**30)}


def refused(capsys: pytest.CaptureFixture, tmp_path: Path, *command: str) -> str:
    """What both the plan and the sweep say, in one line, having written nothing."""
    before, told = sorted(tmp_path.rglob("*")), set()
    for options in ([], ["--dry-run"]):
        assert main(["sweep", *command, *options]) == 2
        told.add(capsys.readouterr().err)
    assert sorted(tmp_path.rglob("*")) == before
    (error,) = told
    assert error.count("\n") == 1
    return error


PLACES = {
    "--out": ["a\udcff", "a\0b", "grid.toml", "grid.toml/out"],
    "--cache": ["a\udcff", "grid.toml", "grid.toml/b"],
}


@pytest.mark.parametrize("option, name", [(option, name) for option, names in PLACES.items() for name in names])
def test_places_that_no_notebook_could_use_are_refused(tmp_path, grid, capsys, option, name):
    notebook, out = write_notebook(tmp_path / "small.ipynb"), tmp_path / "out"
    places = {"--out": str(out)} | {option: f"{tmp_path}/{name}"}
    refused(capsys, tmp_path, str(notebook), "--grid", str(grid), *(word for pair in places.items() for word in pair))


def broken(path: Path, **cell: object) -> dict:
    """A notebook, as a dictionary, with these things in its cell of parameters."""
    content = json.loads(write_notebook(path).read_text())
    content["cells"][0] |= cell
    return content


def test_a_notebook_that_is_none_or_cannot_be_swept_is_refused(tmp_path, grid, capsys):
    path, tagged = tmp_path / "small.ipynb", {"tags": ["parameters"]}
    whole = broken(path)
    r = {"kernelspec": {"name": "ir", "language": "R", "display_name": "R"}}
    wrong = [
        [], 1, {}, whole | {"cells": None}, whole | {"cells": {}}, whole | {"cells": [1]}, whole | {"metadata": None},
        whole | {"metadata": r}, whole | {"metadata": {"language_info": {"name": "julia"}}}, whole | {"nbformat": "4"},
        broken(path, metadata={"tags": None}), broken(path, metadata={"tags": [1, "parameters"]}),
        broken(path, metadata=None), broken(path, source=1), broken(path, source=None),
        broken(path, source="a = '\0'", metadata=tagged), broken(path, source="a = '\ud800'", metadata=tagged),
        broken(path, source="a = " + "(" * 500, metadata=tagged), broken(path, source="seconds = 1", metadata=tagged),
        broken(path, source="cell: str = 'a'", metadata=tagged),
    ]  # fmt: skip
    for content in wrong:
        path.write_text(json.dumps(content))
        assert "small.ipynb" in refused(
            capsys, tmp_path, str(path), "--grid", str(grid), "--out", str(tmp_path / "out")
        )
    for content in (b"", b"\0" * 99, b"\xff\xfe", b"[" * 100_000, MARK):
        path.write_bytes(content)
        assert "small.ipynb" in refused(
            capsys, tmp_path, str(path), "--grid", str(grid), "--out", str(tmp_path / "out")
        )


def test_a_grid_that_is_nested_without_end_is_refused(tmp_path, grid, capsys):
    grid.write_text("[fixed]\ntau = " + "[" * 100_000)
    notebook = str(write_notebook(tmp_path / "small.ipynb"))
    assert "not TOML" in refused(capsys, tmp_path, notebook, "--grid", str(grid), "--out", str(tmp_path / "out"))


def test_a_mark_changes_neither_hash_nor_cells(tmp_path, grid, capsys):
    path = write_notebook(tmp_path / "small.ipynb")
    for text in (path.read_bytes(), grid.read_bytes()):
        assert not text.startswith(MARK)
    told = set()
    for mark in (b"", MARK):
        path.write_bytes(mark + path.read_bytes())
        grid.write_bytes(mark + grid.read_bytes())
        assert main(["sweep", str(path), "--grid", str(grid), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
        told.add(capsys.readouterr().out)
    assert len(told) == 1 and nbformat.reads(path.read_text("utf-8-sig"), 4).cells
