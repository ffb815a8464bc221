"""Ref-YouTube-VOS: every fifth frame of short clips, pairs of expressions, palette masks for the training split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from videomolmo.datasets.annotations import Annotations, LabelPNGs
from videomolmo.datasets.files import inside, read_json, videos_of
from videomolmo.datasets.record import Expression, Record, Records, in_order, pictures

NAME = "ref_youtube_vos"
SPLITS = ("train", "valid", "test")
FPS = 30 / 5  # the set keeps every fifth frame of 30 a second


def read(root: Path, split: str = "valid") -> Records:
    """Records of a split.

    The file of 'valid' lists the videos of 'test' too; they are left out where the file of 'test' is there.
    Objects and masks are published for 'train' only.
    """
    folder = root / "meta_expressions"
    videos = videos_of(folder / split / "meta_expressions.json")
    notes = []
    if split == "valid":
        others = folder / "test" / "meta_expressions.json"
        if others.is_file():
            test = videos_of(others)
            videos = {name: entry for name, entry in videos.items() if name not in test}
        else:
            notes.append(f"{others} is not there: videos of 'test' may be among those of 'valid'")
    meta = read_json(root / "train" / "meta.json", "the objects of each video") if split == "train" else {}
    objects = meta.get("videos", {})

    def build(name: str) -> Record:
        return record(NAME, root, split, name, videos[name], objects.get(name, {}).get("objects"), FPS)

    return Records(NAME, split, root, list(videos), build, notes)


def record(
    dataset: str,
    root: Path,
    split: str,
    name: str,
    entry: dict[str, Any],
    objects: dict[str, Any] | None,
    fps: float | None,
    annotators: int = 0,
) -> Record:
    """A record of a video in the layout of this set, which others were converted to.

    Args:
        dataset, root, split, name: which.
        entry: 'expressions' and 'frames' of the video.
        objects: id -> {'category': ...} of the video, where there is a meta.json.
        fps: frames a second, where known.
        annotators: how many describe each object in turn; 0 where expressions are not numbered so.
    """
    expressions = tuple(
        Expression(
            str(id_),
            sentence["exp"],
            _object(sentence, int(id_) // annotators + 1 if annotators else None),
            annotator=int(id_) % annotators if annotators else None,
        )
        for id_, sentence in entry["expressions"].items()
    )
    objects = {_plain(thing): about for thing, about in (objects or {}).items()}
    known = objects or {thing: {} for sentence in expressions for thing in sentence.objects or ()}
    frames = inside(root / split / "JPEGImages", name)
    annotations = Annotations()
    if known:
        masks = inside(root / split / "Annotations", name)
        annotations = LabelPNGs([inside(masks, f"{frame}.png") for frame in entry["frames"]])
    return Record(
        dataset, split, name, pictures(frames, entry["frames"]), expressions,
        {thing: known[thing].get("category") for thing in in_order(list(known))}, annotations, fps,
    )  # fmt: skip


def _object(sentence: dict[str, Any], numbered: int | None) -> tuple[str, ...] | None:
    thing = sentence.get("obj_id", numbered)
    return None if thing is None else (_plain(thing),)


def _plain(thing: str | int) -> str:
    """An object's id without zeros in front, as expressions and files may write it either way."""
    return str(int(thing))
