"""Training of transformers' Molmo 2: whole videos with message trees, by the same trainer as all else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from videomolmo.errors import BadInput
from videomolmo.model.decoding import PADDING
from videomolmo.systems.molmo2 import inputs_of, shrunk
from videomolmo.training.data import DistributedBatchSampler, MicroBatches
from videomolmo.training.video_samples import FLAT, LeftOut, Message, VideoSample, VideoSamples

QUESTION, ANSWER, END = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n", "{}<|im_end|>", "\n"
SHARED = 0  # the segment that all messages see: the video
PIXELS = ("pixel_values_videos", "video_token_pooling", "video_grids")


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
