"""Micro-batches in order, decoded on demand by worker processes; a few wait, no more."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from videomolmo.errors import BadInput
from videomolmo.model import PointingProcessor
from videomolmo.model.processor import collate
from videomolmo.training.order import Slices
from videomolmo.training.samples import Samples
from videomolmo.workers import no_more_processes

PREFETCHED = 2  # micro-batches that wait for each worker


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass gets, and what it is made of."""

    tensors: dict[str, Tensor]
    about: list[dict[str, Any]]


class MicroBatches(Dataset):
    """The passes of one process from step `start` on, up to the end of step `stop` - 1."""

    def __init__(self, samples: Samples, processor: PointingProcessor, slices: Slices, start: int, stop: int) -> None:
        self.samples, self.processor, self.slices = samples, processor, slices
        self.start, self.stop = start, stop

    def __len__(self) -> int:
        return (self.stop - self.start) * self.slices.passes

    def __getitem__(self, number: int) -> MicroBatch | BadInput:
        """One pass; or why it cannot be, for `feed` to raise: a worker's own error would come with its traceback."""
        step, turn = divmod(number, self.slices.passes)
        try:
            drawn = [self.samples[position] for position in self.slices.positions(self.start + step, turn)]
            examples = [
                self.processor.training_example(one.frame, [list(pair) for pair in one.branches], one.past)
                for one in drawn
            ]
        except BadInput as error:
            return BadInput(str(error))
        return MicroBatch(collate(examples), [one.about for one in drawn])


def feed(batches: MicroBatches, workers: int) -> Iterator[MicroBatch]:
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
            prefetch_factor=PREFETCHED if workers else None, worker_init_fn=_settle,
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
def deaths_told(workers: int) -> Iterator[None]:
    """While `feed` is iterated: a worker that dies, which torch says wherever the training process is, as bad input."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise BadInput(
            f"train: one of {workers} processes that read data died ({str(error).splitlines()[0]}), perhaps for want "
            "of memory; run it again to go on from the last checkpoint, with fewer run.workers or 0"
        ) from error


def _settle(worker: int) -> None:
    """Workers leave Ctrl-C to their training process, which saves first and then ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
