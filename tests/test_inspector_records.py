"""Corrections on disk: which result they are of, what becomes of torn lines, of a second inspector, of a full disk."""

from __future__ import annotations

import json

import numpy as np
import pytest
from inspector_corrected import InstantTracker, everything, same
from inspector_results import made_result

from videomolmo.datasets import read_dataset
from videomolmo.errors import BadInput
from videomolmo.inspector.corrections import Cancelled, Corrections
from videomolmo.inspector.edit_history import LOG
from videomolmo.inspector.exports import training_row
from videomolmo.inspector.inspection import Inspection
from videomolmo.io.video import open_video
from videomolmo.results import GroundingResult, KeyAnswer

VIDEO = made_result()._video
VIDEO_ARRAY = np.stack(list(VIDEO))


@pytest.fixture
def folder(tmp_path):
    return made_result(absent=((5, 2),)).save(tmp_path / "out", overlay=False)


def open_both(folder) -> tuple[Inspection, Corrections]:
    inspection = Inspection(folder, video=VIDEO)
    return inspection, Corrections(inspection, InstantTracker())


def said(inspection: Inspection) -> str:
    return " ".join(inspection.missing())


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def test_corrections_of_another_result_are_not_shown(folder, tmp_path):
    open_both(folder)[1].add_point(7, 20, 15, 1)
    other = made_result(absent=((5, 2),), tau=0.5).save(tmp_path / "other", overlay=False)
    (other / LOG).write_bytes((folder / LOG).read_bytes())
    (folder / "corrections").rename(other / "corrections")
    inspection, corrections = open_both(other)
    assert inspection.key_frames == [0, 5, 10] and not corrections.can_undo
    assert "corrections of another result (1) are not shown" in said(inspection)
    corrections.add_point(7, 20, 15, 1)
    assert len({row["result"] for row in lines(other)}) == 2
    assert len(list((other / "corrections").iterdir())) == 4  # both directions: the same clicks, masks of their own
    assert Inspection(other).key_frames == [0, 5, 7, 10]


def test_masks_made_for_another_result_are_not_taken(folder, tmp_path):
    open_both(folder)[1].add_point(7, 20, 15, 1)
    other = made_result(absent=((5, 2),), tau=0.5).save(tmp_path / "other", overlay=False)
    (folder / "corrections").rename(other / "corrections")
    assert open_both(other)[1].add_point(7, 20, 15, 1).propagated == 4


def test_a_result_keeps_its_corrections_when_its_folder_moves(folder, tmp_path):
    before, corrections = open_both(folder)
    corrections.add_point(7, 20, 15, 1)
    masks = everything(before)
    moved = folder.rename(tmp_path / "moved")
    facts = json.loads((moved / "run.json").read_text())
    (moved / "run.json").write_text(json.dumps(facts | {"video": "/elsewhere.mp4"}))
    assert same(everything(Inspection(moved)), masks) and Inspection(moved).key_frames == [0, 5, 7, 10]


def test_older_records_that_name_no_result_are_taken(folder):
    """As they were written before: no result in the record, files of masks named by the clicks alone."""
    before, corrections = open_both(folder)
    corrections.add_point(7, 20, 15, 1)
    (folder / LOG).write_text("".join(json.dumps(row | {"result": None}) + "\n" for row in lines(folder)))
    text = (folder / LOG).read_text().replace(', "result": null', "")
    (folder / LOG).write_text(text)
    for path in (folder / "corrections").iterdir():
        with np.load(path) as data:
            direction, object_id, frame, clicks = json.loads(str(data["made_from"]))
            from videomolmo.inspector.repropagation import PropagationKey
        path.rename(path.with_name(PropagationKey(direction, object_id, frame, clicks).name(None)))
    assert same(everything(Inspection(folder)), everything(before)) and Inspection(folder).missing()[1:] == []


def test_a_loaded_result_shows_and_writes_corrections(folder):
    """Opened from a `GroundingResult` that knows the folder it lies in."""
    loaded = GroundingResult.load(folder)
    Corrections(Inspection(loaded, video=VIDEO), InstantTracker()).add_point(7, 20, 15, 1)
    assert len(lines(folder)) == 1
    again = GroundingResult.load(folder)
    assert Inspection(again).key_frames == [0, 5, 7, 10]


@pytest.mark.parametrize(
    "bad", ['{"action": "add_po', '{"action": "redo"}', "\xff", '{"action": "drop_answer", "frame": 99}']
)
def test_what_follows_a_bad_line_is_not_lost(folder, bad):
    inspection, corrections = open_both(folder)
    corrections.add_point(7, 20, 15, 1)
    with open(folder / LOG, "ab") as file:
        file.write(bad.encode("latin-1"))
    inspection, corrections = open_both(folder)
    assert "line 2" in said(inspection)
    corrections.drop_answer(0)
    corrections.add_point(3, 30, 30)
    again = Inspection(folder)
    assert again.key_frames == inspection.key_frames == [3, 5, 7, 10] and same(
        everything(again), everything(inspection)
    )
    assert "line 2" in said(again) and "line 3" not in said(again)


def test_two_inspectors_lose_no_record(folder):
    first, of_first = open_both(folder)
    second, of_second = open_both(folder)
    of_first.add_point(7, 20, 15, 1)
    with pytest.raises(BadInput, match="changed elsewhere"):
        of_second.drop_answer(5)
    assert second.key_frames == first.key_frames == [0, 5, 7, 10] and same(everything(second), everything(first))
    of_second.drop_answer(5)
    with pytest.raises(BadInput, match="changed elsewhere"):
        of_first.undo()
    of_first.undo()
    assert [row["action"] for row in lines(folder)] == ["add_point", "drop_answer", "undo"]
    assert [row["number"] for row in lines(folder)] == [1, 2, 3]
    assert same(everything(Inspection(folder)), everything(first))


def test_another_inspector_is_noticed_after_the_propagation_too(folder):
    second = open_both(folder)[1]
    inspection, corrections = open_both(folder)

    def meanwhile(done: int, total: int) -> None:
        if done == total:
            second.drop_answer(10)

    with pytest.raises(BadInput, match="changed elsewhere"):
        corrections.add_point(7, 20, 15, 1, progress=meanwhile)
    assert [row["action"] for row in lines(folder)] == ["drop_answer"] and inspection.key_frames == [0, 5]


def test_a_plain_view_is_shown_the_corrections_before_it_corrects(folder):
    open_both(folder)[1].add_point(7, 20, 15, 1)
    plain = Inspection(folder, video=VIDEO, corrected=False)
    assert plain.key_frames == [0, 5, 10]
    with pytest.raises(BadInput, match="shown as they are now"):
        Corrections(plain, InstantTracker()).undo()
    assert plain.key_frames == [0, 5, 7, 10]


def test_a_closed_folder_is_known_before_any_work(folder, monkeypatch):
    inspection, corrections = open_both(folder)
    monkeypatch.setattr("videomolmo.inspector.edit_history.os.access", lambda *_: False)
    seen = []

    def look(done: int, total: int) -> None:
        seen.append(said(inspection))

    corrections.add_point(7, 20, 15, 1, progress=look)
    assert "kept in memory only" in seen[0] and "cannot be written" in seen[0]
    assert inspection.key_frames == [0, 5, 7, 10] and not (folder / LOG).exists()
    assert not (folder / "corrections").exists()
    corrections.undo()
    corrections.redo()
    assert inspection.key_frames == [0, 5, 7, 10] and len(corrections.records) == 3


@pytest.mark.parametrize("name", [LOG, "corrections"])
def test_what_cannot_be_written_stays_in_memory(folder, name):
    inspection, corrections = open_both(folder)
    (folder / "corrections").write_text("in the way") if name == "corrections" else (folder / LOG).mkdir()
    inspection.log._size = (folder / LOG).stat().st_size if name == LOG else 0
    corrections.add_point(7, 20, 15, 1)
    assert inspection.key_frames == [0, 5, 7, 10] and "kept in memory only" in said(inspection)
    corrections.undo()
    assert inspection.key_frames == [0, 5, 10] and not (folder / LOG).is_file()


def test_a_cancelled_correction_leaves_no_file(folder):
    inspection, corrections = open_both(folder)
    with pytest.raises(Cancelled):
        corrections.add_point(7, 20, 15, 1, cancel=lambda: True)
    assert not (folder / LOG).exists() and not (folder / "corrections").exists() and inspection.log.in_step()


def answered_badly() -> GroundingResult:
    """Malformed on frame 5; on frame 10 a point that lies outside the frame."""
    result = made_result()
    result.answers[1] = KeyAnswer(5, 0.5, "<point x=", "malformed", [], [], "cut short")
    result.answers[2] = KeyAnswer(10, 1.0, "…", "found", [(99.0, 2.0)], [False])
    for path in result.spool.files():  # nothing is followed from either
        data = dict(np.load(path))
        gone = [name for name in data if name not in ("ids", "shape") and (path.stem != "00000" or "backward" in name)]
        np.savez(path, **data | {name: np.zeros_like(data[name]) for name in gone})
    return result


def test_answers_that_say_nothing_are_no_training_labels():
    inspection = Inspection(answered_badly(), video=VIDEO)
    corrections = Corrections(inspection, InstantTracker())
    corrections.add_point(2, 20, 15, 1)
    assert training_row(inspection, "clip")["frame_idxs"] == [0, 2]
    corrections.add_point(5, 20, 15, 1)
    row = training_row(inspection, "clip")
    assert row["frame_idxs"] == [0, 2, 5] and {"x": -1, "y": -1} not in row["points"]["5"]
    corrections.remove_point(5, 1, 0)
    assert training_row(inspection, "clip")["frame_idxs"] == [0, 2]


def test_an_answer_of_absence_stays_one():
    inspection = Inspection(made_result(absent=((5, 1), (5, 2))), video=VIDEO)
    Corrections(inspection, InstantTracker()).add_point(2, 20, 15, 1)
    row = training_row(inspection, "clip")
    assert row["frame_idxs"] == [0, 2, 5, 10] and row["points"]["5"] == [{"x": -1, "y": -1}]


def test_without_any_label_there_is_no_row(tmp_path):
    inspection = Inspection(answered_badly(), video=VIDEO)
    corrections = Corrections(inspection, InstantTracker())
    corrections.drop_answer(0)
    with pytest.raises(BadInput, match="can be learned from"):
        corrections.export_training(tmp_path / "rows.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_training_rows_are_written_more_than_once(folder, tmp_path):
    """As the panel does it: files with numbers, each with frames of its own."""
    corrections = open_both(folder)[1]
    corrections.add_point(7, 20, 15, 1)
    for number in (1, 2):
        path = tmp_path / "rows" / f"training_records_{number}.jsonl"
        path.parent.mkdir(exist_ok=True)
        corrections.export_training(path)
        corrections.add_point(3, 30, 30)
    for name, count in (("training_records_1", 4), ("training_records_2", 5)):
        [record] = read_dataset("videomolmo", tmp_path / "rows", name)
        with record.frames() as frames:
            assert len(frames) == count
    with pytest.raises(BadInput, match="exists"):
        corrections.export_training(tmp_path / "rows" / "training_records_2.jsonl")


def test_frames_that_the_video_lacks_are_nothing_to_learn_from(folder, tmp_path):
    short = VIDEO_ARRAY[:7]
    inspection = Inspection(folder, video=open_video(short))
    corrections = Corrections(inspection, InstantTracker())
    corrections.add_point(3, 20, 15, 1)
    with pytest.raises(BadInput, match=r"key frame 10 is not in the video .*expected 0 to 6"):
        corrections.export_training(tmp_path / "rows.jsonl")
    assert not (tmp_path / "rows.jsonl").exists()


class Grounder:
    """In place of a `VideoGrounder`: keeps what it was called with."""

    def __call__(self, video, sentence, **settings):
        self.video, self.settings = video, settings
        return made_result()


def test_a_new_sentence_is_asked_about_the_same_frames(folder, tmp_path):
    from PIL import Image

    from videomolmo.inspector.corrections import ask

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for t, frame in enumerate(VIDEO):
        Image.fromarray(frame).save(pictures / f"{t:05d}.png")
        Image.fromarray(frame).save(pictures / f"{t + 12:05d}.png")  # the run read twelve of twenty-four frames
    facts = json.loads((folder / "run.json").read_text())
    facts["model"]["reader"] = "decord"
    (folder / "run.json").write_text(json.dumps(facts | {"video": str(tmp_path / "gone.mp4")}))
    grounder = Grounder()
    ask(Inspection(folder, video=str(pictures)), "the others", grounder, tau=0.2)
    assert grounder.video == str(pictures)
    assert grounder.settings == {
        "every": 5, "fusion": "iou", "tau": 0.2, "context": 4, "reader": "decord", "max_frames": 12,
    }  # fmt: skip
    loaded = GroundingResult.load(folder)
    ask(Inspection(loaded, video=str(pictures)), "the others", grounder)
    assert grounder.video == str(pictures) and grounder.settings["max_frames"] == 12
    frames = open_video(np.stack(list(VIDEO)))
    ask(Inspection(folder, video=frames), "the others", grounder)
    assert grounder.video is frames


def test_a_result_in_memory_is_saved_with_its_corrections(tmp_path, folder):
    import videomolmo

    inspector = videomolmo.inspect(made_result(absent=((5, 2),)), folder=tmp_path / "exports")
    inspection = inspector.inspection
    corrections = Corrections(inspection, InstantTracker())
    corrections.add_point(7, 20, 15, 1)
    assert inspector.questions.keep.layout.display == ""
    inspector.questions.keep.click()
    path = tmp_path / "exports" / "result_1"
    assert "saved" in inspector.state.words.value and inspector.questions.keep.layout.display == "none"
    corrections.add_point(3, 30, 30)
    assert len(lines(path)) == 2 and inspection.folder == path
    again = Inspection(path)
    assert same(everything(again), everything(inspection)) and again.key_frames == [0, 3, 5, 7, 10]
    assert videomolmo.inspect(folder).questions.keep.layout.display == "none"
