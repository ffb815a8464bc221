"""Corrections: what changes, what must not, undo, records, reopening, training rows; with SAM 2 of random weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inspector_corrected import InstantTracker, changed, everything, same
from inspector_results import made_result

from videomolmo.datasets import read_dataset
from videomolmo.errors import BadInput
from videomolmo.inspector.corrections import Cancelled, Corrections, ask
from videomolmo.inspector.edit_history import LOG, History
from videomolmo.inspector.inspection import Inspection


@pytest.fixture
def folder(tmp_path):
    """Key frames 0, 5, 10 of twelve frames; object 2 is not pointed at on frame 5."""
    return made_result(absent=((5, 2),)).save(tmp_path / "out", overlay=False)


@pytest.fixture
def opened(folder, tiny_grounder):
    inspection = Inspection(folder, video=made_result()._video)
    return inspection, Corrections(inspection, tiny_grounder)


def files_of(folder) -> dict[str, bytes]:
    ours = ("corrections", LOG)
    paths = [path for path in folder.rglob("*") if path.is_file() and path.relative_to(folder).parts[0] not in ours]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_a_point_between_key_frames_changes_only_its_object_there(opened, folder):
    inspection, corrections = opened
    before, files = everything(inspection), files_of(folder)
    steps = []
    change = corrections.add_point(7, 20, 15, 1, progress=lambda done, total: steps.append((done, total)))
    after = everything(inspection)
    touched = changed(before, after)
    assert touched and touched <= {(t, 1) for t in range(6, 10)}
    assert change.frames == (5, 10) and change.object == 1 and change.propagated == 4  # 7, 8, 9 on, and 6 back
    assert steps == [(n, 5) for n in range(1, 6)]  # the key frame opens both directions
    assert inspection.key_frames == [0, 5, 7, 10] and inspection.decisions()[7].tolist() == ["key", "single direction"]
    [point] = inspection.points(7)
    assert (point.x, point.y, point.object, point.corrected, point.positive) == (20, 15, 1, True, True)
    assert files_of(folder) == files  # nothing of the run was changed


def test_the_stored_parts_are_kept_bit_for_bit(opened):
    inspection, corrections = opened
    before = everything(inspection)
    corrections.add_point(7, 20, 15, 1)
    after = everything(inspection)
    assert np.array_equal(before["forward"][:7], after["forward"][:7])  # from key frame 5 as it was
    assert np.array_equal(before["backward"][8:], after["backward"][8:])  # from key frame 10 as it was
    assert np.array_equal(after["forward"][7, 0], after["backward"][7, 0])  # a key frame's own mask


def test_undo_and_redo_bit_for_bit(opened, folder):
    inspection, corrections = opened
    states = [everything(inspection)]
    acts = [
        lambda: corrections.add_point(7, 20, 15, 1),
        lambda: corrections.add_point(5, 4, 4, 1, positive=False),
        lambda: corrections.add_point(3, 30, 30),
        lambda: corrections.drop_answer(5),
        lambda: corrections.remove_point(0, 2, 0),
    ]
    for act in acts:
        act()
        states.append(everything(inspection))
    corrections.tracker = None  # no model from here on
    for state in states[-2::-1]:
        assert corrections.can_undo
        corrections.undo()
        assert same(everything(inspection), state)
    assert not corrections.can_undo and corrections.can_redo
    with pytest.raises(BadInput, match="nothing to undo"):
        corrections.undo()
    for state in states[1:]:
        corrections.redo()
        assert same(everything(inspection), state)
    corrections.undo()
    again = Inspection(folder)
    assert same(everything(again), states[-2]) and again.key_frames == inspection.key_frames
    assert [again.points(t) for t in range(12)] == [inspection.points(t) for t in range(12)]
    assert not same(everything(Inspection(folder, corrected=False)), states[-2])
    assert same(everything(Inspection(folder, corrected=False)), states[0])


def test_records_are_lines_that_are_only_ever_added(opened, folder):
    inspection, corrections = opened
    corrections.add_point(7, 20.123, 15, 1)
    first = (folder / LOG).read_bytes()
    corrections.undo()
    assert (folder / LOG).read_bytes().startswith(first)
    rows = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    assert [row["action"] for row in rows] == ["add_point", "undo"] and [row["number"] for row in rows] == [1, 2]
    assert rows[0]["clicks"] == [[20.12, 15.0, 1]] and "commit" in rows[0]["made_by"] and rows[0]["time"]
    assert corrections.records == inspection.history.records and len(corrections.records) == 2


def test_a_dropped_answer_is_filled_by_its_neighbours(opened):
    inspection, corrections = opened
    before = everything(inspection)
    change = corrections.drop_answer(5)
    touched = changed(before, everything(inspection))
    assert (5, 1) in touched and touched <= {(t, n) for t in range(1, 10) for n in (1, 2)}
    assert change.frames == (0, 10)
    assert inspection.outcomes()[5] == "dropped" and inspection.key_frames == [0, 10]
    assert "key" not in inspection.decisions()[5]
    assert np.isfinite(inspection.agreement[5]).all()  # object 2, which the answer had missed, is reached again
    with pytest.raises(BadInput, match="no answer to drop"):
        corrections.drop_answer(5)


@pytest.mark.parametrize("frame, span", [(0, range(0, 5)), (10, range(6, 12))])
def test_dropping_the_first_or_the_last_answer(folder, frame, span):
    inspection = Inspection(folder, video=made_result()._video)
    corrections = Corrections(inspection, InstantTracker())
    before = everything(inspection)
    change = corrections.drop_answer(frame)
    after = everything(inspection)
    touched = {t for t, _ in changed(before, after)}
    assert frame in touched and touched <= set(span) and change.frames == (span[0] - (frame > 0), span[-1] + 1)
    gone, left = ("forward", "backward") if frame == 0 else ("backward", "forward")
    between = list(span)[1:] if frame == 0 else list(span)[:4]
    assert before[gone][between, 0].any(axis=(1, 2)).all() and not after[gone][between, 0].any()
    assert set(inspection.decisions()[list(span), 0]) == {"single direction"}
    assert np.array_equal(after["fused"][list(span), 0], after[left][list(span), 0])
    corrections.undo()
    assert same(everything(inspection), before)


def test_removing_the_last_point_takes_the_object_from_the_key_frame(opened):
    inspection, corrections = opened
    before = everything(inspection)
    corrections.remove_point(5, 1, 0)
    assert inspection.points(5) == [] and inspection.decisions()[5, 0] == "none"
    touched = changed(before, everything(inspection))
    assert (5, 1) in touched and touched <= {(t, 1) for t in range(1, 10)}
    assert np.array_equal(before["forward"][1:5], everything(inspection)["forward"][1:5])
    with pytest.raises(BadInput, match="has 0 points"):
        corrections.remove_point(5, 1, 0)


def test_a_new_object_begins_with_a_positive_point(folder):
    inspection = Inspection(folder, video=made_result()._video)
    corrections = Corrections(inspection, InstantTracker())
    before = everything(inspection)
    change = corrections.add_point(3, 30, 30)
    assert change.object == 3 == inspection.objects
    assert changed(before, everything(inspection)) == {(t, 3) for t in range(1, 5)}
    assert inspection.decisions()[:, 2].tolist() == [
        "none",
        *["single direction"] * 2,
        "key",
        "single direction",
        *["none"] * 7,
    ]
    corrections.undo()
    assert inspection.objects == 2 and same(everything(inspection), before)
    with pytest.raises(BadInput, match="a new object begins"):
        corrections.add_point(3, 30, 30, positive=False)


def test_a_negative_point_alone_comes_with_an_anchor_or_says_that_nothing_is_there(opened):
    inspection, corrections = opened
    mask = inspection.mask("fused", 7)[0]
    rows, columns = np.nonzero(mask)
    record = corrections.add_point(7, float(columns.max()), float(rows.min()), 1, positive=False).record
    x, y, label = record["anchor"]
    assert mask[int(y), int(x)] and label == 1 and len(inspection.points(7)) == 2
    corrections.undo()
    record = corrections.add_point(3, 1, 1, 2, positive=False).record  # far away: the anchor is the middle
    assert record["anchor"] is not None
    corrections.undo()
    corrections.remove_point(5, 1, 0)
    corrections.drop_answer(0)
    corrections.drop_answer(10)
    record = corrections.add_point(8, 3, 3, 1, positive=False).record
    assert record["anchor"] is None and not inspection.mask("fused", 8)[0].any()


def test_cancelled_means_that_nothing_happened(opened, folder):
    inspection, corrections = opened
    before, points = everything(inspection), inspection.points(7)
    with pytest.raises(Cancelled, match="stopped after 2 of 5"):
        corrections.add_point(7, 20, 15, 1, cancel=iter([False, True]).__next__)
    assert same(everything(inspection), before) and inspection.points(7) == points
    assert not (folder / LOG).exists() and corrections.records == [] and not corrections.can_undo


def test_bad_clicks_are_refused_before_anything_happens(opened, folder):
    inspection, corrections = opened
    for words, arguments in (
        ("outside the frame", (3, 51, 0, 1)), ("outside the frame", (3, float("nan"), 0, 1)),
        ("not in the clip", (12, 1, 1, 1)), ("object 9 is not there", (3, 1, 1, 9)),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=words):
            corrections.add_point(*arguments)
    inspection.apply_fusion_rule(matching="none")
    with pytest.raises(BadInput, match="matched anew"):
        corrections.add_point(3, 1, 1, 1)
    inspection.apply_fusion_rule(matching=None)
    corrections.tracker = None
    with pytest.raises(BadInput, match="give a grounder"):
        corrections.add_point(3, 1, 1, 1)
    assert not (folder / LOG).exists()


def test_without_a_video_a_correction_is_refused(folder, tiny_grounder):
    corrections = Corrections(Inspection(folder), tiny_grounder)
    with pytest.raises(BadInput, match="video is needed"):
        corrections.add_point(3, 1, 1, 1)


def test_identities_stay_while_there_are_corrections(opened):
    inspection, corrections = opened
    corrections.add_point(7, 20, 15, 1)
    with pytest.raises(BadInput, match="undo them first"):
        inspection.apply_fusion_rule(matching="none")
    inspection.apply_fusion_rule("union")
    assert inspection.decisions()[7, 0] == "key"


def test_lost_masks_and_broken_lines_are_told(opened, folder):
    inspection, corrections = opened
    before = everything(inspection)
    corrections.add_point(7, 20, 15, 1)
    for path in (folder / "corrections").iterdir():
        path.write_bytes(b"cut")
    again = Inspection(folder)
    assert "stretches are gone" in " ".join(again.missing()) and same(everything(again), before)
    with open(folder / LOG, "a") as file:
        file.write('{"action": "undo"')
    assert "line 2" in " ".join(Inspection(folder).missing())


def test_a_result_in_memory_writes_nothing(tiny_grounder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    corrections = Corrections(Inspection(made_result()), tiny_grounder)
    corrections.add_point(7, 20, 15, 1)
    corrections.undo()
    assert list(tmp_path.iterdir()) == [] and len(corrections.records) == 2


def test_training_rows_are_read_by_the_reader_of_training_rows(opened, tmp_path):
    inspection, corrections = opened
    with pytest.raises(BadInput, match="nothing was corrected"):
        corrections.export_training(tmp_path / "rows.jsonl")
    corrections.add_point(7, 20, 15, 1)
    corrections.add_point(10, 2, 38, 1, positive=False)
    corrections.drop_answer(0)
    assert corrections.export_training(tmp_path / "rows.jsonl") == 1
    [record] = read_dataset("videomolmo", tmp_path, "rows")
    [row] = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert row["frame_idxs"] == [5, 7, 10] and row["caption"] == record.expressions[0].text == "the squares"
    points = record.points_of("1", 1)
    assert np.allclose(points[0], (20, 15), atol=0.01) and len(points) <= 2
    assert row["negative_points"] == {"10": [{"x": round(200 / 51, 4), "y": 95.0}]}
    with record.frames() as frames:
        assert len(frames) == 3 and frames[1].shape == (40, 51, 3)
        assert np.abs(frames[1].astype(int) - inspection.frame(7)).mean() < 8
    with pytest.raises(BadInput, match="exists"):
        corrections.export_training(tmp_path / "rows.jsonl")


def test_a_new_sentence_about_the_same_video(truthful, clip):
    grounder = truthful(clip)
    first = grounder(clip.frames, "the things", every=4, tau=0.4)
    second = ask(Inspection(first), "the others", grounder, fusion="union")
    assert second.sentence == "the others" and second.key_frames == first.key_frames
    assert second.config["model"]["tau"] == 0.4 and second.config["model"]["fusion"] == "union"


def test_correcting_a_real_run_keeps_what_it_does_not_touch(truthful, clip, tmp_path):
    grounder = truthful(clip, silent={5})
    folder = grounder(clip.frames, "the things", every=5).save(tmp_path / "out", overlay=False)
    inspection = Inspection(folder, video=clip.frames)
    before = everything(inspection)
    Corrections(inspection, grounder).add_point(2, 40, 30, 1)
    touched = changed(before, everything(inspection))
    assert (2, 1) in touched and touched <= {(t, 1) for t in range(1, 5)}


ACTIONS = st.one_of(
    st.tuples(st.just("add"), st.integers(0, 11), st.sampled_from([1, 2, None]), st.booleans()),
    st.tuples(st.just("drop"), st.sampled_from([0, 5, 10])),
    st.tuples(st.just("remove"), st.integers(0, 11), st.integers(1, 2)),
    st.tuples(st.sampled_from(["undo", "redo"])),
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(ACTIONS, min_size=1, max_size=7))
def test_any_edits_can_be_undone_and_replayed(tmp_path_factory, actions):
    folder = made_result(absent=((5, 2),)).save(tmp_path_factory.mktemp("edits") / "out", overlay=False)
    inspection = Inspection(folder, video=made_result()._video)
    corrections = Corrections(inspection, InstantTracker())
    states, at = [everything(inspection)], 0
    for action, *details in actions:
        before, key_frames = everything(inspection), inspection.key_frames
        try:
            if action == "add":
                change = corrections.add_point(details[0], 10.0, 20.0, *details[1:])
            elif action == "drop":
                change = corrections.drop_answer(*details)
            elif action == "remove":
                change = corrections.remove_point(*details, 0)
            else:
                change = getattr(corrections, action)()
        except BadInput:
            assert same(everything(inspection), before) and inspection.key_frames == key_frames
            continue
        after = everything(inspection)
        first, stop = change.frames
        assert all(first <= t < stop and change.object in (None, n) for t, n in changed(before, after))
        at += {"undo": -1}.get(action, 1)
        states = states if action in ("undo", "redo") else [*states[:at], after]
        assert same(after, states[at])
    assert same(everything(Inspection(folder)), states[at])
    while corrections.can_undo:
        corrections.undo()
        at -= 1
        assert same(everything(inspection), states[at])


def test_records_that_are_none_are_refused():
    for record in ({"action": "paint"}, {"action": "add_point"}, {"action": "drop_answer", "frame": "x"}, {}):
        with pytest.raises(BadInput, match=r"action|correction"):
            History().add(record)


@pytest.mark.slow
def test_a_click_mends_a_shipped_run(shipped_grounder):
    """An identity that the model got wrong on one key frame: a click there brings the mask to the truth."""
    from videomolmo.synth.clips import generate_clip

    clip = generate_clip(10_000_002, frames=20)
    grounded = shipped_grounder(clip.frames, "the blue star", every=5)
    inspection = Inspection(grounded, truth=clip.masks[:, :1])
    corrections = Corrections(inspection, shipped_grounder)
    object_id = inspection.scores().partner[0]
    corrections.remove_point(10, object_id, 0)
    worse = np.nanmean(inspection.scores().per_frame)
    rows, columns = np.nonzero(clip.masks[10, 0])
    corrections.add_point(10, float(columns.mean()), float(rows.mean()), object_id)
    assert np.nanmean(inspection.scores().per_frame) > worse
