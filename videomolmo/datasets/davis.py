"""Ref-DAVIS17: four descriptions of each object of DAVIS 2017, as published or converted to YouTube-VOS's layout."""

from __future__ import annotations

import re
from pathlib import Path

from videomolmo.datasets import youtube_vos
from videomolmo.datasets.annotations import LabelPNGs
from videomolmo.datasets.files import MissingFile, Unreadable, inside, read_json, read_text, videos_of
from videomolmo.datasets.record import Expression, Record, Records, in_order, pictures
from videomolmo.listing import natural_key

NAME = "ref_davis17"
SPLITS = ("train", "valid")
ANNOTATORS = ("annot1", "annot1_full_video", "annot2", "annot2_full_video")
_LINE = re.compile(r'^(\S+)\s+(\d+)\s+"(.*)"\s*$')


def read(root: Path, split: str = "valid") -> Records:
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
            name, thing, text = match[1], int(match[2]), match[3]
            id_ = str((thing - 1) * len(ANNOTATORS) + annotator)
            videos.setdefault(name, {})[id_] = Expression(id_, text, (str(thing),), annotator=annotator)

    def build(name: str) -> Record:
        frames = inside(davis / "JPEGImages" / "480p", name)
        masks = inside(davis / "Annotations_unsupervised" / "480p", name)
        there = {path.stem for path in (*frames.glob("*.jpg"), *masks.glob("*.png"))}
        found = sorted(there, key=natural_key)
        if not found:
            raise MissingFile(f"{frames}: no frame there; expected those of {name}")
        expressions = videos.get(name, {})
        things = in_order([thing for sentence in expressions.values() for thing in sentence.objects])
        return Record(
            NAME, split, name, pictures(frames, found), tuple(expressions[id_] for id_ in in_order(list(expressions))),
            dict.fromkeys(things), LabelPNGs([masks / f"{frame}.png" for frame in found]),
        )  # fmt: skip

    return Records(NAME, split, root, names.split(), build)


def _converted(root: Path, split: str) -> Records:
    videos = videos_of(root / "meta_expressions" / split / "meta_expressions.json")
    meta = next((path for path in (root / split / "meta.json", root / "meta.json") if path.is_file()), None)
    objects = read_json(meta, "the objects of each video").get("videos", {}) if meta else {}

    def build(name: str) -> Record:
        known = objects.get(name, {}).get("objects")
        return youtube_vos.record(NAME, root, split, name, videos[name], known, None, annotators=len(ANNOTATORS))

    return Records(NAME, split, root, list(videos), build)
