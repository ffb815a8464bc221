"""What tests of corrections share: masks of all layers, where two states differ, and a tracker that takes no time."""

from __future__ import annotations

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
    """In place of SAM 2: a mask is a square around the mean of its positive clicks; it drifts by a pixel a frame."""

    def encode(self, frame):
        return frame

    def start(self, at, frame, points_px, labels=None, *, frames, reverse=False):
        return _InstantTrack(at, frame, points_px, labels)


class _InstantTrack:
    def __init__(self, at, frame, points, labels):
        self.at = at
        self.centres = [p[label > 0].mean(axis=0) for p, label in zip(points, labels, strict=True)]
        self.first_masks = self.step(at, frame)

    def step(self, at, frame):
        y, x = np.mgrid[: frame.shape[0], : frame.shape[1]]
        drift = at - self.at
        return np.array([(abs(x - cx - drift) < 4) & (abs(y - cy) < 4) for cx, cy in self.centres])
