"""The pointing model: a frame, its past and a question become the text of the points."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    Cache,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    PreTrainedModel,
    Qwen2Model,
)
from transformers.utils import ModelOutput

from videomolmo.errors import BadInput
from videomolmo.io.files import atomic_files
from videomolmo.model.config import VideoMolmoConfig
from videomolmo.model.connector import Connector
from videomolmo.model.decoding import (
    CACHE,
    PADDING,
    LeanDecoding,
    answer_loss,
    attention_mask_of,
    check_attention,
    left_padded,
    positions,
    who_sees_whom,
)
from videomolmo.model.point_heads import PointLosses
from videomolmo.model.temporal import TemporalModule, check_past
from videomolmo.model.token_heads import RULES, Offered, PointLogits, TokenHeads, before_norm
from videomolmo.model.token_order import PointOrder
from videomolmo.model.vision import VisionTower
from videomolmo.weights import hub
from videomolmo.weights.assign import CONFIG_FILE, Shards, Weight, quiet, safetensors_told
from videomolmo.weights.quantize import unpacked

MAX_NEW_TOKENS = 300


@dataclass
class PointingOutput(ModelOutput):
    """What one forward pass computed; `None` where it was not asked for.

    `hidden_states` are the input embeddings, then each layer's output, the last one after the final norm.
    `attentions` are the language model's, one tensor (batch, heads, tokens, tokens) for each layer. The last three are
    of models that choose places: what from, sums of losses, and scores of the points given.
    """

    loss: Float[Tensor, ""] | None = None
    logits: Float[Tensor, "batch tokens vocabulary"] | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    image_tokens: Float[Tensor, "batch crops windows width"] | None = None
    inputs_embeds: Float[Tensor, "batch tokens width"] | None = None
    offered: Offered | None = None
    point_losses: PointLosses | None = None
    point_logits: PointLogits | None = None


class VideoMolmoForConditionalGeneration(LeanDecoding, PreTrainedModel, GenerationMixin):
    """Vision tower, temporal module, connector and a Qwen2 language model, as a model of transformers.

    Source: paper, section 3; published model.
    Differs: batches of any size work (the published code fails above one).

    Args:
        config: every size and option; the model keeps a copy.
        attn_implementation: of the language model, as transformers names it; "eager" can return attentions. None
            takes what the configuration says.

    Example:
        >>> model = VideoMolmoForConditionalGeneration(VideoMolmoConfig.nano())
        >>> sum(p.numel() for p in model.parameters()) < 3e6
        True
    """

    config_class = VideoMolmoConfig
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = _supports_flash_attn = True
    _no_split_modules = ("Qwen2DecoderLayer", "VisionTower", "Connector", "TemporalModule")
    _skip_keys_device_placement = ("past_key_values", "cache")

    def __init__(self, config: VideoMolmoConfig, attn_implementation: str | None = None) -> None:
        config = copy.deepcopy(config)
        config._attn_implementation = attn_implementation or config._attn_implementation or "sdpa"
        super().__init__(config)
        self.vision = VisionTower(config.vision, config.image)
        self.temporal = TemporalModule(config)
        self.connector = Connector(config)
        self.language = Qwen2Model(config.get_text_config())
        width, end = config.language.width, config.language.end_of_text
        self.new_embedding = nn.Parameter(torch.randn(config.language.extra_vocab, width) * 0.02)
        self.head: nn.Linear | None = None
        if not config.language.tie_word_embeddings:
            self.head = nn.Linear(width, config.language.vocab_size, bias=False)
            nn.init.normal_(self.head.weight, std=0.02)
        self.pad_embed: nn.Parameter | None = None
        if config.image_padding_embed is not None:
            self.pad_embed = nn.Parameter(torch.zeros(2, config.vision.feature_dim))
        self.token_heads = TokenHeads(config) if config.points == "tokens" else None
        self.generation_config = GenerationConfig(
            max_new_tokens=MAX_NEW_TOKENS, do_sample=False, eos_token_id=end, pad_token_id=end, bos_token_id=end
        )
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: each part has drawn its weights when it was made."""

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether a part recomputes its activations; peft asks, and transformers' own property would warn."""
        return any(getattr(part, "gradient_checkpointing", False) for part in self.modules())

    def get_input_embeddings(self) -> nn.Module:
        """The table of words; the image tokens' rows are `new_embedding`."""
        return self.language.embed_tokens

    def get_output_embeddings(self) -> nn.Module | None:
        """The output head; None where the table of words serves."""
        return self.head

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
        return self.look(features, past_features, image_masks)[0]

    def look(
        self,
        features: Float[Tensor, "batch crops patches dim"],
        past_features: Float[Tensor, "batch past crops patches dim"] | None,
        image_masks: Float[Tensor, "batch crops patches"] | None = None,
    ) -> tuple[Float[Tensor, "batch crops windows width"], Float[Tensor, "batch crops windows window dim"] | None]:
        """As `image_tokens`, with the patches that each was pooled from where points are chosen among these."""
        past_features = None if past_features is None else past_features.detach()
        if self.pad_embed is not None:
            padding = self._padding_embedding(image_masks)
            if self.config.needs_past:
                check_past(features, past_features, self.config.temporal)  # sums would hide what does not fit
            features = features + padding
            past_features = None if past_features is None else past_features + padding[:, None]
        windows = self.temporal(features, past_features)
        return self.connector(windows), windows if self.token_heads is not None else None

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
        if image_tokens is None and ids.device.type == "cpu" and not (ids >= vocabulary).any():
            return self.language.embed_tokens(ids)  # the same, for each token that is written
        embeds = self.language.embed_tokens(ids.clamp(max=vocabulary - 1))
        ids = ids.to(embeds.device)  # which another GPU may hold
        extra = functional.embedding((ids - vocabulary).clamp(min=0), self.new_embedding)
        embeds = torch.where((ids >= vocabulary)[..., None], extra.to(embeds), embeds)
        if image_tokens is None:
            return embeds
        image_input_idx, image_tokens = image_input_idx.to(embeds.device), image_tokens.to(embeds)
        row, crop, window = (image_input_idx >= 0).nonzero(as_tuple=True)
        place = image_input_idx[row, crop, window]
        return embeds.index_put((row, place), image_tokens[row, crop, window], accumulate=True)

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
        image_tokens: Float[Tensor, "batch crops windows width"] | None = None,
        image_patches: Float[Tensor, "batch crops windows window dim"] | None = None,
        points: Int[Tensor, "batch points 3"] | None = None,
        written: Int[Tensor, "batch all_tokens"] | None = None,
        offered: Offered | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        cache: Cache | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        return_dict: bool | None = None,
    ) -> PointingOutput:
        """Logits at every token, and the loss where targets are given.

        Args:
            input_ids: BOS, image tokens, text; -1 is padding.
            pixels, past_pixels: current and past frames (oldest first); not needed where features are given.
            image_masks, image_input_idx: see `ImageProcessor`; the token that each window feeds, negative for none.
            attention_mask: 0 on padding; taken from `input_ids` where None. With a cache, of all tokens so far.
            position_ids, subsegment_ids: None counts from what each token sees; branches of a message tree.
            targets, loss_masks: see `answer_loss`.
            features, past_features: precomputed vision features, so that a frame is encoded once.
            image_tokens, image_patches: from `look`; they stand for pixels and features.
            points: chosen places, `CLOSED` where a list ends, -1 for padding; as the processor gives them.
            written, offered: while an answer is written, all of it with its prompt, and what places are chosen from.
            output_hidden_states, output_attentions: also return these (attentions need attn_implementation="eager").
            cache, past_key_values: keys and values of earlier tokens, extended; `use_cache` changes nothing.
            logits_to_keep: of so many last tokens; 0 for all.
        """
        heads, shown = self.token_heads, (bool(output_hidden_states), bool(output_attentions))
        if image_tokens is None and offered is None:
            image_tokens, image_patches = self._look_at(pixels, past_pixels, image_masks, features, past_features)
        if heads is not None and image_tokens is not None:
            offered = heads.offered(image_tokens, image_patches, image_input_idx)
        embeds, flat = self._inputs(input_ids, image_tokens, image_input_idx, points, written, offered)
        cache, order = past_key_values if cache is None else cache, (attention_mask, subsegment_ids, position_ids)
        out, states = self._read(input_ids, embeds, order, cache, shown)
        normed = out.last_hidden_state[:, -logits_to_keep:].to(embeds.device)
        result = PointingOutput(
            None, self.logits(normed), out.hidden_states, out.attentions, image_tokens, embeds, offered
        )
        if heads is None:
            result.loss = None if targets is None else answer_loss(result.logits, targets, loss_masks)
            return result
        return heads.completed(result, normed, states, input_ids, (flat, written, targets, loss_masks))

    def _read(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        embeds: Float[Tensor, "batch tokens width"],
        order: tuple[Tensor | None, Tensor | None, Tensor | None],
        cache: Cache | None,
        shown: tuple[bool, bool],
    ) -> tuple[Any, list[Tensor]]:
        """What the language model gives, and where places are chosen its states before the last norm.

        Args:
            input_ids, embeds, cache: see `forward`.
            order: attention mask, branches and positions.
            shown: whether hidden states, and attentions, are wanted.
        """
        kind, (attention_mask, subsegment_ids, position_ids) = self.language.config._attn_implementation, order
        is_mutual = self.config.image_attention == "bidirectional"
        check_attention(kind, shown[1], subsegment_ids is not None, is_mutual)
        mutual = self._is_image(input_ids) if is_mutual else None
        allowed, causal = who_sees_whom(input_ids, attention_mask, subsegment_ids, cache, mutual)
        position_ids = positions(causal) if position_ids is None else position_ids.clamp(min=0)
        with before_norm(self.language, self.token_heads is not None) as states:
            out = self.language(
                inputs_embeds=embeds,
                attention_mask={"full_attention": attention_mask_of(allowed, kind, embeds.dtype)},
                position_ids=position_ids,
                use_cache=cache is not None,
                output_hidden_states=shown[0],
                output_attentions=shown[1],
                **({} if cache is None else {CACHE: cache}),
            )
        return out, states

    def _inputs(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        image_tokens: Tensor | None,
        image_input_idx: Tensor | None,
        points: Int[Tensor, "batch points 3"] | None,
        written: Int[Tensor, "batch all_tokens"] | None,
        offered: Offered | None,
    ) -> tuple[Float[Tensor, "batch tokens width"], Int[Tensor, "points 3"] | None]:
        """What the language model reads, chosen places included, and all points of the batch in its order."""
        heads, flat = self.token_heads, None if points is None else points[points[..., 0] >= 0]
        if heads is None:
            if points is not None:
                raise BadInput("points are given as places, and this model writes them as text; leave them out")
            return self.embed(input_ids, image_tokens, image_input_idx), None
        if written is not None and written.shape[1] > input_ids.shape[1]:  # a token of an answer
            ids, added = heads.read_again(heads.written(written), offered)
            return self.embed(ids, None, None) + added, None
        embeds = self.embed(input_ids, image_tokens, image_input_idx)
        return embeds if flat is None or offered is None else embeds + heads.fed_back(input_ids, offered, flat), flat

    def _is_image(self, ids: Int[Tensor, "batch tokens"]) -> Any:
        """Which tokens are of the image."""
        first, *_, last = self.config.language.extra_ids.values()
        return (ids >= first) & (ids <= last)

    @torch.no_grad()
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
        image_patches: Float[Tensor, "batch crops windows window dim"] | None = None,
        **options: Any,
    ) -> Any:
        """What transformers' `generate` gives: prompts (padding moved to the left) and what is written after them.

        Greedy, at most `MAX_NEW_TOKENS`, and each row ends at its end-of-text, unless `options` say otherwise.

        Args:
            input_ids, attention_mask: as in `forward`, padded on either side.
            pixels, past_pixels, image_masks, image_input_idx, features, past_features, image_tokens, image_patches: as
                in `forward`.
            options: transformers' own: `max_new_tokens`, `streamer`, `do_sample`, `generation_config` …
        """
        if image_tokens is None:
            image_tokens, image_patches = self._look_at(pixels, past_pixels, image_masks, features, past_features)
        valid = input_ids != PADDING if attention_mask is None else attention_mask.bool()
        ids, valid, places = left_padded(input_ids, valid, image_input_idx)
        ids = ids.masked_fill(~valid, self.config.language.end_of_text)
        images = {} if image_tokens is None else {"image_tokens": image_tokens, "image_input_idx": places}
        if (heads := self.token_heads) is not None:
            images |= {} if image_patches is None else {"image_patches": image_patches}
            order = PointOrder(heads.ids, heads.placeholders[0], RULES)
            options["logits_processor"] = LogitsProcessorList([order, *(options.get("logits_processor") or [])])
        return super().generate(input_ids=ids, attention_mask=valid.long(), **images, **options)

    def prepare_inputs_for_generation(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Inputs of the next step: the frame counts for the prompt alone, its tokens are in the cache then."""
        cache = kwargs.get(CACHE)
        if cache is not None and cache.get_seq_length():
            kwargs |= {"image_tokens": None, "image_input_idx": None}
        if self.token_heads is not None:
            kwargs["written"] = input_ids
        return super().prepare_inputs_for_generation(input_ids, *args, **kwargs)

    def _update_model_kwargs_for_generation(
        self, outputs: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ):
        """What the next step needs of this one: also what points can be chosen from."""
        model_kwargs = super()._update_model_kwargs_for_generation(outputs, model_kwargs, *args, **kwargs)
        return model_kwargs | ({"offered": outputs.offered} if self.token_heads is not None else {})

    def _look_at(
        self,
        pixels: Tensor | None,
        past_pixels: Tensor | None,
        image_masks: Tensor | None,
        features: Tensor | None,
        past_features: Tensor | None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """What `look` gives from pixels or precomputed features; None for text alone."""
        if features is None:
            if pixels is None:
                return None, None
            features = self.encode_frames(pixels)
        if past_features is None and past_pixels is not None and self.config.needs_past:
            past_features = self.encode_past(past_pixels)
        return self.look(features, past_features, image_masks)

    def save_pretrained(
        self,
        save_directory: str | Path,
        dtype: torch.dtype | None = None,
        state_dict: Mapping[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write config.json, generation_config.json and the weights; each file atomically.

        Args:
            save_directory: made where missing.
            dtype: of the stored weights, for example torch.float16 to halve the file; None keeps the model's.
            state_dict: the weights; None takes the model's.
            kwargs: transformers' own, for example `max_shard_size`.

        Raises:
            BadInput: the weights are in few bits.
        """
        if hasattr(self, "hf_quantizer"):
            raise BadInput("the weights are in few bits, expected whole ones to save; load it without quantising")
        state = self.state_dict() if state_dict is None else state_dict
        if dtype is not None:
            state = {name: value.detach().to("cpu", dtype) for name, value in state.items()}
        with atomic_files(save_directory, CONFIG_FILE) as place, safetensors_told(), quiet():
            super().save_pretrained(place, state_dict=state, **kwargs)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *model_args: Any,
        config: VideoMolmoConfig | None = None,
        dtype: torch.dtype | str | None = None,
        attn_implementation: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """A model in evaluation mode, with weights of our own or of published names; what does not fit is refused.

        All names and shapes are compared before memory is taken; weights are then read one by one, straight to their
        device and precision.

        Args:
            pretrained_model_name_or_path: a folder, "nano", or an id of the hub.
            config: None takes the folder's.
            dtype: of the weights in the model; None is float32, and "auto" what they are stored in.
            attn_implementation: of the language model: "sdpa", "eager" or "flash_attention_2".
            kwargs: transformers' own: `device_map`, `quantization_config`, `output_loading_info` …, and the hub's:
                `revision`, `subfolder`, `token`, `cache_dir`, `local_files_only`, `force_download`.

        Raises:
            BadInput: files missing or broken, weights that do not fit or are not finite, or an option for other files.
        """
        from videomolmo.weights.published import read_configuration, read_generation, weights_in

        folder = hub.model_folder(pretrained_model_name_or_path, kwargs)
        adapter = (kwargs.pop("adapter_kwargs", None) or {}).get("_adapter_model_path")
        kept = {} if config is None else {"attn_implementation": config._attn_implementation}
        is_given = config is not None and not config.is_published
        config = copy.deepcopy(config) if is_given else read_configuration(folder)
        config._attn_implementation = attn_implementation or kept.get("attn_implementation")
        kwargs["generation_config"] = kwargs.get("generation_config") or read_generation(folder)
        empty = cls.empty(config)
        if dtype == "auto":
            dtype = next(iter(Shards(folder).tensors.values())).dtype
        dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype or torch.float32
        made = empty.with_weights(weights_in(folder, empty, dtype), dtype=dtype, **kwargs)
        model = made[0] if isinstance(made, tuple) else made
        model.name_or_path = model.config.name_or_path = str(pretrained_model_name_or_path)
        if adapter is not None:  # transformers found one of peft, and in it the name of this model
            with quiet():
                model.load_adapter(adapter, use_safetensors=True)
        return made

    def with_weights(self, weights: Mapping[str, Weight], dtype: torch.dtype = torch.float32, **kwargs: Any) -> Any:
        """A model like this one, which may be `empty`, with other weights, all of it placed by transformers."""
        with quiet():
            made = super().from_pretrained(None, config=self.config, state_dict=dict(weights), dtype=dtype, **kwargs)
        unpacked(made[0] if isinstance(made, tuple) else made)
        return made

    @classmethod
    def empty(cls, config: VideoMolmoConfig, attn_implementation: str | None = None) -> Any:
        """A model without memory for its weights, on the meta device."""
        with torch.device("meta"):
            return cls(config, attn_implementation)
