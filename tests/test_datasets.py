"""Each data set's layout in miniature, read back: expressions, objects, frames, masks, boxes and points."""

from __future__ import annotations

import doctest
import json
from importlib import import_module
from pathlib import Path

import miniature_datasets as mini
import numpy as np
import pytest
from miniature_datasets import HEIGHT, WIDTH, box_mask

from videomolmo.datasets import DATASETS, Record, read_dataset
from videomolmo.datasets.files import MissingFile, Unreadable
from videomolmo.errors import BadInput


def only(name: str, root, split: str | None = None, **options) -> Record:
    """The only record of a split."""
    records = read_dataset(name, root, split, **options)
    assert len(records) == 1
    return records[0]


def said(record: Record) -> list[tuple]:
    return [(sentence.id, sentence.objects, sentence.kind) for sentence in record.expressions]


def same(mask: np.ndarray | None, *parts: np.ndarray) -> bool:
    return mask is not None and mask.dtype == bool and np.array_equal(mask, np.logical_or.reduce(parts))


def brightness(record: Record) -> list[int]:
    """Of each frame, in steps of the miniatures."""
    with record.frames() as frames:
        assert (frames.height, frames.width) == (HEIGHT, WIDTH) == record.size()
        return [round((int(frame.mean()) - 10) / 20) for frame in frames]


@pytest.mark.parametrize("module", ["annotations", "files", "molmo2", "record", "registry", "training_rows"])
def test_examples_of_the_docstrings(module):
    module = import_module(f"videomolmo.datasets.{module}")
    globs = {**vars(module), "np": np}
    assert doctest.testmod(module, globs=globs).failed == 0


def test_ref_youtube_vos(tmp_path):
    root = mini.ref_youtube_vos(tmp_path)
    record = only("Ref-YouTube-VOS", root, "train")
    assert said(record) == [("0", ("1",), "referring"), ("1", ("1",), "referring"), ("2", ("2",), "referring")]
    assert dict(record.objects) == {"1": "dog", "2": "ball"} and record.fps == 6
    assert record.frame_names == ("00000", "00005", "00010") and brightness(record) == [0, 1, 2]
    assert same(record.mask_of("1", 2), box_mask(4)) and same(record.truth(record.expressions[2], 1), box_mask(20, 14))
    assert record.masks(1).shape == (2, HEIGHT, WIDTH) and np.array_equal(record.labels(1), mini.two_objects(1))
    valid = only("ref_youtube_vos", root)  # the video of 'test' is left out
    assert (valid.split, valid.clip, dict(valid.objects)) == ("valid", "0a49f5265b", {})
    assert said(valid)[0] == ("0", None, "referring") and valid.masks(0) is None
    assert valid.truth(valid.expressions[0], 0) is None
    (root / "meta_expressions" / "test" / "meta_expressions.json").unlink()
    records = read_dataset("ref_youtube_vos", root, "valid")
    assert len(records) == 2 and "may be among" in records.notes[0]


def test_ref_davis17(tmp_path):
    record = only("ref_davis17", mini.ref_davis17(tmp_path))
    assert record.clip == "bike-packing" and [sentence.id for sentence in record.expressions] == list("01234567")
    assert [sentence.annotator for sentence in record.expressions] == [0, 1, 2, 3] * 2
    assert [sentence.objects for sentence in record.expressions] == [("1",)] * 4 + [("2",)] * 4
    assert record.expressions[0].text == "a man’s bike, annot1"
    assert record.expressions[2].text == "a man\xb4s bike, annot2"  # Latin-1
    assert record.expressions[4].text == 'a man, "annot1"'
    assert same(record.mask_of("2", 0), box_mask(20, 14)) and record.labels(0)[0, 0] == 255  # void is no object
    assert brightness(record) == [0, 1, 2]
    assert only("ref_davis17", tmp_path, "train").clip == "bear"


@pytest.mark.parametrize("odd", ["\x85", "\u2028", "\x0c"])
def test_ref_davis17_lines_end_where_lines_end(tmp_path, odd):
    root = mini.ref_davis17(tmp_path)
    path = root / "davis_text_annotations" / "Davis17_annot1.txt"
    path.write_text(path.read_text(encoding="utf-8").replace("’", odd), encoding="utf-8")
    assert only("ref_davis17", root).expressions[0].text == f"a man{odd}s bike, annot1"


def test_ref_davis17_converted(tmp_path):
    record = only("ref_davis17", mini.ref_davis17_converted(tmp_path))
    assert [(sentence.annotator, sentence.objects) for sentence in record.expressions][3:5] == [
        (3, ("1",)),
        (0, ("2",)),
    ]
    assert dict(record.objects) == {"1": "bicycle", "2": "bicycle"} and same(record.mask_of("1", 1), box_mask(3))


def test_mevis(tmp_path):
    root = mini.mevis(tmp_path)
    record = only("mevis", root)
    assert said(record) == [("0", ("7",), "referring"), ("1", ("7", "12"), "referring"), ("2", (), "referring")]
    assert list(record.objects) == ["7", "12"] and record.split == "valid_u"
    one, both, none = record.expressions
    assert same(record.truth(one, 0), box_mask(2)) and not record.truth(one, 1).any()  # null: an empty frame
    assert same(record.truth(both, 1), box_mask(20)) and not record.truth(none, 0).any()
    assert record.masks(2).sum(axis=(1, 2)).tolist() == [36, 0]
    hidden = only("mevis", root, "valid")
    assert said(hidden) == [("0", None, "referring")] and hidden.masks(0) is None


def test_revos(tmp_path):
    record = only("revos", mini.revos(tmp_path))
    assert said(record) == [("0", ("3",), "referring"), ("1", ("3",), "reasoning")]
    assert record.clip == "UVO/all/-fbscFfkh4M" and brightness(record) == [0, 1]
    assert same(record.mask_of("3", 1), box_mask(3)) and same(record.foreground(1), box_mask(3), box_mask(20))


def test_revos_where_nobody_is_meant_and_where_files_are_torn(tmp_path):
    root = mini.revos(tmp_path)
    meta = root / "meta_expressions_valid_.json"
    content = json.loads(meta.read_text())
    [entry] = content["videos"].values()
    entry["expressions"] = {"0": {"exp": "nobody", "obj_id": [], "anno_id": [], "type_id": 2}}
    meta.write_text(json.dumps(content))
    [record] = read_dataset("revos", root)
    assert record.expressions[0].kind == "type 2"
    assert not record.truth(record.expressions[0], 0).any() and record.foreground(0).any()
    (root / "mask_dict_foreground.json").write_text("{}")
    [record] = read_dataset("revos", root)
    with pytest.raises(BadInput, match="no foreground of"):
        record.foreground(0)


@pytest.mark.parametrize("as_list", [True, False])
def test_reason_vos(tmp_path, as_list):
    record = only("reason_vos", mini.reason_vos(tmp_path, as_list))
    assert said(record) == [("0", ("5",), "reasoning"), ("1", ("5",), "reasoning")]
    assert [sentence.more["is_sent"] for sentence in record.expressions] == [True, False]
    assert same(record.mask_of("5", 2), box_mask(4))
    assert record.mask_of("5", 1) is None and record.masks(1) is None  # no PNG: not scored


def test_reason_vos_where_every_object_counts_its_own_sentences(tmp_path):
    root = mini.reason_vos(tmp_path)
    meta = root / "meta_expressions.json"
    videos = json.loads(meta.read_text())
    more = {"obj_id": 7, "exp_id": 0, "exp_text": "the other one", "is_sent": False}
    videos["videos"]["ab12"]["expressions"].append(more)
    mini.write_json(meta, videos)
    record = only("reason_vos", root)
    assert [sentence.id for sentence in record.expressions] == ["5_0", "5_1", "7_0"]
    assert list(record.objects) == ["5", "7"] and record.expressions[2].objects == ("7",)


def test_lasot(tmp_path):
    root = mini.lasot(tmp_path)
    assert [record.clip for record in read_dataset("lasot", root, "all")] == ["airplane-2", "airplane-10"]
    assert only("lasot", root, "train").clip == "airplane-2"
    record = only("lasot", root)
    assert record.frame_names == ("00000001", "00000002", "00000003") and dict(record.objects) == {"1": "airplane"}
    assert record.expressions[0].text == "a grey airplane"
    assert record.box_of("1", 0).tolist() == [2, 4, 6, 6]  # the file counts pixels from 1
    assert record.box_of("1", 2) is None and record.mask_of("1", 0) is None
    (root / "testing_set.txt").unlink()
    with pytest.raises(MissingFile, match=r"testing_set\.txt"):
        read_dataset("lasot", root)


def test_groot(tmp_path):
    record = only("groot", mini.groot(tmp_path))
    assert [(sentence.text, sentence.objects, sentence.kind) for sentence in record.expressions] == [
        ("man in black", ("4",), "appearance"),
        ("walking", ("4", "9"), "action"),
        ("woman in red", ("9",), "appearance"),
    ]
    assert record.frame_names == ("1", "2") and brightness(record) == [0, 1]
    assert record.objects["4"] == "person" and record.split == "mot17_train"
    assert record.box_of("4", 1).tolist() == [3, 3, 5, 9] and record.box_of("9", 0) is None


def test_vicas(tmp_path):
    record = only("vicas", mini.vicas(tmp_path))
    assert said(record) == [("0", ("1",), "referring"), ("1", ("1", "2"), "referring")]
    # without .jpg: predictions are called FRAME.png, as those of every other set
    assert record.frame_names == ("00000", "00001", "00002") and brightness(record) == [0, 1, 2]
    assert record.more["human"] == [True, False, True]
    assert same(record.truth(record.expressions[1], 0), box_mask(2), box_mask(20))
    assert not record.mask_of("2", 1).any() and not record.masks(2).any()
    assert len(only("vicas", tmp_path, human_only=True).frame_names) == 2


def test_videomolmo_rows_in_every_known_shape(tmp_path):
    early, later, listed = read_dataset("videomolmo", mini.videomolmo(tmp_path))
    assert early.expressions[0].text == "a brown bear" and early.fps == 30
    assert early.points_of("1", 1).tolist() == [[WIDTH / 2, HEIGHT * 3 / 4]]
    assert later.frame_names == ("00000", "00002") and brightness(later) == [0, 2]
    assert later.points_of("1", 0).tolist() == [[8, 12], [24, 12]]
    assert later.points_of("1", 1).shape == (0, 2)  # -1: not in this frame
    assert [len(listed.points_of("1", frame)) for frame in (0, 1)] == [1, 0]
    assert read_dataset("videomolmo", tmp_path / "train.jsonl")[0].expressions[0].text == "a brown bear"


def test_vpos_and_its_layout(tmp_path):
    root = mini.vpos(tmp_path)
    record = only("vpos", root)
    assert record.split == "autonomous_driving" and record.points_of("1", 0).tolist() == [[8, 12]]
    assert same(record.mask_of("1", 0), box_mask(5)) and record.mask_of("1", 1) is None
    domain = root / "autonomous_driving"
    (domain / "clip_1").rename(domain / "frames_of_clip_1")
    mini.write_json(root / "layout.json", {"frames": "{domain}/frames_of_{video}"})
    assert brightness(only("vpos", root)) == [0, 1]
    mini.write_json(root / "layout.json", {"frame": "x"})
    with pytest.raises(BadInput, match="'frame' is no part of a layout"):
        read_dataset("vpos", root, "autonomous_driving")


def test_molmo2_video_point(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    records = read_dataset("molmo2_video_point", mini.molmo2_video_point(tmp_path))
    assert len(records) == 2
    record = records[1]
    assert record.expressions[0].count == 3 and record.expressions[0].kind == "question"
    assert record.frame_names == ("0.5", "2.0") and record.points_of("1", 1).tolist() == [[16, 12], [24, 18]]
    with record.frames() as frames:
        assert [round(int(frame.mean()) / 20) for frame in frames] == [2, 8]  # 4 frames a second


def test_molmo2_video_point_eval(tmp_path):
    record = only("molmo2_video_point_eval", mini.molmo2_video_point_eval(tmp_path))
    sentence = record.expressions[0]
    assert (sentence.text, sentence.count) == ('How many "dog" are there in the video?', 2)
    assert record.frame_names == ("0.5", "1.0") and record.points_of("2", 1).tolist() == [[22, 6]]
    assert same(record.mask_of("1", 1), box_mask(3)) and record.mask_of("2", 0) is None


def test_molmo2_video_count_eval(tmp_path):
    record = only("molmo2_video_count_eval", mini.molmo2_video_count_eval(tmp_path))
    sentence = record.expressions[0]
    assert (sentence.count, sentence.objects, record.more["category"]) == (5, None, "animal")
    with record.frames() as frames:
        assert len(frames) == 12


def test_molmo2_track(tmp_path):
    root = mini.molmo2_track(tmp_path)
    record = only("molmo2_track", root)
    assert said(record) == [("t0", ("0", "1"), "referring")] and record.more["times_s"] == [0, 1]
    assert record.points_of("1", 0).tolist() == [[22, 6]]
    assert len(record.points_of("0", 1)) == len(record.points_of("1", 1)) == 0  # hidden; absent
    with record.frames() as frames:
        assert [round(int(frame.mean()) / 20) for frame in frames] == [0, 4]
    for wrong in ({"masks": 5}, {"mask": "masks.json"}):
        with pytest.raises(BadInput, match="mask"):
            read_dataset("molmo2_track", root, **wrong)
    masked = only("molmo2_track", root, masks=root / "masks.json")
    assert same(masked.mask_of("0", 1), box_mask(4)) and not masked.mask_of("1", 1).any()


def test_vidstg(tmp_path):
    record = only("vidstg", mini.vidstg(tmp_path))
    assert said(record) == [("0", ("0",), "question"), ("1", ("0",), "referring")]
    assert record.frame_names[0] == "2" and len(record.frame_names) == 8 and record.expressions[0].span == (2, 6)
    assert record.box_of("0", 2).tolist() == [4, 4, 6, 6] and record.box_of("0", 1) is None
    with record.frames() as frames:
        assert round(int(frames[0].mean()) / 20) == 2


def test_rows_with_texts_for_numbers_and_the_times_of_every_frame(tmp_path):
    points = {"00000": [["17.4", "60.1"]], "00004": ["1", "2"]}
    row = {"video": "a", "caption": "a cup", "frame_idxs": ["00000", "00004"], "fps": "30", "points": points}
    row["timestamps"] = [n / 30 for n in range(6)]
    mini.write_frames(tmp_path / "a", ["00000", "00004"])
    mini.write_lines(tmp_path / "train.jsonl", [row, row | {"fps": "fast"}])
    rows = read_dataset("videomolmo", tmp_path)
    record = rows[0]
    with record.frames() as frames:
        assert frames.times_s.round(3).tolist() == [0, 0.133] and frames.fps == 30
    assert [len(record.points_of("1", frame)) for frame in (0, 1)] == [1, 1]
    with pytest.raises(BadInput, match="fps is 'fast'"):
        rows[1]


def test_generated():
    records = read_dataset("generated", clips=3, frames=4, height=48, width=64)
    record = records[0]
    assert record.clip == "10000000" and record.masks(3).shape == (len(record.objects), 48, 64)
    with record.frames() as frames:
        assert len(frames) == len(record.frame_names) == 4 and frames[0].shape == (48, 64, 3)
    assert all(set(sentence.objects) <= set(each.objects) for each in records for sentence in each.expressions)
    with pytest.raises(BadInput, match="clips=0"):
        read_dataset("generated", clips=0)
    for options in ({"clips": "three"}, {"clips": True}, {"motion": 1}, {"frames": 4.5}):
        with pytest.raises(BadInput, match=next(iter(options))):
            read_dataset("generated", **options)
    with pytest.raises(BadInput, match="images is 5, expected str or Path"):
        read_dataset("videomolmo", Path(__file__).parent, "train", images=5)


def test_every_data_set_has_a_miniature():
    made = {"generated", "vpos_nano", "gcg_nano", "refer_nano"}
    made |= {f"{task}_video_nano" for task in ("point", "count", "track")}
    layouts = {"mot", "got10k", "coco_video", "palette_video"}  # see test_molmo2_rows.py
    assert set(DATASETS) == {*mini.BUILDERS, *made, *layouts, "molmo2_video_count", "imported"}


def test_what_is_not_documented_is_named(tmp_path):
    root = mini.mevis(tmp_path)
    mini.write_json(root / "valid_u" / "meta_expressions.json", {"videos": {"a": {"expressions": {}}}})
    with pytest.raises(Unreadable, match=r"mevis valid_u, a: not as documented.*frames"):
        read_dataset("mevis", root)[0]
