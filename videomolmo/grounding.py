"""The main job: a video and a sentence become answers on key frames, masks on every frame, and tracks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from transformers.generation import BaseStreamer

from videomolmo.errors import BadInput
from videomolmo.fusion import check_rule
from videomolmo.io import provenance
from videomolmo.io.plain_values import as_whole
from videomolmo.io.timing import Stopwatch
from videomolmo.io.video import Frames, open_video
from videomolmo.mask_store import MaskSpool
from videomolmo.model import PointingModel, PointingProcessor, collate
from videomolmo.points import Answer, read_points
from videomolmo.prompts import as_question
from videomolmo.results import GroundingResult, KeyAnswer
from videomolmo.weights import hub

BATCH = 8
OnText = Callable[[int, str], None]


@dataclass(frozen=True)
class _Waiting:
    at: int
    size: tuple[int, int]
    tokens: torch.Tensor


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
            written = self.model.generate(
                batch["input_ids"].to(self.device),
                image_input_idx=batch["image_input_idx"].to(self.device),
                image_tokens=torch.cat([key.tokens for key in keys]),
                streamer=None if self.on_text is None else _Reporter(lambda ids: self._report(keys, ids)),
            )
        texts = [self.processor.decode(row) for row in written[:, batch["input_ids"].shape[1] :]]
        return [read_points(text, *key.size) for text, key in zip(texts, keys, strict=True)]

    def _report(self, keys: list[_Waiting], written: torch.Tensor) -> None:
        for key, ids in zip(keys, written, strict=True):
            self.on_text(key.at, self.processor.decode(ids))

    def _masks(self, size: tuple[int, int]) -> torch.Tensor | None:
        """Patch masks of a frame, which only models with a padding embedding read."""
        if self.model.config.image_padding_embed is None:
            return None
        return self.processor.image(np.zeros((*size, 3), np.uint8)).masks[None].to(self.device)


class VideoGrounder:
    """A pointing model and SAM 2, ready to ground sentences in videos.

    Example:
        >>> grounder = VideoGrounder.from_pretrained("nano")  # doctest: +SKIP
        >>> result = grounder("clip.mp4", "the red circle", every=5)  # doctest: +SKIP

    Seen in: notebooks/00_quickstart.ipynb
    """

    def __init__(
        self, pointing: Any, processor: Any, tracker: Any, weights: dict[str, str], loaded: dict[str, Any] | None = None
    ) -> None:
        """`weights` are the hashes of what was loaded and `loaded` how it was, both for run.json."""
        self.pointing, self.processor, self.tracker, self.weights = pointing, processor, tracker, weights
        self.loaded = loaded or {}

    @classmethod
    def from_pretrained(
        cls,
        model: str = "nano",
        masks: str = "nano",
        device: str = "auto",
        *,
        dtype: str = "auto",
        quantize: str | None = None,
        attention: str = "sdpa",
        device_map: str | None = None,
        offline: bool = False,
    ) -> "VideoGrounder":
        """Load both models.

        Args:
            model: "nano" (shipped), a folder, or a hub id, in our own format or as VideoMolmo and Molmo-7B-D are
                published; "id@revision" pins a revision. For Molmo 2 see `videomolmo.load_grounder`.
            masks: "nano" (shipped), a published id such as "facebook/sam2.1-hiera-tiny", its checkpoint file under
                its own name, or a folder like data/nano/masks.
            device: "auto" (a GPU if there is one), "cpu" or "cuda".
            dtype: of the pointing model's weights: "float32", "bfloat16", "float16", or "auto": bfloat16 on a GPU.
            quantize: None, "8bit" or "4bit" weights of the pointing model (needs bitsandbytes).
            attention: of the language model: "sdpa", "eager" or "flash_attention_2" (where flash-attn is installed).
            device_map: "auto" spreads the pointing model over all GPUs.
            offline: take from the hub only what was downloaded before.

        Raises:
            BadInput: no such model, or weights that do not fit.
        """
        device, model, masks = device_named(device), hub.named(model, "--model"), hub.named(masks, "--masks")
        folder = hub.pointing_folder(model, offline)
        from videomolmo.masks.sam2 import MaskTracker
        from videomolmo.model import PointingProcessor
        from videomolmo.model.tokenizer import load_tokenizer
        from videomolmo.weights.checkpoint import dtype_of, load_model

        is_large = device != "cpu" and folder.parent != hub.pointing_folder("nano").parent
        precision = dtype_of("bfloat16" if dtype == "auto" and is_large else dtype)
        sam, sam_hashes = load_masks(masks, device, offline)
        pointing = load_model(folder, device, precision, attention, quantize, device_map)
        processor = PointingProcessor(load_tokenizer(folder, pointing.config.language), pointing.config)
        weights = {f"pointing:{folder.name}/{file}": value for file, value in hub.hashes(folder).items()}
        kind = str(precision).removeprefix("torch.")
        loaded = {"model": model, "masks": masks, "dtype": kind, "quantize": quantize,
                  "attention": attention, "device_map": device_map}  # fmt: skip
        return cls(pointing, processor, MaskTracker(sam), weights | sam_hashes, loaded)

    def __call__(
        self,
        video: str | os.PathLike | np.ndarray | Frames,
        sentence: str,
        *,
        every: int = 5,
        fusion: str = "iou",
        tau: float = 0.7,
        context: int | None = None,
        max_frames: int | None = None,
        reader: str = "pyav",
        progress: bool = False,
        on_text: Callable[[int, str], None] | None = None,
    ) -> GroundingResult:
        """Find what the sentence names: points on key frames, masks on every frame.

        Args:
            video: a video file, a folder of images, uint8 (frames, height, width, 3), or what `open_video` gives.
            sentence: a noun phrase ("the red circle") or a question.
            every: key frames lie this many frames apart (k).
            fusion: a name in `videomolmo.fusion.RULES`.
            tau: IoU from which the two directions count as agreeing (τ).
            context: past frames the model looks at (l); None takes the model's own.
            max_frames: read only so many frames; said to `open_video` where that was called before.
            reader: "pyav" or "decord"; idem.
            progress: show bars.
            on_text: called while answers are written, with a key frame's number and its text so far; for example
                `lambda frame, text: print(f"\\r{frame}: {text}", end="")`.

        Raises:
            BadInput: an argument that makes no sense, or a video that cannot be read.

        Source: paper, section 3.
        """
        question = as_question(sentence)
        settings = check_settings(every, fusion, tau, context)
        settings["context"] = context = self.context_of(settings["context"])
        every, tau = settings["every"], settings["tau"]
        frames = _opened(video, reader, max_frames)
        clock = Stopwatch()
        answers, count = self._point(frames, question, every, context, progress, on_text, clock)
        spool, objects = self._track(frames, count, answers, fusion, tau, progress, clock)
        config = {
            "model": {**settings, "question": question, "reader": reader,
                      "max_frames": None if max_frames is None else int(max_frames),
                      "device": str(self.tracker.device), **self._about()},
            "loaded": self.loaded,
            "seed": None,  # greedy decoding and SAM 2 draw nothing at random
            "weights_sha256": self.weights, "versions": provenance.versions(), "commit": provenance.commit(),
            "seconds": dict.fromkeys(("io", "vision", "text", "masks"), 0.0) | clock.rounded(),
        }  # fmt: skip
        return GroundingResult(
            sentence=sentence, answers=answers, objects=objects, height=frames.height, width=frames.width,
            times_s=np.asarray(frames.times_s)[:count], fps=frames.fps, spool=spool, config=config,
            source=frames.source, warning=frames.warning, _video=frames,
        )  # fmt: skip

    def context_of(self, context: int | None) -> int | None:
        """Past frames to look at (l) where so many are asked for; None asks for the model's own."""
        return self.pointing.config.context if context is None else int(context)

    def _about(self) -> dict[str, Any]:
        """What run.json says of the pointing model."""
        return {"temporal": self.pointing.config.temporal, "pointing": self.pointing.config.to_dict()}

    def _pointer(self, context: int | None, on_text: Callable[[int, str], None] | None, clock: Stopwatch) -> Any:
        """Whoever answers for the key frames of a video."""

        return Pointer(self.pointing, self.processor, context, on_text, clock)

    def _point(
        self,
        frames: Frames,
        question: str,
        every: int,
        context: int | None,
        progress: bool,
        on_text: Callable[[int, str], None] | None,
        clock: Stopwatch,
    ) -> tuple[list[KeyAnswer], int]:
        """Answers on all key frames, and the number of frames that could be decoded."""
        from tqdm import tqdm

        found = self._pointer(context, on_text, clock).answers(frames, question, every)
        answers, count = [], 0
        bar = tqdm(total=-(-len(frames) // every), desc="point", unit=" key frames", disable=not progress)
        for decoded, at, answer in found:
            count = decoded
            if answer is not None:
                inside = [bool(flag) for flag in answer.inside]
                points = rounded(answer.points_px, inside, frames.width, frames.height)
                when = round(float(frames.times_s[at]), 4)
                answers.append(KeyAnswer(at, when, answer.text, answer.outcome, points, inside, answer.problem))
                bar.update()
        bar.close()
        if not count:
            raise BadInput(f"{frames.name}: no frame could be decoded; check the file with another player")
        return answers, count

    def _track(
        self,
        frames: Frames,
        count: int,
        answers: list[KeyAnswer],
        fusion: str,
        tau: float,
        progress: bool,
        clock: Stopwatch,
    ) -> tuple[MaskSpool, int]:
        """Masks of all windows, written to disk one by one, and the number of objects."""
        from tqdm import tqdm

        from videomolmo.masks.windows import track_windows

        spool, objects = MaskSpool(), 0
        bar = tqdm(total=count, desc="track", unit=" frames", disable=not progress)
        keys = {answer.frame: clicks_of(answer) for answer in answers}
        windows = track_windows(self.tracker, frames, count, keys, rule=fusion, tau=tau, clock=clock)
        for window in clock.each("masks", windows):
            layers = {"fused": window.fused, "forward": window.forward, "backward": window.backward}
            known = {"forward": window.has_forward, "backward": window.has_backward}
            with clock.measure("io"):
                spool.write(window.start, window.ids, layers, known)
            objects = max(objects, *window.ids, 0)
            bar.update(len(window.fused))
        bar.close()
        return spool, objects


def check_settings(every: int, fusion: str, tau: float, context: int | None = None) -> dict[str, Any]:
    """Settings that a video can be grounded with, by name, as plain numbers.

    Raises:
        BadInput: `every` or `context` is no whole number from 1, or what `check_rule` refuses.
    """
    apart, past = as_whole(every), None if context is None else as_whole(context)
    if apart is None:
        raise BadInput(f"every is {every!r}, expected a whole number of frames from 1; 5 is usual")
    if past is None and context is not None:
        raise BadInput(f"context is {context!r}, expected a whole number of past frames from 1, or None: the model's")
    return {"every": apart, "fusion": fusion, "tau": check_rule(fusion, tau), "context": past}


def _opened(video: str | os.PathLike | np.ndarray | Frames, reader: str, max_frames: int | None) -> Frames:
    if not isinstance(video, Frames):
        return open_video(video, reader=reader, max_frames=max_frames)
    if max_frames is not None or reader != "pyav":
        raise BadInput(
            f"max_frames={max_frames}, reader={reader!r} for {video!r}, which is open already; "
            "give them to open_video instead"
        )
    return video


def rounded(
    points_px: Float[np.ndarray, "points 2"], inside: list[bool], width: int, height: int
) -> list[tuple[float, float]]:
    """Points to a hundredth of a pixel; those inside the frame stay so."""
    last = np.array([width, height]) - 0.01
    kept = [np.minimum(point, last) if within else point for point, within in zip(points_px, inside, strict=True)]
    return [(round(float(x), 2), round(float(y), 2)) for x, y in kept]


def clicks_of(answer: KeyAnswer) -> list[np.ndarray]:
    """The clicks SAM 2 gets for an answer: one object per point, points outside the frame left out.

    Source: published model: each point is an object of its own.
    """
    pairs = zip(answer.points_px, answer.inside, strict=True)
    return [np.array([point], np.float32) for point, inside in pairs if inside]


def device_named(name: str) -> str:
    """ "cpu" or "cuda", also for "auto".

    Raises:
        BadInput: another name, or a GPU that is not there.
    """
    import torch

    name = str(name)  # a torch.device, too
    if name not in ("auto", "cpu") and not name.startswith("cuda"):
        raise BadInput(f"device is {name!r}, expected 'auto', 'cpu' or 'cuda'")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise BadInput(f"device is {name!r}, but torch finds no GPU here; use --device cpu")
    return name


def load_masks(name: str, device: str, offline: bool = False) -> tuple[Any, dict[str, str]]:
    """SAM 2 by name, and the hash of the file its weights came from."""
    from videomolmo.masks import sam2

    name = hub.named(name, "--masks")
    published = sam2.published_name(hub.split_revision(name)[0])
    if published is not None:
        file = Path(name)
        if not file.is_file():
            file = hub.checkpoint_file(name, sam2.published_names()[published][1], offline)
        model = sam2.load_published(published, file, device)
    else:
        file = hub.masks_folder(name, offline) / "model.safetensors"
        model = sam2.load_nano(file.parent, device)
    return model, {f"masks:{file.parent.name}/{file.name}": hub.file_hash(file)}
