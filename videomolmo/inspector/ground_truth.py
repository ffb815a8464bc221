"""Masks to compare with, and the scores of a result against them."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from videomolmo.errors import BadInput
from videomolmo.io.images import list_images, read_labels
from videomolmo.io.plain_values import as_array, as_path
from videomolmo.io.schemas import MAX_OBJECTS
from videomolmo.io.untrusted import StoredArrays, open_plain
from videomolmo.results import GroundingResult

SAMPLED = 200  # frames that decide which object is compared with which


class Scores(NamedTuple):
    """J, F and their mean, (frames, truth objects), NaN on frames without truth; `partner` is each true object's own.

    Attributes:
        partner: for each object of the truth the id (from 1) of the object it was compared with; None: none is left,
            which scores as an empty mask.
    """

    j: Float[np.ndarray, "frames objects"]
    f: Float[np.ndarray, "frames objects"]
    j_and_f: Float[np.ndarray, "frames objects"]
    partner: tuple[int | None, ...]

    def of(self, object_id: int) -> Float[np.ndarray, " frames"]:
        """J&F per frame of the object with id `object_id`; NaN where no true object was compared with it."""
        if object_id not in self.partner:
            return np.full(len(self.j), np.nan)
        return self.j_and_f[:, self.partner.index(object_id)]

    @property
    def per_frame(self) -> Float[np.ndarray, " frames"]:
        """Mean J&F over the true objects; NaN on frames without truth."""
        known = np.isfinite(self.j_and_f)
        counts = known.sum(axis=1)
        sums = np.where(known, self.j_and_f, 0).sum(axis=1)
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def score(truth: GroundTruth, found: Callable[[int], np.ndarray | None], objects: int, frames: int) -> Scores:
    """J and F of each true object against the object that covers it best over the clip.

    Args:
        truth: what is right.
        found: masks (objects, height, width) of a frame, or None.
        objects: how many were found.
        frames: how many are scored.

    Differs: DAVIS assigns by J&F over all frames; here by J over at most 200 of them, evenly spaced.
    """
    from videomolmo.metrics import j_and_f_per_frame

    partner = _partners(truth, found, objects, frames)
    j, f = np.full((2, frames, truth.objects), np.nan)
    for t in range(frames):
        right, masks, void = truth.masks(t), found(t), truth.void(t)
        if right is None:
            continue
        for k, other in enumerate(partner):
            mask = np.zeros(right.shape[1:], bool) if other is None or masks is None else masks[other - 1]
            j[t, k], f[t, k] = j_and_f_per_frame(right[k], mask, void)
    return Scores(j, f, (j + f) / 2, tuple(partner))


def _partners(
    truth: GroundTruth, found: Callable[[int], np.ndarray | None], objects: int, frames: int
) -> list[int | None]:
    """For each true object the id of the found one with the largest mean IoU; none without any overlap."""
    from videomolmo.fusion import match_objects, overlap_matrix

    overlap, known = np.zeros((truth.objects, objects)), 0
    chosen = np.unique(np.linspace(0, frames - 1, min(SAMPLED, frames)).astype(int)).tolist() if overlap.size else []
    for t in chosen:
        right, masks = truth.masks(t), found(t)
        if right is not None and masks is not None:
            overlap += overlap_matrix(right, masks)
            known += 1
    partner: list[int | None] = [None] * truth.objects
    for true, other in match_objects(overlap / max(known, 1), 0.0):
        partner[true] = other + 1
    return partner


VOID = 255
SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".pgm", ".pbm")  # without loss: numbers of objects stay what they are
HALF = 128  # from where on a grey level counts as the object
Masks = Bool[np.ndarray, "objects height width"]


class GroundTruth:
    """True masks of a clip.

    Args:
        read: masks of a frame in their own size, None where nothing is known of it.
        objects: how many.
        frames: how many frames the truth tells of.
        size: (height, width) of the result, which masks are brought to.
        own_size: of the truth.
        void: pixels of a frame that count for nothing, in the truth's own size; None where there are none.

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
        void: Callable[[int], np.ndarray | None] = lambda t: None,
    ) -> None:
        self._void = void
        self._read, self.objects, self.frames, self.size = read, objects, frames, size
        self.notes: list[str] = []
        if own_size != size:
            self.notes.append(
                f"the truth is {own_size[1]}×{own_size[0]} pixels, the result {size[1]}×{size[0]}: it was rescaled"
            )
        if not objects:
            self.notes.append("the truth has no objects")
        self.masks = lru_cache(maxsize=64)(self._masks)

    def void(self, t: int) -> Bool[np.ndarray, "height width"] | None:
        """Pixels of frame `t` that count for nothing; None where there are none."""
        found = self._void(t) if 0 <= t < self.frames else None
        return found if found is None or found.shape == self.size else _resize(found, self.size)

    def _masks(self, t: int) -> Masks | None:
        """True masks of frame `t`; None where the truth says nothing about it."""
        found = self._read(t) if 0 <= t < self.frames else None
        if found is None or found.shape[1:] == self.size:
            return found
        return np.stack([_resize(mask, self.size) for mask in found]) if len(found) else np.zeros((0, *self.size), bool)


def open_truth(source: Any, frames: int, size: tuple[int, int]) -> GroundTruth | None:
    """Truth from an array, a folder of pictures or of a result, a .npz or a .npy; None for None.

    Args:
        source: see `Inspection`.
        frames, size: of the result.

    Raises:
        BadInput: it is none of these, or cannot be read.
    """
    if source is None:
        return None
    path = as_path(source)
    if path is None:
        truth = _of_array(as_array(source, "truth"), size)
    elif (path / "run.json").is_file():
        result = GroundingResult.load(path)
        own = result.height, result.width
        truth = GroundTruth(lambda t: result.masks[t], result.objects, result.frames, size, own, result.void)
    elif path.is_dir():
        truth = _of_folder(path, frames, size)
    elif path.suffix.lower() in (".npz", ".npy") and path.is_file():
        truth = _of_array(_from_file(path), size)
    else:
        raise BadInput(f"truth {path}: expected a folder of index PNGs or of a result, or a .npz or .npy file of masks")
    if truth.frames != frames:
        truth.notes.append(f"the truth tells of {truth.frames} frames, the result of {frames}")
    return truth


def _of_array(masks: np.ndarray, size: tuple[int, int]) -> GroundTruth:
    if masks.ndim not in (3, 4) or masks.dtype.kind not in "bui" or 0 in masks.shape[-2:]:
        raise BadInput(
            f"truth is {masks.dtype} {masks.shape}: expected booleans (frames, objects, height, width) or "
            "(frames, height, width), or numbers of objects (frames, height, width)"
        )
    if masks.ndim == 4:
        return GroundTruth(lambda t: masks[t] != 0, masks.shape[1], len(masks), size, masks.shape[2:])
    if masks.dtype == bool:
        return GroundTruth(lambda t: masks[t : t + 1], 1, len(masks), size, masks.shape[1:])
    levels = set().union(*map(_levels_of, masks))
    return _of_labels(lambda t: masks[t], levels, len(masks), size, masks.shape[1:])


def _of_labels(
    read: Callable[[int], np.ndarray | None], levels: set[int], frames: int, size: tuple[int, int], own: tuple[int, int]
) -> GroundTruth:
    """Truth from label maps in which these `levels` stand; None where nothing is known of a frame."""
    positive = {level for level in levels if level > 0}
    objects = sorted(positive - {VOID}) or sorted(positive)  # black and white: one object; beside others 255 is void
    if len(objects) > MAX_OBJECTS:
        raise BadInput(
            f"the truth has {len(objects)} different numbers, expected at most {MAX_OBJECTS} objects; give index masks "
            "rather than depths or other levels"
        )
    is_soft = VOID in positive and len(objects) >= 8 and objects[-1] >= HALF

    def masks(t: int) -> Masks | None:
        labels = read(t)
        if labels is None:
            return None
        return labels[None] >= HALF if is_soft else labels[None] == np.array(objects, labels.dtype)[:, None, None]

    truth = GroundTruth(masks, 1 if is_soft else len(objects), frames, size, own)
    if is_soft:
        truth.notes.append(
            f"the truth has {len(objects)} grey levels between black and white: from {HALF} on they count as the object"
        )
    return truth


def _from_file(path: Path) -> np.ndarray:
    """Masks of a .npy, or of a .npz: one array of masks, or bits of each object by name with their `shape` beside."""
    try:
        if path.suffix.lower() == ".npy":
            open_plain(path).close()
            return np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: a size that is a lie takes no memory
        with StoredArrays(path) as stored:
            arrays = {name: stored.read(name, "bui", None) for name in stored.bytes}
    except (OSError, ValueError, EOFError, BadInput) as error:
        raise BadInput(f"truth {path}: cannot be read ({error})") from None
    shape = arrays.pop("shape", None)
    if not arrays:
        raise BadInput(f"truth {path}: holds no array of masks")
    if shape is not None and shape.size == 3:
        count = int(shape[-1])
        return np.stack([np.unpackbits(bits, axis=-1, count=count).view(bool) for bits in arrays.values()], axis=1)
    return arrays.get("masks", arrays.get("truth", next(iter(arrays.values()))))


def _of_folder(folder: Path, frames: int, size: tuple[int, int]) -> GroundTruth:
    try:
        paths = list_images(folder, SUFFIXES)
        with ThreadPoolExecutor() as pool:  # decoding holds no lock of the interpreter
            found = list(pool.map(lambda path: (_levels_of(labels := _read(path)), labels.shape), paths))
    except BadInput as error:
        raise BadInput(f"truth {error}") from None
    by_frame = dict(zip(_frame_numbers(paths, frames), paths, strict=True))
    levels = set().union(*(levels for levels, _ in found))
    own_size = found[0][1]

    def read(t: int) -> np.ndarray | None:
        return _read(by_frame[t]) if t in by_frame else None

    return _of_labels(read, levels, max(by_frame) + 1, size, own_size)


def _frame_numbers(paths: list[Path], frames: int) -> list[int]:
    """Which of the result's `frames` each picture is of: its place, or the number in its name.

    Numbers count where all names have the same words before one; they count from the first one where there is a picture
    for each frame, or from 1 where there are such words.
    """
    names = [re.fullmatch(r"(.*?)([0-9]+)", path.stem) for path in paths]
    if not all(names) or len({name[1] for name in names}) > 1:
        return list(range(len(paths)))
    numbers = [int(name[2]) for name in names]
    is_whole = numbers[-1] - numbers[0] + 1 == len(numbers)
    from_first = is_whole and (len(numbers) == frames or (numbers[0] == 1 and names[0][1]))
    return [number - numbers[0] for number in numbers] if from_first else numbers


def _levels_of(labels: np.ndarray) -> set[int]:
    """All numbers that stand in a picture."""
    if labels.dtype == np.uint8:
        return set(np.flatnonzero(np.bincount(labels.ravel())).tolist())
    return set(np.unique(labels).tolist())


def _read(path: Path) -> np.ndarray:
    return read_labels(path, "picture")


def _resize(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    import cv2

    return cv2.resize(mask.view(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST).view(bool)
