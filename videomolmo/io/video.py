"""A video file, a folder of images or an array becomes the same lazy sequence of RGB frames."""

from __future__ import annotations

import math
import operator
import os
import threading
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol, SupportsIndex, runtime_checkable

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from videomolmo.errors import BadInput
from videomolmo.io.images import IMAGE_SUFFIXES, read_folder
from videomolmo.io.plain_values import as_array, as_float, as_int, as_path
from videomolmo.io.video_decode import BrokenVideo, PyAVReader
from videomolmo.io.video_write import VideoWriter

__all__ = ["IMAGE_SUFFIXES", "READERS", "BrokenVideo", "Frames", "VideoWriter", "open_video"]

READERS = ("pyav", "decord")
_DEFAULT_FPS = 30.0
_COMPARED = 16  # frames, at or near key frames, where seeking goes wrong
_OTHER_LUMA, _OTHER_SHARE = 24, 0.002  # levels, and share of pixels, past what two decoders' colours differ by


@runtime_checkable
class _Reader(Protocol):
    """What stands behind `Frames`: anything that gives a frame for a number."""

    height: int
    width: int
    fps: float
    times_s: Float64[np.ndarray, " frames"]
    warning: str | None

    def __len__(self) -> int: ...

    def read(self, number: int) -> UInt8[np.ndarray, "height width 3"]: ...

    def close(self) -> None: ...


class Frames(Sequence):
    """A lazy, read-only sequence of RGB frames; make one with `open_video`.

    Frames are numbered in the order in which a player shows them. Reading them in order decodes each once; reading
    them at random seeks. Each frame handed out is the caller's own copy. Several threads may read at a time.

    Attributes:
        name: of the file or folder, or 'array'.
        source: path of the file or folder that holds these frames; None of an array.
        height, width: of every frame, pixels, turned and mirrored as the file's display matrix says.
        pixel_aspect: width of a pixel over its height; 1 of images and arrays.
        fps: mean frames a second.
        times_s: when each frame is shown, from 0.
        warning: None, or one line once it is known that the video breaks off: 'decoded 57 of 90 frames, then: ...', or
            'decoded 57 of 58 or more frames, then: ...' where the file does not say how many there were; or 'left out
            the first 12 frames, which do not decode'. It is known at opening when the file ends early or its container
            has a hole, and otherwise when reading comes to the place.
        is_live: whether each frame is had once, in order, and nobody knows how many will come.
        source_frames, source_times_s: of an excerpt or a live source, number and time of each frame where it comes
            from; None where these are the same.
    """

    is_live = False
    source_frames: Int64[np.ndarray, " frames"] | None = None
    source_times_s: Float64[np.ndarray, " frames"] | None = None

    def __init__(self, reader: _Reader, name: str, max_frames: int | None = None, source: Path | None = None):
        self._reader, self.name, self.source = reader, name, source
        self._lock = threading.RLock()  # a decoder serves one thread at a time
        self._length = len(reader) if max_frames is None else min(len(reader), max_frames)
        self.height, self.width, self.fps = reader.height, reader.width, reader.fps
        self.pixel_aspect: Fraction = getattr(reader, "pixel_aspect", Fraction(1))
        self.times_s = np.array(reader.times_s[: self._length], dtype=np.float64)

    @property
    def warning(self) -> str | None:
        return self._reader.warning

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: SupportsIndex) -> UInt8[np.ndarray, "height width 3"]:
        """Frame `number`; negative numbers count from the end.

        Raises:
            BrokenVideo: (a BadInput) the video does not decode as far as this frame.
            IndexError: no such number.
        """
        number = operator.index(number)
        if not -self._length <= number < self._length:
            raise IndexError(f"frame {number} of {self.name}: expected 0 to {self._length - 1}")
        with self._lock:
            return self._reader.read(number % self._length)

    def iterate(self, start: int = 0, stop: int | None = None) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
        """Frames `start` to before `stop` in order, each decoded once; ends where the video breaks (see `warning`)."""
        for number in range(*slice(start, stop).indices(self._length)):
            try:
                frame = self[number]
            except BrokenVideo:
                return
            yield frame

    def __iter__(self) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
        return self.iterate()

    def close(self) -> None:
        """Release the file; no frame can be read afterwards."""
        self._reader.close()

    def __enter__(self) -> Frames:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Frames({self.name!r}, {self._length} frames, {self.height}x{self.width}, {self.fps:.4g} fps)"


def open_video(
    source: str | os.PathLike | np.ndarray,
    reader: str = "pyav",
    max_frames: int | None = None,
    fps: int | float | None = None,
) -> Frames:
    """Frames of a video file, of a folder of images, or of an array.

    Args:
        source: path of a video file; path of a folder whose images (`IMAGE_SUFFIXES`), in natural order (frame 2 before
            frame 10) and turned as their EXIF tags say, are the frames; or the frames themselves, uint8 (frames,
            height, width, 3).
        reader: 'pyav', exact on every file it opens, or 'decord', which refuses files it would read wrongly; for video
            files only.
        max_frames: keep only so many frames from the start.
        fps: frames a second of a folder or an array, 30 unless given; a video file carries its own.

    Returns:
        The lazy sequence; close it or use it in a `with`.

    Raises:
        BadInput: the source is not what it should be; one line says what was given and what to do.

    Example:
        >>> frames = open_video(np.zeros((3, 48, 64, 3), dtype=np.uint8), fps=10)
        >>> frames
        Frames('array', 3 frames, 48x64, 10 fps)
        >>> frames[2].shape
        (48, 64, 3)
    """
    if reader not in READERS:
        raise BadInput(f"reader {reader!r}: expected one of {' or '.join(map(repr, READERS))}")
    most = None if max_frames is None else as_int(max_frames)
    if most is None and max_frames is not None:
        raise BadInput(f"max_frames={max_frames!r}: expected a whole number from 1, or None for all frames")
    rate = _DEFAULT_FPS if fps is None else as_float(fps)
    if rate is None or not (math.isfinite(rate) and rate > 0):
        raise BadInput(f"fps={fps!r}: expected a positive number of frames a second, such as 30")
    path = as_path(source)
    if path is None:
        return Frames(_ArrayReader(source, rate), "array", most)
    if path.is_dir():
        return Frames(read_folder(path, rate), path.resolve().name, most, path)
    if not path.is_file():
        raise BadInput(f"{path}: no such file or folder; expected a video file or a folder of images")
    if path.stat().st_size == 0:
        raise BadInput(f"{path}: the file is empty (0 bytes); expected a video, so copy or download it again")
    if fps is not None:
        raise BadInput(f"fps={fps} for {path}: a video file carries its own rate; give fps only with images or arrays")
    return Frames(PyAVReader(path) if reader == "pyav" else DecordReader(path), path.name, most, path)


class _ArrayReader:
    """Frames that are in memory already."""

    warning = None

    def __init__(self, frames: object, fps: float):
        frames = as_array(frames, "video source, which is no path")
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
            raise BadInput(f"video array is {frames.dtype} {frames.shape}: expected uint8 (frames, height, width, 3)")
        self._frames = frames
        _, self.height, self.width, _ = frames.shape
        self.fps, self.times_s = float(fps), np.arange(len(frames)) / fps

    def __len__(self) -> int:
        return len(self._frames)

    def read(self, number: int) -> UInt8[np.ndarray, "height width 3"]:
        return self._frames[number].copy()

    def close(self) -> None:
        """Nothing to release."""


class DecordReader:
    """The same frames through decord, refused where decord is known to give others.

    Args:
        path: video file.

    Raises:
        BadInput: decord is not installed, or its frames would not be those that a player shows.
    """

    def __init__(self, path: Path):
        try:
            import decord
        except ImportError:
            raise BadInput(
                "reader 'decord' is not installed; expected the package decord; install it or use reader 'pyav'"
            ) from None
        exact = PyAVReader(path)
        try:
            why = self._objection(exact)
            if not why:
                self._video = self._opened(decord, path)
                why = self._difference(exact)
        finally:
            exact.close()
        if why:
            raise BadInput(f"{path}: reader 'decord' would give wrong frames ({why}); use reader 'pyav'")
        self.height, self.width, self.fps, self.times_s = exact.height, exact.width, exact.fps, exact.times_s
        self.path, self.pixel_aspect, self.warning = path, exact.pixel_aspect, None

    @staticmethod
    def _objection(exact: PyAVReader) -> str | None:
        """Why decord must not read this file, or None."""
        if "mpegts" in exact.format:
            return "it hangs on MPEG-TS"
        if exact.warning:
            return exact.warning
        if any(exact.orientation):
            return "it does not apply the rotation tag"
        return "the file has open groups of pictures" if exact.open_gop else None

    @staticmethod
    def _opened(decord: Any, path: Path) -> Any:
        try:
            return decord.VideoReader(str(path), num_threads=1)
        except (decord.DECORDError, RuntimeError):
            raise BadInput(f"{path}: reader 'decord' cannot open it; use reader 'pyav'") from None

    def _difference(self, exact: PyAVReader) -> str | None:
        """Where decord's frames differ from the exact ones, or None; a few are compared, key by key from the end."""
        if len(self._video) != len(exact):
            return f"it counts {len(self._video)} where the file shows {len(exact)}"
        numbers = exact.key_numbers() or range(0, len(exact), 12)
        numbers = sorted({*numbers[:: -(-len(numbers) // _COMPARED)], len(exact) - 1})
        wanted = {number: _luma(exact.read(number)) for number in numbers}
        for number in reversed(numbers):
            try:
                got = _luma(self._video[number].asnumpy())
            except Exception:  # decord's own errors have no common base
                continue  # not a wrong frame: whoever reads it is told
            if got.shape != wanted[number].shape:
                return f"frame {number} has another size"
            if (abs(got - wanted[number]) > _OTHER_LUMA).mean() > _OTHER_SHARE:
                return f"frame {number} shows another picture"
        return None

    def __len__(self) -> int:
        return len(self._video)

    def read(self, number: int) -> UInt8[np.ndarray, "height width 3"]:
        """Frame `number`, 0 to len - 1."""
        try:
            return self._video[number].asnumpy()
        except Exception as error:  # decord's own errors have no common base
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            self.warning = self.warning or f"decoded {number} of {len(self)} frames, then: {reason}"
            raise BrokenVideo(f"{self.path}: reader 'decord' fails at frame {number} ({reason}); use 'pyav'") from None

    def close(self) -> None:
        """Release the decoder."""
        self._video = None


def _luma(frame: UInt8[np.ndarray, "height width 3"]) -> Float64[np.ndarray, "rows columns"]:
    """Brightness of every other pixel, in which decoders agree best."""
    return frame[::2, ::2] @ np.array([0.299, 0.587, 0.114])
