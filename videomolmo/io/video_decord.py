"""Frames of a video file through decord, where it gives those that a player shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8

from videomolmo.errors import BadInput
from videomolmo.io.video_decode import BrokenVideo, PyAVReader

_COMPARED = 16  # frames, at or near key frames, where seeking goes wrong
_OTHER_LUMA, _OTHER_SHARE = 24, 0.002  # levels, and share of pixels, past what two decoders' colours differ by


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
        if any(exact.turn):
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
