"""Masks for other tools and from them: each format read back by us, and by the tools' own readers."""

from __future__ import annotations

import json
import weakref
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from inspector_results import frames_of, made_result
from PIL import Image
from pycocotools.coco import COCO

from videomolmo.annotation.label_rows import write_rows
from videomolmo.cli import main
from videomolmo.datasets import read_dataset
from videomolmo.datasets.imported import import_labels
from videomolmo.errors import BadInput
from videomolmo.evaluation.evaluate import evaluate
from videomolmo.inspector.ground_truth import open_truth
from videomolmo.io.files import is_temporary
from videomolmo.io.formats import pictures, run_lengths
from videomolmo.io.formats.labels import Clip, draw_pixel_polygon, edge_rings, pixel_polygon
from videomolmo.io.formats.registry import FORMATS, READABLE, read
from videomolmo.io.sources import open_source
from videomolmo.io.video import VideoWriter, open_video
from videomolmo.mask_store import MaskStore
from videomolmo.results import GroundingResult

FRAMES, HEIGHT, WIDTH = 6, 40, 51
IDS, NAMES, SCORES = ["7", "12", "9"], ["car", "pedestrian", "car"], {"1": {"0": 0.5, "3": 0.25}}


def blobs(seed: int, share: float = 0.7) -> np.ndarray:
    """Masks (frames, height, width) with holes and several parts that drift to the right."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).random((HEIGHT, WIDTH)), (0, 0), 2)
    mask = noise > np.quantile(noise, share)
    return np.stack([np.roll(mask, t, axis=1) for t in range(FRAMES)])


MASKS = np.stack([blobs(n) for n in range(3)], axis=1)
MASKS[2, 1] = False  # gone on one frame
VOID = blobs(5, 0.9)
WHOLE = Clip(FRAMES, HEIGHT, WIDTH, 10.0)
# Of objects that overlap, formats of one value a pixel keep the later one.
SHOWN = np.stack([MASKS[:, n] & ~MASKS[:, n + 1 :].any(axis=1) for n in range(3)], axis=1)


def result_of(masks: np.ndarray, void: np.ndarray | None = None, **labels: object) -> GroundingResult:
    """A result with these masks, whatever there is of ids, names and scores."""
    count = masks.shape[1]
    store, all_there = MaskStore(), np.ones((FRAMES, count), bool)
    known = {"forward": all_there, "backward": all_there}
    store.write(0, tuple(range(1, count + 1)), {name: masks for name in ("fused", "forward", "backward")}, known, void)
    told = {"format": "coco", "file": "x", "ids": [str(n + 1) for n in range(count)], "names": ["thing"] * count,
            "scores": {}, "has_void": void is not None} | labels  # fmt: skip
    made = made_result(FRAMES, count, HEIGHT, WIDTH)
    return replace(made, spool=store, answers=[], config={"labels": told})


@pytest.fixture(scope="module")
def result() -> GroundingResult:
    return result_of(MASKS, VOID, ids=IDS, names=NAMES, scores=SCORES)


@pytest.fixture
def images(tmp_path) -> Path:
    """The clip as a folder of images under names of their own."""
    folder = tmp_path / "shots"
    folder.mkdir()
    for t, frame in enumerate(frames_of(FRAMES, HEIGHT, WIDTH)):
        Image.fromarray(frame).save(folder / f"shot_{3 * t + 2}.png")
    return folder


def written(result: GroundingResult, to: str, folder: Path) -> Path:
    path = folder / f"{to}{FORMATS[to].suffix}"
    result.to(to, path)
    return path


def labels_of(result: GroundingResult) -> dict:
    return {name: result.config["labels"][name] for name in ("ids", "names", "scores")}


# there and back


@pytest.mark.parametrize("to", ["coco", "cvat"])
def test_everything_comes_back(to, result, tmp_path):
    again, notes = import_labels(written(result, to, tmp_path), to, result.video())
    assert np.array_equal(again.masks, MASKS) and all(np.array_equal(again.void(t), VOID[t]) for t in range(FRAMES))
    assert labels_of(again) == {"ids": IDS, "names": NAMES, "scores": SCORES} and not notes
    assert result.to(to, tmp_path / f"more{FORMATS[to].suffix}") == []


def test_mots_keeps_what_does_not_overlap(result, tmp_path):
    lost = result.to("mots", tmp_path / "out")
    again, _ = import_labels(tmp_path / "out", "mots", result.video())
    assert np.array_equal(again.masks, SHOWN) and labels_of(again)["ids"] == IDS and again.names == NAMES
    assert np.array_equal(again.void(1), VOID[1] & ~MASKS[1].any(axis=0))
    assert {"scores", f"pixels where objects overlap (the later one has them), {2 * FRAMES - 1} times"} <= set(lost) | {
        text for text in lost if text.startswith("pixels")
    }


def test_yolo_takes_names_from_the_file_that_every_tool_writes(tmp_path):
    path = written(result_of(MASKS[:, :1], names=["car"]), "yolo-seg", tmp_path)
    (path / "args.yaml").write_text("epochs: 3\n")
    assert {one.name for shapes in read(path, "yolo-seg", WHOLE).values() for one in shapes} == {"car"}


def test_pictures_of_davis_are_read_one_at_a_time(result, tmp_path, monkeypatch):
    path, plain, held = written(result, "davis", tmp_path), pictures.read_labels, []

    def noted(*given, **options):
        labels = plain(*given, **options)
        held.append(weakref.ref(labels))
        return labels

    monkeypatch.setattr(pictures, "read_labels", noted)
    found = read(path, "davis", WHOLE)
    assert len(found) == FRAMES and all(shape.draw().any() for t in sorted(found) for shape in found[t])
    assert len(held) == 2 * FRAMES and sum(one() is not None for one in held) == 1


def test_davis_keeps_what_does_not_overlap_and_the_void(result, tmp_path):
    path = written(result, "davis", tmp_path)
    again, _ = import_labels(path, "davis", result.video())
    assert np.array_equal(again.masks, SHOWN) and labels_of(again)["ids"] == ["1", "2", "3"]
    assert np.array_equal(again.void(1), VOID[1] & ~MASKS[1].any(axis=0))
    saved = again.save(tmp_path / "saved", overlay=False)
    assert (np.array(Image.open(saved / "masks" / "00001.png")) == np.array(Image.open(path / "00001.png"))).all()


def test_yolo_keeps_masks_and_names_and_says_that_ids_are_gone(tmp_path):
    whole = result_of(np.stack([MASKS[:, 0], np.zeros_like(MASKS[:, 0])], axis=1), names=["Straße: 1", "b"])
    path = written(whole, "yolo-seg", tmp_path)
    again, notes = import_labels(path, "yolo-seg", whole.video())
    off = again.masks[:, 0] ^ MASKS[:, 0]
    assert off.mean() < 0.02 and again.names == ["Straße: 1"] and "followed by overlap" in notes[0]
    lost = result_of(MASKS).to("yolo-seg", tmp_path / "more")
    assert any(text.startswith("ids: objects of one name") for text in lost)
    with Image.open(path / "images" / "train" / "clip_00003.jpg") as image:
        assert np.abs(np.array(image).astype(int) - frames_of(FRAMES, HEIGHT, WIDTH)[3]).mean() < 12


def test_mot_keeps_boxes_ids_names_and_scores(result, tmp_path):
    again, _ = import_labels(written(result, "mot", tmp_path), "mot", result.video())
    for t in range(FRAMES):
        for n in range(3):
            assert again.masks[t][n].any() == MASKS[t, n].any()
            rows, columns = np.flatnonzero(MASKS[t, n].any(axis=1)), np.flatnonzero(MASKS[t, n].any(axis=0))
            if len(rows):
                assert again.masks[t][n][rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
                assert again.masks[t][n].sum() == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    told = labels_of(again)
    assert (told["ids"], told["names"]) == (IDS, NAMES) and told["scores"]["1"]["3"] == 0.25


def test_label_studio_has_masks_on_images_and_boxes_on_a_video(result, images, tmp_path):
    pictures = replace(result, source=images, _video=None)
    again, _ = import_labels(written(pictures, "label-studio", tmp_path), "label-studio", images)
    assert np.array_equal(again.masks, MASKS) and np.array_equal(again.void(2), VOID[2])
    assert labels_of(again) == {"ids": IDS, "names": NAMES, "scores": SCORES}
    path = tmp_path / "video.json"
    assert any("boxes only" in text for text in result.to("label-studio", path))
    boxes, _ = import_labels(path, "label-studio", result.video())
    assert labels_of(boxes)["ids"] == IDS and boxes.names == NAMES
    wanted, _ = import_labels(written(result, "mot", tmp_path), "mot", result.video())
    assert np.array_equal(boxes.masks, wanted.masks)  # frame 2 included, where an object is gone


def test_frame_times_and_names_of_images(result, images, tmp_path):
    late = replace(result, times_s=np.array([0, 0.1, 0.25, 0.3, 0.5, 4]), source=images, _video=None)
    content = json.loads(written(late, "coco", tmp_path).read_text())
    assert [image["time_s"] for image in content["images"]] == late.times_s.tolist()
    assert content["images"][4]["file_name"] == "shot_14.png" and content["annotations"][0]["track_id"] == 7
    again, _ = import_labels(tmp_path / "coco.json", "coco", images)
    assert np.array_equal(again.masks, MASKS)
    assert {"frame times"} <= set(late.to("davis", tmp_path / "davis"))


def test_geojson_outlines_have_the_masks_areas(result, tmp_path):
    content = json.loads(written(result, "geojson", tmp_path).read_text())
    areas = {(one["properties"]["frame"], one["properties"]["object"]): area(one["geometry"]["coordinates"])
             for one in content["features"]}  # fmt: skip
    wanted = {(t, own): int(MASKS[t, n].sum()) for t in range(FRAMES) for n, own in enumerate(IDS) if MASKS[t, n].any()}
    assert areas == wanted | {(t, "void"): int(VOID[t].sum()) for t in range(FRAMES)}


def area(parts: list) -> float:
    """Of outlines less their holes, by the shoelace formula."""
    total = 0.0
    for rings in parts:
        sizes = [abs(np.sum(np.array(a)[:-1, 0] * np.array(a)[1:, 1] - np.array(a)[1:, 0] * np.array(a)[:-1, 1])) / 2
                 for a in rings]  # fmt: skip
        total += sizes[0] - sum(sizes[1:])
    return total


def test_a_table_tells_ids_names_and_scores(result, tmp_path):
    table = pd.read_csv(written(result, "csv", tmp_path))
    assert len(table) == MASKS.any(axis=(2, 3)).sum() and set(table.object) == {7, 9, 12}
    assert table[(table.frame == 3) & (table.object == 7)].score.tolist() == [0.25]


def test_outlines_are_exact_whatever_the_mask():
    rng = np.random.default_rng(3)
    for _ in range(30):
        mask = rng.random(rng.integers(1, 30, 2)) > rng.uniform(0.2, 0.8)
        if mask.any():
            assert area([[ring.tolist() for ring in part] for part in edge_rings(mask)]) == mask.sum()
            assert (draw_pixel_polygon(pixel_polygon(mask), mask.shape) | ~mask).all()
            for encode, decode in ((run_lengths.encode_brush, run_lengths.decode_brush),):
                assert np.array_equal(decode(encode(mask), mask.shape, "x"), mask)
            counts, box = run_lengths.encode_cvat(mask)
            assert np.array_equal(run_lengths.decode_cvat(counts, box, mask.shape, "x"), mask)


# the tools' own readers


def test_pycocotools_reads_the_masks(result, tmp_path, capsys):
    coco = COCO(str(written(result, "coco", tmp_path)))
    assert [one["name"] for one in coco.loadCats(coco.getCatIds())] == ["car", "pedestrian", "void"]
    (own,) = coco.loadAnns(coco.getAnnIds(imgIds=[3], catIds=[2], iscrowd=False))
    assert np.array_equal(coco.annToMask(own), MASKS[3, 1]) and own["track_id"] == 12
    (crowd,) = coco.loadAnns(coco.getAnnIds(imgIds=[3], iscrowd=True))
    assert np.array_equal(coco.annToMask(crowd), VOID[3])


def test_coco_brings_the_frames_that_it_names(result, tmp_path):
    lost = result.to("coco", tmp_path / "clip.json", frames=True)
    content, folder = json.loads((tmp_path / "clip.json").read_text()), tmp_path / "clip_frames"
    assert not any("frames" in text for text in lost)
    names = [one["file_name"] for one in content["images"]]
    assert sorted(path.name for path in folder.iterdir()) == names
    with Image.open(folder / names[3]) as image:
        away = np.abs(np.array(image, int) - frames_of(FRAMES, HEIGHT, WIDTH)[3])
    assert np.median(away) < 8, "another frame"
    supervision = pytest.importorskip("supervision")
    data = supervision.DetectionDataset.from_coco(str(folder), str(tmp_path / "clip.json"), force_masks=True)
    assert len(data) == FRAMES and sum(len(one) for _, _, one in data) == len(content["annotations"])
    with pytest.raises(BadInput, match="clip_frames exists"):
        (tmp_path / "clip.json").rename(tmp_path / "before.json")
        result.to("coco", tmp_path / "clip.json", frames=True)
    assert not (tmp_path / "clip.json").exists(), "half of it was left"
    with pytest.raises(BadInput, match="beside mot, which names none; expected one of coco, yolo-seg"):
        result.to("mot", tmp_path / "mot", frames=True)
    gone = replace(result, source=tmp_path / "gone.mp4", _video=None)
    with pytest.raises(BadInput, match="the video cannot be opened"):
        gone.to("coco", tmp_path / "gone.json", frames=True)
    assert not list(tmp_path.glob("gone*"))


def test_coco_tells_where_the_frames_of_an_excerpt_come_from(result, tmp_path):
    part = replace(result, source=tmp_path / "clip.mp4", source_frames=np.arange(FRAMES) + 30,
                   source_times_s=(np.arange(FRAMES) + 30) / 10)  # fmt: skip
    content = json.loads(written(part, "coco", tmp_path).read_text())
    assert content["images"][2]["source_frame"] == 32 and content["images"][2]["source_time_s"] == 3.2
    assert content["videos"][0]["file_name"] == "clip.mp4"


def test_supervision_reads_coco_and_yolo_and_takes_detections(result, tmp_path):
    supervision = pytest.importorskip("supervision")
    found = result.detections(3)
    assert found.tracker_id.tolist() == [7, 12, 9] and found.data["class_name"].tolist() == NAMES
    assert np.array_equal(found.mask, MASKS[3]) and found.class_id.tolist() == [0, 1, 0] and found.confidence is None
    assert np.array_equal(found.xyxy, np.add(supervision.mask_to_xyxy(MASKS[3]), [0, 0, 1, 1]))
    assert len(result_of(np.zeros_like(MASKS)).detections(0)) == 0
    path = written(result, "yolo-seg", tmp_path)
    data = supervision.DetectionDataset.from_yolo(
        str(path / "images/train"), str(path / "labels/train"), str(path / "data.yaml"), force_masks=True
    )
    assert data.classes == ["car", "pedestrian"] and len(data) == FRAMES
    ours, _ = import_labels(path, "yolo-seg", result.video())
    for name, _, theirs in data:
        t = int(Path(name).stem[-5:])
        assert np.array_equal(theirs.mask.any(axis=0), ours.masks[t].any(axis=0)), "they draw what we draw"
        assert len(theirs) == MASKS[t].any(axis=(1, 2)).sum()
    whole = supervision.DetectionDataset.from_coco(
        str(path / "images/train"), str(written(replace(result), "coco", tmp_path)), force_masks=True
    )
    assert whole.classes[:2] == ["car", "pedestrian"]


def test_without_supervision_one_line_says_how(result, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(BadInput, match="pip install supervision"):
        result.detections(0)


def test_motmetrics_reads_the_boxes(result, tmp_path):
    motmetrics = pytest.importorskip("motmetrics")
    table = motmetrics.io.loadtxt(str(written(result, "mot", tmp_path) / "gt" / "gt.txt"), fmt="mot16")
    rows, columns = np.flatnonzero(MASKS[3, 1].any(axis=1)), np.flatnonzero(MASKS[3, 1].any(axis=0))
    assert table.loc[(4, 12)][["X", "Y", "Width", "Height", "ClassId"]].tolist() == [
        columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1, 2,
    ]  # fmt: skip


# labels that others wrote


CLIP = Clip(4, 30, 40, 10.0)


def test_cvat_tracks_and_shapes(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(
        """<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version><meta/>
        <track id="5" label="car"><box frame="0" outside="0" keyframe="1" xtl="2" ytl="3" xbr="6" ybr="8"/>
        <box frame="1" outside="1" keyframe="1" xtl="2" ytl="3" xbr="6" ybr="8"/></track>
        <track id="6" label="dog"><polygon frame="2" keyframe="1" points="1,1;9,1;9,5;1,5"/></track>
        <track id="7" label="cat" group_id="4"><mask frame="3" keyframe="1" rle="1, 2, 1" left="4" top="2" width="2"
        height="2"/></track></annotations>""",
        encoding="utf-8",
    )
    found = read(path, "cvat", CLIP)
    assert sorted(found) == [0, 2, 3] and [(found[t][0].key, found[t][0].name) for t in (0, 2, 3)] == [
        ("5", "car"), ("6", "dog"), ("4", "cat"),
    ]  # fmt: skip
    assert found[0][0].draw()[3:8, 2:6].all() and found[0][0].draw().sum() == 20
    assert found[2][0].draw()[1:5, 1:9].all() and found[2][0].draw().sum() == 32
    assert np.argwhere(found[3][0].draw()).tolist() == [[2, 5], [3, 4]]


def test_label_studio_tracks_are_interpolated_and_end(tmp_path):
    keys = [{"frame": 1, "x": 0, "y": 0, "width": 50, "height": 50, "enabled": True},
            {"frame": 3, "x": 50, "y": 0, "width": 50, "height": 50, "enabled": False}]  # fmt: skip
    region = {"id": "ab", "type": "videorectangle", "value": {"sequence": keys, "labels": ["fox"]}}
    relation = {"type": "relation", "from_id": "ab", "to_id": "cd"}
    (tmp_path / "a.json").write_text(json.dumps([{"data": {}, "annotations": [{"result": [region, relation]}]}]))
    found = read(tmp_path / "a.json", "label-studio", CLIP)
    lefts = {t: int(np.flatnonzero(one[0].draw().any(axis=0))[0]) for t, one in found.items()}
    assert lefts == {0: 0, 1: 10, 2: 20} and found[0][0].name == "fox"


def test_coco_without_ids_is_followed_by_overlap(tmp_path, images):
    boxes = [[[2, 2, 8, 8], [20, 20, 9, 9]], [[21, 20, 9, 9], [3, 2, 8, 8]], [[40, 2, 5, 5]]]
    content = {
        "images": [{"id": f"i{t}", "file_name": f"somewhere/shot_{3 * t + 2}.png"} for t in range(FRAMES)],
        "categories": [{"id": 4, "name": "bird"}],
        "annotations": [
            {"id": 1, "image_id": f"i{t}", "category_id": 4, "bbox": box} for t, own in enumerate(boxes) for box in own
        ],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    found, notes = import_labels(tmp_path / "a.json", "coco", images)
    assert found.objects == 3 and found.names == ["bird"] * 3 and "5 shapes have no id" in notes[0]
    assert found.masks[1][0, 5, 5] and found.masks[1][1, 25, 25] and found.masks[2][2].any()


def test_mots_of_kitti_counts_frames_from_0(tmp_path):
    mask = np.zeros((30, 40), bool)
    mask[3:9, 4:11] = True
    runs = run_lengths.encode_rle(mask)["counts"]
    (tmp_path / "a.txt").write_text(f"0 1005 1 30 40 {runs}\n2 2005 2 30 40 {runs}\n3 10000 10 30 40 {runs}\n")
    found = read(tmp_path / "a.txt", "mots", CLIP)
    assert [(t, own.key, own.name, own.is_void) for t, (own,) in found.items()][:2] == [
        (0, "1005", "car", False), (2, "2005", "pedestrian", False),
    ]  # fmt: skip
    assert found[3][0].is_void and np.array_equal(found[0][0].draw(), mask)


BAD = {
    ("coco", ".json"): ["", "[]", "{}", '{"images": [], "annotations": [{"image_id": 1}]}',
                        '{"images": [{"id": 1, "file_name": "9"}], "annotations": []}',
                        '{"images": [{"id": 1, "file_name": "0", "height": 5, "width": 5}], "annotations": []}',
                        '{"images": [{"id": 1, "file_name": "0"}], "annotations": [{"image_id": 1}]}',
                        '{"images": [{"id": 1, "file_name": "0"}], "annotations": [{"image_id": 1, "segmentation": '
                        '[[0, 0, 1e9, 0, 5, 5]]}]}',
                        '{"images": [{"id": 1, "file_name": "0"}], "annotations": [{"image_id": 1, "segmentation": '
                        '{"size": [30, 40], "counts": [1, 2]}}]}'],
    ("mot", ".txt"): ["1,1,1", "a,b,c,d,e,f", "0,1,1,1,1,1", "9,1,1,1,1,1", "1,1.5,1,1,1,1", "1,1,nan,1,1,1"],
    ("mots", ".txt"): ["1 1 1", "1 1001 1 30 40 \x00", "1 1001 1 5 5 abc", "1 1001 1 30 40 abc", "9 1001 1 30 40 0"],
    ("cvat", ".xml"): ["", "<a/>", "<annotations><track label='a'><box frame='0'/></track></annotations>",
                       "<annotations><image id='77'/></annotations>", "<annotations>",
                       "<!DOCTYPE a [<!ENTITY b 'c'>]><annotations>&b;</annotations>",
                       "<annotations><image id='0'><mask label='a' rle='5' left='39' top='0' width='5' height='1'/>"
                       "</image></annotations>"],
    ("label-studio", ".json"): ["", "{}", '[{"data": {}, "annotations": [{"result": [{"type": "brushlabels", "value": '
                                '{}}]}]}]',
                                '[{"data": {"frame": 0}, "annotations": [{"result": [{"type": "brushlabels", "value": '
                                '{"format": "rle", "rle": [1, 2]}}]}]}]'],
}  # fmt: skip


@pytest.mark.parametrize("kind, content", [(kind, one) for kind, several in BAD.items() for one in several])
def test_what_is_broken_is_told_in_one_line(kind, content, tmp_path):
    path = tmp_path / f"a{kind[1]}"
    path.write_text(content)
    with pytest.raises(BadInput) as caught:
        for shapes in read(path, kind[0], CLIP).values():
            for shape in shapes:
                shape.draw()
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["0 0.1", "x 0.1 0.1 0.1 0.1", "0 9 9 9 9 9 9", "0 nan 0.1 0.1 0.1"])
def test_broken_yolo_labels_are_told(text, tmp_path):
    (tmp_path / "a_00000.txt").write_text(text)
    with pytest.raises(BadInput, match=r"a_00000\.txt, line 1"):
        read(tmp_path, "yolo-seg", CLIP)


# as files


@pytest.mark.parametrize("to", FORMATS)
def test_nothing_is_overwritten_and_nothing_left_behind(to, result, tmp_path, monkeypatch):
    path = tmp_path / f"mine{FORMATS[to].suffix}"
    if FORMATS[to].suffix:
        path.write_text("mine")
    else:
        path.mkdir()
        (path / "mine").write_text("mine")
    with pytest.raises(BadInput, match="exists"):
        result.to(to, path)

    def broken(self: GroundingResult, at: int):
        if at > 2:
            raise RuntimeError("no room")
        yield 1, MASKS[at, 0]

    monkeypatch.setattr(GroundingResult, "_shapes", broken)
    with pytest.raises(RuntimeError):
        result.to(to, tmp_path / f"new{FORMATS[to].suffix}")
    assert [one for one in tmp_path.iterdir() if not is_temporary(one)] == [path]


def test_an_unknown_format_is_told(result, tmp_path):
    with pytest.raises(BadInput, match="'kml': expected one of coco, yolo-seg"):
        result.to("kml", tmp_path / "a")
    with pytest.raises(BadInput, match="'csv': expected one of coco"):
        import_labels(tmp_path, "csv", result.video())


@pytest.mark.parametrize("has_void", [True, False])
def test_davis_refuses_more_objects_than_a_picture_has_values_for(result, tmp_path, has_void):
    labels = {"ids": [str(n) for n in range(255)], "names": ["ant"] * 255, "scores": {}, "has_void": has_void}
    many = replace(result, objects=255, config={"labels": labels})
    with pytest.raises(BadInput, match="which hold 254; use coco"):  # 255 is read as void
        many.to("davis", tmp_path / "a")


# commands


@pytest.fixture
def video(tmp_path) -> Path:
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, 10, 40, 52) as writer:
        for frame in frames_of(FRAMES, 40, 52):
            writer.write(frame)
    return path


def test_labels_travel_by_commands(video, tmp_path, monkeypatch, capsys):
    """A file of labels becomes truth, a result and rows; the result is exported, evaluated and looked at."""
    monkeypatch.chdir(tmp_path)
    rows = [f"{t + 1},4,{5 + t},6,8,9,1,-1,1\n{t + 1},9,30,20,5,5,1,-1,1\n" for t in range(6)]
    Path("gt.txt").write_text("".join(rows))
    given = ["import", "gt.txt", "--from", "mot", "--video", str(video), "--sentence", "the boxes"]
    for use in ("truth", "result"):
        assert main([*given, "--as", use, "--out", use]) == 0
    assert main([*given, "--as", "rows", "--out", "rows.jsonl", "--every", "2"]) == 0
    (row,) = read_dataset("videomolmo", tmp_path / "rows.jsonl")
    assert len(row.frame_names) == 3 and row.points_of("1", 0).shape == (2, 2) and row.expressions[0].text == "object"
    (record,) = read_dataset("imported", tmp_path / "truth")
    assert record.masks(2).sum() == 8 * 9 + 25 and record.expressions[0].objects == ("1", "2")
    table = evaluate("imported", tmp_path / "scores", path=tmp_path / "truth", external_predictions=tmp_path / "result",
                     layout="masks/{frame}.png")  # fmt: skip
    assert (table[table.metric == "J&F"].value == 1).all()
    truth = open_truth(tmp_path / "truth", 6, (40, 52))
    assert truth.objects == 2 and truth.masks(2).sum() == 8 * 9 + 25 and truth.void(2) is None
    assert main(["export", "result", "--to", "coco"]) == 0 and Path("result.coco.json").is_file()
    with monkeypatch.context() as patch:
        patch.chdir("result")
        assert main(["export", ".", "--to", "csv"]) == 0 and (tmp_path / "result.csv").is_file()
    assert main(["export", "result", "--to", "mots"]) == 0 and (Path("result.mots") / "gt" / "gt.txt").is_file()
    assert "mots does not hold" not in capsys.readouterr().err
    assert main(["export", "result", "--to", "coco"]) == 2 and "exists" in capsys.readouterr().err
    assert main([*given, "--as", "truth", "--out", "truth"]) == 2 and "not empty" in capsys.readouterr().err
    assert main([*given, "--as", "nonsense"]) == 2 and "--as is 'nonsense'" in capsys.readouterr().err
    assert main(["export", "result"]) == 2 and "--to is missing" in capsys.readouterr().err
    assert main(["export", "result", "elsewhere", "--to", "coco"]) == 2 and "--out" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["video", "images"])
def test_labels_of_an_excerpt_are_truth_of_its_frames(kind, tmp_path, request):
    given = request.getfixturevalue(kind)
    (tmp_path / "gt.txt").write_text("1,4,5,6,8,9,1,-1,1\n2,4,6,6,8,9,1,-1,1\n")
    result, _ = import_labels(tmp_path / "gt.txt", "mot", open_source(given, start="2f", end="4f"))
    result.save(tmp_path / "truth", overlay=False)
    (record,) = read_dataset("imported", tmp_path / "truth")
    assert len(record.frame_names) == 2 and record.masks(1).sum() == 8 * 9
    with record.frames() as frames, open_video(given) as whole:
        assert len(frames) == 2 and np.array_equal(frames[1], whole[3])


def test_rows_say_where_nothing_is(result, images, tmp_path):
    told = replace(result, source=images, _video=None)
    assert write_rows(told, tmp_path / "a.jsonl", every=2) == 2
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [row["caption"] for row in rows] == ["car", "pedestrian"] and rows[0]["objects"] == ["1", "3"]
    assert rows[1]["points"]["2"] == [{"x": -1, "y": -1}] and len(rows[0]["points"]["0"]) == 2
    x, y = rows[1]["points"]["0"][0].values()
    assert MASKS[0, 1][int(y * HEIGHT / 100), int(x * WIDTH / 100)]


def test_corrections_are_exported_too(tmp_path, monkeypatch):
    """A key frame that a person rejected is not in what the command writes."""
    from videomolmo.inspector.inspection import Inspection

    folder = made_result(12).save(tmp_path / "out", overlay=False)
    with Inspection(folder) as look:
        log = look.log
        log.append({"action": "drop_answer", "frame": 5, "result": log.result})
    assert main(["export", str(folder), "--to", "coco", "--out", str(tmp_path / "a.json")]) == 0
    with Inspection(folder) as look:
        wanted = [look.mask("fused", t) for t in range(12)]
    coco = json.loads((tmp_path / "a.json").read_text())
    for one in coco["annotations"]:
        own = run_lengths.decode_rle(one["segmentation"], "x")
        assert np.array_equal(own, wanted[one["image_id"]][one["track_id"] - 1])


@pytest.mark.parametrize(
    "wrong",
    [{"ids": ["1"]}, {"names": 5}, {"scores": {"x": {}}}, {"scores": {"1": {"0": "sure"}}}, {"scores": {"1": 1}}],
)
def test_labels_that_a_stranger_wrote_are_checked(wrong, result, tmp_path):
    """They are refused by one line; the inspector shows the rest, and exports it."""
    from videomolmo.inspector.exports import export_labels
    from videomolmo.inspector.inspection import Inspection

    folder = result.save(tmp_path / "out", overlay=False)
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    run["labels"] |= wrong
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
    with pytest.raises(BadInput) as caught:
        GroundingResult.load(folder)
    assert "\n" not in str(caught.value) and "labels" in str(caught.value)
    with Inspection(folder) as look:
        assert any("abels" in sentence for sentence in look.missing())
        export_labels(look, "coco", tmp_path / "a.json")


def test_the_page_says_what_the_code_does():
    """data/formats.md has a row for each format, and tells which of them are read."""
    page = (Path(__file__).parents[1] / "data" / "formats.md").read_text(encoding="utf-8")
    rows = {line.split("|")[1].strip(" `"): line for line in page.splitlines() if line.startswith("| `")}
    assert list(rows) == list(FORMATS)
    assert [name for name, line in rows.items() if line.split("|")[2].strip() == "both ways"] == READABLE
