"""ReasonVOS: sentences that need thought, one object each; masks in one folder for each object."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from videomolmo.datasets.annotations import BinaryPNGs
from videomolmo.datasets.files import inside, videos_of
from videomolmo.datasets.record import Expression, Record, Records, in_order, pictures

NAME = "reason_vos"
SPLITS = ("test",)


def read(root: Path, split: str = "test") -> Records:
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
        things = in_order([sentence.objects[0] for sentence in expressions])
        source = entry["source"].lower()
        folders = {thing: inside(root / "Annotations", f"{source}_{name}_{thing}") for thing in things}
        frames = pictures(inside(root / "JPEGImages", name), entry["frames"])
        masks = BinaryPNGs(folders, frames.names)
        return Record(
            NAME, split, name, frames, expressions, dict.fromkeys(things), masks, more={"source": entry["source"]}
        )

    return Records(NAME, split, root, list(videos), build)


def _numbered(listed: list[dict[str, Any]] | dict[str, dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Sentences with their ids, which have to differ: predictions of a clip lie in folders of these names."""
    given = [(item.get("exp_id"), item) for item in listed] if isinstance(listed, list) else listed.items()
    found = [(str(number if id_ is None else id_), item) for number, (id_, item) in enumerate(given)]
    if len({id_ for id_, _ in found}) == len(found):
        return found
    return [(f"{item['obj_id']}_{id_}", item) for id_, item in found]
