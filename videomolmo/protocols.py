"""What a system must do to be used: point and follow (`Pointer` and `Tracker`), or segment at once (`Segmenter`).

`videomolmo.grounding.VideoGrounder` puts them together and makes the same `GroundingResult` of either, so that
evaluation, sweeps, inspector and exports need not know who answered. Any object with these methods will do; there is
nothing to inherit from. How to add a system: `videomolmo/systems/README.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Float, UInt8

from videomolmo.io.timing import Stopwatch
from videomolmo.io.video import Frames
from videomolmo.points import Answer

Frame = UInt8[np.ndarray, "height width 3"]
OnText = Callable[[int, str], None]


@dataclass(frozen=True)
class Question:
    """What a model is asked about a video.

    Attributes:
        text: the question.
        video: what it is about: `height`, `width`, `fps` and `times_s`. Its frames are handed over in order beside it.
        every: key frames are 0, every, 2 · every, …
        context: past frames to look at, as `describe` gave it; None for models that have no such choice.
        on_text: where given, called while an answer is written, with its key frame and the text so far.
        latency: windows between key frames that may wait for each other; None: as many as are faster together.
        clock: for models that want to tell parts of their work apart; all of it is counted anyway.
    """

    text: str
    video: Frames
    every: int
    context: int | None = None
    on_text: OnText | None = None
    latency: int | None = None
    clock: Stopwatch = field(default_factory=Stopwatch)


class Pointer(Protocol):
    """Answers a question about the key frames of a video with points.

    Order of calls: `describe`, whose "context" becomes the question's; then `answers`, once for each video.
    """

    def describe(self, context: int | None) -> dict[str, Any]:
        """What run.json tells of the model, in JSON values; "context", if any, is the number of past frames to look at.

        Args:
            context: what the caller asks for; None is the model's own choice.

        Raises:
            BadInput: the model cannot look at so many.
        """
        ...

    def answers(self, frames: Iterator[Frame], question: Question) -> Iterator[tuple[int, Answer]]:
        """Each key frame's number with the answer there, in order; see `videomolmo.points.read_points`.

        Args:
            frames: all frames, decoded as they are taken, each once; ends where the video breaks.
            question: see there.

        Raises:
            BadInput: a question that this model cannot be asked.
        """
        ...


class Features(Protocol):
    """What a tracker knows of one frame, handed back to it as it is; `height` and `width` of the frame in pixels."""

    height: int
    width: int


class Track(Protocol):
    """Objects followed in one direction of time; `first_masks` are those of the frame they were clicked on."""

    first_masks: Bool[np.ndarray, "objects height width"]

    def step(self, at: int, frame: Features) -> Bool[np.ndarray, "objects height width"]:
        """Masks on the next frame, number `at`; empty where an object is not seen."""
        ...


@dataclass(frozen=True)
class PropagationPath:
    """Frames along which clicked objects are followed.

    Attributes:
        at: number of the frame with the clicks.
        frames: features of that frame, then of those after it, or before it, in the order in which they are gone to.
        points_px: clicks of each object.
        reverse: whether the path runs backwards in time.
    """

    at: int
    frames: Sequence[Features]
    points_px: Sequence[Float[np.ndarray, "points 2"]]
    reverse: bool


class Tracker(Protocol):
    """Follows clicked objects frame by frame.

    Order of calls: `encode` once for each frame; for each key frame and direction `start`, then `step` of the track for
    the frames up to the next key frame. A track knows nothing of any other. A tracker that is faster with many at once
    has `encode_all`, `follow`, `rows` and `held` besides, see `videomolmo.masks.sam2.MaskTracker`.
    """

    def encode(self, frame: Frame) -> Features:
        """Features of a frame, shared by all objects and both directions."""
        ...

    def start(
        self,
        at: int,
        frame: Features,
        points_px: Sequence[Float[np.ndarray, "points 2"]],
        labels: Sequence[np.ndarray] | None = None,
        *,
        frames: int,
        reverse: bool = False,
    ) -> Track:
        """A track of one object for each entry of `points_px`, beginning at frame `at`.

        Args:
            at, frame: number and features of the frame.
            points_px: clicks of each object, x and y in pixels.
            labels: 1 for "on the object", 0 for "not on it"; all 1 when None.
            frames: length of the clip.
            reverse: whether time will run backwards.
        """
        ...


@dataclass(frozen=True)
class Segmentation:
    """Masks on some frames in a row, and what was written about them.

    Attributes:
        ids: identity of each object, from 1; the same all through the video.
        masks: (frames, objects, height, width), objects in the order of `ids`.
        text: the model's words.
    """

    ids: tuple[int, ...]
    masks: Bool[np.ndarray, "frames objects height width"]
    text: str = ""


class Segmenter(Protocol):
    """Makes masks and text of a video and a sentence at once, without points.

    Order of calls: `describe`, as a pointer's; then `segment`, once for each video.
    """

    def describe(self, context: int | None) -> dict[str, Any]:
        """As `Pointer.describe`."""
        ...

    def segment(self, frames: Iterator[Frame], question: Question) -> Iterator[Segmentation]:
        """Masks of every frame, in parts as long as the model likes, in order; no part is kept in memory.

        Arguments and errors are those of `Pointer.answers`.
        """
        ...
