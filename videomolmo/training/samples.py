"""Training samples from any data set with points or masks: one random frame, its past, and questions about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import UInt8

from videomolmo.cache import key_of
from videomolmo.datasets import Record, read_dataset
from videomolmo.errors import BadInput
from videomolmo.training.order import Order
from videomolmo.training.questions import asked_about, branch, names_a_side
from videomolmo.training.recipe import Data

MOST_REPLACED = 10  # unreadable clips in a row


@dataclass(frozen=True)
class Sample:
    """One frame with its past (oldest first, without black frames) and conversations about it.

    Attributes:
        frame, past: RGB.
        branches: question and answer, one pair for each branch of the message tree.
        about: position, clip, frame and expressions: enough to find it again, ready for JSON.
    """

    frame: UInt8[np.ndarray, "height width 3"]
    past: UInt8[np.ndarray, "past height width 3"]
    branches: tuple[tuple[str, str], ...]
    about: dict[str, Any] = field(default_factory=dict)


class Samples:
    """Sample after sample without end; the one at a position is the same on every machine and in every process.

    A unit of data is a clip: records of the same clip in a set (VideoMolmo's rows have one expression each) belong
    together, so that their questions share frames. An epoch sees each clip once, at a random frame.

    Args:
        data: which sets, and how samples are made.
        context: most past frames; 0 for none.
        seed: of the run.

    Raises:
        BadInput: a set cannot be read, or nothing in it can be asked.
    """

    def __init__(self, data: Data, context: int, seed: int) -> None:
        self.data, self.context, self.seed = data, context, seed
        self.sets = [read_dataset(one.name, one.path, one.split, **one.options) for one in data.sets]
        self.units: list[tuple[int, tuple[int, ...]]] = []
        self._names: list[tuple[int, str, int]] = []
        for number, (source, records) in enumerate(zip(data.sets, self.sets, strict=True)):
            clips: dict[str, list[int]] = {}
            for place, record in enumerate(records):
                if any(expression.objects is not None for expression in record.expressions):
                    clips.setdefault(record.clip, []).append(place)
            if not clips:
                raise BadInput(f"{source.name} {source.split}: no expression with known objects; train on another set")
            self.units += [(number, tuple(places)) for places in clips.values()] * source.repeat
            self._names += [(number, clip, len(places)) for clip, places in clips.items()]
        self.order = Order(len(self.units), seed)

    def __reduce__(self):
        return Samples, (self.data, self.context, self.seed)  # records hold functions: a new process reads anew

    def __len__(self) -> int:
        """Samples of one epoch."""
        return len(self.units)

    def mark(self) -> str:
        """A hash of which clips there are, in which order, with how many records: it changes when data come or go."""
        return key_of({"clips": self._names})

    def __getitem__(self, position: int) -> Sample:
        """The sample at a position from 0 on.

        Raises:
            BadInput: the clip cannot be read, or no frame of it can be asked about.
        """
        rng, replaced = self.order.rng(position), []
        while True:
            number, places = self.units[self.order.unit(position + len(replaced))]
            records = [self.sets[number][place] for place in places]
            try:
                return self._draw(rng, records, position, replaced)
            except (BadInput, OSError) as error:
                replaced.append(f"{records[0]}: {error}")
                if self.data.broken == "stop":
                    raise BadInput(
                        f"sample {position}, {replaced[-1]}; mend the data, or set data.broken to 'replace'"
                    ) from error
                if len(replaced) == MOST_REPLACED:
                    raise BadInput(f"{MOST_REPLACED} clips in a row cannot be read, the last: {error}") from error

    def _draw(self, rng: np.random.Generator, records: list[Record], position: int, replaced: list[str]) -> Sample:
        """A random frame that something can be asked about, and questions about it."""
        candidates = _frames_of(records)
        names = list(candidates)
        for index in rng.permutation(len(names)):
            places = candidates[names[index]]
            asked = [one for record, frame in places for one in asked_about(record, frame)]
            if asked:
                break
        else:
            raise BadInput("has no frame on which an object is known by points or a mask")
        chosen = rng.permutation(len(asked))[: self.data.questions]
        asked = [asked[one] for one in chosen]
        frames = self._look(rng, *places[0])
        mirror = bool(rng.random() < self.data.mirror) and not names_a_side(asked)
        frames = _changed(rng, frames, mirror, self.data)
        size = frames.shape[1:3]
        pairs = tuple(branch(rng, one, size, self.data.templates, self.data.jitter_pct, mirror) for one in asked)
        record, frame = places[0]
        about = {
            "position": position, "dataset": record.dataset, "split": record.split, "clip": record.clip,
            "frame": int(frame), "past": len(frames) - 1, "mirrored": mirror,
            "expressions": [one.expression.id for one in asked], "branches": [list(pair) for pair in pairs],
        }  # fmt: skip
        return Sample(frames[-1], frames[:-1], pairs, about | ({"replaced": replaced} if replaced else {}))

    def _look(self, rng: np.random.Generator, record: Record, frame: int) -> UInt8[np.ndarray, "frames height width 3"]:
        """The frame, last, after those before it; only these are decoded."""
        numbers = [frame - back * self.data.stride for back in range(self.context, 0, -1)]
        numbers = [number for number in numbers if number >= 0]
        early = rng.random() < self.data.early
        if early and numbers:
            numbers = numbers[int(rng.integers(1, len(numbers) + 1)) :]
        with record.frames() as video:
            return np.stack([video[number] for number in (*numbers, frame)])


def _frames_of(records: Sequence[Record]) -> dict[str, list[tuple[Record, int]]]:
    """Name of each frame to the records that have it, with their own numbers for it."""
    frames: dict[str, list[tuple[Record, int]]] = {}
    for record in records:
        names = record.frame_names
        if not names:
            with record.frames() as video:
                names = tuple(map(str, range(len(video))))
        for number, name in enumerate(names):
            frames.setdefault(name, []).append((record, number))
    return frames


def _changed(
    rng: np.random.Generator, frames: UInt8[np.ndarray, "frames height width 3"], mirror: bool, data: Data
) -> UInt8[np.ndarray, "frames height width 3"]:
    """Frames mirrored, lighter or darker, with more or less contrast; all alike."""
    if mirror:
        frames = frames[:, :, ::-1]
    light, contrast = (1 + rng.uniform(-most, most) for most in (data.brightness, data.contrast))
    if data.brightness or data.contrast:
        mean = frames.mean(dtype=np.float32)
        frames = np.clip(((frames - mean) * contrast + mean) * light + 0.5, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(frames)
