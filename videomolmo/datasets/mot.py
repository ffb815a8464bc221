"""Tracking sets with one table of boxes for each video: MOT's layout and GOT-10k's."""

from __future__ import annotations

import configparser
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from videomolmo.datasets.annotations import Boxes
from videomolmo.datasets.files import MissingFile, Unreadable, read_text
from videomolmo.datasets.record import Expression, ImageSequence, Record, Records, VideoFile, in_order, video_file
from videomolmo.io.images import IMAGE_SUFFIXES, visible

MOT, GOT = "mot", "got10k"


def mot_splits(root: Path) -> tuple[str, ...]:
    """Folders with videos in them, such as 'train'; 'all' where the videos lie in `root` itself."""
    if visible(root, "*/gt/gt.txt"):
        return ("all",)
    return tuple(sorted({path.parents[2].name for path in visible(root, "*/*/gt/gt.txt")}))


def read_mot(root: Path, split: str = "train", label: str = "people") -> Records:
    """Records of a split: boxes of all that is tracked, under one sentence.

    Boxes are taken as they stand: the sets differ in whether pixels count from 0 or from 1. Lines whose seventh value
    is 0 mark what is not to be considered, and are left out.

    Args:
        root: folder of the splits.
        split: one of them; 'all' where there are none.
        label: what is tracked, "people" or "players": the files do not tell.

    Source: MOTChallenge's layout, as MOT20, DanceTrack, SportsMOT and SoccerNet have it, and conversions of
        PersonPath22 and TeamTrack.
    """
    folders = {path.parents[1].name: path.parents[1] for path in _tables(root, split)}
    if not folders:
        raise MissingFile(f"{root}: no video; expected {split}/VIDEO/gt/gt.txt below it")

    def build(name: str) -> Record:
        folder = folders[name]
        boxes, last = _mot_boxes(folder / "gt" / "gt.txt")
        fps = _frame_rate(folder / "seqinfo.ini")
        objects = dict.fromkeys(in_order(list(boxes)), label)
        said = Expression("0", label, tuple(objects))
        return Record(MOT, split, name, _frames(folder, last), (said,), objects, Boxes(boxes), fps)

    return Records(MOT, split, root, list(folders), build)


def _tables(root: Path, split: str) -> Iterator[Path]:
    pattern = "*/gt/gt.txt" if split == "all" else "*/*/gt/gt.txt"
    yield from (path for path in visible(root, pattern) if split in ("all", path.parents[2].name))


def _mot_boxes(path: Path) -> tuple[dict[str, dict[int, list[float]]], int]:
    """Boxes by object and frame (from 0), and how many frames there are at least.

    Raises:
        Unreadable: a line is not frame, id, left, top, width, height.
    """
    boxes: dict[str, dict[int, list[float]]] = defaultdict(dict)
    last = 0
    for number, line in enumerate(read_text(path, "one box a line: frame,id,left,top,width,height").split("\n"), 1):
        if not line.strip():
            continue
        try:
            values = [float(value) for value in line.split(",")]
            frame, object_id, box = int(values[0]) - 1, str(int(values[1])), values[2:6]
            if frame < 0 or len(box) < 4:
                raise ValueError("too short")
        except (ValueError, IndexError, OverflowError):
            raise Unreadable(f"{path}, line {number}: {line!r:.80}; expected frame,id,left,top,width,height") from None
        last = max(last, frame + 1)
        if len(values) < 7 or values[6] != 0:
            boxes[object_id][frame] = box
    return dict(boxes), last


def _frames(folder: Path, last: int) -> VideoFile | ImageSequence:
    """Images of img1, by their own names; else a video called like the folder, in it or beside it."""
    if (images := _images(folder / "img1")).files:
        return images
    names = tuple(map(str, range(last)))
    return video_file(folder / folder.name, folder, names=names, numbers=tuple(range(last)))


def _images(folder: Path) -> ImageSequence:
    """The images of a folder, by their own names."""
    files = [path for path in visible(folder, "*") if path.suffix.lower() in IMAGE_SUFFIXES]
    return ImageSequence(tuple(files), tuple(path.stem for path in files))


def _frame_rate(path: Path, section: str = "Sequence", key: str = "frameRate") -> float | None:
    parser = configparser.ConfigParser(interpolation=None)
    if not path.is_file():
        return None
    try:
        parser.read_string(read_text(path, "settings"))
        value = parser.get(section, key, fallback=None)
        return None if value is None else float(value.split()[0].removesuffix("fps"))
    except (configparser.Error, ValueError, IndexError) as error:
        raise Unreadable(f"{path}: cannot be read ({str(error).splitlines()[0]:.80}); copy it again") from None


def got_splits(root: Path) -> tuple[str, ...]:
    """Folders with videos in them, such as 'val'."""
    return tuple(sorted({path.parents[1].name for path in visible(root, "*/*/groundtruth.txt")}))


def read_got10k(root: Path, split: str = "val") -> Records:
    """Records of a split: one box on each frame, none where the target is absent; the sentence names its class.

    Source: GOT-10k's layout.
    """
    folders = {path.parent.name: path.parent for path in visible(root / split, "*/groundtruth.txt")}
    if not folders:
        raise MissingFile(f"{root}: no video; expected {split}/VIDEO/groundtruth.txt below it")

    def build(name: str) -> Record:
        folder = folders[name]
        lines = read_text(folder / "groundtruth.txt", "one box a line: x,y,width,height").split()
        absent = (folder / "absence.label").is_file() and read_text(folder / "absence.label", "0 or 1").split()
        try:
            rows = {frame: [float(value) for value in line.split(",")] for frame, line in enumerate(lines)}
            boxes = {frame: box for frame, box in rows.items() if not (absent and absent[frame] == "1")}
        except (ValueError, IndexError):
            raise Unreadable(f"{folder / 'groundtruth.txt'}: expected x,y,width,height for each frame") from None
        fps, kind = _frame_rate(folder / "meta_info.ini", "METAINFO", "anno_fps"), _kind(folder / "meta_info.ini")
        said = Expression("0", f"the {kind}", ("1",))
        return Record(GOT, split, name, _images(folder), (said,), {"1": kind}, Boxes({"1": boxes}), fps)

    return Records(GOT, split, root, list(folders), build)


def _kind(path: Path) -> str:
    """What the target is, as meta_info.ini has it."""
    text = read_text(path, "settings") if path.is_file() else ""
    told = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return told.get("object_class", "target").strip() or "target"
