"""Frames that come while one looks: any iterator of them, or a camera, a stream or a pipe by its name."""

from __future__ import annotations

import os
import re
import stat
import sys
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from videomolmo.errors import BadInput
from videomolmo.io.capture import CAMERA, PROTOCOLS, URL, USUAL_FPS, LiveSource, Shot, without_password
from videomolmo.io.video import Frames, VideoWriter


class LiveFrames(Frames):
    """Frames of an iterator, each had once and in order, for as long as it gives some.

    Args:
        frames: uint8 (height, width, 3), or `Shot` with such; all of one size.
        fps: frames a second, which tells the times of frames that have none.
        source: that gives the frames; without one, the first frame is taken at once, to know its size.

    Raises:
        BadInput: no frame, or what is none.
    """

    is_live = True

    def __init__(
        self, frames: Iterator[UInt8[np.ndarray, "height width 3"] | Shot], fps: float = USUAL_FPS,
        source: LiveSource | None = None,
    ) -> None:  # fmt: skip
        shots = (one if isinstance(one, Shot) else Shot(n, n / fps, one) for n, one in enumerate(frames))
        expected = "expected uint8 (height, width, 3)"
        if source is None:
            first = next(shots, None)
            if first is None:
                raise BadInput(f"the iterator of frames gave none; {expected}")
            shots, shape = chain([first], shots), np.shape(first.picture)
            if len(shape) != 3 or shape[2] != 3 or 0 in shape:
                raise BadInput(f"live frame 0 has the shape {shape}: {expected}")
            self.name, self.pixel_aspect, (self.height, self.width) = "live frames", Fraction(1), shape[:2]
        else:
            self.name, self.pixel_aspect, (self.height, self.width) = source.shown, source.pixel_aspect, source.size
        self.fps, self.source, self._length = float(fps), None, sys.maxsize
        self._shots, self._from = shots, source
        self.times_s, self._numbers = _Times(), array("q")

    @property
    def warning(self) -> str | None:
        return None if self._from is None else self._from.warning

    @property
    def source_frames(self) -> np.ndarray | None:
        """How many came before each frame that was taken; None where that is its number."""
        numbers = np.array(self._numbers)
        return None if np.array_equal(numbers, np.arange(len(numbers))) else numbers

    @property
    def source_times_s(self) -> np.ndarray | None:
        """When each frame came, counted from the first that came; None where that is its time."""
        return None if self.source_frames is None else np.array(self.times_s.came)

    def iterate(self, start: int = 0, stop: int | None = None) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
        """The frames to come, whatever `start` and `stop`; the source is given back behind the last."""
        try:
            for number, shot in enumerate(self._shots, start=len(self._numbers)):
                picture = shot.picture
                if picture.dtype != np.uint8 or picture.shape != (self.height, self.width, 3):
                    expected = f"uint8 ({self.height}, {self.width}, 3) as the first"
                    raise BadInput(f"live frame {number} is {picture.dtype} {picture.shape}: expected {expected}")
                self.times_s.came.append(shot.time_s)
                self._numbers.append(shot.number)
                yield picture.copy()
        finally:
            self.close()

    def through(self, choose: Callable[[Iterator[Shot]], Iterator[Shot]], fps: float | None = None) -> LiveFrames:
        """Those of these frames that `choose` lets pass, at most so many a second."""
        return LiveFrames(choose(self._shots), min(fps or self.fps, self.fps), self._from)

    def report(self) -> dict[str, Any]:
        """What run.json tells of the source."""
        return {"source": self.name} if self._from is None else self._from.report()

    def close(self) -> None:
        """Let the frame that was taken last be the last one; from any thread, or a signal's handler."""
        if self._from is not None:
            self._from.end()

    def __getitem__(self, number: Any) -> np.ndarray:
        raise BadInput(f"{self.name}: a live frame is had once, when it comes; take them in order, with iterate()")

    def __repr__(self) -> str:
        return f"LiveFrames({self.name!r}, {self.height}x{self.width})"


class _Times:
    """When each frame came, counted from the first; grows while they come."""

    def __init__(self) -> None:
        self.came = array("d")

    def __len__(self) -> int:
        return len(self.came)

    def __getitem__(self, number: int) -> float:
        return self.came[number] - self.came[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        came = np.array(self.came, dtype or np.float64)
        return came - came[:1]


def refuse_live(video: Frames, who: str) -> None:
    """Nothing for a video that has an end.

    Raises:
        BadInput: it is live, and `who` looks at all of it before the first answer.
    """
    if video.is_live:
        raise BadInput(
            f"{who} looks at the whole video first, and {video.name} goes on; record a part of it, and give that"
        )


@contextmanager
def recorded(video: Frames, path: Path | None) -> Iterator[Frames]:
    """The video, whose frames are written into a file while they are taken, where a path is given.

    Whatever ends that, what was written stays and can be read; see `VideoWriter`.
    """
    if path is None:
        yield video
        return
    with ExitStack() as until_written:

        def written(shots: Iterator[Shot]) -> Iterator[Shot]:
            writer = None
            for shot in shots:
                if writer is None:
                    options = (video.fps, video.height, video.width, (), video.pixel_aspect)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    writer = until_written.enter_context(VideoWriter(path, *options))
                writer.write(shot.picture, shot.time_s)
                yield shot

        yield video.through(written)


def live_name(source: Any) -> str | None:
    """The name of a live source, see `open_live`; None for what is none, such as a file.

    Raises:
        BadInput: a camera without a number, or a URL of a kind that is not opened.

    Example:
        >>> live_name("camera:0"), live_name("clip.mp4"), live_name("http://host/stream")
        ('camera:0', None, 'http://host/stream')
    """
    if not isinstance(source, (str, os.PathLike)):
        return None
    text = os.fsdecode(source)
    try:
        mode = os.stat(text).st_mode
    except (OSError, ValueError):
        mode = 0
    if stat.S_ISFIFO(mode):
        return text
    if mode or not isinstance(source, str):
        return None
    if found := CAMERA.fullmatch(text):
        if not re.fullmatch(r"\d{1,3}", found[1]):
            raise BadInput(f"{text!r:.80}: expected the number of a camera, such as camera:0")
        return text
    if (found := URL.fullmatch(text)) and found[1].lower() not in PROTOCOLS:
        raise BadInput(f"{without_password(text)}: expected a file, or a URL that begins with {', '.join(PROTOCOLS)}")
    return text if found or text == "-" else None


def open_live(name: str) -> LiveFrames:
    """Frames of a camera ("camera:0"), a stream ("rtsp://…", "http://…"), standard input ("-") or a FIFO, as they come.

    What cannot wait for us, a camera or an endless stream, is read in a thread, and of frames that wait to be taken,
    at most 64, the oldest are dropped; where it is cut off, we try for ten seconds to open it again. What can wait, a
    pipe or a file on a server, loses no frame, and ends where it ends; `warning` tells if that is before the end it
    told of.

    Raises:
        BadInput: it cannot be opened, or gives no frame, a URL within ten seconds each for connecting, finding out
            what comes, and the first frame.
    """
    source = LiveSource(name)
    return LiveFrames(source, source.fps, source)
