"""ViCaS, its LG-VIS task: sentences that mean one or several tracks, masks in one file for each clip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from videomolmo.datasets.annotations import RLEs
from videomolmo.datasets.files import LazyJson, MissingFile, Unreadable, inside, read_json
from videomolmo.datasets.media import Pictures
from videomolmo.datasets.record import Expression, Record, Records, in_order

NAME = "vicas"
SPLITS = ("train", "val", "test")
VERSIONS = ("v1.0", "v0.1")  # newest first


def read(root: Path, split: str = "val", version: str | None = None, human_only: bool = False) -> Records:
    """Records of a split.

    Args:
        root: folder with annotations/, splits/ and video_frames/.
        split: which list of clips.
        version: of the annotations (default: the newest one that is there).
        human_only: only the frames annotated by people (`is_gt`), not those that SAM 2 filled in between.
    """
    there = [name for name in VERSIONS if (root / "splits" / name / f"{split}.json").is_file()]
    version = version or (there[0] if there else VERSIONS[-1])
    ids = read_json(inside(root / "splits", version, f"{split}.json"), "a list of video ids", list)
    folder = inside(root / "annotations", version)

    def build(number: int) -> Record:
        return _record(root, split, _annotation(folder, int(number)), int(number), human_only)

    return Records(NAME, split, root, ids, build, [f"annotations {version}"])


def _annotation(folder: Path, number: int) -> Path:
    """File of a clip, with or without leading zeros."""
    paths = [folder / f"{number:0{digits}d}.json" for digits in (6, 5, 1)]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        raise MissingFile(f"{paths[0]}: no such file; expected the annotations of clip {number}")
    return found


def _record(root: Path, split: str, path: Path, number: int, human_only: bool) -> Record:
    entry = read_json(path, "the annotations of a clip")
    images = [Path(item["filename"]).name for item in _kept(entry, human_only)]
    things = in_order(entry["all_track_ids"])
    expressions = tuple(
        Expression(str(id_), sentence["prompt"], tuple(map(str, sentence["track_ids"])))
        for id_, sentence in enumerate(entry["object_referrals"])
    )
    later = LazyJson(path, "the annotations of a clip")

    def load() -> dict[str, dict[int, Any]]:
        runs: dict[str, dict[int, Any]] = {thing: {} for thing in things}
        for frame, item in enumerate(_kept(later.content, human_only)):
            if len(item["track_ids"]) != len(item["mask_rles"]):
                raise Unreadable(f"{path}, {item['filename']}: as many masks as track ids expected")
            for thing, run in zip(item["track_ids"], item["mask_rles"], strict=True):
                runs.setdefault(str(thing), {})[frame] = run
        return runs

    folder = root / "video_frames" / f"{number:06d}"
    frames = Pictures(tuple(inside(folder, image) for image in images), tuple(Path(image).stem for image in images))
    more = {key: entry[key] for key in ("src_dataset", "filename", "caption_parsed_en") if key in entry}
    more["human"] = [bool(item["is_gt"]) for item in _kept(entry, human_only)]
    size = tuple(map(int, entry["image_size"]))
    masks = _Masks(load, len(images), path, size)
    return Record(NAME, split, f"{number:06d}", frames, expressions, dict.fromkeys(things), masks, more=more)


def _kept(entry: dict[str, Any], human_only: bool) -> list[dict[str, Any]]:
    return [item for item in entry["segmentations"] if item["is_gt"] or not human_only]


class _Masks(RLEs):
    """A track that a frame does not list is not there on it."""

    def __init__(self, load, frames, place, size):
        super().__init__(load, frames, place)
        self._size = size

    def _shape(self) -> tuple[int, int]:
        return self._size
