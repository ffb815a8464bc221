"""The ablation of Nano-GLaMM's encoders: what is blanked, what is scored, the table, and a tiny run of it."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from videomolmo.errors import BadInput
from videomolmo.lab import caption_ablation, caption_report
from videomolmo.lab.caption_ablation import Cell, Size, blanked, grid, run, unseen
from videomolmo.lab.nano.caption_recipe import processor_of
from videomolmo.lab.nano.caption_stage import assembled
from videomolmo.lab.nano.checkpoint import load_weights, save_checkpoint
from videomolmo.lab.nano.grounded_model import given_features
from videomolmo.weights.hub import data_folder

ROOT = Path(__file__).parent.parent
MARKS = "<!-- ablation:captions -->", "<!-- /ablation:captions -->"
TINY = Size(steps=2, batch=2, questions=2, train_clips=3, test_clips=3)


@pytest.fixture(scope="module")
def begin(tmp_path_factory):
    """A working folder and untrained weights in it, as after the stages before language."""
    folder = tmp_path_factory.mktemp("captions")
    both = assembled(processor_of(folder).config, None, 0)
    save_checkpoint(folder / "begin.safetensors", state=both.state_dict())
    return folder, folder / "begin.safetensors", both["model"].eval()


@torch.no_grad()
def test_a_blanked_encoder_says_nothing_and_the_other_what_it_said(begin):
    config = begin[2].config
    shown = torch.randn(4, 64, config.video.width), torch.randn(4, 144, config.image.width)
    with given_features(begin[2]):
        whole = begin[2].visual_tokens(*shown)
        with blanked(begin[2], "image"):
            without = begin[2].visual_tokens(*shown)
        again = begin[2].visual_tokens(*shown)
    own = 4 * config.image.pool**2
    assert not without[:own].any() and torch.equal(without[own:], whole[own:]) and torch.equal(again, whole)
    with pytest.raises(BadInput, match="'sound', expected one of image, video"), blanked(begin[2], "sound"):
        pass


def test_an_unknown_language_is_refused():
    with pytest.raises(BadInput, match="language is 'old', expected 'new' or 'kept'"):
        Size(language="old")


def test_each_variant_goes_without_the_other_encoder():
    assert {name: unseen(name) for name in caption_report.VARIANTS} == {
        "dual": [], "image": ["video"], "video": ["image"],
    }  # fmt: skip
    cells = grid(seeds=(1, 2))
    assert len(set(cells)) == 6 and [cell.variant for cell in cells[-2:]] == ["video", "video"]
    with pytest.raises(BadInput, match="'audio', expected some of"):
        grid(["audio"])


def test_a_cell_that_was_stopped_ends_as_one_that_was_not(begin, tmp_path, monkeypatch):
    monkeypatch.setattr(caption_ablation, "CHECKPOINT_EVERY", 1)
    monkeypatch.setattr(caption_ablation, "WRITTEN", 6)
    cell, advance = Cell("image", 3), caption_ablation.advance
    (whole,) = run([cell], begin[1], begin[0], TINY)
    assert {row["kind"] for row in whole} == set(caption_report.KINDS)
    (weights,) = (begin[0] / "cells").rglob("checkpoint.safetensors")

    def stopped(both, optimiser, average, processor, stage, seed, step, batch):
        if step == 1:
            raise KeyboardInterrupt
        return advance(both, optimiser, average, processor, stage, seed, step, batch)

    other = tmp_path / "other"
    other.mkdir()
    for name in ("glamm_tokenizer", "features"):
        (other / name).symlink_to(begin[0] / name)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(caption_ablation, "advance", stopped)
        list(run([cell], begin[1], other, TINY))
    list(run([cell], begin[1], other, TINY))
    (again,) = (other / "cells").rglob("checkpoint.safetensors")
    for part in ("model", "average", "optimiser"):
        wanted, found = load_weights(weights, part), load_weights(again, part)
        assert wanted.keys() == found.keys() and all(torch.equal(wanted[name], found[name]) for name in wanted)


def test_the_motion_of_each_object_is_read_from_a_caption():
    told = caption_report.motion_told("A red star enters and moves left behind the grey bar. The grey bar stays still.")
    assert told == {"red star": "left", "grey bar": "still"}
    assert caption_report.motion_told("A red moves left. A star stays.") == {}


def table_of(values: dict[tuple[str, int], str], **changes) -> pd.DataFrame:
    settings = dict.fromkeys(caption_report.SETTINGS, 1)
    rows = [
        {"variant": variant, "seed": seed, **settings, "kind": kind, "value": 0.5, "n": 4, "clips": clips, **changes}
        for (variant, seed), clips in values.items() for kind in caption_report.KINDS
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_differences_are_paired_by_seed_and_clip():
    table = table_of({("dual", 1): "1 1 0.5 1", ("dual", 2): "1 0 1 1", ("image", 2): "0 0 0 1"})
    mean, low, high = caption_report.difference(table, "dual", "image", "motion")
    assert mean == pytest.approx(0.5) and low <= 0.5 <= high  # seed 2 alone
    assert caption_report.difference(table, "dual", "video", "motion") is None
    assert caption_report.right(table, "dual", "motion", [1, 2]).tolist() == [[1, 1, 0.5, 1], [1, 0, 1, 1]]
    assert any("+0.50" in line for line in caption_report.encoders(table))


def test_a_table_of_two_budgets_or_of_something_else_is_refused(tmp_path):
    path = tmp_path / "table.csv"
    with pytest.raises(BadInput, match="is not there"):
        caption_report.load(path)
    pd.concat([table_of({("dual", 1): "1"}), table_of({("dual", 2): "1"}, steps=7)]).to_csv(path, index=False)
    with pytest.raises(BadInput, match=r"steps = \[1, 7\], expected one"):
        caption_report.load(path)
    table_of({("dual", 1): "1"}).drop(columns="clips").to_csv(path, index=False)
    with pytest.raises(BadInput, match="no column 'clips'"):
        caption_report.load(path)


def test_the_decoders_are_compared_on_the_same_clips():
    rows = [
        {"branch": branch, "clip": clip, "phrase": "red star", "first": first, "iou": iou, "seconds": 1.0}
        for branch, ious in (("each-frame", (0.9, 0.8, 0.7)), ("first-frame", (0.9, 0.6, 0.0)))
        for clip, first, iou in zip((1, 2, 3), (True, True, False), ious, strict=True)
    ]  # fmt: skip
    lines = caption_report.decoders(pd.DataFrame(rows))
    assert "| 3, 3 | 0.80" in lines[2] and "-0.30 (" in lines[2] and "| 1, 1 | 0.70" in lines[4]


def test_masks_are_learnt_on_four_or_eight_frames_and_compared(tmp_path):
    """One step of the one trainer each: a table is filled, and a cell that it holds is not made again."""
    arguments = ["supervise", str(data_folder() / "nano/glamm"), str(tmp_path / "runs"), "--steps", "1", "--clips", "1"]
    arguments += ["--table", str(tmp_path / "table.csv")]
    cells = [(frames, 1) for frames in caption_report.SUPERVISED]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(caption_ablation, "SEEDS", (1,))
        assert caption_ablation.main(arguments) == 0
        before = (tmp_path / "table.csv").read_text()
        assert caption_ablation.main(arguments) == 0 and (tmp_path / "table.csv").read_text() == before
        with pytest.raises(BadInput, match=r"steps is 2, but .*table.csv holds cells with 1; give a file for each"):
            caption_ablation.main([*arguments, "--steps", "2"])
    table = pd.read_csv(tmp_path / "table.csv")
    assert sorted(set(table[list(caption_report.LEARNT)].itertuples(index=False, name=None))) == cells
    one, other = (table[table["supervised"] == frames] for frames in caption_report.SUPERVISED)
    assert list(one["phrase"]) == list(other["phrase"]) and list(one["iou"]) != list(other["iou"])
    drawn = [
        json.loads((tmp_path / "runs" / f"{frames}-1" / "metrics.jsonl").read_text().splitlines()[0])
        for frames in caption_report.SUPERVISED
    ]
    assert drawn[0]["loss"] != drawn[1]["loss"]
    assert "+0.0" in "".join(caption_report.supervision(table)) or "-0.0" in "".join(caption_report.supervision(table))


def test_the_readme_shows_the_shipped_tables():
    text = (ROOT / "data/ablations/README.md").read_text(encoding="utf-8")
    assert all(text.count(mark) == 1 for mark in MARKS), f"no block between {' and '.join(MARKS)}"
    shown = text.split(MARKS[0])[1].split(MARKS[1])[0]
    assert shown.strip() == caption_report.block().strip()


@pytest.mark.parametrize("name", ["caption_blanked.csv", "caption_encoders.csv"])
def test_shipped_tables_are_whole(name):
    path = data_folder() / "ablations" / name
    if not path.is_file():
        pytest.skip(f"{name} is not shipped")
    table = caption_report.load(path)
    values = np.concatenate([[float(value) for value in clips.split()] for clips in table["clips"]])
    assert ((values >= 0) & (values <= 1)).all() and (table["clips"].str.split().str.len() == table["n"]).all()
    assert set(table["kind"]) == set(caption_report.KINDS)
