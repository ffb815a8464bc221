"""MeViS and ReVOS: expressions that may mean several objects or none; masks as run lengths in one large file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from videomolmo.datasets.annotations import Annotations, RLEs, decode_rle
from videomolmo.datasets.files import MALFORMED, LazyJson, Unreadable, inside, videos_of
from videomolmo.datasets.record import Expression, Record, Records, in_order, pictures

NAME = "mevis"
SPLITS = ("train", "valid_u", "valid", "test")
REVOS_NAME = "revos"
REVOS_SPLITS = ("train", "valid")
REVOS_KINDS = {0: "referring", 1: "reasoning"}


def read(root: Path, split: str = "valid_u") -> Records:
    """Records of MeViS; objects are the set's `anno_id`s, which 'valid' and 'test' keep to themselves."""
    folder = inside(root, split)
    masks = LazyJson(folder / "mask_dict.json", "run lengths by anno_id")
    return _records(NAME, root, split, folder / "meta_expressions.json", folder / "JPEGImages", masks)


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
        things = in_order([thing for sentence in expressions for thing in sentence.objects or ()])
        annotations = Annotations()
        if things or foreground is not None:
            source = (lambda: masks.content, len(entry["frames"]), masks.path)
            annotations = RLEs(*source) if foreground is None else _WithForeground(*source, file=foreground, name=name)
        frames = pictures(inside(images, name), entry["frames"])
        return Record(dataset, split, name, frames, expressions, dict.fromkeys(things), annotations)

    return Records(dataset, split, root, list(videos), build)


def _expression(id_: str, sentence: dict[str, Any]) -> Expression:
    things = sentence.get("anno_id")
    type_id = sentence.get("type_id")
    return Expression(
        str(id_),
        sentence["exp"],
        None if things is None else tuple(map(str, things)),
        "referring" if type_id is None else REVOS_KINDS.get(int(type_id), f"type {type_id}"),
        more={key: sentence[key] for key in ("obj_id", "type_id") if key in sentence},
    )
