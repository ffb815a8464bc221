"""A system that has learnt nothing and needs nothing but NumPy: it points at what is bright, and follows it.

For tests and measurements of everything around the models.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from videomolmo.grounding import VideoGrounder
from videomolmo.points import read_points, write_points

BRIGHT = 230  # from which a pixel is


@dataclass
class Seen:
    """What the tracker knows of a frame: which pixels are bright."""

    bright: np.ndarray

    @property
    def height(self) -> int:
        return self.bright.shape[0]

    @property
    def width(self) -> int:
        return self.bright.shape[1]


def bright(frame: np.ndarray) -> np.ndarray:
    return frame.min(axis=2) >= BRIGHT


class BrightPointer:
    """Points at the first bright pixel, or says that there is none."""

    def describe(self, context):
        return {}

    def answers(self, frames, question):
        for at, frame in enumerate(frames):
            if at % question.every == 0:
                size = frame.shape[:2]
                first = np.argwhere(bright(frame))[:1, ::-1].astype(np.float32) + 0.5
                yield at, read_points(write_points(first, "light", *size), *size)


class BrightTracker:
    """Every object is all that is bright."""

    def encode(self, frame):
        return Seen(bright(frame))

    def start(self, at, frame, points_px, labels=None, *, frames, reverse=False):
        return BrightTrack(len(points_px), frame)


class BrightTrack:
    def __init__(self, objects: int, frame: Seen) -> None:
        self.objects = objects
        self.first_masks = self.step(0, frame)

    def step(self, at, frame):
        return np.repeat(frame.bright[None], self.objects, axis=0)


def load(model="plain", masks="nano", device="auto", *, offline=False, **options) -> VideoGrounder:
    """For `videomolmo.systems.SYSTEMS`."""
    return VideoGrounder(BrightPointer(), BrightTracker(), loaded={"model": "plain"})
