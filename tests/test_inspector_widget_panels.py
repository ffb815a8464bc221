"""Panels of the inspector that act upon each other: what one control does must not undo another. No browser."""

from __future__ import annotations

import asyncio
import re
import threading
from dataclasses import replace
from functools import partial

import ipywidgets as widgets
import numpy as np
import pytest
from inspector_bench import FRAMES, HEIGHT, WIDTH, made_result, opened

from videomolmo.inspector import action_panels, background, ground_truth
from videomolmo.inspector.doubt import doubtful_frames
from videomolmo.inspector.inspection import Inspection
from videomolmo.mask_store import MaskStore


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
    assert [(one["action"], one["object"]) for one in inspector.corrections.records] == [
        ("rename", 1), ("add_point", 3), ("add_point", 3),
    ]  # fmt: skip


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


def test_keys_do_what_the_controls_do_and_nothing_that_is_disabled(look, tiny_grounder):
    inspector, browser = look(grounder=tiny_grounder)
    press = lambda *keys: [browser.tell(kind="key", key=key) for key in keys]  # noqa: E731
    assert len(browser.canvas.shortcuts) == len(set(browser.canvas.shortcuts)) and "?" not in browser.canvas.shortcuts
    press("b", "g")
    assert inspector.state.look.layers == ("backward", "fused")  # there is no ground truth
    press("h", "i")
    assert inspector.state.look.objects == () and not inspector.state.look.ids
    press("a", "p", "2", "z")
    assert inspector.state.look.objects is None and browser.canvas.mode == "add" and not inspector.corrections.records
    assert inspector.correct.object_id.value == 2 and "object 2" in inspector.state.words.value
    press("2", "9", "Escape", "unknown")
    assert inspector.correct.object_id.value == action_panels.AUTO and browser.canvas.mode == "navigate"
    browser.go(4)
    press("x")
    assert inspector.inspection.outcomes()[4] == "dropped" and "key frame rejected" in inspector.state.words.value
    press("z", "y")
    assert [one["action"] for one in inspector.corrections.records] == ["drop_answer", "undo", "redo"]


def test_every_control_says_what_it_is_for(look):
    inspector, browser = look(made_result(), other=made_result())
    said, parts = set(browser.canvas.tips), (inspector.look, inspector.fusion, inspector.questions, inspector.files)
    for panel in (*parts, inspector.correct, inspector.identities):
        waiting = [panel.box]
        while waiting:
            one = waiting.pop()
            waiting += getattr(one, "children", ())
            if isinstance(one, (widgets.ToggleButtons, widgets.IntProgress)) or not hasattr(one, "disabled"):
                continue
            assert one.tooltip, one
            assert isinstance(one, widgets.Button) or one.model_id in said, one  # a button shows its own
            has_key = re.search(r"  \(.+\)$", one.tooltip)
            assert has_key or one.disabled, f"{one.tooltip!r} names no key"
    assert all(inspector.correct.mode.tooltips)


def test_keys_move_sliders_and_choose_rules(look):
    inspector, browser = look()
    press = lambda *keys: [browser.tell(kind="key", key=key) for key in keys]  # noqa: E731
    opacity, tau = inspector.look.opacity.value, inspector.inspection.tau
    press(".", ".", ",")
    assert inspector.state.look.opacity == pytest.approx(opacity + 0.05)
    press(*"<" * 30)
    assert inspector.inspection.tau == 0 and tau > 0
    press(">", "l", "M")
    assert inspector.inspection.rule == "left" and inspector.inspection.matching == 0.1
    press("M", "M", "M", "M", "1", "w")
    assert inspector.inspection.matching in (None, "stored") and len(inspector.inspection.history.state.edits) == 1


def test_a_point_belongs_to_the_object_under_the_click_or_begins_a_new_one(look, tiny_grounder):
    inspector, browser = look(grounder=tiny_grounder)
    pending = []
    inspector.state.canvas.observe(lambda change: pending.append(change["new"]), "pending")
    browser.tell(kind="key", key="p")
    for place in ((17.5, 2.5), (18.5, 15.5), (50.5, 40.5)):
        if place == (50.5, 40.5):  # whatever SAM 2 made of the others
            inspector.corrections.undo(), inspector.corrections.undo(), inspector.refresh()
        browser.tell(kind="click", frame=6, pane=0, x=place[0], y=place[1])
    added = [one["object"] for one in inspector.corrections.records if one["action"] == "add_point"]
    assert added == [1, 2, 3]
    assert pending[::2] == [[[6, x, y, True]] for x, y in ((17.5, 2.5), (18.5, 15.5), (50.5, 40.5))]
    assert pending[1::2] == [[]] * 3  # seen at once, until its masks are there
    inspector.objects.list.hidden = [1, 2, 3]  # what nobody sees nobody clicks on
    browser.tell(kind="key", key="n")
    browser.tell(kind="click", frame=6, pane=0, x=60.5, y=1.5)
    assert "no object under the click" in inspector.state.words.value and len(inspector.corrections.records) == 5


def test_corrections_are_marked_on_the_time_line_in_the_caption_and_in_the_text(look, tiny_grounder):
    inspector, browser = look(grounder=tiny_grounder)
    inspector.corrections.add_point(4, 20.5, 6.5, 1)
    inspector.refresh()
    browser.go(4)
    assert browser.canvas.marks == [[0, "found"], [4, "corrected"], [8, "found"]]
    assert browser.canvas.repropagated == [[0, 4], [4, 8]]
    assert "key frame: found · corrected: object 1" in browser.sent[-1][0]["captions"][0]
    assert "◆ corrected" in inspector.answer.answer.value and "+ (20, 6)" in inspector.answer.answer.value
    browser.go(2)
    assert "re-propagated" in browser.sent[-1][0]["captions"][0]
    browser.go(9)
    assert "re-propagated" not in browser.sent[-1][0]["captions"][0]
    inspector.correct.undo.click()
    assert browser.canvas.repropagated == [] and browser.canvas.marks[1] == [4, "found"]


def test_the_models_of_the_run_are_loaded_when_they_are_first_needed(look, tiny_folder, monkeypatch):
    result = made_result()
    result.config["loaded"] = {"model": str(tiny_folder / "pointing"), "masks": str(tiny_folder / "masks")}
    result.config["weights_sha256"] = {"masks:masks/model.safetensors": "of another day"}
    inspector, browser = look(result)
    models = inspector.state.models
    assert models.waits and not inspector.correct.mode.disabled and inspector.correct.why.layout.display == "none"
    browser.tell(kind="key", key="p")
    browser.tell(kind="click", frame=6, pane=0, x=50.5, y=40.5)
    assert not models.waits and len(inspector.corrections.records) == 1, inspector.state.words.value
    assert "not those of the run" in inspector.state.words.value
    assert inspector.corrections.records[0]["made_by"]["weights_sha256"]
    inspector.questions.text.value = "the red circle"
    inspector.questions.text._handle_custom_msg({"event": "submit"}, [])  # Enter
    assert len(inspector.state.asked) == 2, inspector.state.words.value
    result.config["loaded"] = {"model": "nano", "masks": "/nowhere/masks"}
    inspector, browser = look(result)
    browser.tell(kind="key", key="p")
    browser.tell(kind="click", frame=6, pane=0, x=50.5, y=40.5)
    assert "/nowhere/masks cannot be loaded" in inspector.state.words.value
    assert "grounder=" in inspector.state.words.value and not inspector.corrections.records
    for loaded in (None, [], {"masks": 5}):
        result.config["loaded"] = loaded
        inspector, _ = look(result)
        assert inspector.correct.mode.disabled and "grounder=" in inspector.correct.why.value


def test_doubtful_frames_are_visited_with_their_reasons(look):
    result = made_result()
    result.answers[1] = replace(result.answers[1], outcome="absent")
    inspector, browser = look(result)
    found = doubtful_frames(inspector.inspection)
    assert list(found) == [4] and "absent" in found[4]
    inspector.fusion.tau.value = 1.0
    found = doubtful_frames(inspector.inspection)
    assert len(found) > 1 and any("IoU 0." in reason for reason in found.values())
    browser.go(FRAMES - 1)
    for at in [*found, next(iter(found))]:  # and from the beginning again
        browser.tell(kind="key", key="d")
        assert inspector.frame == at and found[at] in inspector.state.words.value
    browser.tell(kind="key", key="D")
    assert inspector.frame == list(found)[-1]


def test_doubt_sees_what_vanishes_and_what_jumps():
    truth = np.zeros((12, 2, 40, 51), bool)
    truth[:, 0, 5:15, 5:15] = True
    truth[6:8, 0] = False
    truth[:, 1, 20:24, 20:24] = True
    truth[9:, 1, 20:35, 20:35] = True
    spool = MaskStore()
    known = {name: np.ones((12, 2), bool) for name in ("forward", "backward")}
    spool.write(0, (1, 2), dict.fromkeys(("fused", "forward", "backward"), truth), known)
    one = Inspection(replace(made_result(), spool=spool, height=40, width=51, answers=[]))
    found = doubtful_frames(one)
    assert "object 1 vanishes" in found[6] and "object 2 is 14.1 times" in found[9] and list(found) == [6, 9]
