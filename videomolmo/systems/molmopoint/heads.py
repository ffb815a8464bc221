"""Heads that choose: an image token out of all, a patch of that token, a place in that patch; and their losses."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.molmo2.modeling_molmo2 import Molmo2RMSNorm, rotate_half

from videomolmo.systems.molmopoint.config import CELLS, MolmoPointConfig

CLOSED = 1_000_000  # instead of an image token's number in a target: no more points
IMPOSSIBLE, FORBIDDEN = -1e8, -1e5  # scores of image tokens and of the rest that must not be chosen
Z_WEIGHT = 1e-4


class Candidates(NamedTuple):
    """What a patch token chooses from.

    `keys` are rotated, the last is no-more-points; `selectable` is False for tokens of the global crop and padding;
    `positions` count selectable tokens and are -1 before the first.
    """

    keys: Float[Tensor, "batch tokens+1 width"]
    selectable: Bool[Tensor, "batch tokens"]
    positions: Int[Tensor, "batch tokens"]


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
    """

    def __init__(self, config: MolmoPointConfig) -> None:
        super().__init__()
        text, width = config.text_config, config.patch_embed_dim
        seen = config.adapter_config.hidden_size * len(config.adapter_config.vision_feature_layer)
        self.theta = config.token_prediction_rotary_theta
        self.x_norm = Molmo2RMSNorm(text.hidden_size, eps=text.rms_norm_eps)
        self.patch_q, self.patch_k = nn.Linear(text.hidden_size, width), nn.Linear(text.hidden_size, width)
        self.subpatch_q, self.subpatch_k = nn.Linear(text.hidden_size, width), nn.Linear(seen, width)
        self.subpatch_loc_k = nn.Linear(text.hidden_size, CELLS**2)
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
        states: Float[Tensor, "queries width"],
        candidates: Candidates,
        row: int,
        previous: Int[Tensor, " queries"],
    ) -> Float[Tensor, "queries tokens+1"]:
        """Scores of all candidates of a row of the batch.

        Args:
            states: normalised with `x_norm`, of the token before each patch token.
            candidates, row: what is chosen from.
            previous: the image token of the point before each, -1 for none: distances are counted from there.
        """
        keys, selectable = candidates.keys[row], candidates.selectable[row]
        start = torch.where(previous < 0, 0, candidates.positions[row][previous.clamp(min=0)])
        logits = self.rotated(self.patch_q(states), start) @ keys.T / len(keys) ** 0.5  # so it is published
        return torch.cat([logits[:, :-1].masked_fill(~selectable, IMPOSSIBLE), logits[:, -1:]], dim=1)

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


def word_losses(
    logits: Float[Tensor, "words vocabulary"], true: Int[Tensor, " words"], weights: Float[Tensor, " words"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Weighted sums of cross-entropy and of the squared log of the normaliser, the latter times `Z_WEIGHT`."""
    squares = logits.float().logsumexp(dim=-1).square()
    return cross_entropy(logits, true, weights), Z_WEIGHT * (squares * weights).sum()
