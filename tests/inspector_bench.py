"""An inspector to be pressed without a browser: a result of walking squares, and what stands in a browser's place."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import videomolmo
from videomolmo.mask_store import MaskStore
from videomolmo.results import GroundingResult, KeyAnswer

HEIGHT, WIDTH, FRAMES, EVERY = 48, 64, 12, 4


def made_result(objects: int = 2, frames: int = FRAMES, text: str = "<b>there</b>", shift: int = 2) -> GroundingResult:
    """Squares that walk to the right; the backward masks lie `shift` pixels beside the forward ones."""
    spool, shape = MaskStore(), (frames, max(1, objects), HEIGHT, WIDTH)
    there, back = np.zeros(shape, bool), np.zeros(shape, bool)
    for at in range(frames):
        for n in range(objects):
            top, left = (5 * n) % 36, 4 + 2 * at
            there[at, n, top : top + 12, left : left + 12] = True
            back[at, n, top : top + 12, left + shift : left + shift + 12] = True
    answers = []
    for start in range(0, frames, EVERY):
        window = slice(start, min(frames, start + EVERY))
        ids = tuple(range(1, objects + 1))
        layers = {
            "fused": there[window, :objects],
            "forward": there[window, :objects],
            "backward": back[window, :objects],
        }
        known = np.ones(layers["fused"].shape[:2], bool)
        spool.write(start, ids, layers, {"forward": known, "backward": known})
        points = [(10.0 + 2 * start, 5.0 * n % 36 + 6) for n in range(objects)]
        outcome = "found" if objects else "absent"
        answers.append(KeyAnswer(start, start / 10, text, outcome, points, [True] * objects))
    config = {"model": {"every": EVERY, "fusion": "iou", "tau": 0.7}}
    video = np.random.default_rng(0).integers(0, 255, (max(1, frames), HEIGHT, WIDTH, 3), np.uint8)
    return GroundingResult(
        sentence="the <i>square</i>", answers=answers, objects=objects, height=HEIGHT, width=WIDTH,
        times_s=np.arange(frames) / 10, fps=10.0, spool=spool, config=config, source=None,
        _video=videomolmo.open_video(video),
    )  # fmt: skip


class Browser:
    """In place of a browser: looks at an inspector, presses, and keeps what it was sent."""

    def __init__(self, inspector, width: int = 400) -> None:
        self.canvas, self.sent = inspector.state.canvas, []
        self.canvas.send = lambda content, buffers=None: self.sent.append((content, buffers))
        self.tell(kind="ready", width=width, dark=False)

    def tell(self, **content) -> None:
        self.canvas._receive(self.canvas, {"view": "me", **content}, [])

    def go(self, frame: int) -> None:
        self.tell(kind="go", frame=frame, pictures=[self.canvas.frames and min(max(0, frame), self.canvas.frames - 1)])

    @property
    def picture(self) -> np.ndarray:
        import cv2

        _, buffers = self.sent[-1]
        return cv2.imdecode(np.frombuffer(buffers[0], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]

    @property
    def frame(self) -> int:
        return self.sent[-1][0]["frame"]


def opened(folder: Path, result: GroundingResult | None = None, *args, **options):
    """An inspector of a result that exports to `folder`, and a browser that shows it."""
    options.setdefault("folder", folder)
    inspector = videomolmo.inspect(made_result() if result is None else result, *args, **options)
    return inspector, Browser(inspector)
