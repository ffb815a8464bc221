"""VideoGLaMM in the harness: a video and a sentence become a caption whose phrases have masks on every frame."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers.generation import BaseStreamer

from videomolmo.errors import BadInput
from videomolmo.grounding import VideoGrounder, load_tracker
from videomolmo.io.known_words import KnownWords
from videomolmo.io.live import refuse_live
from videomolmo.io.timing import Stage
from videomolmo.masks.sam2 import stages_of
from videomolmo.pointing import step_of
from videomolmo.protocols import Frame, Phrase, Question, Segmentation
from videomolmo.systems.videoglamm.masks import decode_all, follow, to_size
from videomolmo.systems.videoglamm.model import VideoGLaMMForConditionalGeneration
from videomolmo.systems.videoglamm.processor import SEGMENT, VideoGLaMMProcessor, chosen, collate
from videomolmo.systems.videoglamm.weights import folder_of
from videomolmo.weights.checkpoint import device_named, dtype_of, pointing_hashes, refuse_options

Branch = Literal["each-frame", "first-frame"]
PART = 16  # frames masked at a time
FIND = "Please segment {} in the video."
_TELLING = re.compile(r"^(describe|explain|summari[sz]e|caption|list|name|tell|say)\b", re.IGNORECASE)
_SIGNS = re.compile(rf"(<p>|</p>|{re.escape(SEGMENT)})")


def load(
    model: str,
    masks: str = "nano",
    device: str = "auto",
    *,
    dtype: str = "auto",
    attention: str = "sdpa",
    offline: bool = False,
    branch: Branch = "each-frame",
    clip: str | None = None,
    **others: Any,
) -> VideoGrounder:
    """VideoGLaMM from a folder or hub id; SAM 2 beside it serves for corrections alone, it has one of its own.

    Args:
        model, masks, device, dtype, attention, offline: see `VideoGrounder.from_pretrained`.
        branch: see `VideoGLaMMSegmenter`.
        clip: the image encoder, which published weights leave out; see `from_pretrained` of the model.
        others: options of other systems; only None will do.

    Raises:
        BadInput: no such model, weights that do not fit, or an option that it does not have.
    """
    refuse_options(others, "VideoGLaMM")
    device, folder = device_named(device), folder_of(model, offline=offline)
    precision = dtype_of("bfloat16" if dtype == "auto" and device != "cpu" else dtype)
    tracker, weights = load_tracker(masks, device, offline)
    made = VideoGLaMMForConditionalGeneration.from_pretrained(
        folder, dtype=precision, device=device, attn_implementation=attention, clip=clip
    )
    processor, words = VideoGLaMMProcessor.from_pretrained(folder), KnownWords.read(folder)
    segmenter = VideoGLaMMSegmenter(made, processor, branch, words)
    kind = str(precision).removeprefix("torch.")
    loaded = {"model": str(model), "masks": str(masks), "dtype": kind, "attention": attention}
    return VideoGrounder(segmenter=segmenter, tracker=tracker, weights=pointing_hashes(folder) | weights, loaded=loaded)


class VideoGLaMMSegmenter:
    """VideoGLaMM as a `videomolmo.protocols.Segmenter`.

    The words are about frames evenly chosen from the whole video, the masks cover every frame and are made as these
    come, so that memory does not grow with the video.

    Args:
        model: in evaluation mode.
        processor: the model's.
        branch: "each-frame" masks every frame by itself, as in training, and finds what appears later; "first-frame",
            the reference's video branch, prompts on the first frame and follows from there.
        known_words: what the model has learnt; None: any word.
    """

    def __init__(
        self,
        model: VideoGLaMMForConditionalGeneration,
        processor: VideoGLaMMProcessor,
        branch: Branch = "each-frame",
        known_words: KnownWords | None = None,
    ) -> None:
        if branch not in get_args(Branch):
            raise BadInput(f"branch is {branch!r}, expected one of {', '.join(get_args(Branch))}")
        self.model, self.processor, self.branch, self.known_words = model, processor, branch, known_words

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def stages(self) -> list[Stage]:
        """What a profile tells apart; see `videomolmo.io.timing.Profile`."""
        model, decoder = self.model, self.model.sam2.sam_mask_decoder
        return [
            Stage(model, "visual_tokens", "vision/towers, adapters"),
            Stage(model.model, "forward", step_of),
            Stage(self.processor, "sam_images", "masks/preprocessing"),
            *stages_of(model.sam2),
            Stage(decoder, "forward", "masks/decoder"),
        ]

    def describe(self, context: int | None) -> dict[str, Any]:
        """Its configuration and branch; there are no past frames to choose.

        Raises:
            BadInput: a number of them was given.
        """
        if context is not None:
            raise BadInput(f"context is {context}, but VideoGLaMM sees the whole video at once; leave it out")
        return {"branch": self.branch, "segmenting": self.model.config.to_dict()}

    def segment(self, frames: Iterator[Frame], question: Question) -> Iterator[Segmentation]:
        """See `Segmenter.segment`.

        Raises:
            BadInput: a question with the model's own signs in it, or a live source; before any frame is decoded.
        """
        refuse_live(question.video, "VideoGLaMM")
        self.processor.tokens(as_asked(question))
        return self._segment(frames, question)

    @torch.inference_mode()
    def _segment(self, frames: Iterator[Frame], question: Question) -> Iterator[Segmentation]:
        wanted, kept, count = set(chosen(len(question.video), self.model.config.frames)), [], 0
        for count, frame in enumerate(frames, start=1):
            if count - 1 in wanted:
                kept.append(frame)
        if not kept:
            return
        with question.clock.measure("text"):
            words, vectors = self._write(np.stack(kept), question)
        ids, told = tuple(range(1, len(vectors) + 1)), words
        for masks in self._masks(vectors, question, count):
            yield Segmentation(ids, masks, told.text, told.phrases)
            told = Words("", ())

    def _write(self, frames: np.ndarray, question: Question) -> tuple[Words, Float[Tensor, "objects width"]]:
        """The caption, and what prompts the masks of its objects, about the frames that are shown."""
        batch = collate([self.processor(frames, as_asked(question))])
        for name in ("images", "context_images"):
            batch[name] = [one.to(self.device) for one in batch[name]] if name in batch else None
        ids = batch.pop("input_ids").to(self.device)
        report = None
        if question.on_text is not None:
            report = _Reporter(lambda new: question.on_text(0, read_words(self.processor.decode(new)).text))
        mask = batch.pop("attention_mask").to(self.device)
        written = self.model.write(ids, mask, **batch, streamer=report)
        return read_words(self.processor.decode(written.ids[0, ids.shape[1] :])), written.segments[0]

    def _masks(
        self, vectors: Float[Tensor, "objects width"], question: Question, count: int
    ) -> Iterator[Bool[np.ndarray, "frames objects height width"]]:
        """Masks of all frames, a part at a time; the video is decoded a second time for them."""
        video = question.video
        size, weight = (video.height, video.width), next(self.model.sam2.parameters())
        frames = question.clock.each("io/decoding", video.iterate(stop=count))
        if self.branch == "first-frame":
            pictures = (self.processor.sam_images(frame[None]).to(weight) for frame in frames)
            followed = follow(self.model.sam2, vectors, pictures, count, size)
            while part := list(islice(followed, PART)):
                yield np.stack(part)
            return
        done = 0
        for first in frames:
            part = np.stack([first, *islice(frames, PART - 1)])
            done += len(part)
            if not len(vectors) or done <= question.reached:
                yield np.broadcast_to(False, (len(part), len(vectors), *size))
                continue
            found = decode_all(self.model.sam2, self.processor.sam_images(part).to(weight), vectors)
            masks = [(to_size(found[:, at : at + 1], size) > 0)[:, 0].cpu().numpy() for at in range(len(part))]
            yield np.stack(masks)


def as_asked(question: Question) -> str:
    """What the model is asked: questions and requests as they were typed, a noun phrase as one for its mask."""
    sentence = " ".join(question.sentence.split()) or question.text
    if sentence == question.text or _TELLING.match(sentence):
        return sentence
    return FIND.format(sentence.rstrip(".!?"))


class Words(NamedTuple):
    """Plain words, and what in them names which object."""

    text: str
    phrases: tuple[Phrase, ...]


def read_words(written: str) -> Words:
    """The plain words of an answer; the k-th [SEG] is object k, named by the phrase before it, else by all words.

    Example:
        >>> read_words("<p> a star </p> [SEG] moves.")
        Words(text='a star moves.', phrases=(Phrase(start=0, stop=6, object=1),))
    """
    text, spans = "", []
    is_open, start, named = False, None, None
    for piece in _SIGNS.split(written):
        if piece == "<p>":
            is_open, start, named = True, None, None
        elif piece == "</p>":
            if is_open and start is not None:
                named = (start, len(text))
            is_open = False
        elif piece == SEGMENT:
            spans.append(named)
        elif words := " ".join(piece.split()):
            text += " " if text and words[0] not in ".,;:!?" else ""
            start = len(text) if start is None else start
            text += words
    whole = (0, len(text))
    phrases = (Phrase(*(span or whole), number) for number, span in enumerate(spans, start=1))
    return Words(text, tuple(phrases) if text else ())


class _Reporter(BaseStreamer):
    """A streamer that hands on all ids written so far, after every token."""

    def __init__(self, report: Callable[[list[int]], None]) -> None:
        self.report, self.written = report, []

    def put(self, value: Tensor) -> None:
        if value.numel():  # the prompt stands in embeddings
            self.written += value.flatten().tolist()
            self.report(self.written)

    def end(self) -> None:
        """Nothing: every token is told already."""
