"""Seconds of each part of a run: every moment counted once, to the innermost part; and what a profile keeps of them."""

from __future__ import annotations

import json

import pytest

from videomolmo.io import timing
from videomolmo.io.timing import Profile, Stage, Stopwatch


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


class Worker:
    """Stands for a model: its parts take known time."""

    def __init__(self, now: list[float]) -> None:
        self.now = now

    def outer(self) -> str:
        self.now[0] += 1
        return self.inner(2)

    def inner(self, seconds: int) -> str:
        self.now[0] += seconds
        return f"{seconds} s"


def test_a_profile_times_methods_while_it_is_told_to_and_leaves_no_trace_in_them(now, tmp_path) -> None:
    profile, worker = Profile(), Worker(now)
    worker.inner = worker.inner  # its own, as where another library has put something there
    before = dict(vars(worker))
    with pytest.raises(ValueError, match="inside"), profile.measure("masks"):
        stages = [Stage(worker, "outer", "masks/a"), Stage(worker, "inner", lambda seconds: f"masks/{seconds}")]
        with profile.timing(stages):
            assert worker.outer() == "2 s" and worker.inner(4) == "4 s"
            raise ValueError("inside")
    assert vars(worker) == before and worker.outer() == "2 s"
    assert profile.stages() == {"masks": 0, "masks/2": 2, "masks/4": 4, "masks/a": 1}
    assert profile.rounded() == {"masks": 7}
    assert [line.split()[:1] for line in profile.table().splitlines()[1:3]] == [["masks/4"], ["masks/2"]]

    profile.write_trace(tmp_path / "trace.json")
    with profile.measure("saving"):
        now[0] += 1
    profile.write_trace(tmp_path / "later.json")
    spans = {event["name"]: event for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]}
    assert spans.keys() == {"process_name", "masks", "masks/a", "masks/2", "masks/4"}
    assert (spans["masks/2"]["ts"], spans["masks/2"]["dur"]) == (1e6, 2e6)  # microseconds
    assert (spans["masks/a"]["ts"], spans["masks/a"]["dur"]) == (0, 3e6)  # what is inside is seen inside
    assert len(json.loads((tmp_path / "later.json").read_text())["traceEvents"]) == 6


def test_all_work_is_waited_for_before_the_clock_is_read(now) -> None:
    def wait() -> None:
        now[0] += left.pop() if left else 0

    left, profile = [], Profile(wait)
    with profile.measure("masks"):
        left.append(3)  # begun on a GPU
        with profile.measure("text"):
            left.append(5)
    assert profile.stages() == {"masks": 3, "text": 5}
