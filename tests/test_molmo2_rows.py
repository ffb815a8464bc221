"""Rows of Molmo 2 from masks and boxes of any reader, and the readers of tracking sets: two doors for many."""

from __future__ import annotations

import json
from pathlib import Path

import miniature_datasets as mini
import numpy as np
import pytest
from conftest import seen_throughout
from PIL import Image
from pycocotools import mask as coco

from videomolmo.annotation.molmo2_rows import gaussian_point, on_grid
from videomolmo.cli import main
from videomolmo.datasets import read_dataset
from videomolmo.errors import BadInput
from videomolmo.metrics.boxes import box_of
from videomolmo.points import read_points
from videomolmo.training.recipe import Data, Source
from videomolmo.training.video_samples import VideoSamples

FPS = 5.0  # of the clip: every second or third frame is on a grid of two a second


def boxes_of(clip, thing) -> list[np.ndarray]:
    return [np.array(box_of(mask) or (0, 0, 0, 0)) for mask in clip.masks[:, thing]]


@pytest.fixture(scope="module")
def mot(clip, tmp_path_factory) -> Path:
    """A clip in MOT's layout: one thing with its boxes, and one whose boxes are elsewhere after the first."""
    root = tmp_path_factory.mktemp("mot")
    folder = root / "train" / "clip-01"
    for name in ("img1", "gt"):
        (folder / name).mkdir(parents=True)
    for number, frame in enumerate(clip.frames, 1):
        Image.fromarray(frame).save(folder / "img1" / f"{number:06d}.png")
    lines, height, width = [], *clip.frames.shape[1:3]
    for number, box in enumerate(boxes_of(clip, seen_throughout(clip)[0]), 1):
        wrong = box if number == 1 else [width - 6, height - 6, 5, 5]
        lines += [f"{number},7,{','.join(map(str, box))},1,1,1.0", f"{number},8,{','.join(map(str, wrong))},1,1,1.0"]
    (folder / "gt" / "gt.txt").write_text("\n".join([*lines, "1,9,0,0,9,9,0,1,1.0"]) + "\n")
    (folder / "seqinfo.ini").write_text(f"[Sequence]\nname=clip-01\nframeRate={FPS:g}\nseqLength={len(clip.frames)}\n")
    return root


def run_of(mask: np.ndarray) -> dict | None:
    """COCO's run lengths, none for an empty mask."""
    run = coco.encode(np.asfortranarray(mask))
    return {**run, "counts": run["counts"].decode()} if mask.any() else None


@pytest.fixture(scope="module")
def vis(clip, mot) -> Path:
    """The same clip as YouTube-VIS has it, beside, with the images of the other."""
    annotations = [
        {"id": number + 1, "video_id": 1, "category_id": 3,
         "segmentations": [run_of(mask) for mask in clip.masks[:, one]],
         "bboxes": [box.tolist() if box.any() else None for box in boxes_of(clip, one)]}
        for number, one in enumerate(seen_throughout(clip))
    ]  # fmt: skip
    files = [f"clip-01/img1/{number:06d}.png" for number in range(1, len(clip.frames) + 1)]
    video = {"id": 1, "file_names": files, "height": clip.frames.shape[1], "width": clip.frames.shape[2], "fps": FPS,
             "name": "clip-01"}  # fmt: skip
    index = {"videos": [video], "annotations": annotations, "categories": [{"id": 3, "name": "toy_block"}]}
    (mot / "vis.json").write_text(json.dumps(index))
    return mot


def rows_in(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "annotations.jsonl").read_text().splitlines()]


def test_boxes_of_mot_are_read_as_they_stand(clip, mot):
    record = read_dataset("mot", mot)[0]
    assert (record.clip, record.fps, list(record.objects)) == ("clip-01", FPS, ["7", "8"])
    assert record.box_of("7", 0).tolist() == boxes_of(clip, seen_throughout(clip)[0])[0].tolist()
    assert record.frame_names[0] == "000001" and record.expressions[0].text == "people"
    with record.frames() as frames:
        assert np.array_equal(frames[0], clip.frames[0])


def test_masks_and_boxes_of_youtube_vis_are_read(clip, vis):
    record = read_dataset("coco_video", vis, "vis", images=vis / "train")[0]
    thing = seen_throughout(clip)[0]
    assert record.expressions[0].text == "toy block" and np.array_equal(record.mask_of("1", 2), clip.masks[2, thing])
    assert record.box_of("1", 2).tolist() == boxes_of(clip, thing)[2].tolist()
    assert record.fps == FPS and len(record.frame_names) == len(clip.frames)


@pytest.mark.parametrize("kind", ["images", "burst"])
def test_other_jsons_come_through_the_same_door(clip, vis, tmp_path, kind):
    index = json.loads((vis / "vis.json").read_text())
    video, entry = index["videos"][0], index["annotations"][0]
    runs = entry["segmentations"]
    if kind == "images":
        images = [{"id": 10 + at, "video_id": 1, "frame_id": at, "file_name": name}
                  for at, name in enumerate(video["file_names"])]  # fmt: skip
        annotations = [{"id": 50 + at, "image_id": 10 + at, "instance_id": 4, "category_id": 3, "bbox": [1, 2, 3, 4],
                        "segmentation": run} for at, run in enumerate(runs) if run]  # fmt: skip
        index |= {"videos": [{"id": 1, "name": "clip-01"}], "images": images, "annotations": annotations}
    else:
        sequence = {
            "dataset": "train",
            "seq_name": "clip-01",
            "height": runs[0]["size"][0],
            "width": runs[0]["size"][1],
            "fps": 6,
            "track_category_ids": {"4": 3},
            "annotated_image_paths": [f"img1/{Path(name).name}" for name in video["file_names"]],
            "segmentations": [{"4": {"rle": run["counts"], "is_gt": True}} if run else {} for run in runs],
        }
        index = {"sequences": [sequence], "categories": index["categories"]}  # fmt: skip
    (tmp_path / "train.json").write_text(json.dumps(index))
    record = read_dataset("coco_video", tmp_path, images=vis / ("train" if kind == "images" else ""))[0]
    assert list(record.objects.items()) == [("4", "toy_block")]
    assert np.array_equal(record.mask_of("4", 1), clip.masks[1, seen_throughout(clip)[0]])
    with record.frames() as frames:
        assert np.array_equal(frames[3], clip.frames[3])


def test_palette_pngs_and_got10k_are_read(clip, mot, tmp_path):
    thing = seen_throughout(clip)[0]
    for name in ("JPEGImages", "Annotations"):
        (tmp_path / "train" / name / "a").mkdir(parents=True)
    got = tmp_path / "val" / "GOT-10k_Val_000001"
    got.mkdir(parents=True)
    for at in range(3):
        Image.fromarray(clip.frames[at]).save(tmp_path / "train" / "JPEGImages" / "a" / f"{at:05d}.jpg")
        labels = np.where(clip.masks[at, thing], 5, 255).astype(np.uint8)
        Image.fromarray(labels).save(tmp_path / "train" / "Annotations" / "a" / f"{at:05d}.png")
        Image.fromarray(clip.frames[at]).save(got / f"{at + 1:08d}.jpg")
    (got / "groundtruth.txt").write_text("1.0,2.0,3.0,4.0\n5,6,7,8\n1,1,1,1\n")
    (got / "absence.label").write_text("0\n0\n1\n")
    (got / "meta_info.ini").write_text("[METAINFO]\nobject_class: bear\nanno_fps: 10Hz\n".replace("Hz", "fps"))
    mini.litter(tmp_path)
    record = read_dataset("palette_video", tmp_path)[0]
    assert list(record.objects) == ["5"] and np.array_equal(record.mask_of("5", 1), clip.masks[1, thing])
    with record.frames() as frames:
        assert len(frames) == 3
    record = read_dataset("got10k", tmp_path)[0]
    assert record.frame_names == ("00000001", "00000002", "00000003")
    assert record.expressions[0].text == "the bear" and record.fps == 10
    assert record.box_of("1", 1).tolist() == [5, 6, 7, 8] and record.box_of("1", 2) is None


def test_points_are_drawn_about_the_middle_and_never_leave_the_mask():
    mask = np.zeros((40, 60), bool)
    mask[10:30, 10:50] = True
    rng = np.random.default_rng(0)
    points = np.array([gaussian_point(mask, rng, 0.15) for _ in range(400)])
    assert all(mask[int(y), int(x)] for x, y in points)
    assert np.abs(points.mean(axis=0) - [30, 20]).max() < 1 and np.allclose(points.std(axis=0), [6, 3], rtol=0.15)
    ring = mask.copy()
    ring[12:28, 12:48] = False
    x, y = gaussian_point(ring, rng, 0.01)
    assert ring[int(y), int(x)]


def test_frames_on_a_grid_are_the_nearest_ones():
    assert on_grid(np.arange(10) / FPS, 2) == [0, 2, 5, 7] and on_grid(np.arange(61) / 29.97, 1) == [0, 30, 60]


def test_masks_become_points_in_time_and_rows_that_training_reads(clip, vis, tmp_path):
    records = ["--benchmark", "coco_video", "--path", str(vis), "--split", "vis"]
    (vis / "images").exists() or (vis / "images").symlink_to(vis / "train")
    out = tmp_path / "points"
    assert main(["annotate", *records, "--rows", "molmo2-point", "--out", str(out)]) == 0
    (row,) = rows_in(out)
    things = seen_throughout(clip)
    assert (row["count"], row["label"], row["two_fps_timestamps"]) == (len(things), "toy block", [0.0])
    assert row["made_by"] == {"sigma": 0.15, "min_track_iou": 0.5, "seed": 0, "sampling_fps": 2.0}
    height, width = clip.frames.shape[1:3]
    for point in row["points"][0]:
        x, y = int(point["x"] / 100 * width), int(point["y"] / 100 * height)
        assert clip.masks[0, things, y, x].any()
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "clip-01").symlink_to(vis / "train" / "clip-01" / "img1")
    source = Source("molmo2_video_point", str(out), "annotations", {"videos": str(tmp_path / "videos")})
    samples = VideoSamples(Data(sets=(source,)), seed=0)
    (message,) = samples[0].messages
    answer = read_points(message.answer, height, width)
    assert len(answer.points_px) == len(things) and set(answer.times.tolist()) == {0.0}
    count = tmp_path / "counts"
    assert main(["annotate", *records, "--rows", "molmo2-count", "--out", str(count)]) == 0
    assert rows_in(count)[0]["question"] == "How many toy block are there in the video?"


def test_boxes_are_followed_and_tracks_that_stray_are_dropped_and_listed(clip, mot, tmp_path, capsys):
    out = tmp_path / "tracks"
    command = [
        "annotate",
        "--benchmark",
        "mot",
        "--path",
        str(mot),
        "--split",
        "train",
        "--rows",
        "molmo2-track",
        "--out",
        str(out),
    ]
    assert main(command) == 0 and "1 dropped, 1 kept" in capsys.readouterr().out
    (row,) = rows_in(out)
    assert row["mask_id"] == ["7"] and row["sampling_fps"] == 2 and row["fps"] == FPS
    thing = seen_throughout(clip)[0]
    for entry in row["frame_trajectories"]:
        assert entry["time"] % 0.5 == 0 and abs(entry["frame"] / FPS - entry["time"]) <= 0.5 / FPS + 1e-6
        for point in entry["points"]:
            x, y = point["point"]
            assert point["id"] == "0" and clip.masks[entry["frame"], thing, int(y), int(x)]
    assert sum(len(entry["points"]) for entry in row["frame_trajectories"]) == len(row["frame_trajectories"])
    quality = {row["object"]: row for row in map(json.loads, (out / "quality.jsonl").read_text().splitlines())}
    assert quality["7"]["iou"] > 0.7 and quality["8"]["verdict"] == "dropped" and quality["8"]["iou"] < 0.5
    before = (out / "annotations.jsonl").read_bytes()
    assert main(command) == 0 and (out / "annotations.jsonl").read_bytes() == before


@pytest.mark.parametrize("values, said", [
    (["--rows", "molmo3"], "rows is 'molmo3', expected one of videomolmo, molmo2-point"),
    (["--rows", "molmo2-track", "--sampling-fps", "6"], "sampling_fps is 6, expected 1 or 2"),
    (["--rows", "molmo2-point", "--sigma", "2"], "sigma is 2.0, expected a share of a side"),
])  # fmt: skip
def test_bad_settings_are_one_line_and_nothing_is_written(mot, tmp_path, capsys, values, said):
    out = tmp_path / "out"
    assert main(["annotate", "--benchmark", "mot", "--path", str(mot), "--out", str(out), *values]) == 2
    assert said in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize("text, said", [("1,2,3\n", "line 1"), ("0,1,1,1,1,1\n", "line 1"), ("x\n", "frame,id,left")])
def test_broken_tables_are_named_with_their_line(tmp_path, text, said):
    place = tmp_path / "train" / "a" / "gt"
    place.mkdir(parents=True)
    (place / "gt.txt").write_text(text)
    with pytest.raises(BadInput, match=said):
        read_dataset("mot", tmp_path)[0]
