"""Molmo 2 as a baseline: it is shown all key frames at once and writes tracks; masks and fusion are ours.

Source: Molmo 2 (Clark et al. 2026) and its released code; `Molmo2ForConditionalGeneration` of transformers.
Differs: the paper asks for at most two frames a second; here the key frames are shown, as they are to VideoMolmo. Its
    objects keep their numbers between key frames only through the overlap of their masks, as VideoMolmo's do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from videomolmo import hub
from videomolmo.errors import BadInput
from videomolmo.grounding import VideoGrounder, device_named, load_masks
from videomolmo.masks.tracker import MaskTracker
from videomolmo.model.loading import dtype_of
from videomolmo.points import Answer, read_points
from videomolmo.stopwatch import Stopwatch
from videomolmo.video import Frames

MOST_FRAMES = 128  # shown at a time: so many it was fine-tuned with; a longer clip is asked about in parts
TOKENS, TOKENS_PER_FRAME = 128, 48  # of an answer: three objects a frame and their time take about 40
PROMPT = "<|video|><|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
_OURS = re.compile(r"^Point to (.+)\.$", re.IGNORECASE)


class Molmo2Grounder(VideoGrounder):
    """Molmo 2 and SAM 2, called as a `VideoGrounder`; there is no temporal module, and no `context` to choose."""

    @classmethod
    def from_pretrained(
        cls,
        model: str,
        masks: str = "nano",
        device: str = "auto",
        *,
        dtype: str = "auto",
        attention: str = "sdpa",
        offline: bool = False,
    ) -> Molmo2Grounder:
        """Load a Molmo 2 as published, by transformers' own classes; no code of the folder is run.

        Args:
            model: a folder with config.json, safetensors, tokenizer and processor, or a hub id.
            masks, device, dtype, attention, offline: see `VideoGrounder.from_pretrained`.

        Raises:
            BadInput: no such model, weights that do not fit, or a transformers without Molmo 2.
        """
        folder, device = hub.pointing_folder(model, offline), device_named(device)
        precision = dtype_of("bfloat16" if dtype == "auto" and device != "cpu" else dtype)
        sam, sam_hashes = load_masks(masks, device, offline)
        pointing, processor = load_molmo2(folder, precision, attention)
        weights = {f"pointing:{folder.name}/{file}": value for file, value in hub.hashes(folder).items()}
        return cls(pointing.to(device), processor, MaskTracker(sam), weights | sam_hashes)

    def _context(self, context: int | None) -> None:
        if context is not None:
            raise BadInput(f"context is {context}, but Molmo 2 sees all key frames at once; leave it out")

    def _about(self) -> dict[str, Any]:
        return {"temporal": "all key frames at once", "pointing": self.pointing.config.to_dict()}

    def _pointer(self, context: None, on_text: Callable[[int, str], None] | None, clock: Stopwatch) -> Molmo2Pointer:
        return Molmo2Pointer(self.pointing, self.processor, on_text, clock)


class Molmo2Pointer:
    """In place of `videomolmo.pointer.Pointer`: one question about many key frames.

    Args:
        model, processor: of transformers.
        on_text: called with each key frame's number and what was written about it, once it is.
        clock: counts the time of "io" (decoding) and "text" (all of the model).
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        on_text: Callable[[int, str], None] | None = None,
        clock: Stopwatch | None = None,
    ) -> None:
        self.model, self.processor, self.on_text, self.clock = model, processor, on_text, clock or Stopwatch()

    def answers(self, video: Frames, question: str, every: int) -> Iterator[tuple[int, int, Answer | None]]:
        """As `Pointer.answers`.

        Raises:
            BadInput: key frames that lie so near each other that an answer could not tell them apart.
        """
        times = np.asarray(video.times_s, np.float64)[::every]
        for first in range(0, len(times), MOST_FRAMES):
            check_times(times[first : first + MOST_FRAMES], every)
        return self._answers(video, question, every)

    def _answers(self, video: Frames, question: str, every: int) -> Iterator[tuple[int, int, Answer | None]]:
        request = as_tracking(question, video.fps / every)
        keys: list[int] = []
        frames: list[np.ndarray] = []
        count = 0
        for at, frame in enumerate(self.clock.each("io", video.iterate())):
            count = at + 1
            if at % every == 0:
                keys.append(at)
                frames.append(frame)
            if len(keys) == MOST_FRAMES:
                yield from self._asked(video, keys, frames, request, count)
                keys, frames = [], []
        if keys:
            yield from self._asked(video, keys, frames, request, count)
        yield count, count, None

    def _asked(
        self, video: Frames, keys: list[int], frames: list[np.ndarray], request: str, count: int
    ) -> Iterator[tuple[int, int, Answer]]:
        times = np.asarray(video.times_s, np.float64)[keys]
        times = times - times[0]
        with self.clock.measure("text"):
            text = self._write(np.stack(frames), times, request)
        answer = read_points(text, video.height, video.width)
        for key, one in zip(keys, by_time(answer, times), strict=True):
            if self.on_text is not None:
                self.on_text(key, text)
            yield count, key, one

    @torch.inference_mode()
    def _write(self, frames: np.ndarray, times: np.ndarray, request: str) -> str:
        """What the model writes about frames (n, height, width, 3) at `times`, seconds from 0 (greedy decoding)."""
        inputs = inputs_of(self.processor, frames, times, PROMPT.format(request))
        weight = next(self.model.parameters())
        placed = {
            name: value.to(weight.device, weight.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }
        most = TOKENS + TOKENS_PER_FRAME * len(frames)
        written = self.model.generate(**placed, max_new_tokens=most, do_sample=False)
        return self.processor.tokenizer.decode(written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def as_tracking(question: str, fps: float) -> str:
    """A question of `as_question` as Molmo 2 was taught to be asked for tracks; other requests stay as they are.

    Example:
        >>> as_tracking("Point to the red circle.", 2.0)
        'Track the red circle at 2 FPS.'
    """
    ours = _OURS.match(question)
    return f"Track {ours[1]} at {fps:.3g} FPS." if ours else question


def inputs_of(processor: Any, frames: np.ndarray, times: np.ndarray, prompt: str) -> dict[str, torch.Tensor]:
    """The model's inputs for frames (n, height, width, 3) at `times`; the prompt shows times in tenths of a second.

    The processor takes the number of a frame over a rate for its time; milliseconds serve any clip, also those whose
    frames do not come at one rate.
    """
    from transformers.video_utils import VideoMetadata

    milliseconds = np.round(1000 * times).astype(int).tolist()
    about = VideoMetadata(
        total_num_frames=milliseconds[-1] + 1, fps=1000.0, duration=float(times[-1]),
        frames_indices=milliseconds, height=frames.shape[1], width=frames.shape[2],
    )  # fmt: skip
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)
    found = processor(
        text=[prompt], videos=[pixels], video_metadata=[about], do_sample_frames=False, return_tensors="pt"
    )
    return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}


def check_times(times: np.ndarray, every: int) -> None:
    """Nothing for key frames whose times differ in tenths of a second, which is how they are shown and written.

    Raises:
        BadInput: two of them are written alike.
    """
    shown = [f"{time:.1f}" for time in times - times[0]]
    alike = next((n for n in range(1, len(shown)) if shown[n] == shown[n - 1]), None)
    if alike is not None:
        apart = times[alike] - times[alike - 1]
        raise BadInput(
            f"every is {every}: key frames {apart:.3f} s apart, and Molmo 2 writes times in tenths of a second; "
            f"use every={int(np.ceil(every * 0.1001 / max(apart, 1e-3)))} or more"
        )


def by_time(answer: Answer, times: np.ndarray) -> list[Answer]:
    """What an answer about several frames says of each, by the nearest time that was shown.

    Points of a frame come in the order of their ids. A frame that is not named has none: it is absent there. Where the
    answer names a time at which nothing was shown, or points without any time, it is malformed for the nearest frame,
    or for all.

    Args:
        answer: of all frames.
        times: of the frames, seconds from 0.
    """
    if answer.outcome != "found":
        return [answer] * len(times)
    if answer.times is None:
        if len(times) == 1:
            return [answer]
        return [_malformed(answer, f"points without times, and {len(times)} frames were shown")] * len(times)
    shown = np.array([float(f"{time:.1f}") for time in times])
    distance = np.abs(answer.times[:, None] - shown)
    nearest = distance.argmin(axis=1)
    reach = max(0.1, float(np.diff(shown).min(initial=0.1)) / 2 if len(shown) > 1 else 0.1)
    found = []
    for n in range(len(times)):
        here = nearest == n
        far = here & (distance[:, n] > reach + 1e-9)
        if far.any():
            found.append(_malformed(answer, f"points at {answer.times[far][0]:g} s, where no frame was shown"))
        else:
            rows = np.flatnonzero(here)
            found.append(_part(answer, rows[np.argsort(answer.ids[rows], kind="stable")]))
    return found


def _part(answer: Answer, rows: np.ndarray) -> Answer:
    """Some points of an answer; without any it is absent."""
    parts = {name: getattr(answer, name)[rows] for name in ("points_px", "inside", "times", "ids")}
    if len(rows):
        return replace(answer, **parts)
    return replace(answer, outcome="absent", label="", **parts | {"times": None, "ids": None})


def _malformed(answer: Answer, problem: str) -> Answer:
    nothing = {"points_px": answer.points_px[:0], "inside": answer.inside[:0], "times": None, "ids": None}
    return replace(answer, outcome="malformed", label="", problem=problem, **nothing)


def load_molmo2(folder: Path, dtype: torch.dtype = torch.float32, attention: str = "sdpa") -> tuple[Any, Any]:
    """Model, ready to answer, and processor of a folder.

    Raises:
        BadInput: a transformers without Molmo 2, files that cannot be read, or weights that do not fit.
    """
    try:
        from transformers import Molmo2ForConditionalGeneration, Molmo2Processor
    except ImportError as error:
        raise BadInput("this transformers has no Molmo 2; install a newer one: pip install -U transformers") from error
    try:
        model, report = Molmo2ForConditionalGeneration.from_pretrained(
            folder, dtype=dtype, attn_implementation=attention, use_safetensors=True, local_files_only=True,
            output_loading_info=True,
        )  # fmt: skip
        processor = Molmo2Processor.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises many kinds, all of which mean that these files are no Molmo 2
        raise BadInput(f"{folder}: no Molmo 2 that can be loaded: {str(error).splitlines()[0][:200]}") from error
    lost = sorted({*report["missing_keys"], *(str(name) for name in report["mismatched_keys"])})
    if lost:
        raise BadInput(f"{folder}: weights are missing or do not fit: {', '.join(lost[:3])}; download the model again")
    return model.eval(), processor
