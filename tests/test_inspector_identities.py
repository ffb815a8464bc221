"""Identities by hand: swapped, merged, split, deleted, recoloured, renamed; in the log, undone, reverted, exported."""

from __future__ import annotations

import doctest
import json

import numpy as np
import pytest
from inspector_results import made_result

import videomolmo
from videomolmo import cli
from videomolmo.errors import BadInput
from videomolmo.inspector import identities, static_page
from videomolmo.inspector.corrections import Corrections
from videomolmo.inspector.edit_history import LOG
from videomolmo.inspector.edit_panels import frame_rows, object_rows
from videomolmo.inspector.exports import export_labels, labels_of, training_row
from videomolmo.inspector.inspection import Inspection
from videomolmo.inspector.plots import agreement_figure
from videomolmo.inspector.render import Look, paint
from videomolmo.io.formats.coco import decode_rle
from videomolmo.results import GroundingResult

FRAMES = 12


@pytest.fixture
def opened():
    one = Inspection(made_result(FRAMES, objects=3))
    return one, Corrections(one), masks_of(one)


def masks_of(one: Inspection) -> np.ndarray:
    return np.stack([one.mask("fused", t) for t in range(one.frames)])


def test_a_swap_exchanges_masks_points_and_tables_from_its_frame_on(opened):
    one, by_hand, before = opened
    agreement, change = one.agreement.copy(), by_hand.swap(1, 2, 6)
    assert change.frames == (6, FRAMES) and not change.propagated
    after = masks_of(one)
    assert np.array_equal(after[:6], before[:6])
    assert np.array_equal(after[6:, :2], before[6:, 1::-1]) and np.array_equal(after[:, 2], before[:, 2])
    assert np.array_equal(one.agreement[6:, 0], agreement[6:, 1], equal_nan=True)
    assert [point.object for point in one.points(5)] == [1, 2, 3]
    assert [point.object for point in one.points(10)] == [2, 1, 3]
    by_hand.swap(1, 2, 6)
    assert np.array_equal(masks_of(one), before)


def test_merged_objects_are_one_with_both_masks_and_one_row(opened):
    one, by_hand, before = opened
    by_hand.merge(1, 3)
    assert one.object_ids == [1, 2] and one.objects == 3
    after = masks_of(one)
    assert np.array_equal(after[:, 0], before[:, 0] | before[:, 2]) and not after[:, 2].any()
    for t in range(FRAMES):
        assert [patch.object_id for patch in one.patches("fused", t)] == [1, 2]
        assert sorted(one.boxes(t)) == [1, 2]
    forward = one.mask("forward", 3)
    assert forward[0].sum() > forward[1].sum() and not forward[2].any()
    assert one.series(1).area.tolist() == after[:, 0].sum(axis=(1, 2)).tolist()
    points = [(point.object, point.index) for point in one.points(0)]
    assert points == [(1, 0), (2, 0), (1, 1)]
    assert [row[0] for _, row in object_rows(one)] == [1, 2]
    with pytest.raises(BadInput, match="object 3 is not there, expected one of 1, 2"):
        by_hand.delete(3)


def test_a_split_begins_a_new_object_which_can_be_deleted(opened):
    one, by_hand, before = opened
    by_hand.split(2, 4)
    assert one.object_ids == [1, 2, 3, 4] and one.objects == 4
    after = masks_of(one)
    assert np.array_equal(after[:4, 1], before[:4, 1]) and not after[4:, 1].any()
    assert np.array_equal(after[4:, 3], before[4:, 1]) and not after[:4, 3].any()
    by_hand.delete(4)
    assert one.object_ids == [1, 2, 3] and not masks_of(one)[:, 3].any()
    assert [point.object for point in one.points(5)] == [1, None, 3]
    with pytest.raises(BadInput, match="not there both before frame 8 and from it on"):
        by_hand.split(2, 8)
    by_hand.undo()
    with pytest.raises(BadInput, match="correction 4 builds on correction 1"):
        by_hand.swap(4, 1, 9), by_hand.revert(1)


@pytest.mark.parametrize(
    "act, problem",
    [
        (lambda by: by.swap(1, 1, 3), "object 1 is both"),
        (lambda by: by.swap(1, 9, 3), "object 9 is not there"),
        (lambda by: by.swap(1, 2, 99), "frame 99 is not in the clip"),
        (lambda by: by.merge(2, 2), "object 2 is both"),
        (lambda by: by.split(1, 0), "not there both"),
        (lambda by: by.recolour(1, 0), "colour is 0"),
        (lambda by: by.rename(4, "cup"), "object 4 is not there"),
        (lambda by: by.rename(1, "x" * 201), "has 201 letters, expected at most 200"),
        (lambda by: by.revert(1), "correction 1 is not in force"),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(opened, act, problem):
    one, by_hand, before = opened
    with pytest.raises(BadInput, match=problem):
        act(by_hand)
    assert not by_hand.records and np.array_equal(masks_of(one), before)


def test_undo_redo_and_revert_bit_for_bit_and_from_the_log(tmp_path):
    folder = made_result(FRAMES, objects=3).save(tmp_path / "result", overlay=False)
    one = Inspection(folder)
    by_hand, before = Corrections(one), masks_of(one)
    by_hand.swap(1, 2, 6), by_hand.merge(1, 3), by_hand.recolour(2, 7)
    all_three = masks_of(one)
    by_hand.revert(1)
    assert list(one.history.in_force()) == [2, 3] and one.identities.colour_of(2) == 7
    assert np.array_equal(masks_of(one)[:, 0], before[:, 0] | before[:, 2])
    again = Inspection(folder)
    assert np.array_equal(masks_of(again), masks_of(one)) and again.object_ids == [1, 2]
    by_hand.undo()
    assert np.array_equal(masks_of(one), all_three) and list(one.history.in_force()) == [1, 2, 3]
    for _ in range(3):
        by_hand.undo()
    assert np.array_equal(masks_of(one), before) and not one.history.state
    for _ in range(4):
        by_hand.redo()
    assert np.array_equal(masks_of(one), masks_of(again))
    assert [json.loads(line)["action"] for line in (folder / LOG).read_text().splitlines()][:4] == [
        "swap", "merge", "recolour", "revert",
    ]  # fmt: skip
    assert GroundingResult.load(folder).objects == 3, "files of the result are never changed"


def test_damaged_edits_in_the_log_are_told_and_left_out(tmp_path):
    folder = made_result(FRAMES).save(tmp_path / "result", overlay=False)
    Corrections(Inspection(folder)).swap(1, 2, 6)
    good = json.loads((folder / LOG).read_text())
    bad = [{"other": 1}, {"other": 0}, {"object": 7}, {"frame": 99}, {"action": "revert", "of": 5}, {"action": "mix"},
           {"action": "split", "other": 9}, {"other": "2"}, {"action": "rename"}, {"action": "rename", "name": 3},
           {"action": "rename", "name": "x" * 1001}, {"action": "rename", "name": "c\x01up"},
           {"action": "rename", "name": "cup", "object": 9}]  # fmt: skip
    for change in bad:
        (folder / LOG).write_text(json.dumps(good | change) + "\n")
        one = Inspection(folder)
        assert not one.history.records and "line 1" in " ".join(one.missing()), change


def test_a_name_is_a_correction_that_changes_no_mask(opened, tmp_path):
    one, by_hand, before = opened
    assert by_hand.rename(2, "  the\n\0cup ").frames == (0, 0) and one.name_of(2) == "the cup"
    by_hand.rename(2, "jug"), by_hand.swap(1, 2, 6), by_hand.split(3, 4), by_hand.rename(4, "lid")
    assert [one.name_of(n) for n in one.object_ids] == ["object 1", "jug", "object 3", "lid"]
    with pytest.raises(BadInput, match="correction 5 builds on correction 4"):
        by_hand.revert(4)
    by_hand.revert(3), by_hand.revert(2)
    assert one.name_of(2) == "the cup" and np.array_equal(masks_of(one)[:, :2], before[:, :2])
    by_hand.undo()
    assert one.names == {2: "jug", 4: "lid"}
    by_hand.redo(), by_hand.rename(4, "")
    assert one.names == {2: "the cup"} and one.name_of(4) == "object 4"
    one.save(tmp_path / "result")
    assert Inspection(tmp_path / "result").names == {2: "the cup"}, "names of one that was in memory go along"
    for _ in range(7):
        by_hand.undo()
    assert one.names == {2: "the cup"} and len(one.history.in_force()) == 1
    with pytest.raises(BadInput, match="nothing was corrected"):
        by_hand.export_training(tmp_path / "rows.jsonl")


def test_names_come_back_with_the_folder_and_are_exported(tmp_path, capsys):
    told = {"format": "coco", "ids": ["4", "9"], "names": ["car", "van"], "scores": {}, "has_void": False}
    result = made_result(FRAMES)
    result.config["labels"] = told
    folder = result.save(tmp_path / "result", overlay=False)
    by_hand = Corrections(Inspection(folder))
    by_hand.rename(2, "=bus, green"), by_hand.rename(1, "x"), by_hand.rename(1, "")
    one = Inspection(folder)
    assert one.names == {1: "car", 2: "=bus, green"} and not one.log.problems
    assert labels_of(one).names == ("car", "=bus, green") and labels_of(one).ids == ("4", "9")
    assert cli.main(["export", str(folder), "--to", "coco", "--out", str(tmp_path / "a.json")]) == 0
    assert "3 corrections by hand" in capsys.readouterr().out
    categories = json.loads((tmp_path / "a.json").read_text())["categories"]
    assert [category["name"] for category in categories] == ["car", "=bus, green"]
    assert "object 2 named “=bus, green”" in static_page._text([one])
    (line,) = (trace for trace in agreement_figure(one).data if trace.meta == {"object": 2})
    assert line.name == "2 · =bus, green"


def test_points_after_a_swap_belong_to_the_track_that_is_shown(tiny_grounder):
    one = Inspection(made_result(FRAMES))
    by_hand, before = Corrections(one, tiny_grounder), masks_of(one)
    by_hand.swap(1, 2, 6)
    change = by_hand.add_point(10, 20.5, 6.5, 2)
    assert change.object == 2 and change.record["object"] == 1 and one.corrections_on(10) == {2: one.clicks(1, 10)}
    assert [point.object for point in one.points(10) if point.corrected] == [2]
    assert np.array_equal(masks_of(one)[6:, 0], before[6:, 1]), "the other one is as it was"
    by_hand.remove_point(10, 2, 1)
    by_hand.revert(1)
    assert np.array_equal(masks_of(one)[:, 1], before[:, 1])


def test_a_point_is_reverted_while_later_ones_stay(tiny_grounder):
    one = Inspection(made_result(FRAMES))
    by_hand, before = Corrections(one, tiny_grounder), masks_of(one)
    by_hand.add_point(4, 20.5, 6.5, 1)
    first = masks_of(one)
    by_hand.add_point(4, 20.5, 26.5, 2)
    both = masks_of(one)
    by_hand.revert(1)
    assert np.array_equal(masks_of(one)[:, 0], before[:, 0]) and np.array_equal(masks_of(one)[:, 1], both[:, 1])
    by_hand.undo(), by_hand.revert(2)
    assert np.array_equal(masks_of(one), first)
    by_hand.drop_answer(5), by_hand.add_point(4, 21.5, 7.5, 1)
    with pytest.raises(BadInput, match="correction 7 builds on correction 1; revert that first"):
        by_hand.revert(1)


def test_exports_have_the_identities_and_colours_that_are_shown(opened, tmp_path):
    one, by_hand, before = opened
    by_hand.swap(1, 2, 6), by_hand.merge(1, 3), by_hand.recolour(1, 7)
    export_labels(one, "coco", tmp_path / "a.json")
    found = json.loads((tmp_path / "a.json").read_text())["annotations"]
    late = {row["track_id"]: decode_rle(row["segmentation"], "x") for row in found if row["image_id"] == 8}
    assert sorted(late) == [1, 2] and np.array_equal(late[2], before[8, 0])
    assert np.array_equal(late[1], before[8, 1] | before[8, 2])
    assert {row["track_id"] for row in found} == {1, 2}
    assert training_row(one, "clip")["objects"] == ["1", "2"]
    own, recoloured = paint(one, 8, Look()), paint(one, 8, Look(colours=one.identities.colours(one.objects)))
    assert not np.array_equal(own, recoloured)


def test_scores_of_labels_follow_their_masks():
    scores = {"1": {str(t): 0.5 for t in range(FRAMES)}, "2": {"8": 0.25}}
    told = {"format": "coco", "ids": ["4", "3", "9"], "names": ["car"] * 3, "scores": scores, "has_void": False}
    result = made_result(FRAMES, objects=3)
    result.config["labels"] = told
    one = Inspection(result)
    by_hand = Corrections(one)
    by_hand.swap(1, 2, 6), by_hand.split(3, 4)
    labels = labels_of(one)
    assert labels.score(5, 1) == 0.5 and labels.score(8, 1) == 0.25 and labels.score(8, 2) == 0.5
    assert labels.ids == ("4", "3", "9", "5"), "no id twice"


def test_tables_tell_of_frames_and_objects():
    one = Inspection(made_result(FRAMES, absent=((5, 2),)))
    rows = dict(frame_rows(one, np.linspace(0, 1, FRAMES)))
    assert rows[0][:4] == [0, 0.0, "found", 2] and rows[5][2:4] == ["found", 1] and rows[5][7] and rows[11][6] == 1
    assert rows[2][4] == pytest.approx(np.nanmin(one.agreement[2])) and rows[11][4] is None
    (_, first), (_, second) = object_rows(one)
    area = one.series(2).area
    assert first[:5] == [1, "object 1", FRAMES, 0, 11]
    assert second[2] == (area > 0).sum() and second[5] == pytest.approx(area[area > 0].mean())
    assert object_rows(Inspection(made_result(3, objects=0))) == []


@pytest.fixture
def inspector():
    with videomolmo.inspect(made_result(FRAMES, objects=3)) as made:
        yield made


def test_panels_do_it_and_list_it(inspector):
    words = lambda: inspector.state.words.value  # noqa: E731
    inspector.frame = 6
    inspector.identities.swap.click()
    assert "object 1 and object 2 swapped from frame 6 on" in words()
    assert inspector.state.canvas.marks[1:3] == [[5, "found"], [6, "corrected"]]
    inspector.identities.merge.click()
    assert [row[0] for row in inspector.objects.list.rows] == [1, 3]
    assert inspector.tables.corrections.title == "corrections (2)" and inspector.tables.corrections.frames == [6, None]
    inspector.tables.corrections.unfolded = True
    assert inspector.tables.corrections.frames == [6, 0]
    inspector.tables._pressed(None, {"kind": "press", "row": 0}, [])
    assert [row[0] for row in inspector.tables.corrections.rows] == [2] and "correction reverted" in words()
    inspector.objects._receive(None, {"kind": "colour", "id": 1, "colour": 7}, [])
    assert inspector.objects.list.rows[0][2] == inspector.objects.list.palette[6][1] and "another colour" in words()
    assert inspector.state.looks[0].colours == (7, 2, 3)
    inspector.objects.rename(1, "the cup"), inspector.objects.rename(1, "the cup ")
    assert inspector.objects.list.rows[0][1] == "the cup" and "object 1 is called “the cup”" in words()
    assert inspector.tables.corrections.rows[-1][2:] == ["the cup", "object 1 named “the cup”"]
    assert inspector.identities.object.options[0][0] == "1 · the cup"
    assert len(inspector.tables.corrections.rows) == 3, "what it is called already is no correction"
    inspector.correct.undo.click()
    assert inspector.objects.list.rows[0][1] == "object 1"
    inspector.identities.other.value = 1
    inspector.identities.swap.click()
    assert "object 1 is both" in words() and "vm-error" in words()
    assert not inspector.tables.frames.rows, "a table that is folded away costs nothing"
    inspector.tables.frames.unfolded = True
    assert len(inspector.tables.frames.rows) == FRAMES


def test_examples_of_the_docstrings():
    assert doctest.testmod(identities).failed == 0
