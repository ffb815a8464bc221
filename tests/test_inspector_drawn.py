"""Corrections that are drawn: boxes, masks, points put elsewhere; by a tracker that takes no time, and by SAM 2."""

from __future__ import annotations

import json

import numpy as np
import pytest
from inspector_corrected import InstantTracker, changed, everything, same
from inspector_results import made_result

from videomolmo.errors import BadInput
from videomolmo.inspector.corrections import Corrections
from videomolmo.inspector.edit_history import LOG
from videomolmo.inspector.exports import training_row
from videomolmo.inspector.inspection import Inspection
from videomolmo.masks.sam2 import MaskTracker, load_nano
from videomolmo.metrics.boxes import box_fit, box_of
from videomolmo.synth.clips import generate_clip
from videomolmo.weights.hub import nano_masks


@pytest.fixture
def folder(tmp_path):
    return made_result(absent=((5, 2),)).save(tmp_path / "out", overlay=False)


@pytest.fixture
def opened(folder):
    inspection = Inspection(folder, video=made_result()._video)
    return inspection, Corrections(inspection, InstantTracker())


def blob(*rows_columns: slice) -> np.ndarray:
    mask = np.zeros((40, 51), bool)
    mask[rows_columns] = True
    return mask


def test_a_box_begins_the_object_anew_and_points_refine_it(opened, folder):
    inspection, corrections = opened
    before = everything(inspection)
    change = corrections.add_box(7, (30, 20, 20, 10), 1)  # any two opposite corners
    assert change.record["clicks"] == [(20, 10, 2), (30, 20, 3)] and change.record["box"] == [20, 10, 30, 20]
    assert changed(before, everything(inspection)) <= {(t, 1) for t in range(5, 10)}
    assert inspection.mask("fused", 7)[0, 12:18, 22:28].all() and inspection.points(7) == []
    assert [(one.x, one.y, one.index) for one in inspection.corners(7)] == [(20, 10, 0), (30, 20, 1)]
    corrections.add_point(7, 21, 19, 1, positive=False)
    assert [(one.positive, one.index) for one in inspection.points(7)] == [(False, 2)]
    with pytest.raises(BadInput, match=r"box is 0×3 pixels in the frame; drag a larger one"):
        corrections.add_box(7, (90, 3, 60, 6), 1)  # beyond the right edge
    corrections.remove_point(7, 1, 1)  # half a box is none, and a point off it alone names nothing
    assert inspection.clicks(1, 7) == () and 7 not in inspection.key_frames
    records = [json.loads(line)["action"] for line in (folder / LOG).read_text().splitlines()]
    assert records == ["add_box", "add_point", "remove_point"]


def test_a_point_and_a_corner_of_a_box_are_put_elsewhere(opened):
    inspection, corrections = opened
    [point, _] = inspection.points(0)
    record = corrections.move_point(0, 1, point.index, 9.004, 8).record
    assert record["from"] == [point.x, point.y] and record["clicks"] == [(9.0, 8, 1)]
    assert [(one.x, one.corrected) for one in inspection.points(0) if one.object == 1] == [(9.0, True)]
    corrections.add_box(7, (20, 10, 30, 20), 1)
    assert corrections.move_point(7, 1, 0, 40, 30).record["clicks"] == [(30, 20, 2), (40, 30, 3)]  # past the other
    for index, place, words in ((0, (60, 3), "outside the frame"), (2, (3, 3), "there is no point 2"),
                                (0, (40, 30), "drag a larger one")):  # fmt: skip
        with pytest.raises(BadInput, match=words):
            corrections.move_point(7, 1, index, *place)


def test_a_drawn_mask_is_the_mask_there_and_masks_go_on_from_it(opened, folder):
    inspection, corrections = opened
    states = [everything(inspection)]
    drawn = blob(slice(3, 9), slice(30, 44))
    change = corrections.edit_mask(7, drawn, 1)
    states.append(everything(inspection))
    assert change.record["area"] == 84 and change.record["clicks"] == [] and inspection.corrections_on(7)
    assert np.array_equal(inspection.mask("fused", 7)[0], drawn) and inspection.points(7) == []
    assert np.array_equal(inspection.mask("forward", 8)[0], np.roll(drawn, 1, axis=1))
    assert np.array_equal(inspection.mask("backward", 6)[0], np.roll(drawn, -1, axis=1))
    assert changed(*states) <= {(t, 1) for t in range(6, 10)} and inspection.decisions()[7, 0] == "key"
    corrections.edit_mask(7, np.zeros((40, 51), bool), 1)
    states.append(everything(inspection))
    assert not inspection.mask("fused", 7)[0].any() and inspection.decisions()[7, 0] == "none"
    assert not inspection.mask("forward", 8)[0].any() and inspection.mask("backward", 8)[0].any()
    new = corrections.edit_mask(3, blob(slice(1, 4), slice(1, 4)))
    states.append(everything(inspection))
    assert new.object == 3 == inspection.objects
    corrections.tracker = None  # no model from here on
    for state in states[-2::-1]:
        corrections.undo()
        assert same(everything(inspection), state)
    for state in states[1:]:
        corrections.redo()
        assert same(everything(inspection), state)
    assert same(everything(Inspection(folder)), states[-1])


def test_what_cannot_be_drawn_is_refused_before_anything_happens(opened, folder):
    _, corrections = opened
    for mask, words in ((np.zeros((4, 4), bool), r"expected bool \(40, 51\)"), (np.zeros((40, 51)), "expected bool"),
                        (np.zeros((40, 51), bool), "begins with a mask that is not empty")):  # fmt: skip
        with pytest.raises(BadInput, match=words):
            corrections.edit_mask(3, mask)
    corrections.tracker.prompts = ()
    for act, kind in ((lambda: corrections.add_box(3, (1, 1, 9, 9), 1), "boxes"),
                      (lambda: corrections.edit_mask(3, blob(slice(0, 9), slice(0, 9)), 1), "masks")):  # fmt: skip
        with pytest.raises(BadInput, match=f"begins with points only, not with {kind}"):
            act()
    assert not (folder / LOG).exists()


@pytest.mark.parametrize("change", [
    {"mask": "06"}, {"mask": "~~~"}, {"clicks": [[1, 1, 2]]}, {"clicks": [[9, 9, 2], [1, 1, 3]]},
    {"clicks": [[5, 5, 1], [1, 1, 2], [9, 9, 3]]}, {"clicks": [[1, 1, 4]]},
])  # fmt: skip
def test_a_record_that_fits_nothing_is_told_and_left_out(opened, folder, change):
    _, corrections = opened
    record = corrections.edit_mask(7, blob(slice(3, 9), slice(30, 44)), 1).record
    with open(folder / LOG, "a") as file:
        file.write(json.dumps(record | {"frame": 8} | change) + "\n")
    again = Inspection(folder)
    assert "line 2" in " ".join(again.missing()) and again.corrections_on(8) == {} and again.corrections_on(7)


def test_rows_for_training_have_a_point_where_a_box_or_a_mask_was_drawn(opened):
    inspection, corrections = opened
    corrections.edit_mask(7, blob(slice(10, 19), slice(20, 29)), 1)
    corrections.add_box(3, (20, 10, 30, 20), 1)
    row = training_row(inspection, "clip")
    assert row["points"]["7"][0] == {"x": round(100 * 24.5 / 51, 4), "y": round(100 * 14.5 / 40, 4)}
    assert all(one.keys() == {"x", "y"} for points in row["points"].values() for one in points) and "3" in row["points"]


@pytest.fixture(scope="module")
def shapes():
    return generate_clip(10_000_002, frames=6)


@pytest.fixture(scope="module")
def tracker() -> MaskTracker:
    if not (nano_masks() / "model.safetensors").is_file():
        pytest.skip(f"{nano_masks()}/model.safetensors is not there yet: train it with `videomolmo train-nano`")
    return MaskTracker(load_nano(nano_masks()))


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return np.count_nonzero(a & b) / max(1, np.count_nonzero(a | b))


def test_sam2_goes_on_from_a_mask_and_points_refine_it(tracker, shapes):
    truth, features = shapes.masks[:, 0], [tracker.encode(frame) for frame in shapes.frames]
    drawn = truth[0].copy()
    drawn[: drawn.shape[0] // 2] &= np.random.default_rng(0).random(drawn[: drawn.shape[0] // 2].shape) > 0.1
    left, top, width, height = box_of(truth[0])
    middle = left + width / 2, top + height / 2
    none, points = np.zeros((0, 2), np.float32), np.array([middle], np.float32)
    labels = [np.zeros(0, np.int32), np.ones(1, np.int32), np.ones(1, np.int32)]
    track = tracker.start(0, features[0], [none, points, points], labels, frames=6, masks=[drawn, drawn, None])
    assert np.array_equal(track.first_masks[0], drawn)  # as it was drawn, hole by hole
    assert iou(track.first_masks[1], truth[0]) > 0.7
    alone = tracker.start(0, features[0], [points], [labels[1]], frames=6)
    assert np.array_equal(alone.first_masks[0], track.first_masks[2])  # a mask beside it changes nothing
    for at in range(1, 6):
        masks = track.step(at, features[at])
        assert iou(masks[0], truth[at]) > 0.8
        assert np.array_equal(alone.step(at, features[at])[0], masks[2])


def test_a_box_around_an_object_gives_a_mask_that_has_the_box(tracker, shapes):
    """Nano SAM 2 has learnt clicks only: a box is told as a click in its middle where that fits rather."""
    grounded = made_result(frames=6, height=shapes.frames.shape[1], width=shapes.frames.shape[2])
    inspection = Inspection(grounded, video=shapes.frames)
    corrections = Corrections(inspection, tracker)
    left, top, width, height = wanted = box_of(shapes.masks[2, 0])
    corrections.add_box(2, (left, top, left + width, top + height), 1)
    assert box_fit(wanted, inspection.mask("fused", 2)[0]) > 0.7
    assert iou(inspection.mask("forward", 3)[0], shapes.masks[3, 0]) > 0.6


def test_a_mask_drawn_for_an_object_of_two_tracks_is_of_both_and_a_box_is_of_the_nearer(opened, folder):
    inspection, corrections = opened
    corrections.merge(1, 2)
    states, drawn = [everything(inspection)], blob(slice(3, 9), slice(30, 44))
    assert corrections.edit_mask(7, drawn, 1).record["cleared"] == [2]
    states.append(everything(inspection))
    assert np.array_equal(inspection.mask("fused", 7)[0], drawn)
    again = Inspection(folder)
    assert same(everything(again), states[-1])
    corrections.undo()
    assert same(everything(inspection), states[0])
    corrections.add_point(7, 20, 15, 1)
    corrections.revert(2 + 1 + 1)  # after the merge, the mask and its undoing
    assert same(everything(inspection), states[0])
    record = corrections.add_box(0, (1, 12, 12, 24), 1).record
    assert record["object"] == 2 and [one.object for one in inspection.corners(0)] == [1, 1]
    assert corrections.move_point(0, 1, inspection.corners(0)[1].index, 14, 25).record["clicks"][1] == (14, 25, 3)
