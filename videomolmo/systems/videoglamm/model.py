"""VideoGLaMM: a video and a question become words, and a mask on every frame for each phrase that says [SEG]."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import Cache, CLIPVisionModel, GenerationConfig, GenerationMixin, Phi3Model, PreTrainedModel
from transformers.utils import ModelOutput

from videomolmo.errors import BadInput
from videomolmo.masks.configuration import Unfilled
from videomolmo.model.pointing import CACHE
from videomolmo.model.vision import stem_layers
from videomolmo.systems.videoglamm.config import VideoGLaMMConfig
from videomolmo.systems.videoglamm.internvideo2 import VideoTower
from videomolmo.systems.videoglamm.losses import mask_losses, word_loss
from videomolmo.systems.videoglamm.masks import build_sam2, decode_all, to_size
from videomolmo.systems.videoglamm.splice import Spliced, splice
from videomolmo.systems.videoglamm.weights import (
    fill,
    folder_of,
    published_name,
    read_configuration,
    shared_weights,
    weights_in,
)
from videomolmo.weights.assign import Shards, write_folder

MAX_NEW_TOKENS = 512
STEPWISE = {  # options of transformers with which words come one by one, row by row
    "num_beams": 1, "num_return_sequences": 1, "use_cache": True, "return_dict_in_generate": False,
    "prompt_lookup_num_tokens": None, "assistant_model": None, "prefill_chunk_size": None,
}  # fmt: skip
IDLE = ("trust_remote_code", "use_safetensors", "weights_only", "_from_auto", "_commit_hash", "adapter_kwargs",
        "code_revision")  # fmt: skip


@dataclass
class VideoGLaMMOutput(ModelOutput):
    """What one forward pass computed; None where it was not asked for.

    `labels`, `attention_mask` and `segment_mask` belong to the tokens after the frames entered. `segments` are the
    prompts of each sample's masks (objects, width), `mask_logits` the masks (objects, frames, rows, columns).
    """

    loss: Float[Tensor, ""] | None = None
    logits: Float[Tensor, "batch tokens vocabulary"] | None = None
    ce_loss: Float[Tensor, ""] | None = None
    bce_loss: Float[Tensor, ""] | None = None
    dice_loss: Float[Tensor, ""] | None = None
    inputs_embeds: Float[Tensor, "batch tokens width"] | None = None
    last_hidden_state: Float[Tensor, "batch tokens width"] | None = None
    labels: Int[Tensor, "batch tokens"] | None = None
    attention_mask: Bool[Tensor, "batch tokens"] | None = None
    segment_mask: Bool[Tensor, "batch tokens"] | None = None
    segments: tuple[Tensor, ...] | None = None
    mask_logits: tuple[Tensor, ...] | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class Written(NamedTuple):
    """Prompts with the words written after them, and for each row the prompts of its masks, in the words' order."""

    ids: Int[Tensor, "batch tokens"]
    segments: list[Float[Tensor, "objects width"]]


class ImageTower(nn.Module):
    """CLIP under its published name; patch features of its last layer but one, without gradient."""

    def __init__(self, config: VideoGLaMMConfig) -> None:
        super().__init__()
        self.vision_tower = nn.Module()
        self.vision_tower.vision_model = CLIPVisionModel(config.get_image_config())
        if config.image.stem == "conv":
            stem = PictureStem(*stem_layers(config.image.patch_px, config.image.width))
            self.vision_tower.vision_model.embeddings.patch_embedding = stem

    @torch.no_grad()
    def forward(self, frames: Float[Tensor, "frames 3 size size"]) -> Float[Tensor, "frames patches width"]:
        model = self.vision_tower.vision_model
        pixels = frames.to(model.post_layernorm.weight.dtype)
        return model(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]


class PictureStem(nn.Sequential):
    """Nano's convolutions in the place of CLIP's one, whose `weight` transformers asks for its precision."""

    @property
    def weight(self) -> Tensor:
        return self[0].weight


class VisualPhi3(Phi3Model):
    """Phi-3 with the parts beside it that published weights keep under the same name, "model"."""

    def __init__(self, config: VideoGLaMMConfig) -> None:
        super().__init__(config.get_text_config())
        width = config.language.width
        self.vision_tower, self.image_vision_tower = VideoTower(config.video), ImageTower(config)
        self.mm_projector = _adapter(config.video.width, width, nn.GELU())
        self.image_mm_projector = _adapter(config.image.width, width, nn.GELU())
        self.text_hidden_fcs = nn.ModuleList([_adapter(width, config.masks.width, nn.ReLU(), width)])
        self.visual_model = build_sam2(config.masks)

    def _init_weights(self, module: nn.Module) -> None:
        """Phi-3's own parts as Phi-3 does; those that come later have drawn their weights when they were made."""
        if not hasattr(self, "vision_tower"):
            super()._init_weights(module)


def _adapter(width: int, out: int, activation: nn.Module, hidden: int | None = None) -> nn.Sequential:
    hidden = hidden or out
    return nn.Sequential(nn.Linear(width, hidden), activation, nn.Linear(hidden, out))


class VideoGLaMMForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """CLIP and InternVideo2, an adapter behind each, Phi-3, and SAM 2 prompted by what Phi-3 thinks before a [SEG].

    Parts and weights have the published names (`weights.py` says where one differs).

    Source: VideoGLaMM, section 3; released code.
    Differs: batches with any number of [SEG], none included; frames are encoded once for all conversations about them;
    generation keeps its cache and is greedy, where the published configuration samples.

    Args:
        config: every size; the model keeps a copy.
        attn_implementation: of the language model; None takes what the configuration says, or "sdpa".
    """

    config_class = VideoGLaMMConfig
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = _supports_flash_attn = True
    _no_split_modules = ("Phi3DecoderLayer", "CLIPEncoderLayer", "Block")

    def __init__(self, config: VideoGLaMMConfig, attn_implementation: str | None = None) -> None:
        config = copy.deepcopy(config)
        config._attn_implementation = attn_implementation or config._attn_implementation or "sdpa"
        super().__init__(config)
        part = config.language
        self.model = VisualPhi3(config)
        self.lm_head = nn.Linear(part.width, part.vocab_size, bias=False)
        nn.init.normal_(self.lm_head.weight, std=0.02)
        self.generation_config = GenerationConfig(
            max_new_tokens=MAX_NEW_TOKENS, do_sample=False, eos_token_id=list(part.end), pad_token_id=part.padding,
            bos_token_id=part.begin,
        )  # fmt: skip
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: each part has drawn its weights when it was made."""

    def get_input_embeddings(self) -> nn.Module:
        """The table of words."""
        return self.model.embed_tokens

    def get_output_embeddings(self) -> nn.Module:
        """The output head."""
        return self.lm_head

    @property
    def sam2(self) -> nn.Module:
        """The SAM 2 that is prompted; see `masks.py`."""
        return self.model.visual_model

    def visual_tokens(
        self,
        images: Float[Tensor, "frames 3 video_size video_size"] | None,
        context_images: Float[Tensor, "frames 3 image_size image_size"],
    ) -> Float[Tensor, "tokens width"]:
        """Tokens of a video: those of CLIP for every frame, pooled, then those of InternVideo2, pooled.

        Args:
            images: as InternVideo2 sees the frames; None for a single picture, whose tokens are CLIP's, not pooled.
            context_images: as CLIP sees them.

        Raises:
            BadInput: a number of frames that is no multiple of a chunk's.
        """
        seen = self.model.image_mm_projector(self.model.image_vision_tower(context_images))
        if images is None:
            return seen.flatten(0, 1)
        if len(images) % self.config.video.frames:
            raise BadInput(
                f"{len(images)} frames for InternVideo2, expected a multiple of {self.config.video.frames}; "
                "the processor repeats the last one"
            )
        moved = self.model.mm_projector(self.model.vision_tower(images)).flatten(0, 1)
        pooled = pool(seen, self.config.image.pool), pool(moved, self.config.video.pool)
        return torch.cat([part.flatten(0, 1) for part in pooled])

    def spliced(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        attention_mask: Tensor | None = None,
        labels: Int[Tensor, "batch tokens"] | None = None,
        images: Sequence[Tensor | None] | None = None,
        context_images: Sequence[Tensor | None] | None = None,
        offset: Sequence[int] | None = None,
        left: bool = False,
    ) -> Spliced:
        """A batch of ids with its visual tokens; arguments as in `forward`, `left` as in `splice`."""
        if context_images is None:
            visual: list[Tensor | None] = [None] * len(input_ids)
        else:
            images = [None] * len(context_images) if images is None else images
            tokens = [
                None if context is None else self.visual_tokens(video, context)
                for video, context in zip(images, context_images, strict=True)
            ]
            visual = [tokens[sample] for sample in samples_of(len(input_ids), len(tokens), offset)]
        real = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        rows, valid = list(input_ids), list(real)
        if left:  # generation goes on where a row ends
            rows, valid = [row[kept] for row, kept in zip(rows, valid, strict=True)], [kept[kept] for kept in valid]
        learnt = None if labels is None else list(labels)
        return splice(rows, valid, learnt, visual, self.model.embed_tokens, self.config.language.segment, left)

    def forward(
        self,
        input_ids: Int[Tensor, "batch tokens"] | None = None,
        attention_mask: Tensor | None = None,
        labels: Int[Tensor, "batch tokens"] | None = None,
        images: Sequence[Tensor | None] | None = None,
        context_images: Sequence[Tensor | None] | None = None,
        sam_images: Sequence[Tensor | None] | None = None,
        masks: Sequence[Tensor] | None = None,
        offset: Sequence[int] | None = None,
        inputs_embeds: Float[Tensor, "batch tokens width"] | None = None,
        position_ids: Int[Tensor, "batch tokens"] | None = None,
        cache: Cache | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> VideoGLaMMOutput:
        """Logits at every token; masks where SAM 2's frames are given; losses where labels are.

        Args:
            input_ids: text with one run of -200 where the frames belong, padded on the right.
            attention_mask: False on padding; None for no padding.
            labels: targets at their own place, -100 where nothing is learnt.
            images, context_images: of each sample, as InternVideo2 and CLIP see its frames; see `visual_tokens`.
            sam_images: of each sample, the frames to be masked as SAM 2 sees them, any number; None for no masks.
            masks: true masks of each sample on these frames (objects, frames, height, width), missing objects as -1.
            offset: conversations of sample s are rows offset[s] to offset[s + 1]; None for one each.
            inputs_embeds, position_ids, cache, past_key_values, use_cache: transformers' own, for generation.
            logits_to_keep: of so many last tokens; 0 for all.
            output_hidden_states, output_attentions: also return these.
        """
        cache = past_key_values if cache is None else cache
        merged = None
        if inputs_embeds is None:
            past = 0 if cache is None else cache.get_seq_length()
            merged = self.spliced(input_ids, None if past else attention_mask, labels, images, context_images, offset)
            inputs_embeds, attention_mask = merged.embeds, attention_mask if past else merged.attention_mask
        out = self.model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=cache is not None,
            output_hidden_states=bool(output_hidden_states),
            output_attentions=bool(output_attentions),
            **({} if cache is None else {CACHE: cache}),
        )
        hidden = out.last_hidden_state
        result = VideoGLaMMOutput(
            logits=self.lm_head(hidden[:, -logits_to_keep:]), inputs_embeds=inputs_embeds, last_hidden_state=hidden,
            hidden_states=out.hidden_states, attentions=out.attentions,
        )  # fmt: skip
        if merged is not None and cache is None:
            self._segment(result, merged, sam_images, masks, offset)
            if labels is not None:
                self._add_losses(result, masks)
        return result

    def _segment(
        self,
        result: VideoGLaMMOutput,
        merged: Spliced,
        sam_images: Sequence[Tensor | None] | None,
        masks: Sequence[Tensor] | None,
        offset: Sequence[int] | None,
    ) -> None:
        """Add what the [SEG]s of each sample say, and the masks of it; with true masks, objects are filled up."""
        result.labels, result.attention_mask, result.segment_mask = (
            merged.labels,
            merged.attention_mask,
            merged.segments,
        )
        count = len(merged.segments) if offset is None else len(offset) - 1
        samples = samples_of(len(merged.segments), count if sam_images is None else len(sam_images), offset)
        vectors = self.model.text_hidden_fcs[0](result.last_hidden_state[merged.segments])
        of_rows = vectors.split(merged.segments.sum(1).tolist())
        result.segments = tuple(
            torch.cat([vectors[:0], *(part for part, owner in zip(of_rows, samples, strict=True) if owner == sample)])
            for sample in range(count)
        )
        if sam_images is None:
            return
        least = 0 if masks is None else self.config.most_objects
        result.mask_logits = tuple(
            None if pixels is None else decode_all(self.sam2, pixels, *_filled(found, least))
            for found, pixels in zip(result.segments, sam_images, strict=True)
        )

    def _add_losses(self, result: VideoGLaMMOutput, masks: Sequence[Tensor] | None) -> None:
        """Add the losses, each weighted."""
        config = self.config
        result.ce_loss = result.loss = config.ce_weight * word_loss(result.logits, result.labels)
        if masks is None:
            return
        if result.mask_logits is None:
            raise BadInput("masks are given without sam_images, expected both; the processor makes sam_images")
        for true, found in zip(masks, result.mask_logits, strict=True):
            if true.ndim != 4 or true.shape[1] != found.shape[1]:
                raise BadInput(
                    f"true masks are {tuple(true.shape)}, expected (objects, {found.shape[1]}, height, width)"
                )
        full = [to_size(found, true.shape[-2:]) for found, true in zip(result.mask_logits, masks, strict=True)]
        bce, dice = mask_losses(full, masks)
        result.bce_loss, result.dice_loss = config.bce_weight * bce, config.dice_weight * dice
        result.loss = result.ce_loss + result.bce_loss + result.dice_loss

    @torch.no_grad()
    def generate(self, input_ids: Int[Tensor, "batch tokens"], **options: Any) -> Int[Tensor, "batch tokens"]:
        """Prompts and what is written after them; see `write`, which gives the prompts of the masks as well."""
        return self.write(input_ids, **options).ids

    @torch.no_grad()
    def write(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        attention_mask: Tensor | None = None,
        images: Sequence[Tensor | None] | None = None,
        context_images: Sequence[Tensor | None] | None = None,
        **options: Any,
    ) -> Written:
        """Words after each prompt (greedy, at most `MAX_NEW_TOKENS`), and a vector for each [SEG] among them.

        Args:
            input_ids, attention_mask, images, context_images: as in `forward`, one row for each sample.
            options: transformers' own: `max_new_tokens`, `streamer`, `do_sample` …

        Raises:
            BadInput: an option by which words no longer come one by one, row by row.
        """
        settings = options.get("generation_config") or self.generation_config
        for name, only in STEPWISE.items():
            value = options.get(name, getattr(settings, name, None))
            if value not in (None, only):
                raise BadInput(f"{name} is {value}, but each [SEG] needs the state it was written in; use {only}")
        given = self.spliced(input_ids, attention_mask, None, images, context_images, left=True)
        with self._last_states() as states:
            new = super().generate(inputs_embeds=given.embeds, attention_mask=given.attention_mask.long(), **options)
        new = new[:, -len(states) :]
        hidden = torch.stack(states, dim=1)[:, : new.shape[1]]
        segment = self.config.language.segment
        segments = [self.model.text_hidden_fcs[0](hidden[row, ids == segment]) for row, ids in enumerate(new)]
        return Written(torch.cat([input_ids, new], dim=1), segments)

    def save_pretrained(
        self, save_directory: str | Path, dtype: torch.dtype | None = None, max_shard_size: str = "5GB", **kwargs: Any
    ) -> None:
        """Write config.json and the weights under published names; each file atomically.

        What a configuration with `shared` says is elsewhere is left out where it is the same.

        Args:
            save_directory: made where missing.
            dtype: of the stored weights; None keeps the model's.
            max_shard_size: most bytes of one file.
            kwargs: transformers' other options, which change nothing here.
        """
        shared = shared_weights(self.config)
        state = {
            published_name(name): value.detach()
            for name, value in self.state_dict().items()
            if name not in shared or not torch.equal(value.detach().cpu().half(), shared[name].half())
        }
        if dtype is not None:
            state = {name: value.to("cpu", dtype) for name, value in state.items()}
        config = copy.deepcopy(self.config)
        config.architectures = [type(self).__name__]
        write_folder(save_directory, config.to_json_string(), state, max_shard_size)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        config: VideoGLaMMConfig | None = None,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str = "cpu",
        attn_implementation: str | None = None,
        clip: str | Path | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        **kwargs: Any,
    ) -> Any:
        """A model in evaluation mode with the weights of a folder, saved here or published; what misfits is refused.

        All names and shapes are compared before memory is taken; weights are then read one by one, straight to their
        device and precision.

        Args:
            pretrained_model_name_or_path: a folder, or an id of the hub.
            config: None takes the folder's.
            dtype: of the weights in the model but for SAM 2's, which are float32; None is float32, and "auto" what
                they are stored in.
            device: of the weights.
            attn_implementation: of the language model: "sdpa", "eager" or "flash_attention_2".
            clip: see `weights.weights_in`.
            revision, local_files_only: of the hub.
            kwargs: those that transformers' Auto classes add, which change nothing; no others.

        Raises:
            BadInput: files missing or broken, weights that do not fit or are not finite, or another option.
        """
        if strange := sorted(set(kwargs) - set(IDLE)):
            raise BadInput(f"{strange[0]} is no option of {cls.__name__}.from_pretrained; leave it out")
        folder = folder_of(pretrained_model_name_or_path, revision, local_files_only)
        own = read_configuration(folder)
        model = cls.empty(own if config is None else config, attn_implementation)
        weights = weights_in(folder, model, clip)
        if dtype == "auto":
            dtype = next(iter(Shards(folder).tensors.values())).dtype
        dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype or torch.float32
        fill(model, weights, device, dtype, str(folder))
        model.name_or_path = model.config.name_or_path = str(pretrained_model_name_or_path)
        return model.to(device).eval()

    @classmethod
    def empty(cls, config: VideoGLaMMConfig, attn_implementation: str | None = None) -> Any:
        """A model without memory for its weights; what is computed from sizes is there."""
        with Unfilled():
            return cls(config, attn_implementation)

    @contextmanager
    def _last_states(self) -> Iterator[list[Float[Tensor, "batch width"]]]:
        """The state after the final norm that each word is written in, one for each step."""
        states: list[Tensor] = []
        hook = self.model.norm.register_forward_hook(lambda _module, _inputs, out: states.append(out[:, -1]))
        try:
            yield states
        finally:
            hook.remove()


def samples_of(rows: int, samples: int | None, offset: Sequence[int] | None) -> list[int]:
    """The sample that each row of a batch is about.

    Example:
        >>> samples_of(3, 2, [0, 2, 3])
        [0, 0, 1]
    """
    bounds = list(range(rows + 1)) if offset is None else [int(one) for one in offset]
    counts = [after - before for before, after in pairwise(bounds)]
    if bounds[:1] != [0] or bounds[-1] != rows or min(counts, default=0) < 0 or samples not in (None, len(counts)):
        raise BadInput(
            f"offset is {bounds} for {rows} rows and {samples} samples, expected 0 to {rows} in rising order"
        )
    return [sample for sample, count in enumerate(counts) for _ in range(count)]


def pool(features: Float[Tensor, "frames patches width"], side: int) -> Float[Tensor, "frames places width"]:
    """Square maps of patches averaged to `side` by `side` places, row by row."""
    grid = round(features.shape[1] ** 0.5)
    maps = rearrange(features, "frames (rows columns) width -> frames width rows columns", rows=grid, columns=grid)
    return rearrange(
        functional.adaptive_avg_pool2d(maps, side), "frames width rows columns -> frames (rows columns) width"
    )


def _filled(vectors: Float[Tensor, "objects width"], least: int) -> tuple[Tensor, Bool[Tensor, " objects"]]:
    """Vectors filled up with zeros to at least so many; and which of them are real."""
    missing = max(0, least - len(vectors))
    real = torch.arange(len(vectors) + missing, device=vectors.device) < len(vectors)
    return functional.pad(vectors, (0, 0, 0, missing)), real
