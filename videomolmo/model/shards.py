"""Safetensors checkpoints in one file or in many: what they hold is known before any of it is read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from videomolmo.errors import BadInput

WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"


class Shards:
    """The tensors of a folder with `model.safetensors`, or with an index of shards beside it.

    Only headers are read at first. Pickled weights are never touched.

    Args:
        folder: of the checkpoint.

    Attributes:
        tensors: names and tensors without data (on the meta device), to see what fits before anything is read.

    Raises:
        BadInput: files missing or cut off, or the index and the shards disagree.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        index = self.folder / INDEX_FILE
        promised = _weight_map(index) if index.is_file() else None
        self.files = [self.folder / name for name in (sorted(set(promised.values())) if promised else [WEIGHTS_FILE])]
        self.tensors: dict[str, Tensor] = {}
        for path in self.files:
            for name, empty in _header(path).items():
                if name in self.tensors:
                    raise BadInput(f"{path}: weight {name!r} is in an earlier shard too; download the files again")
                if promised is not None and promised.get(name) != path.name:
                    raise BadInput(f"{path}: weight {name!r} is not promised there by {INDEX_FILE}; download again")
                self.tensors[name] = empty
        lacking = sorted(set(promised or ()) - set(self.tensors))
        if lacking:
            raise BadInput(f"{index}: {len(lacking)} weights are in no shard, first {lacking[0]!r}; download again")

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors, shard by shard; each tensor is read when its turn comes."""
        for path in self.files:
            with safe_open(path, framework="pt") as file:
                names = file.keys()
                for name in names:
                    yield name, file.get_tensor(name)


def _weight_map(index: Path) -> dict[str, str]:
    """Weight name to file name; only files right beside the index."""
    try:
        promised = json.loads(index.read_text(encoding="utf-8-sig"))["weight_map"]
        strange = [file for file in promised.values() if Path(file).name != file or not file.endswith(".safetensors")]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{index} is no index of shards ({type(error).__name__}); download it again") from error
    if strange or not promised:
        raise BadInput(f"{index} names {strange[:1] or 'no file'}, expected .safetensors files beside it")
    return promised


def _header(path: Path) -> dict[str, Tensor]:
    """Names, shapes and precisions in one file."""
    if not path.is_file():
        raise BadInput(f"{path} does not exist; copy or download all files of the model")
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return {name: _empty(file.get_slice(name)) for name in names}
    except SafetensorError as error:
        raise BadInput(f"{path} is no complete safetensors file ({error}); copy or download it again") from error


def _empty(part: Any) -> Tensor:
    dtypes = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    kind = part.get_dtype()
    if kind not in dtypes:
        raise SafetensorError(f"weights of type {kind}, expected floating point")
    return torch.empty(part.get_shape(), dtype=dtypes[kind], device="meta")
