"""Training of VideoGLaMM: grounded conversations of data sets, words and masks learnt together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from videomolmo.datasets import Record, read_dataset
from videomolmo.datasets.registry import DATASETS, has_answers
from videomolmo.errors import BadInput
from videomolmo.systems.videoglamm import VideoGLaMMConfig, VideoGLaMMForConditionalGeneration, VideoGLaMMProcessor
from videomolmo.systems.videoglamm.examples import Conversations, model_inputs, read_conversations, training_batch
from videomolmo.training.data import MicroBatches, Sampler, Samples
from videomolmo.training.model import Batch, Counts, placed, refuse
from videomolmo.training.recipe import Data, Learn, Recipe

MASKS = "model.visual_model."
DECODER = f"{MASKS}sam_mask_decoder."
NO_GRADIENT = tuple(  # of the mask decoder: maps are made without gradient, and no loss is about its own judgements
    DECODER + name for name in ("conv_s0.", "conv_s1.", "iou_prediction_head.", "pred_obj_score_head.")
)


class VideoGLaMM:
    """VideoGLaMM; see `videomolmo.training.model.Trainable`.

    Source: VideoGLaMM, section 4, and the released code: adapters on the queries, keys and values of Phi-3, its tables
    of words, the projector of [SEG]s and SAM 2's mask decoder learn; the loss is the mean over passes of
    CE + 2·BCE + 0.5·Dice, each a mean over its pass.
    """

    parts: Mapping[str, str] = {
        "model.mm_projector.": "connector", "model.image_mm_projector.": "connector",
        "model.text_hidden_fcs.": "projector", DECODER: "mask_decoder",
        "model.embed_tokens.": "words", "lm_head.": "words",
        "model.vision_tower.": "encoders", "model.image_vision_tower.": "encoders", MASKS: "encoders",
    }  # fmt: skip
    adapted = r"model\.layers\.\d+\.self_attn\.qkv_proj"
    full: tuple[str, ...] = (MASKS,)  # as in its package, parts of which compute in nothing else
    terms: tuple[str, ...] = ("ce", "bce", "dice")
    by_pass = True

    def load(
        self, recipe: Recipe, folder: Path, accelerator: Accelerator, sharded: bool
    ) -> VideoGLaMMForConditionalGeneration:
        """Each process reads all of it."""
        refuse({"model.context": recipe.model.context, "model.quantize": recipe.model.quantize}, "VideoGLaMM")
        model = VideoGLaMMForConditionalGeneration.from_pretrained(folder, clip=recipe.model.clip)
        return placed(self, model, recipe, accelerator, sharded)

    def plain(
        self, recipe: Recipe, folder: Path, config: VideoGLaMMConfig
    ) -> tuple[VideoGLaMMForConditionalGeneration, Callable[[Path], None]]:
        """With the encoders that it was trained with."""
        model = VideoGLaMMForConditionalGeneration.from_pretrained(folder, clip=recipe.model.clip)
        return model, VideoGLaMMProcessor.from_pretrained(folder).save_pretrained

    def data(
        self, recipe: Recipe, folder: Path, config: VideoGLaMMConfig
    ) -> tuple[ConversationSamples, Callable[..., MicroBatches]]:
        """Clips with conversations about them."""
        samples = ConversationSamples(recipe.data, config.frames, recipe.run.seed)
        return samples, partial(ConversationBatches, samples, VideoGLaMMProcessor.from_pretrained(folder))

    def has_no_gradient(self, config: VideoGLaMMConfig, name: str) -> bool:
        """The encoders, SAM 2's included, and what in the mask decoder judges masks; see `NO_GRADIENT`."""
        begin = next((begin for begin in self.parts if name.startswith(begin)), "")
        return self.parts.get(begin) == "encoders" or name.startswith(NO_GRADIENT)

    def layers(self, model: VideoGLaMMForConditionalGeneration) -> list[nn.Module]:
        """Of Phi-3; the encoders keep nothing for the backward pass anyway."""
        return list(model.model.layers)

    def units(self, model: VideoGLaMMForConditionalGeneration) -> list[nn.Module]:
        """Layers of Phi-3 and of both encoders."""
        inner = model.model
        clip = inner.image_vision_tower.vision_tower.vision_model.encoder.layers
        return [*inner.layers, *inner.vision_tower.vision_encoder.blocks, *clip]

    def loss_module(self, model: VideoGLaMMForConditionalGeneration) -> nn.Module:
        """See `GroundedLoss`."""
        return GroundedLoss(model)

    def counts(self, batch: Batch) -> Counts:
        """A pass weighs as much as it has samples; tokens are those of the text."""
        samples = len(batch["offset"]) - 1
        answers, tokens = (batch["labels"] >= 0).sum().item(), batch["attention_mask"].sum().item()
        return Counts(samples, answers, tokens, samples)

    def operations(self, model: nn.Module, learn: Learn) -> None:
        """Not counted."""


class GroundedLoss(nn.Module):
    """What is minimised: the model's own losses of words, of masks by pixels, and of masks by Dice."""

    def __init__(self, model: VideoGLaMMForConditionalGeneration) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        """The three losses, weighted, times the samples of the batch."""
        out = self.model(**model_inputs(batch))
        return torch.stack([out.ce_loss, out.bce_loss, out.dice_loss]) * (len(batch["offset"]) - 1)


class ConversationSamples(Samples):
    """Sample after sample without end, as `Samples`, each a clip with conversations about it.

    Args:
        data, seed: see `Samples`.
        shown: frames that the model sees.

    Raises:
        BadInput: a set cannot be read or has no grounded answers, or samples are to be changed.
    """

    def __init__(self, data: Data, shown: int, seed: int) -> None:
        self.data, self.shown, self.seed = data, shown, seed
        changes = {f"data.{name}": getattr(data, name) or None for name in ("mirror", "brightness", "contrast")}
        refuse(changes, "VideoGLaMM")
        for source in data.sets:
            if not has_answers(source.name):
                known = ", ".join(name for name in DATASETS if has_answers(name))
                raise BadInput(f"data.sets names {source.name!r}, which has no grounded answers; expected {known}")
        self.sets = [read_dataset(one.name, one.path, one.split, **one.options) for one in data.sets]
        self.units: list[tuple[int, tuple[int, ...]]] = []
        self._names: list[tuple[int, str, int]] = []
        for number, source in enumerate(data.sets):
            clips = self._clips(number)
            if not clips:
                raise BadInput(f"{source.name} {source.split}: no answers in it; train on another set")
            self.units += [(number, tuple(places)) for places in clips.values()] * source.repeat
        self.sampler = Sampler(len(self.units), seed)

    def _clips(self, number: int) -> dict[str, list[int]]:
        """Places of the records of each clip; generated ones have one each, and are not drawn before they are asked."""
        records, clips = self.sets[number], {}
        if not DATASETS[records.dataset].needs_path:
            self._names.append((number, records.dataset, len(records)))
            return {str(place): [place] for place in range(len(records))}
        for place, record in enumerate(records):
            if any(one.answer is not None for one in record.expressions):
                clips.setdefault(record.clip, []).append(place)
        self._names += [(number, clip, len(places)) for clip, places in clips.items()]
        return clips

    def __reduce__(self):
        return ConversationSamples, (self.data, self.shown, self.seed)

    def _draw(
        self, rng: np.random.Generator, records: list[Record], position: int, replaced: list[str]
    ) -> Conversations:
        """Up to `questions` conversations about one of the clip's records."""
        answered = [one for one in records if any(told.answer is not None for told in one.expressions)]
        if not answered:
            raise BadInput("has no grounded answer")
        record = answered[int(rng.integers(len(answered)))]  # of one clip, yet with frames and objects of their own
        there = [one for one in record.expressions if one.answer is not None]
        asked = [there[at] for at in rng.permutation(len(there))[: self.data.questions]]
        made = read_conversations(record, asked, self.shown, self.data.supervised)
        about = {
            "position": position, "dataset": record.dataset, "split": record.split, "clip": record.clip,
            "expressions": [one.id for one in asked], "exchanges": [list(one) for one in made.exchanges],
            "supervised": len(made.masked),
        }  # fmt: skip
        return replace(made, about=about | ({"replaced": replaced} if replaced else {}))


class ConversationBatches(MicroBatches):
    """The passes of one process, from clips with conversations; see `MicroBatches`."""

    def tensors(self, drawn: Sequence[Conversations]) -> dict[str, Tensor]:
        """What the loss module gets of some samples."""
        return training_batch(self.processor, drawn)
