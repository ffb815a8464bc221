"""Precision, recall and F1 of points: each must lie in the mask of the object that it is assigned to.

Points are `(x, y)` pixels, masks are read at `mask[y, x]`.

Source: Molmo and Molmo 2 (Deitke et al. 2024; 2025), the evaluators of their pointing benchmarks; PointBench.
Differs: F1 is exact; the references add 1e-10 to its denominator, which `reference=True` reproduces. VideoMolmo prints
    a table of point P, R and F1 and has released no code for it: average `image_point_scores` over the frames of a
    video, then over videos, both with `mean_point_scores`, and call it our definition.
"""

from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Integer, Num

from videomolmo.errors import BadInput
from videomolmo.io.plain_values import as_array

Points = Num[np.ndarray, "_points 2"]
Mask = Bool[np.ndarray, "_height _width"] | Integer[np.ndarray, "_height _width"]
Masks = Sequence[Mask] | Bool[np.ndarray, "_objects _height _width"] | Integer[np.ndarray, "_objects _height _width"]
F1_EPS = 1e-10


class PointScore(NamedTuple):
    """Of one image, or means over images; from 0 to 1."""

    precision: float
    recall: float
    f1: float


class VideoPointScore(NamedTuple):
    """Of one video; `valid`: whether there is a prediction at all."""

    precision: float
    recall: float
    f1: float
    valid: bool


def image_point_scores(truth_px: Points, pred_px: Points, masks: Masks, reference: bool = False) -> PointScore:
    """Share of the predicted points that hit, share of the objects that are hit, and their harmonic mean.

    Predictions are assigned one to one to the true points so that the sum of distances is smallest. A prediction hits
    when its rounded pixel lies in the image and in the mask of its own object; in another object's mask it misses.

    Args:
        truth_px: one point per object.
        pred_px: predicted points; none for `There are none.` and for an answer that cannot be read.
        masks: one mask per object, in the same order.
        reference: keep the epsilon of F1.

    Returns:
        All 1 where neither side has points, all 0 where only one has.

    Raises:
        BadInput: points that are not finite, or masks that are not as many as true points.

    Example: two predictions for one object.
        >>> truth, masks = np.array([[1.0, 0.0]]), np.ones((1, 2, 4), dtype=bool)
        >>> image_point_scores(truth, np.array([[1.2, 0.0], [3.0, 1.0]]), masks)
        PointScore(precision=0.5, recall=1.0, f1=0.6666666666666666)
    """
    truth, pred = _points(truth_px, "true", 2), _points(pred_px, "predicted", 2)
    if len(masks) != len(truth):
        raise BadInput(f"{len(masks)} masks for {len(truth)} true points; give one mask for each")
    return score_assigned(truth, pred, masks, reference)


def score_assigned(
    truth: Float64[np.ndarray, "objects 2"], pred: Float64[np.ndarray, "points 2"], masks: Masks, reference: bool
) -> PointScore:
    """`image_point_scores` without checks; masks beyond the true points only raise the number of objects."""
    if not len(truth) or not len(pred):
        return PointScore(*[float(len(truth) == len(pred))] * 3)
    hits = sum(is_inside(pred[n], masks[k]) for n, k in assign(pred, truth))
    return _score(hits, len(pred), len(masks), reference)


def video_point_scores(
    truth_txy: Num[np.ndarray, "objects 3"],
    pred_txy: Num[np.ndarray, "points 3"],
    tubes: Sequence[Mapping[float, Mask]],
    duration_s: Real,
    height: int,
    width: int,
    reference: bool = False,
) -> VideoPointScore:
    """Point scores in a video, where a point is (seconds, x, y): the time must be one that its object has a mask at.

    Times and coordinates are assigned together, each in percent of the video's duration, width and height, rounded to
    one decimal. A time hits only if it equals a key of the masks exactly: write both with one decimal.

    Args:
        truth_txy: one point per object.
        pred_txy: predicted points.
        tubes: for each object its masks by time in seconds, in the same order.
        duration_s: of the video, seconds.
        height: of a frame, pixels.
        width: of a frame, pixels.
        reference: keep the epsilon of F1.

    Raises:
        BadInput: values that are not finite, a video without extent, or not one tube per object.

    Source: Molmo2-VP.
    """
    truth, pred = _points(truth_txy, "true", 3), _points(pred_txy, "predicted", 3)
    if len(tubes) != len(truth):
        raise BadInput(f"mask tubes of {len(tubes)} objects for {len(truth)} true points; give one tube for each")
    if not min(duration_s, height, width) > 0:
        raise BadInput(f"duration {duration_s} s, height {height}, width {width}: all must be above 0")
    if not len(truth) or not len(pred):
        return VideoPointScore(*[float(len(truth) == len(pred))] * 3, valid=len(pred) > 0)
    extent = np.array([duration_s, width, height], dtype=np.float64)
    pairs = assign(*(_tenths(points / extent * 100) for points in (pred, truth)))
    hits = sum(float(pred[n, 0]) in tubes[k] and is_inside(pred[n, 1:], tubes[k][float(pred[n, 0])]) for n, k in pairs)
    return VideoPointScore(*_score(hits, len(pred), len(truth), reference), valid=True)


def _tenths(values: Float64[np.ndarray, "points 3"]) -> Float64[np.ndarray, "points 3"]:
    """Rounded to one decimal as Python does: by the decimal number that is nearest, where NumPy scales first."""
    return np.array([[round(value, 1) for value in row] for row in values.tolist()])


def mean_point_scores(scores: Iterable[PointScore | VideoPointScore]) -> PointScore:
    """Means of P, of R and of F1, each on its own: F1 is not made from the mean P and R.

    Raises:
        BadInput: nothing to average.
    """
    rows = [score[:3] for score in scores]
    if not rows:
        raise BadInput("no point scores to average; give at least one")
    return PointScore(*(float(value) for value in np.mean(rows, axis=0)))


def assign(pred: np.ndarray, truth: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (prediction, truth) with the smallest sum of Euclidean distances."""
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    rows, columns = linear_sum_assignment(cdist(pred, truth))
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def is_inside(point: Float64[np.ndarray, "2"], mask: Mask) -> bool:
    """Whether the nearest pixel is in the mask; halves go to the even pixel, as Python rounds."""
    x, y = np.rint(point)
    mask = as_array(mask, "mask")
    height, width = mask.shape
    return bool(0 <= x < width and 0 <= y < height and mask[int(y), int(x)])


def _score(hits: int, predictions: int, objects: int, reference: bool) -> PointScore:
    precision, recall = hits / predictions, hits / objects
    eps = F1_EPS if reference else 0
    return PointScore(precision, recall, 2 * precision * recall / (precision + recall + eps) if hits else 0.0)


def _points(points: np.ndarray, which: str, columns: int) -> np.ndarray:
    """As float64 (points, columns); an empty list is no points."""
    points = as_array(points, f"{which} points").astype(np.float64)
    points = points.reshape(0, columns) if points.size == 0 else points
    if points.ndim != 2 or points.shape[1] != columns:
        raise BadInput(f"{which} points of shape {points.shape}: expected (points, {columns})")
    if not np.isfinite(points).all():
        raise BadInput(f"{which} points {points[~np.isfinite(points).all(axis=1)][0].tolist()} are not finite")
    return points
