"""Inspectors give back what they hold: when closed, when nobody holds them, when no browser shows them any more."""

from __future__ import annotations

import ctypes
import gc
import sys
import weakref

import numpy as np
import psutil
import pytest
from inspector_bench import Browser
from inspector_corrected import InstantTracker, everything, same
from inspector_results import frames_of, made_result
from ipywidgets.widgets.widget import _instances as widgets_kept

import videomolmo
from videomolmo.inspector.corrections import Corrections
from videomolmo.inspector.inspection import Inspection
from videomolmo.io.video import open_video
from videomolmo.io.video_write import VideoWriter
from videomolmo.results import GroundingResult

MANY, FIRST = 200, 20  # by which caches of libraries are full


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A result of a video file, whose decoder holds a file and threads."""
    place = tmp_path_factory.mktemp("results")
    with VideoWriter(place / "clip.mp4", 10, 48, 64) as writer:
        for frame in frames_of(12, 48, 64):
            writer.write(frame)
    result = made_result(height=48, width=64)
    result.source = str(place / "clip.mp4")
    return result.save(place / "out", overlay=False)


def held() -> np.ndarray:
    """Open files, threads, widgets, and memory in MB, without what the allocator keeps of tests before."""
    gc.collect()
    if trim := getattr(ctypes.CDLL(None) if sys.platform == "linux" else None, "malloc_trim", None):
        trim(0)
    process = psutil.Process()
    return np.array([process.num_fds(), process.num_threads(), len(widgets_kept), process.memory_info().rss >> 20])


def looked_through(folder):
    inspector = videomolmo.inspect(folder)
    inspector.state._pictures(5)
    assert inspector.inspection.video() is not None
    return inspector


def forgotten(folder) -> None:
    looked_through(folder)


def closed(folder, kept=[]) -> None:  # noqa: B006, who keeps them keeps little
    kept.append(looked_through(folder))
    kept[-1].close()


def in_a_block(folder) -> None:
    with looked_through(folder):
        pass


def inspected(folder) -> None:
    Inspection(folder).frame(3)


@pytest.mark.slow
@pytest.mark.parametrize("use", [forgotten, closed, in_a_block, inspected])
def test_two_hundred_hold_no_more_than_twenty(folder, use):
    for _ in range(FIRST):
        use(folder)
    before = held()
    for _ in range(MANY - FIRST):
        use(folder)
    files, threads, widgets, megabytes = held() - before
    assert files <= 2 and threads <= 4 and widgets <= 0 and megabytes < 25


def test_what_was_closed_opens_again(folder):
    inspector = looked_through(folder)
    inspection = inspector.inspection
    frame, masks = inspection.frame(5).copy(), everything(inspection)
    files = psutil.Process().num_fds()
    inspector.close(), inspector.close()
    assert psutil.Process().num_fds() < files
    assert np.array_equal(inspection.frame(5), frame) and same(everything(inspection), masks)
    assert inspector.picture().startswith(b"\x89PNG") and "TrackInspector" in repr(inspector)


def test_what_was_given_stays_open(folder):
    video = open_video(folder.parent / "clip.mp4")
    with videomolmo.inspect(folder, video=video) as inspector:
        inspector.inspection.frame(0)
    assert video[3].shape == (48, 64, 3)
    result = GroundingResult.load(folder)
    own = result.video()
    with Inspection(result) as inspection:
        inspection.frame(0)
    assert own[3].shape == (48, 64, 3)


def test_a_result_that_is_inspected_opens_no_video_of_its_own(folder):
    result = GroundingResult.load(folder)
    with Inspection(result) as inspection:
        inspection.frame(0)
    assert not result.is_open


def test_what_a_browser_shows_lives_until_it_is_left(folder):
    inspector = looked_through(folder)
    browser, alive = Browser(inspector), weakref.ref(inspector)
    del inspector
    gc.collect()
    browser.go(4)
    assert alive() is not None and browser.frame == 4
    files, widgets = psutil.Process().num_fds(), len(widgets_kept)
    browser.tell(kind="closed")
    gc.collect()
    assert alive() is None and psutil.Process().num_fds() < files and len(widgets_kept) < widgets


def test_one_that_is_left_and_shown_again_is_as_before(folder):
    inspector = looked_through(folder)
    browser = Browser(inspector)
    browser.go(4)
    assert inspector.plots.figures
    picture, files = browser.picture, psutil.Process().num_fds()
    browser.tell(kind="closed")
    assert psutil.Process().num_fds() < files and not inspector.plots.figures and not inspector.plots.box.figures
    browser = Browser(inspector)
    browser.go(5), browser.go(4)
    assert np.array_equal(browser.picture, picture) and inspector.plots.figures


def test_closing_keeps_corrections_in_memory(folder):
    inspection = Inspection(made_result(), video=made_result()._video)
    corrections = Corrections(inspection, InstantTracker())
    before = everything(inspection)
    corrections.add_point(7, 20, 15, 1)
    after = everything(inspection)
    inspection.close()
    assert same(everything(inspection), after) and not same(after, before)
    corrections.undo()
    assert same(everything(inspection), before)


def test_rows_of_objects_that_were_replaced_are_closed(folder):
    inspector = videomolmo.inspect(made_result(), video=made_result()._video)
    corrections = Corrections(inspector.inspection, InstantTracker())
    kept = []
    for _ in range(3):
        corrections.add_point(7, 20, 15)
        inspector.refresh()
        corrections.undo()
        inspector.refresh()
        kept.append(len(widgets_kept))
    assert kept[0] == kept[-1]
