"""Frames for two: decoded when the first one takes them, and held until the second one does."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8

from videomolmo.errors import BadInput
from videomolmo.io.timing import Stopwatch
from videomolmo.io.video import Frames

Frame = UInt8[np.ndarray, "height width 3"]
MOST_HELD = 2**29  # bytes of frames that wait for the second


class Decoded(Iterator):
    """The frames of a video, decoded as they are taken, and their `count` so far.

    The clock counts that as "io/decoding". Told to `keep`, it holds those that were taken until they are taken
    `again`; where they grow too many, because a model reads far ahead, they are decoded again instead.
    """

    def __init__(self, video: Frames, clock: Stopwatch) -> None:
        self._video, self._clock = video, clock
        self._frames = self._clock.each("io/decoding", self._video.iterate())
        self.count = 0
        self._taken: deque[Frame] | None = None

    def keep(self) -> None:
        """From now on, for `again`."""
        self._taken = deque()

    def __next__(self) -> Frame:
        frame = next(self._frames)
        self.count += 1
        if self._taken is not None:
            self._taken.append(frame)
            if len(self._taken) * frame.nbytes > MOST_HELD and not self._video.is_live:
                start = self.count - len(self._taken)
                self._second, self._taken = self._clock.each("io/decoding", self._video.iterate(start)), None
        return frame

    def again(self) -> Iterator[Frame]:
        """Frames from the first, decoded where nobody took them yet."""
        while True:
            if self._taken is None:
                frame = next(self._second, None)
                if frame is None:
                    return
                yield frame
            elif self._taken or next(self, None) is not None:
                yield self._taken.popleft()
            else:
                return

    def take_rest(self) -> int:
        """How many frames there are, those that nobody took included.

        Raises:
            BadInput: there is none.
        """
        for _ in self:
            pass
        if not self.count:
            raise BadInput(f"{self._video.name}: no frame could be decoded; check the file with another player")
        return self.count
