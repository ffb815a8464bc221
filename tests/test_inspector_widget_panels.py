"""Panels of the inspector that act upon each other: what one control does must not undo another. No browser."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from inspector_bench import FRAMES, HEIGHT, WIDTH, made_result, opened

from videomolmo.inspector import action_panels, background, ground_truth
from videomolmo.inspector.inspection import Inspection


@pytest.fixture
def look(tmp_path):
    return partial(opened, tmp_path / "exports")


def test_matching_stays_when_tau_or_the_rule_moves(look):
    inspector, _ = look()
    fusion, inspection = inspector.fusion, inspector.inspection
    stored = inspection.objects
    fusion.matching.value = "none"
    many = inspection.objects
    assert many > stored
    fusion.tau.value = 0.5
    assert (fusion.matching.value, inspection.matching, inspection.tau) == ("none", "none", 0.5)
    fusion.rule.value = "union"
    assert (fusion.matching.value, inspection.objects, inspection.rule) == ("none", many, "union")
    fusion.matching.value = "stored"
    assert (inspection.objects, inspection.rule, inspection.tau) == (stored, "union", 0.5)


def test_a_new_object_is_the_chosen_one_after_its_first_point(look, tiny_grounder):
    inspector, browser = look(grounder=tiny_grounder)
    object_id = inspector.correct.object_id
    inspector.correct.mode.value = "add"
    object_id.value = None
    inspector.objects.rename(1, "the cup")
    assert object_id.value is None and object_id.options[1][0] == "1 · the cup"  # only a name changed
    browser.tell(kind="click", frame=6, pane=0, x=50, y=40)
    assert inspector.inspection.objects == 3 == object_id.value, inspector.state.words.value
    browser.tell(kind="click", frame=6, pane=0, x=52, y=42)
    assert [record["object"] for record in inspector.corrections.records] == [3, 3]


def test_a_new_object_is_seen_though_another_is_hidden(look, tiny_grounder):
    inspector, browser = look(grounder=tiny_grounder)
    inspector.objects.list.hidden = [1]
    inspector.correct.mode.value, inspector.correct.object_id.value = "add", None
    browser.tell(kind="click", frame=6, pane=0, x=50, y=40)
    assert [number for number, *_ in inspector.objects.list.rows] == [1, 2, 3] and inspector.objects.list.hidden == [1]
    assert [inspector.state.look.shows(number) for number in (1, 2, 3)] == [False, True, True]
    inspector.state.inspection = Inspection(made_result(objects=5))  # as another sentence gives
    inspector.state.reset()
    assert inspector.objects.list.hidden == [] and len(inspector.objects.list.rows) == 5
    assert inspector.state.look.shows(5)


def test_the_static_picture_follows_what_is_ticked(look):
    inspector, _ = look(layers=["forward", "backward"], frame=5)
    pages = [inspector.picture()]
    for change in (
        lambda: setattr(inspector.look.layers["backward"], "value", False),
        lambda: setattr(inspector.objects.list, "hidden", [1]),
        lambda: setattr(inspector, "frame", 7),
    ):
        change()
        pages.append(inspector.picture())
    assert len(set(pages)) == 4


def test_both_results_mark_their_key_frames_and_the_shorter_one_says_that_it_ended(look):
    longer = made_result(frames=12)
    longer.answers[1] = replace(longer.answers[1], outcome="malformed")
    inspector, browser = look(made_result(frames=9), other=longer)
    assert browser.canvas.marks == [[0, "found"], [4, "found"], [8, "found"]]
    assert browser.canvas.marks_beside == [[0, "found"], [4, "malformed"], [8, "found"]]
    browser.go(4)
    caption = browser.sent[-1][0]["captions"][0]
    assert "left: key frame: found" in caption and "right: key frame: malformed" in caption
    browser.go(8)
    last = browser.picture.mean()
    assert inspector.state.beside == (inspector.other, inspector.state.looks[1])
    browser.go(10)
    assert "left: ended at frame 8" in browser.sent[-1][0]["captions"][0]
    assert browser.picture.mean() < 0.7 * last


def test_all_panels_wait_for_work_and_come_back_together(look, tiny_grounder, monkeypatch):
    inspector, browser = look(grounder=tiny_grounder)
    inspector.correct.mode.value = "add"
    browser.tell(kind="click", frame=6, pane=0, x=30, y=20)
    correct, go_on = inspector.correct, threading.Event()
    controls = (correct.mode, correct.object_id, correct.undo, inspector.fusion.rule, inspector.fusion.matching)
    monkeypatch.setitem(action_panels.EXPORTS, "tracks (CSV)", (".csv", lambda state, path: go_on.wait(300)))
    inspector.files.kind.value = "tracks (CSV)"

    async def scene() -> None:
        inspector.files.button.click()
        assert inspector.state.work.busy and all(control.disabled for control in controls)
        correct.undo.click()  # a browser may be slower than the kernel
        assert correct.undo.disabled and "wait" in inspector.state.words.value
        assert [record["action"] for record in inspector.corrections.records] == ["add_point"]
        go_on.set()
        while inspector.state.work.busy:
            await asyncio.sleep(0.002)

    asyncio.run(scene())
    assert not any(control.disabled for control in controls)
    correct.undo.click()
    assert [record["action"] for record in inspector.corrections.records] == ["add_point", "undo"]


def test_a_folder_that_cannot_be_written_to_is_one_line(look, tiny_grounder, monkeypatch):
    inspector, browser = look(grounder=tiny_grounder)
    inspector.correct.mode.value = "add"
    browser.tell(kind="click", frame=6, pane=0, x=30, y=20)

    def refused():
        raise PermissionError(13, "Permission denied", "somewhere/corrections.jsonl")

    monkeypatch.setattr(inspector.state.corrections, "undo", refused)
    inspector.correct.undo.click()
    assert "vm-error" in inspector.state.words.value and "somewhere/corrections.jsonl" in inspector.state.words.value


def test_scores_come_beside_the_notebook_and_those_of_an_earlier_tau_are_dropped(look, monkeypatch):
    """Neither is a mask read for them nor anything compared where the kernel's messages arrive."""
    truth, readers = np.zeros((FRAMES, HEIGHT, WIDTH), bool), set()
    truth[:, :12, 8:24] = True
    go_on, begun = threading.Event(), []
    read = Inspection.mask

    def waiting(*args) -> background.Scores:
        begun.append(threading.current_thread())
        assert go_on.wait(300)
        return ground_truth.score(*args)

    def mask(self, layer: str, t: int):
        readers.add(threading.current_thread())
        return read(self, layer, t)

    monkeypatch.setattr(background, "score", waiting)
    monkeypatch.setattr(Inspection, "mask", mask)

    async def scene() -> None:
        result = made_result()
        inspector, _ = look(result, truth, other=result, other_rule="union")
        assert "J&amp;F left is being computed" in inspector.compare.line.value
        inspector.plots.refresh()
        assert not inspector.plots.figures["scores"].data
        assert "being computed" in inspector.plots.figures["scores"].layout.annotations[-1].text
        inspector.fusion.tau.value = 1.0  # while the scores of another τ are under way
        go_on.set()
        while len(inspector.plots.figures["scores"].data) < 2 or "computed" in inspector.compare.line.value:
            await asyncio.sleep(0.01)
        assert readers and threading.main_thread() not in readers
        for trace, one in zip(inspector.plots.figures["scores"].data, inspector.state.shown, strict=True):
            assert np.allclose(np.array(trace.y, float), one.scores().per_frame)
        assert not np.allclose(inspector.inspection.scores().per_frame, Inspection(result, truth).scores().per_frame)
        assert inspector.state.scores.now(inspector.other) is inspector.state.scores.of(inspector.other)

    asyncio.run(asyncio.wait_for(scene(), 300))
    assert len(begun) == 3 and threading.main_thread() not in begun  # both, and the first again with the new τ


def test_corrections_made_elsewhere_are_shown_when_ours_is_refused(tmp_path, tiny_grounder):
    result = made_result()
    folder = result.save(tmp_path / "result", overlay=False)
    ours, browser = opened(tmp_path, folder, video=result.video(), grounder=tiny_grounder)
    theirs, _ = opened(tmp_path, folder, video=result.video(), grounder=tiny_grounder)
    theirs.corrections.drop_answer(4)
    browser.go(8)
    ours.correct.drop.click()
    assert "changed elsewhere" in ours.state.words.value and "vm-error" in ours.state.words.value
    assert browser.canvas.marks == [[0, "found"], [4, "dropped"], [8, "found"]]
    theirs.corrections.undo()
    ours.correct.undo.click()
    assert "changed elsewhere" in ours.state.words.value and browser.canvas.marks[1] == [4, "found"]
    ours.correct.drop.click()
    assert ours.inspection.outcomes()[8] == "dropped"
