"""YOLO-seg: a folder of frames, a text of polygons for each, and data.yaml with the names."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from pathlib import Path

import numpy as np
import yaml

from videomolmo.errors import BadInput, Unreadable
from videomolmo.io.formats.labels import (
    Clip,
    Found,
    Labels,
    Losses,
    Shape,
    draw_pixel_polygon,
    number,
    pixel_polygon,
    read_text,
    whole,
)
from videomolmo.io.images import visible

DATA, LABELS, IMAGES = "data.yaml", Path("labels/train"), Path("images/train")
CUT = "a few pixels of masks in several parts, which lines one pixel wide join"


def write(labels: Labels, folder: Path) -> Losses:
    """Write labels/train/CLIP_00000.txt …, images/train/CLIP_00000.jpg … if the video can be opened, and data.yaml."""
    lost, count = labels.losses("scores", "times", "void"), np.array([labels.width, labels.height])
    (folder / LABELS).mkdir(parents=True)
    for t in range(labels.frames):
        lines = []
        for n, mask in labels.shapes(t):
            polygon = pixel_polygon(mask)
            lost[CUT] += not np.array_equal(draw_pixel_polygon(polygon, labels.size), mask)
            shares = np.ceil(polygon / count * 1e6 + 0.5) / 1e6  # up: tools that cut decimals off find the pixel too
            lines.append(f"{labels.classes[labels.names[n - 1]] - 1} " + " ".join(f"{x:.6f}" for x in shares.ravel()))
        path = folder / LABELS / f"{labels.clip}_{t:05d}.txt"
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    train = {"path": ".", "train": str(IMAGES), "val": str(IMAGES)}
    names = {"names": {number - 1: name for name, number in labels.classes.items()}}
    text = yaml.safe_dump({**train, **names}, allow_unicode=True, sort_keys=False)
    (folder / DATA).write_text(text, encoding="utf-8")
    lost["ids: objects of one name cannot be told apart"] += len(labels.classes) < len(labels.ids)
    (folder / IMAGES).mkdir(parents=True)
    has_frames = labels.write_frames(folder / IMAGES, lambda t: f"{labels.clip}_{t:05d}.jpg")
    lost["frames: the video cannot be opened, put its frames into images/train"] += not has_frames
    return lost


def read(path: Path, clip: Clip) -> Found:
    """What a folder of texts tells of a clip: polygons, or boxes where a line has four numbers.

    A line may end with the score or the id that Ultralytics' `save_txt` adds.

    Args:
        path: the folder with data.yaml, or data.yaml.

    Raises:
        BadInput: there are no labels, or they are not YOLO's.
    """
    folder = path.parent if path.is_file() else path
    names = _names(folder)
    files = [file for file in visible(folder, "**/*.txt") if file.parent.name == "labels" or
             "labels" in file.relative_to(folder).parts[:-1]]  # fmt: skip
    files = files or visible(folder, "*.txt")
    if not files:
        raise BadInput(f"{folder}: no .txt of labels in it or in labels/; give the folder with data.yaml")
    found: Found = defaultdict(list)
    for file in files:
        lines = [line for line in read_text(file).splitlines() if line.strip()]
        at = clip.frame_named(file.name, 0, file)
        found[at] += [_shape(line.split(), names, clip, f"{file}, line {n}") for n, line in enumerate(lines, start=1)]
    return found


def _names(folder: Path) -> dict[int, str]:
    """Class to name, as data.yaml or classes.txt tells; none where neither is there."""
    files = sorted(
        (*visible(folder, "*.yaml"), *visible(folder, "*.yml")), key=lambda path: (path.stem != "data", path.name)
    )
    if not files:
        listed = folder / "classes.txt"
        return dict(enumerate(read_text(listed).splitlines())) if listed.is_file() else {}
    try:
        content = yaml.safe_load(read_text(files[0]))
    except (yaml.YAMLError, RecursionError) as error:
        raise Unreadable(f"{files[0]}: not YAML ({' '.join(str(error).split()):.160}); correct it") from None
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict) and all(isinstance(key, int) for key in names):
        return {key: str(name) for key, name in names.items()}
    if not isinstance(names, list):
        raise Unreadable(f"{files[0]}: names is {names!r:.80}, expected a list, or numbers with names")
    return {key: str(name) for key, name in enumerate(names)}


def _shape(words: list[str], names: dict[int, str], clip: Clip, place: str) -> Shape:
    kind, scale = whole(words[0], place, "the class"), np.array([clip.width, clip.height])
    values = [number(word, place, "a coordinate") for word in words[1:]]
    if len(values) < 4 or max(map(abs, values[:4])) > 4:
        raise Unreadable(f"{place}: {len(values)} numbers behind the class, expected a polygon or a box in shares of 1")
    key, score = None, None
    if len(values) % 2:
        last = values.pop()
        key, score = (str(int(last)), None) if last >= 1 and last == int(last) else (None, last)
    if len(values) == 4:
        middle, extent = np.array(values[:2]) * scale, np.array(values[2:]) * scale
        draw = clip.box(*(middle - extent / 2), *(middle + extent / 2))
    else:
        points = np.array(values).reshape(-1, 2)
        if np.abs(points).max() > 4:
            raise Unreadable(f"{place}: a point far beyond the frame; expected shares of its width and height")
        draw = partial(draw_pixel_polygon, np.minimum(points * scale, scale - 1), clip.size)
    return Shape(key, names.get(kind, f"class {kind}"), draw, score)
