"""Ref-YouTube-VOS and Ref-DAVIS17."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from videomolmo.datasets.annotations import Annotations, LabelPNGs
from videomolmo.datasets.files import MissingFile, Unreadable, read_json, read_text, safe_join, videos_of
from videomolmo.datasets.record import Expression, Record, Records, image_sequence, in_order
from videomolmo.io.images import natural_key, visible

YOUTUBE_VOS = "ref_youtube_vos"
YOUTUBE_VOS_SPLITS = ("train", "valid", "test")
FPS = 30 / 5  # the set keeps every fifth frame of 30 a second


def read_youtube_vos(root: Path, split: str = "valid") -> Records:
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
        return record(YOUTUBE_VOS, root, split, name, videos[name], objects.get(name, {}).get("objects"), FPS)

    return Records(YOUTUBE_VOS, split, root, list(videos), build, notes)


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
    objects = {_plain(object_id): about for object_id, about in (objects or {}).items()}
    known = objects or {object_id: {} for sentence in expressions for object_id in sentence.objects or ()}
    frames = safe_join(root / split / "JPEGImages", name)
    annotations = Annotations()
    if known:
        masks = safe_join(root / split / "Annotations", name)
        annotations = LabelPNGs([safe_join(masks, f"{frame}.png") for frame in entry["frames"]])
    return Record(
        dataset, split, name, image_sequence(frames, entry["frames"]), expressions,
        {object_id: known[object_id].get("category") for object_id in in_order(list(known))}, annotations, fps,
    )  # fmt: skip


def _object(sentence: dict[str, Any], numbered: int | None) -> tuple[str, ...] | None:
    object_id = sentence.get("obj_id", numbered)
    return None if object_id is None else (_plain(object_id),)


def _plain(object_id: str | int) -> str:
    """An object's id without zeros in front, as expressions and files may write it either way."""
    return str(int(object_id))


DAVIS = "ref_davis17"
DAVIS_SPLITS = ("train", "valid")
ANNOTATORS = ("annot1", "annot1_full_video", "annot2", "annot2_full_video")
_LINE = re.compile(r'^(\S+)\s+(\d+)\s+"(.*)"\s*$')


def read_davis(root: Path, split: str = "valid") -> Records:
    """Records of a split; expression ids are (object - 1) * 4 + annotator, annotators in the order of `ANNOTATORS`."""
    if (root / "meta_expressions").is_dir():
        return _converted(root, split)
    davis = root / "DAVIS"
    names = read_text(davis / "ImageSets" / "2017" / f"{'val' if split == 'valid' else split}.txt", "names of videos")
    videos: dict[str, dict[str, Expression]] = {}
    for annotator, which in enumerate(ANNOTATORS):
        path = root / "davis_text_annotations" / f"Davis17_{which}.txt"
        for number, line in enumerate(read_text(path, "one expression a line").split("\n"), 1):
            if not line.strip():
                continue
            match = _LINE.match(line)
            if not match or not int(match[2]):
                raise Unreadable(f'{path}, line {number}: {line!r}; expected: video object "expression"')
            name, object_id, text = match[1], int(match[2]), match[3]
            id_ = str((object_id - 1) * len(ANNOTATORS) + annotator)
            videos.setdefault(name, {})[id_] = Expression(id_, text, (str(object_id),), annotator=annotator)

    def build(name: str) -> Record:
        frames = safe_join(davis / "JPEGImages" / "480p", name)
        masks = safe_join(davis / "Annotations_unsupervised" / "480p", name)
        there = {path.stem for path in (*visible(frames, "*.jpg"), *visible(masks, "*.png"))}
        found = sorted(there, key=natural_key)
        if not found:
            raise MissingFile(f"{frames}: no frame there; expected those of {name}")
        expressions = videos.get(name, {})
        object_ids = in_order([object_id for sentence in expressions.values() for object_id in sentence.objects])
        said = tuple(expressions[id_] for id_ in in_order(list(expressions)))
        annotations = LabelPNGs([masks / f"{frame}.png" for frame in found])
        return Record(DAVIS, split, name, image_sequence(frames, found), said, dict.fromkeys(object_ids), annotations)

    return Records(DAVIS, split, root, names.split(), build)


def _converted(root: Path, split: str) -> Records:
    videos = videos_of(root / "meta_expressions" / split / "meta_expressions.json")
    meta = next((path for path in (root / split / "meta.json", root / "meta.json") if path.is_file()), None)
    objects = read_json(meta, "the objects of each video").get("videos", {}) if meta else {}

    def build(name: str) -> Record:
        known = objects.get(name, {}).get("objects")
        return record(DAVIS, root, split, name, videos[name], known, None, annotators=len(ANNOTATORS))

    return Records(DAVIS, split, root, list(videos), build)
