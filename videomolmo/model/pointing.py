"""The pointing model: a frame, its past and a question become the text of the points."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import Qwen2Config, Qwen2Model

from videomolmo.errors import BadInput
from videomolmo.model.config import LanguageConfig, PointingConfig
from videomolmo.model.connector import Connector
from videomolmo.model.decoding import PADDING, answer_loss, attention_mask_of, greedy, positions, visible
from videomolmo.model.temporal import TemporalModule, check_past
from videomolmo.model.vision import VisionTower
from videomolmo.weights.assign import Put, Shards, check_fit, fill, put_plain, read_config, save_model
from videomolmo.weights.devices import Devices, connect, device_of


@dataclass
class PointingOutput:
    """What one forward pass computed; `None` where it was not asked for.

    `hidden_states` are the input embeddings, then each layer's output, the last one after the final norm.
    `attentions` are the language model's, one tensor (batch, heads, tokens, tokens) for each layer.
    """

    logits: Float[Tensor, "batch tokens vocabulary"]
    loss: Float[Tensor, ""] | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    image_tokens: Float[Tensor, "batch crops windows width"] | None = None
    inputs_embeds: Float[Tensor, "batch tokens width"] | None = None


class PointingModel(nn.Module):
    """Vision tower, temporal module, connector and a Qwen2 language model.

    Source: paper, section 3; published model.
    Differs: batches of any size work (the published code fails above one).

    Args:
        config: every size and option.
        attn_implementation: of the language model, as transformers names it; "eager" can return attentions.

    Example:
        >>> model = PointingModel(PointingConfig.nano())
        >>> sum(p.numel() for p in model.parameters()) < 3e6
        True
    """

    def __init__(self, config: PointingConfig, attn_implementation: str = "sdpa") -> None:
        super().__init__()
        self.config = config
        self.vision = VisionTower(config.vision, config.image)
        self.temporal = TemporalModule(config)
        self.connector = Connector(config)
        self.language = Qwen2Model(_qwen2_config(config.language, attn_implementation))
        width = config.language.width
        self.new_embedding = nn.Parameter(torch.randn(config.language.extra_vocab, width) * 0.02)
        self.head: nn.Linear | None = None
        if not config.language.tie_word_embeddings:
            self.head = nn.Linear(width, config.language.vocab_size, bias=False)
            nn.init.normal_(self.head.weight, std=0.02)
        self.pad_embed: nn.Parameter | None = None
        if config.image_padding_embed is not None:
            self.pad_embed = nn.Parameter(torch.zeros(2, config.vision.feature_dim))

    def encode_frames(
        self, pixels: Float[Tensor, "batch crops patches pixel"]
    ) -> Float[Tensor, "batch crops patches dim"]:
        """Patch features of frames: the selected layers of the vision tower side by side."""
        return self.vision(pixels)

    @torch.no_grad()
    def encode_past(
        self, past_pixels: Float[Tensor, "batch past crops patches pixel"]
    ) -> Float[Tensor, "batch past crops patches dim"]:
        """Patch features of past frames, without gradient. Source: paper, section 3 (temporal context)."""
        batch = len(past_pixels)
        frames = rearrange(past_pixels, "batch past crops patches pixel -> (batch past) crops patches pixel")
        features = self.vision(frames)
        return rearrange(features, "(batch past) crops patches dim -> batch past crops patches dim", batch=batch)

    def image_tokens(
        self,
        features: Float[Tensor, "batch crops patches dim"],
        past_features: Float[Tensor, "batch past crops patches dim"] | None,
        image_masks: Float[Tensor, "batch crops patches"] | None = None,
    ) -> Float[Tensor, "batch crops windows width"]:
        """Language-model tokens of the current frame, enriched by its past.

        Args:
            features, past_features: from `encode_frames` and `encode_past`; the past is oldest first.
            image_masks: share of image in each patch; read only with `image_padding_embed`.
        """
        past_features = None if past_features is None else past_features.detach()
        if self.pad_embed is not None:
            padding = self._padding_embedding(image_masks)
            if self.config.needs_past:
                check_past(features, past_features, self.config.temporal)  # sums would hide what does not fit
            features = features + padding
            past_features = None if past_features is None else past_features + padding[:, None]
        return self.connector(self.temporal(features, past_features))

    def _padding_embedding(
        self, image_masks: Float[Tensor, "batch crops patches"] | None
    ) -> Float[Tensor, "batch crops patches dim"]:
        """One learned vector on patches that are all padding, another on partly padded ones, else zero."""
        if image_masks is None:
            raise BadInput(
                "image_masks are missing, expected them with image_padding_embed; pass the processor's masks"
            )
        kinds = torch.stack([image_masks == 0, (image_masks < 1) & (image_masks != 0)], dim=-1)
        return kinds.to(self.pad_embed.dtype) @ self.pad_embed

    def embed(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        image_tokens: Float[Tensor, "batch crops windows width"] | None,
        image_input_idx: Int[Tensor, "batch crops windows"] | None,
    ) -> Float[Tensor, "batch tokens width"]:
        """Token embeddings with the image tokens added at their places (padding is embedded as id 0).

        Source: published model: image tokens are added to the <im_patch> embedding, they do not replace it.
        """
        vocabulary = self.config.language.vocab_size
        ids = input_ids.clamp(min=0)
        embeds = self.language.embed_tokens(ids.clamp(max=vocabulary - 1))
        extra = functional.embedding((ids - vocabulary).clamp(min=0), self.new_embedding)
        embeds = torch.where((ids >= vocabulary)[..., None], extra.to(embeds), embeds)
        if image_tokens is None:
            return embeds
        row, crop, window = (image_input_idx >= 0).nonzero(as_tuple=True)
        place = image_input_idx[row, crop, window]
        return embeds.index_put((row, place), image_tokens[row, crop, window].to(embeds.dtype), accumulate=True)

    def logits(self, hidden: Float[Tensor, "... width"]) -> Float[Tensor, "... vocabulary"]:
        """Scores over the vocabulary (the extra image ids can never be written)."""
        return functional.linear(hidden, self.language.embed_tokens.weight) if self.head is None else self.head(hidden)

    def forward(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        pixels: Float[Tensor, "batch crops patches pixel"] | None = None,
        past_pixels: Float[Tensor, "batch past crops patches pixel"] | None = None,
        image_masks: Float[Tensor, "batch crops patches"] | None = None,
        image_input_idx: Int[Tensor, "batch crops windows"] | None = None,
        attention_mask: Int[Tensor, "batch tokens"] | None = None,
        position_ids: Int[Tensor, "batch tokens"] | None = None,
        subsegment_ids: Int[Tensor, "batch tokens"] | None = None,
        targets: Int[Tensor, "batch tokens"] | None = None,
        loss_masks: Float[Tensor, "batch tokens"] | None = None,
        features: Float[Tensor, "batch crops patches dim"] | None = None,
        past_features: Float[Tensor, "batch past crops patches dim"] | None = None,
        output_hidden: bool = False,
        output_attentions: bool = False,
    ) -> PointingOutput:
        """Logits at every token, and the loss where targets are given.

        Args:
            input_ids: BOS, image tokens, text; -1 is padding.
            pixels, past_pixels: current and past frames (oldest first); not needed where features are given.
            image_masks: share of image in each patch, see `ImageProcessor`.
            image_input_idx: token that each window feeds; negative for none.
            attention_mask: 0 on padding; taken from `input_ids` where None.
            position_ids: counted from what each token sees where None.
            subsegment_ids: branches of a message tree.
            targets, loss_masks: see `answer_loss`.
            features, past_features: precomputed vision features, so that a frame is encoded once.
            output_hidden, output_attentions: also return these (attentions need attn_implementation="eager").
        """
        kind = self.language.config._attn_implementation
        if output_attentions and kind != "eager":
            raise BadInput(f"attn_implementation is {kind!r}, attentions need 'eager'; build the model with it")
        if subsegment_ids is not None and kind.startswith("flash"):
            raise BadInput(f"attn_implementation is {kind!r}, message trees need 'sdpa' or 'eager'; take one of these")
        tokens = self._frame_tokens(pixels, past_pixels, image_masks, features, past_features)
        embeds = self.embed(input_ids, tokens, image_input_idx)
        valid = input_ids != PADDING if attention_mask is None else attention_mask.bool()
        allowed = visible(valid, subsegment_ids)
        bias = attention_mask_of(allowed, kind, embeds.dtype)
        out = self.language(
            inputs_embeds=embeds,
            attention_mask={"full_attention": bias},
            position_ids=positions(allowed) if position_ids is None else position_ids.clamp(min=0),
            use_cache=False,
            output_hidden_states=output_hidden,
            output_attentions=output_attentions,
        )
        logits = self.logits(out.last_hidden_state.to(embeds.device))
        loss = None if targets is None else answer_loss(logits, targets, loss_masks)
        return PointingOutput(logits, loss, out.hidden_states, out.attentions, tokens, embeds)

    def generate(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        pixels: Float[Tensor, "batch crops patches pixel"] | None = None,
        past_pixels: Float[Tensor, "batch past crops patches pixel"] | None = None,
        image_masks: Float[Tensor, "batch crops patches"] | None = None,
        image_input_idx: Int[Tensor, "batch crops windows"] | None = None,
        attention_mask: Int[Tensor, "batch tokens"] | None = None,
        features: Float[Tensor, "batch crops patches dim"] | None = None,
        past_features: Float[Tensor, "batch past crops patches dim"] | None = None,
        image_tokens: Float[Tensor, "batch crops windows width"] | None = None,
        max_new_tokens: int = 300,
        stop_id: int | None = None,
        on_step: Callable[[list[list[int]]], None] | None = None,
    ) -> list[list[int]]:
        """Ids that greedy decoding writes for each row, without the stop id; arguments as in `forward` and `greedy`.

        `image_tokens`, from the method of that name, stand for pixels and features.
        """
        with torch.no_grad():
            if image_tokens is None:
                image_tokens = self._frame_tokens(pixels, past_pixels, image_masks, features, past_features)
            embeds = self.embed(input_ids, image_tokens, image_input_idx)
        valid = input_ids != PADDING if attention_mask is None else attention_mask.bool()
        return greedy(self, embeds, valid, max_new_tokens, stop_id, on_step)

    def _frame_tokens(
        self,
        pixels: Tensor | None,
        past_pixels: Tensor | None,
        image_masks: Tensor | None,
        features: Tensor | None,
        past_features: Tensor | None,
    ) -> Float[Tensor, "batch crops windows width"] | None:
        """Image tokens from pixels or precomputed features; None for text alone."""
        if features is None:
            if pixels is None:
                return None
            features = self.encode_frames(pixels)
        if past_features is None and past_pixels is not None and self.config.needs_past:
            past_features = self.encode_past(past_pixels)
        return self.image_tokens(features, past_features, image_masks)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write config.json and model.safetensors; `dtype` (torch.float16) makes the stored weights smaller."""
        save_model(self, folder, dtype)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        devices: Devices = "cpu",
        dtype: torch.dtype = torch.float32,
        attn_implementation: str = "sdpa",
        prepare: Callable[[PointingModel], Put] = lambda model: put_plain,
    ) -> PointingModel:
        """The model that `save_pretrained` wrote, in evaluation mode; weights that do not fit raise BadInput.

        `prepare` changes the empty model where needed and says how its weights are put; see `quantize.quantised`.
        """
        model = cls.empty(read_config(folder), attn_implementation)
        shards = Shards(folder)
        check_fit(model, shards.tensors.items(), str(folder))
        return model.filled(shards, devices, dtype, prepare(model), str(folder))

    @classmethod
    def empty(cls, config: PointingConfig, attn_implementation: str = "sdpa") -> PointingModel:
        """A model without memory for its weights, on the meta device; see `filled`."""
        with torch.device("meta"):
            return cls(config, attn_implementation)

    def filled(
        self,
        tensors: Iterable[tuple[str, Tensor]],
        devices: Devices,
        dtype: torch.dtype,
        put: Put = put_plain,
        source: str = "",
    ) -> PointingModel:
        """Give an `empty` model its weights, one at a time, and what it computes from its sizes; evaluation mode.

        Args:
            tensors: our names and tensors, all of them.
            devices, dtype: where the weights go, and in which precision.
            put, source: see `weights.fill`.

        Raises:
            BadInput: a weight that is not finite.
        """
        fill(self, tensors, devices, dtype, put, source)
        with device_of("language.rotary_emb", devices):
            self.language.rotary_emb = type(self.language.rotary_emb)(config=self.language.config)
        return connect(self, devices).eval()


def _qwen2_config(config: LanguageConfig, attn_implementation: str) -> Qwen2Config:
    """Our language sizes in transformers' terms."""
    return Qwen2Config(
        vocab_size=config.vocab_size,
        hidden_size=config.width,
        intermediate_size=config.ff,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        max_position_embeddings=config.max_positions,
        rms_norm_eps=config.rms_eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        use_sliding_window=False,
        tie_word_embeddings=False,
        attn_implementation=attn_implementation,
    )
