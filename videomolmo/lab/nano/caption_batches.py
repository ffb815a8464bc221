"""Training batches of Nano-GLaMM from generated clips: frames, what their patches show, questions and answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from videomolmo.synth.caption_scenes import BAR, GREY, Stories, caption_clip, stories
from videomolmo.synth.captions import KINDS, Exchange, exchange
from videomolmo.synth.scene import COLOURS, MOTIONS, SHAPES
from videomolmo.systems.videoglamm import VideoGLaMMProcessor, collate
from videomolmo.systems.videoglamm.processor import chosen

HELD_OUT = 10_000_000  # seeds from here on are never trained on
COLOUR_CLASSES, SHAPE_CLASSES = ("none", *COLOURS, GREY), ("none", *SHAPES, BAR)
MOTION_CLASSES = ("none", *MOTIONS)
FACTS = ("behind", "hidden", "enters", "leaves", "free_first", "free_last")  # of a `Story`
COVERED_FROM = 0.25  # of a patch: less of an object is background


@dataclass(frozen=True)
class Seen:
    """A clip as the model is shown it: the chosen frames, and on them the number of the object at every pixel.

    Attributes:
        ids: 0 is background, object n of the clip is n + 1.
    """

    said: Stories
    frames: UInt8[np.ndarray, "shown height width 3"]
    ids: UInt8[np.ndarray, "shown height width"]

    @classmethod
    def of(cls, seed: int, frames: int, shown: int) -> Seen:
        """The clip of a seed; see `caption_clip`."""
        clip = caption_clip(seed, frames=frames)
        at = chosen(frames, shown)
        numbers = np.arange(1, clip.masks.shape[1] + 1, dtype=np.uint8)[None, :, None, None]
        return cls(stories(clip), clip.frames[at], (clip.masks[at] * numbers).max(axis=1))

    def masks(self, objects: Sequence[int]) -> np.ndarray:
        """Whether a pixel of the shown frames belongs to one of the objects."""
        return np.isin(self.ids, np.array(objects) + 1)


def draw(rng: np.random.Generator, count: int, frames: int, shown: int) -> list[Seen]:
    """So many clips that are not held out."""
    return [Seen.of(int(rng.integers(HELD_OUT)), frames, shown) for _ in range(count)]


def ask(rng: np.random.Generator, said: Stories, captions: float) -> Exchange:
    """A caption with this probability, else a question of a kind that the clip has an answer to."""
    kind = "caption" if rng.random() < captions else str(rng.choice(KINDS[1:]))
    return exchange(said, rng, kind) or exchange(said, rng, "caption")


def views(processor: VideoGLaMMProcessor, clips: Sequence[Seen]) -> dict[str, Tensor]:
    """Shown frames as the two encoders see them: (clips, shown, 3, size, size)."""
    made = [processor.views(one.frames) for one in clips]
    return {name: torch.stack([one[name] for one in made]) for name in ("images", "context_images")}


def patch_owners(clips: Sequence[Seen], grid: int) -> Int[Tensor, "clips shown patches"]:
    """The object that covers most of each of grid×grid patches: its number in the clip and 1; 0 for background."""
    ids = np.stack([one.ids for one in clips])
    side = ids.shape[-1] // grid
    cells = ids.reshape(*ids.shape[:2], grid, side, grid, side).swapaxes(3, 4).reshape(*ids.shape[:2], grid**2, -1)
    counts = np.stack([(cells == number).sum(-1) for number in range(ids.max() + 1)], axis=-1)
    counts[..., 0] = COVERED_FROM * side**2
    return torch.from_numpy(counts.argmax(-1))


def classes(clips: Sequence[Seen], owners: Int[Tensor, "clips shown patches"]) -> dict[str, Tensor]:
    """Classes of colour, shape and motion of each patch, 0 where there is no object."""
    found = {}
    for name, words in (("colour", COLOUR_CLASSES), ("shape", SHAPE_CLASSES), ("motion", MOTION_CLASSES)):
        table = torch.zeros(len(clips), int(owners.max()) + 1, dtype=torch.long)
        for row, one in enumerate(clips):
            for at, told in enumerate(one.said.objects):
                if at + 1 < table.shape[1]:
                    table[row, at + 1] = words.index(getattr(told, name))
        found[name] = table.gather(1, owners.flatten(1)).view_as(owners)
    return found


def facts(clips: Sequence[Seen], owners: Int[Tensor, "clips shown patches"]) -> Float[Tensor, "c s p facts"]:
    """Whether each of `FACTS` is true of the object of each patch; -1 where that is open, or there is no object."""
    table = torch.full((len(clips), int(owners.max()) + 1, len(FACTS)), -1.0)
    for row, one in enumerate(clips):
        for at, told in enumerate(one.said.objects[: table.shape[1] - 1]):
            known = [getattr(told, name) for name in FACTS]
            table[row, at + 1] = torch.tensor([-1.0 if value is None else float(value) for value in known])
    return torch.stack([own[patches] for own, patches in zip(table, owners, strict=True)])


def centres(
    clips: Sequence[Seen], owners: Int[Tensor, "clips shown patches"]
) -> Float[Tensor, "clips shown patches xy"]:
    """Where the object of each patch has its middle on that frame, x and y as shares of the frame; background: 0."""
    found = torch.zeros(*owners.shape, 2)
    for row, one in enumerate(clips):
        for at, ids in enumerate(one.ids):
            for number in owners[row, at].unique().tolist():
                if number:
                    middle = [float(places.mean()) for places in np.nonzero(ids == number)[::-1]]
                    found[row, at, owners[row, at] == number] = torch.tensor(middle) / ids.shape[-1]
    return found


def text_inputs(
    processor: VideoGLaMMProcessor, clips: Sequence[Seen], exchanges: Sequence[Exchange], masks: bool
) -> dict[str, object]:
    """Ids, targets, names of what each [SEG] means, and with `masks` SAM 2's frames and the true masks."""
    examples, meant = [], []
    for one, told in zip(clips, exchanges, strict=True):
        example = processor.tokens(told.question, told.answer.marked, processor.config.frames)
        if masks:
            true = np.stack([one.masks(span.objects) for span in told.answer.spans] or [np.zeros((0, *one.ids.shape))])
            true = true.reshape(-1, *one.ids.shape)
            example |= {"masks": torch.from_numpy(true).float(), "sam_images": processor.sam_images(one.frames)}
        examples.append(example)
        meant += [names_of(one.said, span.objects[0]) for span in told.answer.spans]
    return collate(examples) | {"meant": torch.tensor(meant, dtype=torch.long).view(-1, 2)}


def names_of(said: Stories, at: int) -> tuple[int, int]:
    """Classes of an object's colour and shape."""
    return COLOUR_CLASSES.index(said.objects[at].colour), SHAPE_CLASSES.index(said.objects[at].shape)
