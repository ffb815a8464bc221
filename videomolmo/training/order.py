"""The global order of samples: a function of seed and position alone, however many processes share the work."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

ORDER, SAMPLE = 7, 11  # keep the random streams of order and of samples apart


@dataclass(frozen=True)
class Order:
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
            >>> sorted(Order(5, seed=1).unit(position) for position in range(5, 10))
            [0, 1, 2, 3, 4]
        """
        epoch, place = divmod(position, self.count)
        return int(_shuffled(self.count, self.seed, epoch)[place])

    def rng(self, position: int) -> np.random.Generator:
        """Chance for everything that is drawn for the sample at `position`."""
        return np.random.default_rng([self.seed, SAMPLE, position])


@lru_cache(maxsize=2)
def _shuffled(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, ORDER, epoch]).permutation(count)


@dataclass(frozen=True)
class Slices:
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
            >>> Slices(8, 2, processes=2, process=1).positions(step=3, number=1)
            range(30, 32)
        """
        first = step * self.batch + (number * self.processes + self.process) * self.micro_batch
        return range(first, first + self.micro_batch)
