"""Tensors of a folder: read shard by shard, and compared with a model's."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from types import EllipsisType

import torch
from safetensors import safe_open
from torch import Tensor, nn

from videomolmo.errors import BadInput
from videomolmo.io.files import atomic_files
from videomolmo.io.untrusted import checked, model_file, read_model_json, shortened
from videomolmo.weights.tensors import check_finite, shapes_of

CONFIG_FILE = "config.json"
SHOWN = 6  # names listed in an error


def check_fit(model: nn.Module, shapes: Iterable[tuple[str, Tensor]], source: str) -> None:
    """Make sure that every parameter of `model` gets one tensor of its shape, and that no tensor is left over.

    Args:
        model: to be filled.
        shapes: names and tensors, with or without data.
        source: where they come from, for the message.

    Raises:
        BadInput: names that are missing, unexpected, doubled or of another shape, listed.
    """
    wanted = {name: value.shape for name, value in model.state_dict().items()}
    found: set[str] = set()
    faults: dict[str, list[str]] = {"missing": [], "unexpected": [], "doubled": [], "misshaped": []}
    for name, value in shapes:
        if name in found:
            faults["doubled"].append(name)
        elif name not in wanted:
            faults["unexpected"].append(name)
        elif value.shape != wanted[name]:
            faults["misshaped"].append(f"{name} {tuple(value.shape)} instead of {tuple(wanted[name])}")
        found.add(name)
    faults["missing"] = sorted(wanted.keys() - found)
    listed = [f"{len(names)} {fault}: {_shortened(names)}" for fault, names in faults.items() if names]
    if listed:
        raise BadInput(
            f"weights in {source} do not fit the configuration: {'; '.join(listed)}; use the weights' own config"
        )


def _shortened(names: list[str]) -> str:
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest


def write_folder(folder: str | Path, config: str, state: dict[str, Tensor], max_shard_size: str = "5GB") -> None:
    """Write config.json and the weights, in shards where they are large; each file atomically.

    Args:
        folder: made where missing.
        config: the text of config.json.
        state: tensors by the names they get in the files.
        max_shard_size: most bytes of one file, for example "5GB".
    """
    from huggingface_hub import save_torch_state_dict

    with atomic_files(folder, CONFIG_FILE) as place, safetensors_told():
        save_torch_state_dict(state, place, max_shard_size=max_shard_size)
        (place / CONFIG_FILE).write_text(config, encoding="utf-8")


@contextmanager
def safetensors_told() -> Iterator[None]:
    """What safetensors says of a full disk and its like, as the OSError that it is."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise OSError(str(error)) from error


@contextmanager
def quiet() -> Iterator[None]:
    """What transformers and accelerate do inside it shows no bar, which would end up amid those of others.

    Nor do they warn of bare parameters in a map of devices, where these belong.
    """
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The following device_map keys")
            yield
    finally:
        if shown:
            logging.enable_progress_bar()


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
        names = sorted(set(promised.values())) if promised else [WEIGHTS_FILE]
        self.files: dict[Path, dict[str, Tensor]] = {self.folder / name: {} for name in names}
        self.tensors: dict[str, Tensor] = {}
        for path, names in self.files.items():
            names |= shapes_of(model_file(path))
            for name, empty in names.items():
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
        for name, stored in self.stored():
            yield name, stored[...]

    def stored(self, dtype: torch.dtype | None = None) -> list[tuple[str, Stored]]:
        """Names and tensors that stay in their files until each is asked for, then in `dtype`."""
        return [
            (name, Stored(path, name, empty.shape, dtype))
            for path, names in self.files.items()
            for name, empty in names.items()
        ]


class Stored:
    """A weight, or some of its rows, in a safetensors file: `stored[...]` reads it, as transformers asks for weights.

    Args:
        path, name: the file and the weight's name in it.
        shape: of what is read.
        dtype: to read it in, and only where it is finite then; None reads it as it stands.
        first: the row that it begins at.
    """

    def __init__(
        self, path: Path, name: str, shape: torch.Size, dtype: torch.dtype | None = None, first: int | None = None
    ) -> None:
        self.path, self.name, self.shape, self.dtype, self.first = path, name, torch.Size(shape), dtype, first

    def split(self, rows: list[int]) -> list[Stored]:
        """As of a tensor: parts of so many rows each."""
        ends = list(accumulate(rows, initial=0))
        return [
            Stored(self.path, self.name, (count, *self.shape[1:]), self.dtype, first)
            for count, first in zip(rows, ends, strict=False)
        ]

    def __getitem__(self, everything: EllipsisType) -> Tensor:
        with safe_open(self.path, framework="pt") as file:
            part = file.get_slice(self.name)
            value = part[...] if self.first is None else part[self.first : self.first + self.shape[0]]
            placed = value.to(self.dtype or value.dtype, copy=True)
        if self.dtype is not None:
            check_finite(self.name, placed, value, self.path.parent)
        return placed


Weight = Tensor | Stored


def _weight_map(index: Path) -> dict[str, str]:
    """Weight name to file name; only files right beside the index."""
    values = read_model_json(index)
    if not isinstance(promised := values.get("weight_map"), dict):
        raise BadInput(f"{index} is no index of shards (it has no weight_map); download it again")
    promised = checked(dict[str, str], promised, f"{index} is no index of shards")
    strange = [file for file in promised.values() if Path(file).name != file or not file.endswith(".safetensors")]
    if strange or not promised:
        named = shortened(strange[0]) if strange else "no file"
        raise BadInput(f"{index} names {named}, expected .safetensors files beside it")
    return promised
