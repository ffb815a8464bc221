"""Frames and words become the tensors that the pointing model reads: prompts, training examples and batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.nn import functional
from transformers import ProcessorMixin

from videomolmo.errors import BadInput
from videomolmo.model.config import VideoMolmoConfig
from videomolmo.model.decoding import PADDING, SHARED, positions, visible
from videomolmo.model.image import ImageProcessor, Layout, black_frames_first
from videomolmo.model.point_heads import CLOSED
from videomolmo.model.token_heads import ids_of
from videomolmo.model.token_order import as_text
from videomolmo.model.token_places import Places, apart, together
from videomolmo.model.tokenizer import load_tokenizer, save_tokenizer
from videomolmo.weights import hub

Example = dict[str, Tensor]
Branch = Sequence[str]  # messages in turn: user, assistant, user, assistant ...

# How each field is filled up when examples of different size are batched; the rest must have equal shapes.
FILL = {
    "input_ids": PADDING, "targets": PADDING, "loss_masks": -1.0, "position_ids": PADDING, "subsegment_ids": PADDING,
    "pixels": -1.0, "past_pixels": -1.0, "image_masks": -1.0, "image_input_idx": -1, "points": -1,
}  # fmt: skip


@runtime_checkable
class TextTokenizer(Protocol):
    """What a tokenizer must offer."""

    def encode(self, text: str, add_special_tokens: bool = ...) -> list[int]: ...
    def decode(self, token_ids: list[int]) -> str: ...


class VideoMolmoProcessor(ProcessorMixin):
    """Build the model's inputs from frames and text.

    Source: published model: `[BOS] <image tokens> " User: P Assistant:"`, messages tokenised one by one, an end-of-text
    id after every answer.
    Differs: a question that contains "Assistant:" is kept whole, where the published code drops the rest.

    Args:
        tokenizer: anything with `encode(text, add_special_tokens=False)` and `decode(ids)`.
        config: the model's configuration.
    """

    def __init__(self, tokenizer: TextTokenizer, config: VideoMolmoConfig) -> None:
        size = len(tokenizer) if hasattr(tokenizer, "__len__") else 0
        known = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else {}
        size -= len(known.keys() & config.language.extra_ids.keys())  # a published tokenizer lists the image tokens
        if size > config.language.vocab_size:
            raise BadInput(
                f"tokenizer has {size} tokens, expected at most vocab_size = {config.language.vocab_size}; "
                "use the tokenizer that belongs to the model"
            )
        self.tokenizer, self.config = tokenizer, config  # not by transformers, which wants a tokenizer of its own kind
        self.image = ImageProcessor(config.image)

    @staticmethod
    def prompt(question: str) -> str:
        """The user's turn as text. Example: `VideoMolmoProcessor.prompt("Point to the cat.")`."""
        return f" User: {question.strip()} Assistant:"

    def __call__(
        self,
        frame: UInt8[np.ndarray, "height width 3"],
        question: str,
        past_frames: UInt8[np.ndarray, "given past_height past_width 3"] | None = None,
    ) -> Example:
        """Inputs of one question about one frame.

        Args:
            frame: RGB.
            question: what the user asks.
            past_frames: of the same size, oldest first; black ones are added where fewer than `context` are given.

        Returns:
            `input_ids`, `pixels`, `image_masks`, `image_input_idx` and, unless temporal is "none", `past_pixels`.
        """
        example = self.pixels(frame, past_frames) | self.tokens(frame.shape[:2], [[question]])
        example.pop("points", None)  # of answers, of which there is none
        return example

    def training_example(
        self,
        frame: UInt8[np.ndarray, "height width 3"],
        branches: Sequence[Branch],
        past_frames: UInt8[np.ndarray, "given past_height past_width 3"] | None = None,
    ) -> Example:
        """Inputs and targets of one frame with one or more conversations: `__call__` and the rest of `tokens`."""
        return self.pixels(frame, past_frames) | self.tokens(frame.shape[:2], branches)

    def pixels(
        self,
        frame: UInt8[np.ndarray, "height width 3"],
        past_frames: UInt8[np.ndarray, "given past_height past_width 3"] | None = None,
    ) -> Example:
        """The vision half of an example: `pixels`, `image_masks` and, where the model has a past, `past_pixels`."""
        crops = self.image(frame)
        example = {"pixels": crops.pixels, "image_masks": crops.masks}
        if self.config.needs_past:
            none = past_frames is None or not len(past_frames)
            past = np.zeros((0, *frame.shape), np.uint8) if none else np.asarray(past_frames)
            if past.shape[1:] != frame.shape:
                raise BadInput(
                    f"past frames have shape {past.shape[1:]}, expected {frame.shape} like the current one; resize them"
                )
            example["past_pixels"] = self.image.pixels_only(black_frames_first(past, self.config.context))
        return example

    def tokens(self, size: tuple[int, int], branches: Sequence[Branch]) -> Example:
        """The language half of an example: ids, targets, weights, positions, and branches where there are several.

        A message tree shares BOS and image; each branch sees these and itself, and counts positions from there.

        Args:
            size: height and width of the frame.
            branches: conversations, each `[question, answer, question, answer ...]`; a last question without answer
                is what inference wants.

        Returns:
            `input_ids`, `targets`, `loss_masks`, `position_ids`, `image_input_idx` and with several branches
            `subsegment_ids`, all aligned: the token at a place predicts the target at that place. Where points are
            tokens, also `points` (points, 3): image token, patch and cell of each in their order; `CLOSED` ends a list.
        """
        layout = self.image.layout(*size)
        image = layout.token_kinds + self.config.language.vocab_size
        chosen: list[list[int]] = []
        places = Places.of(*size, self.config.image) if self.config.points == "tokens" else None
        texts = [self._branch(branch, places, chosen) for branch in branches]
        ids = torch.cat([image, *(torch.tensor(ids, dtype=torch.long) for ids, _ in texts)])
        answers = torch.cat([torch.zeros(len(image)), *(torch.tensor(answers) for _, answers in texts)])
        lengths = torch.tensor([len(image), *(len(ids) for ids, _ in texts)])
        points = {} if places is None else {"points": torch.tensor(chosen, dtype=torch.long).reshape(-1, 3)}
        segments = torch.tensor([SHARED, *range(1, len(texts) + 1)]).repeat_interleave(lengths)
        return self._shifted(ids, answers, segments if len(texts) > 1 else None, len(texts)) | {
            "image_input_idx": _after_bos(layout), **points,
        }  # fmt: skip

    def _branch(
        self, messages: Branch, places: Places | None, chosen: list[list[int]]
    ) -> tuple[list[int], list[float]]:
        """Ids of a conversation and 1 where the model wrote them. A missing last answer leaves an end-of-text only.

        With `places`, points become tokens, and what these choose is added to `chosen`.
        """
        ids: list[int] = []
        answers: list[float] = []
        padded = [*messages, ""] if len(messages) % 2 else list(messages)
        for turn, message in enumerate(padded):
            answer = turn % 2 == 1
            text = (f" {message}" if message else "") if answer else self.prompt(message)
            new = self._ids(text, places if answer else None, chosen)
            new += [self.config.language.end_of_text] * answer
            ids += new
            answers += [float(answer)] * len(new)
        return ids, answers

    def _ids(self, text: str, places: Places | None, chosen: list[list[int]]) -> list[int]:
        """Ids of a message; its list of points as three tokens for each and one that ends it."""
        before, points, after = (text, (), "") if places is None else apart(text, places)
        ids = [*self.tokenizer.encode(before, add_special_tokens=False)] if before else []
        if len(points):
            chosen += [*points.tolist(), [CLOSED, -1, -1]]
            ids += [*self.config.language.point_ids] * len(points) + [self.config.language.point_ids[0]]
            ids += self.tokenizer.encode(after, add_special_tokens=False)
        return ids

    def _shifted(self, ids: Tensor, answers: Tensor, segments: Tensor | None, branches: int) -> Example:
        """Put BOS in front and drop the last end-of-text: token t then predicts target t."""
        bos = torch.tensor([self.config.language.end_of_text])
        example = {"input_ids": torch.cat([bos, ids[:-1]]), "targets": ids}
        weight = (
            branches**-0.5 if self.config.loss_token_weighting == "root_subsegments" and segments is not None else 1
        )
        example["loss_masks"] = answers * weight
        if segments is not None:
            segments = torch.cat([torch.tensor([SHARED]), segments[:-1]])
            example["subsegment_ids"] = segments
        everything = torch.ones(1, len(ids), dtype=torch.bool)
        allowed = visible(everything, None if segments is None else segments[None])
        example["position_ids"] = positions(allowed)[0]
        return example

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Write the tokenizer; all else stands in the model's config.json beside it."""
        save_tokenizer(self.tokenizer, save_directory)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        **kwargs: Any,
    ) -> VideoMolmoProcessor:
        """The processor of a model's folder, of "nano", or of an id on the hub.

        Args:
            pretrained_model_name_or_path: of the model.
            kwargs: the hub's, as for the model; others are for other classes.

        Raises:
            BadInput: files are missing or broken, or the tokenizer is another model's.
        """
        from videomolmo.weights.published import read_configuration

        folder = hub.model_folder(pretrained_model_name_or_path, kwargs)
        config = read_configuration(folder)
        return cls(load_tokenizer(folder, config.language), config)

    def batch_decode(self, sequences: Sequence[Sequence[int]] | Tensor, **kwargs: Any) -> list[str]:
        """As `decode`, row by row."""
        return [self.decode(row, **kwargs) for row in sequences]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(tokenizer={type(self.tokenizer).__name__})"

    def decode(self, token_ids: Sequence[int] | Tensor, size: tuple[int, int] | None = None, **kwargs: Any) -> str:
        """The text of generated ids, without special tokens and the space that precedes an answer.

        Chosen places become coordinates, as models write them that choose none.

        Args:
            token_ids: of one answer.
            size: height and width of the frame; needed where places are chosen and frames keep their aspect.
            kwargs: of transformers, which change nothing.

        Raises:
            BadInput: the size is needed and missing.
        """
        special = {*getattr(self.tokenizer, "all_special_ids", ())}
        ids = token_ids.tolist() if isinstance(token_ids, Tensor) else [int(one) for one in token_ids]
        own = [one for one in ids if one not in special]
        if self.config.points == "text":
            return self.tokenizer.decode(own).strip()
        if size is None and self.config.image.resize == "pad":
            raise BadInput("size is None, expected height and width of the frame: places are chosen on it")
        meaning = ids_of(self.config)
        first = [number - meaning.words for number in (meaning.closed, meaning.closed + 1, meaning.cells)]
        text = as_text(own, meaning, self.tokenizer)
        return together(text, Places.of(*(size or (1, 1)), self.config.image), first).strip()


def _after_bos(layout: Layout) -> Int[Tensor, "crops windows"]:
    """Token indices moved by the BOS in front; windows without a token keep their negative mark."""
    return torch.where(layout.input_idx >= 0, layout.input_idx + 1, layout.input_idx)


def collate(examples: Sequence[Example]) -> dict[str, Any]:
    """One batch from examples: sequences and crops are padded on the right, past frames crop by crop.

    Where only some examples have branches, the others become a tree of one branch.
    """
    if not examples:
        raise BadInput("no examples to collate, expected at least one; check the data set's filter")
    names = {name for example in examples for name in example}
    if "subsegment_ids" in names:
        examples = [_with_segments(example) for example in examples]
    for name in names:
        lacking = [index for index, example in enumerate(examples) if name not in example]
        if lacking:
            raise BadInput(f"examples {lacking} have no {name!r}, expected it in all or none; build them alike")
    contexts = {len(example["past_pixels"]) for example in examples if "past_pixels" in example}
    if len(contexts) > 1:  # filled up, frames that nobody took would count in the mean
        raise BadInput(f"examples have {sorted(contexts)} past frames, expected as many in each; build them alike")
    return {name: _stack([example[name] for example in examples], FILL.get(name)) for name in sorted(names)}


def _with_segments(example: Example) -> Example:
    """A single conversation as a tree of one branch: everything is shared, which masks like plain causality."""
    if "subsegment_ids" in example:
        return example
    return example | {"subsegment_ids": torch.full_like(example["input_ids"], SHARED)}


def _stack(tensors: list[Tensor], fill: int | float | None) -> Tensor:
    """Stack tensors, each filled up on the right of every axis to the largest."""
    sizes = torch.tensor([tensor.shape for tensor in tensors])
    largest = sizes.max(dim=0).values
    if (sizes == largest).all():
        return torch.stack(tensors)
    if fill is None:
        raise BadInput(f"tensors to collate have shapes {sizes.tolist()}, expected equal ones; resize them alike")
    padded = []
    for tensor, size in zip(tensors, sizes, strict=True):
        room = (largest - size).flip(0).tolist()
        padded.append(functional.pad(tensor, [amount for side in room for amount in (0, side)], value=fill))
    return torch.stack(padded)
