"""Data sets whose truth is boxes: LaSOT, GroOT and VidSTG."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from videomolmo.datasets.annotations import Annotations, Boxes
from videomolmo.datasets.files import MissingFile, Unreadable, read_json, read_text, safe_join
from videomolmo.datasets.record import Expression, ImageSequence, Record, Records, VideoFile, image_sequence, in_order
from videomolmo.io.images import natural_key, visible

LASOT = "lasot"
LASOT_SPLITS = ("train", "test", "all")
TESTING_SET = "testing_set.txt"


def read_lasot(root: Path, split: str = "test", testing_set: str | Path | None = None) -> Records:
    """Records of a split.

    Args:
        root: folder of the classes.
        split: 'test' are the names in the toolkit's testing_set.txt, 'train' the others, 'all' needs no list.
        testing_set: that list (default: testing_set.txt in `root`).
    """
    folders = [path for path in visible(root, "*/*") if (path / "groundtruth.txt").is_file()]
    found = {path.name: path for path in folders}
    names = list(found)
    if split != "all":
        listed = read_text(Path(testing_set or root / TESTING_SET), "the toolkit's list of test clips").split()
        names = listed if split == "test" else [name for name in names if name not in set(listed)]
    if not found:
        raise MissingFile(f"{root}: no clip; expected CLASS/CLASS-N/groundtruth.txt below it")

    def build(name: str) -> Record:
        kind = name.rpartition("-")[0]
        folder = found.get(name) or safe_join(root, kind, name)
        boxes = _Boxes(folder)
        count = len(boxes.lines)
        frames = image_sequence(folder / "img", [f"{number:08d}" for number in range(1, count + 1)])
        sentence = read_text(folder / "nlp.txt", "one sentence").strip()
        return Record(LASOT, split, name, frames, (Expression("0", sentence, ("1",)),), {"1": kind}, boxes)

    return Records(LASOT, split, root, names, build)


class _Boxes(Annotations):
    """Boxes of groundtruth.txt, moved from pixel 1 to pixel 0; none where the target is hidden or out of view."""

    def __init__(self, folder: Path):
        self._folder = folder
        self.lines = read_text(folder / "groundtruth.txt", "one box a line: x,y,w,h").split()

    @cached_property
    def _absent(self) -> list[bool]:
        flags = [self._flags("full_occlusion.txt"), self._flags("out_of_view.txt")]
        return [any(both) for both in zip(*flags, strict=True)]

    def _flags(self, name: str) -> list[bool]:
        path = self._folder / name
        flags = [flag.strip() for flag in read_text(path, "0 or 1 for each frame").replace("\n", ",").split(",")]
        flags = [flag == "1" for flag in flags if flag]
        if len(flags) != len(self.lines):
            raise Unreadable(f"{path}: has {len(flags)} entries for {len(self.lines)} frames")
        return flags

    def box(self, object_id: str, frame: int) -> Sequence[float] | None:
        try:
            left, top, width, height = map(float, self.lines[frame].split(","))
        except ValueError:
            place = f"{self._folder / 'groundtruth.txt'}, line {frame + 1}"
            raise Unreadable(f"{place}: {self.lines[frame]!r}; expected x,y,w,h") from None
        return None if self._absent[frame] else (left - 1, top - 1, width, height)


GROOT = "groot"
GROOT_KINDS = ("appearance", "action")
_FOLDERS = ("", "annotations", "annotations/v1.0")


def groot_splits(root: Path) -> tuple[str, ...]:
    """What is there: 'mot17_train' for mot17_train_coco.json, and so on."""
    found = (path for folder in _FOLDERS for path in visible(root / folder, "*_coco.json"))
    return tuple(sorted({path.name.removesuffix("_coco.json") for path in found}, key=natural_key))


def read_groot(root: Path, split: str = "mot17_train", images: str | Path | None = None) -> Records:
    """Records of a subset.

    One expression for each sentence and kind; it means all objects that carry the sentence.

    Args:
        root: folder with {split}_coco.json, or its 'annotations' or 'annotations/v1.0'.
        split: subset and part, such as 'mot17_train' or 'tao_train'.
        images: folder that the file names start from (default: the first of root/MOT17/train, root/train, root/images
            and root, spelt for the split, that has the first image).
    """
    places = [safe_join(root / folder, f"{split}_coco.json") for folder in _FOLDERS]
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
        frames = ImageSequence(
            tuple(safe_join(folder, image["file_name"]) for image in listed),
            tuple(str(image["frame_id"]) for image in listed),
        )
        annotations = [by_image[image["id"]] for image in listed]
        return _record(split, videos[key], frames, annotations, categories)

    return Records(GROOT, split, root, list(videos), build)


def _record(
    split: str, clip: str, frames: ImageSequence, annotations: list[list[dict]], categories: dict[Any, str]
) -> Record:
    boxes: dict[str, dict[int, list[float]]] = defaultdict(dict)
    names: dict[str, str | None] = {}
    said: dict[tuple[str, str], list[str]] = defaultdict(list)
    for frame, entries in enumerate(annotations):
        for entry in entries:
            object_id = str(entry["track_id"] if "track_id" in entry else entry["instance_id"])
            boxes[object_id][frame] = entry["bbox"]
            names[object_id] = categories.get(entry.get("category_id"))
            for kind, text in zip(GROOT_KINDS, entry.get("captions") or (), strict=False):
                if text and text != "None" and object_id not in said[kind, text]:
                    said[kind, text].append(object_id)
    expressions = tuple(
        Expression(str(number), text, tuple(in_order(object_ids)), kind)
        for number, ((kind, text), object_ids) in enumerate(said.items())
        if object_ids
    )
    categories = {object_id: names[object_id] for object_id in in_order(list(names))}
    return Record(GROOT, split, clip, frames, expressions, categories, Boxes(boxes))


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
    return next((folder for folder in folders if safe_join(folder, first).is_file()), folders[0])


VIDSTG = "vidstg"
VIDSTG_SPLITS = ("train", "val", "test")
MAX_FRAMES = 10**7  # of one video; more than any real one has
VIDSTG_KINDS = {"declarative": "referring", "interrogative": "question"}


def read_vidstg(root: Path, split: str = "test", videos: str | Path | None = None) -> Records:
    """Records of a split: one for each part of a video that was used, with all sentences about it.

    Args:
        root: folder with {split}.json, or with annotations/{split}.json.
        split: which file.
        videos: folder that `video_path` starts from (default: video/ in `root`).
    """
    path = next((place for place in (root / f"{split}.json", root / "annotations" / f"{split}.json")
                 if place.is_file()), root / f"{split}.json")  # fmt: skip
    index = read_json(path, "videos and trajectories")
    folder, trajectories = Path(videos or root / "video"), index["trajectories"]
    parts: dict[tuple[str, int, int], list[dict[str, Any]]] = defaultdict(list)
    for row in index["videos"]:
        parts[str(row["original_video_id"]), int(row["start_frame"]), int(row["end_frame"])].append(row)

    def build(part: tuple[str, int, int]) -> Record:
        name, start, end = part
        if not 0 <= start < end <= MAX_FRAMES:
            raise Unreadable(f"{path}: {name} is used from frame {start} to {end}; expected a part of a video")
        rows = parts[part]
        first = rows[0]
        numbers = tuple(range(start, end))
        video = VideoFile(
            (safe_join(folder, first["video_path"]),), tuple(map(str, numbers)), numbers,
            height_width=(int(first["height"]), int(first["width"])),
        )  # fmt: skip
        object_ids = in_order([row["target_id"] for row in rows])
        boxes = {
            object_id: {int(number) - start: found["bbox"] for number, found in trajectories[name][object_id].items()}
            for object_id in object_ids
        }
        expressions = tuple(_expression(row, start, end) for row in rows)
        return Record(VIDSTG, split, f"{name}:{start}-{end}", video, expressions, dict.fromkeys(object_ids),
                      Boxes(boxes), first.get("fps"))  # fmt: skip

    return Records(VIDSTG, split, root, list(parts), build)


def _expression(row: dict[str, Any], start: int, end: int) -> Expression:
    span = int(row["tube_start_frame"]) - start, min(int(row["tube_end_frame"]), end) - start
    more = {"qtype": row["qtype"], "type": row.get("type")}
    return Expression(
        str(row["video_id"]), row["caption"], (str(row["target_id"]),), VIDSTG_KINDS[row["qtype"]], span=span, more=more
    )
