"""Masks, boxes and points as data sets store them, of an object and a frame; read when asked for.

Everywhere: None means "not annotated", an empty mask or no points means "annotated, and not there".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer

from videomolmo.datasets.files import MALFORMED, MissingFile, Unreadable
from videomolmo.io.formats.run_lengths import decode_rle, empty_mask
from videomolmo.io.images import read_labels, visible

Size = Callable[[], tuple[int, int]]


class Annotations:
    """Nothing annotated; the others replace what they have. Boxes are left, top, width, height in pixels from 0."""

    in_percent = False  # points in percent of the frame

    def labels(self, frame: int) -> Integer[np.ndarray, "height width"] | None:
        """Object ids by pixel as stored, where the set stores its masks so."""
        return None

    def mask(self, object_id: str, frame: int, size: Size) -> Bool[np.ndarray, "height width"] | None:
        return None

    def masks(
        self, object_ids: Sequence[str], frame: int, size: Size
    ) -> Bool[np.ndarray, "objects height width"] | None:
        found = [self.mask(object_id, frame, size) for object_id in object_ids]
        known = [mask for mask in found if mask is not None]
        if not known:
            return None
        if len({mask.shape for mask in known}) > 1:
            raise Unreadable(f"masks of frame {frame} differ in size: {sorted({mask.shape for mask in known})}")
        return np.stack([np.zeros_like(known[0]) if mask is None else mask for mask in found])

    def foreground(self, frame: int) -> Bool[np.ndarray, "height width"] | None:
        """Everything that counts as foreground, where the set says so beside the objects."""
        return None

    def void(self, frame: int) -> Bool[np.ndarray, "height width"] | None:
        """Pixels that count for nothing, where the set tells of them beside its objects."""
        return None

    def box(self, object_id: str, frame: int) -> Sequence[float] | None:
        return None

    def points(self, object_id: str, frame: int) -> Sequence[Sequence[float]] | None:
        return None


class DrawnMasks(Annotations):
    """Masks of a generated clip, object n in row n - 1 of its `masks`, drawn with its frames when first asked for."""

    def __init__(self, draw: Callable[[], Any]):
        self._draw = draw

    def mask(self, object_id, frame, size):
        return self._draw().masks[frame, int(object_id) - 1].copy()


class LabelPNGs(Annotations):
    """One PNG for each frame; the value of a pixel is the id of the object there."""

    def __init__(self, files: Sequence[Path]):
        self.files = files

    def labels(self, frame):
        return read_labels(self.files[frame], as_stored=True)

    def mask(self, object_id, frame, size):
        return self.labels(frame) == int(object_id)

    def masks(self, object_ids, frame, size):
        labels = self.labels(frame)
        return labels == np.array([int(object_id) for object_id in object_ids], dtype=np.int64).reshape(-1, 1, 1)


class BinaryPNGs(Annotations):
    """A folder of PNGs for each object; any value but zero is foreground; frames without a PNG are not annotated.

    They are called like the frames, or by the same numbers written with other digits.
    """

    def __init__(self, folders: Mapping[str, Path], names: Sequence[str]):
        self._folders, self._names = folders, names
        self._files: dict[str, dict[str | int, Path]] = {}

    def mask(self, object_id, frame, size):
        if object_id not in self._files:
            self._files[object_id] = self._listed(object_id)
        path = self._files[object_id].get(_number(self._names[frame]))
        return None if path is None else read_labels(path, as_stored=True) != 0

    def _listed(self, object_id: str) -> dict[str | int, Path]:
        """The masks of an object by the numbers or names of their frames."""
        folder = self._folders[object_id]
        if not folder.is_dir():
            raise MissingFile(f"{folder}: no such folder; expected the masks of object {object_id}")
        files: dict[str | int, Path] = {}
        for path in visible(folder, "*.png"):
            other = files.setdefault(_number(path.stem), path)
            if other is not path:
                raise Unreadable(f"{folder}: {other.name} and {path.name} are masks of one frame; keep one of them")
        if files and not files.keys() & {_number(name) for name in self._names}:
            raise Unreadable(f"{folder}: {next(iter(files.values())).name} and all others are masks of no frame")
        return files


def _number(name: str) -> str | int:
    return int(name) if name.isdecimal() else name


class RLEs(Annotations):
    """COCO run lengths, one for each object and frame.

    Args:
        load: gives object -> runs, either a list by frame or a mapping from frames; called when first needed.
        frames: how long lists must be.
        null: whether a frame with no run lengths is annotated as empty (otherwise it is not annotated).
        place: named in errors.
    """

    def __init__(self, load: Callable[[], Mapping[str, Any]], frames: int, place: object, null: bool = True):
        self._load, self._frames, self._place, self._null = load, frames, place, null

    @cached_property
    def _runs(self) -> Mapping[str, Any]:
        try:
            return self._load()
        except MALFORMED as error:
            raise Unreadable(f"{self._place}: its run lengths cannot be read ({error!r}); download it again") from None

    def mask(self, object_id, frame, size):
        runs = self._runs.get(object_id)
        if runs is None:
            raise MissingFile(f"{self._place}: has no masks of object {object_id}")
        if isinstance(runs, Mapping):
            entry = runs.get(frame)
        elif isinstance(runs, Sequence) and len(runs) == self._frames:
            entry = runs[frame]
        else:
            count = len(runs) if isinstance(runs, Sequence) else runs
            raise Unreadable(f"{self._place}: object {object_id} has {count!r} masks for {self._frames} frames")
        if entry is not None:
            return decode_rle(entry, f"{self._place}: object {object_id}, frame {frame}")
        return empty_mask(_shape(runs) or size(), self._place) if self._null else None


def _shape(runs: Mapping[Any, Any] | Sequence[Any]) -> tuple[int, int] | None:
    """Size of an object's first mask that is there; the file may hold masks of other videos, which say nothing."""
    entries = runs.values() if isinstance(runs, Mapping) else runs
    return next((entry["size"] for entry in entries if isinstance(entry, Mapping) and "size" in entry), None)


class Boxes(Annotations):
    """Boxes by object and frame."""

    def __init__(self, boxes: Mapping[str, Mapping[int, Sequence[float]]]):
        self._boxes = boxes

    def box(self, object_id, frame):
        return self._boxes.get(object_id, {}).get(frame)


class Points(Annotations):
    """Points by object and frame, and masks from another source where there are any."""

    def __init__(
        self,
        points: Mapping[str, Mapping[int, Sequence[Sequence[float]]]],
        in_percent: bool = False,
        masks: Annotations | None = None,
    ):
        self._points, self.in_percent, self._masks = points, in_percent, masks or Annotations()

    def points(self, object_id, frame):
        return self._points.get(object_id, {}).get(frame)

    def mask(self, object_id, frame, size):
        return self._masks.mask(object_id, frame, size)

    def labels(self, frame):
        return self._masks.labels(frame)


def as_box(box: Sequence[float] | None) -> Float[np.ndarray, "4"] | None:
    """A box as an array; None where its sides are not positive, as sets mark what is not there.

    Raises:
        Unreadable: these are not four numbers.
    """
    if box is None:
        return None
    try:
        array = np.array(box, dtype=np.float64).reshape(4)
    except MALFORMED:
        raise Unreadable(f"box {box!r}: expected left, top, width, height") from None
    return array if np.isfinite(array).all() and (array[2:] > 0).all() else None
