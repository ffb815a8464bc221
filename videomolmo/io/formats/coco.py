"""COCO's JSON: images are frames, annotations objects on them, as run lengths, with their tracks."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NotRequired

import numpy as np
from pydantic import ConfigDict
from typing_extensions import TypedDict

from videomolmo.errors import Unreadable
from videomolmo.io.formats.labels import (
    VOID,
    Clip,
    Found,
    Labels,
    Losses,
    Mask,
    Shape,
)
from videomolmo.io.formats.run_lengths import decode_rle, encode_rle
from videomolmo.io.untrusted import MAX_INDEX_BYTES, parse, read_bytes

_OPEN = ConfigDict(extra="allow")


class _Image(TypedDict):
    __pydantic_config__ = _OPEN
    id: int | str
    file_name: NotRequired[str]
    height: NotRequired[float]
    width: NotRequired[float]
    frame_id: NotRequired[int | None]


class _Annotation(TypedDict):
    __pydantic_config__ = _OPEN
    image_id: int | str
    category_id: NotRequired[int | str | None]
    segmentation: NotRequired[list[list[float]] | dict[str, Any] | None]
    bbox: NotRequired[list[float] | None]
    iscrowd: NotRequired[int | None]
    score: NotRequired[float | None]
    track_id: NotRequired[int | str | None]
    instance_id: NotRequired[int | str | None]
    attributes: NotRequired[dict[str, Any] | None]


class _Category(TypedDict):
    __pydantic_config__ = _OPEN
    id: int | str
    name: str


class _File(TypedDict):
    __pydantic_config__ = _OPEN
    images: list[_Image]
    annotations: list[_Annotation]
    categories: NotRequired[list[_Category]]


def write(labels: Labels, path: Path) -> Losses:
    """Write the file, an annotation after the other; the void is one crowd annotation a frame."""
    size = {"height": labels.height, "width": labels.width}
    has_void, file = labels.void is not None, {} if labels.video is None else {"file_name": labels.video}
    classes = labels.classes | ({VOID: len(labels.classes) + 1} if has_void else {})
    head = {
        "info": {"description": labels.sentence, "version": "1.0"},
        "videos": [{"id": 1, "name": labels.clip, **file, "fps": labels.fps, **size}],
        "categories": [{"id": n, "name": name} for name, n in classes.items()],
    }
    with open(path, "w", encoding="utf-8") as out:
        out.write(json.dumps(head, ensure_ascii=False)[:-1])
        _write_list(out, "images", (
            {"id": t, "file_name": labels.image_name(t), **size, "video_id": 1, "frame_id": t,
             "time_s": round(float(labels.times_s[t]), 6), **labels.origin(t)} for t in range(labels.frames)
        ))  # fmt: skip
        _write_list(out, "annotations", _annotations(labels, classes))
        out.write("}\n")
    return labels.losses("ids")


def _write_list(file: Any, name: str, rows: Iterable[dict]) -> None:
    file.write(f', "{name}": [')
    for number, row in enumerate(rows):
        file.write((",\n" if number else "\n") + json.dumps(row, ensure_ascii=False))
    file.write("]")


def _annotations(labels: Labels, classes: dict[str, int]) -> Iterator[dict]:
    count = 0
    for t in range(labels.frames):
        for n, mask in labels.shapes(t):
            count += 1
            about = {"category_id": classes[labels.names[n - 1]], "track_id": labels.whole_id(n)}
            if (score := labels.score(t, n)) is not None:
                about["score"] = score
            yield {"id": count, "image_id": t, **about, "iscrowd": 0, **_geometry(mask)}
        if (void := labels.void_at(t)) is not None:
            count += 1
            yield {"id": count, "image_id": t, "category_id": classes[VOID], "iscrowd": 1, **_geometry(void)}


def _geometry(mask: Mask) -> dict:
    from pycocotools import mask as coco

    encoded = encode_rle(mask)
    box = coco.toBbox(encoded).tolist()
    return {"area": int(np.count_nonzero(mask)), "bbox": box, "segmentation": encoded}


def read(path: Path, clip: Clip) -> Found:
    """What a file tells of a clip. Crowds are void; ids are those of tracks.

    Raises:
        BadInput: it is not COCO's, or not of this clip.
    """
    content = parse(_File, read_bytes(path, MAX_INDEX_BYTES), str(path))
    names = {one["id"]: one["name"] for one in content.get("categories", [])}
    frames: dict[int | str, int] = {}
    for image in content["images"]:
        place = f"{path}, image {image['id']!r:.60}"
        if "height" in image and "width" in image:
            clip.check_size(image["height"], image["width"], place)
        frames[image["id"]] = _frame_of(image, clip, place)
    found: Found = defaultdict(list)
    for number, one in enumerate(content["annotations"], start=1):
        place = f"{path}, annotation {number}"
        if one["image_id"] not in frames:
            raise Unreadable(f"{place}: its image {one['image_id']!r:.60} is not among the images; correct the file")
        name = names.get(one.get("category_id"), "")
        found[frames[one["image_id"]]].append(_shape(one, name, clip, place))
    return found


def _frame_of(image: _Image, clip: Clip, place: str) -> int:
    if image.get("frame_id") is not None and not clip.images:
        return clip.frame(image["frame_id"], 0, place)
    return clip.frame_named(image.get("file_name") or str(image["id"]), 0, place)


def _shape(one: _Annotation, name: str, clip: Clip, place: str) -> Shape:
    more = one.get("attributes") or {}
    ids = (one.get("track_id"), one.get("instance_id"), more.get("track_id"))
    key = next((str(value) for value in ids if isinstance(value, (int, str)) and str(value)), None)
    is_void, geometry, box = bool(one.get("iscrowd")), one.get("segmentation"), one.get("bbox")
    if isinstance(geometry, dict):
        draw = partial(_decode, geometry, clip, place)
    elif geometry:
        draw = clip.polygons(geometry, place)
    elif box and len(box) == 4 and np.isfinite(box).all():
        left, top, width, height = box
        draw = clip.box(left, top, left + width, top + height)
    else:
        raise Unreadable(f"{place}: neither a segmentation nor a box; correct or remove it")
    return Shape(key, name, draw, one.get("score"), is_void)


def _decode(geometry: dict[str, Any], clip: Clip, place: str) -> Mask:
    mask = decode_rle(geometry, place)
    clip.check_size(*mask.shape, place)
    return mask
