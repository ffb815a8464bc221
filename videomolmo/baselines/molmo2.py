"""Molmo 2 as a baseline: it is shown all key frames at once and writes tracks; masks and fusion are ours.

Source: Molmo 2 (Clark et al. 2026) and its released code; `Molmo2ForConditionalGeneration` of transformers.
Differs: the paper asks for at most two frames a second; here the key frames are shown, as they are to VideoMolmo. Its
    objects keep their numbers between key frames only through the overlap of their masks, as VideoMolmo's do. A
    question ("Which dog barks?") stays as it is: Molmo 2 then names each object at one time, and is absent elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8

from videomolmo import hub
from videomolmo.baselines.molmo2_files import (
    check_inputs,
    check_processor,
    check_processor_files,
    checked_config,
    plain_generation,
)
from videomolmo.baselines.timed_answers import by_time, check_times, in_milliseconds
from videomolmo.errors import BadInput
from videomolmo.grounding import VideoGrounder, device_named, load_masks
from videomolmo.masks.tracker import MaskTracker
from videomolmo.model.loading import ATTENTION, dtype_of
from videomolmo.model.shards import Shards
from videomolmo.model.tokenizer import broken_tokenizers_are_refused, check_words
from videomolmo.points import Answer, read_points
from videomolmo.stopwatch import Stopwatch
from videomolmo.tensors import check_finite
from videomolmo.untrusted import first_line
from videomolmo.video import Frames

MOST_FRAMES = 128  # shown at a time, as in fine-tuning; a longer clip is asked about in parts
TOKENS, TOKENS_PER_FRAME = 128, 128  # of an answer at most: a time takes about 5, a point about 10
PROMPT = "<|video|><|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
_REQUEST = re.compile(
    r"^(?:point (?:to|at|out)|track|follow|locate|segment|mark|(?:find|show)(?: me)?) (.+?)[.!?\s]*$", re.IGNORECASE
)


class Molmo2Grounder(VideoGrounder):
    """Molmo 2 and SAM 2, called as a `VideoGrounder`; there is no temporal module, and no `context` to choose.

    Each answer's text is that about all key frames shown together, and `on_text` gets it once it is whole.
    """

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
        device, model, masks = device_named(device), hub.named(model, "--model"), hub.named(masks, "--masks")
        folder = hub.pointing_folder(model, offline)
        precision = dtype_of("bfloat16" if dtype == "auto" and device != "cpu" else dtype)
        sam, sam_hashes = load_masks(masks, device, offline)
        pointing, processor = load_molmo2(folder, precision, attention)
        weights = {f"pointing:{folder.name}/{file}": value for file, value in hub.hashes(folder).items()}
        kind = str(precision).removeprefix("torch.")
        loaded = {"model": model, "masks": masks, "dtype": kind, "attention": attention}
        return cls(pointing.to(device), processor, MaskTracker(sam), weights | sam_hashes, loaded)

    def context_of(self, context: int | None) -> None:
        """None: there are no past frames to choose.

        Raises:
            BadInput: a number was given.
        """
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
        on_text: called with each key frame's number and the text about all that were shown with it.
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
        """As `Pointer.answers`; of the frames only what the model sees is kept, `MOST_FRAMES` at a time.

        Raises:
            BadInput: key frames whose times are shown alike, or a question with the model's own signs in it.
        """
        signs = [sign for sign in self.processor.tokenizer.all_special_tokens if sign in question]
        if signs:
            raise BadInput(f"the sentence holds {signs[0]!r}, a sign of the model's own; leave it out")
        check_times(np.asarray(video.times_s, np.float64), every, MOST_FRAMES)
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
                frames.append(shrunk(self.processor, frame))
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
            text, cut = self._write(np.stack(frames), times, request)
        answer = read_points(text, video.height, video.width)
        if cut and answer.outcome == "malformed":
            answer = replace(answer, problem=f"{answer.problem} (the answer was longer than {cut} tokens)")
        for key, one in zip(keys, by_time(answer, times), strict=True):
            if self.on_text is not None:
                self.on_text(key, text)
            yield count, key, one

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
        from transformers import Molmo2ForConditionalGeneration, Molmo2Processor
    except ImportError as error:
        raise BadInput("this transformers has no Molmo 2; install a newer one: pip install -U transformers") from error
    try:
        config = checked_config(folder)
        check_processor_files(folder)
        model, report = Molmo2ForConditionalGeneration.from_pretrained(
            folder, config=config, dtype=dtype, attn_implementation=attention, use_safetensors=True,
            local_files_only=True, output_loading_info=True,
        )  # fmt: skip
        plain_generation(model)
        with broken_tokenizers_are_refused(folder):
            processor = Molmo2Processor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            check_words(processor.tokenizer)
            check_processor(processor, config)
            blank = shrunk(processor, np.zeros((8, 8, 3), np.uint8))[None]
            check_inputs(inputs_of(processor, blank, np.zeros(1), PROMPT.format("a")), config)
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
