"""What tests of corrections share: masks of all layers, where two states differ, and a tracker that takes no time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from videomolmo.inspector.inspection import Inspection

LAYERS = ("forward", "backward", "fused")


def everything(inspection: Inspection) -> dict[str, np.ndarray]:
    """All layers, of as many objects as there are."""
    return {layer: np.stack([inspection.mask(layer, t) for t in range(inspection.frames)]) for layer in LAYERS}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(a[layer], b[layer]) for layer in LAYERS)


def changed(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> set[tuple[int, int]]:
    """(frame, object from 1) wherever any layer differs; an object that one of them has not is empty there."""
    found = set()
    for layer in LAYERS:
        most = max(a[layer].shape[1], b[layer].shape[1])
        one, other = (np.pad(m[layer], ((0, 0), (0, most - m[layer].shape[1]), (0, 0), (0, 0))) for m in (a, b))
        found |= {(int(t), int(n) + 1) for t, n in np.argwhere((one != other).any(axis=(2, 3)))}
    return found


class InstantTracker:
    """In place of SAM 2: a square around the mean of positive clicks, or a given mask; it drifts by a pixel a frame."""

    prompts = ("boxes", "masks")

    def encode(self, frame):
        return _Frame(*frame.shape[:2])

    def start(self, at, frame, points_px, labels=None, *, frames, reverse=False, masks=None):
        drawn = [None] * len(points_px) if masks is None else masks
        return _InstantTrack(at, frame, [_begun(frame, *one) for one in zip(points_px, labels, drawn, strict=True)])


class _Frame(NamedTuple):
    height: int
    width: int


def _begun(frame: _Frame, points: np.ndarray, labels: np.ndarray, drawn: np.ndarray | None) -> np.ndarray:
    if drawn is not None:
        return drawn
    y, x = np.mgrid[: frame.height, : frame.width]
    cx, cy = points[labels > 0].mean(axis=0)
    return (abs(x - cx) < 4) & (abs(y - cy) < 4)


class _InstantTrack:
    def __init__(self, at, frame, masks):
        self.at, self.first_masks = at, np.array(masks)

    def step(self, at, frame):
        return np.roll(self.first_masks, at - self.at, axis=2)
