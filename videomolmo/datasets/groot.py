"""GroOT (Type-to-Track): boxes of many objects, with sentences about how they look and what they do."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from videomolmo.datasets.annotations import Boxes
from videomolmo.datasets.files import MissingFile, inside, read_json
from videomolmo.datasets.media import Pictures
from videomolmo.datasets.record import Expression, Record, Records, in_order
from videomolmo.listing import natural_key

NAME = "groot"
KINDS = ("appearance", "action")
_FOLDERS = ("", "annotations", "annotations/v1.0")


def splits(root: Path) -> tuple[str, ...]:
    """What is there: 'mot17_train' for mot17_train_coco.json, and so on."""
    found = (path for folder in _FOLDERS for path in (root / folder).glob("*_coco.json"))
    return tuple(sorted({path.name.removesuffix("_coco.json") for path in found}, key=natural_key))


def read(root: Path, split: str = "mot17_train", images: str | Path | None = None) -> Records:
    """Records of a subset.

    One expression for each sentence and kind; it means all objects that carry the sentence.

    Args:
        root: folder with {split}_coco.json, or its 'annotations' or 'annotations/v1.0'.
        split: subset and part, such as 'mot17_train' or 'tao_train'.
        images: folder that the file names start from (default: the first of root/MOT17/train, root/train, root/images
            and root, spelt for the split, that has the first image).
    """
    places = [inside(root / folder, f"{split}_coco.json") for folder in _FOLDERS]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise MissingFile(f"{places[0]}: no such file, nor in annotations/ or annotations/v1.0/ there")
    index = read_json(path, "annotations in COCO's format")
    by_video: dict[Any, list[dict]] = defaultdict(list)
    for image in index["images"]:
        by_video[image["video_id"]].append(image)
    by_image: dict[Any, list[dict]] = defaultdict(list)
    for annotation in index["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    categories = {entry["id"]: entry.get("name") for entry in _categories(path, index)}
    folder = Path(images) if images is not None else _image_folder(root, split, index["images"])
    videos = {video["id"]: str(video.get("name") or video.get("file_name") or video["id"]) for video in index["videos"]}

    def build(key: Any) -> Record:
        listed = sorted(by_video[key], key=lambda image: image["frame_id"])
        frames = Pictures(
            tuple(inside(folder, image["file_name"]) for image in listed),
            tuple(str(image["frame_id"]) for image in listed),
        )
        annotations = [by_image[image["id"]] for image in listed]
        return _record(split, videos[key], frames, annotations, categories)

    return Records(NAME, split, root, list(videos), build)


def _record(
    split: str, clip: str, frames: Pictures, annotations: list[list[dict]], categories: dict[Any, str]
) -> Record:
    boxes: dict[str, dict[int, list[float]]] = defaultdict(dict)
    names: dict[str, str | None] = {}
    said: dict[tuple[str, str], list[str]] = defaultdict(list)
    for frame, entries in enumerate(annotations):
        for entry in entries:
            thing = str(entry["track_id"] if "track_id" in entry else entry["instance_id"])
            boxes[thing][frame] = entry["bbox"]
            names[thing] = categories.get(entry.get("category_id"))
            for kind, text in zip(KINDS, entry.get("captions") or (), strict=False):
                if text and text != "None" and thing not in said[kind, text]:
                    said[kind, text].append(thing)
    expressions = tuple(
        Expression(str(number), text, tuple(in_order(things)), kind)
        for number, ((kind, text), things) in enumerate(said.items())
        if things
    )
    return Record(NAME, split, clip, frames, expressions, {thing: names[thing] for thing in in_order(list(names))},
                  Boxes(boxes))  # fmt: skip


def _categories(path: Path, index: dict[str, Any]) -> list[dict]:
    """Categories of the file itself, or of categories.json beside it."""
    beside = path.with_name("categories.json")
    entries = index.get("categories") or (read_json(beside, "categories", object) if beside.is_file() else [])
    entries = entries.get("categories", entries) if isinstance(entries, dict) else entries
    return [entry for entry in entries if isinstance(entry, dict) and "id" in entry]


def _image_folder(root: Path, split: str, images: list[dict]) -> Path:
    source, _, part = split.partition("_")
    folders = [root / source.upper() / part, root / source.upper(), root / part, root / "images", root]
    first = images[0]["file_name"] if images else "none"
    return next((folder for folder in folders if inside(folder, first).is_file()), folders[0])
