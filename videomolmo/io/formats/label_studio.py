"""Label Studio's JSON: tracks of boxes on a video, or brush masks on images; boxes and polygons are read, too."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any, NotRequired

import numpy as np
from pydantic import ConfigDict
from typing_extensions import TypedDict

from videomolmo.errors import BadInput, Unreadable
from videomolmo.io.formats.labels import (
    VOID,
    Clip,
    Found,
    Labels,
    Losses,
    Shape,
    number,
    rotated,
    whole,
)
from videomolmo.io.formats.run_lengths import decode_brush, encode_brush
from videomolmo.io.untrusted import MAX_INDEX_BYTES, parse, read_bytes

MODEL = "videomolmo"
_OPEN = ConfigDict(extra="allow")
_UPLOAD = r"^[0-9a-f]{8}-"  # what Label Studio puts in front of the name of an uploaded file


class _Region(TypedDict):
    __pydantic_config__ = _OPEN
    type: str
    id: NotRequired[str | int | None]
    value: dict[str, Any]
    original_width: NotRequired[float | None]
    original_height: NotRequired[float | None]
    score: NotRequired[float | None]
    meta: NotRequired[dict[str, Any] | None]


class _Answer(TypedDict):
    __pydantic_config__ = _OPEN
    result: list[dict[str, Any]]


class _Task(TypedDict):
    __pydantic_config__ = _OPEN
    data: dict[str, Any]
    annotations: NotRequired[list[_Answer]]
    predictions: NotRequired[list[_Answer]]


def write(labels: Labels, path: Path) -> Losses:
    """Write tasks with predictions: a task for each image with its masks, or one for the video with tracks of boxes.

    Source: Label Studio, `VideoRectangle` (frames count from 1) and `BrushLabels`: masks on videos it has none.
    """
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        if not labels.images:
            file.write(json.dumps([_video_task(labels)], ensure_ascii=False) + "\n")
            lost = labels.losses("void") + Losses({"masks: on videos Label Studio has boxes only": 1})
            lost["scores of single frames (each object has their mean)"] += any(labels.scores.values())
            return lost
        file.write("[")
        for t in range(labels.frames):
            file.write((",\n" if t else "") + json.dumps(_image_task(labels, t), ensure_ascii=False))
        file.write("]\n")
    return Losses()


def _region(labels: Labels, kind: str, to: str, own: str, value: dict, score: float | None) -> dict:
    region = {"id": own, "type": kind, "from_name": "label" if to == "image" else "box", "to_name": to, "value": value}
    region |= {"original_width": labels.width, "original_height": labels.height, "image_rotation": 0}
    return region | ({} if score is None else {"score": score})


def _image_task(labels: Labels, t: int) -> dict:
    regions = [(labels.ids[n - 1], labels.names[n - 1], mask, labels.score(t, n)) for n, mask in labels.shapes(t)]
    if (void := labels.void_at(t)) is not None:
        regions.append((VOID, VOID, void, None))
    result = [
        _region(labels, "brushlabels", "image", own,
                {"format": "rle", "rle": encode_brush(mask), "brushlabels": [name]}, score)
        for own, name, mask, score in regions
    ]  # fmt: skip
    data = {"image": labels.images[t], "frame": t, "time_s": round(float(labels.times_s[t]), 6)}
    return {"data": data, "predictions": [{"model_version": MODEL, "result": result}]}


def _video_task(labels: Labels) -> dict:
    sequences: dict[int, list[dict]] = defaultdict(list)
    scale = np.array([labels.width, labels.height])
    for t in range(labels.frames):
        there = set()
        for n, mask in labels.shapes(t):
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            corner, end = np.array([columns[0], rows[0]]), np.array([columns[-1], rows[-1]]) + 1
            (x, y), (width, height) = (100 * corner / scale).tolist(), (100 * (end - corner) / scale).tolist()
            sequences[n].append({"frame": t + 1, "enabled": True, "rotation": 0, "x": x, "y": y, "width": width,
                                 "height": height, "time": round(float(labels.times_s[t]), 6)})  # fmt: skip
            there.add(n)
        for n, sequence in sequences.items():
            if n not in there and sequence[-1]["frame"] == t:
                sequence[-1]["enabled"] = False  # its last frame: nothing is drawn until the next key frame
    result = []
    for n, sequence in sorted(sequences.items()):
        value = {"framesCount": labels.frames, "duration": round(labels.frames / max(labels.fps, 1e-9), 6),
                 "sequence": sequence, "labels": [labels.names[n - 1]]}  # fmt: skip
        scores = list(labels.scores.get(n, {}).values())
        mean = round(float(np.mean(scores)), 6) if scores else None
        result.append(_region(labels, "videorectangle", "video", labels.ids[n - 1], value, mean))
    return {"data": {"video": labels.video or f"{labels.clip}.mp4"},
            "predictions": [{"model_version": MODEL, "result": result}]}  # fmt: skip


def read(path: Path, clip: Clip) -> Found:
    """Tracks of boxes on a video, and masks, polygons and boxes on images, of an export or of tasks.

    The first annotation of a task counts, or its first prediction where nobody annotated it. Regions are objects by
    their ids; between the key frames of a track boxes are interpolated. The label "void" is void.

    Raises:
        BadInput: it is not Label Studio's, or not of this clip.
    """
    content = read_bytes(path, MAX_INDEX_BYTES)
    tasks = parse(list[_Task], b"[" + content + b"]" if content.lstrip()[:1] == b"{" else content, str(path))
    if not tasks:
        raise Unreadable(f"{path}: no task in it; export the project as JSON")
    found: Found = defaultdict(list)
    for at, task in enumerate(tasks, start=1):
        place = f"{path}, task {at}"
        answers = task.get("annotations") or task.get("predictions") or []
        regions = [_as_region(one, place) for one in (answers[0]["result"] if answers else [])]
        shapes = [one for one in regions if one["type"] in _DRAWN or one["type"] == "videorectangle"]
        frame = None
        for region in shapes:
            if region["type"] == "videorectangle":
                _add_track(found, region, clip, place)
                continue
            frame = _frame_of(task["data"], clip, place) if frame is None else frame
            found[frame].append(_shape(region, clip, f"{place}, region {region.get('id')!r:.40}"))
    return found


def _as_region(one: dict[str, Any], place: str) -> _Region:
    """A part of a result; relations and other parts without a place are of a type that is passed over."""
    if not isinstance(one.get("value"), dict) or not isinstance(one.get("type"), str):
        return {"type": "", "value": {}}
    return parse(_Region, json.dumps(one).encode(), place)


def _frame_of(data: dict[str, Any], clip: Clip, place: str) -> int:
    if isinstance(data.get("frame"), int) and not clip.images:
        return clip.frame(data["frame"], 0, place)
    name = next((value for value in data.values() if isinstance(value, str) and "." in value), None)
    if name is None:
        raise BadInput(f"{place}: no name of an image in its data; export it with its images' names")
    return clip.frame_named(re.sub(_UPLOAD, "", name.rpartition("/")[2]), 0, place)


def _name_of(value: dict[str, Any]) -> str:
    kinds = ("labels", "brushlabels", "polygonlabels", "rectanglelabels", "ellipselabels", "videorectanglelabels")
    listed = next((value[kind] for kind in kinds if isinstance(value.get(kind), list) and value[kind]), [""])
    return str(listed[0])


def _key_of(region: _Region) -> str | None:
    return None if region.get("id") in (None, "") else str(region["id"])


def _shape(region: _Region, clip: Clip, place: str) -> Shape:
    value, name = region["value"], _name_of(region["value"])
    if region.get("original_height") and region.get("original_width"):
        clip.check_size(region["original_height"], region["original_width"], place)
    return Shape(_key_of(region), name, _DRAWN[region["type"]](value, clip, place), region.get("score"), name == VOID)


def _brush(value: dict[str, Any], clip: Clip, place: str) -> Any:
    if value.get("format") != "rle" or not isinstance(value.get("rle"), list):
        raise Unreadable(f"{place}: a brush mask that is no list of run lengths; export it as JSON")
    return partial(decode_brush, value["rle"], clip.size, place)


def _polygon(value: dict[str, Any], clip: Clip, place: str) -> Any:
    pairs = value.get("points")
    if not isinstance(pairs, list) or not all(isinstance(one, list) and len(one) == 2 for one in pairs):
        raise Unreadable(f"{place}: a polygon without points; export it as JSON")
    scale = np.array([clip.width, clip.height]) / 100
    ring = np.array([[number(each, place, "a coordinate") for each in pair] for pair in pairs]).reshape(-1, 2) * scale
    return clip.polygons([ring], place)


def _rectangle(value: dict[str, Any], clip: Clip, place: str) -> Any:
    x, y, width, height = (number(value.get(name), place, name) for name in ("x", "y", "width", "height"))
    scale, angle = np.array([clip.width, clip.height]) / 100, number(value.get("rotation") or 0, place, "rotation")
    corner, extent = np.array([x, y]) * scale, np.array([width, height]) * scale
    if not angle:
        return clip.box(*corner, *(corner + extent))
    ring = rotated(corner + extent * np.array([[0, 0], [1, 0], [1, 1], [0, 1]]), corner, angle)
    return clip.polygons([ring], place)


_DRAWN = {
    "brushlabels": _brush, "brush": _brush, "polygonlabels": _polygon, "polygon": _polygon,
    "rectanglelabels": _rectangle, "rectangle": _rectangle,
}  # fmt: skip
_EDGES = ("x", "y", "width", "height", "rotation")


def _add_track(found: Found, region: _Region, clip: Clip, place: str) -> None:
    """The boxes of a track on all frames where it is: from each key frame on to the next unless it is disabled."""
    place = f"{place}, track {region.get('id')!r:.40}"
    sequence = region["value"].get("sequence")
    if not isinstance(sequence, list) or not all(isinstance(one, dict) for one in sequence):
        raise Unreadable(f"{place}: it has no sequence of boxes; export it as JSON")
    keys = sorted(sequence, key=lambda one: whole(one.get("frame"), place, "frame"))
    name, score = _name_of(region["value"]), region.get("score")
    for at, key in enumerate(keys):
        first = clip.frame(whole(key["frame"], place, "frame"), 1, place)
        last = clip.frame(whole(keys[at + 1]["frame"], place, "frame"), 1, place) if at + 1 < len(keys) else clip.frames
        stop = last if key.get("enabled", True) else first + 1
        following = keys[at + 1] if at + 1 < len(keys) else key
        for t in range(first, stop):
            share = (t - first) / max(last - first, 1)
            pairs = {edge: (number(key.get(edge) or 0, place, edge), number(following.get(edge) or 0, place, edge))
                     for edge in _EDGES}  # fmt: skip
            value = {edge: (1 - share) * before + share * after for edge, (before, after) in pairs.items()}
            found[t].append(Shape(_key_of(region), name, _rectangle(value, clip, place), score, name == VOID))
