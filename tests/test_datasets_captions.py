"""Sets of grounded captions in miniature, read back: words, what they name, masks; bad files are refused in a line."""

from __future__ import annotations

import json
from pathlib import Path

import miniature_datasets as mini
import numpy as np
import pytest
from miniature_datasets import box_mask

from videomolmo.cli import main
from videomolmo.datasets import Record, read_dataset
from videomolmo.datasets.files import Unreadable
from videomolmo.errors import BadInput
from videomolmo.synth.captions import KINDS, GroundedText


def told(record: Record) -> tuple[str, list[tuple[str, tuple[str, ...]]]]:
    """The caption of a record, and its phrases with their objects."""
    (said,) = record.expressions
    assert said.kind == "caption" and said.objects == said.answer.objects == tuple(record.objects)
    objects = [span.objects for span in said.answer.spans]
    return said.answer.text, list(zip(said.answer.phrases, objects, strict=True))


def same(mask: np.ndarray | None, *parts: np.ndarray) -> bool:
    return mask is not None and np.array_equal(mask, np.logical_or.reduce(parts))


def test_burst_and_ytvis(tmp_path):
    records = read_dataset("burst_ytvis_gcg", mini.burst_ytvis_gcg(tmp_path))
    assert len(records) == 2 and [record.clip for record in records] == ["ab12cd", "YFCC100M/v_1"]
    assert told(records[0]) == ("A dog chases two balls.", [("dog", ("10",)), ("balls.", ("11", "12"))])
    record = records[1]
    assert same(record.mask_of("20", 1), box_mask(8)) and not record.mask_of("10", 1).any()
    assert record.expressions[0].answer.marked == "A <p> dog </p> [SEG] chases two <p> balls. </p> [SEG]"
    assert same(record.truth(record.expressions[0], 0), box_mask(2), box_mask(8), box_mask(20, 14))
    for each in (*records, *read_dataset("burst_ytvis_gcg", tmp_path, "train")):
        with each.frames() as frames:
            assert len(frames) == 3 == len(each.frame_names)


def test_captions_of_mevis_and_youtube_vos(tmp_path):
    (record,) = read_dataset("mevis_gcg", mini.mevis_gcg(tmp_path))
    said = "Two birds sit. One is flying away.", [("birds", ("0", "1")), ("is flying away", ("0",))]
    assert told(record) == said
    assert same(record.mask_of("0", 2), box_mask(4)) and same(record.mask_of("1", 1), box_mask(20))
    (record,) = read_dataset("ytvos_gcg", mini.ytvos_gcg(tmp_path))
    assert told(record) == ("A dog with a ball.", [("A dog", ("1",)), ("ball", ("2",))])
    assert record.objects["2"] == "ball" and same(record.mask_of("1", 2), box_mask(4))
    assert record.masks(0).shape == (2, mini.HEIGHT, mini.WIDTH)


@pytest.mark.parametrize("name", ["vidstg_gcg", "hcstvg_gcg"])
def test_captions_of_boxes(tmp_path, name):
    (record,) = read_dataset(name, mini.BUILDERS[name](tmp_path))
    assert told(record) == ("A child holds a toy.", [("child", ("0",)), ("a toy", ("0", "2"))])
    assert same(record.truth(record.expressions[0], 1), box_mask(3), box_mask(20))
    (tmp_path / name / "train" / "000042" / "masks" / "002").rename(tmp_path / "away")
    with pytest.raises(Unreadable, match=r"000042.json: 'a toy' means object '2'; expected one of 0"):
        read_dataset(name, tmp_path)[0]


def test_captions_of_activitynet(tmp_path):
    (record,) = read_dataset("anet_gcg", mini.anet_gcg(tmp_path))
    phrases = [("A man", ("1",)), ("a bar", ("0",)), ("He", ("1",))]
    assert told(record) == ("In it, A man lifts a bar . He rests.", phrases)
    assert same(record.mask_of("0", 3), box_mask(2)) and record.mask_of("0", 2) is None
    assert record.box_of("1", 3).tolist() == [2, 4, 6, 6] and record.box_of("1", 4) is None


def test_rows_that_were_annotated(tmp_path):
    root = mini.captions(tmp_path)
    (record,) = read_dataset("captions", root, "captions")
    assert told(record) == ("One moves.", [("One", ("1",))]) and record.mask_of("1", 3).shape == (96, 96)
    (record,) = read_dataset("captions", root, "boxed", source=root / "vidstg")
    assert same(record.mask_of("0", 2), box_mask(4)) and record.mask_of("0", 3) is None
    assert main(["data", "check", "captions", str(root), "--split", "captions"]) == 0


ROW_FAULTS = {
    "dataset": ("captions", "expected another data set"),
    "number": (300, "is not number 300"),
    "clip": ("10000001", "expected the annotated set"),
    "phrases": ([[0, 30, ["1"]]], "not inside the caption's 10 characters"),
    "caption": (5, "not as documented"),
}


@pytest.mark.parametrize("key", ROW_FAULTS)
def test_rows_that_do_not_fit(tmp_path, key):
    root = mini.captions(tmp_path)
    row = json.loads((root / "captions.jsonl").read_text())
    mini.write_lines(root / "captions.jsonl", [row | {key: ROW_FAULTS[key][0]}])
    with pytest.raises(BadInput, match=ROW_FAULTS[key][1]):
        read_dataset("captions", root, "captions")[0]


def spoil(path: Path, change) -> None:
    entry = json.loads(path.read_text())
    change(entry)
    mini.write_json(path, entry)


FAULTS = {
    "words and masks": ("burst_ytvis_gcg", "video_gcg/instruction_data/test.json",
                        lambda index: index["videos"][0]["dense_cap"]["mask_id"].pop(), "3 words with 2 masks"),
    "beyond": ("burst_ytvis_gcg", "video_gcg/instruction_data/test.json",
               lambda index: index["videos"][0]["dense_cap"].update(token_pos=[1, 4, 9]), "word 9 has a mask"),
    "no such mask": ("burst_ytvis_gcg", "video_gcg/instruction_data/test.json",
                     lambda index: index["videos"][0]["dense_cap"].update(mask_id=[10, 11, 99]), "object '99'"),
    "leads out": ("burst_ytvis_gcg", "video_gcg/instruction_data/test.json",
                  lambda index: index["videos"][0].update(file_names=["../x.jpg"] * 3), "inside that folder"),
    "no caption": ("mevis_gcg", "mevis_gcg/train/0ab4afe7fb46.json", lambda entry: entry.clear(), "'caption'"),
    "not text": ("ytvos_gcg", "ytvos_gcg/train/003234408d.json", lambda entry: entry.update(caption=3), "documented"),
    "no frame": ("anet_gcg", "activitynet_entities_gcg/anns/v_fzp5ooc727c____6.json",
                 lambda entry: entry["seg_token_to_obj"]["[SEG:0]"].update(frame_id=12), "on frame 12, which is not"),
    "no object": ("anet_gcg", "activitynet_entities_gcg/anns/v_fzp5ooc727c____6.json",
                  lambda entry: entry["seg_token_to_obj"].pop("[SEG:1]"), "means object '1'; expected one of 0"),
    "no box": ("anet_gcg", "activitynet_entities_gcg/anns/v_fzp5ooc727c____6.json",
               lambda entry: entry["seg_token_to_obj"]["[SEG:0]"].update(bbox=[1, 2]), "not as documented"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_files_are_refused_in_a_line(tmp_path, fault):
    name, file, change, line = FAULTS[fault]
    spoil(mini.BUILDERS[name](tmp_path) / file, change)
    with pytest.raises(BadInput, match=line) as caught:
        list(read_dataset(name, tmp_path))
    assert "\n" not in str(caught.value)


def test_a_caption_about_a_video_that_is_not_there(tmp_path, capsys):
    root = mini.mevis_gcg(tmp_path)
    mini.write_json(root / "mevis_gcg" / "train" / "other.json", {"caption": "[A bird](0)."})
    assert main(["data", "check", "mevis_gcg", str(root), "--split", "train"]) == 1
    assert "has no clip 'other'" in capsys.readouterr().out


def test_generated_clips_with_questions():
    records = read_dataset("gcg_nano", clips=12)
    assert len(records) == 12 and len(read_dataset("gcg_nano")) == 300
    kinds = {said.kind for record in records for said in record.expressions}
    assert kinds == set(KINDS) and int(records[0].clip) >= 10_000_000
    for record in records:
        assert len({said.id for said in record.expressions}) == len(record.expressions)
        for said in record.expressions:
            for phrase, span in zip(said.answer.phrases, said.answer.spans, strict=True):
                (object_id,) = span.objects
                assert record.objects[object_id] in phrase.lower() and record.mask_of(object_id, 6) is not None
            assert GroundedText.parsed(said.answer.marked).text == said.answer.text
    assert {said.kind for said in read_dataset("gcg_nano", clips=3, kinds=("caption",))[2].expressions} == {"caption"}
    for clip, record in zip(read_dataset("refer_nano", clips=12), records, strict=True):  # for all models of masks
        asked = {said.id: said for said in record.expressions}
        for said in clip.expressions:
            assert said.text.startswith("the ") and f" {said.text}" in asked[said.id].text and said.answer is None
            assert said.objects == asked[said.id].objects and clip.objects[said.objects[0]] != "grey bar"
            assert np.array_equal(clip.truth(said, 3), record.mask_of(said.objects[0], 3))
    assert {said.kind for clip in read_dataset("refer_nano") for said in clip.expressions} == {"appearance", "motion"}
    for options, line in (({"frames": 1}, "frames=1: expected 2"), ({"kinds": ("song",)}, "kind 'song'")):
        with pytest.raises(BadInput, match=line):
            read_dataset("gcg_nano", **options)
