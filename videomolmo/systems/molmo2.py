"""Molmo 2 as a pointer: one question about many key frames, answered with times."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8

from videomolmo.errors import BadInput
from videomolmo.grounding import VideoGrounder, load_tracker
from videomolmo.io.known_words import KnownWords
from videomolmo.io.live import refuse_live
from videomolmo.io.untrusted import first_line
from videomolmo.model.tokenizer import broken_tokenizers_are_refused, check_words
from videomolmo.points import Answer, read_points
from videomolmo.protocols import Frame, Question
from videomolmo.systems.molmo2_files import (
    check_inputs,
    check_processor,
    check_processor_files,
    checked_config,
    plain_generation,
)
from videomolmo.weights import hub
from videomolmo.weights.assign import Shards
from videomolmo.weights.checkpoint import ATTENTION, device_named, dtype_of, pointing_hashes, refuse_options
from videomolmo.weights.tensors import check_finite

TENTH = 0.1  # seconds: how exactly times are shown and written


def in_milliseconds(times: Float[np.ndarray, " frames"]) -> list[int]:
    """Times (seconds) as they are handed to Molmo 2's processor."""
    return np.round(1000 * times).astype(int).tolist()


def shown(times: Float[np.ndarray, " frames"]) -> list[str]:
    """Times (seconds) as the prompt shows them: of the same milliseconds, or halves would be rounded another way."""
    return [f"{milliseconds / 1000:.1f}" for milliseconds in in_milliseconds(times)]


def check_times(times: Float[np.ndarray, " frames"], every: int, most: int) -> None:
    """Nothing for a clip whose key frames are shown with different times.

    Args:
        times: of all frames, seconds.
        every: frames from one key frame to the next.
        most: key frames shown at once; each such part begins at 0.

    Raises:
        BadInput: two of a part are shown alike; says from which `every` on they are not.
    """

    def apart(step: int) -> bool:
        keys = times[::step]
        parts = [keys[first : first + most] for first in range(0, len(keys), most)]
        return all(len(set(shown(part - part[0]))) == len(part) for part in parts)

    if not apart(every):
        better = next(step for step in range(every + 1, every + 1 + len(times)) if apart(step))  # one frame at last
        raise BadInput(
            f"every is {every}, which shows two key frames with one time: Molmo 2 knows times in tenths of a second; "
            f"use every={better} here"
        )


def by_time(answer: Answer, times: Float[np.ndarray, " frames"]) -> list[Answer]:
    """What an answer says of each frame, by the nearest time that was shown.

    Points of a frame come in the order of their ids; of one id the nearest in time counts. A frame that is not named
    has no points: it is absent there. Points that no frame is near make the nearest one malformed, unless it has
    others; so do points without times, for all frames, unless only one was shown.

    Args:
        answer: of all frames.
        times: of the frames, seconds from 0.
    """
    if answer.outcome != "found" or len(times) == 1:
        return [answer] * len(times)
    if answer.times is None:
        return [_malformed(answer, f"points without times, and {len(times)} frames were shown")] * len(times)
    ticks = np.array([float(one) for one in shown(times)])
    distance = np.abs(answer.times[:, None] - ticks)
    nearest, far = distance.argmin(axis=1), distance.min(axis=1)
    reach = max(TENTH, np.diff(ticks).min() / 2) + 1e-9
    return [_of_frame(answer, np.flatnonzero(nearest == n), far, reach) for n in range(len(times))]


def _of_frame(answer: Answer, rows: np.ndarray, far: np.ndarray, reach: float) -> Answer:
    """The answer's part for the frame that `rows`, its points, are nearest to; `far` seconds each."""
    near = rows[far[rows] <= reach]
    if len(rows) and not len(near):
        return _malformed(answer, f"points at {answer.times[rows[0]]:g} s, where no frame was shown")
    best: dict[int, int] = {}
    for row in near[np.argsort(far[near], kind="stable")].tolist():
        best.setdefault(int(answer.ids[row]), row)
    chosen = np.array([best[name] for name in sorted(best)], int)
    parts = {name: getattr(answer, name)[chosen] for name in ("points_px", "inside", "times", "ids")}
    if len(chosen):
        return replace(answer, **parts)
    return replace(answer, outcome="absent", label="", **parts | {"times": None, "ids": None})


def _malformed(answer: Answer, problem: str) -> Answer:
    nothing = {"points_px": answer.points_px[:0], "inside": answer.inside[:0], "times": None, "ids": None}
    return replace(answer, outcome="malformed", label="", problem=problem, **nothing)


GRID_FPS = 2  # frames a second of a whole video
MOST_FRAMES = 128  # shown at a time, as in fine-tuning; a longer clip is asked about in parts
TOKENS, TOKENS_PER_FRAME = 128, 128  # of an answer at most: a time takes about 5, a point about 10
PROMPT = "<|video|><|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
_REQUEST = re.compile(
    r"^(?:point (?:to|at|out)|track|follow|locate|segment|mark|(?:find|show)(?: me)?) (.+?)[.!?\s]*$", re.IGNORECASE
)


def load(
    model: str,
    masks: str = "nano",
    device: str = "auto",
    *,
    dtype: str = "auto",
    attention: str = "sdpa",
    offline: bool = False,
    **others: Any,
) -> VideoGrounder:
    """Molmo 2 as published with SAM 2, by transformers' own classes; no code of the folder is run.

    Args:
        model: a folder with config.json, safetensors, tokenizer and processor, or a hub id.
        masks, device, dtype, attention, offline: see `VideoGrounder.from_pretrained`.
        others: its other options, which Molmo 2 does not have; only None will do.

    Raises:
        BadInput: no such model, weights that do not fit, or a transformers without Molmo 2.
    """
    refuse_options(others, "Molmo 2")
    device, model, masks = device_named(device), hub.as_name(model, "--model"), hub.as_name(masks, "--masks")
    folder = hub.pointing_folder(model, offline)
    precision = dtype_of("bfloat16" if dtype == "auto" and device != "cpu" else dtype)
    tracker, weights = load_tracker(masks, device, offline)
    pointing, processor = load_molmo2(folder, precision, attention)
    kind = str(precision).removeprefix("torch.")
    loaded = {"model": model, "masks": masks, "dtype": kind, "attention": attention}
    pointer = Molmo2Pointer(pointing.to(device), processor, KnownWords.read(folder))
    return VideoGrounder(pointer, tracker, weights=pointing_hashes(folder) | weights, loaded=loaded)


class Molmo2Pointer:
    """Molmo 2 as a `videomolmo.protocols.Pointer`: one question about many key frames.

    Each answer's text is that about all key frames shown together, and `on_text` gets it once it is whole.

    Args:
        model, processor: of transformers.
        known_words: what the model has learnt; None: any word.
    """

    def __init__(self, model: Any, processor: Any, known_words: KnownWords | None = None) -> None:
        self.model, self.processor, self.known_words = model, processor, known_words

    def describe(self, context: int | None) -> dict[str, Any]:
        """Its configuration; there are no past frames to choose.

        Raises:
            BadInput: a number of them was given.
        """
        if context is not None:
            raise BadInput(f"context is {context}, but Molmo 2 sees all key frames at once; leave it out")
        return {"temporal": "all key frames at once", "pointing": self.model.config.to_dict()}

    def answers(self, frames: Iterator[Frame], question: Question) -> Iterator[tuple[int, Answer | None]]:
        """See `Pointer.answers`; of the frames only what the model sees is kept, `MOST_FRAMES` at a time.

        Raises:
            BadInput: key frames whose times are shown alike, or a question with the model's own signs in it.
        """
        self._check_signs(question.text)
        refuse_live(question.video, "this model")
        check_times(np.asarray(question.video.times_s, np.float64), question.every, MOST_FRAMES)
        return self._answers(frames, question)

    def _answers(self, frames: Iterator[Frame], question: Question) -> Iterator[tuple[int, Answer | None]]:
        keys: list[int] = []
        shown_together: list[np.ndarray] = []
        for at, frame in enumerate(frames):
            if at % question.every == 0:
                keys.append(at)
                shown_together.append(shrunk(self.processor, frame))
            if len(keys) == MOST_FRAMES:
                yield from self._ask(question, keys, shown_together)
                keys, shown_together = [], []
        if keys:
            yield from self._ask(question, keys, shown_together)

    def answer_once(self, frames: Iterator[Frame], question: Question) -> tuple[list[int], Answer]:
        """Numbers of the frames that were shown, and one answer about all of them, whose times count from the first.

        Shown are two frames a second and the last one, fewer where the model reads no more.

        Raises:
            BadInput: a question with the model's own signs in it, or no room for any frame.
        """
        self._check_signs(question.text)
        video, prompt = question.video, PROMPT.format(question.text)
        times = np.asarray(video.times_s, np.float64)
        blank = shrunk(self.processor, np.zeros((8, 8, 3), np.uint8))[None]
        one, two = (
            inputs_of(self.processor, blank.repeat(n, 0), 100.0 + np.arange(n), prompt)["input_ids"].shape[1]
            for n in (1, 2)
        )
        room = (self.model.config.text_config.max_position_embeddings - TOKENS - one) // (two - one) + 1
        keys = whole_grid(times, min(MOST_FRAMES, max(room, 1)))
        wanted, shown_together = {*keys}, []
        for at, frame in enumerate(frames):
            if at in wanted:
                shown_together.append(shrunk(self.processor, frame))
        if not shown_together:
            raise BadInput(f"{video.name}: no frame could be decoded; check the file with another player")
        keys = keys[: len(shown_together)]  # a broken video ends early
        text, cut = self._write(np.stack(shown_together), times[keys] - times[keys[0]], question.text)
        answer = read_points(text, video.height, video.width)
        if cut and answer.outcome == "malformed":
            answer = replace(answer, problem=f"{answer.problem} (the answer was longer than {cut} tokens)")
        return keys, answer

    def _check_signs(self, text: str) -> None:
        signs = [sign for sign in self.processor.tokenizer.all_special_tokens if sign in text]
        if signs:
            raise BadInput(f"the sentence holds {signs[0]!r}, a sign of the model's own; leave it out")

    def _ask(
        self, question: Question, keys: list[int], frames: list[UInt8[np.ndarray, "side side 3"]]
    ) -> Iterator[tuple[int, Answer | None]]:
        """Answers of key frames that are shown together; None where all of them are known."""
        if all(key in question.known for key in keys):
            yield from ((key, None) for key in keys)
            return
        video = question.video
        times = np.asarray(video.times_s, np.float64)[keys]
        times = times - times[0]
        text, cut = self._write(np.stack(frames), times, as_tracking(question.text, video.fps / question.every))
        answer = read_points(text, video.height, video.width)
        if cut and answer.outcome == "malformed":
            answer = replace(answer, problem=f"{answer.problem} (the answer was longer than {cut} tokens)")
        for key, one in zip(keys, by_time(answer, times), strict=True):
            if question.on_text is not None:
                question.on_text(key, text)
            yield key, one

    @torch.inference_mode()
    def _write(
        self, frames: UInt8[np.ndarray, "frames height width 3"], times: Float[np.ndarray, " frames"], request: str
    ) -> tuple[str, int]:
        """What the model writes about frames at `times`, seconds from 0 (greedy); after how many tokens it was cut.

        Raises:
            BadInput: the frames leave no room for an answer.
        """
        inputs = inputs_of(self.processor, frames, times, PROMPT.format(request))
        weight, length = next(self.model.parameters()), inputs["input_ids"].shape[1]
        room = self.model.config.text_config.max_position_embeddings - length
        if room < TOKENS:
            raise BadInput(
                f"{len(frames)} key frames and the sentence make {length} tokens, and this model reads at most "
                f"{room + length}; use a larger every, or fewer words"
            )
        placed = {
            name: value.to(weight.device, weight.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }
        most = min(room, TOKENS + TOKENS_PER_FRAME * len(frames))
        written = self.model.generate(**placed, max_new_tokens=most, do_sample=False)[0, length:]
        cut = len(written) == most and written[-1].item() != self.processor.tokenizer.eos_token_id
        return self.processor.tokenizer.decode(written, skip_special_tokens=True), most if cut else 0


def grid_times(duration_s: float, most: int, fps: float = GRID_FPS) -> Float[np.ndarray, " times"]:
    """Times to show of a video: so many a second and the last, or evenly spaced ones where those would be too many.

    Example:
        >>> grid_times(1.2, 128).tolist(), grid_times(9.0, 4).tolist()
        ([0.0, 0.5, 1.0, 1.2], [0.0, 3.0, 6.0, 9.0])
    """
    times = np.arange(0, duration_s, 1 / fps)
    if not len(times) or duration_s - times[-1] > 1e-6:
        times = np.append(times, duration_s)
    return times if len(times) <= most else np.linspace(0, duration_s, most)


def whole_grid(times: Float[np.ndarray, " frames"], most: int) -> list[int]:
    """Numbers of the frames nearest to `grid_times`, none twice and no two that are shown with one time."""
    found: list[int] = []
    for time in grid_times(float(times[-1] - times[0]), most):
        at = int(np.abs(times - times[0] - time).argmin())
        if not found or (at > found[-1] and shown(times[[at]] - times[0]) != shown(times[found[-1:]] - times[0])):
            found.append(at)
    return found


def as_tracking(question: str, fps: float) -> str:
    """A request as Molmo 2 was taught to be asked for tracks; questions stay as they are.

    Example:
        >>> as_tracking("Point to the red circle.", 2.0)
        'Track the red circle at 2 FPS'
    """
    request = _REQUEST.match(question)
    return f"Track {request[1]} at {fps:.3g} FPS" if request else question


def shrunk(processor: Any, frame: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "side side 3"]:
    """A frame at the size the model sees, bit for bit as its processor would make it."""
    from transformers.image_utils import SizeDict

    video = processor.video_processor
    size = SizeDict(height=video.size["height"], width=video.size["width"])
    pixels = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].float()
    small = video.resize(pixels, size=size, resample=video.resample, antialias=False)
    return small.round().clamp(0, 255).to(torch.uint8)[0].permute(1, 2, 0).numpy()


def inputs_of(
    processor: Any, frames: UInt8[np.ndarray, "frames height width 3"], times: Float[np.ndarray, " frames"], prompt: str
) -> dict[str, torch.Tensor]:
    """The model's inputs; the prompt shows times in tenths of a second.

    The processor takes the number of a frame over a rate for its time; milliseconds serve any clip, also those whose
    frames do not come at one rate. Pixels are scaled as the published processors are set to; a new one is not.
    """
    from transformers.video_utils import VideoMetadata

    numbers = in_milliseconds(times)
    about = VideoMetadata(
        total_num_frames=numbers[-1] + 1, fps=1000.0, duration=float(times[-1]),
        frames_indices=numbers, height=frames.shape[1], width=frames.shape[2],
    )  # fmt: skip
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)
    found = processor(
        text=[prompt], videos=[pixels], video_metadata=[about], do_sample_frames=False, do_rescale=True,
        do_normalize=True, return_tensors="pt",
    )  # fmt: skip
    return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}


def load_molmo2(folder: Path, dtype: torch.dtype = torch.float32, attention: str = "sdpa") -> tuple[Any, Any]:
    """Model, ready to answer, and processor of a folder.

    Raises:
        BadInput: another attention, a transformers without Molmo 2, files that cannot be read, or weights that do not
            fit.
    """
    if attention not in ATTENTION:
        raise BadInput(f"attention is {attention!r}, expected one of {', '.join(ATTENTION)}")
    try:
        from transformers import Molmo2ForConditionalGeneration
    except ImportError as error:
        raise BadInput("this transformers has no Molmo 2; install a newer one: pip install -U transformers") from error
    try:
        config = checked_config(folder)
        processor = load_processor(folder, config)
        model, report = Molmo2ForConditionalGeneration.from_pretrained(
            folder, config=config, dtype=dtype, attn_implementation=attention, use_safetensors=True,
            local_files_only=True, output_loading_info=True,
        )  # fmt: skip
        plain_generation(model)
    except Exception as error:  # transformers raises many kinds; nearly all mean that these files are no Molmo 2
        reason = str(error) if isinstance(error, BadInput) else first_line(error)
        raise BadInput(f"{folder}: no Molmo 2 that can be loaded with attention {attention!r}: {reason}") from error
    # the published vision towers have two layers more than are used
    strange = [name for name in report["unexpected_keys"] if "vision" not in name and "image_vit" not in name]
    wrong = sorted({*report["missing_keys"], *strange})
    if wrong:
        raise BadInput(f"{folder}: weights are missing or do not fit: {', '.join(wrong[:3])}; download the model again")
    try:
        for name, parameter in model.named_parameters():
            check_finite(name, parameter.data, source=folder)
    except BadInput:
        for name, value in Shards(folder):  # again, under the name in the file
            check_finite(name, value, source=folder)
        raise
    return model.eval(), processor


def load_processor(folder: Path, config: Any) -> Any:
    """What shows the frames of a video to a model of this configuration, Molmo 2's or MolmoPoint's.

    Raises:
        Exception: of many kinds, where the files cannot be read or are of another model.
    """
    from transformers import Molmo2Processor

    check_processor_files(folder)
    with broken_tokenizers_are_refused(folder):
        processor = Molmo2Processor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        check_words(processor.tokenizer)
        check_processor(processor, config)
        blank = shrunk(processor, np.zeros((8, 8, 3), np.uint8))[None]
        check_inputs(inputs_of(processor, blank, np.zeros(1), PROMPT.format("a")), config)
    return processor
