"""The cells of notebook 07 that correct: run again, and after somebody corrected with the mouse, they still hold."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
from inspector_corrected import InstantTracker
from inspector_results import made_result

from videomolmo.inspector.corrections import Corrections
from videomolmo.inspector.inspection import Inspection
from videomolmo.lab.notebook import show_table

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "07_track_inspector.ipynb"
CLICK = [0, 12.0, 8.0]


class Lesson:
    """Stands where the notebook does before it changes anything: object 1 was not pointed at on the first key frame."""

    def __init__(self, folder: Path) -> None:
        self.cells = {cell.id: cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells}
        self.result = made_result(absent=((0, 1),))
        mended = Inspection(self.result)
        Corrections(mended, InstantTracker()).add_point(*CLICK, 1)
        truth = np.stack([mended.mask("fused", t)[:1] for t in range(12)])
        names = {"every": 5, "rule": "iou", "tau": 0.7, "click": CLICK, "folder": folder, "truth": truth}
        own = {"Inspection": Inspection, "Corrections": Corrections, "grounder": InstantTracker()}
        said = {"sentence": "the circle", "clearer": "the red circle", "video": ""}  # as in the notebook's parameters
        self.names = names | {"np": np, "pd": pd, "show_table": show_table} | own | said

    def open(self) -> None:
        """As "Run All" begins."""
        folder = self.names["folder"] / "result"
        self.result.save(folder, overwrite=True, overlay=False)
        self.look = Inspection(folder, self.names["truth"], video=self.result._video)
        self.corrections = Corrections(self.look, InstantTracker())
        inspector = SimpleNamespace(corrections=self.corrections, refresh=lambda: None)
        self.names |= {"inspection": self.look, "inspector": inspector}

    def run(self, *cells: str) -> None:
        for name in cells:
            exec(self.cells[name], self.names)


@pytest.fixture
def lesson(tmp_path):
    made = Lesson(tmp_path)
    made.open()
    return made


def test_run_all_twice(lesson):
    lesson.run("cell-10", "cell-14", "cell-18")
    lesson.open()
    lesson.run("cell-10", "cell-14", "cell-18")
    assert lesson.look.key_frames == [0, 5, 10] and [p.object for p in lesson.look.points(0)] == [1]


def test_single_cells_again(lesson):
    lesson.run("cell-10", "cell-14", "cell-14", "cell-18", "cell-18", "cell-14", "cell-18")
    assert lesson.names["written"] == 2 and lesson.names["scores"]["corrected"] == 1.0


def test_the_mouse_was_there_before(lesson):
    """Just what the text asks for, before the cell does it; and something else, and another τ."""
    lesson.corrections.add_point(*CLICK, 1)
    lesson.corrections.remove_point(0, 2, 0)
    lesson.run("cell-10")
    lesson.look.apply_fusion_rule("union", 0.3)
    lesson.run("cell-14")
    lesson.corrections.add_point(7, 20, 15)
    lesson.look.apply_fusion_rule(tau=0.1)
    lesson.run("cell-18")
    assert lesson.names["written"] == 2 and lesson.look.key_frames == [0, 5, 7, 10]
