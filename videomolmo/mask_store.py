"""Masks of a clip: on disk, one file a window, read when asked for, and in memory as bits within their box."""

from __future__ import annotations

import tempfile
import weakref
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8

from videomolmo.errors import BadInput
from videomolmo.io.cache import BoundedCache
from videomolmo.io.files import WINDOW_FILE, explain_os_error, locked_temporary_folder, remove_locked
from videomolmo.io.schemas import MAX_FRAMES, MAX_OBJECTS, MAX_PIXELS
from videomolmo.io.untrusted import StoredArrays

TEMPORARY = "videomolmo_masks."  # how temporary folders begin
LAYERS = ("fused", "forward", "backward")


class ClipShape(NamedTuple):
    """What a run says of its clip; its files of masks must agree."""

    frames: int
    objects: int
    height: int
    width: int


class Window(NamedTuple):
    """The shape of a window's masks, and the ids of its objects, in the order of the arrays."""

    frames: int
    ids: np.ndarray
    height: int
    width: int


def window_of(stored: StoredArrays, clip: ClipShape | None = None) -> Window:
    """What a file of masks is about, before any mask is read.

    Raises:
        BadInput: it makes no sense, or is not what the run says.
    """
    shape, ids = stored.read("shape", "iu", (4,)), stored.read("ids", "iu", (None,))
    frames, objects, height, width = (int(value) for value in shape)
    sides_fit = 0 < frames <= MAX_FRAMES and min(height, width) >= 0 and height * width <= MAX_PIXELS
    if not sides_fit or objects != len(ids) or len(set(ids.tolist())) != len(ids):
        raise BadInput(f"{stored.path}: masks of shape {tuple(shape.tolist())} of {len(ids)} objects make no sense")
    least, most = (int(ids.min()), int(ids.max())) if len(ids) else (1, 0)
    if least < 1 or most > MAX_OBJECTS:
        raise BadInput(f"{stored.path}: ids of objects are {least} to {most}, expected 1 to {MAX_OBJECTS}")
    if clip is not None and (height, width) != (clip.height, clip.width):
        raise BadInput(f"{stored.path}: they are {height}×{width}, expected {clip.height}×{clip.width}")
    if clip is not None and most > clip.objects:
        raise BadInput(f"{stored.path}: they hold object {most}, the result has {clip.objects}")
    if clip is not None and frames > clip.frames:
        raise BadInput(f"{stored.path}: they are of {frames} frames, the result has {clip.frames}")
    return Window(frames, ids, height, width)


def read_window(path: Path, clip: ClipShape | None = None) -> dict[str, np.ndarray]:
    """The arrays of a file of masks: "ids", "shape", layers as bits (frames, objects, height, bytes), flags a mask.

    "void" is (frames, height, bytes): pixels that count for nothing, where labels of others told of such.

    Args:
        path: of the file.
        clip: as the run describes it.

    Raises:
        OSError, BadInput: it cannot be read, makes no sense, or is not what the run says. What is merely not there is
            left out.
    """
    with StoredArrays(path) as stored:
        window = window_of(stored, clip)
        per_mask = (window.frames, len(window.ids))
        bits = {name: ("u1", (*per_mask, window.height, -(-window.width // 8))) for name in LAYERS}
        bits["void"] = "u1", (window.frames, window.height, -(-window.width // 8))
        wanted = bits | {name: ("buif", per_mask) for name in ("has_forward", "has_backward")}
        found = {name: stored.read(name, *about) for name, about in wanted.items() if name in stored}
    return {"ids": window.ids, "shape": np.array((*per_mask, window.height, window.width)), **found}


class MaskStore:
    """The three layers of masks of a clip: `fused`, `forward`, `backward`, in files `00000.npz` named by first frame.

    Args:
        folder: where the files lie or will lie; None takes a temporary folder that goes with this object. If the
            process is killed, the next one that takes such a folder removes it.
    """

    def __init__(self, folder: Path | None = None) -> None:
        if folder is None:
            with explain_os_error("cannot hold temporary files", Path(tempfile.gettempdir())):
                folder, lock = locked_temporary_folder(Path(tempfile.gettempdir()), TEMPORARY)
            weakref.finalize(self, remove_locked, folder, lock)
        self.folder = Path(folder)
        names = [path.name for path in self.folder.glob("*.npz")]
        starts = {int(name[:-4]) for name in names if WINDOW_FILE.fullmatch(name)}
        self._starts = sorted(start for start in starts if f"{start:05d}.npz" in names)
        self._cache = BoundedCache(2)  # windows read last, layers as bits
        self.clip: ClipShape | None = None  # set where files are not our own: they must agree

    def write(
        self, start: int, ids: tuple[int, ...], layers: dict[str, np.ndarray], known: dict[str, np.ndarray],
        void: Bool[np.ndarray, "frames height width"] | None = None,
    ) -> None:  # fmt: skip
        """Add a window, or replace the one that begins at the same frame.

        Args:
            start: number of its first frame.
            ids: of its objects, from 1, in the order of the arrays.
            layers: "fused", "forward" and "backward", bool (frames, objects, height, width).
            known: "forward" and "backward", bool (frames, objects): whether that propagation reaches the frame.
            void: pixels that count for nothing.

        Raises:
            OSError: the file cannot be written.
        """
        packed = {name: np.packbits(masks, axis=-1) for name, masks in layers.items()}
        shape = np.array(layers["fused"].shape)
        if void is not None:
            packed["void"] = np.packbits(void, axis=-1)
        flags = {f"has_{name}": value for name, value in known.items()}
        path = self.folder / f"{start:05d}.npz"
        with explain_os_error("masks cannot be written", path):
            np.savez_compressed(path, ids=np.array(ids, int), shape=shape, **packed, **flags)
        place = bisect_left(self._starts, start)
        if self._starts[place : place + 1] != [start]:
            self._starts.insert(place, start)
        self._cache.pop(start)

    def files(self, since: int = 0) -> list[Path]:
        """The files of all windows that begin at frame `since` or later, in order."""
        return [self.folder / f"{start:05d}.npz" for start in self._starts[bisect_left(self._starts, since) :]]

    def _window(self, start: int) -> dict[str, Any]:
        return self._cache.get(start) or self._cache.put(start, self._read(start))

    def _read(self, start: int) -> dict[str, Any]:
        path = self.folder / f"{start:05d}.npz"
        window = read_window(path, self.clip)
        if gone := [name for name in (*LAYERS, "has_forward", "has_backward") if name not in window]:
            raise BadInput(f"{path}: there is no array {gone[0]}; it is damaged")
        return window

    def frame(self, layer: str, at: int, objects: int, size: tuple[int, int]) -> np.ndarray:
        """One layer of frame `at`: bool (objects, height, width), object n in row n - 1."""
        ids, bits = self.bits(layer, at, size)
        own = np.unpackbits(bits, axis=-1, count=size[1]).view(bool)
        if np.array_equal(ids, range(1, objects + 1)):
            return own
        masks = np.zeros((objects, *size), bool)
        masks[ids - 1] = own
        return masks

    def bits(self, layer: str, at: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Ids of the objects of frame `at`, (objects,), and their masks in one layer as bits, (objects, height, bytes).

        Raises:
            OSError, BadInput: the window's file cannot be read, or is not of the clip; so too in other methods.
        """
        window, offset = self._of(at)
        if window is None:
            return np.zeros(0, int), np.zeros((0, size[0], -(-size[1] // 8)), np.uint8)
        return window["ids"], window[layer][offset]

    def void(self, at: int, size: tuple[int, int]) -> Bool[np.ndarray, "height width"] | None:
        """Pixels of frame `at` that count for nothing; None where there are none."""
        window, offset = self._of(at)
        if window is None or "void" not in window:
            return None
        mask = np.unpackbits(window["void"][offset], axis=-1, count=size[1]).view(bool)
        return mask if mask.any() else None

    def ids(self, at: int) -> np.ndarray:
        """Ids of the objects of frame `at`, (objects,)."""
        window, _ = self._of(at)
        return np.zeros(0, int) if window is None else window["ids"]

    def known(self, layer: str, at: int, objects: int) -> np.ndarray:
        """Whether the propagation `layer` ("forward" or "backward") reaches frame `at`: bool (objects,)."""
        flags = np.zeros(objects, bool)
        window, offset = self._of(at)
        if window is not None:
            flags[window["ids"] - 1] = window[f"has_{layer}"][offset]
        return flags

    def _of(self, at: int) -> tuple[dict[str, Any] | None, int]:
        place = bisect_right(self._starts, at)
        if not place:
            return None, 0
        window = self._window(self._starts[place - 1])
        offset = at - self._starts[place - 1]
        return (window, offset) if offset < len(window["fused"]) else (None, 0)


class LazyMasks(np.lib.mixins.NDArrayOperatorsMixin):
    """A bool array (frames, objects, height, width) that reads frames when indexed.

    `masks[i]`, slices, iteration and `len` touch only the frames asked for. Everything else that a NumPy array can do
    works too, by reading the whole (`np.asarray(masks)`).

    Args:
        spool: where the masks are.
        layer: "fused", "forward" or "backward".
        shape: frames, objects, height, width.
    """

    dtype = np.dtype(bool)
    ndim = 4

    def __init__(self, spool: MaskStore, layer: str, shape: tuple[int, int, int, int]) -> None:
        self._spool, self._layer, self.shape = spool, layer, shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        first, rest = (key[0], key[1:]) if isinstance(key, tuple) and key else (key, ())
        if isinstance(first, (int, np.integer)):
            at = int(first) + (len(self) if first < 0 else 0)
            if not 0 <= at < len(self):
                raise IndexError(f"frame {first} of a clip of {len(self)} frames")
            return self._spool.frame(self._layer, at, self.shape[1], self.shape[2:])[rest]
        if isinstance(first, slice):
            chosen = range(len(self))[first]
            frames = [self[at] for at in chosen]
            stacked = np.stack(frames) if frames else np.zeros((0, *self.shape[1:]), bool)
            return stacked[(slice(None), *rest)]
        return np.asarray(self)[key]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or bool, copy=False)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        read = [np.asarray(value) if isinstance(value, LazyMasks) else value for value in inputs]
        return getattr(ufunc, method)(*read, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(np.asarray(self), name)

    def __repr__(self) -> str:
        frames, objects, height, width = self.shape
        return f"LazyMasks({self._layer}: {frames} frames, {objects} objects, {height}×{width})"


def check_windows(spool: MaskStore, told: ClipShape) -> None:
    """Nothing where the files of masks follow each other up to the last frame, and are what the run tells.

    Raises:
        OSError, BadInput: some cannot be read, are not of this run, or are missing: their masks would look empty.
    """
    reached, most = 0, 0
    for path in spool.files():
        if int(path.stem) > reached:
            break
        with StoredArrays(path) as stored:
            window = window_of(stored, told)
            bits = len(window.ids) * window.frames * window.height * -(-window.width // 8)
            if any(not 0 <= stored.bytes.get(name, -1) - bits < 1 << 14 for name in LAYERS):  # and its header
                raise BadInput(f"{path}: its masks are not of the shape that it tells")
        reached = int(path.stem) + window.frames
        most = max(most, *window.ids.tolist(), 0)
    if reached < told.frames:
        raise BadInput(f"propagation/ has no masks of frame {reached}")
    if most != told.objects:
        raise BadInput(f"run.json tells of {told.objects} objects, the masks of {most}")


Box = tuple[int, int, int, int]  # top, bottom, left, right; bottom and right exclusive, left and right in bytes
NOWHERE: Box = (0, 0, 0, 0)
_PLACES = np.array([sum(n for n in range(8) if value >> (7 - n) & 1) for value in range(256)], np.uint8)  # of set bits


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
        """The bits of all frames within `box`, which must hold the masks' own."""
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
    """Packed masks of whole frames, or of those within `box`."""
    return crop(start, np.packbits(masks, axis=-1), box)


def crop(start: int, packed: UInt8[np.ndarray, "frames rows bytes"], box: Box | None = None) -> PackedMasks:
    """Packed masks of packed frames, whole or within `box`, without the empty rows and columns around them."""
    any_frame = np.bitwise_or.reduce(packed, axis=0) if len(packed) else np.zeros(packed.shape[1:], np.uint8)
    rows, columns = np.flatnonzero(any_frame.any(axis=1)), np.flatnonzero(any_frame.any(axis=0))
    if not len(rows):
        return PackedMasks(start, NOWHERE, np.zeros((len(packed), 0, 0), np.uint8))
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    above, beside = (box[0], box[2]) if box else (0, 0)
    bits = np.ascontiguousarray(packed[:, top:bottom, left:right])
    return PackedMasks(start, (top + above, bottom + above, left + beside, right + beside), bits)


def concatenate(before: PackedMasks, after: PackedMasks) -> PackedMasks:
    """Masks of consecutive stretches of frames as one."""
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
    """Pixels that both have in common on a frame."""
    top, bottom = max(a.box[0], b.box[0]), min(a.box[1], b.box[1])
    left, right = max(a.box[2], b.box[2]), min(a.box[3], b.box[3])
    if top >= bottom or left >= right:
        return 0
    inner = (top, bottom, left, right)
    return int(count_bits(_part(a, frame, inner) & _part(b, frame, inner)))


def count_bits(packed: UInt8[np.ndarray, "*leading rows bytes"]) -> Integer[np.ndarray, "*leading"]:
    """Set bits of each mask."""
    return np.bitwise_count(packed).sum(axis=(-2, -1), dtype=np.int64)


def centres(
    bits: UInt8[np.ndarray, "frames rows bytes"], box: Box
) -> tuple[Float[np.ndarray, " frames"], Float[np.ndarray, " frames"], Integer[np.ndarray, " frames"]]:
    """x and y of the centre of each mask in pixels of the frame (NaN for empty ones), and its area."""
    ones = np.bitwise_count(bits)
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
