"""Pictures that carry their number, so that each frame that comes out of a file can be told from the others."""

from __future__ import annotations

import numpy as np

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
