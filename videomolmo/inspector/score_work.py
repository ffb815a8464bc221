"""J&F of what is looked at, computed beside the notebook: seconds on a long clip, and anew for each τ."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from videomolmo.inspector.inspection import Inspection, Scores
from videomolmo.inspector.scoring import score
from videomolmo.inspector.widget_work import Work


class _Outdated(Exception):
    """The masks that are scored are no longer believed."""


class ScoreWork:
    """Scores when they are there, one result after the other, from a thread that reads masks and compares them.

    Where what is believed changes meanwhile, the thread ends and its scores are not told.

    Attributes:
        told: functions called when scores came, or must be asked for anew.
    """

    def __init__(self) -> None:
        self.told: list[Callable[[], None]] = []
        self._work = Work()
        self._known: dict[int, tuple[Inspection, int, Scores | None]] = {}

    def of(self, one: Inspection) -> Scores | None:
        """Those of the masks that are believed now; None without truth, or while they are computed."""
        if one.truth is None:
            return None
        if not self._has(one) and not self._work.busy:
            version = one.version
            job = partial(self._score, one, one.objects, version)
            self._work.start(job, lambda *_: None, partial(self._done, one, version))
        return self._known[id(one)][2] if self._has(one) else None

    def now(self, one: Inspection) -> Scores | None:
        """As `of`, but waits for them."""
        if one.truth is not None and not self._has(one):
            self._known[id(one)] = one, one.version, one.scores()
        return self.of(one)

    def waits(self) -> bool:
        """Whether any scores are being computed."""
        return self._work.busy

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
        outdated = isinstance(error, _Outdated)
        if not outdated:
            self._known[id(one)] = one, version, scores
        for tell in self.told:
            tell()
        if error is not None and not outdated:
            raise error
