"""VideoMolmo as a pointer: a question about key frames, each seen with the frames before it, becomes answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np
import torch
from transformers.generation import BaseStreamer

from videomolmo.errors import BadInput
from videomolmo.io.known_words import KnownWords
from videomolmo.io.timing import Stage
from videomolmo.model import VideoMolmoForConditionalGeneration, VideoMolmoProcessor, collate
from videomolmo.points import Answer, read_points
from videomolmo.protocols import Frame, Question

BATCH = 8
ROOM = 2**28  # bytes of frames that may wait for the answers to key frames, for masks are made from the same decoding


@dataclass(frozen=True)
class _Waiting:
    at: int
    tokens: tuple[torch.Tensor, torch.Tensor | None] | None  # None where the answers of the whole batch are known


class _Reporter(BaseStreamer):
    """A streamer that hands on all ids written so far, one row for each prompt, after every token."""

    def __init__(self, report: Callable[[torch.Tensor], None]) -> None:
        self.report, self.written = report, None

    def put(self, value: torch.Tensor) -> None:
        if self.written is None:  # the prompts
            self.written = value[:, :0]
            return
        self.written = torch.cat([self.written, value[:, None]], dim=1)
        self.report(self.written)

    def end(self) -> None:
        """Nothing: every token is told already."""


class VideoMolmoPointer:
    """A pointing model with its processor, as a `videomolmo.protocols.Pointer`.

    Args:
        model: in evaluation mode.
        processor: the model's.
        known_words: what the model has learnt; None: any word.
    """

    def __init__(
        self,
        model: VideoMolmoForConditionalGeneration,
        processor: VideoMolmoProcessor,
        known_words: KnownWords | None = None,
    ) -> None:
        self.model, self.processor, self.known_words = model, processor, known_words

    def stages(self) -> list[Stage]:
        """What a profile tells apart; see `videomolmo.io.timing.Profile`."""
        return [
            Stage(self.processor.image, "pixels_only", "vision/preprocessing"),
            Stage(self.model, "encode_frames", "vision/tower"),
            Stage(self.model, "look", "vision/temporal module, connector"),
            Stage(self.model.language, "forward", step_of),
        ]

    def describe(self, context: int | None) -> dict[str, Any]:
        """Configuration and temporal module; any number of past frames will do, the model averages them."""
        config = self.model.config
        past = config.context if context is None else int(context)
        return {"context": past, "temporal": config.temporal, "pointing": config.to_dict()}

    def answers(self, frames: Iterator[Frame], question: Question) -> Iterator[tuple[int, Answer | None]]:
        """See `Pointer.answers`. Frames that are neither key frame nor past frame of one are not encoded.

        Raises:
            BadInput: the question is longer than the model reads; at once, before any frame is decoded.
        """
        self._check_length(question)
        return self._answers(frames, question)

    @torch.inference_mode()
    def _answers(self, frames: Iterator[Frame], question: Question) -> Iterator[tuple[int, Answer | None]]:
        context, clock = (question.context or 0) if self.model.config.needs_past else 0, question.clock
        held = question.every * question.video.height * question.video.width * 3  # bytes that wait for a key frame
        most = min(BATCH, max(ROOM // held, 1), question.latency or BATCH)
        begin = len(question.known) // most * most * question.every  # key frames before it are known, batch by batch
        waiting: list[_Waiting] = []
        recent: dict[int, torch.Tensor] = {}
        if context:
            with clock.measure("vision"):  # before the first frame all is black
                (black,) = self.encode([_black(*_size(question))])
            recent = dict.fromkeys(range(-context, 0), black)
        for at, features in self._encoded(frames, question, context, begin):
            recent[at] = features
            for old in [number for number in recent if number < at - context]:
                del recent[old]
            if at % question.every == 0:
                with clock.measure("vision"):
                    seen = [recent[number] for number in range(at - context, at + 1)]
                    tokens = None if at < begin else self.image_tokens(seen, _size(question))
                    waiting.append(_Waiting(at, tokens))
            if len(waiting) == most:
                yield from self._ask(waiting, question)
                waiting = []
        if waiting:
            yield from self._ask(waiting, question)

    def _encoded(
        self, frames: Iterator[Frame], question: Question, context: int, begin: int
    ) -> Iterator[tuple[int, torch.Tensor | None]]:
        """Key frames and their past frames, several encoded at a time; None where only those before `begin` need it."""
        crops = len(self.processor.image.layout(*_size(question)).input_idx)
        at_once = min(max(1, BATCH // crops), question.latency or BATCH)
        looked_at = ((at, frame) for at, frame in enumerate(frames) if -at % question.every <= context)
        while group := list(islice(looked_at, at_once)):
            with question.clock.measure("vision"):
                is_needed = group[-1][0] >= begin - context
                encoded = self.encode([frame for _, frame in group]) if is_needed else [None] * len(group)
            yield from zip([at for at, _ in group], encoded, strict=True)

    def _check_length(self, question: Question) -> None:
        most = self.model.config.language.max_positions
        length = len(self.processor.tokens(_size(question), [[question.text]])["input_ids"])
        if length > most:
            raise BadInput(
                f"the sentence and a frame make {length} tokens, and this model reads at most {most}; "
                f"use fewer words than '{question.text[:40]}…'"
            )

    def encode(self, frames: list[Frame]) -> Sequence[torch.Tensor]:
        """Patch features of each of some frames of one size, (1, crops, patches, dim), encoded together."""
        weight = next(self.model.parameters())
        pixels = self.processor.image.pixels_only(np.stack(frames))
        return self.model.encode_frames(pixels.to(weight.device, weight.dtype)).split(1)

    def image_tokens(self, seen: list[torch.Tensor], size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Image tokens of a key frame with its past, (1, crops, windows, width); they depend on nothing else.

        With the patches that they were pooled from, (1, crops, windows, window, dim), where points are chosen among
        these, else None.

        Args:
            seen: features as `encode` gives them, of the past frames, oldest first, and of the key frame.
            size: height and width of the frames in pixels.
        """
        *past, frame = seen
        return self.model.look(frame, torch.stack(past, dim=1) if past else None, self._masks(size))

    def _ask(self, keys: list[_Waiting], question: Question) -> Iterator[tuple[int, Answer | None]]:
        if all(key.at in question.known for key in keys):
            yield from ((key.at, None) for key in keys)
            return
        size, device = _size(question), next(self.model.parameters()).device
        batch = collate([self.processor.tokens(size, [[question.text]])] * len(keys))
        report = None if question.on_text is None else _Reporter(lambda ids: self._report(keys, ids, question))
        tokens, patches = zip(*(key.tokens for key in keys), strict=True)
        written = self.model.generate(
            batch["input_ids"].to(device),
            image_input_idx=batch["image_input_idx"].to(device),
            image_tokens=torch.cat(tokens),
            image_patches=None if patches[0] is None else torch.cat(patches),
            streamer=report,
        )
        for key, row in zip(keys, written[:, batch["input_ids"].shape[1] :], strict=True):
            yield key.at, read_points(self.processor.decode(row, size), *size)

    def _report(self, keys: list[_Waiting], written: torch.Tensor, question: Question) -> None:
        for key, ids in zip(keys, written, strict=True):
            question.on_text(key.at, self.processor.decode(ids, _size(question)))

    def _masks(self, size: tuple[int, int]) -> torch.Tensor | None:
        """Patch masks of a frame, which only models with a padding embedding read."""
        if self.model.config.image_padding_embed is None:
            return None
        masks = self.processor.image(np.zeros((*size, 3), np.uint8)).masks[None]
        return masks.to(next(self.model.parameters()).device)


def step_of(inputs_embeds: torch.Tensor, **_: Any) -> str:
    """The stage of a pass through a language model: many tokens are a prompt, one is being written."""
    return "text/prompt" if inputs_embeds.shape[1] > 1 else "text/tokens written"


@lru_cache(maxsize=1)
def _black(height: int, width: int) -> Frame:
    return np.zeros((height, width, 3), np.uint8)


def _size(question: Question) -> tuple[int, int]:
    return question.video.height, question.video.width
