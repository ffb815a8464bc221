"""What each token sees, where it stands, the loss of answers, and the likeliest ids one by one."""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional
from transformers import Cache, DynamicCache, GenerationConfig, Qwen2Model

from videomolmo.errors import BadInput

PADDING = -1  # id of a padding token
# transformers 5.24 renamed the argument, and warns of the old name, which alone earlier releases know
CACHE = "cache" if "cache" in signature(Qwen2Model.forward).parameters else "past_key_values"
SHARED = 10000  # subsegment of what all branches of a message tree share: BOS and image


def visible(
    valid: Bool[Tensor, "batch tokens"],
    subsegment_ids: Int[Tensor, "batch tokens"] | None = None,
    mutual: Bool[Tensor, "batch tokens"] | None = None,
) -> Bool[Tensor, "batch tokens tokens"]:
    """Whether each token (row) may attend to each token (column).

    Causal, never to padding, and in a message tree only to its own branch and to what all branches share. Those that
    are `mutual` see each other wherever they stand.

    Source: published model; a token of branch q sees one of branch t where q <= t, and the image counts as 10000.
    """
    tokens = valid.shape[1]
    causal = torch.ones(tokens, tokens, dtype=torch.bool, device=valid.device).tril()[None]
    allowed = (causal if mutual is None else causal | (mutual[:, :, None] & mutual[:, None])) & valid[:, None, :]
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


def left_padded(
    input_ids: Int[Tensor, "batch tokens"],
    valid: Bool[Tensor, "batch tokens"],
    image_input_idx: Int[Tensor, "batch crops windows"] | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The same prompts with what pads them on the right moved to the left, so that new tokens follow their words.

    Example:
        >>> ids = torch.tensor([[7, 8, -1], [4, 5, 6]])
        >>> left_padded(ids, ids >= 0, None)[0].tolist()
        [[-1, 7, 8], [4, 5, 6]]
    """
    shift = valid.long().flip(1).argmax(1)  # tokens of padding behind the last word
    index = (torch.arange(input_ids.shape[1], device=input_ids.device) - shift[:, None]) % input_ids.shape[1]
    if image_input_idx is not None:
        moved = image_input_idx + shift[:, None, None].to(image_input_idx)
        image_input_idx = torch.where(image_input_idx >= 0, moved, image_input_idx)
    return input_ids.gather(1, index), valid.gather(1, index), image_input_idx


def greedy(
    model: Any,
    input_ids: Int[Tensor, "batch tokens"],
    logits_processor: Any,
    stopping_criteria: Any,
    pad: Int[Tensor, ""] | None,
    streamer: Any = None,
    synced_gpus: bool = False,
    **inputs: Any,
) -> Int[Tensor, "batch tokens_and_written"]:
    """Prompts and the likeliest ids after them, as transformers' `generate` asks for them and would write them.

    Args:
        model: with `prepare_inputs_for_generation`, `next_logits`, and a call that gives the logits of the prompt.
        input_ids: prompts, padded on the left.
        logits_processor, stopping_criteria, streamer, synced_gpus: as `GenerationMixin._sample` gets them.
        pad: what is written behind the end of a row; None writes on until all rows end.
        inputs: what else the model gets of the prompt; the cache, of any name, is extended.
    """
    first = model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **inputs)
    logits = model(**first, return_dict=True).logits[:, -1]
    cache = next(value for value in inputs.values() if isinstance(value, Cache))
    places, valid = inputs["position_ids"][:, -1:], inputs.get("attention_mask")
    is_open = torch.ones(len(input_ids), dtype=torch.bool, device=input_ids.device)
    while True:
        tokens = logits_processor(input_ids, logits.float()).argmax(-1)
        tokens = tokens if pad is None else tokens.where(is_open, pad)
        input_ids = torch.cat([input_ids, tokens[:, None]], dim=1)
        is_open &= ~stopping_criteria(input_ids, None)
        if streamer is not None:
            streamer.put(tokens)
        if not is_open.any():
            break
        places = places + 1
        valid = None if valid is None else torch.cat([valid, valid.new_ones(len(valid), 1)], dim=1)
        logits = model.next_logits(tokens, places, valid, cache)
    if streamer is not None:
        streamer.end()
    return input_ids


def check_attention(kind: str, is_shown: bool, is_tree: bool, is_mutual: bool) -> None:
    """Nothing where an implementation of attention can do what is asked.

    Args:
        kind: of attention.
        is_shown: attentions are wanted.
        is_tree, is_mutual: there are branches, or image tokens that see each other.

    Raises:
        BadInput: it cannot.
    """
    if is_shown and kind != "eager":
        raise BadInput(f"attn_implementation is {kind!r}, attentions need 'eager'; build the model with it")
    for needs, told in ((is_tree, "message trees need"), (is_mutual, "image tokens that see each other need")):
        if needs and kind.startswith("flash"):
            raise BadInput(f"attn_implementation is {kind!r}, {told} 'sdpa' or 'eager'; take one of these")


def who_sees_whom(
    input_ids: Int[Tensor, "batch tokens"],
    attention_mask: Int[Tensor, "batch all_tokens"] | None,
    subsegment_ids: Int[Tensor, "batch tokens"] | None,
    cache: Cache | None,
    mutual: Bool[Tensor, "batch tokens"] | None,
) -> tuple[Bool[Tensor, "batch tokens all_tokens"], Bool[Tensor, "batch tokens all_tokens"]]:
    """Whether each new token may attend to each token, those in the cache included; and the same without `mutual`.

    Args:
        input_ids: of new tokens.
        attention_mask: of all tokens so far; None takes what is no padding.
        subsegment_ids, mutual: of new tokens, see `visible`.
        cache: of earlier tokens.
    """
    past, tokens = 0 if cache is None else cache.get_seq_length(), input_ids.shape[1]
    if attention_mask is not None:
        valid = attention_mask.bool()
    elif past:
        valid = input_ids.new_ones(len(input_ids), past + tokens).bool()
    else:
        valid = input_ids != PADDING
    if past and tokens == 1:
        return valid[:, None], valid[:, None]
    causal = visible(valid, subsegment_ids)[:, -tokens:]
    if mutual is None:
        return causal, causal
    return visible(valid, subsegment_ids, functional.pad(mutual, (past, 0)))[:, -tokens:], causal


class LeanDecoding:
    """The loop of a pointing model's `generate`, where nothing but the likeliest words is asked for."""

    def _sample(
        self,
        input_ids: Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: GenerationConfig,
        **inputs: Any,
    ) -> Any:
        """The loop of transformers' `generate`; on a CPU `greedy`, where no more than the likeliest ids is asked for.

        What transformers does around a small model takes a fifth of the time that the model takes itself. A GPU
        does not wait for it.
        """
        asked, cache = generation_config, inputs.get(CACHE)
        more = asked.do_sample, asked.return_dict_in_generate, asked.prefill_chunk_size, inputs.get("synced_gpus")
        is_new = type(cache) is DynamicCache and not cache.get_seq_length()
        is_placed = inputs.get("position_ids") is not None  # earlier releases count positions elsewhere
        is_plain = self.token_heads is None and not any(more)  # a choice of places needs what each step offered
        if input_ids.device.type == "cpu" and is_new and is_placed and is_plain:
            pad = asked._pad_token_tensor if any(hasattr(rule, "eos_token_id") for rule in stopping_criteria) else None
            return greedy(self, input_ids, logits_processor, stopping_criteria, pad, **inputs)
        return super()._sample(input_ids, logits_processor, stopping_criteria, generation_config, **inputs)

    def next_logits(
        self,
        tokens: Int[Tensor, " batch"],
        position_ids: Int[Tensor, "batch 1"],
        attention_mask: Int[Tensor, "batch all_tokens"] | None,
        cache: Cache,
    ) -> Float[Tensor, "batch vocabulary"]:
        """What `forward` gives for one more word of each row; without padding there is no `attention_mask`."""
        embeds, seen = self.language.embed_tokens(tokens)[:, None], None
        if attention_mask is not None:
            kind = self.language.config._attn_implementation
            seen = attention_mask_of(attention_mask[:, None].bool(), kind, embeds.dtype)
        out = self.language(
            inputs_embeds=embeds,
            attention_mask={"full_attention": seen},
            position_ids=position_ids,
            use_cache=True,
            **{CACHE: cache},
        )
        return self.logits(out.last_hidden_state[:, -1].to(embeds.device))
