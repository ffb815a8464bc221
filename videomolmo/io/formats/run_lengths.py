"""Run lengths of masks: COCO's, CVAT's and Label Studio's, read without trusting them, and written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from videomolmo.errors import Unreadable

MAX_PIXELS = 2**28  # of one mask; more than any real one has
_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)


def empty_mask(shape: Any, place: object) -> Bool[np.ndarray, "height width"]:
    """An empty mask of a size that stands in a file."""
    try:
        height, width = map(int, shape)
    except _MALFORMED:
        height = width = 0
    if not (height > 0 and width > 0 and height * width <= MAX_PIXELS):
        raise Unreadable(f"{place}: size {shape!r}; expected height and width of a mask")
    return np.zeros((height, width), dtype=bool)


def decode_rle(entry: Any, place: object) -> Bool[np.ndarray, "height width"]:
    """Mask of COCO run lengths, compressed or as a list of numbers; a list of several gives their union.

    Raises:
        Unreadable: they are no run lengths, or do not fill the size they state.
    """
    from pycocotools import mask as coco

    if isinstance(entry, list) and entry:
        return np.logical_or.reduce([decode_rle(part, place) for part in entry])
    try:
        (height, width), counts = empty_mask(entry["size"], place).shape, entry["counts"]
        if isinstance(counts, (list, tuple)):
            counts = [int(count) for count in counts]
            if min(counts, default=0) < 0 or sum(counts) != height * width:
                raise ValueError("runs do not fill the mask")
            runs = coco.frPyObjects({"size": [height, width], "counts": counts}, height, width)
        else:
            counts = counts if isinstance(counts, bytes) else counts.encode("ascii")
            if sum(_run_lengths(counts)) != height * width:
                raise ValueError("runs do not fill the mask")
            runs = {"size": [height, width], "counts": counts}
        return coco.decode(runs).astype(bool)
    except Unreadable:
        raise
    except _MALFORMED as error:
        raise Unreadable(f"{place}: not a mask in COCO run lengths ({error})") from None


def _run_lengths(counts: bytes) -> list[int]:
    """Lengths in compressed run lengths, read before C code that trusts them does.

    Each number is written in groups of five bits, lowest first, from the character '0' on; bit 5 says that more
    follow, bit 4 of the last group is the sign; from the fourth number on, it is the difference to the last but one.
    """
    lengths: list[int] = []
    value = shift = 0
    for character in counts:
        group = character - 48
        if not 0 <= group < 64 or shift > 30:
            raise ValueError("characters that are no run lengths")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        if lengths[-1] < 0:
            raise ValueError("a negative run")
        value = shift = 0
    if shift:
        raise ValueError("the last run is cut off")
    return lengths


def encode_rle(mask: Bool[np.ndarray, "height width"]) -> dict[str, Any]:
    """COCO's compressed run lengths of a mask, ready for JSON.

    Example:
        >>> encode_rle(np.ones((2, 3), bool))
        {'size': [2, 3], 'counts': '06'}
    """
    from pycocotools import mask as coco

    encoded = coco.encode(np.asfortranarray(mask.view(np.uint8)))
    return {"size": list(map(int, encoded["size"])), "counts": encoded["counts"].decode("ascii")}


def _runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of the runs of equal values, and their values."""
    starts = np.flatnonzero(np.diff(values, prepend=values[:1] ^ 1))
    return np.diff(starts, append=len(values)), values[starts]


def encode_cvat(mask: Bool[np.ndarray, "height width"]) -> tuple[list[int], tuple[int, int, int, int]]:
    """CVAT's run lengths of a mask that is not empty, and the box (left, top, width, height) that they fill.

    They go along the rows of the box, and begin with the pixels that are not the object's.

    Source: CVAT, "CVAT for images 1.1", element `mask`.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    part = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    lengths, values = _runs(part.ravel().view(np.uint8))
    counts = lengths.tolist()
    return ([0, *counts] if values[0] else counts), (left, top, part.shape[1], part.shape[0])


def decode_cvat(
    counts: Sequence[int], box: tuple[int, int, int, int], size: tuple[int, int], place: object
) -> Bool[np.ndarray, "height width"]:
    """The mask of a frame of `size` that `encode_cvat` would make these of.

    Raises:
        Unreadable: they do not fill the box, or it lies beyond the frame.
    """
    left, top, width, height = box
    fits = min(left, top) >= 0 < min(width, height) and left + width <= size[1] and top + height <= size[0]
    if not fits or min(counts, default=-1) < 0 or sum(counts) != width * height:
        raise Unreadable(
            f"{place}: run lengths that do not fill {width}×{height} pixels of the frame at ({left}, {top})"
        )
    mask = empty_mask(size, place)
    values = np.arange(len(counts)) % 2 == 1
    mask[top : top + height, left : left + width] = np.repeat(values, counts).reshape(height, width)
    return mask


_SIZES = (3, 4, 8, 16)  # bits that Label Studio's lengths may have
_LONGEST = 1 << 16


def encode_brush(mask: Bool[np.ndarray, "height width"]) -> list[int]:
    """Label Studio's run lengths of a mask: bytes of a stream of bits, of the four channels of an image in turns.

    Source: Label Studio, brush labels; rle-pack of thi.ng/umbrella.
    """
    lengths, values = _runs(np.repeat(mask.ravel().view(np.uint8) * 255, 4))
    parts = -(-lengths // _LONGEST)  # a run longer than its number of bits can tell is written as several
    values, last = np.repeat(values, parts), np.cumsum(parts) - 1
    pieces = np.full(len(values), _LONGEST)
    pieces[last] = lengths - (parts - 1) * _LONGEST
    words = (0b111 << 24) | ((pieces - 1) << 8) | values  # one run: a flag, which number of bits, 16 bits, 8 bits
    bits = (words[:, None] >> np.arange(26, -1, -1)) & 1
    head = np.array(list(f"{4 * mask.size:032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in _SIZES)), np.uint8)
    return np.packbits(np.concatenate([head, bits.ravel().astype(np.uint8)])).tolist()


def decode_brush(stream: Sequence[int], size: tuple[int, int], place: object) -> Bool[np.ndarray, "height width"]:
    """The mask of `size` that stands in Label Studio's run lengths: where the last of four channels is not 0.

    Raises:
        Unreadable: they are cut off, or are of another size.
    """
    try:
        bits = np.unpackbits(np.array(stream, np.uint8)).tobytes().translate(bytes([48, 49]) + bytes(254)).decode()
        at, count = 0, 4 * empty_mask(size, place).size

        def number(width: int) -> int:
            nonlocal at
            at += width
            return int(bits[at - width : at], 2)

        told, word = number(32), number(5) + 1
        sizes = [number(4) + 1 for _ in range(4)]
        if told != count:
            raise ValueError(f"they are of {told} values, expected {count}")
        values, done = np.zeros(count, bool), 0
        while done < count:
            is_run, length = number(1), 1 + number(sizes[number(2)])
            if is_run:
                values[done : done + length] = number(word) != 0
            else:
                values[done : done + length] = [number(word) != 0 for _ in range(length)][: count - done]
            done += length
        if at > len(bits):
            raise ValueError("they are cut off")
        return values.reshape(*size, 4)[..., 3].copy()
    except _MALFORMED as error:
        if isinstance(error, Unreadable):
            raise
        raise Unreadable(f"{place}: not a mask in Label Studio's run lengths ({error})") from None
