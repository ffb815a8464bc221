"""Training of the pointing model: how it is loaded, what of it learns, its loss, and what a pass of it costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from videomolmo.model import VideoMolmoForConditionalGeneration, VideoMolmoProcessor
from videomolmo.model.config import VideoMolmoConfig
from videomolmo.model.decoding import PADDING, answer_loss, attention_mask_of, visible
from videomolmo.model.tokenizer import load_tokenizer, save_tokenizer
from videomolmo.training.data import MicroBatches, Samples
from videomolmo.training.model import Batch, Counts, copy, prepare, set_trainable, shard, start_adapters
from videomolmo.training.recipe import Learn, Recipe
from videomolmo.weights.checkpoint import load_model
from videomolmo.weights.published import read_configuration, weights_in
from videomolmo.weights.quantize import bits

UNQUANTISED = ("head", "token_heads", "vision", "temporal", "connector")  # what no quantisation touches: it may learn
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
BLOCKS = "vision.blocks."


class Pointing:
    """VideoMolmo's pointing model, or a Molmo; see `videomolmo.training.model.Trainable`."""

    parts: Mapping[str, str] = {
        "vision.": "vision", "temporal.": "temporal", "connector.": "connector", "pad_embed": "connector",
    }  # fmt: skip
    adapted = rf"language\.layers\.\d+\.(self_attn|mlp)\.({'|'.join(TARGETS)})"
    full: tuple[str, ...] = ()
    terms: tuple[str, ...] = ()
    by_pass = False

    def load(
        self, recipe: Recipe, folder: Path, accelerator: Accelerator, sharded: bool
    ) -> VideoMolmoForConditionalGeneration:
        """Each weight is read once; frozen ones are in half precision where allowed."""
        config = read_configuration(folder)
        config = config if recipe.model.context is None else replace(config, context=recipe.model.context)
        if recipe.model.quantize:
            dtype = torch.bfloat16 if recipe.run.precision == "mixed" else torch.float32
            model = VideoMolmoForConditionalGeneration.from_pretrained(
                folder, config=config, device_map={"": accelerator.device},
                quantization_config=bits(recipe.model.quantize, dtype, plain=UNQUANTISED),
            )  # fmt: skip
            prepare(self, model, recipe)
        else:
            model = self._read(recipe, folder, config, accelerator, sharded)
        start_adapters(model, recipe.run.seed)
        return model.train()

    def _read(
        self, recipe: Recipe, folder: Path, config: VideoMolmoConfig, accelerator: Accelerator, sharded: bool
    ) -> VideoMolmoForConditionalGeneration:
        """The model, divided while it is empty: each process has memory for its share alone; then its weights."""
        model = VideoMolmoForConditionalGeneration.empty(config)
        weights = weights_in(folder, model, torch.float32)
        prepare(self, model, recipe)
        if sharded:
            shard(self.units(model), recipe, accelerator)
        model.to_empty(device=accelerator.device)
        for name, stored in weights.items():
            owner, _, own = name.rpartition(".")
            module = model.get_submodule(owner)
            copy(getattr(getattr(module, "base_layer", module), own), stored[...])
        rotary = type(model.language.rotary_emb)(config=model.language.config)
        model.language.rotary_emb = rotary.to(accelerator.device)
        return model

    def plain(
        self, recipe: Recipe, folder: Path, config: VideoMolmoConfig
    ) -> tuple[VideoMolmoForConditionalGeneration, Callable[[Path], None]]:
        """With the configuration that it was trained with."""
        model = load_model(folder)
        model.config = config
        return model, lambda place: save_tokenizer(load_tokenizer(folder), str(place))

    def data(
        self, recipe: Recipe, folder: Path, config: VideoMolmoConfig
    ) -> tuple[Samples, Callable[..., MicroBatches]]:
        """Frames with their past, and message trees of questions about them."""
        samples = Samples(recipe.data, config.context if config.needs_past else 0, recipe.run.seed)
        tokenizer = load_tokenizer(folder, config.language)
        return samples, partial(MicroBatches, samples, VideoMolmoProcessor(tokenizer, config))

    def has_no_gradient(self, config: VideoMolmoConfig, name: str) -> bool:
        """Vision blocks after the last selected one are never computed; the way to an object's centre is trained by
        places alone (see `WindowPositions`)."""
        if name == "connector.positions.way":
            return True
        return name.startswith(BLOCKS) and int(name[len(BLOCKS) :].split(".")[0]) > max(config.vision.selected)

    def layers(self, model: VideoMolmoForConditionalGeneration) -> list[nn.Module]:
        """Of both towers."""
        return [*model.vision.blocks, *model.language.layers]

    def units(self, model: VideoMolmoForConditionalGeneration) -> list[nn.Module]:
        """Layers, the connector, and the two tables of words where they are not one."""
        tables = [] if model.head is None else [model.head, model.language.embed_tokens]
        return [*self.layers(model), model.connector, *tables]

    def loss_module(self, model: VideoMolmoForConditionalGeneration) -> nn.Module:
        """See `LossModule`."""
        return LossModule(model)

    def counts(self, batch: Batch) -> Counts:
        """Weights of answer tokens, most of them 1."""
        return token_counts(batch)

    def operations(self, model: VideoMolmoForConditionalGeneration, learn: Learn) -> Callable[[Batch], float]:
        """See `FlopCount`."""
        return FlopCount(model.config, learn).of


def token_counts(batch: Batch) -> Counts:
    """Of a batch whose answer tokens have weights, `loss_masks`."""
    rows, _ = batch["input_ids"].shape
    answers, tokens = (batch["loss_masks"] > 0).sum().item(), (batch["input_ids"] != PADDING).sum().item()
    return Counts(weight_of(batch).item(), answers, tokens, rows)


class LossModule(nn.Module):
    """What is minimised, as one module, so that engines see only tensors going in and one number coming out."""

    def __init__(self, model: VideoMolmoForConditionalGeneration) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Weighted sum of the answer tokens' cross-entropies; divided by all weights of a step later."""
        out = self.model(**batch)
        return out.loss.float() * weight_of(batch).clamp(min=1)


def weight_of(batch: dict[str, Tensor]) -> Tensor:
    """What the loss of a batch divides by: the weights of its answer tokens, most of them 1."""
    return (batch["loss_masks"].clamp(min=0) * (batch["targets"] >= 0)).sum()


class FlopCount:
    """Floating-point operations of one forward and backward pass over one frame and its past.

    Counted are products, convolutions and attention as PyTorch runs them, in the backward pass only where something
    learns; recomputation under gradient checkpointing does not count, so that the TFLOP/s logged are of useful work.

    Args:
        config: of the model.
        learn: what is trained.
    """

    def __init__(self, config: VideoMolmoConfig, learn: Learn) -> None:
        self.config, self.learn = config, learn
        self._curves: dict[int, np.ndarray] = {}

    @cached_property
    def _model(self) -> VideoMolmoForConditionalGeneration:
        model = VideoMolmoForConditionalGeneration.empty(self.config)
        set_trainable(Pointing(), model, self.learn)
        return model.train()

    def of(self, batch: Batch) -> float:
        """Of a batch."""
        rows, tokens = batch["input_ids"].shape
        return rows * self.operations(batch["pixels"].shape[1], tokens)

    def operations(self, crops: int, tokens: int) -> float:
        """Of a frame of so many crops in a sequence of so many tokens: exactly a + b·tokens + c·tokens²."""
        if crops not in self._curves:
            places = (16, 32, 48)
            self._curves[crops] = np.polyfit(places, [self._count(crops, place) for place in places], 2)
        return float(np.polyval(self._curves[crops], tokens))

    def _count(self, crops: int, tokens: int) -> int:
        with FlopCounterMode(display=False) as counter:
            one_pass(self._model, 1, crops, tokens, "meta").backward()
        return counter.get_total_flops()


def one_pass(model: VideoMolmoForConditionalGeneration, batch: int, crops: int, tokens: int, device: str) -> Tensor:
    """The loss of a batch of nothing in particular, by the same layers and sizes as in training.

    Args:
        model: with weights of any kind, also without memory.
        batch, crops, tokens: samples, crops of a frame, and tokens of a sequence.
        device: of the weights.
    """
    config, image = model.config, model.config.image
    pixels = torch.zeros(batch, 1 + config.context, crops, image.patches, image.patch_values, device=device)
    features = model.encode_frames(pixels[:, 0])
    past = model.encode_past(pixels[:, 1:]) if config.needs_past else None
    masks = torch.ones(batch, crops, image.patches, device=device)
    seen = model.image_tokens(features, past, masks).flatten(1, 2)[:, :tokens]
    embeds = model.language.embed_tokens(torch.zeros(batch, tokens, dtype=torch.long, device=device))
    embeds = embeds + torch.nn.functional.pad(seen, (0, 0, 0, tokens - seen.shape[1])).to(embeds)
    allowed = visible(torch.ones(batch, tokens, dtype=torch.bool, device=device))
    targets = torch.zeros(batch, tokens, dtype=torch.long, device=device)
    out = model.language(
        inputs_embeds=embeds, attention_mask={"full_attention": attention_mask_of(allowed, "sdpa", embeds.dtype)},
        position_ids=targets, use_cache=False,
    )  # fmt: skip
    return answer_loss(model.logits(out.last_hidden_state), targets, torch.ones(batch, tokens, device=device))
