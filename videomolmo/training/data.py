"""Training samples: questions about annotated objects, in a seeded order, loaded ahead."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from videomolmo.annotation.annotate import SMALLEST
from videomolmo.annotation.candidate_points import deepest_pixel
from videomolmo.datasets import Record, read_dataset
from videomolmo.datasets.record import Expression
from videomolmo.errors import BadInput
from videomolmo.io.cache import key_of
from videomolmo.io.workers import no_more_processes
from videomolmo.model import VideoMolmoProcessor
from videomolmo.model.processor import collate
from videomolmo.points import write_points
from videomolmo.protocols import TEMPLATES, as_question, label_of
from videomolmo.training.recipe import Data

SIDES = re.compile(r"\b(left|right|left(most|wards?)|right(most|wards?)|(anti-?|counter)?clockwise)\b", re.I)
MAX_TRIES = 20  # draws of a noisy point before the true one is kept


@dataclass(frozen=True)
class TargetPoint:
    """A ground-truth point in pixels, and the mask it lies in where there is one."""

    point: Float[np.ndarray, "2"]
    mask: Bool[np.ndarray, "height width"] | None = None


@dataclass(frozen=True)
class Query:
    """An expression on one frame, with the points it names; none where it names nothing there."""

    expression: Expression
    targets: tuple[TargetPoint, ...]


def queries_on(record: Record, frame: int) -> list[Query]:
    """Every expression of a record whose objects are all settled on this frame.

    An object is settled by the set's own points, else by its mask: the deepest pixel, or "not there" for an empty
    one. Slivers of fewer than 16 pixels settle nothing, nor do boxes.
    """
    found: dict[str, list[TargetPoint] | None] = {}
    queries = []
    for expression in record.expressions:
        inside = expression.span is None or expression.span[0] <= frame < expression.span[1]
        if expression.objects is None or not inside:
            continue
        for object_id in expression.objects:
            if object_id not in found:
                found[object_id] = _targets(record, object_id, frame)
        targets = [found[object_id] for object_id in expression.objects]
        if all(one is not None for one in targets):
            queries.append(Query(expression, tuple(target for one in targets for target in one)))
    return queries


def _targets(record: Record, object_id: str, frame: int) -> list[TargetPoint] | None:
    """Target points of an object; None where they are unknown."""
    points = record.points_of(object_id, frame)
    if points is not None:
        return [TargetPoint(point.astype(np.float64)) for point in points]
    mask = record.mask_of(object_id, frame)
    if mask is None or 0 < mask.sum() < SMALLEST:
        return None
    return [TargetPoint(deepest_pixel(mask) + 0.5, mask)] if mask.any() else []


def is_direction_sensitive(queries: list[Query]) -> bool:
    """Whether a mirror image would make one of the questions wrong."""
    return any(SIDES.search(query.expression.text) for query in queries)


def jitter_point(
    rng: np.random.Generator, target: TargetPoint, jitter_pct: float, size: tuple[int, int]
) -> Float[np.ndarray, "2"]:
    """A target's point with Gaussian noise, inside the frame and inside its mask."""
    height, width = size
    edge = np.array([width, height], dtype=np.float64)
    true = np.clip(target.point, 0, edge)
    for _ in range(MAX_TRIES if jitter_pct else 0):
        point = true + rng.normal(0, jitter_pct / 100, 2) * edge
        column, row = np.floor(point).astype(int)
        inside = 0 <= row < height and 0 <= column < width
        if inside and (target.mask is None or target.mask[row, column]):
            return point
    return true


def qa_branch(
    rng: np.random.Generator,
    one: Query,
    size: tuple[int, int],
    templates: bool = True,
    jitter_pct: float = 0.0,
    mirrored: bool = False,
) -> tuple[str, str]:
    """Question and answer of an expression on a frame.

    Args:
        rng: random generator, for the template and the noise.
        one: what is asked.
        size: height and width of the frame.
        templates: whether a noun phrase is asked for in one of forty ways; whole questions stay as they are.
        jitter_pct: see `jitter_point`.
        mirrored: whether the frame was mirrored left to right.

    Example:
        >>> target = TargetPoint(np.array([32.0, 12.0]))
        >>> qa_branch(np.random.default_rng(0), Query(Expression("0", "the dog", ("1",)), (target,)), (48, 64), False)
        ('Point to the dog.', '<point x="50.0" y="25.0" alt="dog">dog</point>')
    """
    text = " ".join(one.expression.text.split())
    question = as_question(text)
    if question != text and templates:
        question = TEMPLATES[rng.integers(len(TEMPLATES))].format(p=text.rstrip(".!?"))
    points = np.array([jitter_point(rng, target, jitter_pct, size) for target in one.targets]).reshape(-1, 2)
    if mirrored:
        points[:, 0] = size[1] - points[:, 0]
    return question, write_points(points, label_of(text), *size)


MAX_REPLACED = 10  # unreadable clips in a row


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
        self.sampler = Sampler(len(self.units), seed)

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
        rng, replaced = self.sampler.rng(position), []
        while True:
            number, places = self.units[self.sampler.unit(position + len(replaced))]
            records = [self.sets[number][place] for place in places]
            try:
                return self._draw(rng, records, position, replaced)
            except (BadInput, OSError) as error:
                replaced.append(f"{records[0]}: {error}")
                if not self._may_replace(error):
                    raise BadInput(
                        f"sample {position}, {replaced[-1]}; mend the data, or set data.on_error to 'replace'"
                    ) from error
                if len(replaced) == MAX_REPLACED:
                    raise BadInput(f"{MAX_REPLACED} clips in a row cannot be read, the last: {error}") from error

    def _may_replace(self, error: Exception) -> bool:
        """Whether the next clip may stand in for one that cannot be had."""
        return self.data.on_error == "replace"

    def _draw(self, rng: np.random.Generator, records: list[Record], position: int, replaced: list[str]) -> Sample:
        """A random frame that something can be asked about, and questions about it."""
        candidates = _frames_of(records)
        names = list(candidates)
        for index in rng.permutation(len(names)):
            places = candidates[names[index]]
            queries = [query for record, frame in places for query in queries_on(record, frame)]
            if queries:
                break
        else:
            raise BadInput("has no frame on which an object is known by points or a mask")
        chosen = rng.permutation(len(queries))[: self.data.questions]
        queries = [queries[number] for number in chosen]
        frames = self._look(rng, *places[0])
        mirror = bool(rng.random() < self.data.mirror) and not is_direction_sensitive(queries)
        frames = _changed(rng, frames, mirror, self.data)
        size = frames.shape[1:3]
        pairs = tuple(qa_branch(rng, one, size, self.data.templates, self.data.jitter_pct, mirror) for one in queries)
        record, frame = places[0]
        about = {
            "position": position, "dataset": record.dataset, "split": record.split, "clip": record.clip,
            "frame": int(frame), "past": len(frames) - 1, "mirrored": mirror,
            "expressions": [one.expression.id for one in queries], "branches": [list(pair) for pair in pairs],
        }  # fmt: skip
        return Sample(frames[-1], frames[:-1], pairs, about | ({"replaced": replaced} if replaced else {}))

    def _look(self, rng: np.random.Generator, record: Record, frame: int) -> UInt8[np.ndarray, "frames height width 3"]:
        """The frame, last, after those before it; only these are decoded."""
        numbers = [frame - back * self.data.stride for back in range(self.context, 0, -1)]
        numbers = [number for number in numbers if number >= 0]
        at_start = rng.random() < self.data.start_prob
        if at_start and numbers:
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


ORDER, SAMPLE = 7, 11  # keep the random streams of order and of samples apart


@dataclass(frozen=True)
class Sampler:
    """Sample after sample without end: epoch after epoch, each in an order of its own.

    Args:
        count: units of data that an epoch goes through, each once.
        seed: of the run.
    """

    count: int
    seed: int

    def unit(self, position: int) -> int:
        """The unit of the sample at `position`.

        Example:
            >>> sorted(Sampler(5, seed=1).unit(position) for position in range(5, 10))
            [0, 1, 2, 3, 4]
        """
        epoch, place = divmod(position, self.count)
        return int(_shuffled(self.count, self.seed, epoch)[place])

    def rng(self, position: int) -> np.random.Generator:
        """The random generator of the sample at `position`."""
        return np.random.default_rng([self.seed, SAMPLE, position])


@lru_cache(maxsize=2)
def _shuffled(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, ORDER, epoch]).permutation(count)


@dataclass(frozen=True)
class DistributedBatchSampler:
    """Which positions of a step's batch a process computes, pass by pass.

    Args:
        batch: samples of a step on all processes together.
        micro_batch: samples of one pass.
        processes, process: how many there are, and which one this is.
    """

    batch: int
    micro_batch: int
    processes: int
    process: int

    @property
    def passes(self) -> int:
        """Forward and backward passes of each process in a step."""
        return self.batch // (self.micro_batch * self.processes)

    def positions(self, step: int, number: int) -> range:
        """Positions of pass `number` of a step.

        Example:
            >>> DistributedBatchSampler(8, 2, processes=2, process=1).positions(step=3, number=1)
            range(30, 32)
        """
        first = step * self.batch + (number * self.processes + self.process) * self.micro_batch
        return range(first, first + self.micro_batch)


PREFETCHED = 2  # micro-batches that wait for each worker


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass gets, and what it is made of."""

    tensors: dict[str, Tensor]
    about: list[dict[str, Any]]


class MicroBatches(Dataset):
    """The passes of one process from step `start` on, up to the end of step `stop` - 1."""

    def __init__(
        self, samples: Samples, processor: VideoMolmoProcessor, sampler: DistributedBatchSampler, start: int, stop: int
    ) -> None:
        self.samples, self.processor, self.sampler = samples, processor, sampler
        self.start, self.stop = start, stop

    def __len__(self) -> int:
        return (self.stop - self.start) * self.sampler.passes

    def __getitem__(self, number: int) -> MicroBatch | BadInput:
        """One pass; or why it cannot be, for `dataloader` to raise: a worker's own would bring its traceback along."""
        step, turn = divmod(number, self.sampler.passes)
        try:
            drawn = [self.samples[position] for position in self.sampler.positions(self.start + step, turn)]
            return MicroBatch(self.tensors(drawn), [one.about for one in drawn])
        except BadInput as error:
            return BadInput(str(error))

    def tensors(self, drawn: list[Sample]) -> dict[str, Tensor]:
        """What the loss module gets of some samples."""
        example = self.processor.training_example
        return collate([example(one.frame, [list(pair) for pair in one.branches], one.past) for one in drawn])


def dataloader(batches: MicroBatches, workers: int) -> Iterator[MicroBatch]:
    """Iterate over micro-batches in order; close the iterator to end its workers.

    What a sample is depends on its position alone, so the number of workers changes nothing but the speed. At most
    `workers` × `PREFETCHED` micro-batches wait in memory. Where the system gives no further process, as without shared
    memory, a line on standard error says so, and this one decodes.

    Args:
        batches: of this process.
        workers: processes that decode; 0 decodes when asked.

    Raises:
        BadInput: a sample cannot be made; its workers have ended then.
    """
    if workers:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if workers and no_more_processes("train"):
        workers = 0
    loaded = iter(
        DataLoader(
            batches, batch_size=None, shuffle=False, num_workers=workers,
            prefetch_factor=PREFETCHED if workers else None, worker_init_fn=_ignore_signals,
            generator=torch.Generator().manual_seed(batches.samples.seed),
        )
    )  # fmt: skip
    try:
        for micro in loaded:
            if isinstance(micro, BadInput):
                raise micro
            yield micro
    finally:
        del loaded  # now, whoever keeps the error and what it holds: with it, workers end


@contextmanager
def worker_deaths_as_bad_input(workers: int) -> Iterator[None]:
    """While `dataloader` is iterated: BadInput where a worker dies, which torch raises wherever the process is."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise BadInput(
            f"train: one of {workers} processes that read data died ({str(error).splitlines()[0]}), perhaps for want "
            "of memory; run it again to go on from the last checkpoint, with fewer run.workers or 0"
        ) from error


def _ignore_signals(worker: int) -> None:
    """Workers leave Ctrl-C to their training process, which saves first and then ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
