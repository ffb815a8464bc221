"""One stage of the pointing model's training: what is trained with which data, and its batches."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from videomolmo.model import PointingConfig, PointingModel, PointingProcessor
from videomolmo.training.pointing_data import Example, asked, pictured, sample_example, worded
from videomolmo.training.rendered import RenderedClips
from videomolmo.training.shelf import Shelf


@dataclass(frozen=True)
class Stage:
    """One stage: `language` says whether text is trained; the vision tower is at `vision_rate` of the rate.

    `facts` and `moves` weigh what windows should know of their objects and of their motion. `cutoff`: share of clips
    that begin in mid-air, with 1 to l black frames in front, as at a video's start. `distinct`: this many batches are
    encoded once by the frozen vision tower, most of a step's work, and gone through again and again; 0: all are new.
    Where text is trained, each time with new questions: the same ones were learnt by heart. `lists`: see `asked`.
    `stills`: share of batches of single pictures that are their own past, as where nothing moves: they teach shapes at
    two fifths of the price of clips.
    """

    name: str
    steps: int
    batch: int
    questions: int
    peak: float
    language: bool
    past: bool
    motion_share: float
    vision_rate: float
    facts: float
    moves: float = 0.0
    cutoff: float = 0.0
    distinct: int = 0
    lists: float = 0.0
    stills: float = 0.0

    def __post_init__(self) -> None:
        if self.stills and (self.language or self.distinct or self.cutoff):
            raise ValueError(f"stage {self.name!r}: stills go with neither language, distinct nor cutoff")


def batches(
    processor: PointingProcessor,
    clips: RenderedClips,
    stage: Stage,
    seed: int,
    start: int,
    encode: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda batch: batch,
    pictures: RenderedClips | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Batch after batch from step `start`; each a function of (seed, stage, step) alone, through `encode`.

    Stills are taken from `pictures`.
    """
    key = sum(ord(letter) for letter in stage.name)
    wanted = {"questions": stage.questions, "motion_share": stage.motion_share, "lists": stage.lists}
    kept: dict[int, tuple[list[Example], dict[str, Tensor]]] = {}
    shelf = Shelf(stage.distinct)
    for step in range(start, stage.steps):
        number = step % stage.distinct if stage.distinct else step
        rng = np.random.default_rng([seed, key, number])
        if number in kept:
            examples, seen = kept[number]
        else:
            still = stage.stills > 0 and rng.random() < stage.stills
            source = pictures if still else clips
            examples = [sample_example(rng, source, **wanted) for _ in range(stage.batch)]
            seen = pictured(processor, examples, past=stage.past and not still, patches=not stage.language)
            if still:
                seen["facts_motion"].zero_()  # where its object went cannot be seen
            if stage.cutoff:
                _cut_off(seen, stage, processor.config, seed, number)
            seen = encode(seen)
            if stage.distinct:
                seen = shelf.put(number, seen)
                kept[number] = examples, seen
        if stage.language and step != number:
            again = np.random.default_rng([seed, key, step])
            examples = [asked(again, one, **wanted) for one in examples]
        texts = worded(processor, examples) if stage.language else {}
        device = seen["facts_point"].device
        yield {name: value.to(device) for name, value in texts.items()} | seen


def encoder(model: PointingModel, stage: Stage, device: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """Puts a batch on the device; where batches are kept, with features in half precision instead of pixels.

    Of the past only the mean is kept where the temporal module sees no more than that.
    """

    def encode(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        batch = {name: value.to(device) for name, value in batch.items()}
        if not stage.distinct:
            return batch
        dropped = ("pixels", "past_pixels", "patch_mask")
        kept = {name: value for name, value in batch.items() if name not in dropped}
        with torch.no_grad():
            kept["features"] = model.encode_frames(batch["pixels"]).half()
        if stage.past and model.config.needs_past:
            past = model.encode_past(batch["past_pixels"])
            past = past if model.config.temporal == "cross_attention_all" else past.mean(1, keepdim=True)
            kept["past"] = past.half()
        return kept

    return encode


def _cut_off(batch: dict[str, Tensor], stage: Stage, config: PointingConfig, seed: int, step: int) -> None:
    """Blacken the oldest past frames of some examples in place, as before the start of a video."""
    rng = np.random.default_rng([seed, 99, step])
    black = -torch.tensor(config.image.mean) / torch.tensor(config.image.std)
    for row in range(len(batch["past_pixels"])):
        if rng.random() < stage.cutoff:
            count = int(rng.integers(1, config.context + 1))
            batch["past_pixels"][row, :count] = black.repeat(config.image.patch_px**2)
