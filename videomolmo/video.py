"""One door to frames: a video file, a folder of images or an array becomes the same lazy sequence of RGB frames."""

from __future__ import annotations

import math
import operator
import re
import threading
from collections.abc import Iterator, Sequence
from fractions import Fraction
from numbers import Integral
from pathlib import Path
from typing import Any, Protocol, SupportsIndex, runtime_checkable

import numpy as np
from jaxtyping import Float64, UInt8

from videomolmo.errors import BadInput
from videomolmo.video_decord import DecordReader
from videomolmo.video_read import BrokenVideo, PyAVReader
from videomolmo.video_write import VideoWriter

__all__ = ["IMAGE_SUFFIXES", "READERS", "BrokenVideo", "Frames", "VideoWriter", "open_video"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
READERS = ("pyav", "decord")
_DEFAULT_FPS = 30.0


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
        source: path of the file or folder that holds these frames and no others; None of an array.
        height, width: of every frame, pixels, turned and mirrored as the file's display matrix says.
        pixel_aspect: width of a pixel over its height; 1 of images and arrays.
        fps: mean frames a second.
        times_s: when each frame is shown, from 0.
        warning: None, or one line once it is known that the video breaks off: 'decoded 57 of 90 frames, then: ...', or
            'decoded 57 of 58 or more frames, then: ...' where the file does not say how many there were; or 'left out
            the first 12 frames, which do not decode'. It is known at opening when the file ends early or its container
            has a hole, and otherwise when reading comes to the place.
    """

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
    source: str | Path | np.ndarray,
    reader: str = "pyav",
    max_frames: int | None = None,
    fps: int | float | None = None,
) -> Frames:
    """Frames of a video file, of a folder of images, or of an array.

    Args:
        source: path of a video file; path of a folder whose images, in natural order (frame 2 before frame 10), are
            the frames; or the frames themselves, uint8 (frames, height, width, 3).
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
    if max_frames is not None and (
        isinstance(max_frames, bool) or not isinstance(max_frames, Integral) or max_frames < 1
    ):
        raise BadInput(f"max_frames={max_frames!r}: expected a whole number from 1, or None for all frames")
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise BadInput(f"fps={fps}: expected a positive number of frames a second, such as 30")
    if not isinstance(source, (str, Path)):
        return Frames(_ArrayReader(source, fps or _DEFAULT_FPS), "array", max_frames)
    path = Path(source)
    if path.is_dir():
        return Frames(_FolderReader(path, fps or _DEFAULT_FPS), path.resolve().name, max_frames, path)
    if not path.is_file():
        raise BadInput(f"{path}: no such file or folder; expected a video file or a folder of images")
    if path.stat().st_size == 0:
        raise BadInput(f"{path}: the file is empty (0 bytes); expected a video, so copy or download it again")
    if fps is not None:
        raise BadInput(f"fps={fps} for {path}: a video file carries its own rate; give fps only with images or arrays")
    return Frames(PyAVReader(path) if reader == "pyav" else DecordReader(path), path.name, max_frames, path)


class _ArrayReader:
    """Frames that are in memory already."""

    warning = None

    def __init__(self, frames: Any, fps: int | float):
        if not isinstance(frames, np.ndarray):
            kind = type(frames).__name__
            raise BadInput(f"video source is a {kind}: expected a path or a numpy array (frames, height, width, 3)")
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


class _FolderReader:
    """Frames that are image files, turned as their EXIF tags say; only their headers are read at first."""

    warning: str | None = None

    def __init__(self, folder: Path, fps: int | float):
        self._paths = sorted(
            (p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")),
            key=lambda path: _natural(path.name),
        )
        if not self._paths:
            raise BadInput(f"{folder}: no image in this folder; expected files ending in {', '.join(IMAGE_SUFFIXES)}")
        self.width, self.height = _header_size(self._paths[0])
        for path in self._paths[1:]:
            width, height = _header_size(path)
            if (width, height) != (self.width, self.height):
                raise BadInput(
                    f"{folder}: {self._paths[0].name} is {self.width}x{self.height}, {path.name} is {width}x{height}; "
                    "expected images of one size, so resize them or move the odd ones away"
                )
        self.fps, self.times_s = float(fps), np.arange(len(self._paths)) / fps

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, number: int) -> UInt8[np.ndarray, "height width 3"]:
        from PIL import Image, ImageOps

        path = self._paths[number]
        try:
            with Image.open(path) as image:
                return np.array(ImageOps.exif_transpose(image).convert("RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            self.warning = f"decoded {number} of {len(self)} frames, then: {path.name} cannot be read ({error})"
            raise BrokenVideo(f"{path}: the image cannot be read ({error}); replace or remove it") from None

    def close(self) -> None:
        """Nothing to release."""


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which frame2 precedes frame10, whatever the case.

    Example:
        >>> sorted(["f10.png", "F2.png", "f1.png"], key=_natural)
        ['f1.png', 'F2.png', 'f10.png']
    """
    parts = re.split(r"([0-9]+)", name.lower())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts] + [(2, 0, name)]


def _header_size(path: Path) -> tuple[int, int]:
    """Width and height, as shown, of an image from its header."""
    from PIL import ExifTags, Image

    try:
        with Image.open(path) as image:
            mode, size = image.mode, image.size
            sideways = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    except (OSError, SyntaxError, ValueError):
        raise BadInput(f"{path}: not an image that can be read; replace or remove it") from None
    except Image.DecompressionBombError as error:
        raise BadInput(f"{path}: the image is too large ({error}); replace it by a smaller one") from None
    if mode.startswith(("I", "F")):
        raise BadInput(f"{path}: has more than 8 bits a channel (mode {mode}); convert it to an 8-bit image")
    return size[::-1] if sideways else size
