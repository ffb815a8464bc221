"""Looking, exporting and correcting at once, in threads: nothing breaks, and nothing old is kept."""

from __future__ import annotations

import sys
import threading
import time
from collections import OrderedDict

import numpy as np
import pytest
from inspector_corrected import InstantTracker, everything, same
from inspector_results import made_result

from videomolmo.inspector import fused_masks
from videomolmo.inspector.corrections import Corrections
from videomolmo.inspector.inspection import Inspection


@pytest.fixture
def quick_turns():
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(*works, seconds: float) -> list[Exception]:
    """What went wrong while all were done again and again."""
    errors, end = [], time.monotonic() + seconds

    def run(work) -> None:
        try:
            while time.monotonic() < end and not errors:
                work()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


class Hesitant(OrderedDict):
    """Between looking and taking, the other threads have their turn."""

    def __contains__(self, key) -> bool:
        found = super().__contains__(key)
        time.sleep(1e-4)
        return found


def test_masks_are_forgotten_in_one_thread_while_others_look(quick_turns):
    """Room for one window, and four that are asked for: what one thread looks at, the others throw out."""
    looked = Inspection(made_result(frames=20, every=5, height=24, width=24))
    for cache in (looked._fused._cache, looked._store._cache):
        cache.max_size, cache.kept = 1, Hesitant()
    expected = {t: looked.mask("fused", t) for t in range(looked.frames)}

    def look() -> None:
        for t in range(0, looked.frames, 5):
            assert np.array_equal(looked.mask("fused", t), expected[t])
            looked.boxes(t + 1)

    assert in_threads(look, look, look, look, seconds=2.0) == []
    cache = looked._fused._cache
    assert cache.size == sum(fused_masks._size(found) for found in cache.kept.values())


def test_a_correction_beside_an_export_leaves_nothing_old(quick_turns):
    inspection = Inspection(made_result(absent=((5, 2),)))
    corrections = Corrections(inspection, InstantTracker())

    def correct() -> None:
        corrections.add_point(7, 20, 15, 1)
        corrections.add_point(3, 30, 30)
        corrections.undo()

    def export() -> None:
        for t in range(inspection.frames):
            inspection.mask("fused", t), inspection.boxes(t)
        inspection.missing()
        inspection.agreement, inspection.decisions()

    assert in_threads(correct, export, export, seconds=1.5) == []
    fresh = Inspection(inspection.result)
    fresh.history, fresh.propagations = inspection.history, inspection.propagations
    fresh.show_corrections()
    assert same(everything(inspection), everything(fresh))
    assert np.array_equal(inspection.agreement, fresh.agreement, equal_nan=True)


def test_masks_of_the_state_before_are_not_kept(monkeypatch):
    """A window is being fused while the correction comes: what is kept in the end is of the correction."""
    inspection = Inspection(made_result(absent=((5, 2),)))
    corrections = Corrections(inspection, InstantTracker())
    plain = everything(inspection)
    inspection.apply_fusion_rule()  # nothing is kept
    begun, corrected, fuse = threading.Event(), threading.Event(), fused_masks.fuse_segment

    def slow(*arguments):
        begun.set()
        corrected.wait(0.3)  # as long as a window of a long clip may take
        return fuse(*arguments)

    monkeypatch.setattr(fused_masks, "fuse_segment", slow)
    looker = threading.Thread(target=lambda: inspection.mask("fused", 7))
    looker.start()
    assert begun.wait(5)
    corrections.add_point(7, 20, 15, 1)
    corrected.set()
    looker.join()
    assert not np.array_equal(inspection.mask("fused", 7), plain["fused"][7])
    assert inspection.decisions()[7, 0] == "key"
