"""Time J&F per frame against the public DAVIS algorithm written plainly: shifted maps, a disk, whole frames.

cd tests && python -m bench.metrics --width 854 --height 480
"""

import argparse
import json
import math
import time
from collections.abc import Iterator

import cv2
import numpy as np

from videomolmo.metrics import j_and_f_per_frame
from videomolmo.metrics.regions import BOUND_TH

Pair = tuple[np.ndarray, np.ndarray]


def plain_j_and_f(truth: np.ndarray, pred: np.ndarray) -> tuple[float, float]:
    """J and F of one frame as DAVIS tells them, over the whole image."""
    union = np.sum(truth | pred)
    j = float(np.sum(truth & pred) / union) if union else 1.0
    radius = math.ceil(BOUND_TH * np.linalg.norm(truth.shape))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = (x**2 + y**2 <= radius**2).astype(np.uint8)
    outlines = [_outline(mask) for mask in (truth, pred)]
    wide = [cv2.dilate(outline.astype(np.uint8), disk) for outline in outlines]
    sizes = [np.sum(outline) for outline in outlines]
    if not all(sizes):
        return j, float(sizes[0] == sizes[1])
    recall, precision = np.sum(outlines[0] * wide[1]) / sizes[0], np.sum(outlines[1] * wide[0]) / sizes[1]
    return j, float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def _outline(mask: np.ndarray) -> np.ndarray:
    """Where a mask differs from itself shifted by one pixel east, south and both."""
    east, south, both = np.zeros_like(mask), np.zeros_like(mask), np.zeros_like(mask)
    east[:, :-1], south[:-1], both[:-1, :-1] = mask[:, 1:], mask[1:], mask[1:, 1:]
    outline = (mask ^ east) | (mask ^ south) | (mask ^ both)
    outline[-1] = mask[-1] ^ east[-1]
    outline[:, -1] = mask[:, -1] ^ south[:, -1]
    outline[-1, -1] = False
    return outline


def pairs(height: int, width: int, frames: int) -> Iterator[Pair]:
    """True and predicted masks: lobed blobs of 1 to 20 percent of the frame, the predicted one a little off."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    for area in np.geomspace(0.01, 0.2, frames):
        size = math.sqrt(area * height * width / math.pi)
        centre = random.uniform(0.3, 0.7, 2) * (height, width)
        lobes = random.uniform(0.1, 0.3)
        masks = []
        for dy, dx, scale in ((0, 0, 1), (*random.normal(0, 4, 2), random.uniform(0.9, 1.1))):
            v, u = y - centre[0] - dy, x - centre[1] - dx
            masks.append(np.hypot(v, u) < size * scale * (1 + lobes * np.sin(5 * np.arctan2(v, u))))
        yield tuple(masks)


def main() -> None:
    """Print medians in milliseconds per frame and their ratio; both ways must give the same numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=854)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    cv2.setNumThreads(options.threads)
    masks = list(pairs(options.height, options.width, options.frames))
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    for truth, pred in masks * options.runs:
        found = {}
        for name, work in (("ours", j_and_f_per_frame), ("plain", plain_j_and_f)):
            begun = time.perf_counter()
            found[name] = work(truth, pred)
            times[name].append(1000 * (time.perf_counter() - begun))
        assert np.allclose(found["ours"], found["plain"], rtol=0, atol=1e-12)
    medians = {name: round(float(np.median(values)), 3) for name, values in times.items()}
    print(json.dumps(medians | {"ratio": round(medians["ours"] / medians["plain"], 3)}))


if __name__ == "__main__":
    main()
