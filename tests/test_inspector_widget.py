"""The inspector's kernel half: what it sends, and what comes of everything a user can press. No browser."""

from __future__ import annotations

import asyncio
import json
import time
from functools import partial

import numpy as np
import pytest
from inspector_bench import FRAMES, HEIGHT, WIDTH, made_result, opened

import videomolmo
from videomolmo.errors import BadInput
from videomolmo.inspector import action_panels
from videomolmo.inspector.action_panels import EXPORTS, free_path
from videomolmo.inspector.background import BackgroundTask, Debounced
from videomolmo.io.video import open_video


@pytest.fixture
def look(tmp_path):
    return partial(opened, tmp_path / "exports")


def test_nothing_is_painted_until_somebody_looks(monkeypatch):
    inspector = videomolmo.inspect(made_result())
    monkeypatch.setattr(inspector.state.canvas, "send", lambda *_, **__: pytest.fail("sent to nobody"))
    inspector.frame = 3
    inspector.look.opacity.value = 0.2
    assert inspector.frame == 3 and not inspector.plots.figures


def test_every_request_is_answered_with_its_frame(look):
    inspector, browser = look()
    for frame, wanted in ((5, 5), (-3, 0), (999, FRAMES - 1)):
        browser.go(frame)
        assert browser.frame == wanted == inspector.frame
        content = browser.sent[-1][0]
        assert content["view"] == "me" and content["frames"] == [wanted]
        assert f"frame {wanted} " in content["captions"][0]
    assert browser.picture.shape[1] <= 400 and browser.picture.shape[1] / browser.picture.shape[0] == pytest.approx(
        4 / 3, 0.05
    )


def test_a_request_is_answered_even_when_painting_breaks(look, monkeypatch):
    inspector, browser = look()
    monkeypatch.setattr(inspector.state.canvas, "_picture", lambda frame: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        browser.go(2)
    assert browser.sent[-1][0]["frames"] == [] and browser.sent[-1][0]["view"] == "me"


def test_layers_objects_and_opacity_change_the_picture(look):
    inspector, browser = look()
    browser.go(2)
    seen = [browser.picture]
    for change in (
        lambda: setattr(inspector.look.layers["backward"], "value", True),
        lambda: setattr(inspector.look.layers["fused"], "value", False),
        lambda: setattr(inspector.objects.list, "hidden", [1]),
    ):
        change()
        assert not np.array_equal(browser.picture, seen[-1])
        seen.append(browser.picture)
    assert browser.canvas.marks == [[at, "found"] for at in (0, 4, 8)]


def test_a_layer_that_is_missing_says_why(look):
    inspector, _ = look()
    assert inspector.look.layers["truth"].disabled and inspector.look.layers["truth"].tooltip
    assert not inspector.look.layers["forward"].disabled


def test_tau_and_rule_fuse_again_at_once(look):
    inspector, browser = look()
    browser.go(2)
    before, mask = browser.picture, inspector.inspection.mask("fused", 2).sum()
    inspector.fusion.tau.value = 1.0  # now the sides disagree: union
    assert inspector.inspection.tau == 1.0 and inspector.inspection.mask("fused", 2).sum() > mask
    assert not np.array_equal(browser.picture, before)
    assert "union" in inspector.inspection.decisions()[2]
    inspector.fusion.rule.value = "intersection"
    assert inspector.inspection.mask("fused", 2).sum() < mask and inspector.fusion.tau.disabled
    assert "ms" in inspector.fusion.line.value


def test_plots_move_the_frame(look, monkeypatch):
    inspector, browser = look(truth=np.ones((FRAMES, HEIGHT, WIDTH), bool))
    assert list(inspector.plots.figures) == ["agreement", "scores", "track"]
    stack, sent = inspector.plots.box, []
    assert [json.loads(one)["layout"]["shapes"][0]["x0"] for one in stack.figures] == [0, 0, 0]
    stack._handle_custom_msg({"kind": "go", "frame": 3}, [])
    assert browser.frame == 3 == inspector.frame
    monkeypatch.setattr(stack, "send", lambda content, buffers: sent.append(buffers[0]))
    stack._handle_custom_msg({"kind": "library"}, [])
    assert b"plotly.js" in sent[0][:200]


def test_plots_follow_the_rule(look):
    inspector, _ = look()
    areas = [trace for trace in inspector.plots.figures["track"].data if trace.meta][-1]
    before = np.array(areas.y, float)
    inspector.fusion.rule.value = "union"
    areas = [trace for trace in inspector.plots.figures["track"].data if trace.meta][-1]
    assert np.nanmax(np.array(areas.y, float)) > np.nanmax(before)


def test_what_the_model_wrote_is_shown_as_text(look):
    inspector, _ = look(made_result(text="<img src=x onerror=alert(1)>"))
    assert "<img" not in inspector.answer.answer.value and "&lt;img" in inspector.answer.answer.value
    assert "found" in inspector.answer.answer.value


def test_a_name_is_changed(look):
    inspector, _ = look()
    inspector.objects.list._handle_custom_msg({"kind": "name", "id": 2, "text": "the cup"}, [])
    assert inspector.inspection.names[2] == "the cup"
    assert any("the cup" in text for text, _ in inspector.correct.object_id.options)


def test_a_click_looks_and_corrections_need_a_grounder(look):
    inspector, browser = look()
    browser.tell(kind="click", frame=0, pane=0, x=6.5, y=6.5)
    assert "frame 0" in inspector.state.words.value and "x 6.5" in inspector.state.words.value
    assert inspector.correct.mode.disabled and inspector.questions.button.disabled and inspector.correct.undo.disabled


def test_clicks_correct_and_are_undone(look, tiny_grounder):
    inspector, browser = look(grounder=tiny_grounder)
    browser.go(6)
    before = [inspector.inspection.mask("fused", at).copy() for at in range(FRAMES)]
    inspector.correct.mode.value = "add"
    assert browser.canvas.mode == "add"
    browser.tell(kind="click", frame=6, pane=0, x=30.25, y=20.5)
    assert [record["action"] for record in inspector.corrections.records] == ["add_point"], inspector.state.words.value
    assert inspector.corrections.records[0]["x"] == 30.25 and "re-propagated" in inspector.state.words.value
    assert any(point.corrected for point in inspector.inspection.points(6))
    assert [6, "corrected"] in browser.canvas.marks
    assert inspector.correct.bar.value == inspector.correct.bar.max > 1
    inspector.correct.undo.click()
    assert all(np.array_equal(inspector.inspection.mask("fused", at), before[at]) for at in range(FRAMES))
    inspector.correct.redo.click()
    inspector.correct.mode.value = "remove"
    browser.tell(kind="click", frame=6, pane=0, x=2, y=46)
    assert "vm-error" in inspector.state.words.value
    browser.tell(kind="click", frame=6, pane=0, x=31, y=21)
    assert not any(point.corrected for point in inspector.inspection.points(6))
    browser.go(4)
    inspector.correct.drop.click()
    assert inspector.inspection.outcomes()[4] == "dropped" and inspector.correct.drop.disabled


@pytest.mark.parametrize("kind", EXPORTS)
def test_everything_can_be_taken_away(look, kind, tmp_path):
    inspector, browser = look()
    inspector.files.kind.value = kind
    if kind == "training records":
        inspector.files.button.click()
        assert "vm-error" in inspector.state.words.value  # nothing was corrected
        return
    browser.go(5)
    for _ in range(2):
        inspector.files.button.click()
        assert "wrote" in inspector.files.line.value, inspector.state.words.value
    ending = EXPORTS[kind][0]
    there = sorted(path.name for path in (tmp_path / "exports").iterdir())
    written = [name for name in there if not name.endswith("_frames")]
    assert len(there) - len(written) == 2 * kind.endswith("and frames")
    assert len(written) == 2 and all(name.endswith((f"_1{ending}", f"_2{ending}")) for name in written)


def test_what_nobody_looks_at_keeps_no_pictures_and_comes_back(look):
    inspector, browser = look()
    inspection = inspector.inspection
    kept = lambda: [len(one._cache.kept) for one in (inspection._frames, inspection._store, inspection._fused)]  # noqa: E731
    browser.tell(kind="ready", view="another", width=400, dark=False)
    browser.go(2)
    before = browser.picture
    browser.tell(kind="closed", view="another")
    assert all(kept()) and inspector.state.canvas.looked_at  # somebody still looks
    browser.tell(kind="closed")
    assert not any(kept()) and inspector.state._cache.bytes == 0
    sent = len(browser.sent)
    usual, inspector.look.opacity.value = inspector.look.opacity.value, 0.9
    inspector.look.opacity.value = usual
    assert len(browser.sent) == sent, "nobody is there to send pictures to"
    browser.tell(kind="ready", width=400, dark=False)
    assert np.array_equal(browser.picture, before) and browser.frame == 2


def test_a_path_that_is_taken_is_not_given(tmp_path):
    (tmp_path / "view_1.png").touch()
    assert free_path(tmp_path, "view", ".png") == tmp_path / "view_2.png"


def test_a_path_that_is_being_written_is_not_given_twice(look, tmp_path, monkeypatch):
    inspector, _ = look()
    monkeypatch.setattr(inspector.state.work, "start", lambda *_: None)  # it takes a while
    for kind in ("tracks (CSV)", "tracks (CSV)", "this view (PNG)"):
        inspector.files.kind.value = kind
        inspector.files.export()
    names = [path.name for path in action_panels._being_written if path.parent == tmp_path / "exports"]
    action_panels._being_written.clear()
    assert sorted(names) == ["this_view_1.png", "tracks_1.csv", "tracks_2.csv"]


def test_a_hover_is_answered_whatever_fails_and_a_view_that_is_gone_wakes_nothing(look, monkeypatch):
    inspector, browser = look()
    canvas = inspector.state.canvas

    def fail(*_):
        raise BadInput("masks are damaged")

    monkeypatch.setattr(canvas, "_on_hover", fail)
    with pytest.raises(BadInput):
        browser.tell(kind="hover", frame=0, pane=0, x=1, y=1)
    assert browser.sent[-1][0]["kind"] == "over" and not browser.sent[-1][0]["objects"]
    browser.tell(kind="closed")
    browser.tell(kind="size", width=300)
    assert not canvas.looked_at


@pytest.mark.parametrize("kind", ["video (MP4)", "video (GIF)"])
def test_videos_are_as_large_as_the_clip_however_narrow_the_page(look, tmp_path, kind):
    result = made_result()
    (narrow, browser), (wide, _) = (look(result, other=result) for _ in range(2))
    browser.tell(kind="size", width=200)
    sizes = []
    for inspector in (narrow, wide):
        path = tmp_path / f"{len(sizes)}{EXPORTS[kind][0]}"
        EXPORTS[kind][1](inspector.state, path)
        with open_video(path) as frames:
            sizes.append((frames.height, frames.width))
    assert narrow.state.look.size != wide.state.look.size and sizes[0] == sizes[1]


def test_a_layer_that_only_the_right_result_has_can_be_shown(look):
    left, right = made_result(), made_result()
    for path in left.spool.files():
        data = dict(np.load(path))
        np.savez(path, **{name: values for name, values in data.items() if "backward" not in name})
    inspector, browser = look(left, other=right)
    assert not inspector.look.layers["backward"].disabled and inspector.look.layers["truth"].disabled
    before = browser.sent[-1][1]
    inspector.look.layers["backward"].value = True
    assert browser.sent[-1][1][0] == before[0] and browser.sent[-1][1][1] != before[1]


def test_two_results_share_the_time_line(look):
    result = made_result()
    inspector, browser = look(result, np.ones((FRAMES, HEIGHT, WIDTH), bool), other=result, other_rule="union")
    assert len(browser.sent[-1][1]) == 2 and len(browser.canvas.titles) == 2 and "union" in browser.canvas.titles[1][1]
    inspector.compare.button.click()
    assert browser.frame == inspector.frame != 0
    assert "J&amp;F left" in inspector.compare.line.value and "J&amp;F right" in inspector.compare.line.value
    assert inspector.state.differences.per_frame[inspector.frame] > 0
    inspector.fusion.side.value = 1
    inspector.fusion.rule.value = "iou"
    assert np.max(inspector.state.differences.per_frame) == 0
    inspector.compare.button.click()
    assert "same" in inspector.state.words.value
    browser.tell(kind="click", frame=0, pane=1, x=3, y=3)


@pytest.mark.parametrize("objects, frames", [(0, FRAMES), (20, FRAMES), (2, 1), (0, 0)])
def test_odd_results_open(look, objects, frames):
    inspector, browser = look(made_result(objects, frames))
    browser.go(3)
    assert browser.frame == max(0, min(3, frames - 1))
    assert len(inspector.objects.list.rows) == objects
    inspector.fusion.rule.value = "union"
    assert "frame" in browser.sent[-1][0]["captions"][0]
    if not frames:
        assert "no frames" in browser.sent[-1][0]["captions"][0] and browser.sent[-1][1] == []


def test_a_theme_redraws_the_plots(look):
    inspector, browser = look()
    light = inspector.plots.figures["track"]
    browser.tell(kind="theme", dark=True)
    assert inspector.plots.figures["track"].layout.font.color != light.layout.font.color


def test_without_a_browser_it_is_a_picture(tmp_path):
    inspector = videomolmo.inspect(made_result(), frame=5, rule="union", layers=["fused", "forward"])
    bundle = inspector._repr_mimebundle_()
    assert bundle["image/png"].startswith(b"\x89PNG") and "12 frames" in bundle["text/plain"]
    assert inspector.frame == 5 and inspector.inspection.rule == "union" and inspector.look.layers["forward"].value
    assert inspector.save(tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(BadInput, match="exists"):
        inspector.save(tmp_path / "a.png")


def test_nonsense_is_refused():
    with pytest.raises(BadInput, match="layer 'front' is unknown"):
        videomolmo.inspect(made_result(), layers=["front"])
    with pytest.raises(BadInput, match="fusion rule"):
        videomolmo.inspect(made_result(), rule="best")


def test_work_runs_beside_a_loop_and_can_be_stopped():
    async def scene() -> tuple[list, list, bool]:
        work, steps, ends = BackgroundTask(), [], []

        def job(progress, cancelled):
            for step in range(1000):
                if cancelled():
                    raise BadInput("stopped")
                progress(step, 1000)
                time.sleep(0.002)

        work.start(job, lambda step, of: steps.append(step), lambda value, error: ends.append(error))
        beside = work.busy
        while len(steps) < 3:
            await asyncio.sleep(0.002)
        work.cancel()
        while work.busy:
            await asyncio.sleep(0.002)
        return steps, ends, beside

    steps, ends, beside = asyncio.run(scene())
    assert beside and steps[:3] == [0, 1, 2] and len(steps) < 1000 and str(ends[0]) == "stopped"


def test_later_does_much_asked_work_once():
    async def scene() -> int:
        done = []
        later = Debounced(lambda: done.append(1), 0.01)
        for _ in range(50):
            later()
        await asyncio.sleep(0.05)
        return len(done)

    assert asyncio.run(scene()) == 1


def test_what_is_sent_is_plain(look):
    """Everything but the pictures travels as JSON."""
    inspector, browser = look()
    browser.go(4)
    assert json.loads(json.dumps(browser.sent[-1][0]))["frame"] == 4
    assert json.dumps([inspector.state.canvas.marks, inspector.state.canvas.sizes])


def test_frames_beforehand_come_in_one_answer_and_move_nothing(look):
    inspector, browser = look()
    went = []
    inspector.state.frame_listeners.append(lambda: went.append(inspector.frame))
    browser.go(3)
    before = len(browser.sent)
    browser.tell(kind="go", frame=3, pictures=[4, 5, 6, 99])
    content, buffers = browser.sent[-1]
    assert len(browser.sent) == before + 1 and content["frames"] == [4, 5, 6] and len(buffers) == 3
    assert inspector.frame == 3 and went == [3] and not content["moved"]
    age = content["age"]
    inspector.look.opacity.value = 0.9
    assert browser.sent[-1][0]["age"] > age  # what the browser keeps is out of date
