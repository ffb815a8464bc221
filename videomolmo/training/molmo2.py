"""Training of transformers' Molmo 2: whole videos with message trees, by the same trainer as all else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Bool, Int
from torch import Tensor, nn

from videomolmo.errors import BadInput
from videomolmo.model.decoding import PADDING
from videomolmo.systems.molmo2 import inputs_of, load_molmo2, load_processor, shrunk
from videomolmo.training.data import DistributedBatchSampler, MicroBatches
from videomolmo.training.model import Batch, Counts, placed, refuse
from videomolmo.training.pointing import TARGETS, LossModule, token_counts
from videomolmo.training.recipe import Learn, Recipe
from videomolmo.training.video_samples import FLAT, LeftOut, Message, VideoSample, VideoSamples

QUESTION, ANSWER, END = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n", "{}<|im_end|>", "\n"
SHARED = 0  # the segment that all messages see: the video
PIXELS = ("pixel_values_videos", "video_token_pooling", "video_grids")


BLOCKS = "model.vision_tower.layers."


class Molmo2:
    """transformers' Molmo 2, which sees whole videos; see `videomolmo.training.model.Trainable`."""

    parts: Mapping[str, str] = {"model.vision_tower.": "vision", "model.multi_modal_projector.": "connector"}
    adapted = rf"model\.language_model\.layers\.\d+\.(self_attn|mlp)\.({'|'.join(TARGETS)})"
    full: tuple[str, ...] = ()
    terms: tuple[str, ...] = ()
    by_pass = False

    def load(self, recipe: Recipe, folder: Path, accelerator: Accelerator, sharded: bool) -> nn.Module:
        """Each process reads all of it."""
        refuse({"model.context": recipe.model.context, "model.quantize": recipe.model.quantize}, "Molmo 2")
        model, _ = load_molmo2(folder)
        return placed(self, model, recipe, accelerator, sharded)

    def plain(self, recipe: Recipe, folder: Path, config: Any) -> tuple[nn.Module, Callable[[Path], None]]:
        """By transformers' own classes."""
        model, processor = load_molmo2(folder)
        return model, processor.save_pretrained

    def data(self, recipe: Recipe, folder: Path, config: Any) -> tuple[VideoSamples, Callable[..., MicroBatches]]:
        """Whole videos with messages about them."""
        videos, longest = VideoSamples(recipe.data, recipe.run.seed), config.text_config.max_position_embeddings
        return videos, partial(VideoMicroBatches, videos, load_processor(folder, config), longest=longest)

    def has_no_gradient(self, config: Any, name: str) -> bool:
        """Vision blocks after the last selected one are never computed."""
        layers, last = config.vision_config.num_hidden_layers, config.adapter_config.vision_feature_layer
        seen = max(at if at >= 0 else layers + at for at in last)
        return name.startswith(BLOCKS) and int(name[len(BLOCKS) :].split(".")[0]) > seen

    def layers(self, model: nn.Module) -> list[nn.Module]:
        """Of both towers."""
        return [*model.model.vision_tower.layers, *model.model.language_model.layers]

    def units(self, model: nn.Module) -> list[nn.Module]:
        """Layers and the connector."""
        return [*self.layers(model), model.model.multi_modal_projector]

    def loss_module(self, model: nn.Module) -> nn.Module:
        """See `Molmo2Loss`."""
        return Molmo2Loss(model)

    def counts(self, batch: Batch) -> Counts:
        """Weights of answer tokens."""
        return token_counts(batch)

    def operations(self, model: nn.Module, learn: Learn) -> None:
        """Not counted."""


class Molmo2Loss(LossModule):
    """What is minimised; logits are made only where an answer is."""

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Weighted sum of the answer tokens' cross-entropies; divided by all weights of a step later."""
        inputs = {name: value for name, value in batch.items() if name not in ("targets", "loss_masks")}
        inputs["input_ids"] = inputs["input_ids"].clamp(min=0)
        inputs["position_ids"] = inputs["position_ids"].clamp(min=0)
        allowed = inputs.pop("allowed")[:, None]
        dtype = self.model.dtype
        inputs["attention_mask"] = torch.where(allowed, 0.0, torch.finfo(dtype).min).to(dtype)
        hidden = self.model.model(**inputs, use_cache=False).last_hidden_state
        chosen = (batch["loss_masks"] > 0) & (batch["targets"] >= 0)
        logits = self.model.lm_head(hidden[chosen]).float()
        losses = nn.functional.cross_entropy(logits, batch["targets"][chosen], reduction="none")
        return (losses * batch["loss_masks"][chosen]).sum()


class VideoMicroBatches(MicroBatches):
    """The passes of one process, from whole videos.

    Args:
        samples, processor, sampler, start, stop: see `MicroBatches`; the processor is Molmo 2's.
        longest: most tokens that the model reads.
    """

    def __init__(
        self, samples: VideoSamples, processor: Any, sampler: DistributedBatchSampler, start: int, stop: int,
        longest: int,
    ) -> None:  # fmt: skip
        super().__init__(samples, processor, sampler, start, stop)
        self.longest = longest

    def tensors(self, drawn: Sequence[VideoSample]) -> dict[str, Tensor]:
        """What the loss module gets of some samples."""
        examples = [example_of(self.processor, one, self.samples.data.weights) for one in drawn]
        for one, example in zip(drawn, examples, strict=True):
            if (length := len(example["input_ids"])) > self.longest:
                raise BadInput(
                    f"sample {one.about.get('position')} makes {length} tokens, and this model reads at most "
                    f"{self.longest}; lower data.frames or data.questions"
                )
        return collate(examples)


def example_of(processor: Any, sample: VideoSample, weights: str = "published") -> dict[str, Tensor]:
    """Ids, targets, weights, positions and what sees what, for a video with its messages.

    Messages of a tree see the video and themselves, and count positions from the video's end; turns of a conversation
    see all before them. Tokens of the video see each other whatever their order, as in the model itself.

    Args:
        processor: Molmo 2's.
        sample: a video with messages.
        weights: see `Data.weights`.
    """
    frames = np.stack([shrunk(processor, frame) for frame in sample.frames])
    seen = inputs_of(processor, frames, sample.times_s, "<|video|>")
    ids, tokenizer = [seen["input_ids"][0]], processor.tokenizer
    answers, segments = [torch.zeros(len(ids[0]))], [torch.full((len(ids[0]),), SHARED)]
    for number, message in enumerate(sample.messages):
        check_signs(tokenizer, message)
        question = tokenizer.encode(QUESTION.format(message.question), add_special_tokens=False)
        answer = tokenizer.encode(ANSWER.format(message.answer), add_special_tokens=False)
        between = tokenizer.encode(END, add_special_tokens=False) if sample.turns and number else []
        each = weight_of_token(message, len(answer), len(sample.messages), weights)
        ids.append(torch.tensor(between + question + answer))
        answers.append(torch.tensor([0.0] * len(between + question) + [each] * len(answer)))
        segments.append(torch.full((len(ids[-1]),), SHARED if sample.turns else number + 1))
    ids, answers, segments = torch.cat(ids), torch.cat(answers), torch.cat(segments)
    length = len(ids)
    types = torch.nn.functional.pad(seen["mm_token_type_ids"][0], (0, length - seen["mm_token_type_ids"].shape[1]))
    after = torch.nn.functional.pad(answers[1:], (0, 1))
    same = torch.nn.functional.pad(segments[1:] == segments[:-1], (0, 1)) | (segments == SHARED)
    learnt = (after > 0) & same
    return {
        "input_ids": ids, "targets": torch.where(learnt, ids.roll(-1), PADDING),
        "loss_masks": torch.where(learnt, after, 0.0), "position_ids": positions_of(segments),
        "mm_token_type_ids": types, "allowed": allowed_of(segments, types.bool()),
        **{name: seen[name] for name in PIXELS},
    }  # fmt: skip


def weight_of_token(message: Message, tokens: int, messages: int, weights: str) -> float:
    """How much each token of an answer weighs.

    Source: Molmo 2: 0.2 for points and tracks; else 2/√tokens, and 1/√messages in a tree.

    Example:
        >>> weight_of_token(Message("", "", flat=True), 50, 4, "published")
        0.2
        >>> weight_of_token(Message("", "", flat=False), 4, 4, "published")
        0.5
    """
    if weights == "flat" or (weights == "published" and message.flat):
        return FLAT
    return float(2 / np.sqrt(tokens) / np.sqrt(messages))


def check_signs(tokenizer: Any, message: Message) -> None:
    """Nothing where a message has none of the model's own signs in it: it would become another message."""
    for text in (message.question, message.answer):
        if sign := next((one for one in tokenizer.all_special_tokens if one in text), None):
            raise LeftOut(f"{text!r:.80} holds {sign!r}, a sign of the model's own")


def positions_of(segments: Int[Tensor, " tokens"]) -> Int[Tensor, " tokens"]:
    """Position of every token: along what it sees.

    Example:
        >>> positions_of(torch.tensor([0, 0, 1, 1, 2, 2])).tolist()
        [0, 1, 2, 3, 2, 3]
    """
    shared = int((segments == SHARED).sum())
    counted = torch.arange(len(segments))
    for number in segments.unique().tolist():
        if number != SHARED:
            own = segments == number
            counted[own] = shared + torch.arange(int(own.sum()))
    return counted


def allowed_of(segments: Int[Tensor, " tokens"], video: Bool[Tensor, " tokens"]) -> Bool[Tensor, "tokens tokens"]:
    """Whether a token (row) sees another (column)."""
    at = torch.arange(len(segments))
    before = at[:, None] >= at[None]
    own = (segments[:, None] == segments[None]) | (segments[None] == SHARED)
    return (before & own) | (video[:, None] & video[None])


def collate(examples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """One batch: sequences padded on the right, where a token sees itself alone; frames of all videos in a row."""
    longest = max(len(one["input_ids"]) for one in examples)
    fill = {"input_ids": PADDING, "targets": PADDING, "loss_masks": -1.0, "position_ids": PADDING,
            "mm_token_type_ids": 0}  # fmt: skip
    pad = torch.nn.functional.pad
    batch = {
        name: torch.stack([pad(one[name], (0, longest - len(one[name])), value=value) for one in examples])
        for name, value in fill.items()
    }
    room = [longest - len(one["input_ids"]) for one in examples]
    seen = torch.stack([pad(one["allowed"], (0, more, 0, more)) for one, more in zip(examples, room, strict=True)])
    batch["allowed"] = seen | torch.eye(longest, dtype=torch.bool)
    first, pooling = 0, []
    for one in examples:
        pooling.append(torch.where(one["video_token_pooling"] >= 0, one["video_token_pooling"] + first, -1))
        first += one["pixel_values_videos"].shape[0] * one["pixel_values_videos"].shape[1]
    batch["video_token_pooling"] = torch.cat(pooling)
    return batch | {name: torch.cat([one[name] for one in examples]) for name in ("pixel_values_videos", "video_grids")}
