"""What each token sees, where it stands, the loss of answers, and greedy decoding."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

PADDING = -1  # id of a padding token
SHARED = 10000  # subsegment of what all branches of a message tree share: BOS and image


def visible(
    valid: Bool[Tensor, "batch tokens"], subsegment_ids: Int[Tensor, "batch tokens"] | None = None
) -> Bool[Tensor, "batch tokens tokens"]:
    """Whether each token (row) may attend to each token (column).

    Causal, never to padding, and in a message tree only to its own branch and to what all branches share.

    Source: published model; a token of branch q sees one of branch t where q <= t, and the image counts as 10000.
    """
    tokens = valid.shape[1]
    allowed = torch.ones(tokens, tokens, dtype=torch.bool, device=valid.device).tril() & valid[:, None, :]
    if subsegment_ids is not None:
        allowed = allowed & (subsegment_ids[:, :, None] <= subsegment_ids[:, None, :])
    return allowed


def positions(allowed: Bool[Tensor, "batch tokens tokens"]) -> Int[Tensor, "batch tokens"]:
    """Position of each token: how many tokens it sees besides itself. Each branch so restarts right after the image.

    Example:
        >>> positions(visible(torch.ones(1, 4, dtype=torch.bool), torch.tensor([[10000, 1, 2, 2]]))).tolist()
        [[0, 1, 1, 2]]
    """
    return (allowed.sum(-1) - 1).clamp(min=0)


def additive(allowed: Bool[Tensor, "batch queries keys"], dtype: torch.dtype) -> Float[Tensor, "batch 1 queries keys"]:
    """The attention bias of a visibility: 0 where allowed, else the lowest number (never -inf, which breeds NaN)."""
    bias = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return bias.masked_fill(~allowed, torch.finfo(dtype).min)[:, None]


def attention_mask_of(
    allowed: Bool[Tensor, "batch queries keys"], implementation: str, dtype: torch.dtype
) -> Float[Tensor, "batch 1 queries keys"] | Int[Tensor, "batch keys"]:
    """A visibility as the language model's attention wants it: a bias, or for flash attention the keys that count.

    Flash attention is causal by itself and can leave padding out, no more: message trees need another implementation.
    """
    return allowed[:, -1].long() if implementation.startswith("flash") else additive(allowed, dtype)


def answer_loss(
    logits: Float[Tensor, "batch tokens vocabulary"],
    targets: Int[Tensor, "batch tokens"],
    loss_masks: Float[Tensor, "batch tokens"] | None = None,
) -> Float[Tensor, ""]:
    """Mean cross-entropy over the answer's tokens, in float32. Source: paper, eq. 3; published model.

    Args:
        logits: prediction at each token.
        targets: the id that each token should predict (already shifted); negative ones do not count.
        loss_masks: weight of each token; what is not positive does not count. None weighs every target by 1, those
            without a logit (the image's) by 0.
    """
    known = (targets >= 0) & (targets < logits.shape[-1])  # image ids have no logit
    weights = known.float() if loss_masks is None else loss_masks.float().clamp(min=0) * (targets >= 0)
    counted = targets.masked_fill(weights == 0, 0)  # they may not even be looked up
    losses = functional.cross_entropy(logits.float().flatten(0, 1), counted.flatten(), reduction="none")
    losses = losses.view_as(weights)
    return (losses * weights).sum() / weights.sum().clamp(min=1)


@torch.no_grad()
def greedy(
    model: torch.nn.Module,
    embeds: Float[Tensor, "batch tokens width"],
    valid: Bool[Tensor, "batch tokens"],
    max_new_tokens: int,
    stop_id: int | None,
    on_step: Callable[[list[list[int]]], None] | None = None,
) -> list[list[int]]:
    """The likeliest continuation of each prompt, token by token, without the stop id.

    Source: published inference: one beam, prompts padded on the right, new tokens appended after the padding with the
    positions they would have without it. Each row stops at its own stop id.

    Args:
        model: anything with `language` (the transformer) and `logits(hidden)`.
        embeds: prompts with the image tokens added.
        valid: False on padding.
        max_new_tokens: most tokens to write.
        stop_id: id that ends a row; None never ends it early.
        on_step: called after each token with all that is written so far.
    """
    batch, rows = len(embeds), torch.arange(len(embeds), device=embeds.device)
    cache = DynamicCache(config=model.language.config)
    allowed = visible(valid)
    hidden = _step(model, embeds, allowed, positions(allowed), cache)
    last = valid.long().cumsum(-1).argmax(-1)  # first maximum: the last valid token of each row
    hidden, position = hidden[rows, last], valid.sum(-1)

    written: list[list[int]] = [[] for _ in range(batch)]
    open_rows = [True] * batch
    for step in range(max_new_tokens):
        token = model.logits(hidden).argmax(-1)
        for row, value in enumerate(token.tolist()):
            open_rows[row] = open_rows[row] and value != stop_id
            if open_rows[row]:
                written[row].append(value)
        if on_step is not None:
            on_step(written)
        if step == max_new_tokens - 1 or not any(open_rows):
            break
        valid = torch.cat([valid, valid.new_ones(batch, 1)], dim=1)
        embeds = model.language.embed_tokens(token)[:, None]
        hidden = _step(model, embeds, valid[:, None], position[:, None], cache)[:, 0]
        position = position + 1
    return written


def _step(
    model: torch.nn.Module,
    embeds: Float[Tensor, "batch queries width"],
    allowed: Bool[Tensor, "batch queries keys"],
    position_ids: Int[Tensor, "batch queries"],
    cache: DynamicCache,
) -> Float[Tensor, "batch queries width"]:
    """Run the language model over new embeddings and extend the cache."""
    mask = {"full_attention": attention_mask_of(allowed, model.language.config._attn_implementation, embeds.dtype)}
    # transformers 5.24 renamed the argument and warns of the old name, which alone earlier releases know
    named = "cache" if "cache" in signature(model.language.forward).parameters else "past_key_values"
    out = model.language(
        inputs_embeds=embeds, attention_mask=mask, position_ids=position_ids, use_cache=True, **{named: cache}
    )
    return out.last_hidden_state.to(embeds.device)
