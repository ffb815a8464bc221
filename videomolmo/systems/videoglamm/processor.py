"""Frames and words become what VideoGLaMM reads: three views of the frames, a prompt with a place for them, targets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import ProcessorMixin

from videomolmo.errors import BadInput
from videomolmo.model.tokenizer import load_tokenizer, save_tokenizer
from videomolmo.systems.videoglamm.config import VideoGLaMMConfig
from videomolmo.systems.videoglamm.splice import IGNORED, PLACEHOLDER
from videomolmo.systems.videoglamm.weights import folder_of, read_configuration

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and deviation of RGB
OF_CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
OF_SAM2 = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of 0 … 255
PROMPT = "<|system|>\nYou are a helpful AI assistant.<|end|>\n<|user|>\n{}\n{}<|end|>\n<|assistant|>\n"
FRAME, SEGMENT, END = "<image>", "[SEG]", "<|end|>"
MARKS = ("<im_start>", "<im_end>"), ("<vid_start>", "<vid_end>")  # around a picture, and around a video
Example = dict[str, Tensor]


class VideoGLaMMProcessor(ProcessorMixin):
    """Build the model's inputs from frames and text.

    Source: released code: Phi-3's chat, one placeholder for each frame, the answer and its end are learnt.
    Differs: prompt and answer become ids each by itself, so that what is learnt begins where the answer does; the
    released code counts ids of the whole, and drops a conversation where the counts differ.

    Args:
        tokenizer: anything with `encode(text, add_special_tokens=False)` and `decode(ids)` that knows "[SEG]".
        config: the model's configuration.
    """

    def __init__(self, tokenizer: Any, config: VideoGLaMMConfig) -> None:
        known = tokenizer.get_vocab().get(SEGMENT) if hasattr(tokenizer, "get_vocab") else config.language.segment
        if known != config.language.segment:
            raise BadInput(
                f"the tokenizer gives {SEGMENT} the id {known}, the model has {config.language.segment} for it; "
                "use the tokenizer that belongs to the model"
            )
        self.tokenizer, self.config = tokenizer, config  # not by transformers, which wants a tokenizer of its own kind

    def __call__(
        self, frames: UInt8[np.ndarray, "frames height width 3"], question: str, answer: str | None = None
    ) -> Example:
        """Inputs of one question about a video, or with one frame about a picture; with targets where answered.

        Args:
            frames: RGB; of more than the model takes, those that `chosen` names are seen.
            question: what the user asks.
            answer: phrases as `<p> phrase </p> [SEG]` in plain words.

        Returns:
            `input_ids`, `images` (not of a picture), `context_images`, and `labels` with an answer. What SAM 2 sees
            is made by `sam_images`, of as many frames as masks are wanted on.
        """
        return self.views(frames) | self.tokens(question, answer, self.config.frames if len(frames) > 1 else 1)

    def views(self, frames: UInt8[np.ndarray, "frames height width 3"]) -> Example:
        """The frames as InternVideo2 and CLIP see them."""
        frames = _checked(frames)
        if len(frames) == 1:
            return {"context_images": context_images(frames, self.config.image.size_px)}
        shown = frames[chosen(len(frames), self.config.frames)]
        return {
            "images": video_images(shown, self.config.video.size_px),
            "context_images": context_images(shown, self.config.image.size_px),
        }

    def sam_images(self, frames: UInt8[np.ndarray, "frames height width 3"]) -> Float[Tensor, "frames 3 size size"]:
        """Frames as SAM 2 sees them."""
        return sam_images(_checked(frames), self.config.masks.size_px)

    def tokens(self, question: str, answer: str | None = None, placeholders: int = 1) -> Example:
        """Ids of a conversation, and with an answer the targets: the answer and its end.

        Raises:
            BadInput: the question holds a sign that the model gives a meaning to.
        """
        if signs := [
            sign for sign in (SEGMENT, *getattr(self.tokenizer, "all_special_tokens", ())) if sign in question
        ]:
            raise BadInput(f"the question holds {signs[0]!r}, a sign of the model's own; leave it out")
        start, end = MARKS[placeholders > 1] if self.config.frame_marks else ("", "")
        before, after = PROMPT.format(f"{start}{FRAME}{end}", question.strip()).split(FRAME, 1)
        begin = [self.config.language.begin]
        begin = begin if self.tokenizer.encode("a", add_special_tokens=True)[:1] == begin else []
        prompt = [*begin, *self._ids(before), *[PLACEHOLDER] * placeholders, *self._ids(after)]
        if answer is None:
            return {"input_ids": torch.tensor(prompt)}
        learnt = self._ids(answer + END)
        labels = torch.tensor([IGNORED] * len(prompt) + learnt)
        return {"input_ids": torch.tensor(prompt + learnt), "labels": labels}

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def decode(self, token_ids: Sequence[int] | Tensor, **kwargs: Any) -> str:
        """The text of ids, [SEG] included, without placeholders, padding and what ends an answer."""
        part = self.config.language
        hidden = {PLACEHOLDER, part.padding, part.begin, *part.end}
        return self.tokenizer.decode([int(one) for one in token_ids if int(one) not in hidden]).strip()

    def batch_decode(self, sequences: Sequence[Sequence[int]] | Tensor, **kwargs: Any) -> list[str]:
        """As `decode`, row by row."""
        return [self.decode(row) for row in sequences]

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Write the tokenizer; all else stands in the model's config.json beside it."""
        save_tokenizer(self.tokenizer, save_directory)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        revision: str | None = None,
        local_files_only: bool = False,
        **kwargs: Any,
    ) -> VideoGLaMMProcessor:
        """The processor of a model's folder or of an id on the hub; `kwargs` are for other classes.

        Raises:
            BadInput: files are missing or broken, or the tokenizer is another model's.
        """
        folder = folder_of(pretrained_model_name_or_path, revision, local_files_only)
        tokenizer = load_tokenizer(folder)
        tokenizer.split_special_tokens = False  # the chat's signs are ids of their own; questions may not hold any
        return cls(tokenizer, read_configuration(folder))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(tokenizer={type(self.tokenizer).__name__})"


def chosen(count: int, wanted: int) -> list[int]:
    """The frames of a video that the model is shown: evenly chosen, or all and then the last one again.

    Example:
        >>> chosen(7, 4), chosen(2, 4)
        ([0, 2, 4, 6], [0, 1, 1, 1])
    """
    if count > wanted:
        return np.linspace(0, count - 1, wanted).astype(int).tolist()
    return [min(at, count - 1) for at in range(wanted)]


def video_images(
    frames: UInt8[np.ndarray, "frames height width 3"], size_px: int
) -> Float[Tensor, "frames 3 size size"]:
    """Frames stretched to a square, without antialiasing."""
    small = np.stack([cv2.resize(frame, (size_px, size_px), interpolation=cv2.INTER_LINEAR) for frame in frames])
    return _normed(torch.from_numpy(small).float() / 255, IMAGENET)


def context_images(
    frames: UInt8[np.ndarray, "frames height width 3"], size_px: int
) -> Float[Tensor, "frames 3 size size"]:
    """The square in the middle of frames whose shorter side is resized to it, bicubically in 8 bits."""
    height, width = frames.shape[1:3]
    short = min(height, width)
    rows, columns = size_px * height // short, size_px * width // short
    top, left = (rows - size_px) // 2, (columns - size_px) // 2
    resized = _resized(frames, rows, columns, Image.Resampling.BICUBIC)
    return _normed(resized[:, top : top + size_px, left : left + size_px].float() / 255, OF_CLIP)


def sam_images(frames: UInt8[np.ndarray, "frames height width 3"], size_px: int) -> Float[Tensor, "frames 3 size size"]:
    """Frames whose longer side is resized in 8 bits, then stretched to a square."""
    height, width = frames.shape[1:3]
    scale = size_px / max(height, width)
    resized = _resized(frames, int(height * scale + 0.5), int(width * scale + 0.5), Image.Resampling.BILINEAR)
    normed = _normed(resized.float(), OF_SAM2)
    return functional.interpolate(normed, size=(size_px, size_px), mode="bilinear", align_corners=False)


def _resized(
    frames: np.ndarray, height: int, width: int, how: Image.Resampling
) -> UInt8[Tensor, "frames rows columns 3"]:
    pictures = [np.asarray(Image.fromarray(frame).resize((width, height), how)) for frame in frames]
    return torch.from_numpy(np.stack(pictures))


def _normed(frames: Float[Tensor, "frames rows columns 3"], of: tuple) -> Float[Tensor, "frames 3 rows columns"]:
    mean, deviation = (torch.tensor(values, dtype=frames.dtype) for values in of)
    return ((frames - mean) / deviation).permute(0, 3, 1, 2).contiguous()


def _checked(frames: np.ndarray) -> UInt8[np.ndarray, "frames height width 3"]:
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or not frames.size:
        raise BadInput(f"frames are {frames.dtype} {frames.shape}, expected uint8 (frames, height, width, 3)")
    return frames


def collate(examples: Sequence[Example]) -> dict[str, Any]:
    """One batch from examples: ids are padded on the right, frames stay as they are, one entry for each.

    Raises:
        BadInput: no examples, or some with targets and some without.
    """
    if not examples:
        raise BadInput("no examples to collate, expected at least one; check the data set's filter")
    if len({"labels" in example for example in examples}) > 1:
        raise BadInput("some examples have labels and some have none, expected all or none; build them alike")
    longest = max(len(example["input_ids"]) for example in examples)

    def padded(name: str, fill: int) -> Tensor:
        rows = [example[name] for example in examples]
        return torch.stack([functional.pad(row, (0, longest - len(row)), value=fill) for row in rows])

    lengths = torch.tensor([len(example["input_ids"]) for example in examples])
    batch = {"input_ids": padded("input_ids", 0), "attention_mask": torch.arange(longest) < lengths[:, None]}
    if "labels" in examples[0]:
        batch["labels"] = padded("labels", IGNORED)
    for name in ("images", "context_images", "sam_images", "masks"):
        if any(name in example for example in examples):
            batch[name] = [example.get(name) for example in examples]
    return batch
