"""Greedy decoding with a key-value cache, batched over prompts of different length."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache

from videomolmo.model.sequence import attention_mask_of, positions, visible


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
