"""Work beside the kernel: debounced calls, background tasks, scoring."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from videomolmo.inspector.compare import Differences
from videomolmo.inspector.ground_truth import score
from videomolmo.inspector.inspection import Inspection, Scores

if TYPE_CHECKING:
    from ipywidgets import Widget


QUIET_S, MAX_WAIT_S = 1.5, 60.0


def _loop() -> asyncio.AbstractEventLoop | None:
    """The loop that the kernel's messages arrive in; None in a script, where everything is done at once."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def close_all(widget: "Widget") -> None:
    """Close a widget and all that belong to it; until then ipywidgets keeps every one, with whatever it calls."""
    from ipywidgets import Widget

    waiting = [widget]
    while waiting:
        one = waiting.pop()
        values = [getattr(one, name) for name in one.keys]
        parts = [part for value in values for part in (value if isinstance(value, (list, tuple)) else (value,))]
        waiting += [part for part in parts if isinstance(part, Widget)]
        one.close()


def notify(listeners: list[Callable[[], None]]) -> None:
    """Call all of them."""
    for listener in listeners:
        listener()


class Debounced:
    """Runs a function soon, and once, however often it is called meanwhile; at once where there is no loop."""

    def __init__(self, work: Callable[[], None], seconds: float = 0.08) -> None:
        self._work, self._seconds = work, seconds
        self._waiting = False

    def __call__(self) -> None:
        loop = _loop()
        if loop is None:
            self._work()
        elif not self._waiting:
            self._waiting = True
            loop.call_later(self._seconds, self._do)

    def _do(self) -> None:
        self._waiting = False
        self._work()


def is_interactive() -> bool:
    """Whether a person runs this cell: programs that run notebooks can answer no question, and tell the kernel so."""
    from IPython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)
    if kernel is None:
        return False
    return bool((kernel.get_parent() or {}).get("content", {}).get("allow_stdin"))


def on_idle(work: Callable[[], None], asked_at: Callable[[], float], waits: Callable[[], bool] = lambda: False) -> None:
    """Run a function once the user did nothing for `QUIET_S`, or after `MAX_WAIT_S`; at once where there is no loop.

    Args:
        work: what to do.
        asked_at: `time.monotonic()` of what the user did last; 0 before that.
        waits: whether something is under way that `work` needs.
    """
    loop, begun = _loop(), time.monotonic()

    def look() -> None:
        now = time.monotonic()
        if now - begun > MAX_WAIT_S or (asked_at() and now - asked_at() > QUIET_S and not waits()):
            work()
        else:
            loop.call_later(QUIET_S / 4, look)

    work() if loop is None else look()


class BackgroundTask:
    """One long job at a time, in a thread of its own; its news come back where widgets may be touched.

    Attributes:
        busy: whether a job runs.
        turned: functions called after a job began, and after one ended and its outcome was taken up.
    """

    def __init__(self) -> None:
        self.busy = False
        self.listeners: list[Callable[[], None]] = []
        self._stop = threading.Event()

    def cancel(self) -> None:
        """Ask the job to stop; it does where it next looks."""
        self._stop.set()

    def start(
        self,
        job: Callable[[Callable[[int, int], None], Callable[[], bool]], Any],
        news: Callable[[int, int], None],
        done: Callable[[Any, BaseException | None], None],
    ) -> None:
        """Run `job(progress, cancel)`; then `done(value, None)`, or `done(None, error)`.

        Args:
            job: calls `progress(steps, of)` as it goes, and ends where `cancel()` is true.
            news: gets the progress.
            done: gets the outcome.
        """
        loop = _loop()
        self.busy = True
        self._stop.clear()
        notify(self.listeners)
        back = (lambda act, *args: act(*args)) if loop is None else loop.call_soon_threadsafe

        def end(value: Any, error: BaseException | None) -> None:
            self.busy = False
            try:
                done(value, error)
            finally:
                notify(self.listeners)

        def run() -> None:
            try:
                value = job(lambda steps, of: back(news, steps, of), self._stop.is_set)
            except Exception as error:  # whatever it is, the user sees it
                back(end, None, error)
            else:
                back(end, value, None)

        if loop is None:
            run()
        else:
            threading.Thread(target=run, name="videomolmo inspector", daemon=True).start()


class _Outdated(Exception):
    """The masks that are scored are no longer shown."""


class _Task:
    """Something that a thread computes; `listeners` are called when it came, or must be asked for again."""

    def __init__(self) -> None:
        self.listeners: list[Callable[[], None]] = []
        self._work = BackgroundTask()

    def waits(self) -> bool:
        """Whether any is being computed."""
        return self._work.busy

    def _start(self, job: Callable[..., Any], done: Callable[[Any, BaseException | None], None]) -> None:
        self._work.start(job, lambda *_: None, partial(self._end, done))

    def _end(self, done: Callable[..., None], found: Any, error: BaseException | None) -> None:
        done(found, error)
        notify(self.listeners)
        if error is not None and not isinstance(error, _Outdated):
            raise error


class ScoreTask(_Task):
    """Scores when they are there, one result after the other, from a thread that reads masks and compares them.

    Where the masks change meanwhile, the thread ends and its scores are dropped.
    """

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[int, tuple[Inspection, int, Scores | None]] = {}

    def of(self, one: Inspection) -> Scores | None:
        """Those of the masks that are shown now; None without truth, or while they are computed."""
        if one.truth is None:
            return None
        if not self._has(one) and not self._work.busy:
            version = one.version
            self._start(partial(self._score, one, one.objects, version), partial(self._done, one, version))
        return self._known[id(one)][2] if self._has(one) else None

    def now(self, one: Inspection) -> Scores | None:
        """As `of`, but waits for them."""
        if one.truth is not None and not self._has(one):
            self._known[id(one)] = one, one.version, one.scores()
        return self.of(one)

    def _has(self, one: Inspection) -> bool:
        kept = self._known.get(id(one))
        return kept is not None and kept[0] is one and kept[1] == one.version

    def _mask(self, one: Inspection, version: int, t: int) -> np.ndarray | None:
        if one.version != version or self._has(one):
            raise _Outdated
        return one.mask("fused", t)

    def _score(self, one: Inspection, objects: int, version: int, *_: Any) -> Scores:
        return score(one.truth, partial(self._mask, one, version), objects, one.frames)

    def _done(self, one: Inspection, version: int, scores: Scores | None, error: BaseException | None) -> None:
        if not isinstance(error, _Outdated):
            self._known[id(one)] = one, version, scores


class CompareTask(_Task):
    """Differences when they are there, from a thread; where the masks change meanwhile, they are dropped."""

    def __init__(self) -> None:
        super().__init__()
        self._failed: tuple[Differences, tuple[int, int]] | None = None

    def of(self, differences: Differences) -> Differences | None:
        """The same, once they are known; None while they are computed."""
        asked = differences, differences.state
        if not differences.known and not self._work.busy and asked != self._failed:  # what failed once fails again
            self._start(lambda *_: differences.compute(), partial(self._done, asked))
        return differences if differences.known else None

    def _done(self, asked: tuple[Differences, tuple[int, int]], _: None, error: BaseException | None) -> None:
        self._failed = None if error is None else asked
