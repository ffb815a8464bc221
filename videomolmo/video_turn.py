"""How a player shows stored pictures: turned, mirrored, and with pixels of which shape."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8


class Turn(NamedTuple):
    """What a display matrix does to a stored picture: change rows and columns, then mirror.

    Attributes:
        swaps: rows become columns.
        right_to_left, upside_down: what is mirrored after that.
    """

    swaps: bool = False
    right_to_left: bool = False
    upside_down: bool = False

    @classmethod
    def of(cls, frame: Any) -> Turn:
        """That of a decoded frame; of a matrix that turns by other than quarters, the nearest."""
        matrix = next((bytes(data) for data in frame.side_data if data.type.name == "DISPLAYMATRIX"), None)
        if matrix is None:
            return cls()
        (x_of_x, y_of_x), (x_of_y, y_of_y) = np.frombuffer(matrix, np.int32, 9).reshape(3, 3)[:2, :2].tolist()
        if abs(x_of_x) + abs(y_of_y) >= abs(y_of_x) + abs(x_of_y):
            return cls(False, x_of_x < 0, y_of_y < 0)
        return cls(True, x_of_y < 0, y_of_x < 0)

    def apply(self, image: UInt8[np.ndarray, "rows columns 3"]) -> UInt8[np.ndarray, "height width 3"]:
        """The picture as it is shown, a view of the stored one."""
        image = image.swapaxes(0, 1) if self.swaps else image
        return image[:: -1 if self.upside_down else 1, :: -1 if self.right_to_left else 1]


def pixel_aspect(stream: Any, turn: Turn) -> Fraction:
    """Width of a pixel over its height, as shown, for a stream and how its pictures are turned."""
    aspect = stream.sample_aspect_ratio
    if not aspect or aspect < 0:
        return Fraction(1)
    return 1 / aspect if turn.swaps else Fraction(aspect)
