"""MolmoPoint as a pointer: one question about many key frames, answered with places on them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from transformers import Molmo2Processor

from videomolmo.errors import BadInput
from videomolmo.grounding import VideoGrounder, load_tracker
from videomolmo.io.untrusted import first_line
from videomolmo.model.token_order import Ids, as_text
from videomolmo.points import Answer, read_points
from videomolmo.protocols import Question
from videomolmo.systems import molmo2
from videomolmo.systems.molmo2 import PROMPT, TOKENS, TOKENS_PER_FRAME, Molmo2Pointer, as_tracking, inputs_of
from videomolmo.systems.molmopoint.model import MolmoPointForConditionalGeneration
from videomolmo.systems.molmopoint.writing import Place, places
from videomolmo.weights import hub
from videomolmo.weights.checkpoint import device_named, dtype_of, pointing_hashes, refuse_options


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
    """MolmoPoint as published with SAM 2; no code of the folder is run.

    Args:
        model: a folder with config.json, safetensors, tokenizer and processor, or a hub id.
        masks, device, dtype, attention, offline: see `VideoGrounder.from_pretrained`.
        others: its other options, which MolmoPoint does not have; only None will do.

    Raises:
        BadInput: no such model, or files that do not fit.
    """
    refuse_options(others, "MolmoPoint")
    device, model, masks = device_named(device), hub.as_name(model, "--model"), hub.as_name(masks, "--masks")
    folder = hub.pointing_folder(model, offline)
    precision = dtype_of("bfloat16" if dtype == "auto" and device != "cpu" else dtype)
    tracker, weights = load_tracker(masks, device, offline)
    pointing = MolmoPointForConditionalGeneration.from_pretrained(
        folder, dtype=precision, device=device, attn_implementation=attention
    )
    kind = str(precision).removeprefix("torch.")
    loaded = {"model": model, "masks": masks, "dtype": kind, "attention": attention}
    pointer = MolmoPointPointer(pointing, load_processor(folder, pointing.config))
    return VideoGrounder(pointer, tracker, weights=pointing_hashes(folder) | weights, loaded=loaded)


def load_processor(folder: Path, config: Any) -> Molmo2Processor:
    """What shows the frames of a video to a model of this configuration.

    Raises:
        BadInput: files that cannot be read, or that are of another model.
    """
    try:
        return molmo2.load_processor(folder, config)
    except Exception as error:  # transformers raises many kinds
        reason = str(error) if isinstance(error, BadInput) else first_line(error)
        raise BadInput(f"{folder}: no processor of a MolmoPoint: {reason}; download it again") from error


class MolmoPointPointer(Molmo2Pointer):
    """MolmoPoint as a `videomolmo.protocols.Pointer`, asked as Molmo 2 is; a point tells its frame."""

    answer_once = None  # its answers hold no times that could be read

    def _ask(
        self, question: Question, keys: list[int], frames: list[UInt8[np.ndarray, "side side 3"]]
    ) -> Iterator[tuple[int, Answer]]:
        """Answers of key frames that are shown together."""
        video = question.video
        times = np.asarray(video.times_s, np.float64)[keys]
        request = PROMPT.format(as_tracking(question.text, video.fps / question.every))
        inputs = inputs_of(self.processor, np.stack(frames), times - times[0], request)
        ids, pooling = inputs["input_ids"], inputs["video_token_pooling"]
        room = self.model.config.text_config.max_position_embeddings - ids.shape[1]
        if room < TOKENS:
            raise BadInput(
                f"{len(keys)} key frames and the sentence make {ids.shape[1]} tokens, and this model reads at most "
                f"{room + ids.shape[1]}; use a larger every, or fewer words"
            )
        device, end = self.model.device, self.processor.tokenizer.eos_token_id
        written = self.model.write(
            ids.to(device), inputs["pixel_values_videos"][None].to(device), pooling[None].to(device),
            min(room, TOKENS + TOKENS_PER_FRAME * len(keys)), end,
        )  # fmt: skip
        meaning = Ids(self.model.config.words, *pooling.shape)
        told = [one for one in written.ids.tolist() if one != end]
        text = as_text(told, meaning, self.processor.tokenizer)
        _, rows, columns = inputs["video_grids"][0].tolist()
        grids = [(frame * rows * columns, rows, columns) for frame in range(len(keys))]
        window = tuple(self.processor.video_processor.pooling_size)
        found = places(text, meaning, pooling, grids, [(video.height, video.width)] * len(keys), window)
        for number, key in enumerate(keys):
            if question.on_text is not None:
                question.on_text(key, text)
            yield key, answer_of(text, found, number, float(times[number] - times[0]), (video.height, video.width))


def answer_of(text: str, found: list[Place], frame: int, time: float, size: tuple[int, int]) -> Answer:
    """What an answer says of one frame: its points by their ids; absent where others have points or none has.

    Args:
        text: the whole answer.
        found: points of all frames.
        frame, time: number and time (seconds) of this one.
        size: height and width, pixels.
    """
    if not found:
        plain = read_points(text, *size)
        if plain.outcome != "found":
            return plain
        return replace(read_points("", *size), text=text)  # coordinates as text are none of this model's
    own = {place.object_id: place for place in reversed(found) if place.image == frame}
    chosen = [own[name] for name in sorted(own)]
    points = np.array([(place.x, place.y) for place in chosen], np.float32).reshape(-1, 2)
    return Answer(
        "found" if chosen else "absent", points, np.ones(len(chosen), bool), "", None, text,
        np.full(len(chosen), time) if chosen else None, np.array([one.object_id for one in chosen]) if chosen else None,
    )  # fmt: skip
