"""Where the time of a run goes: seconds of each part, none counted twice; and, of a profile, the moments of each."""

from __future__ import annotations

import json
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

Item = TypeVar("Item")


class Stage(NamedTuple):
    """A method whose calls count to a part of the work; `part` may be a function of its arguments instead."""

    owner: Any
    method: str
    part: str | Callable[..., str]


class Stopwatch:
    """Adds up the seconds of named parts; while an inner part runs, the outer one stands still.

    A name such as "masks/fusion" is a part of "masks". On a GPU, work counts where it is waited for.

    Attributes:
        seconds: of each part so far.

    Example:
        >>> clock = Stopwatch()
        >>> with clock.measure("masks"):
        ...     frames = list(clock.each("io/decode", range(3)))
        >>> sorted(clock.rounded())
        ['io', 'masks']
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._running: list[str] = []
        self._since = 0.0

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Count what happens inside to `part`."""
        begun = self._turn()
        self._running.append(part)
        try:
            yield
        finally:
            self._ended(part, begun, self._turn())
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
        """Seconds of all parts, each with the parts of it, in milliseconds' precision."""
        self._turn()
        whole: dict[str, float] = {}
        for part, seconds in self.seconds.items():
            name = part.partition("/")[0]
            whole[name] = whole.get(name, 0.0) + seconds
        return {part: round(seconds, 3) for part, seconds in whole.items()}

    def stages(self) -> dict[str, float]:
        """What a profile tells besides; nothing here."""
        return {}

    def _turn(self) -> float:
        """Credit the time since the last turn to the part that is running; the time now."""
        now = time.perf_counter()
        if self._running:
            part = self._running[-1]
            self.seconds[part] = self.seconds.get(part, 0.0) + now - self._since
        self._since = now
        return now

    def _ended(self, part: str, begun: float, ended: float) -> None:
        """What a profile does with it."""


class Profile(Stopwatch):
    """A stopwatch that tells the parts of parts as well, and keeps when each ran, on the disk.

    Args:
        wait: returns when all work that was begun is done, as on a GPU.

    Example:
        >>> profile = Profile()
        >>> with profile.measure("masks/fusion"):
        ...     pass
        >>> list(profile.stages())
        ['masks/fusion']
    """

    def __init__(self, wait: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self._wait, self._begun = wait, time.perf_counter()
        self._spans = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        weakref.finalize(self, self._spans.close)
        self._counts: dict[str, int] = {}

    @contextmanager
    def timing(self, stages: Iterable[Stage]) -> Iterator[None]:
        """While this is open, calls of these methods count to their parts."""
        undo: list[tuple[dict, str, Any]] = []

        def timed(stage: Stage) -> Callable:
            method = getattr(stage.owner, stage.method)

            @wraps(method)
            def call(*args: Any, **options: Any) -> Any:
                with self.measure(stage.part(*args, **options) if callable(stage.part) else stage.part):
                    return method(*args, **options)

            return call

        try:
            for stage in stages:
                own = vars(stage.owner)
                undo.append((own, stage.method, own.get(stage.method)))
                own[stage.method] = timed(stage)
            yield
        finally:
            for own, name, before in reversed(undo):
                own.pop(name)
                own.update({} if before is None else {name: before})

    def stages(self) -> dict[str, float]:
        """Seconds of all parts; a part that has parts of its own is told without them."""
        self._turn()
        return {part: round(self.seconds[part], 4) for part in sorted(self.seconds)}

    def table(self) -> str:
        """One line for each part, the longest first: seconds, share, and how often it was begun."""
        total = sum(self.seconds.values()) or 1.0
        lines = [f"{'stage':28} {'seconds':>9} {'share':>6} {'calls':>7}"]
        for part, seconds in sorted(self.seconds.items(), key=lambda item: -item[1]):
            name = part if "/" in part else f"{part}, the rest"
            lines.append(f"{name:28} {seconds:>9.3f} {seconds / total:>6.1%} {self._counts.get(part, 0):>7}")
        return "\n".join(lines)

    def write_trace(self, path: Path) -> None:
        """When each part ran, as JSON that Perfetto and chrome://tracing open."""
        self._spans.seek(0)
        with open(path, "w", encoding="utf-8") as file:
            file.write('{"displayTimeUnit": "ms", "traceEvents": [\n')
            file.write('{"ph": "M", "name": "process_name", "pid": 1, "tid": 1, "args": {"name": "videomolmo"}}')
            for line in self._spans:
                file.write(f",\n{line.rstrip()}")
            file.write("\n]}\n")
        self._spans.seek(0, 2)

    def _turn(self) -> float:
        self._wait()
        return super()._turn()

    def _ended(self, part: str, begun: float, ended: float) -> None:
        self._counts[part] = self._counts.get(part, 0) + 1
        span = {"ph": "X", "name": part, "cat": part.partition("/")[0], "pid": 1, "tid": 1}
        span |= {"ts": round(1e6 * (begun - self._begun), 1), "dur": round(1e6 * (ended - begun), 1)}
        self._spans.write(json.dumps(span) + "\n")
