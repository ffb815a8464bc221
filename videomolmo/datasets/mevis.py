"""MeViS, ReVOS, ReasonVOS and ViCaS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from videomolmo.datasets.annotations import Annotations, BinaryPNGs, RLEs
from videomolmo.datasets.files import MALFORMED, LazyJson, MissingFile, Unreadable, read_json, safe_join, videos_of
from videomolmo.datasets.record import Expression, ImageSequence, Record, Records, image_sequence, in_order
from videomolmo.io.formats.run_lengths import decode_rle

MEVIS = "mevis"
MEVIS_SPLITS = ("train", "valid_u", "valid", "test")
REVOS_NAME = "revos"
REVOS_SPLITS = ("train", "valid")
REVOS_KINDS = {0: "referring", 1: "reasoning"}


def read_mevis(root: Path, split: str = "valid_u") -> Records:
    """Records of MeViS; objects are the set's `anno_id`s, which 'valid' and 'test' keep to themselves."""
    folder = safe_join(root, split)
    masks = LazyJson(folder / "mask_dict.json", "run lengths by anno_id")
    return _records(MEVIS, root, split, folder / "meta_expressions.json", folder / "JPEGImages", masks)


def read_revos(root: Path, split: str = "valid") -> Records:
    """Records of ReVOS; `more` of an expression holds the set's `type_id`, named in `kind`."""
    masks = LazyJson(root / "mask_dict.json", "run lengths by anno_id")
    return _records(
        REVOS_NAME, root, split, root / f"meta_expressions_{split}_.json", root / "JPEGImages", masks,
        foreground=LazyJson(root / "mask_dict_foreground.json", "run lengths by video"),
    )  # fmt: skip


class _WithForeground(RLEs):
    """Masks of objects, and one of everything in the foreground, which ReVOS's robustness score needs."""

    def __init__(self, *args: Any, file: LazyJson, name: str):
        super().__init__(*args)
        self._file, self._name = file, name

    def foreground(self, frame: int) -> Bool[np.ndarray, "height width"]:
        try:
            entry = self._file.content[self._name]["masks_rle"][frame]
        except MALFORMED as error:
            raise Unreadable(f"{self._file.path}: no foreground of {self._name}, frame {frame} ({error!r})") from None
        return decode_rle(entry, f"{self._file.path}: {self._name}, frame {frame}")


def _records(
    dataset: str, root: Path, split: str, meta: Path, images: Path, masks: LazyJson, foreground: LazyJson | None = None
) -> Records:
    videos = videos_of(meta)

    def build(name: str) -> Record:
        entry = videos[name]
        expressions = tuple(_expression(id_, sentence) for id_, sentence in entry["expressions"].items())
        object_ids = in_order([object_id for sentence in expressions for object_id in sentence.objects or ()])
        annotations = Annotations()
        if object_ids or foreground is not None:
            source = (lambda: masks.content, len(entry["frames"]), masks.path)
            annotations = RLEs(*source) if foreground is None else _WithForeground(*source, file=foreground, name=name)
        frames = image_sequence(safe_join(images, name), entry["frames"])
        return Record(dataset, split, name, frames, expressions, dict.fromkeys(object_ids), annotations)

    return Records(dataset, split, root, list(videos), build)


def _expression(id_: str, sentence: dict[str, Any]) -> Expression:
    object_ids = sentence.get("anno_id")
    type_id = sentence.get("type_id")
    return Expression(
        str(id_),
        sentence["exp"],
        None if object_ids is None else tuple(map(str, object_ids)),
        "referring" if type_id is None else REVOS_KINDS.get(int(type_id), f"type {type_id}"),
        more={key: sentence[key] for key in ("obj_id", "type_id") if key in sentence},
    )


REASON_VOS = "reason_vos"
REASON_VOS_SPLITS = ("test",)


def read_reason_vos(root: Path, split: str = "test") -> Records:
    """Records of the only split; a frame is scored where the object's folder has a PNG for it, others give None.

    Expressions are called by `exp_id`, in clips where each object has its own count of them by OBJECT_EXP.
    """
    videos = videos_of(root / "meta_expressions.json")

    def build(name: str) -> Record:
        entry = videos[name]
        sentences = _numbered(entry["expressions"])
        expressions = tuple(
            Expression(
                id_,
                sentence["exp_text"],
                (str(sentence["obj_id"]),),
                "reasoning",
                more={"is_sent": sentence.get("is_sent", entry.get("is_sent")), "exp_id": sentence.get("exp_id", id_)},
            )
            for id_, sentence in sentences
        )
        object_ids = in_order([sentence.objects[0] for sentence in expressions])
        source = entry["source"].lower()
        folders = {
            object_id: safe_join(root / "Annotations", f"{source}_{name}_{object_id}") for object_id in object_ids
        }
        frames = image_sequence(safe_join(root / "JPEGImages", name), entry["frames"])
        masks = BinaryPNGs(folders, frames.names)
        return Record(
            REASON_VOS,
            split,
            name,
            frames,
            expressions,
            dict.fromkeys(object_ids),
            masks,
            more={"source": entry["source"]},
        )

    return Records(REASON_VOS, split, root, list(videos), build)


def _numbered(listed: list[dict[str, Any]] | dict[str, dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Sentences with their ids, which have to differ: predictions of a clip lie in folders of these names."""
    given = [(item.get("exp_id"), item) for item in listed] if isinstance(listed, list) else listed.items()
    found = [(str(number if id_ is None else id_), item) for number, (id_, item) in enumerate(given)]
    if len({id_ for id_, _ in found}) == len(found):
        return found
    return [(f"{item['obj_id']}_{id_}", item) for id_, item in found]


VICAS = "vicas"
VICAS_SPLITS = ("train", "val", "test")
VERSIONS = ("v1.0", "v0.1")  # newest first


def read_vicas(root: Path, split: str = "val", version: str | None = None, human_only: bool = False) -> Records:
    """Records of a split.

    Args:
        root: folder with annotations/, splits/ and video_frames/.
        split: which list of clips.
        version: of the annotations (default: the newest one that is there).
        human_only: only the frames annotated by people (`is_gt`), not those that SAM 2 filled in between.
    """
    there = [name for name in VERSIONS if (root / "splits" / name / f"{split}.json").is_file()]
    version = version or (there[0] if there else VERSIONS[-1])
    ids = read_json(safe_join(root / "splits", version, f"{split}.json"), "a list of video ids", list)
    folder = safe_join(root / "annotations", version)

    def build(number: int) -> Record:
        return _record(root, split, _annotation(folder, int(number)), int(number), human_only)

    return Records(VICAS, split, root, ids, build, [f"annotations {version}"])


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
    object_ids = in_order(entry["all_track_ids"])
    expressions = tuple(
        Expression(str(id_), sentence["prompt"], tuple(map(str, sentence["track_ids"])))
        for id_, sentence in enumerate(entry["object_referrals"])
    )
    later = LazyJson(path, "the annotations of a clip")

    def load() -> dict[str, dict[int, Any]]:
        runs: dict[str, dict[int, Any]] = {object_id: {} for object_id in object_ids}
        for frame, item in enumerate(_kept(later.content, human_only)):
            if len(item["track_ids"]) != len(item["mask_rles"]):
                raise Unreadable(f"{path}, {item['filename']}: as many masks as track ids expected")
            for object_id, run in zip(item["track_ids"], item["mask_rles"], strict=True):
                runs.setdefault(str(object_id), {})[frame] = run
        return runs

    folder = root / "video_frames" / f"{number:06d}"
    frames = ImageSequence(
        tuple(safe_join(folder, image) for image in images), tuple(Path(image).stem for image in images)
    )
    more = {key: entry[key] for key in ("src_dataset", "filename", "caption_parsed_en") if key in entry}
    more["human"] = [bool(item["is_gt"]) for item in _kept(entry, human_only)]
    masks = RLEs(load, len(images), path)
    return Record(VICAS, split, f"{number:06d}", frames, expressions, dict.fromkeys(object_ids), masks, more=more)


def _kept(entry: dict[str, Any], human_only: bool) -> list[dict[str, Any]]:
    return [item for item in entry["segmentations"] if item["is_gt"] or not human_only]
