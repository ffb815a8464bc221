"""Mask quality as DAVIS measures it: region similarity J, boundary measure F, and their mean.

Masks are `(height, width)` or clips `(frames, height, width)`; any nonzero pixel is foreground.

Source: Perazzi et al. 2016, "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", section 5;
    the rules are those of the DAVIS-2017 evaluation tool.
"""

import math
from numbers import Real
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Integer, UInt8

from videomolmo.errors import BadInput
from videomolmo.fusion import iou
from videomolmo.io.plain_values import as_array, as_float

Masks = Bool[np.ndarray, "*frames height width"] | Integer[np.ndarray, "*frames height width"]
BOUND_TH = 0.008  # tolerance of the boundary, as a share of the image diagonal


class JAndF(NamedTuple):
    """Means over the frames of a clip, from 0 to 1."""

    j: float
    f: float
    j_and_f: float


def j_and_f(truth: Masks, pred: Masks, void: Masks | None = None) -> JAndF:
    """J, F and their mean for one object: each is averaged over the frames first.

    Args:
        truth: what is right.
        pred: what was predicted.
        void: pixels that count for nothing.

    Returns:
        (j, f, j_and_f); a frame in which both masks are empty counts 1.

    Raises:
        BadInput: shapes that differ, or a clip without frames.

    Example: a square of 2 x 2 pixels, found but for one of its columns.
        >>> truth, pred = np.zeros((2, 6, 6), dtype=bool)
        >>> truth[2:4, 2:4] = pred[2:4, 2:3] = True
        >>> j_and_f(truth, pred)
        JAndF(j=0.5, f=1.0, j_and_f=0.75)
    """
    truth, pred, void = _arrays(truth, pred, void)
    if truth.size == 0:
        raise BadInput(f"masks of shape {truth.shape} have no pixels to compare; give at least one frame")
    j, f = (float(np.mean(values)) for values in j_and_f_per_frame(truth, pred, void))
    return JAndF(j, f, (j + f) / 2)


def j_and_f_per_frame(
    truth: Masks, pred: Masks, void: Masks | None = None, bound_th: Real = BOUND_TH
) -> tuple[Float64[np.ndarray, "*frames"], Float64[np.ndarray, "*frames"]]:
    """J (see `region_similarity`) and F of each frame; F is the harmonic mean of boundary precision and recall.

    A boundary pixel is right when the other boundary has a pixel within the tolerance. The image border is no boundary,
    hence a full mask has none, and full against empty gives F = 1 (where J is 0): the reference's rule, kept.

    Args:
        truth, pred, void: see `j_and_f`; exchanging the first two changes nothing.
        bound_th: tolerance; below 1 a share of the image diagonal (rounded up), from 1 pixels.

    Returns:
        (J, F), each with one value per frame and shape `()` for a single mask.

    Raises:
        BadInput: shapes that differ, or a tolerance that is negative or no number.
    """
    truth, pred, void = _arrays(truth, pred, void)
    disk = _disk(_radius(bound_th, truth.shape))
    pairs = [_crop(*pair) for pair in _frame_pairs(truth, pred, void)]
    j = np.array([iou(*pair) for pair in pairs], dtype=np.float64)
    f = np.array([_frame_boundary_measure(*pair, disk) for pair in pairs], dtype=np.float64)
    return j.reshape(truth.shape[:-2]), f.reshape(truth.shape[:-2])


def region_similarity(truth: Masks, pred: Masks, void: Masks | None = None) -> Float64[np.ndarray, "*frames"]:
    """J: intersection over union of each frame; 1 where the union is empty.

    Args:
        truth: what is right.
        pred: what was predicted; exchanging the two changes nothing.
        void: pixels that count for nothing.

    Returns:
        One value per frame, shape `()` for a single mask.
    """
    truth, pred, void = _arrays(truth, pred, void)
    values = [iou(*pair) for pair in _frame_pairs(truth, pred, void)]
    return np.array(values, dtype=np.float64).reshape(truth.shape[:-2])


def boundary_map(mask: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """Pixels that differ from their east, south or south-east neighbour: an outline one pixel thin.

    The last row looks only east and the last column only south, so that the image border makes no boundary.

    Example:
        >>> boundary_map(np.array([[0, 0, 0], [0, 1, 1], [0, 1, 1]], dtype=bool)).astype(int).tolist()
        [[1, 1, 1], [1, 0, 0], [1, 0, 0]]
    """
    mask = as_array(mask, "mask").astype(bool, copy=False)
    boundary = np.zeros_like(mask)
    east, south = mask[:, :-1] ^ mask[:, 1:], mask[:-1] ^ mask[1:]
    boundary[:, :-1] |= east
    boundary[:-1] |= south
    boundary[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return boundary


def _frame_boundary_measure(
    truth: Bool[np.ndarray, "height width"],
    pred: Bool[np.ndarray, "height width"],
    disk: UInt8[np.ndarray, "side side"],
) -> float:
    truth_boundary, pred_boundary = boundary_map(truth), boundary_map(pred)
    truth_px, pred_px = np.count_nonzero(truth_boundary), np.count_nonzero(pred_boundary)
    if not truth_px or not pred_px:
        return float(truth_px == pred_px)  # both without: 1; otherwise P or R is 0, hence F
    precision = np.count_nonzero(_dilate(truth_boundary, disk) & pred_boundary) / pred_px
    recall = np.count_nonzero(_dilate(pred_boundary, disk) & truth_boundary) / truth_px
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _dilate(mask: Bool[np.ndarray, "height width"], disk: UInt8[np.ndarray, "side side"]) -> np.ndarray:
    """Every pixel within the disk of a set pixel."""
    import cv2

    return cv2.dilate(mask.view(np.uint8), disk).view(bool)


def _crop(truth: Bool[np.ndarray, "height width"], pred: Bool[np.ndarray, "height width"]) -> tuple[np.ndarray, ...]:
    """Both masks within their common bounding box and a rim of one pixel, which holds both boundaries.

    Whether a boundary pixel is near the other boundary is decided by boundary pixels alone, so J and F stay the same.
    """
    import cv2

    left, top, width, height = cv2.boundingRect((truth | pred).view(np.uint8))
    box = slice(max(top - 1, 0), top + height + 1), slice(max(left - 1, 0), left + width + 1)
    return truth[box], pred[box]


def _radius(bound_th: Real, shape: tuple[int, ...]) -> int:
    """The tolerance in whole pixels."""
    tolerance = as_float(bound_th)
    if tolerance is None or not 0 <= tolerance < math.inf:
        raise BadInput(f"bound_th={bound_th!r}: expected a share of the diagonal below 1, or pixels from 1")
    return int(tolerance) if tolerance >= 1 else math.ceil(tolerance * math.hypot(*shape[-2:]))


def _disk(radius: int) -> UInt8[np.ndarray, "side side"]:
    """Offsets with dx² + dy² ≤ radius²."""
    dy, dx = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return (dx**2 + dy**2 <= radius**2).astype(np.uint8)


def _arrays(truth: Masks, pred: Masks, void: Masks | None) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """The masks as NumPy arrays, whatever they come in."""
    truth, pred = as_array(truth, "true masks"), as_array(pred, "predicted masks")
    return truth, pred, None if void is None else as_array(void, "void masks")


def _frame_pairs(truth: np.ndarray, pred: np.ndarray, void: np.ndarray | None) -> list[tuple[np.ndarray, np.ndarray]]:
    """True and predicted mask of each frame as booleans with the void pixels cleared, after a check of their shapes."""
    for name, masks in (("predicted", pred), ("void", void)):
        if masks is not None and masks.shape != truth.shape:
            raise BadInput(f"{name} masks {masks.shape} must have the shape of the true ones, {truth.shape}")
    if truth.ndim < 2:
        raise BadInput(f"masks of shape {truth.shape}: expected (height, width) or (frames, height, width)")
    truth, pred = truth.astype(bool, copy=False), pred.astype(bool, copy=False)
    if void is not None:
        counts = ~void.astype(bool, copy=False)
        truth, pred = truth & counts, pred & counts
    frames = (math.prod(truth.shape[:-2]), *truth.shape[-2:])
    return list(zip(truth.reshape(frames), pred.reshape(frames), strict=True))
