"""Masks of one object over consecutive frames, kept as bits within their common box: a clip fits in memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8

Box = tuple[int, int, int, int]  # top, bottom, left, right; bottom and right exclusive, left and right in bytes
NOWHERE: Box = (0, 0, 0, 0)
_PLACES = np.array([sum(n for n in range(8) if value >> (7 - n) & 1) for value in range(256)], np.uint8)  # of set bits
_ONES = np.array([value.bit_count() for value in range(256)], np.uint8)


@dataclass(frozen=True, eq=False)
class PackedMasks:
    """Masks of frames `start` … `start + len - 1`.

    Attributes:
        start: number of the first frame.
        box: what of the frame `bits` covers; eight pixels are one byte.
        bits: (frames, rows, bytes), packed along the rows of pixels.
    """

    start: int
    box: Box
    bits: UInt8[np.ndarray, "frames rows bytes"]

    def __len__(self) -> int:
        return len(self.bits)

    @property
    def stop(self) -> int:
        """The frame after the last."""
        return self.start + len(self.bits)

    def slice(self, start: int, stop: int) -> PackedMasks:
        """The frames from `start` to before `stop`, as far as they are there."""
        start, stop = max(start, self.start), min(stop, self.stop)
        return PackedMasks(start, self.box, self.bits[start - self.start : max(start, stop) - self.start])

    def masks(self, box: Box | None = None) -> Bool[np.ndarray, "frames height width"]:
        """All frames within `box` (their own by default), which must hold theirs."""
        return np.unpackbits(self.packed(box or self.box), axis=-1).view(bool)

    def packed(self, box: Box) -> UInt8[np.ndarray, "frames rows bytes"]:
        """The bits of all frames within `box`, which must hold the packed's own."""
        if box == self.box:
            return self.bits
        bits = np.zeros((len(self.bits), box[1] - box[0], box[3] - box[2]), np.uint8)
        if self.box != NOWHERE:
            rows, columns = _within(self.box, box)
            bits[:, rows, columns] = self.bits
        return bits

    def at(self, frame: int) -> Bool[np.ndarray, "height width"]:
        """One frame, within the box."""
        return np.unpackbits(self.bits[frame - self.start], axis=-1).view(bool)

    def areas(self) -> Integer[np.ndarray, " frames"]:
        """Pixels of each mask."""
        return count_bits(self.bits)


def pack(start: int, masks: Bool[np.ndarray, "frames height width"], box: Box | None = None) -> PackedMasks:
    """A packed of whole frames, or of masks within `box`."""
    return crop(start, np.packbits(masks, axis=-1), box)


def crop(start: int, packed: UInt8[np.ndarray, "frames rows bytes"], box: Box | None = None) -> PackedMasks:
    """A packed of packed frames, whole or within `box`, without the empty rows and columns around them."""
    any_frame = np.bitwise_or.reduce(packed, axis=0) if len(packed) else np.zeros(packed.shape[1:], np.uint8)
    rows, columns = np.flatnonzero(any_frame.any(axis=1)), np.flatnonzero(any_frame.any(axis=0))
    if not len(rows):
        return PackedMasks(start, NOWHERE, np.zeros((len(packed), 0, 0), np.uint8))
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    above, beside = (box[0], box[2]) if box else (0, 0)
    bits = np.ascontiguousarray(packed[:, top:bottom, left:right])
    return PackedMasks(start, (top + above, bottom + above, left + beside, right + beside), bits)


def concatenate(before: PackedMasks, after: PackedMasks) -> PackedMasks:
    """Two packed_masks, one behind the other in time, as one."""
    box = union_box((before.box, after.box))
    return PackedMasks(before.start, box, np.concatenate([before.packed(box), after.packed(box)]))


def union_box(boxes: Iterable[Box]) -> Box:
    """The smallest box around boxes."""
    real = [box for box in boxes if box != NOWHERE]
    if not real:
        return NOWHERE
    tops, bottoms, lefts, rights = zip(*real, strict=True)
    return min(tops), max(bottoms), min(lefts), max(rights)


def intersection_area(a: PackedMasks, b: PackedMasks, frame: int) -> int:
    """Pixels that two packed_masks have in common on a frame."""
    top, bottom = max(a.box[0], b.box[0]), min(a.box[1], b.box[1])
    left, right = max(a.box[2], b.box[2]), min(a.box[3], b.box[3])
    if top >= bottom or left >= right:
        return 0
    inner = (top, bottom, left, right)
    return int(count_bits(_part(a, frame, inner) & _part(b, frame, inner)))


def count_bits(packed: UInt8[np.ndarray, "*leading rows bytes"]) -> Integer[np.ndarray, "*leading"]:
    """Set bits of each mask."""
    return _ONES[packed].sum(axis=(-2, -1), dtype=np.int64)


def centres(
    bits: UInt8[np.ndarray, "frames rows bytes"], box: Box
) -> tuple[Float[np.ndarray, " frames"], Float[np.ndarray, " frames"], Integer[np.ndarray, " frames"]]:
    """x and y of the centre of each mask in pixels of the frame (NaN for empty ones), and its area."""
    ones = _ONES[bits]
    rows, columns = ones.sum(axis=2, dtype=np.int64), ones.sum(axis=1, dtype=np.int64)
    area = rows.sum(axis=1)
    within = _PLACES[bits].sum(axis=(1, 2), dtype=np.int64)
    left_of = (columns * (8 * np.arange(bits.shape[2]) + 8 * box[2])).sum(axis=1)
    above = (rows * (np.arange(bits.shape[1]) + box[0])).sum(axis=1)
    some = np.where(area > 0, area, np.nan)
    return (left_of + within) / some, above / some, area


def in_pixels(box: Box, width: int) -> Box:
    """Top, bottom, left, right with columns in pixels, cut at the frame's right edge."""
    return box[0], box[1], 8 * box[2], min(8 * box[3], width)


def _part(packed: PackedMasks, frame: int, box: Box) -> np.ndarray:
    rows, columns = _within(box, packed.box)
    return packed.bits[frame - packed.start][rows, columns]


def _within(inner: Box, outer: Box) -> tuple[slice, slice]:
    top, left = outer[0], outer[2]
    return slice(inner[0] - top, inner[1] - top), slice(inner[2] - left, inner[3] - left)
