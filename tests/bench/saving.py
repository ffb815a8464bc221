"""Time what is saved of a frame, and a second sentence about the same video against the first.

    cd tests && python -m bench.saving --video clip.mp4

Processor time, one thread. Saving: two objects on 100 frames of the video, scaled to 640×360, with everything that
`ground` writes. Sentences: `ground` with one, and with two of the same meaning, nano.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from videomolmo.cli.ground_many import READ, _ground, jobs_of
from videomolmo.grounding import VideoGrounder
from videomolmo.io.video import Frames, VideoWriter, open_video
from videomolmo.mask_store import MaskStore
from videomolmo.results import GroundingResult, KeyAnswer

FRAMES, SIZE, EVERY = 100, (360, 640), 5


def scaled(video: Path, path: Path, frames: int) -> Path:
    """The beginning of a video at `SIZE`, as a file."""
    with open_video(video, max_frames=frames) as found, VideoWriter(path, found.fps, *SIZE) as writer:
        for frame in found:
            writer.write(cv2.resize(frame, SIZE[::-1], interpolation=cv2.INTER_AREA))
    return path


def moving(video: Frames) -> GroundingResult:
    """A result with two ellipses that move, a window every `EVERY` frames."""
    store, answers = MaskStore(), []
    for start in range(0, len(video), EVERY):
        masks = np.zeros((min(EVERY, len(video) - start), 2, *SIZE), np.uint8)
        for at, (one, other) in enumerate(masks, start=start):
            cv2.ellipse(one, (200 + at % 100, 180), (60, 40), 30, 0, 360, 1, -1)
            cv2.ellipse(other, (420 - at % 100, 150), (50, 80), at % 180, 0, 360, 1, -1)
        masks, reach = masks.astype(bool), np.ones(masks.shape[:2], bool)
        layers = {"fused": masks, "forward": masks, "backward": np.roll(masks, 1, axis=-1)}
        store.write(start, (1, 2), layers, {"forward": reach, "backward": reach})
        points = [(200.0, 180.0), (420.0, 150.0)]
        answers.append(KeyAnswer(start, start / video.fps, "two", "found", points, [True, True]))
    return GroundingResult(
        sentence="two things", answers=answers, objects=2, height=SIZE[0], width=SIZE[1], spool=store, config={},
        times_s=np.asarray(video.times_s), fps=video.fps, source=video.source,
    )  # fmt: skip


def saving(path: Path, place: Path, runs: int) -> dict[str, Any]:
    """Milliseconds a frame, with and without the overlay, summary included."""
    found: dict[str, list[float]] = {"with overlay": [], "without": []}
    with open_video(path) as video:
        for run in range(runs + 1):
            for name, times in found.items():
                result, begun = moving(video), time.process_time()
                result.save(place / f"{name} {run}", overlay=name == "with overlay")
                result.summary()
                times.append(1e3 * (time.process_time() - begun) / len(video))
        assert abs(result.agreement - 0.97).max() < 0.03
    return {name: {"ms a frame": float(np.median(times[1:])), "runs": times[1:]} for name, times in found.items()}


def sentences(path: Path, sentence: str, place: Path, runs: int, frames: int) -> dict[str, Any]:
    """Seconds with one sentence and with two of the same meaning, and the second's share of the first."""
    settings = {"every": EVERY, "fusion": "iou", "tau": 0.7, "context": None}
    settings |= dict.fromkeys(READ) | {"max_frames": frames, "reader": "pyav"}
    grounder, times, rows = VideoGrounder.from_pretrained("nano", "nano", "cpu"), {1: [], 2: []}, []
    for run in range(runs + 1):
        for count, taken in times.items():
            jobs = jobs_of([str(path)], [sentence, f"Point to {sentence}."][:count], settings)
            begun = time.process_time()
            rows = _ground((grounder, place / f"{run} {count}", False), jobs)
            taken.append(time.process_time() - begun)
    one, two = (float(np.median(taken[1:])) for taken in times.values())
    objects = [row["objects"] for _, row in rows]
    return {"one": one, "two": two, "second ÷ first": (two - one) / one, "objects": objects, "runs": times}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path, required=True)
    parser.add_argument("--sentence", default="the cup")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--frames", type=int, default=41, help="of the sentences' video")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        small = scaled(options.video, place / "small.mp4", FRAMES)
        print(json.dumps({"saving": saving(small, place, options.runs)}, indent=1), flush=True)
        told = sentences(small, options.sentence, place, options.runs, options.frames)
        print(json.dumps({"sentences": told}, indent=1))


if __name__ == "__main__":
    main()
