"""A video file from frames: H.264 that browsers play, under its name only once it is whole."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from videomolmo.errors import BadInput
from videomolmo.io.files import move_into_place, os_reason, temporary_folder

_SUFFIXES = (".mp4", ".m4v", ".mov")
_TICKS = 120_000  # a second, of which the usual rates, milliseconds and 30000/1001 are whole numbers
_BT709 = 1  # ffmpeg's number for BT.709 colours, the same for matrix, primaries and transfer


def _ticks(times_s: Sequence[float] | np.ndarray) -> list[int]:
    """Times in whole units of `_TICKS`, the first at 0; one that does not rise comes right after the one before."""
    times = np.asarray(times_s, dtype=np.float64)
    if times.ndim != 1 or not times.size or not np.isfinite(times).all() or np.ptp(times) * _TICKS > 1 << 53:
        raise BadInput(f"times_s of shape {times.shape}: expected a finite time in seconds for each frame")
    order = np.arange(len(times))
    return (np.maximum.accumulate(np.rint((times - times[0]) * _TICKS) - order) + order).astype(int).tolist()


class VideoWriter:
    """Writes RGB frames to an H.264 file: yuv420p, index in front, BT.709 colours, as browsers want it.

    The frames go to a file in a hidden folder beside `path`, which takes that name at `close`; when the `with` block
    ends in an exception that folder is removed and an older file of that name stays as it was. A recording, whose times
    are told with its frames, has its name from the first and keeps it: it consists of pieces of a second that are whole
    on the disk, so that what there is of it can be read, whatever ends the process.

    Args:
        path: file to write, ending in .mp4, .m4v or .mov; its folder must exist.
        fps: frames a second; 29.97 and its like are kept as fractions.
        height: of each frame, pixels.
        width: of each frame, pixels. An odd size is made even in the file by repeating the last row or column.
        times_s: when each frame is shown, in seconds; by default `fps` tells. The last one, and frames after it, stay
            as long as most do. () in a recording, where each is told with its frame.
        pixel_aspect: width of a pixel over its height, as players are to show it.

    Raises:
        BadInput: a suffix that is no mp4, a folder that is not there, a size, rate or shape that is not positive, times
            that are not finite, or, at the first frame, a size that the encoder does not take.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> with VideoWriter(Path(folder.name) / "black.mp4", fps=30, height=48, width=64) as video:
        ...     video.write(np.zeros((48, 64, 3), dtype=np.uint8))
        >>> [path.name for path in Path(folder.name).iterdir()]
        ['black.mp4']
        >>> folder.cleanup()
    """

    def __init__(
        self,
        path: str | Path,
        fps: int | float | Fraction,
        height: int,
        width: int,
        times_s: Sequence[float] | np.ndarray | None = None,
        pixel_aspect: float | Fraction = 1,
    ):
        self.path = Path(path)
        if self.path.suffix.lower() not in _SUFFIXES:
            raise BadInput(f"{path}: cannot write {self.path.suffix or 'a name without suffix'}; name it *.mp4")
        if not self.path.parent.is_dir():
            raise BadInput(f"{path}: its folder {self.path.parent} does not exist; create it first")
        if self.path.is_dir():
            raise BadInput(f"{path}: is a folder; expected the name of a file to write")
        if not (math.isfinite(fps) and fps > 0):
            raise BadInput(f"fps={fps}: expected a positive number of frames a second, such as 30")
        if height < 1 or width < 1:
            raise BadInput(f"height={height}, width={width}: expected at least 1 pixel each")
        if not (math.isfinite(pixel_aspect) and pixel_aspect > 0):
            raise BadInput(f"pixel_aspect={pixel_aspect}: expected width over height, such as 1")
        self.height, self.width, self.frames = height, width, 0
        self._rate = Fraction(fps).limit_denominator(1001) or Fraction(1, 1001)
        self._aspect = Fraction(pixel_aspect).limit_denominator(1 << 15)
        self._unit, self._ticks, self._lasting = 1 / self._rate, None, {}
        self._grows = times_s is not None and not len(times_s)
        if times_s is not None:
            self._unit, self._ticks = Fraction(1, _TICKS), [] if self._grows else _ticks(times_s)
            self._usual = self._usual_gap(self._ticks)
        self._container, self._until_done = None, ExitStack()
        try:
            folder = self.path.parent
            if not self._grows:
                folder = self._until_done.enter_context(temporary_folder(folder))
            self._temporary = folder / self.path.name
            self._open()
        except OSError as error:
            self._until_done.close()
            raise BadInput(f"{self.path}: cannot be written ({os_reason(error)}); choose another folder") from None

    def _open(self) -> None:
        import av

        self._reformatter = av.video.reformatter.VideoReformatter()  # a frame's own would begin anew with each
        options = {"movflags": "+faststart"}
        if self._grows:
            pieces = "+frag_keyframe+empty_moov+default_base_moof"
            options = {"movflags": pieces, "frag_duration": "1000000", "flush_packets": "1"}
        self._container = av.open(f"file:{self._temporary}", "w", options=options)
        # One thread and no look-ahead: with either, x264 writes the same frames differently from run to run.
        repeatable = "threads=1:rc-lookahead=0:sync-lookahead=0:mbtree=0"
        if self._grows:
            repeatable += ":bframes=0"  # no picture waits for one that comes later
        options = {"crf": "18", "preset": "superfast", "x264-params": repeatable}
        self._stream = self._container.add_stream("libx264", rate=self._rate, options=options)
        self._stream.height, self._stream.width = self.height + self.height % 2, self.width + self.width % 2
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        context.time_base, context.sample_aspect_ratio = self._unit, self._aspect
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = 1  # limited range, what players expect of yuv420p

    def write(self, frame: np.ndarray, time_s: float | None = None) -> None:
        """Add one frame.

        Args:
            frame: RGB, uint8 (height, width, 3), of the size given to the writer.
            time_s: when it is shown, of a writer that was told no times but ().

        Raises:
            BadInput: another size or type, or the writer is closed.
        """
        import av

        if self._container is None:
            raise BadInput(f"{self.path}: the writer is closed; open a new one to write more frames")
        frame = np.asarray(frame)
        if frame.dtype != np.uint8 or frame.shape != (self.height, self.width, 3):
            raise BadInput(
                f"frame {self.frames} is {frame.dtype} {frame.shape}; expected uint8 ({self.height}, {self.width}, 3)"
            )
        if time_s is not None:
            self._first_s = time_s if not self._ticks else self._first_s
            self._ticks.append(max(round((time_s - self._first_s) * _TICKS), self._ticks[-1] + 1 if self._ticks else 0))
        if self.height % 2 or self.width % 2:
            frame = np.pad(frame, ((0, self.height % 2), (0, self.width % 2), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture = self._reformatter.reformat(picture, format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        picture.pts, picture.time_base = self._when(self.frames), self._unit
        self._lasting[picture.pts] = self._when(self.frames + 1) - picture.pts
        with self._refusal_in_one_line():
            self._mux(picture)
        self.frames += 1

    def _mux(self, picture: Any) -> None:
        """Write what the encoder has ready after a picture, or after the last one."""
        for packet in self._stream.encode(picture):
            packet.duration = self._lasting.pop(packet.pts, packet.duration)  # the encoder knows the mean rate only
            self._container.mux(packet)

    def _when(self, number: int) -> int:
        """When frame `number` is shown, in units of the file."""
        if self._ticks is None:
            return number
        known = len(self._ticks)
        if number < known:
            return self._ticks[number]
        usual = self._usual_gap(self._ticks[-100:]) if self._grows else self._usual
        return self._ticks[-1] + (number - known + 1) * usual

    def _usual_gap(self, ticks: Sequence[int]) -> int:
        """Between frames shown at these moments, in units of the file."""
        usual = np.median(np.diff(ticks)) if len(ticks) > 1 else _TICKS / self._rate
        return max(round(usual), _TICKS // 1000)  # below a millisecond in all, MP4 says that a video has no length

    def close(self) -> None:
        """Finish the file and give it its name.

        Raises:
            BadInput: no frame was written.
        """
        if self._container is None:
            return
        if not self.frames:
            self.abandon()
            raise BadInput(f"{self.path}: no frame was written; write at least one before closing")
        try:
            with self._refusal_in_one_line():
                self._mux(None)
                self._container.close()
            if not self._grows:
                move_into_place(self._temporary, self.path)
        except BaseException:
            self.abandon()
            raise
        self._container = None
        self._until_done.close()

    def abandon(self) -> None:
        """Stop and remove what was written; the file of that name, if any, stays as it was."""
        import av

        container, self._container = self._container, None
        try:
            if container is not None:
                container.close()
        except (OSError, av.FFmpegError):
            pass  # nobody needs the end of this file
        finally:
            self._until_done.close()

    @contextmanager
    def _refusal_in_one_line(self) -> Iterator[None]:
        """What the encoder or the disk refuses, as bad input."""
        import av

        try:
            yield
        except av.FFmpegError as error:
            raise BadInput(
                f"{self.path}: frames of {self.width}x{self.height} cannot be written ({error.strerror}); give smaller "
                "ones, or another folder where the disk is full"
            ) from error

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None or (self._grows and self.frames):
            self.close()
        else:
            self.abandon()
