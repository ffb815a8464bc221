"""Candidate points in a mask, drawn so that the deep inside of an object is likelier than its border."""

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int

from videomolmo.errors import BadInput


def depth(mask: Bool[np.ndarray, "height width"]) -> Float[np.ndarray, "height width"]:
    """Distance in pixels from each pixel of the mask to what is not mask; outside the picture nothing is mask."""
    return cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]


def sample_candidates(
    mask: Bool[np.ndarray, "height width"], count: int, rng: np.random.Generator
) -> Float[np.ndarray, "candidates 2"]:
    """Distinct pixel centres (x, y) in the mask, each drawn with probability in proportion to its depth.

    Source: paper, eq. 7.

    Args:
        mask: of one object.
        count: how many; all pixels where the mask has fewer.
        rng: random generator.

    Raises:
        BadInput: an empty mask, or a count below 1.

    Example:
        >>> sample_candidates(np.eye(3, dtype=bool), 2, np.random.default_rng(0)).shape
        (2, 2)
    """
    if count < 1:
        raise BadInput(f"count is {count}, expected at least 1 candidate")
    weights = depth(mask)
    rows, columns = np.nonzero(mask)
    if not len(rows):
        raise BadInput("the mask is empty, expected an object to put points on; leave frames without it out")
    chances = weights[rows, columns].astype(np.float64)
    chosen = rng.choice(len(rows), size=min(count, len(rows)), replace=False, p=chances / chances.sum())
    return np.stack([columns[chosen] + 0.5, rows[chosen] + 0.5], axis=1)


def num_components(mask: Bool[np.ndarray, "height width"]) -> int:
    """How many separate parts a mask has (8-connected)."""
    return cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0] - 1


def deepest_pixel(mask: Bool[np.ndarray, "height width"]) -> Int[np.ndarray, " 2"]:
    """Column and row of the deepest pixel."""
    row, column = np.unravel_index(int(depth(mask).argmax()), mask.shape)
    return np.array([column, row])
