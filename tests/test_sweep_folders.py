"""The folder of a sweep may come from anybody: nothing outside it is read or touched, and no damage is a traceback."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from small_notebooks import write_notebook

from videomolmo.cli import main
from videomolmo.io.files import LOCK
from videomolmo.io.tables import read_csv

MISSING = (  # what pandas takes for an empty cell unless told otherwise
    "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL",
    "NaN", "None", "n/a", "nan", "null",
)  # fmt: skip
RUN = ("=cmd|' /C calc'!A0", "@SUM(1+1)", "+1+1", "-1+1", "\t=1", "\r=1", "'=1", "</script><script>alert(1)", "a,b")
LABELS = [*MISSING, *RUN]
PARAMETERS = 'rule: str = "a"\nseed: int = 0\nresults_folder: str = "r"\n'
BODY = f"""
import csv, pathlib
if rule == "bad":
    raise ValueError("a <b>bad</b> rule")
folder = pathlib.Path(results_folder)
folder.mkdir()
with open(folder / "results.csv", "w", newline="") as file:
    rows = csv.writer(file)
    rows.writerow(["label", "score", "loss", "=head"])
    for label in {LABELS!r}:
        rows.writerow([label, 0.5, "nan" if label == "NA" else -0.25, "-7"])
"""
GRID = "[grid]\nrule = ['a', 'b', 'bad']\n"
SECRET = "secret-0815"


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A folder with small.ipynb, grid.toml and out/ of their sweep: cells a and b are done, and one failed."""
    folder = tmp_path_factory.mktemp("original")
    notebook = write_notebook(folder / "small.ipynb", PARAMETERS, BODY)
    (folder / "grid.toml").write_text(GRID)
    sweep = ["sweep", str(notebook), "--grid", str(folder / "grid.toml"), "--out", str(folder / "out")]
    assert main([*sweep, "--workers", "2"]) == 1
    return folder


@pytest.fixture
def sent(original, tmp_path) -> Path:
    """A copy of such a folder that may be spoiled, beside somebody's secret."""
    shutil.copytree(original, tmp_path / "sent")
    (tmp_path / "foreign" / "results").mkdir(parents=True)
    for path in (tmp_path / "foreign.csv", tmp_path / "foreign" / "results" / "results.csv"):
        path.write_text(f"label,score\n{SECRET},1\n")
    return tmp_path / "sent"


def sweep(sent: Path, *options: str) -> int:
    where = ["--grid", str(sent / "grid.toml"), "--out", str(sent / "out"), "--workers", "1"]
    return main(["sweep", str(sent / "small.ipynb"), *where, *options])


def report(sent: Path, *options: str) -> int:
    return main(["sweep", "report", str(sent / "out"), *options])


def cell(sent: Path, rule: str) -> Path:
    (found,) = (sent / "out" / "cells").glob(f"rule={rule},??????????")
    return found


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(one.relative_to(folder)): one.read_bytes() if one.is_file() else None for one in folder.rglob("*")}


def assert_kept_to_itself(sent: Path) -> None:
    """Nothing that a sweep or report wrote holds what stands elsewhere."""
    for name in ("results.csv", "results.parquet", "report.html"):
        path = sent / "out" / name
        assert not path.exists() or SECRET.encode() not in path.read_bytes(), name
    assert (sent.parent / "foreign.csv").read_text().count(SECRET) == 1


@pytest.mark.slow
def test_words_and_formulas_of_a_notebook_stay_texts_and_numbers_numbers(sent):
    assert report(sent) == 0
    for table in (pd.read_parquet(sent / "out" / "results.parquet"), read_csv(sent / "out" / "results.csv")):
        assert table["label"].tolist() == LABELS * 2 and set(table["score"]) == {0.5}
        assert table["loss"].isna().sum() == 2 and set(table["loss"].dropna()) == {-0.25}  # nan among numbers
        assert table["=head"].dtype.kind == "i" and set(table["=head"]) == {-7}
    plain = pd.read_csv(sent / "out" / "results.csv", keep_default_na=False, dtype=str)
    assert not [text for text in plain["label"] if text.startswith(("=", "@", "+", "-1+", "\t", "\r"))]
    assert (
        "'=head" in plain.columns
        and set(plain["score"]) == {"0.5"}
        and set(plain["=head" if 0 else "'=head"]) == {"-7"}
    )


@pytest.mark.slow
@pytest.mark.parametrize("word", ["NA", "=cmd|' /C calc'!A0", "</script><script>alert(1)"])
def test_rows_are_chosen_by_such_words_and_no_text_is_markup(sent, word):
    assert main(["sweep", "report", str(sent / "out"), "--where", f"label={word}", "--colour", "label"]) == 0
    assert "<script>alert" not in (sent / "out" / "report.html").read_text()


def change(path: Path, **facts: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


OUTSIDE: dict[str, Callable[[Path], object]] = {
    "up": lambda at: change(at / "done.json", table="../../../../foreign.csv"),
    "absolute": lambda at: change(at / "done.json", table=str(at.parents[3] / "foreign.csv")),
    "up and down": lambda at: change(at / "done.json", table="results/../../../../../foreign.csv"),
    "link": lambda at: [unlinked(at / "results" / "results.csv").symlink_to(at.parents[3] / "foreign.csv")],
    "folder": lambda at: moved(at / "results").symlink_to(at.parents[3] / "foreign" / "results"),
    "circle": lambda at: [unlinked(at / "results" / "results.csv").symlink_to("results.csv")],
    "fifo": lambda at: os.mkfifo(unlinked(at / "results" / "results.csv")),
    "device": lambda at: change(at / "done.json", table="/dev/stdin"),
    "nul": lambda at: change(at / "done.json", table="results/\0.csv"),
    "long": lambda at: change(at / "done.json", table="x" * 5000),
    "here": lambda at: change(at / "done.json", table="."),
}  # fmt: skip


def unlinked(path: Path) -> Path:
    path.unlink()
    return path


def moved(path: Path) -> Path:
    path.rename(path.with_name("elsewhere"))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("way", OUTSIDE)
def test_a_table_outside_the_cell_is_not_read(sent, capsys, way):
    OUTSIDE[way](cell(sent, "a"))
    assert report(sent) == 0 and not capsys.readouterr().err
    assert_kept_to_itself(sent)
    table = pd.read_parquet(sent / "out" / "results.parquet")
    assert table["table_error"].notna().sum() == 1 and table["label"].notna().sum() == len(LABELS)
    assert "their tables cannot be read" in (sent / "out" / "report.html").read_text()
    assert sweep(sent) == 1 and "without its rows: rule=a" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", [LOCK, "cells", "notebook.ipynb", "sweep.json"])
def test_no_link_leads_out_of_the_folder(sent, capsys, name):
    foreign, own = sent.parent / "foreign", sent / "out" / name
    shutil.copytree(cell(sent, "bad"), foreign / cell(sent, "bad").name)
    if own.is_dir():
        shutil.rmtree(own)
    own.unlink(missing_ok=True)
    own.symlink_to(foreign if name == "cells" else sent.parent / "foreign.csv")
    before = tree(sent.parent)
    for options in ([], ["--dry-run"], ["--retry-failed"]):
        assert sweep(sent, *options) == 2
        error = capsys.readouterr().err
        assert "is a link" in error and str(own) in error and error.count("\n") == 1
    assert tree(sent.parent) == before


BAD_STATES = {
    "empty": b"", "zeros": b"\0" * 512, "half": b'{"notebook": "small.ip', "list": b"[]", "null": b"null",
    "number": b"1", "other": b'{"a": 1}', "bytes": b"\xff\xfe\x00", "deep": b"[" * 100_000, "digits": b"9" * 10_000,
}  # fmt: skip
WRONG: tuple = (None, -1, "<script>alert(1)", [1], {})  # one for each part
ODD: tuple = (float("nan"), 10**400, "\ud800", {"x": None}, True)  # of those that are calculated with, or shown


def assert_ends_in_order(sent: Path, capsys: pytest.CaptureFixture) -> None:
    """Planning and reporting end with 0, or with 2 and one line."""
    for run in (lambda: sweep(sent, "--dry-run"), lambda: report(sent, "--y", "score")):
        code, error = run(), capsys.readouterr().err
        assert (code, error.count("\n")) in ((0, 0), (2, 1)), error
    page = sent / "out" / "report.html"
    assert not page.exists() or "<script>alert" not in page.read_text(errors="replace")
    assert_kept_to_itself(sent)


def state(sent: Path, name: str) -> Path:
    return {"sweep.json": sent / "out", "done.json": cell(sent, "a"), "failed.json": cell(sent, "bad")}[name] / name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sweep.json", "done.json", "failed.json"])
def test_a_damaged_state_file_is_no_traceback(sent, capsys, name):
    path = state(sent, name)
    for content in BAD_STATES.values():
        path.write_bytes(content)
        assert_ends_in_order(sent, capsys)
    for spoil in (path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to(sent.parent / "foreign.csv")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        spoil()
        assert_ends_in_order(sent, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sweep.json", "done.json", "failed.json"])
def test_a_state_file_with_one_wrong_value_is_no_traceback(sent, capsys, name):
    path = state(sent, name)
    whole = json.loads(path.read_text())
    wrong = list(zip(whole, itertools.cycle(WRONG), strict=False))
    wrong += [(key, value) for key in ("seconds", "varied") if key in whole for value in ODD]
    for key, value in wrong:
        path.write_text(json.dumps(whole | {key: value}))
        assert_ends_in_order(sent, capsys)
    for value in (None, "<script>alert(1)", *ODD):
        outer, key = ("cells", next(iter(whole["cells"]))) if name == "sweep.json" else ("parameters", "rule")
        path.write_text(json.dumps(whole | {outer: whole[outer] | {key: value, str(value): value}}))
        assert_ends_in_order(sent, capsys)
    for key in whole:
        path.write_text(json.dumps({name: value for name, value in whole.items() if name != key}))
        assert_ends_in_order(sent, capsys)
    for taken in ("cell", "seconds", "table_error", "label"):
        path.write_text(json.dumps(whole | {"parameters": {taken: 1}}))
        assert_ends_in_order(sent, capsys)


@pytest.mark.slow
def test_all_that_a_report_takes_from_files_is_escaped(sent):
    bad = "<script>alert(1)</script>"
    change(sent / "out" / "sweep.json", sha256=bad, notebook=bad)
    for name in ("done.json", "failed.json"):
        change(state(sent, name), commit=bad, machine=bad, versions={bad: bad}, notebook_sha256=bad)
    change(state(sent, "failed.json"), error=bad, traceback=bad, log=bad)
    cell(sent, "bad").rename(sent / "out" / "cells" / f"{bad.replace('/', '')},{cell(sent, 'bad').name[-10:]}")
    assert report(sent) == 0
    page = (sent / "out" / "report.html").read_text()
    assert "<script>alert" not in page and page.count("&lt;script&gt;alert") > 8


@pytest.mark.slow
def test_what_is_damaged_is_run_again_by_the_same_notebook_and_set_aside(sent, capsys):
    """After a power cut: an empty state file is not done, and one cell's does not stop the others."""
    lost, before = cell(sent, "a"), pd.read_parquet(sent / "out" / "results.parquet")
    (lost / "done.json").write_bytes(b"")
    (sent / "out" / "sweep.json").write_bytes(b"")
    swept = sent / "out" / "notebook.ipynb"
    swept.write_text(swept.read_text().replace("import csv", f"import csv; '{SECRET}'"))  # not what was asked for
    (sent / "out" / "running").mkdir()
    (sent / "out" / "running" / "driver.json").write_text("[]")
    assert sweep(sent, "--dry-run") == 0
    assert "run   damaged" in capsys.readouterr().out
    assert sweep(sent) == 1  # one has failed, as before
    out, error = capsys.readouterr()
    assert "2 cells done, 1 failed, 0 missing" in out and f"run again: {lost.name}: done.json is damaged" in error
    assert (lost / "done.json").stat().st_size and SECRET not in (lost / "notebook.ipynb").read_text()
    old = lost.with_name(f"{lost.name}.1.old")
    assert (old / "results" / "results.csv").is_file() and len(
        json.loads((sent / "out" / "sweep.json").read_text())["cells"]
    ) == 3
    after = pd.read_parquet(sent / "out" / "results.parquet")
    pd.testing.assert_frame_equal(after.drop(columns=["seconds", "commit"]), before.drop(columns=["seconds", "commit"]))


@pytest.mark.slow
def test_a_damaged_sweep_of_another_notebook_is_left_alone(sent, capsys):
    (sent / "out" / "sweep.json").write_bytes(b"")
    write_notebook(sent / "small.ipynb", PARAMETERS, BODY + "# more")
    before = tree(sent / "out")
    assert sweep(sent) == 2 and "differs from it" in capsys.readouterr().err
    assert tree(sent / "out") == before
    shutil.rmtree(sent / "out" / "cells")
    (sent / "out" / "notebook.ipynb").unlink()
    (sent / "out" / "sweep.json").write_text('{"made": "by another program"}')
    assert sweep(sent) == 2 and "sweep.json is damaged" in capsys.readouterr().err
    assert (sent / "out" / "sweep.json").read_text() == '{"made": "by another program"}'
