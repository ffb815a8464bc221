"""DAVIS's pictures: a PNG with a palette for each frame, whose values are objects and 255 void."""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from videomolmo.errors import BadInput
from videomolmo.io.drawing import write_label_png
from videomolmo.io.formats.labels import Clip, Found, Labels, Losses, Shape
from videomolmo.io.formats.mot import OVERLAPS
from videomolmo.io.images import list_images, read_labels

IGNORED = 255


def write(labels: Labels, folder: Path) -> Losses:
    """Write 00000.png …; where objects overlap, the later one is shown.

    Raises:
        BadInput: more objects than pictures have values for.
    """
    if len(labels.ids) >= IGNORED:
        raise BadInput(f"{len(labels.ids)} objects do not fit into index pictures, which hold {IGNORED - 1}; use coco")
    lost = labels.losses("names", "scores", "times")
    for t in range(labels.frames):
        shown, void = np.zeros(labels.size, np.uint8), labels.void_at(t)
        for n, mask in labels.shapes(t):
            lost[OVERLAPS] += bool(shown[mask].any())
            shown[mask] = n
        if void is not None:
            shown[void & (shown == 0)] = IGNORED
        write_label_png(folder / f"{t:05d}.png", shown)
    is_plain = labels.ids == tuple(str(n + 1) for n in range(len(labels.ids)))
    lost["ids (numbered anew)"] += not is_plain
    return lost


def read(path: Path, clip: Clip) -> Found:
    """Objects of a folder of index pictures; 255 is void beside other values.

    Raises:
        BadInput: it holds none, or they are of another size.
    """
    if not path.is_dir():
        raise BadInput(f"{path}: no folder; give the one with the PNGs")
    found: Found = defaultdict(list)
    shown = lru_cache(1)(partial(read_labels, what="picture", as_stored=True))  # one at a time: they are drawn in order
    values: dict[int, list[int]] = {}
    for file in list_images(path, (".png",)):
        at = clip.frame_named(file.name, 0, file)
        labels = read_labels(file, "picture", as_stored=True)
        clip.check_size(*labels.shape, file)
        values[at] = np.unique(labels).tolist()
        found[at] = [_shape(partial(shown, file), value) for value in values[at] if value]
    others = {value for listed in values.values() for value in listed} - {0, IGNORED}
    if not others and any(values):  # black and white: one object
        return {at: [shape._replace(is_void=False) for shape in shapes] for at, shapes in found.items()}
    return found


def _shape(shown: partial, value: int) -> Shape:
    return Shape(str(value), "", lambda: np.asarray(shown() == value), None, value == IGNORED)
