"""Differences of two results, computed beside the notebook: they need every mask of both, seconds on a long clip."""

from collections.abc import Callable

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

    def of(self, differences: Differences) -> Differences | None:
        """The same, once they are known; None while they are computed."""
        if not differences.known and not self._work.busy:
            self._work.start(lambda *_: differences.compute(), lambda *_: None, self._done)
        return differences if differences.known else None

    def waits(self) -> bool:
        """Whether any are being computed."""
        return self._work.busy

    def _done(self, _: None, error: BaseException | None) -> None:
        for tell in self.told:
            tell()
        if error is not None:
            raise error
