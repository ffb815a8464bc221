"""Video sets in one JSON like COCO's, or in palette PNGs: masks or boxes of objects, each with its category.

One door for LV-VIS, OVIS and YouTube-VIS (runs by video), BURST (runs by frame), BDD100K and others converted to COCO
(annotations by image); the other for VIPSeg, MOSE and whatever has a folder of PNGs for each video.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from videomolmo.datasets.annotations import Annotations, Boxes, LabelPNGs, RLEs
from videomolmo.datasets.files import MissingFile, read_json, safe_join
from videomolmo.datasets.record import Expression, ImageSequence, Record, Records, image_sequence, in_order
from videomolmo.io.images import visible

COCO_VIDEO, PALETTE_VIDEO = "coco_video", "palette_video"
VOID = 255
_PLACES = ("", "annotations")


class MasksAndBoxes(Annotations):
    """Masks from one place and boxes from another."""

    def __init__(self, masks: Annotations, boxes: Annotations):
        self.mask, self.box = masks.mask, boxes.box


def coco_video_splits(root: Path) -> tuple[str, ...]:
    """Names of the JSON files, in `root` or its 'annotations'."""
    return tuple(sorted({path.stem for place in _PLACES for path in visible(root / place, "*.json")}))


def read_coco_video(root: Path, split: str = "train", images: str | Path | None = None) -> Records:
    """Records of a JSON: one sentence for each category of a video, which means all its objects.

    Args:
        root: folder with {split}.json, or with annotations/{split}.json.
        split: which file.
        images: folder that the file names start from (default: the first of root/{split}/JPEGImages, root/JPEGImages,
            root/images, root/{split}, root/frames/{split} and root that has the first image).
    """
    places = [safe_join(root / place, f"{split}.json") for place in _PLACES]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise MissingFile(f"{places[0]}: no such file, nor in annotations/ there")
    index = read_json(path, "videos and annotations")
    categories = {entry["id"]: entry.get("name") for entry in index.get("categories", ())}
    if "sequences" in index:
        keys, parts = _burst(index)
    elif any("segmentations" in entry or "bboxes" in entry for entry in index["annotations"][:1]):
        keys, parts = _by_video(index)
    else:
        keys, parts = _by_image(index)

    def build(key: Any) -> Record:
        name, files, objects, annotations, fps = parts(key, path)
        folder = Path(images) if images is not None else _folder(root, split, files[0] if files else "")
        frames = ImageSequence(tuple(safe_join(folder, file) for file in files), tuple(Path(one).stem for one in files))
        named = {object_id: categories.get(kind) for object_id, kind in objects.items()}
        ordered = {object_id: named[object_id] for object_id in in_order(list(named))}
        return Record(COCO_VIDEO, split, name, frames, said_of(ordered), ordered, annotations, fps)

    return Records(COCO_VIDEO, split, root, keys, build)


def said_of(objects: Mapping[str, str | None]) -> tuple[Expression, ...]:
    """A sentence for each category: its name, which means all objects of it; "objects" where there is no name.

    Example:
        >>> [(one.text, one.objects) for one in said_of({"1": "dog", "2": "cat", "3": "dog"})]
        [('dog', ('1', '3')), ('cat', ('2',))]
    """
    kinds: dict[str, list[str]] = defaultdict(list)
    for object_id, kind in objects.items():
        kinds[str(kind).replace("_", " ") if kind else "objects"].append(object_id)
    return tuple(Expression(str(number), kind, tuple(ids)) for number, (kind, ids) in enumerate(kinds.items()))


Part = tuple[str, list[str], dict[str, Any], Annotations, float | None]


def _by_video(index: dict[str, Any]) -> tuple[list[Any], Callable[..., Part]]:
    """YouTube-VIS: an annotation is an object with a list of runs, one for each frame of its video."""
    videos = {video["id"]: video for video in index["videos"]}
    own: dict[Any, list[dict]] = defaultdict(list)
    for entry in index["annotations"]:
        own[entry["video_id"]].append(entry)

    def part(key: Any, path: Path) -> Part:
        video, entries = videos[key], {str(entry["id"]): entry for entry in own[key]}
        files = list(video["file_names"])
        runs = {object_id: entry.get("segmentations") for object_id, entry in entries.items()}
        boxes = {object_id: {at: box for at, box in enumerate(entry.get("bboxes") or ()) if box}
                 for object_id, entry in entries.items()}  # fmt: skip
        truth: Annotations = Boxes(boxes)
        if any(runs.values()):
            truth = MasksAndBoxes(RLEs(lambda: runs, len(files), path), truth)
        name = str(video.get("name") or Path(files[0]).parent if files else key)
        return name, files, {one: entry["category_id"] for one, entry in entries.items()}, truth, video.get("fps")

    return list(videos), part


def _by_image(index: dict[str, Any]) -> tuple[list[Any], Callable[..., Part]]:
    """COCO with videos: an annotation is an object on one image, a box and perhaps runs."""
    images: dict[Any, list[dict]] = defaultdict(list)
    for image in index["images"]:
        images[image["video_id"]].append(image)
    own: dict[Any, list[dict]] = defaultdict(list)
    for entry in index["annotations"]:
        own[entry["image_id"]].append(entry)
    videos = {video["id"]: video for video in index["videos"]}

    def part(key: Any, path: Path) -> Part:
        listed = sorted(images[key], key=lambda image: image.get("frame_id", image.get("frame_index", image["id"])))
        boxes: dict[str, dict[int, Any]] = defaultdict(dict)
        runs: dict[str, dict[int, Any]] = defaultdict(dict)
        objects: dict[str, Any] = {}
        for at, image in enumerate(listed):
            for entry in own[image["id"]]:
                name = next(entry[field] for field in ("instance_id", "track_id", "id") if field in entry)
                objects[str(name)] = entry.get("category_id")
                boxes[str(name)][at] = entry.get("bbox")
                if entry.get("segmentation"):
                    runs[str(name)][at] = entry["segmentation"]
        truth: Annotations = Boxes(boxes)
        if runs:
            every = {name: runs.get(name, {}) for name in objects}
            truth = MasksAndBoxes(RLEs(lambda: every, len(listed), path), truth)
        video = videos[key]
        name = str(video.get("name") or video.get("file_name") or key)
        return name, [image["file_name"] for image in listed], objects, truth, video.get("fps")

    return list(videos), part


def _burst(index: dict[str, Any]) -> tuple[list[Any], Callable[..., Part]]:
    """BURST: a list of objects with runs for each annotated image."""
    sequences = {f"{one.get('dataset', '')}/{one['seq_name']}": one for one in index["sequences"]}

    def part(key: Any, path: Path) -> Part:
        sequence = sequences[key]
        size = [sequence["height"], sequence["width"]]
        runs: dict[str, dict[int, Any]] = {str(name): {} for name in sequence["track_category_ids"]}
        for at, found in enumerate(sequence["segmentations"]):
            for name, entry in found.items():
                rle = entry["rle"] if isinstance(entry, dict) else entry
                runs.setdefault(str(name), {})[at] = rle if isinstance(rle, dict) else {"size": size, "counts": rle}
        files = [f"{key}/{name}" for name in sequence["annotated_image_paths"]]
        objects = {str(name): kind for name, kind in sequence["track_category_ids"].items()}
        return key, files, objects, RLEs(lambda: runs, len(files), path), sequence.get("fps")

    return list(sequences), part


def _folder(root: Path, split: str, first: str) -> Path:
    folders = [root / split / "JPEGImages", root / "JPEGImages", root / "images", root / split,
               root / "frames" / split, root]  # fmt: skip
    return next((folder for folder in folders if first and safe_join(folder, first).is_file()), folders[0])


def palette_splits(root: Path) -> tuple[str, ...]:
    """'train' and others with folders of PNGs in them; 'all' where these lie in `root` itself."""
    found = {path.parent.name for path in visible(root, "*/Annotations") if path.is_dir()}
    return tuple(sorted(found)) or ("all",)


def read_palette_video(
    root: Path, split: str = "train", images: str = "JPEGImages", masks: str = "Annotations"
) -> Records:
    """Records of videos whose masks are PNGs, in which a pixel's value is its object; 0 and 255 are nobody.

    Categories come from meta.json as YouTube-VOS has it, where there is one.

    Args:
        root: folder of the splits.
        split: one of them; 'all' where there are none.
        images, masks: names of the two folders; VIPSeg has imgs and panomasks.
    """
    place = root if split == "all" else safe_join(root, split)
    folders = {path.name: path for path in visible(place / masks, "*") if path.is_dir()}
    if not folders:
        raise MissingFile(f"{place / masks}: no folder of PNGs in it; expected one for each video")
    meta = place / "meta.json"
    told = read_json(meta, "the objects of each video").get("videos", {}) if meta.is_file() else {}
    build = partial(_palette_record, split, place / images, folders, told)
    return Records(PALETTE_VIDEO, split, root, list(folders), build)


def _palette_record(split: str, images: Path, folders: dict[str, Path], told: dict[str, Any], name: str) -> Record:
    files = visible(folders[name], "*.png")
    annotations = LabelPNGs(files)
    known = {str(int(key)): about.get("category") for key, about in told.get(name, {}).get("objects", {}).items()}
    if not known:
        values = {int(value) for at in range(len(files)) for value in np.unique(annotations.labels(at))}
        known = {str(value): None for value in sorted(values - {0, VOID})}
    there = next((path.suffix for path in visible(safe_join(images, name), "*")), ".jpg")
    frames = image_sequence(safe_join(images, name), [file.stem for file in files], there)
    objects = {object_id: known[object_id] for object_id in in_order(list(known))}
    return Record(PALETTE_VIDEO, split, name, frames, said_of(objects), objects, annotations)
