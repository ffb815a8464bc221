"""Caches: arrays on disk that many runs share, named by what made them; and values in memory, bounded in size."""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from videomolmo.errors import BadInput
from videomolmo.io.files import atomic_file
from videomolmo.io.untrusted import StoredArrays

SUFFIX = ".npz"
KINDS = "buifcSU"  # of arrays that are kept
MAX_BYTES = 16 << 30  # of one


def key_of(inputs: Mapping[str, Any]) -> str:
    """Name of a result: SHA-256 of all that decides its content, in canonical JSON.

    Raises:
        BadInput: a value that JSON has no form for.

    Example:
        >>> key_of({"clip": 3, "every": 5}) == key_of({"every": 5, "clip": 3})
        True
    """
    try:
        text = json.dumps(inputs, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BadInput(f"what made a cached result must be plain JSON: {error}") from None
    return hashlib.sha256(text.encode()).hexdigest()


def cached(
    folder: Path, inputs: Mapping[str, Any], make: Callable[[], Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Arrays that `make` returns, read from `folder` when they were made before by the same.

    Args:
        folder: of the cache; made where missing. Several processes may share it: files are written atomically.
        inputs: everything the arrays depend on: seeds, settings, hashes of weights, and a number that the caller
            raises when its own code changes them.
        make: called without arguments when nothing is there, or when what is there cannot be read.

    Raises:
        BadInput: see `key_of`.
    """
    path = Path(folder) / (key_of(inputs) + SUFFIX)
    if (found := _read(path)) is None:
        from filelock import FileLock

        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):  # who comes second waits for the first, and reads
            if (found := _read(path)) is None:
                found = {name: np.asarray(value) for name, value in make().items()}
                _write(path, found)
    return found


def _read(path: Path) -> dict[str, np.ndarray] | None:
    try:
        with StoredArrays(path) as stored:
            return {name: stored.read(name, KINDS, None, MAX_BYTES) for name in stored.bytes}
    except (OSError, BadInput):
        return None  # not there, cut short by a full disk, or changed since


def _write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with atomic_file(path) as unfinished:
        np.savez_compressed(unfinished, **arrays)


class BoundedCache:
    """Values by key in memory; the least recently used go first. Threads that share one hold a lock of their own.

    Args:
        max_size: of all values together; the newest one stays whatever its size.
        size_of: size of a value; 1 by default, so that values are counted.

    Example:
        >>> cache = BoundedCache(2)
        >>> cache.put("a", 1), cache.put("b", 2), cache.get("a"), cache.put("c", 3)
        (1, 2, 1, 3)
        >>> cache.get("a"), cache.get("b"), cache.size
        (1, None, 2)
    """

    def __init__(self, max_size: int, size_of: Callable[[Any], int] = lambda _: 1) -> None:
        self.max_size, self.size, self._size_of = max_size, 0, size_of
        self.kept: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: Hashable) -> Any:
        """The value, which counts as used; None where there is none."""
        if key not in self.kept:
            return None
        self.kept.move_to_end(key)
        return self.kept[key]

    def put(self, key: Hashable, value: Any) -> Any:
        """Keep a value, and return it."""
        self.pop(key)
        self.kept[key] = value
        self.size += self._size_of(value)
        while self.size > self.max_size and len(self.kept) > 1:
            self.pop(next(iter(self.kept)))
        return value

    def pop(self, key: Hashable) -> None:
        """Drop the value of a key, if there is one."""
        if (value := self.kept.pop(key, None)) is not None:
            self.size -= self._size_of(value)

    def clear(self) -> None:
        """Drop everything."""
        self.kept.clear()
        self.size = 0
