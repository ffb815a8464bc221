"""Long work beside a notebook that stays usable, and small work that is not done more often than needed."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ipywidgets import Widget


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


class Later:
    """Does something soon, and once, however often it is asked for meanwhile; at once where there is no loop."""

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


def somebody_watches() -> bool:
    """Whether a person runs this cell: programs that run notebooks can answer no question, and tell the kernel so."""
    from IPython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)
    if kernel is None:
        return False
    return bool((kernel.get_parent() or {}).get("content", {}).get("allow_stdin"))


def when_quiet(
    work: Callable[[], None],
    asked_at: Callable[[], float],
    waits: Callable[[], bool] = lambda: False,
    quiet_s: float = 1.5,
    latest_s: float = 60.0,
) -> None:
    """Do something once, when the user did nothing for a while, or never came; at once where there is no loop.

    Args:
        work: what to do.
        asked_at: `time.monotonic()` of what the user did last; 0 before that.
        waits: whether something is under way that `work` needs.
        quiet_s: how long nothing happened.
        latest_s: after so long it is done whatever happens.
    """
    loop, begun = _loop(), time.monotonic()

    def look() -> None:
        now = time.monotonic()
        if now - begun > latest_s or (asked_at() and now - asked_at() > quiet_s and not waits()):
            work()
        else:
            loop.call_later(quiet_s / 4, look)

    work() if loop is None else look()


class Work:
    """One long job at a time, in a thread of its own; its news come back where widgets may be touched.

    Attributes:
        busy: whether a job runs.
        turned: functions called after a job began, and after one ended and its outcome was taken up.
    """

    def __init__(self) -> None:
        self.busy = False
        self.turned: list[Callable[[], None]] = []
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
        self._tell()
        back = (lambda act, *args: act(*args)) if loop is None else loop.call_soon_threadsafe

        def end(value: Any, error: BaseException | None) -> None:
            self.busy = False
            try:
                done(value, error)
            finally:
                self._tell()

        def run() -> None:
            try:
                value = job(lambda steps, of: back(news, steps, of), self._stop.is_set)
            except Exception as error:  # whatever it is, the user is told
                back(end, None, error)
            else:
                back(end, value, None)

        if loop is None:
            run()
        else:
            threading.Thread(target=run, name="videomolmo inspector", daemon=True).start()

    def _tell(self) -> None:
        for tell in self.turned:
            tell()
