"""Rows as Molmo 2 is trained on them, from any data set's masks or boxes: points in time, tracks, counts.

Source: Molmo 2, data section. How a point is drawn and which tracks are dropped is told there in words, and no code was
    released. Differs, or is our choice: the Gaussian has 0.15 of the box's sides; a track is dropped where the mean IoU
    of its mask's boxes with the annotated ones is below 0.5; an object is first seen on the first frame of the grid
    that shows 16 pixels of it. All of it is recorded in the rows (`made_by`).
"""

from __future__ import annotations

import math
import zlib
from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from videomolmo.annotation.candidate_points import deepest_pixel
from videomolmo.datasets.record import Expression, Record
from videomolmo.masks.sam2 import MaskTracker
from videomolmo.metrics.boxes import box_fit
from videomolmo.protocols import label_of

KINDS = ("molmo2-point", "molmo2-track", "molmo2-count")
GRID_S = 0.5  # of points in time
TRIES = 20  # draws before the deepest pixel is taken
SMALLEST = 16  # pixels of a mask
BOX, CLICK = np.array([2, 3], np.int32), np.ones(1, np.int32)  # how SAM 2 is told two corners, or a click
CATEGORIES = {"referring": "referring expression", "motion": "action or event", "action": "action or event",
              "reasoning": "indirect reference", "appearance": "referring expression"}  # fmt: skip


class Seen(NamedTuple):
    """An object on a frame that matters: where its point is (pixels); None where it is not there."""

    frame: int
    point: tuple[float, float] | None


def gaussian_point(
    mask: Bool[np.ndarray, "height width"], rng: np.random.Generator, sigma: float
) -> Float[np.ndarray, "2"]:
    """A point in a mask, normally distributed about its centre with `sigma` of its box's sides; the deepest pixel's
    centre where twenty draws miss it.

    Raises:
        ValueError: an empty mask.

    Example:
        >>> gaussian_point(np.ones((4, 8), bool), np.random.default_rng(0), 0.0).tolist()
        [4.0, 2.0]
    """
    rows, columns = np.nonzero(mask)
    centre = np.array([columns.mean(), rows.mean()]) + 0.5
    spread = sigma * np.array([np.ptp(columns) + 1, np.ptp(rows) + 1])
    for _ in range(TRIES):
        x, y = rng.normal(centre, spread)
        if 0 <= x < mask.shape[1] and 0 <= y < mask.shape[0] and mask[int(y), int(x)]:
            return np.array([x, y])
    return deepest_pixel(mask) + 0.5


def rows_of_clip(record: Record, tracker: MaskTracker, settings: Any) -> tuple[list[dict], list[dict]]:
    """Rows of a clip, one for each expression that names objects, and what became of each object.

    Objects with boxes and no masks are followed by SAM 2 from their first box on: told by the box, or by a click in its
    middle where that gives a mask that fits the box better (nano SAM 2 has learnt clicks only).

    Args:
        record: of any data set.
        tracker: SAM 2.
        settings: `annotation.annotate.Settings`; `rows`, `sampling_fps`, `sigma`, `min_track_iou` and `seed` count.
    """
    said = [expression for expression in record.expressions if expression.objects is not None]
    named = sorted({object_id for expression in said for object_id in expression.objects})
    with record.frames() as video:
        times, size = np.asarray(video.times_s, np.float64), (video.height, video.width)
        fps = 1 / GRID_S if settings.rows != "molmo2-track" else settings.sampling_fps
        shown = on_grid(times, fps)
        seen, ious = _look(record, video, tracker, named, {*shown}, settings)
    dropped = {one: iou for one, iou in ious.items() if iou < settings.min_track_iou}
    quality = [_quality(record.clip, one, seen, ious, one in dropped) for one in named]
    make = {"molmo2-point": _point_row, "molmo2-count": _count_row, "molmo2-track": _track_row}[settings.rows]
    rows = []
    for expression in said:
        lost = [one for one in expression.objects if one in dropped or not _visible(seen[one])]
        if settings.rows != "molmo2-track" and lost:
            quality.append({"clip": record.clip, "object": expression.id, "frame": -1, "area": 0,
                            "verdict": "expression left out", "lost": lost})  # fmt: skip
            continue  # its count would be wrong
        kept = [one for one in expression.objects if one not in lost]
        if kept or not expression.objects:
            rows.append(make(record, expression, kept, seen, times, size, shown, settings))
    return rows, quality


def on_grid(times: Float[np.ndarray, " frames"], fps: float) -> list[int]:
    """Numbers of the frames nearest to a grid of so many times a second, no farther than half a frame.

    Example:
        >>> on_grid(np.arange(7) / 6, 2), on_grid(np.array([0.0, 0.4, 1.9]), 2)
        ([0, 3, 6], [0, 1])
    """
    half = (np.diff(times).min() / 2 if len(times) > 1 else 0.0) + 1e-6
    wanted = np.arange(math.floor((times[-1] - times[0]) * fps + 1e-6) + 1) / fps + times[0]
    found = [int(np.abs(times - time).argmin()) for time in wanted]
    near = [at for at, time in zip(found, wanted, strict=True) if abs(times[at] - time) <= max(half, 0.01)]
    return sorted({*near})


def _look(
    record: Record, video: Any, tracker: MaskTracker, named: list[str], shown: set[int], settings: Any
) -> tuple[dict[str, list[Seen]], dict[str, float]]:
    """Every object on the frames that matter; and of those that were followed from a box, the mean IoU of boxes."""
    seen: dict[str, list[Seen]] = {object_id: [] for object_id in named}
    followed = _Followed(record, tracker, len(video))
    for at, frame in enumerate(video.iterate()):
        masks = {one: record.mask_of(one, at) for one in named if one not in followed.tracked and at in shown}
        boxes = {one: record.box_of(one, at) for one in named if masks.get(one) is None}
        masks |= followed.step(at, frame, boxes)
        if at not in shown:
            continue
        for one in named:
            mask = masks.get(one)
            if mask is None:
                continue
            rng = np.random.default_rng([settings.seed, _number(record.clip), _number(one), at])
            is_there = mask.sum() >= SMALLEST
            point = gaussian_point(mask, rng, settings.sigma) if is_there else None
            seen[one].append(Seen(at, None if point is None else (float(point[0]), float(point[1]))))
    return seen, followed.ious()


class _Followed:
    """Objects that SAM 2 follows from their first box on, those that begin on one frame together."""

    def __init__(self, record: Record, tracker: MaskTracker, frames: int) -> None:
        self.record, self.tracker, self.frames = record, tracker, frames
        self.tracked: set[str] = set()
        self._tracks: list[tuple[Any, list[str]]] = []
        self._ious: dict[str, list[float]] = defaultdict(list)

    def step(self, at: int, frame: np.ndarray, boxes: dict[str, np.ndarray | None]) -> dict[str, np.ndarray]:
        """Masks of all followed objects on the next frame; those whose first box this is begin here."""
        new = [one for one, box in boxes.items() if box is not None and one not in self.tracked]
        new = [one for one in new if self.record.mask_of(one, at) is None]
        if not (new or self._tracks):
            return {}
        features, masks = self.tracker.encode(frame), {}
        for track, names in self._tracks:
            masks |= dict(zip(names, track.step(at, features), strict=True))
        if new:
            prompts = [self._prompt(features, boxes[one]) for one in new]
            points, labels = map(list, zip(*prompts, strict=True))
            track = self.tracker.start(at, features, points, labels, frames=self.frames)
            masks |= dict(zip(new, track.first_masks, strict=True))
            self._tracks.append((track, new))
            self.tracked |= {*new}
        for one in masks:
            box = self.record.box_of(one, at)
            if box is not None:
                self._ious[one].append(box_fit(box, masks[one]))
        return {one: mask if self.record.box_of(one, at) is not None else np.zeros_like(mask)
                for one, mask in masks.items()}  # fmt: skip

    def _prompt(self, features: Any, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How SAM 2 is told an object: by its box or by a click in its middle, whichever mask has the box rather."""
        told = [(np.stack([box[:2], box[:2] + box[2:]]), BOX), ((box[:2] + box[2:] / 2)[None], CLICK)]
        masks = self.tracker.masks_of(features, [points for points, _ in told], [labels for _, labels in told])
        fits = [box_fit(box, mask) for mask in masks]
        return told[int(np.argmax(fits))]

    def ious(self) -> dict[str, float]:
        return {one: float(np.mean(values)) for one, values in self._ious.items()}


def _visible(seen: list[Seen]) -> list[Seen]:
    return [one for one in seen if one.point is not None]


def _quality(clip: str, object_id: str, seen: dict[str, list[Seen]], ious: dict[str, float], dropped: bool) -> dict:
    """What became of an object: kept, dropped for a low IoU, or never seen on the grid."""
    visible = _visible(seen[object_id])
    verdict = "dropped" if dropped else "kept" if visible else "never seen"
    row = {"clip": clip, "object": object_id, "frame": visible[0].frame if visible else -1, "verdict": verdict}
    return row | ({"iou": round(ious[object_id], 4)} if object_id in ious else {})


def _made_by(settings: Any) -> dict[str, Any]:
    return {"sigma": settings.sigma, "min_track_iou": settings.min_track_iou, "seed": settings.seed,
            "sampling_fps": settings.sampling_fps if settings.rows == "molmo2-track" else 1 / GRID_S}  # fmt: skip


def _about(record: Record, expression: Expression, times: np.ndarray, settings: Any) -> dict[str, Any]:
    """What rows of points and of counts have in common; times count from the first frame."""
    label = label_of(expression.text)
    return {
        "video_id": record.clip, "video_source": record.dataset, "video_duration": float(times[-1] - times[0]),
        "clip_start": 0.0, "clip_end": float(times[-1] - times[0]),
        "category": CATEGORIES.get(expression.kind, expression.kind), "label": label,
        "question": f"How many {label} are there in the video?", "made_by": _made_by(settings),
    } | ({"fps": record.fps} if record.fps else {})  # fmt: skip


def _point_row(record, expression, kept, seen, times, size, shown, settings) -> dict:
    """Each object on its first frame, percent; times on the grid."""
    placed: dict[float, list[dict[str, float]]] = defaultdict(list)
    for object_id in kept:
        first = _visible(seen[object_id])[0]
        time = round((times[first.frame] - times[0]) / GRID_S) * GRID_S
        x, y = first.point
        placed[time].append({"x": round(100 * x / size[1], 4), "y": round(100 * y / size[0], 4)})
    return _about(record, expression, times, settings) | {
        "count": len(kept), "two_fps_timestamps": sorted(placed), "points": [placed[time] for time in sorted(placed)],
    }  # fmt: skip


def _count_row(record, expression, kept, seen, times, size, shown, settings) -> dict:
    return _about(record, expression, times, settings) | {"count": len(kept)}


def _track_row(record, expression, kept, seen, times, size, shown, settings) -> dict:
    """Each object on every frame of the grid that it was looked at on; where it is not seen it is left out."""
    entries = []
    for at in shown:
        points = [
            {"id": str(number), "point": [round(value, 2) for value in one.point], "occluded": False}
            for number, object_id in enumerate(kept)
            for one in seen[object_id]
            if one.frame == at and one.point is not None
        ]
        time = round((times[at] - times[0]) * settings.sampling_fps) / settings.sampling_fps
        entries.append({"frame": at, "time": time, "points": points})
    return {
        "id": f"{record.clip}/{expression.id}", "video": record.clip, "expression": expression.text,
        "fps": record.fps or float((len(times) - 1) / max(times[-1] - times[0], 1e-6) if len(times) > 1 else 1.0),
        "sampling_fps": settings.sampling_fps, "height": size[0], "width": size[1], "n_frames": len(times),
        "task": "track", "mask_id": list(kept), "obj_id": list(kept), "frame_trajectories": entries,
        "made_by": _made_by(settings),
    }  # fmt: skip


def _number(name: str) -> int:
    return zlib.crc32(name.encode())
