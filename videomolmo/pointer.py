"""Ask the pointing model about key frames: frames are decoded and encoded once, answers come in batches."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from videomolmo.errors import BadInput
from videomolmo.model import PointingModel, PointingProcessor, collate
from videomolmo.points import Answer, read_points
from videomolmo.stopwatch import Stopwatch
from videomolmo.video import Frames

BATCH = 8
OnText = Callable[[int, str], None]


@dataclass(frozen=True)
class _Waiting:
    at: int
    size: tuple[int, int]
    tokens: torch.Tensor


class Pointer:
    """A pointing model with its processor, asked about the key frames of a video.

    Args:
        model: in evaluation mode.
        processor: the model's.
        context: how many past frames to look at (l); at most what memory allows, the model averages any number.
        on_text: called after each token with a key frame's number and the text written for it so far.
        clock: counts the time of "io" (decoding), "vision" and "text".
    """

    def __init__(
        self,
        model: PointingModel,
        processor: PointingProcessor,
        context: int,
        on_text: OnText | None = None,
        clock: Stopwatch | None = None,
    ) -> None:
        self.model, self.processor, self.on_text, self.clock = model, processor, on_text, clock or Stopwatch()
        self.context = context if model.config.needs_past else 0
        self.device = next(model.parameters()).device
        self._black: dict[tuple[int, int], torch.Tensor] = {}

    def answers(self, video: Frames, question: str, every: int) -> Iterator[tuple[int, int, Answer | None]]:
        """Decode the whole video once; yields (frames decoded so far, key frame, answer), answers in order.

        Frames that are neither key frame nor past frame of one are not encoded. Ends where the video breaks; the last
        item has no answer and tells how many frames there are.

        Raises:
            BadInput: the question is longer than the model reads; at once, before any frame is decoded.
        """
        self._check_length(question, (video.height, video.width))
        return self._answers(video, question, every)

    @torch.inference_mode()
    def _answers(self, video: Frames, question: str, every: int) -> Iterator[tuple[int, int, Answer | None]]:
        recent: dict[int, torch.Tensor] = {}
        waiting: list[_Waiting] = []
        count = 0
        for at, frame in enumerate(self.clock.each("io", video.iterate())):
            count = at + 1
            ahead = -at % every
            if ahead > self.context:
                continue
            with self.clock.measure("vision"):
                recent[at] = self._encode(frame)
            for old in [number for number in recent if number < at - self.context]:
                del recent[old]
            if ahead == 0:
                with self.clock.measure("vision"):
                    waiting.append(_Waiting(at, frame.shape[:2], self._tokens(at, frame.shape[:2], recent)))
            if len(waiting) == BATCH:
                for key, answer in zip(waiting, self._ask(waiting, question), strict=True):
                    yield count, key.at, answer
                waiting = []
        for key, answer in zip(waiting, self._ask(waiting, question), strict=True):
            yield count, key.at, answer
        yield count, count, None

    def _check_length(self, question: str, size: tuple[int, int]) -> None:
        most = self.model.config.language.max_positions
        length = len(self.processor.tokens(size, [[question]])["input_ids"])
        if length > most:
            raise BadInput(
                f"the sentence and a frame make {length} tokens, and this model reads at most {most}; "
                f"use fewer words than '{question[:40]}…'"
            )

    def _encode(self, frame: np.ndarray) -> torch.Tensor:
        pixels = self.processor.image.pixels_only(frame[None])
        return self.model.encode_frames(pixels.to(self.device, self._dtype))

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    def _tokens(self, at: int, size: tuple[int, int], recent: dict[int, torch.Tensor]) -> torch.Tensor:
        """Image tokens of key frame `at` with its past: all that has to be kept until it is asked about."""
        past = None
        if self.context:
            if at < self.context and size not in self._black:
                self._black[size] = self._encode(np.zeros((*size, 3), np.uint8))
            frames = [recent[n] if n >= 0 else self._black[size] for n in range(at - self.context, at)]
            past = torch.stack(frames, dim=1)
        return self.model.image_tokens(recent[at], past, self._masks(size))

    def _ask(self, keys: list[_Waiting], question: str) -> list[Answer]:
        if not keys:
            return []
        batch = collate([self.processor.tokens(key.size, [[question]]) for key in keys])
        with self.clock.measure("text"):
            ids = self.model.generate(
                batch["input_ids"].to(self.device),
                image_input_idx=batch["image_input_idx"].to(self.device),
                image_tokens=torch.cat([key.tokens for key in keys]),
                stop_id=self.model.config.language.end_of_text,
                on_step=None if self.on_text is None else lambda written: self._report(keys, written),
            )
        texts = [self.processor.decode(row) for row in ids]
        return [read_points(text, *key.size) for text, key in zip(texts, keys, strict=True)]

    def _report(self, keys: list[_Waiting], written: list[list[int]]) -> None:
        for key, ids in zip(keys, written, strict=True):
            self.on_text(key.at, self.processor.decode(ids))

    def _masks(self, size: tuple[int, int]) -> torch.Tensor | None:
        """Patch masks of a frame, which only models with a padding embedding read."""
        if self.model.config.image_padding_embed is None:
            return None
        return self.processor.image(np.zeros((*size, 3), np.uint8)).masks[None].to(self.device)
