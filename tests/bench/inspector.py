"""Time the inspector's core: opening, fusing again, painting; and the memory it takes. No model runs.

cd tests && python -m bench.inspector
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from videomolmo.fusion import fuse
from videomolmo.inspector.inspection import Inspection
from videomolmo.inspector.render import EncodedCache, Look, encode, paint
from videomolmo.io.video import VideoWriter
from videomolmo.mask_store import MaskStore
from videomolmo.results import GroundingResult, KeyAnswer
from videomolmo.synth.clips import Clip, generate_clip

EVERY, OBJECTS, FPS = 5, 3, 25.0


def main() -> None:
    """Print one JSON object: medians of processor time and of the clock, and megabytes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=2000, help="of the long clip")
    parser.add_argument("--runs", type=int, default=40)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        nano = made(Path(folder) / "nano", 60, 192, 192)
        wide = made(Path(folder) / "wide", 60, 720, 1280)
        long = made(Path(folder) / "long", options.frames, 192, 192)
        found = {"refuse_ms": refuse_ms(nano), "paint_ms": {}}
        views = {"192x192 at 192x192": (nano, None), "192x192 at 576x576": (nano, (576, 576))}
        views["1280x720 at 960x540"] = wide, (540, 960)
        for name, (place, size) in views.items():
            found["paint_ms"][name] = paint_ms(place, size, options.propagations)
        with ProcessPoolExecutor(1, get_context("spawn")) as fresh:  # whose memory nothing else has filled
            found[f"long_{options.frames}"] = fresh.submit(long_clip, long).result()
    print(json.dumps(found, indent=1))


def made(folder: Path, frames: int, height: int, width: int) -> Path:
    """A saved result of a generated clip: true masks, those of each direction shifted by some pixels."""
    folder.mkdir()
    seed = next(s for s in range(999) if enough(generate_clip(s, frames=1, height=48, width=48)))
    clip = generate_clip(seed, frames=min(frames, 60), height=height, width=width)
    order = [*range(len(clip.frames)), *range(len(clip.frames) - 2, 0, -1)]  # there and back, as often as needed
    numbers = [order[t % len(order)] for t in range(frames)]
    with VideoWriter(folder.with_suffix(".mp4"), FPS, height, width) as writer:
        for number in numbers:
            writer.write(clip.frames[number])
    spool, ids, shift = MaskStore(), tuple(range(1, OBJECTS + 1)), max(1, width // 96)
    answers = []
    for start in range(0, frames, EVERY):
        there = clip.masks[numbers[start : start + EVERY], :OBJECTS]
        layers = {"forward": np.roll(there, shift, axis=3), "backward": np.roll(there, -shift, axis=2)}
        layers["backward"][0] = layers["forward"][0]
        known = dict.fromkeys(("forward", "backward"), np.ones(there.shape[:2], bool))
        spool.write(start, ids, layers | {"fused": fuse(layers["forward"], layers["backward"])}, known)
        points = [(width * (n + 1) / 5, height / 2) for n in range(OBJECTS)]
        answers.append(KeyAnswer(start, start / FPS, "…", "found", points, [True] * OBJECTS))
    result = GroundingResult(
        sentence="the shapes", answers=answers, objects=OBJECTS, height=height, width=width,
        times_s=np.arange(frames) / FPS, fps=FPS, spool=spool, source=folder.with_suffix(".mp4"),
        config={"model": {"every": EVERY, "fusion": "iou", "tau": 0.7}},
    )  # fmt: skip

    return result.save(folder, overlay=False)


def enough(clip: Clip) -> bool:
    return clip.masks.shape[1] >= OBJECTS


def median_ms(work: Callable[[int], object], runs: int) -> list[float]:
    """Median milliseconds of `work(n)`: of the processor, which other programs do not disturb, and of the clock."""
    times = []
    for n in range(runs):
        begun = time.process_time(), time.perf_counter()
        work(n)
        times.append((time.process_time() - begun[0], time.perf_counter() - begun[1]))
    return [round(float(value), 2) for value in 1000 * np.median(times, axis=0)]


def refuse_ms(folder: Path) -> dict[str, list[float]]:
    """Another τ, rule or matching, with decisions, agreement, series of all objects, and the mask of a frame."""
    inspection = Inspection(folder)

    def again(**settings: object) -> None:
        inspection.apply_fusion_rule(**settings)
        inspection.decisions(), inspection.agreement, inspection.mask("fused", 30)
        for object_id in range(1, inspection.objects + 1):
            inspection.series(object_id)

    again(rule="iou")
    return {
        "tau": median_ms(lambda n: again(rule="iou", tau=n / 100), 30),
        "rule": median_ms(lambda n: again(rule=("left", "union", "nearest")[n % 3], tau=0.7), 30),
        "matching": median_ms(lambda n: again(rule="iou", matching=0.1 + n / 100), 15),
    }


def paint_ms(folder: Path, size: tuple[int, int] | None, runs: int) -> dict[str, list[float]]:
    """Painting and encoding with frames at hand, parts of it, and decoding in order."""
    inspection, look = Inspection(folder), Look(size=size)
    full = Look(("fused", "forward", "backward", "disagreement"), size=size, boxes=True, trail=20, patterns=True)
    decode = median_ms(lambda n: inspection.frame(n, size), inspection.frames)
    encode(paint(inspection, 0, full))
    pictures = [paint(inspection, t, look) for t in range(inspection.frames)]
    return {
        "paint and encode": median_ms(lambda n: encode(paint(inspection, n % 60, look)), runs),
        "paint": median_ms(lambda n: paint(inspection, n % 60, look), runs),
        "encode": median_ms(lambda n: encode(pictures[n % 60]), runs),
        "everything on": median_ms(lambda n: encode(paint(inspection, n % 60, full)), runs),
        "decode in order": decode,
    }


def long_clip(folder: Path) -> dict[str, list[float] | float]:
    """Seconds until the first picture and until all tables, and the memory after every frame was shown."""
    before, look = peak_mb(), Look(size=(576, 576))
    begun = time.process_time(), time.perf_counter()

    def since() -> list[float]:
        return [round(time.process_time() - begun[0], 2), round(time.perf_counter() - begun[1], 2)]

    inspection = Inspection(folder)
    encode(paint(inspection, 0, look))
    opened = since()
    inspection.decisions(), inspection.missing()
    tables, cache = since(), EncodedCache()
    for t in range(inspection.frames):
        cache.picture(inspection, t, look)
    grown = round(peak_mb() - before, 1)
    return {
        "first picture s": opened, "with all tables s": tables, "cache mb": round(cache.bytes / 2**20, 1),
        "process grew by mb": grown,
    }  # fmt: skip


def peak_mb() -> float:
    """Largest memory of this process so far; 0 where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return 0.0
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    main()
