"""Kill `videomolmo ground` again and again, by SIGKILL, and see that the same command goes on to the same result.

    python tests/bench/kill_ground.py [KILLS] [SEED] [ground or describe]

Each run is a process of its own, forked from this one where the packages are loaded once. Every other one is killed at
a moment drawn at random, the others at a call drawn at random of those that change files.
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
from pathlib import Path

import numpy as np

CALLS = ("replace", "rename", "link", "unlink", "mkdir", "rmdir", "fsync", "truncate")


def result_of(folder: Path) -> dict[str, object]:
    """Everything in a folder of results but times, to be compared."""
    from videomolmo.io.video import open_video

    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[str(path.relative_to(folder))] = path.read_bytes()
    found["run.json"] = {name: value for name, value in json.loads(found["run.json"]).items() if name != "seconds"}
    with open_video(folder / "overlay.mp4") as frames:
        found["overlay.mp4"] = np.stack(list(frames)).tobytes()
    return found


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


def is_done(out: Path) -> bool:
    """Whether a result is whole, and nothing of its run is left to go on with."""
    return (out / "run.json").exists() and not out.with_name(f"{out.name}.unfinished").exists()


def kill_and_compare(place: Path, arguments: list[str], kills: int, seed: int) -> dict[str, int]:
    """How often a run was killed, went on and came to its end; an AssertionError where a result differs."""
    chance, out = random.Random(seed), place / "results" / "ground"
    begun = time.monotonic()
    assert os.waitpid(start(arguments, place / "log"), 0)[1] == 0, (place / "log").read_text()
    lasts = time.monotonic() - begun
    wanted, told = result_of(out), {"killed": 0, "went on": 0, "ended": 0, "killed at a call": 0}
    shutil.rmtree(place / "results")
    while told["killed"] < kills or not is_done(out):
        if is_done(out):
            shutil.rmtree(place / "results")
        is_last, by_call = told["killed"] >= kills, chance.random() < 0.5
        told["went on"] += (place / "results" / "ground.unfinished" / "state.npz").exists()
        process = start(arguments, place / "log", None if is_last or not by_call else int(10 ** chance.uniform(0, 2.7)))
        if not (is_last or by_call):
            time.sleep(chance.uniform(0, lasts))
            os.kill(process, signal.SIGKILL)
        status = os.waitpid(process, 0)[1]
        was_killed = os.WIFSIGNALED(status)
        assert was_killed or status == 0, (place / "log").read_text()
        told["killed"] += was_killed
        told["killed at a call"] += was_killed and by_call
        if is_done(out):
            told["ended"] += 1
            print(told, file=sys.stderr, flush=True)
            found = result_of(out)
            assert found.keys() == wanted.keys(), found.keys() ^ wanted.keys()
            assert not (differ := [name for name in wanted if found[name] != wanted[name]]), differ
            names = sorted(path.name for path in (place / "results").iterdir())
            assert was_killed or names == ["ground"], names
    return told


def run(kills: int, seed: int, frames: int = 60, what: str = "ground") -> dict[str, int]:
    """`kill_and_compare` in a temporary folder, with the shipped models and clip, or to describe it with a tiny one."""
    import torch

    import videomolmo.cli.ground_many
    import videomolmo.grounding
    import videomolmo.io.drawing
    import videomolmo.masks.sam2
    import videomolmo.masks.unfinished
    import videomolmo.pointing
    import videomolmo.systems.videoglamm.segmenter
    import videomolmo.weights.checkpoint  # noqa: F401

    torch.set_num_threads(1)  # a process with threads cannot be forked
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        arguments = ["ground", "--every", "2"]
        if what == "describe":
            import tiny_videoglamm

            from videomolmo.weights.hub import sample_clip

            tiny_videoglamm.save(Path(place) / "glamm")
            arguments = ["describe", str(sample_clip()), "--model", "glamm", "--out", "results/ground"]
        arguments += ["--max-frames", str(frames), "--device", "cpu"]
        return kill_and_compare(Path(place), arguments, kills, seed)


if __name__ == "__main__":
    kills, seed, what = (sys.argv[1:] + ["50", "0", "ground"][len(sys.argv) - 1 :])[:3]
    sys.path.insert(0, str(Path(__file__).parents[1]))
    print(run(int(kills), int(seed), what=what))
