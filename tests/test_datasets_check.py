"""What the readers leave undone until asked, what they refuse, and broken downloads that `data check` finds."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil

import miniature_datasets as mini
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from videomolmo.cli import main
from videomolmo.datasets import DATASETS, read_dataset
from videomolmo.datasets.check import check_dataset
from videomolmo.datasets.files import JsonLines, MissingFile, Unreadable, safe_join
from videomolmo.errors import BadInput
from videomolmo.io.formats.run_lengths import decode_rle

EVALUATED = {name: DATASETS[name].default for name in mini.BUILDERS}
EVALUATED["ref_youtube_vos"] = "train"
OWN_FRAMES = [name for name in mini.BUILDERS if name != "captions"]  # whose rows lie on another set's frames
BY_MASKS = ("vidstg_gcg", "hcstvg_gcg", "anet_gcg")  # what a phrase names is looked up among the masks


def run_cli(*arguments: object) -> int:
    return main(["data", *map(str, arguments)])


@pytest.mark.parametrize("name", [name for name in OWN_FRAMES if name not in BY_MASKS])
def test_records_stand_without_frames_and_masks(name, tmp_path):
    """All pictures, videos and masks can go: a record still tells what the index tells."""
    root = mini.BUILDERS[name](tmp_path)
    whole = read_dataset(name, root, EVALUATED[name])
    told = [(record.clip, record.expressions, dict(record.objects), record.frame_names) for record in whole]
    names = (".jpg", ".png", ".mp4", ".mkv")
    for path in list(root.rglob("*")):
        # DAVIS has no index of its frames but their names
        if path.suffix in names and not (name == "ref_davis17" and path.suffix == ".jpg"):
            path.unlink(missing_ok=True)
        elif path.name.startswith("mask"):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    bare = read_dataset(name, root, EVALUATED[name])
    assert told == [(record.clip, record.expressions, dict(record.objects), record.frame_names) for record in bare]
    if name != "ref_davis17":
        with pytest.raises(MissingFile):
            bare[0].frames()


@pytest.mark.parametrize("name", mini.BUILDERS)
def test_hidden_files_that_macos_leaves_are_passed_over(name, tmp_path):
    def told():
        records = read_dataset(name, root, EVALUATED[name])
        read = [(one.clip, one.expressions, dict(one.objects), one.frame_names) for one in records]
        return read, check_dataset(name, root).text(), DATASETS[name].splits_in(root)

    root = mini.BUILDERS[name](tmp_path)
    before = told()
    mini.litter(tmp_path)
    assert told() == before


def test_masks_that_cannot_be_read_fail_only_when_asked_for(tmp_path):
    root = mini.mevis(tmp_path)
    (root / "valid_u" / "mask_dict.json").write_text("{")
    record = read_dataset("mevis", root)[0]
    with record.frames() as frames:
        assert len(frames) == 3
    with pytest.raises(Unreadable, match=r"mask_dict\.json: not a whole JSON file"):
        record.masks(0)


def test_frames_are_decoded_one_by_one(tmp_path):
    root = mini.mevis(tmp_path)
    record = read_dataset("mevis", root)[0]
    record.media.files[1].write_bytes(record.media.files[1].read_bytes()[:300])
    with record.frames() as frames:
        assert frames[2].shape == (mini.HEIGHT, mini.WIDTH, 3)
        with pytest.raises(BadInput, match=r"00001\.jpg"):
            frames[1]


@pytest.mark.parametrize("name", OWN_FRAMES)
def test_a_whole_download_passes(name, tmp_path):
    report = check_dataset(name, mini.BUILDERS[name](tmp_path))
    assert report.ok, report.text()
    assert all(split.counts["clips"] and split.counts["expressions"] for split in report.splits)
    assert report.text().endswith("whole")


def test_counts_and_what_is_published(tmp_path):
    report = check_dataset("mevis", mini.mevis(tmp_path), "valid_u")
    counts = report.splits[0].counts
    assert [counts[what] for what in ("clips", "frames", "expressions", "objects", "masks")] == [1, 3, 3, 2, 6]
    assert "clips: 1 (published: 50)" in report.text()
    assert check_dataset("mevis", tmp_path).absent == ["test"]


def test_expressions_of_one_name_are_reported(tmp_path):
    root = mini.reason_vos(tmp_path)
    meta = json.loads((root / "meta_expressions.json").read_text())
    listed = meta["videos"]["ab12"]["expressions"]
    listed.append(listed[0] | {"exp_text": "another one"})
    mini.write_json(root / "meta_expressions.json", meta)
    report = check_dataset("reason_vos", root)
    assert not report.ok and "2 expressions are called 5_0; expected ids that differ" in report.text()


def broken(kind: str, root) -> tuple[str, str]:
    """A broken download: its name, and what its report must name."""
    if kind == "missing frame":
        (mini.mevis(root) / "valid_u" / "JPEGImages" / "0ab4afe7fb46" / "00001.jpg").unlink()
        return "mevis", "00001.jpg: no such image"
    if kind == "missing frame without an index":
        (mini.ref_davis17(root) / "DAVIS" / "JPEGImages" / "480p" / "bear" / "00001.jpg").unlink()
        return "ref_davis17", "00001.jpg: no such image"
    if kind == "frame that is no image":
        (mini.groot(root) / "MOT17" / "train" / "MOT17-02-FRCNN" / "img1" / "000002.jpg").write_text("<html>")
        return "groot", "000002.jpg: the image cannot be read"
    if kind == "cut mask":
        path = mini.ref_davis17(root) / "DAVIS" / "Annotations_unsupervised" / "480p" / "bear" / "00002.png"
        path.write_bytes(path.read_bytes()[:-30])
        return "ref_davis17", "00002.png: the image cannot be read"
    if kind == "mask in colours":
        path = mini.ref_youtube_vos(root) / "train" / "Annotations" / "003234408d" / "00005.png"
        mini.Image.open(path).convert("RGB").save(path)
        return "ref_youtube_vos", "00005.png: has 3 channels"
    if kind == "mask of another size":
        mini.write_binary(mini.reason_vos(root) / "Annotations" / "mose_ab12_5" / "00000.png", np.ones((5, 5), bool))
        return "reason_vos", "masks of frame 0 are (5, 5)"
    if kind == "missing folder of masks":
        shutil.rmtree(mini.reason_vos(root) / "Annotations" / "mose_ab12_5")
        return "reason_vos", "mose_ab12_5: no such folder"
    if kind == "missing run lengths":
        mini.write_json(mini.mevis(root) / "train" / "mask_dict.json", {"7": [None, None, None]})
        return "mevis", "has no masks of object 12"
    if kind == "too few run lengths":
        mini.write_json(mini.revos(root) / "mask_dict.json", {"3": [None]})
        return "revos", "object 3 has 1 masks for 2 frames"
    if kind == "missing foreground":
        (mini.revos(root) / "mask_dict_foreground.json").unlink()
        return "revos", "mask_dict_foreground.json: no such file"
    if kind == "missing video":
        (mini.vidstg(root) / "video" / "0001" / "2401.mp4").unlink()
        return "vidstg", "no video 2401.mp4"
    if kind == "page instead of a video":
        (mini.molmo2_track(root) / "videos" / "b2.mp4").write_text("<html>not found</html>" * 20)
        return "molmo2_track", "b2.mp4: not a video"
    if kind == "cut row":
        path = mini.videomolmo(root) / "train.jsonl"
        path.write_text(path.read_text()[:-40])
        return "videomolmo", "train.jsonl, row 3: not JSON"
    if kind == "missing annotations":
        (mini.vicas(root) / "annotations" / "v0.1" / "007449.json").unlink()
        return "vicas", "007449.json: no such file"
    (mini.lasot(root) / "airplane" / "airplane-10" / "groundtruth.txt").write_text("1,2,3,4\n1,2,3,4\n1,2,x,4\n")
    return "lasot", "groundtruth.txt, line 3"


@pytest.mark.parametrize(
    "kind",
    [
        "missing frame", "missing frame without an index", "frame that is no image", "cut mask", "mask in colours",
        "mask of another size",
        "missing folder of masks", "missing run lengths", "too few run lengths", "missing foreground", "missing video",
        "page instead of a video", "cut row", "missing annotations", "box that is no box",
    ],
)  # fmt: skip
def test_a_broken_download_is_found(kind, tmp_path, capsys):
    name, named = broken(kind, tmp_path)
    assert run_cli("check", name, tmp_path) == 1
    printed = capsys.readouterr().out
    assert named in printed and "BROKEN" in printed


def test_the_command_line(tmp_path, capsys, monkeypatch):
    mini.mevis(tmp_path / "mevis")
    assert run_cli("check", "mevis", tmp_path / "mevis", "--split", "valid_u") == 0
    monkeypatch.setenv("VIDEOMOLMO_DATA", str(tmp_path))
    assert run_cli("check", "MeViS") == 0
    assert "train: 1 clips" in capsys.readouterr().out
    assert run_cli("list") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(DATASETS)
    assert run_cli("check", "mevis", "--split", "val") == 2
    assert "no split 'val'" in capsys.readouterr().err
    (tmp_path / "vidstg").mkdir()
    (tmp_path / "groot").mkdir()
    for name in ("vidstg", "groot"):
        assert run_cli("check", name) == 2
        assert re.search("no such file|nothing to check", capsys.readouterr().err)


def test_names_and_places_that_do_not_fit(tmp_path, monkeypatch):
    monkeypatch.delenv("VIDEOMOLMO_DATA", raising=False)
    with pytest.raises(BadInput, match="'coco' is not known; expected one of ref_youtube_vos, "):
        read_dataset("coco", tmp_path)
    with pytest.raises(BadInput, match="no path; give one, or set VIDEOMOLMO_DATA"):
        read_dataset("mevis")
    monkeypatch.setenv("VIDEOMOLMO_DATA", str(tmp_path))
    with pytest.raises(BadInput, match=r"mevis \(from VIDEOMOLMO_DATA\) is not there"):
        read_dataset("mevis")
    with pytest.raises(BadInput, match="no split 'val'; expected one of train, valid_u"):
        read_dataset("mevis", tmp_path, "val")
    with pytest.raises(BadInput, match=r"valid_u.*meta_expressions\.json: no such file"):
        read_dataset("mevis", tmp_path)
    with pytest.raises(BadInput, match="nothing to read"):
        read_dataset("groot", tmp_path)
    with pytest.raises(BadInput, match="unexpected keyword"):
        read_dataset("mevis", mini.mevis(tmp_path / "mevis"), colour="red")
    with pytest.raises(BadInput, match="no object '9'; expected one of 7, 12"):
        read_dataset("mevis", tmp_path / "mevis")[0].mask_of("9", 0)
    with pytest.raises(IndexError, match="no frame 3; expected 0 to 2"):
        read_dataset("mevis", tmp_path / "mevis")[0].masks(3)


@pytest.mark.parametrize("name", ["..", "../x", "a/../../x", "/etc/passwd", "C:/x", "a\\..\\..\\x", "", " ", "a\0b"])
def test_paths_that_lead_out_are_refused(name, tmp_path):
    with pytest.raises(BadInput, match="expected a path inside that folder"):
        safe_join(tmp_path, name)


@pytest.mark.parametrize("name", ["videomolmo", "mevis", "molmo2_track", "vidstg", "groot", "reason_vos"])
def test_an_index_cannot_name_files_elsewhere(name, tmp_path):
    root = mini.BUILDERS[name](tmp_path / "set")
    for path in list(root.rglob("*.json*")):
        text = path.read_text()
        for old in ("davis17/00000/frames", "0ab4afe7fb46", '"b2"', "0001/2401.mp4", "MOT17-02-FRCNN/img1", '"ab12"'):
            text = text.replace(old, '"../../b2"' if old == '"b2"' else old.replace("ab12", "../ab12"))
            text = text.replace(old, f"../{old}") if old.strip('"') == old else text
        path.write_text(text)
    with pytest.raises(BadInput, match="expected a path inside that folder"):
        read_dataset(name, root)[0]
    assert not check_dataset(name, root).ok


def test_run_lengths_in_both_forms_and_as_a_list():
    mask = mini.box_mask(3)
    runs = mini.rle(mask)
    lengths = np.diff(np.flatnonzero(np.diff(np.r_[2, mask.T.ravel().astype(int), 2])))
    plain = {"size": runs["size"], "counts": lengths.tolist()}
    assert np.array_equal(decode_rle(runs, "x"), mask) and np.array_equal(decode_rle(plain, "x"), mask)
    assert np.array_equal(decode_rle([runs, mini.rle(mini.box_mask(20))], "x"), mask | mini.box_mask(20))


@pytest.mark.parametrize(
    "entry",
    [
        7, "text", {}, {"size": [4, 4]}, {"size": [4], "counts": "0"}, {"size": [10**9, 10**9], "counts": "0"},
        {"size": [4, 4], "counts": [3, 99]}, {"size": [4, 4], "counts": [-4, 20]}, {"size": [4, 4], "counts": "é"},
        {"size": [4, 4], "counts": "oooooooooo"}, {"size": [0, 4], "counts": ""}, {"size": [4, 4], "counts": None},
        {"size": [4, 4], "counts": 10**12},
    ],
)  # fmt: skip
def test_what_is_no_run_length_is_refused(entry):
    with pytest.raises(Unreadable):
        decode_rle(entry, "object 1")


@given(st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=20))
def test_any_text_gives_a_mask_or_is_refused(counts):
    with contextlib.suppress(Unreadable):
        assert decode_rle({"size": [6, 5], "counts": counts}, "x").shape == (6, 5)


def test_json_that_is_not_what_it_should_be(tmp_path):
    path = mini.mevis(tmp_path) / "valid_u" / "meta_expressions.json"
    for text, message in (("[]", "holds a list"), ('{"videos": 3}', "holds a int"), ("[" * 100_000, "not a whole JSON"),
                          (json.dumps({"videos": {"a": None}}), "not as documented")):  # fmt: skip
        path.write_text(text)
        with pytest.raises(Unreadable, match=message):
            read_dataset("mevis", tmp_path)[0]


def test_an_index_that_is_a_pipe_is_refused_at_once(tmp_path):
    path = mini.mevis(tmp_path) / "valid_u" / "meta_expressions.json"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(Unreadable, match="is a pipe"):
        read_dataset("mevis", tmp_path)
    os.mkfifo(tmp_path / "rows.jsonl")
    with pytest.raises(BadInput, match="is a pipe"):
        JsonLines(tmp_path / "rows.jsonl")
