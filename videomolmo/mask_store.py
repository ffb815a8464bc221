"""Masks of a clip on disk, one file a window, read when asked for, so that memory does not grow with the clip."""

import tempfile
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from videomolmo.errors import BadInput
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


def read_window(path: Path, clip: ClipShape | None = None, more: Iterable[str] = ()) -> dict[str, np.ndarray]:
    """The arrays of a file of masks: "ids", "shape", layers as bits (frames, objects, height, bytes), values a mask.

    Args:
        path: of the file.
        clip: as the run describes it.
        more: names of further arrays of one value a mask.

    Raises:
        OSError, BadInput: it cannot be read, makes no sense, or is not what the run says. What is merely not there is
            left out.
    """
    with StoredArrays(path) as stored:
        window = window_of(stored, clip)
        per_mask = (window.frames, len(window.ids))
        bits = {name: ("u1", (*per_mask, window.height, -(-window.width // 8))) for name in LAYERS}
        wanted = bits | {name: ("buif", per_mask) for name in ("has_forward", "has_backward", *more)}
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
        self._cache: dict[int, dict[str, Any]] = {}  # the two windows read last, layers as bits
        self.clip: ClipShape | None = None  # set where files are not our own: they must agree

    def write(
        self, start: int, ids: tuple[int, ...], layers: dict[str, np.ndarray], known: dict[str, np.ndarray]
    ) -> None:
        """Add a window: `layers` bool (frames, objects, height, width), `known` bool (frames, objects)."""
        packed = {name: np.packbits(masks, axis=-1) for name, masks in layers.items()}
        shape = np.array(layers["fused"].shape)
        flags = {f"has_{name}": value for name, value in known.items()}
        path = self.folder / f"{start:05d}.npz"
        with explain_os_error("masks cannot be written", path):
            np.savez_compressed(path, ids=np.array(ids, int), shape=shape, **packed, **flags)
        self._starts = sorted({*self._starts, start})
        self._cache.pop(start, None)

    def files(self) -> list[Path]:
        """The files of all windows, in order."""
        return [self.folder / f"{start:05d}.npz" for start in self._starts]

    def _window(self, start: int) -> dict[str, Any]:
        if start not in self._cache:
            while len(self._cache) > 1:
                del self._cache[next(iter(self._cache))]
            self._cache[start] = self._read(start)
        return self._cache[start]

    def _read(self, start: int) -> dict[str, Any]:
        path = self.folder / f"{start:05d}.npz"
        window = read_window(path, self.clip)
        if gone := [name for name in (*LAYERS, "has_forward", "has_backward") if name not in window]:
            raise BadInput(f"{path}: there is no array {gone[0]}; it is damaged")
        return window

    def frame(self, layer: str, at: int, objects: int, size: tuple[int, int]) -> np.ndarray:
        """One layer of frame `at`: bool (objects, height, width), object n in row n - 1."""
        masks = np.zeros((objects, *size), bool)
        window, offset = self._of(at)
        if window is not None:
            masks[window["ids"] - 1] = np.unpackbits(window[layer][offset], axis=-1, count=size[1])
        return masks

    def known(self, layer: str, at: int, objects: int) -> np.ndarray:
        """Whether the propagation `layer` ("forward" or "backward") reaches frame `at`, per object."""
        flags = np.zeros(objects, bool)
        window, offset = self._of(at)
        if window is not None:
            flags[window["ids"] - 1] = window[f"has_{layer}"][offset]
        return flags

    def _of(self, at: int) -> tuple[dict[str, Any] | None, int]:
        before = [start for start in self._starts if start <= at]
        if not before:
            return None, 0
        window = self._window(before[-1])
        offset = at - before[-1]
        return (window, offset) if offset < len(window["fused"]) else (None, 0)


class LazyMasks(np.lib.mixins.NDArrayOperatorsMixin):
    """A bool array (frames, objects, height, width) that reads frames when indexed.

    `masks[i]`, slices, iteration and `len` touch only the frames asked for. Everything else that a NumPy array can do
    works too, by reading the whole (`np.asarray(masks)`).
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
