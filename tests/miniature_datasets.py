"""Each public data set in miniature, written to disk under its own names and in its own formats."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

HEIGHT, WIDTH = 24, 32
PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0] + [value for number in range(3, 256) for value in (number,) * 3]


def box_mask(left: int, top: int = 4, side: int = 6) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def rle(mask: np.ndarray) -> dict[str, Any]:
    from pycocotools import mask as coco

    runs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in runs["size"]], "counts": runs["counts"].decode()}


def litter(folder: Path) -> Path:
    """The folder with what macOS leaves in it: a hidden file beside each file and folder, and one in each folder."""
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            (path / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
        if path is not folder:
            (path.parent / f"._{path.name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    return folder


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_lines(path: Path, rows: Sequence[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_frames(folder: Path, names: Sequence[str], suffix: str = ".jpg") -> None:
    """Grey frames, each brighter than the one before."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.new("RGB", (WIDTH, HEIGHT), (20 * number + 10,) * 3).save(folder / f"{name}{suffix}", quality=95)


def write_labels(path: Path, labels: np.ndarray) -> None:
    """A palette PNG as DAVIS and YouTube-VOS have them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette(PALETTE)
    image.save(path)


def write_binary(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)


def write_video(path: Path, frames: int = 12, fps: int = 4) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(frames):
            picture = np.full((HEIGHT, WIDTH, 3), 20 * number, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode(None))


def two_objects(frame: int) -> np.ndarray:
    """Object 1 moves to the right, object 2 stays."""
    return np.where(box_mask(2 + frame), 1, 0) + np.where(box_mask(20, 14), 2, 0)


def ref_youtube_vos(root: Path) -> Path:
    names = ["00000", "00005", "00010"]
    train = {"0": {"exp": "a dog on the left", "obj_id": "1"}, "1": {"exp": "the dog", "obj_id": "1"},
             "2": {"exp": "a ball", "obj_id": "2"}}  # fmt: skip
    hidden = {"0": {"exp": "a cat"}, "1": {"exp": "the cat that jumps"}}
    tables = {
        "train": {"003234408d": {"expressions": train, "frames": names}},
        "valid": {name: {"expressions": hidden, "frames": names} for name in ("0a49f5265b", "00f88c4f0a")},
        "test": {"00f88c4f0a": {"expressions": hidden, "frames": names}},
    }
    for split, videos in tables.items():
        write_json(root / "meta_expressions" / split / "meta_expressions.json", {"videos": videos})
        for video in videos:
            write_frames(root / split / "JPEGImages" / video, names)
    objects = {"1": {"category": "dog", "frames": names}, "2": {"category": "ball", "frames": names[1:]}}
    write_json(root / "train" / "meta.json", {"videos": {"003234408d": {"objects": objects}}})
    for frame, name in enumerate(names):
        write_labels(root / "train" / "Annotations" / "003234408d" / f"{name}.png", two_objects(frame))
    return root


def ref_davis17(root: Path) -> Path:
    davis, names = root / "DAVIS", ["00000", "00001", "00002"]
    sets = davis / "ImageSets" / "2017"
    sets.mkdir(parents=True)
    (sets / "train.txt").write_text("bear\n")
    (sets / "val.txt").write_text("bike-packing\n")
    texts = root / "davis_text_annotations"
    texts.mkdir()
    for annotator, ending in (("annot1", "\n"), ("annot1_full_video", "\n"), ("annot2", "\r\n"),
                              ("annot2_full_video", "\r\n")):  # fmt: skip
        lines = [f'bear 1 "a bear, {annotator}"', f'bike-packing 1 "a man’s bike, {annotator}"',
                 f'bike-packing 2 "a man, "{annotator}""']  # fmt: skip
        text = "".join(line + ending for line in lines)
        # the second annotator's files are not UTF-8
        data = text.replace("’", "\xb4").encode("latin-1") if "annot2" in annotator else text.encode()
        (texts / f"Davis17_{annotator}.txt").write_bytes(data)
    for video in ("bear", "bike-packing"):
        write_frames(davis / "JPEGImages" / "480p" / video, names)
        for frame, name in enumerate(names):
            labels = two_objects(frame)
            labels[0, :3] = 255
            write_labels(davis / "Annotations_unsupervised" / "480p" / video / f"{name}.png", labels)
    return root


def ref_davis17_converted(root: Path) -> Path:
    names = ["00000", "00001"]
    expressions = {str(id_): {"exp": f"thing {id_}", "obj_id": str(id_ // 4 + 1)} for id_ in range(8)}
    videos = {"bike-packing": {"expressions": expressions, "frames": names}}
    write_json(root / "meta_expressions" / "valid" / "meta_expressions.json", {"videos": videos})
    objects = {str(thing): {"category": "bicycle", "frames": names} for thing in (1, 2)}
    write_json(root / "valid" / "meta.json", {"videos": {"bike-packing": {"objects": objects}}})
    write_frames(root / "valid" / "JPEGImages" / "bike-packing", names)
    for frame, name in enumerate(names):
        write_labels(root / "valid" / "Annotations" / "bike-packing" / f"{name}.png", two_objects(frame))
    return root


def mevis(root: Path) -> Path:
    names = [f"{frame:05d}" for frame in range(3)]
    expressions = {
        "0": {"exp": "the bird flying away", "obj_id": [0], "anno_id": [7]},
        "1": {"exp": "both birds", "obj_id": [0, 1], "anno_id": [7, 12]},
        "2": {"exp": "a fish", "obj_id": [], "anno_id": []},
    }
    masks = {"7": [rle(box_mask(2)), None, rle(box_mask(4))], "12": [None, rle(box_mask(20)), None]}
    hidden = {"0": {"exp": "the bird flying away"}}
    for split, said in (("train", expressions), ("valid_u", expressions), ("valid", hidden)):
        videos = {"0ab4afe7fb46": {"expressions": said, "frames": names}}
        write_json(root / split / "meta_expressions.json", {"videos": videos})
        write_frames(root / split / "JPEGImages" / "0ab4afe7fb46", names)
        if said is expressions:
            write_json(root / split / "mask_dict.json", masks)
    return root


def revos(root: Path) -> Path:
    name, names = "UVO/all/-fbscFfkh4M", [f"{frame:05d}" for frame in range(2)]
    expressions = {
        "0": {"exp": "the red car", "obj_id": [0], "anno_id": [3], "type_id": 0},
        "1": {"exp": "what could hurt somebody?", "obj_id": [0], "anno_id": [3], "type_id": 1},
    }
    entry = {"vid_id": 0, "height": HEIGHT, "width": WIDTH, "expressions": expressions, "frames": names}
    for split in ("train", "valid"):
        write_json(root / f"meta_expressions_{split}_.json", {"videos": {name: entry}})
    write_json(root / "mask_dict.json", {"3": [rle(box_mask(2)), rle(box_mask(3))]})
    everything = [rle(box_mask(2) | box_mask(20)), rle(box_mask(3) | box_mask(20))]
    write_json(root / "mask_dict_foreground.json", {name: {"masks_rle": everything}})
    write_frames(root / "JPEGImages" / name, names)
    return root


def reason_vos(root: Path, as_list: bool = True) -> Path:
    names = ["00000", "00001", "00002"]
    said = [{"obj_id": 5, "exp_id": 0, "exp_text": "which one is dangerous?", "is_sent": True},
            {"obj_id": 5, "exp_id": 1, "exp_text": "the dangerous one", "is_sent": False}]  # fmt: skip
    listed = said if as_list else {str(item.pop("exp_id")): item for item in said}
    write_json(root / "meta_expressions.json", {"videos": {"ab12": {"source": "MOSE", "frames": names,
                                                                    "expressions": listed}}})  # fmt: skip
    write_frames(root / "JPEGImages" / "ab12", names)
    for frame in (0, 2):
        write_binary(root / "Annotations" / "mose_ab12_5" / f"{names[frame]}.png", box_mask(2 + frame))
    return root


def lasot(root: Path) -> Path:
    for name, text in (("airplane-2", "a white airplane\n"), ("airplane-10", "a grey airplane")):
        folder = root / "airplane" / name
        write_frames(folder / "img", [f"{number:08d}" for number in (1, 2, 3)])
        (folder / "groundtruth.txt").write_text("3,5,6,6\n4,5,6,6\n0,0,0,0\n")
        (folder / "full_occlusion.txt").write_text("0,0,0")
        (folder / "out_of_view.txt").write_text("0,0,1")
        (folder / "nlp.txt").write_text(text)
    (root / "testing_set.txt").write_text("airplane-10\n")
    return root


def groot(root: Path) -> Path:
    images = [
        {"id": number, "video_id": 1, "frame_id": number, "height": HEIGHT, "width": WIDTH,
         "file_name": f"MOT17-02-FRCNN/img1/{number:06d}.jpg"} for number in (2, 1)
    ]  # fmt: skip
    annotations = [
        {"id": 1, "image_id": 1, "track_id": 4, "bbox": [2, 3, 5, 9], "category_id": 1,
         "captions": ["man in black", "walking"]},
        {"id": 2, "image_id": 2, "track_id": 4, "bbox": [3, 3, 5, 9], "category_id": 1,
         "captions": ["man in black", None]},
        {"id": 3, "image_id": 2, "track_id": 9, "bbox": [20, 3, 5, 9], "category_id": 1,
         "captions": ["woman in red", "walking"]},
    ]  # fmt: skip
    write_json(root / "annotations" / "v1.0" / "mot17_train_coco.json",
               {"videos": [{"id": 1, "name": "MOT17-02-FRCNN"}], "images": images,
                "annotations": annotations})  # fmt: skip
    categories = [{"id": 1, "name": "person", "synonyms": ["person"], "definition": "a human being"}]
    write_json(root / "annotations" / "v1.0" / "categories.json", categories)
    write_frames(root / "MOT17" / "train" / "MOT17-02-FRCNN" / "img1", ["000001", "000002"])
    return root


def vicas(root: Path) -> Path:
    names = [f"{frame:05d}.jpg" for frame in range(3)]
    segmentations = [
        {"filename": names[0], "is_gt": True, "track_ids": [1, 2], "mask_rles": [rle(box_mask(2)), rle(box_mask(20))]},
        {"filename": names[1], "is_gt": False, "track_ids": [1], "mask_rles": [rle(box_mask(3))]},
        {"filename": names[2], "is_gt": True, "track_ids": [], "mask_rles": []},
    ]
    entry = {
        "video_id": 7449, "src_dataset": "oops", "filename": "fails.mp4", "image_size": [HEIGHT, WIDTH],
        "caption_raw_en": "A <1: man> falls.", "caption_parsed_en": "A man falls.", "caption_raw_cn": "",
        "reworded_en_captions": [], "all_track_ids": [1, 2], "segmentations": segmentations,
        "object_referrals": [{"prompt": "the man who falls", "track_ids": [1]},
                             {"prompt": "everybody", "track_ids": [1, 2]}],
    }  # fmt: skip
    write_json(root / "annotations" / "v0.1" / "007449.json", entry)
    write_json(root / "splits" / "v0.1" / "val.json", [7449])
    write_frames(root / "video_frames" / "007449", names, "")
    return root


EARLY = {"video": "davis17/00000/frames", "frame_idxs": [0, 1], "points": {"0": [25.0, 50.0], "1": [50.0, 75.0]},
         "caption": "Where is a brown bear", "fps": 30, "timestamps": [0.0, 0.0333]}  # fmt: skip
LATER = {"video": "davis17/00000/frames", "frame_idxs": [0, 2],
         "points": {"0": [{"x": 25.0, "y": 50.0}, {"x": 75.0, "y": 50.0}], "2": [{"x": -1, "y": -1}]},
         "caption": "a brown bear"}  # fmt: skip
LISTED = {"video": "davis17/00000/frames", "frame_idxs": [0, 1], "points": [[[25.0, 50.0]], [[-1, -1]]],
          "caption": "a brown bear"}  # fmt: skip


def videomolmo(root: Path) -> Path:
    write_lines(root / "train.jsonl", [EARLY, LATER, LISTED])
    write_frames(root / "davis17" / "00000" / "frames", ["00000", "00001", "00002"])
    return root


def vpos(root: Path) -> Path:
    row = {"video": "clip_1", "frame_idxs": [0, 1], "points": {"0": [[25.0, 50.0]], "1": [[30.0, 50.0]]},
           "caption": "the car ahead"}  # fmt: skip
    write_lines(root / "autonomous_driving" / "annotations.jsonl", [row])
    write_frames(root / "autonomous_driving" / "clip_1", ["00000", "00001"])
    write_binary(root / "autonomous_driving" / "masks" / "clip_1" / "00000.png", box_mask(5))
    return root


def molmo2_video_point(root: Path) -> Path:
    row = {"video_id": "a1", "video_source": "youtube", "video_duration": 3.0, "clip_start": 0.0, "clip_end": 3.0,
           "category": "object", "label": "dogs", "question": "Point to the dogs.", "count": 3,
           "two_fps_timestamps": [0.5, 2.0], "annotator_unsure": False,
           "points": [[{"x": 25.0, "y": 50.0}], [{"x": 50.0, "y": 50.0}, {"x": 75.0, "y": 75.0}]]}  # fmt: skip
    import pyarrow
    from pyarrow import parquet

    (root / "object").mkdir(parents=True)
    parquet.write_table(pyarrow.Table.from_pylist([row, row]), root / "object" / "train-00000-of-00001.parquet")
    write_video(root / "videos" / "a1.mp4")
    return root


def molmo2_video_point_eval(root: Path) -> Path:
    row = {"video_id": "a1", "video_source": "youtube", "height": HEIGHT, "width": WIDTH, "video_duration": 3.0,
           "label": "dog", "two_fps_timestamps": [0.5, 1.0],
           "points": [{"x": 4.0, "y": 6.0}, {"x": 22.0, "y": 6.0}],
           "masks": [[{"frame_id": 1, "rle": rle(box_mask(2))}, {"frame_id": 2, "rle": rle(box_mask(3))}],
                     [{"frame_id": 2, "rle": rle(box_mask(20))}]]}  # fmt: skip
    write_lines(root / "val.jsonl", [row])
    write_video(root / "videos" / "a1.mp4")
    return root


def molmo2_video_count_eval(root: Path) -> Path:
    row = {"video_id": "a1", "label": "dogs", "question": "How many dogs are there?", "count": 5,
           "category": "animal", "clip_start": 0.0, "clip_end": 3.0, "video_duration": 3.0}  # fmt: skip
    write_lines(root / "val.jsonl", [row])
    write_video(root / "videos" / "a1.mkv")
    return root


def molmo2_track(root: Path) -> Path:
    def point(id_: int, x: float, occluded: bool = False) -> dict:
        return {"id": id_, "point": [x, 6.0], "occluded": occluded}

    row = {"id": "t0", "video": "b2", "expression": "the dogs", "fps": 4, "sampling_fps": 1, "height": HEIGHT,
           "width": WIDTH, "n_frames": 12, "task": "track", "mask_id": ["m1", "m2"], "obj_id": [3, 4],
           "frame_trajectories": [{"frame": 0, "time": "00:00.00", "points": [point(0, 4.0), point(1, 22.0)]},
                                  {"frame": 4, "time": "00:01.00", "points": [point(0, 6.0, True)]}]}  # fmt: skip
    write_lines(root / "track" / "train.jsonl", [row])
    masks = {"m1": [{"frame": 0, "mask": rle(box_mask(2))}, {"frame": 4, "mask": rle(box_mask(4))}],
             "m2": [rle(box_mask(20)), None, None, None, None]}  # fmt: skip
    write_json(root / "masks.json", masks)
    write_video(root / "videos" / "b2.mp4")
    return root


def vidstg(root: Path) -> Path:
    common = {"original_video_id": "2401", "frame_count": 12, "fps": 4.0, "width": WIDTH, "height": HEIGHT,
              "start_frame": 2, "end_frame": 10, "tube_start_frame": 4, "tube_end_frame": 8,
              "video_path": "0001/2401.mp4", "target_id": 0}  # fmt: skip
    rows = [{**common, "video_id": 0, "caption": "who holds the toy?", "type": "who", "qtype": "interrogative"},
            {**common, "video_id": 1, "caption": "a child holds it.", "type": "", "qtype": "declarative"}]  # fmt: skip
    boxes = {str(frame): {"bbox": [frame, 4, 6, 6], "generated": 0} for frame in range(4, 8)}
    write_json(root / "test.json", {"videos": rows, "trajectories": {"2401": {"0": boxes}}})
    write_video(root / "video" / "0001" / "2401.mp4")
    return root


def burst_ytvis_gcg(root: Path) -> Path:
    names = {"yt19": "ab12cd", "burst": "YFCC100M/v_1"}
    videos = [
        {"file_names": [f"{folder}/{frame:05d}.jpg" for frame in range(3)], "width": WIDTH, "height": HEIGHT,
         "length": 3, "dataset_split": source,
         "dense_cap": {"caption": "A dog chases two balls.", "token_pos": [1, 4, 4], "mask_id": masks,
                       "v_id2o_id": {}}}
        for (source, folder), masks in zip(names.items(), ([10, 11, 12], [20, 10, 12]), strict=True)
    ]  # fmt: skip
    runs = {10: [rle(box_mask(2)), None, rle(box_mask(4))], 11: [None, rle(box_mask(20)), None],
            12: [rle(box_mask(20, 14))] * 3, 20: [rle(box_mask(8))] * 3}  # fmt: skip
    annotations = [{"id": number, "segmentations": entries} for number, entries in runs.items()]
    for split in ("train", "test"):
        index = {"videos": videos, "annotations": annotations}
        write_json(root / "video_gcg" / "instruction_data" / f"{split}.json", index)
    numbers = [f"{frame:05d}" for frame in range(3)]
    write_frames(root / "ytvis" / "vos" / "train" / "JPEGImages" / "ab12cd", numbers)
    for part in ("train", "val"):
        write_frames(root / "burst" / "frames" / part / "YFCC100M" / "v_1", numbers)
    return root


def mevis_gcg(root: Path) -> Path:
    mevis(root / "mevis")
    caption = {"caption": "Two [birds](0, 1) sit.\n    One [is flying away](0)."}
    write_json(root / "mevis_gcg" / "train" / "0ab4afe7fb46.json", caption)
    return root


def ytvos_gcg(root: Path) -> Path:
    ref_youtube_vos(root / "refer_youtube_vos")
    write_json(root / "ytvos_gcg" / "train" / "003234408d.json", {"caption": "[A dog](1) with a [ball](2)."})
    return root


def boxed_gcg(root: Path, name: str) -> Path:
    write_json(root / name / "train_captions" / "000042.json", {"caption": "A [child](0) holds [a toy](0, 2)."})
    clip = root / name / "train" / "000042"
    write_frames(clip / "frames", ["000000", "000001"], ".png")
    for frame in range(2):
        write_binary(clip / "masks" / "000" / f"{frame:06d}.png", box_mask(2 + frame))
        write_binary(clip / "masks" / "002" / f"{frame:06d}.png", box_mask(20))
    return root


def anet_gcg(root: Path) -> Path:
    folder, clip = root / "activitynet_entities_gcg", "v_fzp5ooc727c"
    caption = "In it, <p> A man </p> [SEG:1] lifts <p> a bar </p> [SEG:0] . <p> He </p> [SEG:1] rests."
    objects = {f"[SEG:{number}]": {"bbox": [2, 4, 8, 10], "frame_id": 3, "process_idx": [1], "crowds": 0}
               for number in range(2)}  # fmt: skip
    entry = {"video_id": clip, "segment_id": "6", "refined_caption": caption, "seg_token_to_obj": objects}
    write_json(folder / "anns" / f"{clip}____6.json", entry)
    write_frames(folder / "video_frames" / clip / "6", [f"{frame:02d}" for frame in range(10)])
    for number in range(2):
        write_binary(folder / "masks" / f"{clip}____6" / f"{number:02d}" / "mask.png", box_mask(2 + 18 * number))
    return root


def captions(root: Path) -> Path:
    """Rows about a set that needs no files, and one about boxes with masks of their own."""
    phrases = [[0, 3, ["1"]]]
    row = {"dataset": "gcg_nano", "split": "test", "number": 0, "clip": "10000000", "caption": "One moves.",
           "phrases": phrases}  # fmt: skip
    vidstg(root / "vidstg")
    runs = [None, None, rle(box_mask(4)), *[None] * 5]
    boxed = row | {"dataset": "vidstg", "clip": "2401:2-10", "phrases": [[0, 3, ["0"]]], "masks": {"0": runs}}
    write_lines(root / "captions.jsonl", [row])
    write_lines(root / "boxed.jsonl", [boxed])
    return root


BUILDERS = {
    "burst_ytvis_gcg": burst_ytvis_gcg,
    "mevis_gcg": mevis_gcg,
    "ytvos_gcg": ytvos_gcg,
    "vidstg_gcg": partial(boxed_gcg, name="vidstg_gcg"),
    "hcstvg_gcg": partial(boxed_gcg, name="hcstvg_gcg"),
    "anet_gcg": anet_gcg,
    "captions": captions,
    "ref_youtube_vos": ref_youtube_vos,
    "ref_davis17": ref_davis17,
    "mevis": mevis,
    "revos": revos,
    "reason_vos": reason_vos,
    "lasot": lasot,
    "groot": groot,
    "vicas": vicas,
    "videomolmo": videomolmo,
    "vpos": vpos,
    "molmo2_video_point": molmo2_video_point,
    "molmo2_video_point_eval": molmo2_video_point_eval,
    "molmo2_video_count_eval": molmo2_video_count_eval,
    "molmo2_track": molmo2_track,
    "vidstg": vidstg,
}
