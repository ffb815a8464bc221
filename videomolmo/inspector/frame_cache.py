"""Frames of a video when they are looked at, in bounded memory, from any thread."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import UInt8

from videomolmo.errors import BadInput
from videomolmo.results import GroundingResult
from videomolmo.video import Frames, open_video

MOST_BYTES = 160 << 20
GREY = 96  # where there is no picture


class FrameCache:
    """Frames by number; the video is opened when the first one is asked for.

    Args:
        result: whose frames these are; its number and size of frames hold.
        given: replaces its video: a path, an array, or `Frames`.
    """

    def __init__(self, result: GroundingResult, given: Any = None) -> None:
        self._open, self._is_ours = _way_to(result, given)
        self.frames, self.size = result.frames, (result.height, result.width)
        self._video: Frames | None = None
        self._reason: str | None = None
        self._kept: OrderedDict[tuple[int, tuple[int, int]], np.ndarray] = OrderedDict()
        self._bytes, self._lock = 0, threading.RLock()

    def video(self) -> Frames | None:
        """The video, None where it cannot be opened."""
        with self._lock:
            if self._video is None and self._reason is None:
                try:
                    self._video = self._open()
                except (BadInput, OSError) as error:
                    self._reason = str(error)
            return self._video

    def problems(self) -> list[str]:
        """Why frames are missing, a sentence each."""
        video = self.video()
        if video is None:
            return [f"no frames: {self._reason}"]
        found = [f"the video breaks: {video.warning}"] if video.warning else []
        if len(video) < self.frames:
            found.append(f"the video has {len(video)} frames, the result {self.frames}: the others are grey")
        if (video.height, video.width) != self.size:
            own, wanted = f"{video.width}×{video.height}", f"{self.size[1]}×{self.size[0]}"
            found.append(f"the video is {own} pixels, the result {wanted}: it was rescaled")
        return found

    def get(self, t: int, size: tuple[int, int] | None = None) -> UInt8[np.ndarray, "height width 3"]:
        """Frame `t` at `size` (that of the result by default), not to be written to; grey where there is none."""
        key = (t, size or self.size)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            frame = self._read(t, key[1])
            frame.flags.writeable = False
            self._kept[key] = frame
            self._bytes += frame.nbytes
            while self._bytes > MOST_BYTES and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
            return frame

    def forget(self) -> None:
        """Make room: frames can be read again."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0

    def close(self) -> None:
        """Give back memory and the video, if it was opened here; what is asked for afterwards opens it again."""
        with self._lock:
            self.forget()
            if self._is_ours and self._video is not None:
                self._video.close()
            self._video = None

    def _read(self, t: int, size: tuple[int, int]) -> np.ndarray:
        video = self.video()
        if video is None or not 0 <= t < len(video):
            return np.full((*size, 3), GREY, np.uint8)
        try:
            frame = video[t]
        except (BadInput, OSError):
            return np.full((*size, 3), GREY, np.uint8)
        return frame if frame.shape[:2] == size else resized(frame, size)


def _way_to(result: GroundingResult, given: Any) -> tuple[Callable[[], Frames], bool]:
    """What opens a video, and whether it is then ours to close."""
    if isinstance(given, Frames):
        return lambda: given, False
    if given is not None:
        return partial(open_video, given, max_frames=result.frames), True
    return (result.video, False) if result.is_open else (result.open_video, True)


def resized(frame: UInt8[np.ndarray, "height width 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "height width 3"]:
    """A picture at another (height, width): averaged when made smaller, crisp when enlarged twice and more."""
    import cv2

    ratio = size[0] / max(1, frame.shape[0])
    method = cv2.INTER_AREA if ratio < 0.5 else cv2.INTER_NEAREST if ratio >= 2 else cv2.INTER_LINEAR
    return cv2.resize(frame, size[::-1], interpolation=method)
