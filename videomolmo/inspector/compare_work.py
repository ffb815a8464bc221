"""Differences of two results, computed beside the notebook: they need every mask of both, seconds on a long clip."""

from collections.abc import Callable
from functools import partial

from videomolmo.inspector.differences import Differences
from videomolmo.inspector.widget_work import Work


class CompareWork:
    """Differences when they are there, from a thread; where what is believed changes meanwhile, nothing comes of it.

    Attributes:
        told: functions called when they came, or must be asked for again.
    """

    def __init__(self) -> None:
        self.told: list[Callable[[], None]] = []
        self._work = Work()
        self._failed: tuple[Differences, tuple[int, int]] | None = None

    def of(self, differences: Differences) -> Differences | None:
        """The same, once they are known; None while they are computed."""
        asked = differences, differences.state
        if not differences.known and not self._work.busy and asked != self._failed:  # what failed once fails again
            self._work.start(lambda *_: differences.compute(), lambda *_: None, partial(self._done, asked))
        return differences if differences.known else None

    def waits(self) -> bool:
        """Whether any are being computed."""
        return self._work.busy

    def _done(self, asked: tuple[Differences, tuple[int, int]], _: None, error: BaseException | None) -> None:
        self._failed = None if error is None else asked
        for tell in self.told:
            tell()
        if error is not None:
            raise error
