"""Where the time of a run goes: seconds of each part, none counted twice."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


class Stopwatch:
    """Adds up the seconds of named parts; while an inner part runs, the outer one stands still.

    On a GPU, work counts where it is waited for.

    Attributes:
        seconds: of each part so far.

    Example:
        >>> clock = Stopwatch()
        >>> with clock.measure("masks"):
        ...     frames = list(clock.each("io", range(3)))
        >>> sorted(clock.seconds)
        ['io', 'masks']
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._running: list[str] = []
        self._since = 0.0

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Count what happens inside to `part`."""
        self._turn()
        self._running.append(part)
        try:
            yield
        finally:
            self._turn()
            self._running.pop()

    def each(self, part: str, items: Iterable[Item]) -> Iterator[Item]:
        """The items, with the time it takes to get each counted to `part`."""
        source, end = iter(items), object()
        while True:
            with self.measure(part):
                item = next(source, end)
            if item is end:
                return
            yield item

    def rounded(self) -> dict[str, float]:
        """Seconds of all parts, in milliseconds' precision."""
        return {part: round(seconds, 3) for part, seconds in self.seconds.items()}

    def _turn(self) -> None:
        """Credit the time since the last turn to the part that is running."""
        now = time.perf_counter()
        if self._running:
            part = self._running[-1]
            self.seconds[part] = self.seconds.get(part, 0.0) + now - self._since
        self._since = now
