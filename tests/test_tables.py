"""Tables as CSV: what spreadsheets would run stays text, and everything reads back as it was."""

from __future__ import annotations

import csv

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videomolmo.io.tables import read_csv, write_csv

RUN = (
    "=cmd|' /C calc'!A0", "@SUM(1+1)", "+1+cmd", "-2+3", "\t=1", "\r=1", "\n=1", " =1", "\u00a0@x", "＝1+1", "'=1",
    "''@x", "-", "+", "=", "@", "-inf", "+49 30 1", "\tx", '=HYPERLINK("http://x","y")', "=1,2", "-1;2",
)  # fmt: skip
SHOWN = ("NA", "None", "null", "nan", "N/A", "<NA>", "#N/A", "1.#IND", "-1.5", "+2", "-1e-3", "'", "'x", "a=b", "x\ry")
STARTS = tuple("=+-@\t\r\n＝＋－＠")


def cells(path) -> list[str]:
    """All cells as a spreadsheet finds them."""
    with open(path, encoding="utf-8", newline="") as file:
        return [cell for row in csv.reader(file) for cell in row]


@pytest.mark.parametrize("text", [*RUN, *SHOWN])
def test_no_cell_begins_as_a_formula_and_all_read_back(tmp_path, text):
    table = pd.DataFrame({text: [text, "word"], "n": [1, 2]})
    path = write_csv(table, tmp_path / "t.csv")
    written = cells(path)
    assert len(written) == 6 and written[0] == written[2] == (f"'{text}" if text in RUN else text)
    pd.testing.assert_frame_equal(read_csv(path), table, check_dtype=False)


def test_numbers_stay_numbers_and_what_is_missing_is_empty(tmp_path):
    table = pd.DataFrame({
        "float": [-0.5, np.inf, -np.inf, np.nan], "int": [-1, 2, -3, 4], "bool": [True, False, True, False],
        "mixed": [-1, "=x", None, 2.5], "text": ["a", None, "", "-7"],
    })  # fmt: skip
    path = write_csv(table, tmp_path / "folder" / "t.csv")
    assert path.read_text() == (
        "float,int,bool,mixed,text\n-0.5,-1,True,-1,a\ninf,2,False,'=x,\n-inf,-3,True,,\n,4,False,2.5,-7\n"
    )
    found = read_csv(path)
    assert [found[name].dtype.kind for name in ("float", "int", "bool")] == ["f", "i", "b"]
    assert found["float"].tolist()[:3] == [-0.5, np.inf, -np.inf] and found["text"].isna().tolist() == [0, 1, 1, 0]
    assert read_csv(path, dtype=str)["mixed"].tolist()[:2] == ["-1", "=x"]


@pytest.mark.parametrize("columns", [{}, {"a": []}, {"a": pd.Categorical(["=x"])}], ids=["none", "header", "category"])
def test_empty_tables_and_categories_are_written(tmp_path, columns):
    table = pd.DataFrame(columns)
    assert not any(cell.startswith(STARTS) for cell in cells(write_csv(table, tmp_path / "t.csv")))


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path):
    (tmp_path / "t.csv").write_text('"label",score\nNA,1\n', encoding="utf-8-sig")
    assert read_csv(tmp_path / "t.csv").to_dict("list") == {"label": ["NA"], "score": [1]}


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(st.text(st.sampled_from("=+-@'\t\r\n \",1aＡ＝"), min_size=1), min_size=1))
def test_any_text_reads_back(tmp_path_factory, texts):
    path = write_csv(pd.DataFrame({"text": texts, "n": 1}), tmp_path_factory.mktemp("t") / "t.csv")
    assert read_csv(path, dtype=str)["text"].tolist() == texts
    assert not any(cell.startswith(STARTS) for cell in cells(path) if not cell[1:].isdecimal())
