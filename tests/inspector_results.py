"""Results made by hand for the tests of the inspector: moving squares in files of the real format, no model."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from videomolmo.fusion import fuse
from videomolmo.io.video import open_video
from videomolmo.mask_store import MaskStore
from videomolmo.results import GroundingResult, KeyAnswer


def frames_of(frames: int, height: int, width: int) -> np.ndarray:
    """A different picture on every frame."""
    y, x = np.mgrid[:height, :width]
    pictures = [np.stack([x * 2 + t, y * 2, np.full_like(x, 10 * t)], axis=-1) % 256 for t in range(frames)]
    return np.array(pictures, np.uint8).reshape(frames, height, width, 3)


def square(height: int, width: int, top: float, left: float, side: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[max(0, int(top)) : max(0, int(top) + side), max(0, int(left)) : max(0, int(left) + side)] = True
    return mask


def true_masks(frames: int, objects: int, height: int, width: int) -> np.ndarray:
    """Squares that move to the right, one below the other."""
    side, gap = max(3, height // (objects + 2)), height / max(1, objects)
    masks = [[square(height, width, n * gap, 2 + t + n, side) for n in range(objects)] for t in range(frames)]
    return np.array(masks).reshape(frames, objects, height, width)


def made_result(
    frames: int = 12,
    objects: int = 2,
    height: int = 40,
    width: int = 51,
    *,
    every: int = 5,
    rule: str = "iou",
    tau: float = 0.7,
    folder: Path | None = None,
    absent: tuple[tuple[int, int], ...] = (),
) -> GroundingResult:
    """A result whose forward masks lag behind the truth and whose backward masks run ahead of it.

    Args:
        frames, objects, height, width: of the clip.
        every, rule, tau: of the run.
        folder: of the spool; a temporary one when None.
        absent: (key frame, object) pairs that the model did not point at.
    """
    if folder is not None:
        folder.mkdir(parents=True)
    spool, truth = MaskStore(folder), true_masks(frames, objects, height, width)
    keys = list(range(0, frames, every))
    there = {key: [n for n in range(1, objects + 1) if (key, n) not in absent] for key in keys}
    for number, key in enumerate(keys):
        right = keys[number + 1] if number + 1 < len(keys) else None
        stop = frames if right is None else right
        write_window(spool, truth, key, stop, there[key], there.get(right, []), right is not None, rule, tau)
    answers = []
    for key in keys:
        points = [centre(truth[key, n - 1]) for n in there[key]]
        text = "".join(f'<point x="{x:.1f}" y="{y:.1f}">square</point>' for x, y in points) or "There are none."
        outcome = "found" if points else "absent"
        answers.append(KeyAnswer(key, key / 10, text, outcome, points, [True] * len(points)))
    return GroundingResult(
        sentence="the squares", answers=answers, objects=objects, height=height, width=width,
        times_s=np.arange(frames) / 10, fps=10.0, spool=spool, source=None,
        config={"model": {"every": every, "fusion": rule, "tau": tau, "context": 4}},
        _video=open_video(frames_of(frames, height, width), fps=10) if frames else None,
    )  # fmt: skip


def write_window(spool, truth, start, stop, left, right, has_right, rule, tau) -> None:
    """One window as the run writes it."""
    ids = sorted({*left, *right})
    if not ids:
        return
    shape = (stop - start, len(ids), *truth.shape[2:])
    forward, backward = np.zeros(shape, bool), np.zeros(shape, bool)
    for row, object_id in enumerate(ids):
        for at in range(start, stop):
            if object_id in left:
                forward[at - start, row] = np.roll(truth[at, object_id - 1], -((at - start) // 2), axis=1)
            if object_id in right:
                backward[at - start, row] = np.roll(truth[at, object_id - 1], (stop - at) // 3, axis=1)
    backward[0] = forward[0]
    offset = np.arange(len(forward))
    fused = forward.copy()
    if has_right or rule == "backward":
        fused = fuse(forward, backward, rule, tau, left_distance=offset, right_distance=len(forward) - offset)
    fused[0] = forward[0]
    known = {"forward": np.tile(np.isin(ids, left), (len(forward), 1))}
    known["backward"] = np.tile(np.isin(ids, right), (len(forward), 1))
    known["backward"][0] = known["forward"][0]
    spool.write(start, tuple(ids), {"fused": fused, "forward": forward, "backward": backward}, known)


def centre(mask: np.ndarray) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    return round(float(columns.mean()) + 0.5, 2), round(float(rows.mean()) + 0.5, 2)
