"""A video by whatever names it, and of it the stretch and the rate that are asked for."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from videomolmo.errors import BadInput
from videomolmo.io.capture import Shot
from videomolmo.io.files import RECORDING
from videomolmo.io.live import live_name, open_live
from videomolmo.io.plain_values import as_float, as_int
from videomolmo.io.video import Frames, open_video

_NEVER_CLOSER = 0.9  # steps: frames of an even rate are as close where a container rounds their times
_AS_WRITTEN = 1e-4  # seconds that a time may lie above the frame's own: tables round to so much
_SECONDS = re.compile(r"(\d+\.?\d*|\.\d+)(s|ms)?")
_CLOCK = re.compile(r"(?:(\d{1,15}):)?(\d{1,15}):([0-5]?\d(?:\.\d*)?)")
_FRAME = re.compile(r"(\d{1,15})f")  # Python refuses thousands of digits


def open_source(
    source: str | os.PathLike | np.ndarray,
    reader: str = "pyav",
    max_frames: int | None = None,
    *,
    start: float | str | None = None,
    end: float | str | None = None,
    fps: float | None = None,
) -> Frames:
    """Frames of a video file, a folder of images, an array, or a live source: all of them, or an excerpt.

    Args:
        source: as for `open_video`, or the name of a live source, see `videomolmo.io.live.open_live`.
        reader: as for `open_video`.
        max_frames: keep only so many frames, counted from `start`.
        start, end, fps: see `excerpt`.

    Raises:
        BadInput: as `open_video`, `open_live` or `excerpt`.
    """
    stretch = check_stretch(start, end, fps)
    most = None if max_frames is None else as_int(max_frames)
    if max_frames is not None and most is None:
        raise BadInput(f"max_frames={max_frames!r}: expected a whole number from 1, or None for all frames")
    if (name := live_name(source)) is not None:
        frames = open_live(name)
    elif not any(value is not None for value in stretch.values()):
        return open_video(source, reader, most)
    else:
        frames = open_video(source, reader)
    try:
        return excerpt(frames, **stretch, max_frames=most)
    except BaseException:
        frames.close()
        raise


def excerpt(
    frames: Frames,
    start: float | str | None = None,
    end: float | str | None = None,
    fps: float | None = None,
    max_frames: int | None = None,
) -> Frames:
    """Some frames of a video under numbers from 0 and times from 0 s, which know where they come from.

    As ffmpeg's filter `trim` has it, the first frame is the first one at or after `start`, and the first one at or
    after `end` is left out.

    Args:
        frames: of the video; closing the excerpt closes them.
        start, end: seconds (12.5, or as a text "12.5", "90s", "1500ms", "1:30", "00:01:30.5"), or the number of a
            frame as a text with an f behind it ("57f").
        fps: frames a second, evenly spaced from the first: at each step the frame that is nearest in time, none twice,
            so that there are never more than the video has. Of a live source the first one from each step on.
        max_frames: keep only so many of these.

    Raises:
        BadInput: a value that makes no sense, or no frame lies there.

    Example:
        >>> video = open_video(np.zeros((30, 48, 64, 3), np.uint8), fps=10)
        >>> excerpt(video, start=1, end="25f", fps=5).source_frames.tolist()
        [10, 12, 14, 16, 18, 20, 22, 24]
    """
    stretch = check_stretch(start, end, fps)
    start, end, fps = stretch["start"], stretch["end"], stretch["fps"]
    if frames.is_live:
        whole = start is None and end is None and fps is None and max_frames is None
        return frames if whole else frames.through(lambda shots: _passing(shots, start, end, fps, max_frames), fps)
    first, stop = (_number(at, frames.times_s) for at in (start or "0f", f"{len(frames)}f" if end is None else end))
    stop = min(stop, len(frames))
    if first >= len(frames):
        last = f"{len(frames)} frames, the last at {frames.times_s[-1]:.3f} s"
        raise BadInput(f"start is {start!r}, but {frames.name} has {last}; give an earlier one")
    if first >= stop:
        raise BadInput(
            f"no frame of {frames.name} lies between start, {start!r}, and end, {end!r}; give a longer stretch"
        )
    numbers = np.arange(first, stop)
    times_s = frames.times_s[first:stop]
    if fps is not None and (fps < frames.fps or np.diff(times_s).min(initial=np.inf) * fps < _NEVER_CLOSER):
        numbers = _nearest(times_s, fps) + first
    return Excerpt(frames, numbers[:max_frames], frames.fps if fps is None else min(fps, frames.fps))


def check_stretch(start: Any = None, end: Any = None, fps: Any = None) -> dict[str, float | str | None]:
    """The arguments of `excerpt` in JSON values: seconds as numbers, frames as "57f".

    Raises:
        BadInput: one that makes no sense.

    Example:
        >>> check_stretch("1:30", "2700f", 5)
        {'start': 90.0, 'end': '2700f', 'fps': 5.0}
    """
    first, stop = _moment(start, "start"), _moment(end, "end")
    rate = None if fps is None else as_float(fps)
    if fps is not None and (rate is None or not (math.isfinite(rate) and rate > 0)):
        raise BadInput(f"fps is {fps!r}, expected frames a second above 0, such as 5, or nothing for all frames")
    a, b = (int(one[:-1]) if isinstance(one, str) else one for one in (first, stop))
    if b == 0 or (a is not None and type(first) is type(stop) and a >= b):
        raise BadInput(f"end is {end!r}, expected a later one than start, {start or 0!r}")
    return {"start": first, "end": stop, "fps": rate}


def _moment(value: Any, name: str) -> float | str | None:
    """Seconds, or "57f"."""
    if value is None:
        return None
    if isinstance(value, str):
        text = value.strip()
        if found := _FRAME.fullmatch(text):
            return f"{int(found[1])}f"
        if found := _SECONDS.fullmatch(text):
            return float(found[1]) / (1000 if found[2] == "ms" else 1)
        if found := _CLOCK.fullmatch(text):
            return 3600 * int(found[1] or 0) + 60 * int(found[2]) + float(found[3])
    elif (seconds := as_float(value)) is not None and 0 <= seconds < math.inf:
        return seconds
    expected = "seconds (12.5), a time (1:30, 00:01:30.5), or the number of a frame with an f (57f)"
    raise BadInput(f"{name} is {value!r:.60}, expected {expected}")


def _number(at: float | str, times_s: Float64[np.ndarray, " frames"]) -> int:
    """The first frame at or after a moment."""
    return int(at[:-1]) if isinstance(at, str) else int(np.searchsorted(times_s, at - _AS_WRITTEN))


def _nearest(times_s: Float64[np.ndarray, " frames"], fps: float) -> Int64[np.ndarray, " chosen"]:
    """Which of these frames are nearest to even steps from the first; of two as near the later."""
    steps = int((times_s[-1] - times_s[0]) * fps + 1e-6) + 1
    between = (times_s[1:] + times_s[:-1]) / 2 - times_s[0]
    before = np.minimum(np.ceil((between - 1e-9) * fps), steps)  # how many steps are nearer to an earlier frame
    return np.flatnonzero(np.diff(before, prepend=0, append=steps) > 0)


def _passing(
    shots: Iterator[Shot], start: float | str | None, end: float | str | None, fps: float | None, most: int | None
) -> Iterator[Shot]:
    """Those of a live source that an excerpt holds."""
    first, taken, step = None, 0, 0
    for shot in shots:
        if _is_before(shot, start):
            continue
        if end is not None and not _is_before(shot, end):
            return
        first = shot.time_s if first is None else first
        if fps is not None and (shot.time_s - first) * fps < step - 1e-6:
            continue
        step = math.floor((shot.time_s - first) * (fps or 1) + 1e-6) + 1
        yield shot
        taken += 1
        if taken == most:
            return


def _is_before(shot: Shot, at: float | str | None) -> bool:
    if at is None:
        return False
    return shot.number < int(at[:-1]) if isinstance(at, str) else shot.time_s < at - _AS_WRITTEN


class Selected:
    """Some frames of a video under numbers from 0, for `Frames`; the video is closed with them.

    Args:
        frames: of the video.
        numbers: of those.
        times_s: theirs.
        fps: frames a second; None: the video's.
    """

    def __init__(
        self, frames: Frames, numbers: Sequence[int] | np.ndarray, times_s: Float64[np.ndarray, " chosen"],
        fps: float | None = None,
    ) -> None:  # fmt: skip
        self._frames, self._numbers, self.times_s = frames, numbers, times_s
        self.height, self.width, self.fps = frames.height, frames.width, fps or frames.fps
        self.pixel_aspect = frames.pixel_aspect

    @property
    def warning(self) -> str | None:
        return self._frames.warning

    def __len__(self) -> int:
        return len(self._numbers)

    def read(self, number: int) -> UInt8[np.ndarray, "height width 3"]:
        return self._frames[self._numbers[number]]

    def close(self) -> None:
        self._frames.close()


class Excerpt(Frames):
    """Frames of a video by their numbers there, rising, and with times from 0; see `excerpt`."""

    def __init__(self, frames: Frames, numbers: Int64[np.ndarray, " chosen"], fps: float | None = None) -> None:
        times_s = frames.times_s[numbers]
        super().__init__(Selected(frames, numbers, times_s - times_s[0], fps), frames.name, source=frames.source)
        if frames.source_frames is not None:
            self.source_frames, self.source_times_s = frames.source_frames[numbers], frames.source_times_s[numbers]
        elif not np.array_equal(numbers, np.arange(len(numbers))):
            self.source_frames, self.source_times_s = numbers, times_s


def from_source(frames: Frames, numbers: Int64[np.ndarray, " chosen"] | None) -> Frames:
    """Frames with these numbers in their source: of the source itself, or of the excerpt that they are.

    Raises:
        BadInput: the source has not so many.
    """
    if numbers is None or (frames.source_frames is not None and np.array_equal(frames.source_frames, numbers)):
        return frames
    if frames.source_frames is not None or (last := int(numbers[-1])) >= len(frames):
        what = "is another excerpt" if frames.source_frames is not None else f"has no frame {last}"
        raise BadInput(f"{frames.name} {what}, and the result is of an excerpt; give the video itself")
    return Excerpt(frames, numbers)


def stored_source(metadata: dict[str, Any], folder: Path, video: Any = None) -> dict[str, Any]:
    """What run.json tells of where the frames come from, taken out of it, as fields of a result.

    Args:
        metadata: of run.json.
        folder: where the recording of a live source lies.
        video: what replaces it.
    """
    names = ("source_frames", "source_times_s")
    found = {name: np.array(metadata.pop(name)) for name in names if name in metadata}
    if "live" in metadata and video is None and (folder / RECORDING).is_file():
        found["recording"] = folder / RECORDING
    return found


def is_file_or_folder(path: str | Path) -> bool:
    """Whether a path, as a file may tell it, leads to a video: not to a pipe, and to nowhere but this disk."""
    try:
        return os.path.isfile(path) or os.path.isdir(path)
    except ValueError:  # a path with a null byte
        return False


def plain_source(source: Any) -> str | None:
    """The source's path; of names that are no text (Linux allows any bytes) a readable likeness."""
    if not isinstance(source, (str, Path)):
        return None
    return os.fsencode(Path(source).resolve()).decode("utf-8", "backslashreplace")
