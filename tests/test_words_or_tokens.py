"""Points as text against grounding tokens: data, scores, a tiny run that is stopped, the table, and what is shipped."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from videomolmo.errors import BadInput
from videomolmo.lab import words_or_tokens, words_or_tokens_report
from videomolmo.lab.nano.checkpoint import load_weights
from videomolmo.lab.words_or_tokens import Cell, Pictures, Question, Size, encoded, grid, judge, questions, run
from videomolmo.points import read_points
from videomolmo.sweep.grid import read_grid, read_notebook
from videomolmo.synth.scene import ObjectFacts
from videomolmo.weights.hub import data_folder

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).resolve().parents[1]
MARKS = "<!-- ablation:words -->", "<!-- /ablation:words -->"
TINY = Size(steps=2, batch=2, questions=2, test_pictures=3)
TEXT, TOKENS = ("text", "causal"), ("tokens", "causal")


def test_a_cell_that_was_stopped_ends_as_one_that_was_not(tmp_path, monkeypatch):
    monkeypatch.setattr(words_or_tokens, "CHECKPOINT_EVERY", 1)
    monkeypatch.setattr(words_or_tokens, "LONGEST", 8)
    cell, advance = Cell("tokens", "bidirectional", 4, 1), words_or_tokens.advance
    (rows,) = run([cell], tmp_path, TINY)
    assert {row["kind"] for row in rows} == {*words_or_tokens_report.KINDS, *words_or_tokens_report.COSTS}
    assert all(asdict(cell).items() <= row.items() and asdict(TINY).items() <= row.items() for row in rows)
    (weights,) = (tmp_path / "cells").rglob("checkpoint.safetensors")
    whole = load_weights(weights, "average")
    weights.unlink()

    def stopped(both, optimiser, average, batch, stage, step):
        if step == 1:
            raise KeyboardInterrupt
        return advance(both, optimiser, average, batch, stage, step)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(words_or_tokens, "advance", stopped)
        list(run([cell], tmp_path, TINY))
    list(run([cell], tmp_path, TINY))
    again = load_weights(weights, "average")
    assert whole.keys() == again.keys() and all(torch.equal(whole[name], again[name]) for name in whole)
    test = encoded(words_or_tokens.TEST, 3, tmp_path / "pictures")
    asked = questions(test)
    assert {one.kind for one in asked} <= set(words_or_tokens_report.KINDS)
    assert len({(one.picture, one.kind) for one in asked}) == len(asked)
    model = words_or_tokens.train(cell, encoded(words_or_tokens.TRAIN, 4, tmp_path / "pictures"), tmp_path, TINY)
    model.token_heads.word.data += 30 * model.token_heads.word.data.sign()  # it points, or never does
    for one in words_or_tokens.choices(model, test, asked[0]):
        assert one.share.shape == (6, 6) and one.share.sum() + one.end == pytest.approx(1, abs=1e-4)


def test_what_a_point_costs():
    answer = '<points x1="12.0" y1="33.3" x2="46.0" y2="80.5" alt="star">star</points>'
    text, tokens = (words_or_tokens.cost(answer, name) for name in ("text", "tokens"))
    assert "".join(text) == f" {answer}" and tokens[:2] == ["<token 6>", "<patch 3>"]
    assert sum(one.startswith("<token") for one in tokens) == 3 and "<token end>" in tokens
    assert "".join(tokens).endswith("star</points>") and len(tokens) == 2 * 3 + 1 + 1 + len(text[-3:-1]) - 1


def pictures() -> Pictures:
    """One picture of three objects in columns; a fourth is not there."""
    ids = np.repeat(np.array([[1, 2, 3]], np.uint8), 3, axis=0).repeat(32, axis=0).repeat(32, axis=1)
    seen = [ObjectFacts("star", "red", None, True, ((at + 0.5) / 3, 0.5)) for at in range(3)]
    return Pictures(torch.zeros(1, 1), ids[None], [seen], {})


def test_answers_are_judged_by_the_objects_they_hit():
    asked = [Question(0, "one", "", (1,)), Question(0, "one", "", (1,)), Question(0, "list", "", (0, 2)),
             Question(0, "list", "", (0, 2)), Question(0, "absent", "", ()), Question(0, "absent", "", ())]  # fmt: skip
    texts = [
        '<point x="50.0" y="60.0" alt="a">a</point>',
        '<point x="10.0" y="50.0" alt="a">a</point>',
        '<points x1="10.0" y1="50.0" x2="90.0" y2="50.0" alt="a">a</points>',
        '<points x1="10.0" y1="50.0" x2="12.0" y2="50.0" alt="a">a</points>',
        "There are none.",
        "Well",
    ]
    rows = judge([read_points(text, 96, 96) for text in texts], [9, 9, 8, 8, 3, 1], 0.25, pictures(), asked)
    found = {row["kind"]: row for row in rows}
    assert [found[kind]["right"] for kind in ("one", "list", "absent")] == ["10", "10", "10"]
    assert found["distance"]["value"] == pytest.approx(9.6, abs=0.01) and found["distance"]["n"] == 1
    assert (
        found["tokens"]["value"] == pytest.approx((9 + 9 + 4 + 4) / 4) and found["seconds a question"]["value"] == 0.25
    )


def test_wrong_settings_are_refused():
    with pytest.raises(BadInput, match="points holds 'digits', expected some of text, tokens"):
        grid(["digits"])
    with pytest.raises(BadInput, match=r"samples is \[0\]"):
        grid(samples=[0])
    with pytest.raises(BadInput, match="language is 'old', expected 'new' or 'kept'"):
        Size(language="old")
    with pytest.raises(BadInput, match="steps is 0, expected at least 1"):
        Size(steps=0)
    assert grid()[0] == Cell("text", "causal", 1000, 1) and len(set(grid())) == 2 * 2 * 2 * 3


def table_of(values: dict[tuple[str, int], str], **changes) -> pd.DataFrame:
    settings = dict.fromkeys(words_or_tokens_report.SETTINGS, 1) | {"language": "kept"}
    kinds = (*words_or_tokens_report.KINDS, *words_or_tokens_report.COSTS)
    rows = [
        {"points": points, "attention": "causal", "samples": 10, "seed": seed, **settings, "kind": kind,
         "value": right.count("1") / len(right), "n": len(right), "right": right, **changes}
        for (points, seed), right in values.items() for kind in kinds
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_differences_are_paired_by_seed_and_question():
    table = table_of({("tokens", 1): "1111", ("tokens", 2): "1011", ("text", 2): "0001"})
    mean, low, high = words_or_tokens_report.difference(table, TOKENS, TEXT, 10, "one")
    assert mean == pytest.approx(0.5) and low <= 0.5 <= high  # seed 2 alone
    assert words_or_tokens_report.difference(table, TOKENS, ("text", "bidirectional"), 10, "one") is None
    block = words_or_tokens_report.markdown(table)
    assert "| grounding tokens | 10 | 2 | 0.88 (" in block and "| tokens minus text, causal | 10 |  | +0.50 (" in block


def test_a_table_of_two_budgets_or_of_something_else_is_refused(tmp_path):
    path = tmp_path / "table.csv"
    with pytest.raises(BadInput, match="is not there"):
        words_or_tokens_report.load(path)
    pd.concat([table_of({("text", 1): "1"}), table_of({("text", 2): "1"}, steps=7)]).to_csv(path, index=False)
    with pytest.raises(BadInput, match=r"steps = \[1, 7\], expected one budget"):
        words_or_tokens_report.load(path)
    table_of({("text", 1): "1"}).drop(columns="right").to_csv(path, index=False)
    with pytest.raises(BadInput, match="no column 'right'"):
        words_or_tokens_report.load(path)
    table_of({("text", 1): "10", ("tokens", 1): "11"}).to_csv(path, index=False)
    assert {file.name for file in words_or_tokens_report.draw(path, tmp_path)} == {"table_right.png", "table_right.svg"}


def test_the_readme_shows_the_shipped_table():
    text = (ROOT / "data/ablations/README.md").read_text(encoding="utf-8")
    assert all(text.count(mark) == 1 for mark in MARKS), f"no block between {' and '.join(MARKS)}"
    shown = text.split(MARKS[0])[1].split(MARKS[1])[0]
    table = words_or_tokens_report.load(words_or_tokens_report.shipped_table())
    assert shown.strip() == words_or_tokens_report.markdown(table).strip()


def test_the_shipped_table_is_whole():
    table = words_or_tokens_report.load(words_or_tokens_report.shipped_table())
    of_questions = table[table["kind"].isin(list(words_or_tokens_report.KINDS))]
    assert (of_questions["right"].str.len() == of_questions["n"]).all() and of_questions["right"].str.fullmatch(
        "[01]+"
    ).all()
    shares = [right.count("1") / len(right) for right in of_questions["right"]]
    assert np.allclose(of_questions["value"], shares, atol=1e-4)
    assert (of_questions.groupby("kind")["n"].nunique() == 1).all(), "all cells answered the same questions"
    assert table["machine"].notna().all() and set(table["points"]) == {"text", "tokens"}


def test_the_grid_of_the_sweep_is_that_of_the_ablation():
    notebook = read_notebook(ROOT / "notebooks" / "11_words_or_tokens.ipynb")
    found = {
        Cell(*(one.parameters[name][0] for name in ("points", "attention", "samples", "seeds")))
        for one in read_grid(data_folder() / "sweeps" / "words_or_tokens.toml", notebook).trials
    }
    assert found == set(grid())
