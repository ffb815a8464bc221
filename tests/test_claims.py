"""What README and data/quoted.md claim: each row names a test that is there, and quoted figures are the code's."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

from videomolmo.evaluation.quoted import PROTOCOLS, PUBLISHED, QUOTED, comparison

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = README.split("## What it does that others do not")[1].split("\n## ")[0]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")] for line in SECTION.splitlines() if line.startswith("| **")
]


def test_the_table_has_a_row_for_each_claim():
    assert len(ROWS) == 8 and all(len(row) == 3 and all(row) for row in ROWS)


@pytest.mark.parametrize("named", [row[2].strip("`") for row in ROWS])
def test_each_claim_names_a_test_that_is_there(named):
    file, _, name = named.partition("::")
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_sam2s_own_predictor_loads_every_frame_first(tmp_path):
    """As the table says of it: what it begins with holds all frames of the clip, and nothing bounds how far it goes."""
    from PIL import Image
    from sam2.sam2_video_predictor import SAM2VideoPredictor
    from sam2.utils.misc import load_video_frames

    for t in range(3):
        Image.new("RGB", (8, 6)).save(tmp_path / f"{t:05d}.jpg")
    images, *_ = load_video_frames(str(tmp_path), 16, offload_video_to_cpu=True)
    assert len(images) == 3 and images.shape == (3, 3, 16, 16)
    assert "load_video_frames" in inspect.getsource(SAM2VideoPredictor.init_state)
    again = inspect.signature(SAM2VideoPredictor.propagate_in_video).parameters
    assert again["start_frame_idx"].default is None and again["max_frame_num_to_track"].default is None


def test_formats_are_as_many_as_the_table_says():
    from videomolmo.io.formats.registry import FORMATS, READABLE

    assert (len(FORMATS), len(READABLE)) == (9, 7) and "nine formats written and seven read" in SECTION


def test_quoted_figures_stand_with_source_and_date():
    page = (ROOT / "data" / "quoted.md").read_text(encoding="utf-8")
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")
    ]
    order = ["mevis", "ref_youtube_vos", "ref_davis17", "reason_vos"]
    wanted = [
        [one.system, *(f"{one.figures[name]:.1f}" if name in one.figures else "–" for name in order), one.source]
        for one in PUBLISHED
        if not {"vpos", "vidstg"} & {*one.figures}
    ]
    assert cells[2:] == wanted
    for one in PUBLISHED:
        assert re.search(r"arXiv:\d{4}\.\d{5}(v\d)?, [A-Z][a-z]+ 20\d\d$", one.source), one
    assert QUOTED["mevis"]["AgentRVOS"] == 73.1 and QUOTED["ref_davis17"]["Sa2VA-i"] == 81.2


@pytest.mark.parametrize("name", QUOTED)
def test_every_quoted_figure_is_marked_as_quoted(name):
    lines = comparison(name, {"all": 0.5}).splitlines()[3:]
    assert len(lines) == len(QUOTED[name]) and all("| quoted: " in line for line in lines)
    assert all(PROTOCOLS.get(name, "") in line for line in lines)
