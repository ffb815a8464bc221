"""Seconds of each part of a run: every moment counted once, to the innermost part."""

from __future__ import annotations

import pytest

from videomolmo.io import timing
from videomolmo.io.timing import Stopwatch


@pytest.fixture
def now(monkeypatch):
    """A clock that moves by hand: `now[0] += seconds`."""
    hand = [100.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: hand[0])
    return hand


def test_an_inner_part_stops_the_outer_one(now) -> None:
    clock = Stopwatch()
    with clock.measure("masks"):
        now[0] += 1
        with clock.measure("io"):
            now[0] += 2
        now[0] += 4
    now[0] += 8  # nobody's
    with clock.measure("io"):
        now[0] += 16
    assert clock.seconds == {"masks": 5.0, "io": 18.0}


def test_a_source_is_charged_for_its_items_alone(now) -> None:
    def slow():
        for number in range(3):
            now[0] += 1
            yield number

    clock = Stopwatch()
    for _ in clock.each("io", slow()):
        now[0] += 10
    assert clock.seconds == {"io": 3.0}


def test_an_error_inside_ends_the_part(now) -> None:
    clock = Stopwatch()
    with pytest.raises(ValueError, match="inside"), clock.measure("text"):
        now[0] += 1
        raise ValueError("inside")
    now[0] += 5
    with clock.measure("io"):
        pass
    assert clock.seconds == {"text": 1.0, "io": 0.0}
