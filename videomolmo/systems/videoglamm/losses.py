"""What a training step of VideoGLaMM minimises: words by cross-entropy, masks by BCE and Dice."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from videomolmo.systems.videoglamm.splice import IGNORED

UNKNOWN = -1  # in a ground truth mask: a pixel, or a whole missing object, that counts nothing
SCALE, EPS = 1000, 1e-6


def word_loss(
    logits: Float[Tensor, "batch tokens vocabulary"], labels: Int[Tensor, "batch tokens"]
) -> Float[Tensor, ""]:
    """Mean cross-entropy of the labelled tokens, each predicted one place before, in float32.

    Differs: 0 where nothing is labelled, where the released code gives NaN.
    """
    targets = labels[:, 1:].flatten()
    total = functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), targets, ignore_index=IGNORED, reduction="sum"
    )
    return total / (targets != IGNORED).sum().clamp(min=1)


def mask_losses(
    logits: Sequence[Float[Tensor, "objects frames height width"]],
    truth: Sequence[Float[Tensor, "true_objects frames height width"]],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """BCE and Dice, each a mean over all pairs of an object and a frame in the batch.

    The k-th mask of a sample is compared with its k-th true one. Objects of -1 throughout cost nothing and yet count,
    so that one real object among four weighs a quarter.

    Args:
        logits: of each sample, at its frames' own size.
        truth: 1 on the object, 0 beside it, -1 unknown.
    """
    bce, dice, pairs = 0.0, 0.0, 0
    for found, true in zip(logits, truth, strict=True):
        objects = min(len(found), len(true))
        found, true = found[:objects].float(), true[:objects].float()
        known = (true != UNKNOWN).float()
        pixel = functional.binary_cross_entropy_with_logits(found, true * known, reduction="none") * known
        inside, wanted = found.sigmoid() * known / SCALE, true * known / SCALE
        both = (inside * wanted).sum((-1, -2)) * SCALE
        bce = bce + pixel.mean((-1, -2)).sum()
        dice = dice + (1 - (2 * both + EPS) / (inside.sum((-1, -2)) + wanted.sum((-1, -2)) + EPS)).sum()
        pairs += objects * found.shape[1]
    return bce / max(pairs, 1), dice / max(pairs, 1)
