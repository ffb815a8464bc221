"""Training rows from labels that are there already: a point for each object, without asking SAM 2."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
from PIL import Image

from videomolmo.annotation.annotate import ABSENT
from videomolmo.annotation.candidate_points import deepest_pixel
from videomolmo.errors import BadInput
from videomolmo.io.files import move_into_place, new_file
from videomolmo.results import GroundingResult

JPEG_QUALITY = 95


def write_rows(result: GroundingResult, path: str | Path, every: int = 5) -> int:
    """Write a training row for each name: on every k-th frame the deepest pixel of each object's mask.

    The frames go to a folder beside the file, `<name of the video>_<name of the file>/00000.jpg …`, where the data set
    `videomolmo` looks for them.

    Args:
        result: of `videomolmo.datasets.imported.import_labels`, or any other.
        path: of the new .jsonl file.
        every: frames between key frames.

    Returns:
        The number of rows.

    Raises:
        BadInput: the file or the folder exists, there is no object, or the video cannot be read.
    """
    path, labels = Path(path), result.labels()
    clip = re.sub(r"[^\w-]+", "_", f"{labels.clip}_{path.stem}")
    folder = path.parent / clip
    if folder.exists():
        raise BadInput(f"{folder} exists; choose another name for the rows")
    if not result.objects:
        raise BadInput("the labels hold no object; there is nothing to learn from")
    frames = list(range(0, result.frames, every))
    points: dict[str, dict[str, list]] = {name: {} for name in labels.classes}
    for t in frames:
        for name in points:
            points[name][str(t)] = []
        for n, mask in labels.shapes(t):
            x, y = (deepest_pixel(mask) + 0.5) * 100 / np.array([result.width, result.height])
            points[labels.names[n - 1]][str(t)].append({"x": round(float(x), 4), "y": round(float(y), 4)})
    with new_file(path, ".jsonl") as new:
        with open(new, "w", encoding="utf-8") as file:
            for number, (name, own) in enumerate(points.items()):
                known = {t: found or [ABSENT] for t, found in own.items()}
                objects = [str(n) for n, one in enumerate(labels.names, start=1) if one == name]
                row = {"video": clip, "frame_idxs": frames, "points": known, "caption": name,
                       "expression": str(number), "objects": objects, "fps": result.fps}  # fmt: skip
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        place = new.parent / "frames"
        place.mkdir()
        for t in frames:
            Image.fromarray(result.video()[t]).save(place / f"{t:05d}.jpg", quality=JPEG_QUALITY)
        move_into_place(place, folder, replace=False)
    return len(points)
