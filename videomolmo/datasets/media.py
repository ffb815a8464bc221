"""Where the frames of a record come from: image files, a video file, or a function; nothing is opened before asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from videomolmo.datasets.files import MissingFile, Unreadable
from videomolmo.io.images import ImageReader, image_size
from videomolmo.io.video import Frames, open_video

VIDEO_SUFFIXES = (".mp4", ".webm", ".mkv", ".mov", ".avi")
_DEFAULT_FPS = 30.0  # what `open_video` takes where the source does not tell


@dataclass(frozen=True)
class ImageSequence:
    """Frames that are image files.

    Args:
        files: one image for each frame.
        names: what annotations and predictions call each frame.
        times_s: when each frame is shown, where the data set says so.
    """

    files: tuple[Path, ...]
    names: tuple[str, ...]
    times_s: tuple[float, ...] | None = None

    def open(self, fps: float | None) -> Frames:
        if not self.files:
            raise Unreadable(f"{self.names or 'record'}: has no frame")
        reader = ImageReader(self.files, fps or _DEFAULT_FPS, self.times_s, annotated=True)
        return Frames(reader, self.files[0].parent.name)

    def size(self) -> tuple[int, int]:
        return image_size(self.files[0], as_stored=True)

    def check(self) -> list[Exception]:
        """What is wrong with the files, from their headers."""
        return [error for path in self.files if (error := _failure(lambda path=path: image_size(path, as_stored=True)))]


@dataclass(frozen=True)
class VideoFile:
    """Frames of a video file or of a folder with images.

    Args:
        candidates: where the file may be; the first one there is taken.
        names: of the frames that belong to the record; empty for all frames of the file.
        numbers: which frames of the file these are.
        times_s: or the seconds at which they are shown; the nearest frame is taken.
        height_width: size in pixels where the data set says so.
    """

    candidates: tuple[Path, ...]
    names: tuple[str, ...] = ()
    numbers: tuple[int, ...] | None = None
    times_s: tuple[float, ...] | None = None
    height_width: tuple[int, int] | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path(),)

    def path(self) -> Path:
        """The first candidate that is there.

        Raises:
            MissingFile: none is.
        """
        for path in self.candidates:
            if path.exists():
                return path
        names = ", ".join(dict.fromkeys(path.name for path in self.candidates))
        raise MissingFile(f"{self.candidates[0].parent}: no video {names}")

    def open(self, fps: float | None) -> Frames:
        path = self.path()
        frames = open_video(path, fps=fps if path.is_dir() else None)
        numbers = self.numbers
        if numbers is None and self.times_s is not None:
            numbers = tuple(int(np.abs(frames.times_s - time).argmin()) for time in self.times_s)
        return frames if numbers is None else Frames(_Selected(frames, numbers), frames.name)

    def size(self) -> tuple[int, int]:
        if self.height_width:
            return self.height_width
        with self.open(None) as frames:
            return frames.height, frames.width

    def check(self) -> list[Exception]:
        failure = _failure(self._look)
        return [failure] if failure else []

    def _look(self) -> None:
        """Open the file as far as its header."""
        path = self.path()
        if path.is_dir():
            open_video(path).close()
            return
        import av

        try:
            with av.open(f"file:{path}", metadata_errors="replace") as container:
                if not container.streams.video:
                    raise Unreadable(f"{path}: has no picture")
        except av.FFmpegError as error:
            raise Unreadable(f"{path}: not a video that can be opened ({error})") from None


@dataclass(frozen=True)
class GeneratedFrames:
    """Frames that a function makes."""

    make: Callable[[], UInt8[np.ndarray, "frames height width 3"]]
    names: tuple[str, ...]
    height_width: tuple[int, int]
    files: tuple[Path, ...] = ()
    times_s: None = None

    def open(self, fps: float | None) -> Frames:
        return open_video(self.make(), fps=fps)

    def size(self) -> tuple[int, int]:
        return self.height_width

    def check(self) -> list[Exception]:
        return []


def video_file(*stems: Path, **known: object) -> VideoFile:
    """A video with one of these names, written with its suffix or without it."""
    ends = ("", *VIDEO_SUFFIXES)
    return VideoFile(tuple(stem.with_name(stem.name + end) for stem in stems for end in ends), **known)


def _failure(look: Callable[[], object]) -> Exception | None:
    try:
        look()
    except (MissingFile, Unreadable) as error:
        return error
    except ValueError as error:
        return Unreadable(str(error))
    return None


class _Selected:
    """Some frames of a video under numbers from 0."""

    def __init__(self, frames: Frames, numbers: Sequence[int]):
        beyond = [number for number in numbers if not 0 <= number < len(frames)]
        if beyond:
            frames.close()
            raise Unreadable(f"{frames.name}: has {len(frames)} frames; frame {beyond[0]} is annotated")
        self._frames, self._numbers = frames, numbers
        self.height, self.width, self.fps = frames.height, frames.width, frames.fps
        self.times_s, self.pixel_aspect = frames.times_s[list(numbers)], frames.pixel_aspect

    @property
    def warning(self) -> str | None:
        return self._frames.warning

    def __len__(self) -> int:
        return len(self._numbers)

    def read(self, number: int) -> UInt8[np.ndarray, "height width 3"]:
        return self._frames[self._numbers[number]]

    def close(self) -> None:
        self._frames.close()
