"""What earlier versions wrote still opens: a result with corrections, a sweep. Made by commit efec720."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from videomolmo.cli import main
from videomolmo.inspector.corrections import Corrections
from videomolmo.inspector.inspection import Inspection
from videomolmo.results import GroundingResult

BEFORE = Path(__file__).parent / "fixtures" / "made_before"


@pytest.fixture
def before(tmp_path) -> Path:
    """A copy, so that nothing a test does reaches the files kept."""
    return Path(shutil.copytree(BEFORE, tmp_path / "before"))


def test_a_result_opens_with_its_answers_masks_and_tracks(before):
    result = GroundingResult.load(before / "result", video=before / "clip.mp4")
    assert (result.frames, result.objects, result.height, result.width) == (11, 1, 120, 160)
    assert result.key_frames == [0, 5, 10] and [answer.outcome for answer in result.answers] == ["found"] * 3
    table = pd.read_csv(before / "result" / "tracks.csv")
    columns = ["frame", "object", "x_px", "y_px", "area_px", "source"]
    pd.testing.assert_frame_equal(result.tracks[columns], table[columns], check_dtype=False)


def test_its_corrections_are_shown_and_undone_bit_for_bit(before):
    expected = np.load(before / "expected_masks.npz")
    shape = tuple(expected["shape"])
    masks = np.unpackbits(expected["masks"], axis=-1, count=shape[-1]).astype(bool)
    seen = Inspection(before / "result", video=before / "clip.mp4")
    assert not seen.problems
    assert np.array_equal(np.stack([seen.mask("fused", frame) for frame in range(seen.frames)]), masks)
    corrections = Corrections(seen)
    while corrections.can_undo:
        corrections.undo()
    plain = GroundingResult.load(before / "result", video=before / "clip.mp4")
    for frame in range(plain.frames):
        assert np.array_equal(seen.mask("fused", frame)[:1], plain.masks[frame])


def test_a_sweep_is_gone_on_with(before, capsys):
    out = before / "sweep"
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("cells/*/notebook.ipynb")}
    code = main(["sweep", str(before / "small.ipynb"), "--grid", str(before / "grid.toml"), "--out", str(out)])
    printed = capsys.readouterr()
    assert "2 cells done, 2 failed, 0 missing" in printed.out + printed.err and code == 1
    assert {path: path.stat().st_mtime_ns for path in out.glob("cells/*/notebook.ipynb")} == stamps, "nothing ran again"
    table = pd.read_csv(out / "results.csv")
    assert set(table["rule"]) == {"good"} and table.loc[table.measure == "J", "value"].tolist() == [1.0, 1.1]
