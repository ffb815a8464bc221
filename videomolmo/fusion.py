"""Fusing two propagations of one object: forwards from the left key frame, backwards from the right one.

Every rule is a pure function of two boolean arrays `(…, height, width)`. The leading axes (frames, objects, none) are
independent: each mask pair gets its own overlap, and its own decision about which side is empty.

Source: VideoMolmo, section "Bidirectional temporal mask fusion", equations 5 and 6, and the ablation of strategies.
"""

import math
from collections.abc import Callable
from numbers import Real
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Integer, Num

from videomolmo.errors import BadInput
from videomolmo.io.plain_values import as_array, as_float

Masks = Bool[np.ndarray, "*leading height width"]
Distance = Num[np.ndarray, "..."] | Real | None
_AT_ONCE = 1 << 20  # pixels compared at a time: float32 counts so many exactly, and they need little room
AGREED = 0.3  # IoU from which rule `agreed` believes both sides; chosen on development clips, 0.2 … 0.35 do as well


def iou(a: Masks, b: Masks) -> Float64[np.ndarray, "*leading"]:
    """Intersection over union of each mask pair; 1 for two empty masks, which agree about everything.

    Raises:
        BadInput: what is given is no array of numbers.

    Example:
        >>> iou(np.array([[True, True, False]]), np.array([[False, True, True]])).item()
        0.3333333333333333
    """
    a, b = as_array(a, "masks"), as_array(b, "masks")
    union = _area(a | b)
    return np.where(union == 0, 1.0, _area(a & b) / np.maximum(union, 1))


def _area(masks: Masks) -> Integer[np.ndarray, "*leading"]:
    """Pixels per mask."""
    return np.asarray(np.count_nonzero(masks, axis=(-2, -1)))


def _choose(take_first: Bool[np.ndarray, "*leading"] | np.bool_, first: Masks, second: Masks) -> Masks:
    """One of two masks for each leading index."""
    return np.where(np.asarray(take_first)[..., None, None], first, second)


def _fill(fused: Masks, forward: Masks, backward: Masks) -> Masks:
    """The fused mask where both sides have one; where one side is empty, the other (eq. 6)."""
    one_is_empty = (_area(forward) == 0) | (_area(backward) == 0)
    return _choose(one_is_empty, forward | backward, fused)


def _iou_gated(forward: Masks, backward: Masks, tau: Real) -> Masks:
    agreed = _choose(iou(forward, backward) >= tau, forward & backward, forward | backward)
    return _fill(agreed, forward, backward)


def _left(forward: Masks, backward: Masks) -> Masks:
    return _fill(forward, forward, backward)


def _right(forward: Masks, backward: Masks) -> Masks:
    return _fill(backward, forward, backward)


def _intersection(forward: Masks, backward: Masks) -> Masks:
    return forward & backward


def _union(forward: Masks, backward: Masks) -> Masks:
    return forward | backward


def _larger(forward: Masks, backward: Masks) -> Masks:
    return _choose(_area(forward) >= _area(backward), forward, backward)


def _smaller(forward: Masks, backward: Masks) -> Masks:
    smaller = _choose(_area(forward) <= _area(backward), forward, backward)
    return _fill(smaller, forward, backward)


def _nearest(forward: Masks, backward: Masks, left_distance: Distance, right_distance: Distance) -> Masks:
    left = _per_mask(left_distance, "left_distance", forward)
    right = _per_mask(right_distance, "right_distance", forward)
    return _fill(_choose(left <= right, forward, backward), forward, backward)


def _agreed(forward: Masks, backward: Masks, left_distance: Distance, right_distance: Distance) -> Masks:
    nearest = _nearest(forward, backward, left_distance, right_distance)
    return _fill(_choose(iou(forward, backward) >= AGREED, forward & backward, nearest), forward, backward)


def _per_mask(distance: Distance, name: str, masks: Masks) -> Num[np.ndarray, "*leading"]:
    """Distances `(frames,)` spread over the leading axes of the masks, frames first."""
    if distance is None:
        raise BadInput(
            f"rules 'nearest' and 'agreed' need {name}: the distance to that key frame, in frames, for each frame"
        )
    distance, leading = as_array(distance, name), masks.shape[:-2]
    spread = distance.reshape(distance.shape + (1,) * (len(leading) - distance.ndim))
    try:
        return np.broadcast_to(spread, leading)
    except ValueError:
        raise BadInput(f"{name} of shape {distance.shape}: expected one number per frame, {leading[:1]}") from None


def _forward(forward: Masks, backward: Masks) -> Masks:
    return forward.copy()


def _backward(forward: Masks, backward: Masks) -> Masks:
    return backward.copy()


class Rule(NamedTuple):
    """A fusion rule: its function, what it does in one line, and the options of `fuse` that it takes."""

    function: Callable[..., Masks]
    description: str
    options: tuple[str, ...] = ()


RULES: dict[str, Rule] = {
    "iou": Rule(_iou_gated, "intersection if IoU ≥ τ, else union; one side empty: the other (the paper's)", ("tau",)),
    "left": Rule(_left, "the forward mask; if empty, the backward one"),
    "right": Rule(_right, "the backward mask; if empty, the forward one"),
    "intersection": Rule(_intersection, "pixels in both masks; empty if one side is"),
    "union": Rule(_union, "pixels in either mask"),
    "larger": Rule(_larger, "the mask with more pixels; a tie goes to the left"),
    "smaller": Rule(_smaller, "the mask with fewer pixels, but not an empty one; a tie goes to the left"),
    "nearest": Rule(
        _nearest,
        "the mask of the key frame nearer in time, the left at equal distance; if empty, the other",
        ("left_distance", "right_distance"),
    ),
    "agreed": Rule(
        _agreed,
        f"intersection if IoU ≥ {AGREED}, else the mask of the nearer key frame; one side empty: the other (ours)",
        ("left_distance", "right_distance"),
    ),
    "forward": Rule(_forward, "only the forward mask, even if empty (the released script)"),
    "backward": Rule(_backward, "only the backward mask, even if empty"),
}


def check_rule(rule: str, tau: Real = 0.7) -> float:
    """τ as a plain number, for a known rule and a threshold from 0 to 1.

    Raises:
        BadInput: an unknown rule, or τ outside 0 … 1, NaN or no number.
    """
    if not isinstance(rule, str) or rule not in RULES:
        raise BadInput(f"fusion rule {rule!r} is unknown; choose one of {', '.join(RULES)}")
    share = as_float(tau)
    if share is None or not 0 <= share <= 1:  # NaN fails both comparisons
        raise BadInput(f"fusion threshold tau={tau!r}: expected a number from 0 to 1; the paper's is 0.7")
    return share


def fuse(
    forward: Masks,
    backward: Masks,
    rule: str = "iou",
    tau: Real = 0.7,
    *,
    left_distance: Distance = None,
    right_distance: Distance = None,
) -> Masks:
    """One mask from the forward and the backward propagation, for each leading index on its own.

    Args:
        forward: propagated from the left key frame (earlier in time).
        backward: propagated from the right key frame (later in time).
        rule: a name in `RULES`.
        tau: IoU from which the two sides count as agreeing; rule `iou` only.
        left_distance: frames since the left key frame; a number, or one per frame (the first axis). For `nearest` and
            `agreed`.
        right_distance: frames until the right key frame, likewise.

    Returns:
        The fused masks, a new array.

    Raises:
        BadInput: an unknown rule, τ outside 0 … 1, masks that are not boolean or differ in shape, missing distances.

    Source: equation 5, then equation 6 for rule `iou`; the ablation of strategies for left, right, intersection, larger
        and smaller.
    Differs: the paper fuses the union of all objects; here each object is fused by itself. `nearest`, `union` and
        `agreed` are ours. `agreed` is `iou` with two changes, found by an ablation: sides that disagree are not united,
        which adds the wrong one to the right one, and they count as disagreeing only when they hardly overlap.

    Seen in: notebooks/05_ablation_fusion.ipynb

    Example: two masks that share one of three pixels disagree at τ = 0.7, and agree at τ = 0.3.
        >>> forward, backward = np.array([[True, True, False]]), np.array([[False, True, True]])
        >>> fuse(forward, backward).astype(int).tolist()
        [[1, 1, 1]]
        >>> fuse(forward, backward, tau=0.3).astype(int).tolist()
        [[0, 1, 0]]
    """
    share = check_rule(rule, tau)
    forward, backward = as_array(forward, "forward masks"), as_array(backward, "backward masks")
    _check_masks(forward, backward)
    options = {"tau": share, "left_distance": left_distance, "right_distance": right_distance}
    chosen = RULES[rule]
    return chosen.function(forward, backward, **{name: options[name] for name in chosen.options})


def _check_masks(forward: np.ndarray, backward: np.ndarray) -> None:
    for name, masks in (("forward", forward), ("backward", backward)):
        if masks.dtype != bool or masks.ndim < 2:
            raise BadInput(
                f"{name} masks are {masks.dtype} of shape {masks.shape}: expected booleans (…, height, width);"
                " threshold them first"
            )
    if forward.shape != backward.shape:
        raise BadInput(f"forward masks {forward.shape} and backward masks {backward.shape} must have the same shape")


def overlap_matrix(
    a: Bool[np.ndarray, "objects_a height width"], b: Bool[np.ndarray, "objects_b height width"]
) -> Float64[np.ndarray, "objects_a objects_b"]:
    """IoU of every mask of one set with every mask of another.

    Raises:
        BadInput: what is given is no array of numbers, or the two are of frames of different sizes.

    Differs: from `iou`, in that two empty masks overlap 0: nothing is no evidence that two objects are the same.

    Example:
        >>> left = np.array([[[1, 1, 0, 0]], [[0, 0, 0, 1]]], dtype=bool)
        >>> right = np.array([[[0, 0, 0, 1]], [[1, 0, 0, 0]]], dtype=bool)
        >>> overlap_matrix(left, right).tolist()
        [[0.0, 0.5], [1.0, 0.0]]
    """
    a, b = as_array(a, "masks"), as_array(b, "masks")
    if a.shape[1:] != b.shape[1:]:
        raise BadInput(f"masks of frame size {a.shape[1:]} and {b.shape[1:]} must have the same size to be compared")
    pixels = math.prod(a.shape[1:])
    flat_a, flat_b = a.reshape(len(a), pixels), b.reshape(len(b), pixels)
    intersection = np.zeros((len(a), len(b)))
    for start in range(0, pixels, _AT_ONCE):
        part_a, part_b = (flat[:, start : start + _AT_ONCE].astype(np.float32) for flat in (flat_a, flat_b))
        intersection += part_a @ part_b.T
    union = _area(a)[:, None] + _area(b)[None, :] - intersection
    return intersection / np.maximum(union, 1)


def match_objects(overlap: Float[np.ndarray, "left right"], min_overlap: Real = 0.1) -> list[tuple[int, int]]:
    """Which object of the left key frame is which of the right one: the pairs with the largest total overlap.

    Pairs below the minimum are taken out before the assignment, so that they cannot displace a good pair. Objects
    without a partner are left out. The same matrix always gives the same pairs.

    Args:
        overlap: from 0 to 1, for instance `overlap_matrix`, or the mean of several.
        min_overlap: the least overlap of a pair; an overlap of 0 is never a pair.

    Returns:
        (left, right) indices from 0, in the order of the left objects.

    Raises:
        BadInput: NaN or infinity in the matrix, or a minimum outside 0 … 1.

    Differs: the paper does not match objects; it fuses the union of all.

    Example: the best partner of object 0 is 1, although 0 overlaps as well.
        >>> match_objects(np.array([[0.4, 0.6], [0.5, 0.0]]))
        [(0, 1), (1, 0)]
    """
    from scipy.optimize import linear_sum_assignment

    overlap, least = as_array(overlap, "overlap matrix"), as_float(min_overlap)
    if least is None or not 0 <= least <= 1:
        raise BadInput(f"min_overlap={min_overlap!r}: expected a number from 0 to 1")
    if not np.isfinite(overlap).all():
        raise BadInput("overlap matrix holds NaN or infinity: expected numbers from 0 to 1")
    usable = (overlap >= least) & (overlap > 0)
    left, right = linear_sum_assignment(np.where(usable, overlap, 0.0), maximize=True)
    return [(i, j) for i, j in zip(left.tolist(), right.tolist(), strict=True) if usable[i, j]]
