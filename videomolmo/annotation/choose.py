"""The point that SAM 2 understands best: every candidate is tried, the one whose mask fits the object wins."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from videomolmo.annotation.candidates import middle_of, parts_of, sample_candidates
from videomolmo.masks.tracker import FrameFeatures, MaskTracker
from videomolmo.metrics import region_similarity


@dataclass(frozen=True)
class Choice:
    """What was chosen for one object on one frame.

    Attributes:
        candidates: all points that were tried, x and y in pixels.
        ious: of SAM 2's mask from each candidate alone.
        points: the points of the record; the best candidate first, then those that were added.
        labels: 1 for a point on the object, 0 for one that is not.
        iou: of SAM 2's mask from all of `points`.
        mask: that mask.
        parts: separate parts of the true mask.
    """

    candidates: Float[np.ndarray, "candidates 2"]
    ious: Float[np.ndarray, " candidates"]
    points: Float[np.ndarray, "points 2"]
    labels: np.ndarray
    iou: float
    mask: Bool[np.ndarray, "height width"]
    parts: int


def choose_point(
    tracker: MaskTracker,
    frame: FrameFeatures,
    mask: Bool[np.ndarray, "height width"],
    rng: np.random.Generator,
    *,
    candidates: int = 10,
    most_points: int = 1,
    bound: float = 0.7,
    negative: bool = False,
) -> Choice:
    """The best of some candidate points of an object; one decoder call for all of them.

    Source: paper, eq. 7 and 8 (one point). Differs: where `most_points` allows it, points are added while the IoU
    stays below `bound`: one in the middle of what SAM 2 misses or, with `negative`, of what it takes too much,
    whichever is larger. A point that does not help is not kept.

    Args:
        tracker: SAM 2.
        frame: features of the frame.
        mask: the true mask, in the frame's size.
        rng: source of chance for the candidates.
        candidates: how many points are tried.
        most_points: of one object.
        bound: IoU from which no further point is wanted.
        negative: whether points off the object may be added.

    Raises:
        BadInput: an empty mask.
    """
    tried = sample_candidates(mask, candidates, rng)
    masks = tracker.masks_of(frame, [point[None] for point in tried])
    ious = np.array([region_similarity(mask, found) for found in masks])
    best = int(ious.argmax())
    points, labels, found, iou = tried[best : best + 1], np.ones(1, np.int32), masks[best], float(ious[best])
    while len(points) < most_points and iou < bound:
        missed, extra = mask & ~found, found & ~mask
        off = negative and extra.sum() > missed.sum()
        wrong = extra if off else missed
        if not wrong.any():
            break
        more = np.concatenate([points, middle_of(wrong)[None] + 0.5])
        more_labels = np.append(labels, np.int32(not off))
        again = tracker.masks_of(frame, [more], [more_labels])[0]
        better = float(region_similarity(mask, again))
        if better <= iou:
            break
        points, labels, found, iou = more, more_labels, again, better
    return Choice(tried, ious, points, labels, iou, found, parts_of(mask))
