"""CVAT's XML 1.1: masks on images, as its video tasks take them too; tracks of boxes, polygons and masks are read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import XMLGenerator

import numpy as np

from videomolmo.errors import Unreadable
from videomolmo.io.formats.labels import (
    VOID,
    Clip,
    Found,
    Labels,
    Losses,
    Mask,
    Shape,
    number,
    rotated,
    whole,
)
from videomolmo.io.formats.run_lengths import decode_cvat, encode_cvat
from videomolmo.io.untrusted import open_plain

SHAPES = ("box", "polygon", "mask", "ellipse")


def write(labels: Labels, path: Path) -> Losses:
    """Write "CVAT for images 1.1", a frame after the other: masks, the object's id as their group.

    Source: CVAT, cvat/apps/dataset_manager/formats/cvat.py: of a track of masks CVAT reads only the first
    frame, so that none are written.
    """
    classes = [*labels.classes, *([VOID] if labels.void is not None else [])]
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        xml = XMLGenerator(file, "utf-8", short_empty_elements=True)
        xml.startDocument()
        xml.startElement("annotations", {})
        _text(xml, "version", "1.1")
        _write_meta(xml, labels, classes)
        for t in range(labels.frames):
            size = {"width": str(labels.width), "height": str(labels.height)}
            xml.characters("\n")
            xml.startElement("image", {"id": str(t), "name": labels.image_name(t, "frame_{:06d}"), **size})
            for n, mask in labels.shapes(t):
                group = {"group_id": str(labels.whole_id(n))}
                _write_mask(xml, labels.names[n - 1], mask, group, labels.score(t, n))
            if (void := labels.void_at(t)) is not None:
                _write_mask(xml, VOID, void, {}, None)
            xml.endElement("image")
        xml.endElement("annotations")
        xml.endDocument()
    return labels.losses("ids", "times")


def _text(xml: XMLGenerator, name: str, text: str) -> None:
    xml.startElement(name, {})
    xml.characters(text)
    xml.endElement(name)


def _write_meta(xml: XMLGenerator, labels: Labels, classes: list[str]) -> None:
    for name in ("meta", "task"):
        xml.startElement(name, {})
    for name, text in (("name", labels.clip), ("size", str(labels.frames)), ("mode", "annotation")):
        _text(xml, name, text)
    xml.startElement("labels", {})
    for name in classes:
        xml.startElement("label", {})
        _text(xml, "name", name)
        xml.startElement("attributes", {})
        if labels.scores:
            xml.startElement("attribute", {})
            for what, text in (("name", "score"), ("mutable", "True"), ("input_type", "text"), ("default_value", "")):
                _text(xml, what, text)
            xml.endElement("attribute")
        xml.endElement("attributes")
        xml.endElement("label")
    xml.endElement("labels")
    xml.startElement("original_size", {})
    _text(xml, "width", str(labels.width))
    _text(xml, "height", str(labels.height))
    for name in ("original_size", "task", "meta"):
        xml.endElement(name)


def _write_mask(xml: XMLGenerator, name: str, mask: Mask, group: dict[str, str], score: float | None) -> None:
    counts, (left, top, width, height) = encode_cvat(mask)
    place = {"left": left, "top": top, "width": width, "height": height, "z_order": 0}
    xml.characters("\n  ")
    xml.startElement("mask", {"label": name, "source": "auto", "occluded": "0", "rle": ", ".join(map(str, counts)),
                              **{key: str(value) for key, value in place.items()}, **group})  # fmt: skip
    if score is not None:
        xml.startElement("attribute", {"name": "score"})
        xml.characters(f"{score:.6g}")
        xml.endElement("attribute")
    xml.endElement("mask")


def read(path: Path, clip: Clip) -> Found:
    """Boxes, ellipses, polygons and masks of a file: "CVAT for video 1.1" or "CVAT for images 1.1".

    Tracks are objects. So are shapes on images, and masks of tracks (CVAT makes one of each frame), that share a group
    and a label. The label "void" is void; points, lines, skeletons and tags are passed over.

    Raises:
        BadInput: it is not CVAT's, or not of this clip.
    """
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import iterparse

    path = path / "annotations.xml" if path.is_dir() else path
    found: Found = defaultdict(list)
    track, frame, has_root = None, 0, False
    try:
        with open_plain(path) as file:
            for event, one in iterparse(file, events=("start", "end")):
                has_root = has_root or one.tag == "annotations"
                if event == "start" and one.tag == "track":
                    track = one.attrib
                elif event == "start" and one.tag == "image":
                    frame, track = _frame_of(one.attrib, clip, path), None
                elif event == "end" and one.tag in SHAPES:
                    at = frame if track is None else clip.frame(_whole(one.attrib, "frame", path), 0, path)
                    if one.attrib.get("outside") != "1":
                        found[at].append(_shape(one, track, clip, f"{path}, a {one.tag} on frame {at}"))
                if event == "end" and one.tag in (*SHAPES, "image", "track"):
                    one.clear()
    except (ElementTree.ParseError, DefusedXmlException) as error:
        raise Unreadable(f"{path}: not XML that is read here ({error!s:.120}); export it from CVAT again") from None
    except OSError as error:
        raise Unreadable(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if not has_root:
        raise Unreadable(f"{path}: no <annotations>; export it as 'CVAT for video 1.1' or 'CVAT for images 1.1'")
    return found


def _frame_of(image: dict[str, str], clip: Clip, path: Path) -> int:
    place = f"{path}, image {image.get('name', '')!r:.80}"
    if "height" in image and "width" in image:
        clip.check_size(number(image["height"], place, "height"), number(image["width"], place, "width"), place)
    if clip.images:
        return clip.frame_named(image.get("name", ""), 0, place)
    return clip.frame(_whole(image, "id", place), 0, place)


def _whole(given: dict[str, str], name: str, place: object) -> int:
    return whole(given.get(name), place, name)


def _shape(one: Any, track: dict[str, str] | None, clip: Clip, place: str) -> Shape:
    owner = one.attrib if track is None else track
    name, group = owner.get("label", ""), owner.get("group_id", "0")
    key = None if group == "0" else group
    if track is not None and one.tag != "mask":
        key = track.get("id")
    score = {child.attrib.get("name"): child.text for child in one if child.tag == "attribute"}.get("score")
    score = number(score, place, "the score") if score and score.strip() else None
    return Shape(key, name, _geometry(one, clip, place), score, name == VOID)


def _geometry(one: Any, clip: Clip, place: str) -> Callable[[], Mask]:
    """What draws a shape."""
    given = {name: number(one.attrib.get(name), place, name) for name in _NUMBERS[one.tag]}
    if one.tag == "mask":
        counts = [whole(word, place, "a run") for word in one.attrib.get("rle", "").split(",")]
        box = tuple(int(given[name]) for name in ("left", "top", "width", "height"))
        return partial(decode_cvat, counts, box, clip.size, place)
    if one.tag == "polygon":
        words = one.attrib.get("points", "").replace(";", ",").split(",")
        points = [[number(word, place, "a coordinate") for word in words]]
        return clip.polygons(points, place)
    if one.tag == "ellipse":
        turn = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        ring = np.stack([given["cx"] + given["rx"] * np.cos(turn), given["cy"] + given["ry"] * np.sin(turn)], axis=1)
        middle = given["cx"], given["cy"]
    else:
        left, top, right, bottom = (given[name] for name in _NUMBERS["box"])
        ring, middle = np.array([[left, top], [right, top], [right, bottom], [left, bottom]]), None
    angle = number(one.attrib.get("rotation", 0), place, "rotation")
    if not angle and middle is None:
        return clip.box(left, top, right, bottom)
    ring = rotated(ring, ring.mean(axis=0) if middle is None else np.array(middle), angle)
    return clip.polygons([ring], place)


_NUMBERS = {
    "mask": ("left", "top", "width", "height"), "polygon": (), "ellipse": ("cx", "cy", "rx", "ry"),
    "box": ("xtl", "ytl", "xbr", "ybr"),
}  # fmt: skip
