"""Truth in folders of pictures, damaged results, and layers that show nothing: what is told of them at opening."""

from __future__ import annotations

import json

import numpy as np
import pytest
from inspector_corrected import InstantTracker
from inspector_results import made_result, true_masks
from PIL import Image

from videomolmo.errors import BadInput
from videomolmo.fusion import fuse
from videomolmo.inspector.corrections import Corrections
from videomolmo.inspector.ground_truth import open_truth
from videomolmo.inspector.inspection import Inspection
from videomolmo.inspector.static_page import static_picture
from videomolmo.results import GroundingResult, KeyAnswer

SIZE = (8, 10)


def pictures(folder, *frames: np.ndarray):
    folder.mkdir()
    for t, labels in enumerate(frames):
        Image.fromarray(labels).save(folder / f"{t:05d}.png")
    return folder


def labels(**rows: int) -> np.ndarray:
    """`labels(row2=3)`: a picture of zeros whose row 2 is 3."""
    picture = np.zeros(SIZE, np.uint8)
    for name, value in rows.items():
        picture[int(name[3:])] = value
    return picture


def test_an_object_that_comes_on_one_picture_only_is_counted(tmp_path):
    frames = [labels(row0=1)] * 70
    frames[33] = labels(row0=1, row4=2)  # an evenly spaced sample of them would pass it by
    truth = open_truth(pictures(tmp_path / "truth", *frames), 70, SIZE)
    assert truth.objects == 2 and truth.masks(33)[1].sum() == SIZE[1] and truth.masks(0).shape == (2, *SIZE)


def test_void_is_no_object_where_the_folder_has_objects(tmp_path):
    truth = open_truth(pictures(tmp_path / "truth", labels(row7=255), labels(row0=1, row7=255)), 2, SIZE)
    assert truth.objects == 1 and not truth.masks(0).any() and truth.masks(1).sum() == SIZE[1]


@pytest.mark.parametrize("bits", [False, True])
def test_black_and_white_pictures_show_one_object(tmp_path, bits):
    frames = [labels(row2=255), labels(), labels(row3=255)]
    frames = [frame > 0 for frame in frames] if bits else frames
    truth = open_truth(pictures(tmp_path / "truth", *frames), 3, SIZE)
    assert truth.objects == 1 and [int(truth.masks(t).sum()) for t in range(3)] == [10, 0, 10]


def test_a_picture_that_cannot_be_read_is_known_at_opening(tmp_path):
    folder = pictures(tmp_path / "truth", *[labels(row0=1)] * 70)
    (folder / "00033.png").write_bytes(b"no picture")
    with pytest.raises(BadInput, match=r"00033\.png: the picture cannot be read"):
        open_truth(folder, 70, SIZE)


# damaged results


def look_everywhere(inspection: Inspection) -> str:
    for t in range(inspection.frames):
        inspection.mask("fused", t), inspection.points(t), inspection.boxes(t), inspection.trail(t)
    inspection.agreement, inspection.decisions(), inspection.layers(), inspection.rules(), inspection.outcomes()
    return " ".join(inspection.missing())


def change_facts(folder, **changes):
    facts = json.loads((folder / "run.json").read_text()) | changes
    (folder / "run.json").write_text(json.dumps({name: value for name, value in facts.items() if value is not None}))
    return folder


@pytest.fixture
def folder(tmp_path):
    return made_result(absent=((5, 2),)).save(tmp_path / "out", overlay=False)


def test_what_run_json_lost_is_read_from_the_masks(folder):
    inspection = Inspection(change_facts(folder, objects=None, height=None, width=None))
    assert "run.json does not tell objects, height, width" in look_everywhere(inspection).lower()
    assert (inspection.objects, inspection.height, inspection.width) == (2, 40, 51)
    assert np.array_equal(inspection.mask("fused", 7), made_result(absent=((5, 2),)).masks[7])


def test_masks_of_more_objects_than_the_result_has_are_told(folder):
    said = look_everywhere(Inspection(change_facts(folder, objects=1)))
    assert "they hold object 2, the result has 1" in said


SHORT = {"inside": [True]}  # of two points


SENSELESS = [
    SHORT, {"frame": 400}, {"outcome": "guessed"}, {"points_px": [[1.0], [2.0]]}, {"text": None}, {"text": 7},
    {"problem": 5}, {"points_px": [[None, None], [1, 2]]}, {"points_px": [["a", "b"], [1, 2]]},
    {"points_px": [[float("nan"), 1.0], [1, 2]]},
]  # fmt: skip


@pytest.mark.parametrize("change", SENSELESS)
@pytest.mark.parametrize("loaded", [False, True])
def test_answers_that_contradict_themselves_are_left_out(folder, change, loaded):
    rows = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    rows[2] |= change
    source = GroundingResult.load(folder) if loaded else folder
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(BadInput, match=r"answers\.jsonl, line 3"):
        GroundingResult.load(folder)
    if loaded:  # whoever made it in memory may have said anything
        source.answers[2] = KeyAnswer(**rows[2])
    inspection = Inspection(source)
    assert f"answer on frame {change.get('frame', 10)} contradicts itself" in look_everywhere(inspection)
    assert sorted(inspection.outcomes()) == [0, 5]
    if loaded:
        assert len(source.answers) == 3  # what was given stays as it is


@pytest.mark.parametrize("settings", [{"fusion": "majority", "tau": 0.7}, {"fusion": ["iou"], "tau": 0.7}])
def test_an_unknown_rule_is_told_and_its_masks_are_shown_as_saved(settings, tmp_path):
    result = made_result(absent=((5, 2),), rule="left")
    folder = change_facts(result.save(tmp_path / "out", overlay=False), model=settings)
    inspection = Inspection(folder)
    assert f"the run's fusion is {settings['fusion']!r}, expected one of" in look_everywhere(inspection).lower()
    assert inspection.rule == "iou" and static_picture(inspection)
    shown = np.stack([inspection.mask("fused", t) for t in range(12)])
    assert np.array_equal(shown, np.asarray(result.masks))
    inspection.apply_fusion_rule("iou")  # the name of it was only a guess: it is fused anew
    agreed = fuse(result.forward[2], result.backward[2], "iou", 0.7)
    assert np.array_equal(inspection.mask("fused", 2), agreed) and not np.array_equal(agreed, result.masks[2])


@pytest.mark.parametrize("model", [{"fusion": "iou", "tau": "high"}, {"fusion": "iou", "tau": 7}, [1, 2]])
def test_settings_that_make_no_sense_open(folder, model):
    inspection = Inspection(change_facts(folder, model=model))
    look_everywhere(inspection)
    assert (inspection.rule, inspection.tau) == ("iou", 0.7)


# layers that show nothing


def test_layers_that_show_nothing_are_looked_for_once(monkeypatch):
    """Where a layer is missing all windows must be looked at: once, and after a correction those it touches."""
    result = made_result(frames=60, objects=1, width=90)
    for path in result.spool.files():
        data = dict(np.load(path))
        np.savez(path, **{name: values for name, values in data.items() if "backward" not in name})
    inspection = Inspection(result)
    corrections = Corrections(inspection, InstantTracker())
    assert "no backward masks were stored" in inspection.layers().values()
    inspection.decisions()
    asked, segments = [], type(inspection._store).segments

    def counted(store, window):
        asked.append(window)
        return segments(store, window)

    monkeypatch.setattr(type(inspection._store), "segments", counted)
    inspection.layers(), inspection.missing(), inspection.layers()
    assert asked == []
    corrections.add_point(7, 20, 15, 1)
    inspection.layers(), inspection.missing(), inspection.layers()
    assert asked and set(asked) <= {0, 1, 2}
    assert inspection.layers()["backward"] is None  # the correction came backwards too
    corrections.undo()
    assert inspection.layers()["backward"] == "no backward masks were stored"


def test_an_answer_of_the_first_line_only(tmp_path):
    """Blank lines and line separators of Unicode in a text are no damage."""
    result = made_result()
    result.answers[0] = KeyAnswer(**vars(result.answers[0]) | {"text": "one\u2028two"})
    folder = change_facts(result.save(tmp_path / "out", overlay=False), sentence=None)
    with open(folder / "answers.jsonl", "a") as file:
        file.write("\n")
    inspection = Inspection(folder, truth=true_masks(12, 2, 40, 51))
    assert inspection.answer_near(0).text == "one\u2028two" and "cannot be read" not in " ".join(inspection.missing())


def test_many_objects_are_drawn_but_listed_in_part(tmp_path):
    """A row and a line for each of ten thousand would take minutes."""
    import videomolmo

    result = made_result(objects=3)
    result.objects = 2000
    with videomolmo.inspect(result, folder=tmp_path) as inspector:
        assert len(inspector.objects.list.rows) == 200 and inspector.inspection.objects == 2000
        assert any("2000 objects" in line for line in inspector.inspection.missing())
        inspector.objects.list.hidden = [1]
        shown = inspector.state.look.objects
        assert 1 not in shown and shown[0] == 2 and shown[-1] == 2000
