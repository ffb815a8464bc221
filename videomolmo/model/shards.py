"""Safetensors checkpoints in one file or in many: what they hold is known before any of it is read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from videomolmo.errors import BadInput
from videomolmo.tensors import shapes_of
from videomolmo.untrusted import checked, model_file, read_json, shortened

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
        promised = _weight_map(index) if os.path.lexists(index) else None
        self.files = [self.folder / name for name in (sorted(set(promised.values())) if promised else [WEIGHTS_FILE])]
        self.tensors: dict[str, Tensor] = {}
        for path in self.files:
            for name, empty in shapes_of(model_file(path)).items():
                if name in self.tensors:
                    raise BadInput(
                        f"{path}: weight {shortened(name)} is in an earlier shard too; download the files again"
                    )
                if promised is not None and promised.get(name) != path.name:
                    raise BadInput(
                        f"{path}: weight {shortened(name)} is not promised there by {INDEX_FILE}; download again"
                    )
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
    values = read_json(index)
    if not isinstance(promised := values.get("weight_map"), dict):
        raise BadInput(f"{index} is no index of shards (it has no weight_map); download it again")
    promised = checked(dict[str, str], promised, f"{index} is no index of shards")
    strange = [file for file in promised.values() if Path(file).name != file or not file.endswith(".safetensors")]
    if strange or not promised:
        named = shortened(strange[0]) if strange else "no file"
        raise BadInput(f"{index} names {named}, expected .safetensors files beside it")
    return promised
