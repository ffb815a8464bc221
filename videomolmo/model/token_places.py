"""Points as chosen places: which image token, patch and cell a point of a frame lies in, and where such a place is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from videomolmo.model.config import ImageConfig
from videomolmo.model.image import canvas_size, fitted_size, select_tiling
from videomolmo.model.point_heads import CELLS
from videomolmo.points import read_points, unescape, write_points

SLOTS = 4  # patches of a token, left before right and upper before lower
END = "</points>"  # after the label, which follows a list of chosen places
_TAG = re.compile(r"\s*<(points?)\b[^<>]*>([^<>]*)</\1>")
_PLACE = re.compile(r"<POINT_(\d+)>")
_LIST = re.compile(rf"((?:{_PLACE.pattern})+)(?:([^<]*){END})?")


class Places(NamedTuple):
    """The fine grid of patches on a frame.

    Args:
        first: number of its first image token; those before are of the overview crop and cannot be chosen.
        rows, columns: of patches.
        span: height and width of the frame on the grid, in patches.
        offset: of its upper left corner, in patches.
    """

    first: int
    rows: int
    columns: int
    span: tuple[float, float]
    offset: tuple[float, float]

    @classmethod
    def of(cls, height: int, width: int, config: ImageConfig) -> Places:
        """The grid on a frame of this size (pixels)."""
        tiling, target = select_tiling(height, width, config), (config.size_px, config.size_px)
        first = 0 if tiling == (0, 0) else config.windows
        if first:
            target = canvas_size(tiling, config)
        fitted = (*target, 0, 0) if config.resize == "stretch" else fitted_size(height, width, target)
        in_patches = [pixels / config.patch_px for pixels in fitted]
        rows, columns = (side // config.patch_px for side in target)
        return cls(first, rows, columns, tuple(in_patches[:2]), tuple(in_patches[2:]))

    def chosen(self, points: Float64[np.ndarray, "points 2"]) -> Int64[np.ndarray, "points 3"]:
        """Image token, patch of it and cell of that, for each point (x and y as shares of the frame).

        Cells are numbered column by column, as published.

        Example:
            >>> Places.of(96, 96, ImageConfig(size_px=96, patch_px=8, max_crops=0, resize="stretch")).chosen(
            ...     np.array([[0.0, 0.0], [0.999, 0.5]])).tolist()
            [[0, 0, 0], [23, 1, 6]]
        """
        at = points[:, ::-1] * self.span + self.offset  # y, x
        patch = np.floor(at).clip(0, (self.rows - 1, self.columns - 1)).astype(np.int64)
        row, column = patch.T
        inside = np.floor((at - patch) * CELLS).clip(0, CELLS - 1).astype(np.int64)
        token = self.first + row // 2 * (self.columns // 2) + column // 2
        return np.stack([token, row % 2 * 2 + column % 2, inside[:, 1] * CELLS + inside[:, 0]], axis=1)

    def points(self, chosen: Int64[np.ndarray, "points 3"]) -> Float64[np.ndarray, "points 2"]:
        """Middles of chosen cells: x and y as shares of the frame, into which those beside it are moved.

        Differs: cells are thirds of a patch; published code has .33 of it.
        """
        token, slot, cell = chosen.T
        row, column = np.divmod(token - self.first, self.columns // 2)
        row, column = row * 2 + slot // 2, column * 2 + slot % 2
        at = np.stack([row + (cell % CELLS + 0.5) / CELLS, column + (cell // CELLS + 0.5) / CELLS], axis=1)
        return ((at - self.offset) / self.span)[:, ::-1].clip(0, 1)

    def listed(self, points: Float64[np.ndarray, "points 2"]) -> tuple[Int64[np.ndarray, "kept 3"], np.ndarray]:
        """Chosen places in the order they are written in, and which point each is of.

        Differs: of points in one patch one is kept, for no second one can be written (`Rules`); published targets
        keep them.
        """
        chosen = self.chosen(points)
        order = np.lexsort(chosen.T[::-1])
        chosen = chosen[order]
        is_new = np.ones(len(chosen), bool)
        is_new[1:] = (chosen[1:, :2] != chosen[:-1, :2]).any(axis=1)
        return chosen[is_new], order[is_new]


def apart(answer: str, places: Places) -> tuple[str, Int64[np.ndarray, "points 3"], str]:
    """An answer's text before its list of points, the chosen places, and what is said after them, the label first.

    Without points all of it is before.
    """
    found = _TAG.search(answer)
    read = None if found is None else read_points(found[0], 1000, 1000)
    if read is None or read.outcome != "found":
        return answer, np.zeros((0, 3), np.int64), ""
    chosen, _ = places.listed(read.points_px.astype(np.float64) / 1000)
    return answer[: found.start()], chosen, found[2] + END + answer[found.end() :]


def together(text: str, places: Places, first: Sequence[int]) -> str:
    """An answer with coordinates, from one with chosen places; a list that is cut off stays so.

    Args:
        text: in which `<POINT_n>` is a chosen place, see `token_order.as_text`.
        places: of the frame.
        first: the number of no-more-points, of the first slot, and of the first cell.
    """

    def written(found: re.Match) -> str:
        numbers = [int(one) for one in _PLACE.findall(found[1])]
        whole = len(numbers) // 3 * 3
        chosen = np.array(numbers[:whole], np.int64).reshape(-1, 3) - [0, *first[1:]]
        points = places.points(chosen) * 1000
        tag = write_points(points, unescape(found[3] or ""), 1000, 1000) if whole else "<point"
        is_ended = numbers[-1] == first[0] and found[3] is not None
        return tag if is_ended else tag.partition(" alt=")[0]

    return _LIST.sub(written, text)
