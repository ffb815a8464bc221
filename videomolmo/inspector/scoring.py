"""How good the masks of an inspection are on every frame, against truth whose objects have other numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from videomolmo.inspector.truth import Truth

SAMPLED = 200  # frames that decide which object is compared with which


class Scores(NamedTuple):
    """J, F and their mean, (frames, truth objects), NaN on frames without truth; `partner` is each true object's own.

    Attributes:
        partner: for each object of the truth the id (from 1) of the object it was compared with; None: none is left,
            which scores as an empty mask.
    """

    j: Float[np.ndarray, "frames objects"]
    f: Float[np.ndarray, "frames objects"]
    j_and_f: Float[np.ndarray, "frames objects"]
    partner: tuple[int | None, ...]

    def of(self, thing: int) -> Float[np.ndarray, " frames"]:
        """J&F per frame of the object with id `thing`; NaN where no true object was compared with it."""
        if thing not in self.partner:
            return np.full(len(self.j), np.nan)
        return self.j_and_f[:, self.partner.index(thing)]

    @property
    def per_frame(self) -> Float[np.ndarray, " frames"]:
        """Mean J&F over the true objects; NaN on frames without truth."""
        known = np.isfinite(self.j_and_f)
        counts = known.sum(axis=1)
        sums = np.where(known, self.j_and_f, 0).sum(axis=1)
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def score(truth: Truth, found: Callable[[int], np.ndarray | None], objects: int, frames: int) -> Scores:
    """J and F of each true object against the object that covers it best over the clip.

    Args:
        truth: what is right.
        found: masks (objects, height, width) of a frame, or None.
        objects: how many were found.
        frames: how many are scored.

    Differs: DAVIS assigns by J&F over all frames; here by J over at most 200 of them, evenly spaced.
    """
    from videomolmo.metrics import j_and_f_per_frame

    partner = _partners(truth, found, objects, frames)
    j, f = np.full((2, frames, truth.objects), np.nan)
    for t in range(frames):
        right, masks = truth.masks(t), found(t)
        if right is None:
            continue
        for k, other in enumerate(partner):
            mask = np.zeros(right.shape[1:], bool) if other is None or masks is None else masks[other - 1]
            j[t, k], f[t, k] = j_and_f_per_frame(right[k], mask)
    return Scores(j, f, (j + f) / 2, tuple(partner))


def _partners(truth: Truth, found: Callable[[int], np.ndarray | None], objects: int, frames: int) -> list[int | None]:
    """For each true object the id of the found one with the largest mean IoU; none without any overlap."""
    from videomolmo.fusion import match_objects, overlap_matrix

    overlap, known = np.zeros((truth.objects, objects)), 0
    chosen = np.unique(np.linspace(0, frames - 1, min(SAMPLED, frames)).astype(int)).tolist() if overlap.size else []
    for t in chosen:
        right, masks = truth.masks(t), found(t)
        if right is not None and masks is not None:
            overlap += overlap_matrix(right, masks)
            known += 1
    partner: list[int | None] = [None] * truth.objects
    for true, other in match_objects(overlap / max(known, 1), 0.0):
        partner[true] = other + 1
    return partner
