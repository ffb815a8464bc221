"""Heads that choose: an image token out of all, a patch of that token, a place in that patch; and their losses.

MolmoPoint as published has them (`videomolmo.systems.molmopoint`), and our own model as a variant (`token_points`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm, rotate_half

CELLS = 3  # along a side of a patch: a location is one of 9
THETA = 50_000.0  # of the rotation by distance from the last chosen token
CLOSED = 1_000_000  # instead of an image token's number in a target: no more points
IMPOSSIBLE, FORBIDDEN = -1e8, -1e5  # scores of image tokens and of the rest that must not be chosen


class Candidates(NamedTuple):
    """What a patch token chooses from.

    `keys` are rotated, the last is no-more-points; `selectable` is False for tokens of the global crop and padding;
    `positions` count selectable tokens and are -1 before the first.
    """

    keys: Float[Tensor, "*batch tokens+1 width"]
    selectable: Bool[Tensor, "*batch tokens"]
    positions: Int[Tensor, "*batch tokens"]

    def rows(self, chosen: int | Int[Tensor, " rows"]) -> Candidates:
        """Those of one row of the batch, or of several."""
        return Candidates(*(part[chosen] for part in self))


class PointLosses(NamedTuple):
    """Sums of cross-entropy over points, closing tokens included for patches."""

    patch: Float[Tensor, ""]
    subpatch: Float[Tensor, ""]
    location: Float[Tensor, ""]


class NoPoint(nn.Module):
    """The learnt candidate that closes a list of points."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.zeros(width))


class PointPredictor(nn.Module):
    """Scores of image tokens, of patches of one, and of the nine places in a patch; parts have their published names.

    Source: MolmoPoint, published code.

    Args:
        hidden: width of the language model's states.
        width: in which queries and candidates are compared.
        features: width of a patch before pooling.
        theta: of the rotation by distance from the last chosen token.
        eps: of the norm.
        is_published: divide scores of image tokens by the root of their number, as published, not of the width.
    """

    def __init__(
        self, hidden: int, width: int, features: int, *, theta: float = THETA, eps: float = 1e-6, is_published: bool
    ) -> None:
        super().__init__()
        self.theta, self.is_published = theta, is_published
        self.x_norm = Qwen2RMSNorm(hidden, eps=eps)
        self.patch_q, self.patch_k = nn.Linear(hidden, width), nn.Linear(hidden, width)
        self.subpatch_q, self.subpatch_k = nn.Linear(hidden, width), nn.Linear(features, width)
        self.subpatch_loc_k = nn.Linear(hidden, CELLS**2)
        self.add_no_point_class_embed = NoPoint(width)

    def rotated(
        self, vectors: Float[Tensor, "*any width"], positions: Int[Tensor, "*any"]
    ) -> Float[Tensor, "*any width"]:
        """Vectors turned by their positions, in float32."""
        width = vectors.shape[-1]
        turns = self.theta ** (-torch.arange(0, width, 2, device=vectors.device, dtype=torch.float32) / width)
        angles = positions[..., None].float() * turns
        angles = torch.cat([angles, angles], dim=-1)
        whole = vectors.float()
        return (whole * angles.cos() + rotate_half(whole) * angles.sin()).to(vectors.dtype)

    def candidates(
        self, states: Float[Tensor, "batch tokens width"], selectable: Bool[Tensor, "batch tokens"]
    ) -> Candidates:
        """Candidates from the states of all image tokens, in their order, normalised with `x_norm`."""
        positions = selectable.cumsum(dim=1) - 1
        keys = self.rotated(self.patch_k(states), positions)
        last = self.add_no_point_class_embed.vector.to(keys).expand(len(keys), 1, -1)
        return Candidates(torch.cat([keys, last], dim=1), selectable, positions)

    def patch_logits(
        self,
        states: Float[Tensor, "*batch queries width"],
        candidates: Candidates,
        previous: Int[Tensor, "*batch queries"],
    ) -> Float[Tensor, "*batch queries tokens+1"]:
        """Scores of all candidates.

        Args:
            states: normalised with `x_norm`, of the token before each patch token.
            candidates: what is chosen from.
            previous: the image token of the point before each, -1 for none: distances are counted from there.
        """
        keys, selectable, positions = candidates
        start = torch.where(previous < 0, 0, positions.gather(-1, previous.clamp(min=0)))
        divisor = keys.shape[-2 if self.is_published else -1] ** 0.5
        logits = self.rotated(self.patch_q(states), start) @ keys.mT / divisor
        chosen = logits[..., :-1].masked_fill(~selectable[..., None, :], IMPOSSIBLE)
        return torch.cat([chosen, logits[..., -1:]], dim=-1)

    def subpatch_logits(
        self, states: Float[Tensor, "queries width"], patches: Float[Tensor, "queries slots features"]
    ) -> Float[Tensor, "queries slots"]:
        """Scores of the patches that one image token was pooled from, padding not masked.

        Args:
            states: normalised with `x_norm`, of each patch token.
            patches: features before pooling.
        """
        keys = self.subpatch_k(patches)
        return (keys @ self.subpatch_q(states)[..., None])[..., 0] / keys.shape[-1] ** 0.5

    def location_logits(self, states: Float[Tensor, "queries width"]) -> Float[Tensor, "queries cells"]:
        """Scores of places in a patch, numbered column by column; from the states of subpatch tokens."""
        return self.subpatch_loc_k(states)


def ordered(
    logits: Float[Tensor, "points tokens+1"], chosen: Int[Tensor, " points"]
) -> Float[Tensor, "points tokens+1"]:
    """Scores of a row's points in training: tokens before the point before are impossible; CLOSED ends a list."""
    before = torch.cat([chosen.new_full((1,), CLOSED), chosen[:-1]])
    first = torch.where(before == CLOSED, 0, before)
    places = torch.arange(logits.shape[1], device=logits.device)
    return logits.masked_fill((places < first[:, None]) & (places < logits.shape[1] - 1), IMPOSSIBLE)


def cross_entropy(
    logits: Float[Tensor, "points classes"], true: Int[Tensor, " points"], weights: Float[Tensor, " points"] | None
) -> Float[Tensor, ""]:
    """Sum of cross-entropy in float32, 0 of nothing."""
    each = functional.cross_entropy(logits.float(), true, reduction="none")
    return (each if weights is None else each * weights).sum()
