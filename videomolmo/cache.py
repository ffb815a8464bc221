"""Intermediate results that many runs share, kept by what made them: computed once, read by all others."""

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from videomolmo.errors import BadInput
from videomolmo.whole_files import whole_file

SUFFIX = ".npz"


def key_of(made_by: Mapping[str, Any]) -> str:
    """Name of a result: SHA-256 of all that decides its content, in canonical JSON.

    Raises:
        BadInput: a value that JSON has no form for.

    Example:
        >>> key_of({"clip": 3, "every": 5}) == key_of({"every": 5, "clip": 3})
        True
    """
    try:
        text = json.dumps(made_by, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BadInput(f"what made a cached result must be plain JSON: {error}") from None
    return hashlib.sha256(text.encode()).hexdigest()


def cached(
    folder: Path, made_by: Mapping[str, Any], make: Callable[[], Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Arrays that `make` returns, read from `folder` when they were made before by the same.

    Args:
        folder: of the cache; made where missing. Several processes may share it: a file appears whole or not at all.
        made_by: everything the arrays depend on: seeds, settings, hashes of weights, and a number that the caller
            raises when its own code changes them.
        make: called without arguments when nothing is there, or when what is there cannot be read.

    Raises:
        BadInput: see `key_of`.
    """
    path = Path(folder) / (key_of(made_by) + SUFFIX)
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
        with open(path, "rb") as file, zipfile.ZipFile(file) as found:
            file.seek(-12, os.SEEK_END)  # where a zip file says how many it holds; zipfile does not ask
            if len(found.namelist()) != int.from_bytes(file.read(2), "little"):
                return None
            return {name.removesuffix(".npy"): _array(found, name) for name in found.namelist()}
    except Exception:  # zip, zlib and NumPy have no common class for what damage makes them raise
        return None  # not there, cut short by a full disk, or changed since


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(name) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
        if file.read(1):  # a file's checksum is looked at where it ends, which np.load may never reach
            raise ValueError(f"{name} holds more than its header says")
    return array


def _write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with whole_file(path) as unfinished:
        np.savez_compressed(unfinished, **arrays)
