"""Processor time of decoding: ours, transformers' own loop, and other checkouts of this package, turn by turn.

    cd tests && python -m bench.decoding --video ../data/sample/clip.mp4 --beside ../../before --rounds 20

Nano, one thread. "generate" is all calls of the model's method of that name in one run, done again with what they were
given then; "text" what the run's stopwatch counts to text; "around" what the pointer does before and behind these
calls, wherever the stopwatch counts it. Passes through the language model and rows are counted, so that as much is
done by all. Each process answers in turn, so that what else the machine does falls on all alike.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

SENTENCE, WHOLE_RUNS = "the circle", 3
INNER: list[float] = []  # seconds of timed calls inside those that run


class Timed:
    """A callable with the processor time and the arguments of its calls; what others spend inside counts for them."""

    def __init__(self, work: Callable) -> None:
        self.work, self.seconds, self.calls = work, 0.0, []

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call it."""
        begun = time.process_time()
        INNER.append(0.0)
        try:
            return self.work(*args, **options)
        finally:
            taken = time.process_time() - begun
            self.seconds += taken - INNER.pop()
            if INNER:
                INNER[-1] += taken
            self.calls.append((args, options))


def answer(video: str, is_theirs: bool) -> None:
    """One line of JSON for each line read, in a process of its own; knows older forms of the package.

    To "run": seconds of text, of generate and around, in a whole run, passes and rows; to "generate" the seconds of
    its calls in that run, done again.
    """
    import torch

    import videomolmo
    from videomolmo.io import timing

    torch.set_num_threads(1)
    timing.time = SimpleNamespace(perf_counter=time.process_time)
    grounder = videomolmo.VideoGrounder.from_pretrained("nano", masks="nano", device="cpu")
    pointer = getattr(grounder, "pointer", grounder)
    model, processor = getattr(pointer, "model", None) or pointer.pointing, pointer.processor
    if is_theirs:
        del type(model)._sample
    module, generate, parts = sys.modules[type(pointer).__module__], model.generate, []
    for line in sys.stdin:
        if line.strip() == "generate":
            begun = time.process_time()
            for args, options in parts[0].calls:
                generate(*args, **options)
            print(time.process_time() - begun, flush=True)
            continue
        named = ((model, "generate"), (processor, "tokens"), (processor, "decode"), (module, "read_points"),
                 (module, "collate"), (model.language, "forward"))  # fmt: skip
        before = [getattr(owner, name) for owner, name in named]
        parts = [Timed(work) for work in before]
        for (owner, name), part in zip(named, parts, strict=True):
            setattr(owner, name, part)
        text = grounder(video, SENTENCE, every=5).config["seconds"]["text"]
        for (owner, name), work in zip(named, before, strict=True):
            setattr(owner, name, work)
        around, language = sum(part.seconds for part in parts[1:5]), parts[5]
        rows = sum(len(options["inputs_embeds"]) for _, options in language.calls)
        spent = text, parts[0].seconds + language.seconds, around
        print(json.dumps([[1e3 * part for part in spent], len(language.calls), rows]), flush=True)


def started(checkout: Path, video: Path, is_theirs: bool = False) -> subprocess.Popen:
    """A process that answers from a checkout."""
    command = [sys.executable, __file__, "--video", str(video.resolve()), "--answer", *["--theirs"] * is_theirs]
    there = os.environ | {"PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=there,
                            stderr=subprocess.DEVNULL)  # fmt: skip


def asked(process: subprocess.Popen, line: str) -> Any:
    """What it says to a line."""
    process.stdin.write(f"{line}\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path, required=True)
    parser.add_argument("--beside", type=Path, action="append", default=[], help="another checkout; may be repeated")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--theirs", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.answer:
        answer(str(options.video), options.theirs)
        return
    here = Path(__file__).parents[2]
    ways = {"ours": started(here, options.video), "transformers' loop": started(here, options.video, is_theirs=True)}
    ways |= {str(path): started(path, options.video) for path in options.beside}
    runs: dict[str, list] = {way: [] for way in ways}
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(WHOLE_RUNS):
        for way, process in ways.items():
            runs[way].append(asked(process, "run"))
    for _ in range(options.rounds):
        for way, process in ways.items():
            taken[way].append(1e3 * asked(process, "generate"))
    print("| way | passes | rows | run, ms: text | generate in it | around | generate again: least | median | ÷ ours |")
    print("|" + "---|" * 9)
    for way, again in taken.items():
        spent, passes, rows = min(runs[way])
        ratio = statistics.median(one / ours for one, ours in zip(again, taken["ours"], strict=True))
        columns = [f"{one:.1f}" for one in (*spent, min(again), statistics.median(again))]
        print(f"| {way} | {passes} | {rows} | {' | '.join(columns)} | {ratio:.3f} |")
    for process in ways.values():
        process.stdin.close()
        process.wait()


if __name__ == "__main__":
    main()
