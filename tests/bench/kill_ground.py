"""Kill `videomolmo ground` again and again, by SIGKILL, and see that the same command goes on to the same result.

    python tests/bench/kill_ground.py [KILLS] [SEED] [ground,several,describe,live] [FRAMES]

Each run is a process of its own, forked from this one where packages and models are loaded once. Every other one is
killed at a moment drawn at random, the others at a call drawn at random of those that change files. A live source does
not come again: of its runs that are killed, what was recorded so far is read and grounded.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from unittest import mock

import numpy as np

CALLS = ("replace", "rename", "link", "unlink", "mkdir", "rmdir", "fsync", "truncate")


def result_of(folder: Path) -> dict[str, object]:
    """Everything in a folder of results but times, to be compared."""
    return {str(path.relative_to(folder)): content(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def content(path: Path) -> object:
    """What a file says, be it made at another time."""
    from videomolmo.io.video import open_video

    if path.name == "run.json":
        return {name: value for name, value in json.loads(path.read_bytes()).items() if name != "seconds"}
    if path.suffix == ".mp4":
        with open_video(path) as frames:
            return np.stack(list(frames)).tobytes()
    return path.read_bytes()


def start(arguments: list[str], log: Path, kill_at_call: int | None = None) -> int:
    """The number of a process that runs the command, and is killed before so many calls that change files."""
    if (child := os.fork()) == 0:
        code = 70
        try:
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            if kill_at_call is not None:
                _kill_at(kill_at_call)
            from videomolmo.cli import main

            code = main(arguments)
        finally:
            os._exit(code)
    return child


def _kill_at(number: int) -> None:
    left = [number]

    def counted(function):
        def call(*given, **named):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*given, **named)

        return call

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))


def killed(arguments: list[str], log: Path, chance: random.Random, lasts: float, told: Counter) -> bool:
    """Whether a run of the command was killed, at a moment of the seconds it lasts or at a call; else it ended well."""
    by_call = chance.random() < 0.5
    process = start(arguments, log, int(10 ** chance.uniform(0, 2.7)) if by_call else None)
    if not by_call:
        time.sleep(chance.uniform(0, lasts))
        os.kill(process, signal.SIGKILL)
    was_killed = ended(process, log)
    told["killed"] += was_killed
    told["killed at a call"] += was_killed and by_call
    return was_killed


def ended(process: int, log: Path) -> bool:
    """Whether a process was killed; an AssertionError where it failed."""
    status = os.waitpid(process, 0)[1]
    assert os.WIFSIGNALED(status) or status == 0, log.read_text()
    return os.WIFSIGNALED(status)


def is_done(out: Path) -> bool:
    """Whether a result, or all of several, is whole, and nothing of its run is left to go on with."""
    is_there = (out / "run.json").exists() or (out / "results.csv").exists()
    return is_there and not any(out.parent.rglob("*.unfinished*"))


def kill_and_compare(place: Path, arguments: list[str], kills: int, seed: int) -> Counter:
    """How often a run was killed, went on and came to its end; an AssertionError where a result differs."""
    chance, out, log = random.Random(seed), place / "results" / "ground", place / "log"
    begun = time.monotonic()
    assert not ended(start(arguments, log), log)
    lasts = time.monotonic() - begun
    wanted, told = result_of(out), Counter()
    shutil.rmtree(out.parent)
    while told["killed"] < kills or not is_done(out):
        if is_done(out):
            shutil.rmtree(out.parent)
        told["went on"] += any(out.parent.rglob("*.unfinished/state.npz"))
        is_last = told["killed"] >= kills
        was_killed = ended(start(arguments, log), log) if is_last else killed(arguments, log, chance, lasts, told)
        if is_done(out):
            told["ended"] += 1
            print(dict(told), file=sys.stderr, flush=True)
            differ(result_of(out), wanted)
            names = sorted(path.name for path in out.parent.iterdir())
            assert was_killed or names == ["ground"], names
    return told


def differ(found: dict[str, object], wanted: dict[str, object]) -> None:
    """An AssertionError that names the files where two results differ."""
    assert found.keys() == wanted.keys(), found.keys() ^ wanted.keys()
    assert not (names := [name for name in wanted if found[name] != wanted[name]]), names


def kill_live(place: Path, arguments: list[str], kills: int, seed: int) -> Counter:
    """How often a live run was killed, saved and left frames; an AssertionError where those are not what came."""
    from videomolmo.errors import BadInput

    chance, out, log = random.Random(seed), place / "results" / "ground", place / "log"
    begun = time.monotonic()
    assert not ended(start(arguments, log), log)
    lasts, told, wanted = time.monotonic() - begun, Counter(), result_of(out)
    while told["killed"] < kills:
        shutil.rmtree(out.parent)
        os.lseek(0, 0, os.SEEK_SET)
        was_killed = killed(arguments, log, chance, lasts, told)
        if is_done(out):
            differ(result_of(out), wanted)
            told["saved"] += 1
        for record in out.parent.glob("ground.recorded*"):
            assert was_killed, record
            try:
                found = content(record)
            except BadInput:  # not a second yet
                continue
            assert wanted["recorded_frames.mp4"].startswith(found)
            again = ["ground", str(record), *arguments[2:], "--overwrite"]
            assert not ended(start(again, log), log)
            told["recorded and grounded"] += 1
        out.parent.mkdir(exist_ok=True)
        print(dict(told), file=sys.stderr, flush=True)
    return told


def run(kills: int, seed: int, frames: int = 60, what: str = "ground") -> Counter:
    """Kill a command in a temporary folder: with the shipped models and clip, or to describe it with a tiny one."""
    import torch

    import videomolmo.cli.ground_many
    import videomolmo.io.drawing
    import videomolmo.masks.unfinished  # noqa: F401
    from videomolmo import systems
    from videomolmo.weights.hub import sample_clip

    torch.set_num_threads(1)  # a process with threads cannot be forked
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        clip, model = str(sample_clip()), "nano"
        arguments = ["ground", clip, "the red circle", "--every", "2"]
        if what == "several":
            arguments += ["--sentence", "every shape", "--sentence", "a dog"]
        if what == "live":
            os.dup2(os.open(clip, os.O_RDONLY), 0)
            arguments[1] = "-"
        if what == "describe":
            import tiny_videoglamm

            tiny_videoglamm.save(Path(place) / (model := "glamm"))
            arguments = ["describe", clip]
        grounder = systems.load_grounder(model, device="cpu")
        arguments += ["--out", "results/ground", "--max-frames", str(frames)]
        compare = kill_live if what == "live" else kill_and_compare
        with mock.patch.object(systems, "load_grounder", lambda *_, **__: grounder):
            return compare(Path(place), arguments, kills, seed)


if __name__ == "__main__":
    kills, seed, what, frames = (sys.argv[1:] + ["50", "0", "ground", "60"][len(sys.argv) - 1 :])[:4]
    sys.path.insert(0, str(Path(__file__).parents[1]))
    for one in what.split(","):
        print(one, dict(run(int(kills), int(seed), int(frames), one)), flush=True)
