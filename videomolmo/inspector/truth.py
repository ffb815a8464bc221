"""What is right, from wherever it comes, frame by frame at the size of the result."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from videomolmo.errors import BadInput
from videomolmo.stored import StoredArrays, open_plain

VOID = 255
Masks = Bool[np.ndarray, "objects height width"]


class Truth:
    """True masks of a clip.

    Args:
        read: masks of a frame in their own size, None where nothing is known of it.
        objects: how many.
        frames: how many frames the truth tells of.
        size: (height, width) of the result, which masks are brought to.
        own_size: of the truth.

    Attributes:
        notes: what the user should know, a sentence each.
    """

    def __init__(
        self,
        read: Callable[[int], Masks | None],
        objects: int,
        frames: int,
        size: tuple[int, int],
        own_size: tuple[int, int],
    ) -> None:
        self._read, self.objects, self.frames, self.size = read, objects, frames, size
        self.notes: list[str] = []
        if own_size != size:
            self.notes.append(
                f"the truth is {own_size[1]}×{own_size[0]} pixels, the result {size[1]}×{size[0]}: it was rescaled"
            )
        if not objects:
            self.notes.append("the truth has no objects")
        self.masks = lru_cache(maxsize=64)(self._masks)

    def _masks(self, t: int) -> Masks | None:
        """True masks of frame `t`; None where the truth says nothing about it."""
        found = self._read(t) if 0 <= t < self.frames else None
        if found is None or found.shape[1:] == self.size:
            return found
        return np.stack([_resize(mask, self.size) for mask in found]) if len(found) else np.zeros((0, *self.size), bool)


def open_truth(source: Any, frames: int, size: tuple[int, int]) -> Truth | None:
    """Truth from an array, a folder of index PNGs or a .npz; None for None.

    Args:
        source: see `Inspection`.
        frames, size: of the result.

    Raises:
        BadInput: it is none of these, or cannot be read.
    """
    if source is None:
        return None
    if isinstance(source, (str, Path)):
        path = Path(source)
        if path.is_dir():
            truth = _of_folder(path, size)
        elif path.suffix == ".npz" and path.is_file():
            truth = _of_array(_from_npz(path), size)
        else:
            raise BadInput(f"truth {path}: expected a folder of index PNGs, or a .npz file of masks")
    else:
        truth = _of_array(np.asarray(source), size)
    if truth.frames != frames:
        truth.notes.append(f"the truth tells of {truth.frames} frames, the result of {frames}")
    return truth


def _of_array(masks: np.ndarray, size: tuple[int, int]) -> Truth:
    if masks.ndim == 3:
        masks = masks[:, None]
    if masks.ndim != 4 or masks.dtype.kind not in "bui" or 0 in masks.shape[2:]:
        raise BadInput(
            f"truth is {masks.dtype} {masks.shape}: expected booleans (frames, objects, height, width) or "
            "(frames, height, width)"
        )
    return Truth(lambda t: masks[t] != 0, masks.shape[1], len(masks), size, masks.shape[2:])


def _from_npz(path: Path) -> np.ndarray:
    """Masks of a .npz: one array of masks, or bits of each object by name with the unpacked `shape` beside them."""
    try:
        with StoredArrays(path) as stored:
            arrays = {name: stored.read(name, "bui", None) for name in stored.bytes}
    except (OSError, BadInput) as error:
        raise BadInput(f"truth {path}: cannot be read ({error})") from None
    shape = arrays.pop("shape", None)
    if not arrays:
        raise BadInput(f"truth {path}: holds no array of masks")
    if shape is not None and shape.size == 3:
        count = int(shape[-1])
        return np.stack([np.unpackbits(bits, axis=-1, count=count).view(bool) for bits in arrays.values()], axis=1)
    return arrays.get("masks", arrays.get("truth", next(iter(arrays.values()))))


def _of_folder(folder: Path, size: tuple[int, int]) -> Truth:
    paths = sorted(folder.glob("*.png"))
    if not paths:
        raise BadInput(f"truth {folder}: no PNG in this folder; expected index pictures, one a frame")
    numbered = all(path.stem.isdecimal() for path in paths)
    by_frame = {int(path.stem) if numbered else number: path for number, path in enumerate(paths)}
    levels, own_size = _levels(paths)
    black_and_white = levels == {VOID} or levels == {0, VOID}  # one object; in a folder with others 255 is void
    objects = 1 if black_and_white else max(levels - {VOID}, default=0)

    def read(t: int) -> Masks | None:
        if t not in by_frame:
            return None
        labels = _labels(by_frame[t])
        return labels[None] == VOID if black_and_white else labels[None] == np.arange(1, objects + 1)[:, None, None]

    return Truth(read, objects, max(by_frame) + 1, size, own_size)


def _levels(paths: list[Path]) -> tuple[set[int], tuple[int, int]]:
    """All numbers that stand in any of the pictures, and the size of the first one, (height, width)."""
    with ThreadPoolExecutor() as pool:  # decoding holds no lock of the interpreter
        found = list(pool.map(_levels_of, paths))
    return set().union(*(levels for levels, _ in found)), found[0][1]


def _levels_of(path: Path) -> tuple[set[int], tuple[int, int]]:
    from PIL import Image

    labels = _labels(path)
    if labels.dtype == np.uint8:
        return {level for level, count in enumerate(Image.fromarray(labels).histogram()) if count}, labels.shape
    return {int(level) for level in np.unique(labels)}, labels.shape


def _labels(path: Path) -> np.ndarray:
    from PIL import Image

    try:
        with open_plain(path) as file, Image.open(file) as image:
            labels = np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadInput(f"truth {path}: the picture cannot be read ({error})") from None
    if labels.ndim != 2:
        raise BadInput(f"truth {path}: mode {image.mode}, expected index colours or greys, one number an object")
    return labels.astype(np.uint8) if labels.dtype == bool else labels


def _resize(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    import cv2

    return cv2.resize(mask.view(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST).view(bool)
