"""Frames of a camera, a stream from the network or a pipe, read in a thread and handed out one by one.

PyAV opens streams: it is there for files already, tells the times that a stream carries, and gives up after a time
that one can set. OpenCV opens cameras: by a number, on every system.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from videomolmo.errors import BadInput
from videomolmo.io.video_packets import Orientation, pixel_aspect, reason

PATIENCE_S = 10.0  # without a frame, after which a source is given up
MOST_WAITING, MOST_BYTES = 64, 1 << 28  # frames that wait to be taken
PROTOCOLS = ("http", "https", "rtsp", "rtsps", "rtmp", "rtmps", "srt", "udp", "rtp", "tcp")
URL, CAMERA = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+)://.+"), re.compile(r"camera:(.*)")
USUAL_FPS = 30.0
# What ffmpeg may open for a stream: a playlist from the network must not name files of this machine.
_ALLOWED = ",".join((*PROTOCOLS, "tls", "crypto", "httpproxy"))
_NO_TIMES = 0x80  # ffmpeg's flag of formats without times, such as MJPEG over HTTP


class Shot(NamedTuple):
    """A frame of a live source: how many came before it, dropped ones included, and when it came, in seconds."""

    number: int
    time_s: float
    picture: UInt8[np.ndarray, "height width 3"]


class LiveSource(Iterator[Shot]):
    """What `open_live` reads from; a thread of its own reads, from the beginning.

    Attributes:
        shown: its name without passwords.
        size: (height, width) of its frames; what comes in another size is scaled.
        fps: frames a second, as it says.
        can_wait: whether it loses nothing while nobody takes its frames.
    """

    def __init__(self, name: str) -> None:
        self.shown = without_password(name)
        camera = CAMERA.fullmatch(name)
        self._feed = _Camera(int(camera[1])) if camera else _Stream(name)
        try:
            self._feed.open()
            first = next(self._feed.frames(), None)
            if first is None:
                raise BadInput(f"{self.shown}: gives no frame; expected a video stream")
        except BaseException as error:
            self._feed.close()
            if not isinstance(error, OSError):
                raise
            raise BadInput(f"{self.shown}: cannot be opened ({error}); check the name, and who may use it") from None
        self.size, self.fps, self.pixel_aspect = self._feed.size, self._feed.fps, self._feed.pixel_aspect
        self.can_wait, frame_bytes = self._feed.can_wait, 3 * self.size[0] * self.size[1]
        self._most = max(2, min(MOST_WAITING, MOST_BYTES // frame_bytes))
        self._waiting, self._changed = deque(), threading.Condition()
        self._came = self._dropped = self._reconnected = 0
        self._first: tuple[int, float] | None = None  # number and time of the frame that was taken first
        self._over, self._why, self._stopped = False, "", False
        self._clock = _Clock(self.fps, self.can_wait)
        self._put(first)
        threading.Thread(target=self._read, name=self.shown, daemon=True).start()

    @property
    def warning(self) -> str | None:
        """What was lost, in one line; None where nothing was."""
        found = []
        if self._dropped:
            found.append(f"{self._dropped} frames were dropped while the models were busy")
        if self._reconnected:
            found.append(f"it was cut off and opened again, {self._reconnected} times")
        if self._why:
            found.append(self._why)
        return "; ".join(found) or None

    def report(self) -> dict[str, Any]:
        """Its name, and how many frames were dropped and how often it was opened again."""
        return {"source": self.shown, "dropped": self._dropped, "reconnected": self._reconnected}

    def end(self) -> None:
        """Give no more frames."""
        self._stopped = True

    def __next__(self) -> Shot:
        since = time.monotonic()
        while True:
            with self._changed:
                if self._stopped:
                    raise StopIteration
                if self._waiting:
                    number, when, frame = self._waiting.popleft()
                    self._first = self._first or (number, when)
                    self._changed.notify_all()
                    break
                if self._over:
                    raise StopIteration
                self._changed.wait(0.1)
            if not self.can_wait and time.monotonic() - since > 3 * PATIENCE_S:  # a camera that hangs
                self._why, self._over = f"no frame came for {3 * PATIENCE_S:.0f} s", True
        return Shot(number - self._first[0], when - self._first[1], self._feed.picture(frame, self.size))

    def _put(self, frame: tuple[float | None, Any]) -> None:
        with self._changed:
            while self.can_wait and len(self._waiting) >= self._most and not self._stopped:
                self._changed.wait(0.1)
            if not self.can_wait and len(self._waiting) >= (1 if self._first is None else self._most):
                self._waiting.popleft()
                self._dropped += self._first is not None
            self._waiting.append((self._came, self._clock.time_of(frame[0]), frame[1]))
            self._came += 1
            self._changed.notify_all()

    def _read(self) -> None:
        """In a thread: everything that comes, until it ends or nobody wants more."""
        try:
            while True:
                why = "it ended"
                try:
                    for frame in self._feed.frames():
                        self._put(frame)
                        if self._stopped:
                            return
                except OSError as error:
                    why = str(error)
                if self.can_wait:
                    self._why = "" if why == "it ended" else f"it broke off after {self._came} frames ({why})"
                    return
                if not self._opened_again(why):
                    return
        finally:
            self._over = True
            self._feed.close()

    def _opened_again(self, why: str) -> bool:
        until, pause = time.monotonic() + PATIENCE_S, 0.1
        while time.monotonic() < until and not self._stopped:
            time.sleep(pause)
            pause = min(2 * pause, 2.0)
            try:
                self._feed.close()
                self._feed.open()
                first = next(self._feed.frames(), None)
            except OSError as error:
                why = str(error)
                continue
            if first is not None:
                self._reconnected += 1
                self._clock.begin_anew()
                self._put(first)
                return True
        if self._stopped:
            return False
        self._why = f"it ended after {self._came} frames ({why}), and could not be opened again for {PATIENCE_S:.0f} s"
        return False


class _Clock:
    """Times of frames that rise: those that a stream carries, from when its first frame came, else when they come."""

    def __init__(self, fps: float, can_wait: bool) -> None:
        self.fps, self.can_wait, self._last, self._offset = fps, can_wait, None, None

    def begin_anew(self) -> None:
        """The stream begins again, at any time."""
        self._offset = None

    def time_of(self, told: float | None) -> float:
        """Of the next frame, in seconds."""
        step, now = 1 / self.fps, time.monotonic()
        if told is None:  # what waits for us comes when we take it, which tells nothing
            found = now if not self.can_wait or self._last is None else self._last + step
        else:
            self._offset = now - told if self._offset is None else self._offset
            found = told + self._offset
            if self._last is not None and not 0 < found - self._last < PATIENCE_S and not self.can_wait:
                self._offset, found = now - told, now  # its times jumped
        self._last = found if self._last is None else max(found, self._last + 0.001)
        return self._last


class _Stream:
    """Frames that PyAV reads from the network or a pipe."""

    def __init__(self, name: str) -> None:
        self.name, self._is_url = name, bool(URL.fullmatch(name))
        self._container, self._fifo = None, None

    def open(self) -> None:
        """Begin to read.

        Raises:
            OSError: it cannot be opened.
        """
        import av

        av.logging.set_level(None)
        options = {"protocol_whitelist": _ALLOWED, "rtsp_flags": "prefer_tcp"}
        if self._is_url:
            if self.name.lower().startswith("http"):
                options |= {"reconnect": "1", "reconnect_delay_max": "2"}  # where the server tells how long the file is
            with _as_os_error(PATIENCE_S):
                self._container = av.open(self.name, options=options, timeout=(PATIENCE_S, PATIENCE_S))
        else:
            if self.name == "-" and sys.stdin.isatty():
                raise OSError("nothing is piped into standard input")
            # Python opens a FIFO, for it listens to Ctrl-C while it waits for somebody to write
            if self.name != "-":
                self._fifo = os.open(self.name, os.O_RDONLY)
            number = 0 if self._fifo is None else self._fifo
            with _as_os_error():
                self._container = av.open(f"pipe:{number}", options={"protocol_whitelist": "pipe"})
        if not self._container.streams.video:
            raise OSError("it has no pictures")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "SLICE"  # frame by frame: threads that decode ahead would hold frames back
        self._has_times = not self._container.format.flags & _NO_TIMES
        told = self._container.duration
        self.can_wait = not self._is_url or told is not None
        self._start_s, self._lasts = ((t or 0) / av.time_base for t in (self._container.start_time, told))
        self._converter = av.video.reformatter.VideoReformatter()
        self.fps = float(self._stream.average_rate or self._stream.guessed_rate or USUAL_FPS)
        self._decoded = self._decode()

    def frames(self) -> Iterator[tuple[float | None, Any]]:
        """Each frame that is whole, with the time it carries.

        Raises:
            OSError: it is cut off.
        """
        return self._decoded

    def _decode(self) -> Iterator[tuple[float | None, Any]]:
        import av

        began, since, reached = False, time.monotonic(), 0.0
        packets = self._container.demux()  # all, so that one of nothing but sound is noticed
        while True:
            with _as_os_error(PATIENCE_S if self._is_url else None):
                packet = next(packets, None)
            if packet is None:
                if self._has_times and 0 < reached < self._lasts - 1:
                    raise OSError(f"of {self._lasts:.1f} s it had {reached:.1f}")
                return
            if self._is_url and time.monotonic() - since > PATIENCE_S:
                raise OSError(f"no frame that can be read for {PATIENCE_S:.0f} s")
            if (at := packet.dts if packet.pts is None else packet.pts) is not None:
                reached = max(reached, float((at + (packet.duration or 0)) * packet.time_base) - self._start_s)
            if packet.stream.index != self._stream.index:
                continue
            try:
                decoded = packet.decode()
            except av.FFmpegError:  # the middle of a stream, or a packet that was lost
                continue
            for frame in decoded:
                if frame.is_corrupt:
                    continue
                if not began:
                    self._orientation = Orientation.of(frame)
                    size = (frame.height, frame.width)
                    self.size = size[::-1] if self._orientation.swaps else size
                    self.pixel_aspect, began = pixel_aspect(self._stream, self._orientation), True
                yield frame.time if self._has_times else None, frame
                since = time.monotonic()

    def picture(self, frame: Any, size: tuple[int, int]) -> UInt8[np.ndarray, "height width 3"]:
        """RGB of a frame."""
        height, width = size[::-1] if self._orientation.swaps else size
        return self._orientation.apply(self._converter.reformat(frame, width, height, "rgb24").to_ndarray())

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
        if self._fifo is not None:  # which ffmpeg leaves open: whoever writes into it would wait for ever
            os.close(self._fifo)
            self._fifo = None


class _Camera:
    """Frames that OpenCV reads from a camera."""

    can_wait, pixel_aspect = False, Fraction(1)

    def __init__(self, index: int) -> None:
        self.index = index

    def open(self) -> None:
        import cv2

        log = cv2.utils.logging
        before = log.setLogLevel(log.LOG_LEVEL_SILENT)  # what it has to say about a missing camera is said here
        try:
            self._camera = cv2.VideoCapture(self.index)
        finally:
            log.setLogLevel(before)
        if not self._camera.isOpened():
            raise OSError(f"there is no camera {self.index}, or another program has it")
        told = self._camera.get(cv2.CAP_PROP_FPS)
        self.fps = told if 1 <= told <= 1000 else USUAL_FPS

    def frames(self) -> Iterator[tuple[None, np.ndarray]]:
        while True:
            there, frame = self._camera.read()
            if not there:
                raise OSError("the camera gives no more frames")
            self.size = frame.shape[:2]
            yield None, frame

    def picture(self, frame: np.ndarray, size: tuple[int, int]) -> UInt8[np.ndarray, "height width 3"]:
        """RGB of a frame."""
        import cv2

        if frame.shape[:2] != size:
            frame = cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA)
        return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)

    def close(self) -> None:
        if (camera := getattr(self, "_camera", None)) is not None:
            camera.release()


@contextmanager
def _as_os_error(patience_s: float | None = None) -> Iterator[None]:
    """What PyAV raises, of which only some is an OSError, as one; and that nothing came for so long."""
    import av

    since = time.monotonic()
    try:
        yield
    except av.FFmpegError as error:
        is_late = patience_s is not None and time.monotonic() - since >= patience_s
        raise OSError(f"no answer for {patience_s:.0f} s" if is_late else reason(error)) from None


def without_password(name: str) -> str:
    """A URL without a user and a password.

    Example:
        >>> without_password("rtsp://me:secret@host/1"), without_password("rtsp://me:s@cret@host/1?at=a@b")
        ('rtsp://host/1', 'rtsp://host/1?at=a@b')
    """
    return re.sub(r"(?<=://)[^/?#]*@", "", name)
