"""Pictures that carry their number, so that each frame that comes out of a file can be told from the others."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

HEIGHT, WIDTH = 96, 128


def picture(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A moving pattern with `number` as eight black or white blocks at the top."""
    pattern = np.add.outer(3 * np.arange(height), 2 * np.arange(width) + 5 * number) % 200
    frame = np.repeat(pattern[..., None], 3, axis=2).astype(np.uint8)
    for bit in range(8):
        frame[:24, bit * 16 : (bit + 1) * 16] = 255 * (number >> bit & 1)
    return frame


def number_of(frame: np.ndarray) -> int:
    """The number a frame carries."""
    return sum(int(frame[4:20, bit * 16 + 4 : bit * 16 + 12].mean() > 128) << bit for bit in range(8))


def encode(path: Path, codec="libx264", count=60, options=None, pix_fmt="yuv420p", times_ms=None, **more):
    """A file whose frames carry 0 to count - 1; `more`: turn, matrix, aspect of pixels, and what `av.open` takes."""
    turn, matrix, aspect = more.pop("turn", None), more.pop("matrix", None), more.pop("aspect", None)
    with av.open(str(path), "w", **more) as container:
        stream = container.add_stream(codec, rate=30, options=options or {})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, pix_fmt
        unit = Fraction(1, 1000) if times_ms else Fraction(1, 30)
        stream.codec_context.time_base = unit
        if turn:
            stream.set_display_rotation(turn)
        if matrix:
            stream.set_display_matrix(matrix)
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(picture(number))
            frame.pts, frame.time_base = (times_ms[number] if times_ms else number), unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def needs(codec: str) -> None:
    try:
        av.Codec(codec, "w")
    except av.codec.codec.UnknownCodecError:
        pytest.skip(f"this PyAV has no encoder {codec}")
