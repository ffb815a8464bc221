"""What is true of one rendered frame: which objects can be seen, and where a point on each belongs."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float

from videomolmo.synth.scene import Scene

SEEN_SHARE, HIDDEN_SHARE = 0.35, 0.04  # of the full area; in between nobody should be asked about the object
SEEN_AREA = 0.0016  # of the frame


@dataclass(frozen=True)
class Thing:
    """One object of one frame; `seen` is True, False, or None where it is a matter of opinion."""

    shape: str
    colour: str
    motion: str | None
    seen: bool | None
    point: tuple[float, float]  # shares of width and height


def things_of(
    scene: Scene, masks: Bool[np.ndarray, "objects height width"], full_areas: Float[np.ndarray, " objects"]
) -> list[Thing]:
    """The facts of a frame, one entry per object of the scene, in its order."""
    height, width = masks.shape[1:]
    things = []
    for thing, mask, full in zip(scene.objects, masks, full_areas, strict=True):
        area = int(mask.sum())
        share = area / max(float(full), 1.0)
        seen = None
        if share >= SEEN_SHARE and area >= SEEN_AREA * height * width:
            seen = True
        elif share <= HIDDEN_SHARE:
            seen = False
        x, y = inner_point(mask) if area else (0.0, 0.0)
        things.append(Thing(thing.shape, thing.colour, thing.motion, seen, ((x + 0.5) / width, (y + 0.5) / height)))
    return things


def inner_point(mask: Bool[np.ndarray, "height width"]) -> tuple[float, float]:
    """The mask's centre (x, y) in pixels if it lies well inside, else its innermost pixel."""
    rows, columns = np.nonzero(mask)
    x, y = float(columns.mean()), float(rows.mean())
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    if depth[round(y), round(x)] >= 0.6 * depth.max():
        return x, y
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(column), float(row)
