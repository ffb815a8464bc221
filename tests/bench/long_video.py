"""Whether memory and time per frame stay the same however long a video is: grounding, saving, inspecting, exporting.

    cd tests && python -m bench.long_video [--long 20000] [--short 500] [--size 640x360] [--system plain]

Each stage is a process of its own, whose peak is told beside its processor time; the stages are run for the short
video, then for the long one. The system `plain` (tests/plain_system.py) costs next to nothing, so that whatever grows
around the models is seen; `nano` are the shipped models.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

FPS, EVERY, GONE = 25.0, 5, 400  # of every so many frames the last tenth shows no object


def frames_of(count: int, height: int, width: int) -> Iterator[np.ndarray]:
    """A white square that goes round, now and then gone, on a plain background."""
    side = height // 6
    for at in range(count):
        frame = np.full((height, width, 3), 90, np.uint8)
        if at % GONE < 0.9 * GONE:
            top = round((height - side) * (0.5 + 0.45 * np.sin(at / 40)))
            left = round((width - side) * (0.5 + 0.45 * np.cos(at / 60)))
            frame[top : top + side, left : left + side] = 255
        yield frame


def write(folder: Path, count: int, size: tuple[int, int], system: str) -> None:
    """The video."""
    from videomolmo.io.video import VideoWriter

    with VideoWriter(folder / "clip.mp4", FPS, *size) as writer:
        for frame in frames_of(count, *size):
            writer.write(frame)


def ground(folder: Path, count: int, size: tuple[int, int], system: str) -> None:
    """What the command `ground` does: answers, masks, tables and overlay; resumable while it runs."""
    from plain_system import load

    from videomolmo.cli.ground import ground_and_save
    from videomolmo.grounding import VideoGrounder, drained

    settings = {"every": EVERY, "fusion": "iou", "tau": 0.7, "context": None, "latency": None, "max_frames": None,
                "reader": "pyav", "start": None, "end": None, "fps": None}  # fmt: skip
    grounder = load() if system == "plain" else VideoGrounder.from_pretrained(system, device="cpu")
    clip = str(folder / "clip.mp4")
    drained(ground_and_save(grounder, clip, "the white square", folder / "out", False, settings))


def inspect(folder: Path, count: int, size: tuple[int, int], system: str) -> None:
    """Open the result as the inspector does, look at what it plots, and at frames all over it."""
    from videomolmo.inspector.inspection import Inspection
    from videomolmo.inspector.render import Look, paint

    look = Inspection(folder / "out")
    assert not look.problems and look.frames == count
    assert np.isfinite(look.agreement).any() and look.decisions().shape[0] == count
    for at in range(0, count, max(1, count // 100)):
        paint(look, at, Look())


def export(folder: Path, count: int, size: tuple[int, int], system: str) -> None:
    """All that the inspector writes."""
    from videomolmo.inspector.exports import export_labels, export_video
    from videomolmo.inspector.inspection import Inspection

    look = Inspection(folder / "out")
    for name, path in (("davis", "davis"), ("coco", "coco.json"), ("csv", "tracks.csv")):
        export_labels(look, name, folder / path)
    export_video(look, folder / "video.mp4")


STAGES = {"write": write, "ground": ground, "inspect": inspect, "export": export}


def cost(stage: str, *given: object) -> dict[str, float]:
    """Peak memory (MB) of this process and processor time (s) of a stage in it; the same imports for all."""
    import videomolmo.inspector.exports  # noqa: F401

    began = time.process_time()
    STAGES[stage](*given)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1 << 20)
    return {"peak_mb": round(peak, 1), "seconds": round(time.process_time() - began, 2)}


def compare(long: int, short: int, size: tuple[int, int], system: str = "plain") -> dict[str, dict[str, float]]:
    """For each stage its peaks, its milliseconds a frame, and the ratios of the long video to the short one."""
    found: dict[str, dict[str, float]] = {}
    for name, count in (("short", short), ("long", long)):
        with tempfile.TemporaryDirectory() as folder:
            for stage in STAGES:
                with ProcessPoolExecutor(1, get_context("spawn")) as fresh:  # whose memory nothing else has filled
                    told = fresh.submit(cost, stage, Path(folder), count, size, system).result()
                row = found.setdefault(stage, {})
                row |= {f"{name}_peak_mb": told["peak_mb"], f"{name}_ms": round(1000 * told["seconds"] / count, 3)}
                print(name, stage, told, file=sys.stderr, flush=True)
    for row in found.values():
        row["memory"] = round(row["long_peak_mb"] / row["short_peak_mb"], 3)
        row["time"] = round(row["long_ms"] / row["short_ms"], 3)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", type=int, default=20_000)
    parser.add_argument("--short", type=int, default=500)
    parser.add_argument("--size", default="640x360")
    parser.add_argument("--system", default="plain", choices=["plain", "nano"])
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    print(json.dumps(compare(options.long, options.short, (height, width), options.system), indent=1))
