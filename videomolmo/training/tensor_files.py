"""The tensors of a checkpoint in safetensors files, one for each process, with an index; each file has its hash."""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from videomolmo.errors import BadInput
from videomolmo.io.provenance import sha256

INDEX = "index.json"
_PART = re.compile(r"part_\d{4,}\.safetensors")
_MAX_BYTES = 64 << 20  # bytes of an index; that of a 7B model on 64 processes has 2 MB
_HEADER = 4096  # bytes that a file may have for each tensor beside its numbers


class Checked(BaseModel):
    """What is read back from a file: of these types and no others."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid")


class Written(Checked):
    """A file as it was written."""

    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Piece(Checked):
    """A tensor: its shape, and the numbers of the parts that hold it, one after another along its first dimension."""

    shape: list[Annotated[int, Field(ge=0)]]
    parts: list[Annotated[int, Field(ge=0)]]


class Index(Checked):
    """All tensors of a checkpoint, by name."""

    tensors: dict[str, Piece]


def part_name(process: int) -> str:
    return f"part_{process:04d}.safetensors"


def write_part(folder: Path, process: int, pieces: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write what a process holds, and force it to disk; returns what `write_index` needs to know of it.

    Args:
        folder: of the checkpoint.
        process: number of the process, in whose order pieces of a tensor follow one another.
        pieces: rows of tensors, or whole ones, by the tensor's name.
    """
    path = folder / part_name(process)
    save_file({name: value.detach().cpu().contiguous() for name, value in pieces.items()}, path)
    return {"process": process, "names": list(pieces), "file": written(path)}


def write_index(folder: Path, told: Sequence[Mapping[str, Any]], shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Write index.json over all parts; returns size and hash of every file, by name.

    Args:
        folder: of the checkpoint.
        told: what `write_part` returned on each process.
        shapes: of the whole tensors, by name.
    """
    held = {name: {"shape": list(shape), "parts": []} for name, shape in shapes.items()}
    for part in sorted(told, key=lambda part: part["process"]):
        for name in part["names"]:
            held[name]["parts"].append(part["process"])
    (folder / INDEX).write_text(json.dumps({"tensors": held}) + "\n", encoding="utf-8")
    return {INDEX: written(folder / INDEX)} | {part_name(part["process"]): part["file"] for part in told}


def written(path: Path) -> dict[str, Any]:
    """Size and hash of a file that is on disk for good."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


class Parts:
    """The tensors of a checkpoint; of them nothing is read yet but the index.

    Args:
        folder: of the checkpoint.
        files: size and hash of every file, by name.

    Attributes:
        shapes: of all tensors, by name.

    Raises:
        ValueError: the index is not what was written, or leads elsewhere than to the files named.
    """

    def __init__(self, folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
        self.folder, self.files = folder, {name: Written.model_validate(about) for name, about in files.items()}
        strange = [name for name in self.files if name != INDEX and not _PART.fullmatch(name)]
        if strange or INDEX not in self.files:
            raise ValueError(f"files are {sorted(self.files)!r:.80}, expected {INDEX} and {part_name(0)}")
        self._opened: dict[int, Any] = {}
        self._check(INDEX, _MAX_BYTES)
        self.tensors = Index.model_validate_json(read_whole(folder / INDEX, _MAX_BYTES)).tensors
        self.shapes = {name: tuple(piece.shape) for name, piece in self.tensors.items()}
        lacking = {part_name(number) for piece in self.tensors.values() for number in piece.parts} - set(self.files)
        if lacking:
            raise ValueError(f"{INDEX} names {min(lacking)}, which the checkpoint does not have")

    def check(self, process: int = 0, processes: int = 1) -> None:
        """Look whether files are what was written: of several processes, each looks at its share of them.

        Raises:
            ValueError: one is missing, has another size or another hash, or larger than its tensors need.
        """
        numbers = sum(math.prod(shape) for shape in self.shapes.values())
        max_bytes = 8 * numbers + _HEADER * (len(self.shapes) + 1)
        for name in sorted(self.files)[process::processes]:
            self._check(name, _MAX_BYTES if name == INDEX else max_bytes)

    def _check(self, name: str, max_bytes: int) -> None:
        size, told = size_of(self.folder / name), self.files[name]
        if size != told.bytes or size > max_bytes:
            raise ValueError(f"{name} has {size} bytes, expected {min(told.bytes, max_bytes)}")
        if sha256(self.folder / name) != told.sha256:
            raise ValueError(f"{name} has changed since it was written")

    def rows(self, name: str, first: int, last: int) -> Tensor:
        """Rows `first` to `last` (excluded) of a tensor; all of it where it has no dimension.

        Raises:
            ValueError: the parts hold other rows.
        """
        shape, pieces, start = self.shapes[name], [], 0
        for number in self.tensors[name].parts:
            if number not in self._opened:  # its header is read once for all tensors
                self._opened[number] = safe_open(self.folder / part_name(number), framework="pt")
            file = self._opened[number]
            if not shape:
                return file.get_tensor(name)
            there = file.get_slice(name)
            own = there.get_shape()
            if tuple(own[1:]) != shape[1:]:
                raise ValueError(f"{name} has shape {own} in {part_name(number)}, expected {list(shape)}")
            if start < last and start + own[0] > first:
                pieces.append(there[max(first - start, 0) : min(last - start, own[0])])
            start += own[0]
        if start != shape[0]:
            raise ValueError(f"{name} has {start} rows, expected {shape[0]}")
        return torch.cat(pieces)


def own_pieces(tensors: dict[str, Tensor], process: int, processes: int) -> dict[str, Tensor]:
    """What a process writes: its rows of what is divided, and of what all hold each its share."""
    pieces = {}
    for number, (name, value) in enumerate(tensors.items()):
        local, _ = _rows_here(value)
        if _is_divided(value):
            pieces |= {name: local} if local.numel() else {}
        elif number % processes == process:
            pieces[name] = local
    return pieces


def _is_divided(value: Tensor) -> bool:
    return isinstance(value, DTensor) and not value.placements[0].is_replicate()


def _rows_here(value: Tensor) -> tuple[Tensor, int]:
    """The rows of a tensor that this process holds, and the number of the first."""
    if not isinstance(value, DTensor):
        return value, 0
    (placement,), local = value.placements, value.to_local()
    if placement.is_replicate():
        return local, 0
    if not placement.is_shard(0):
        raise NotImplementedError(f"{placement}: checkpoints hold tensors that are divided by rows")
    each = -(-value.shape[0] // value.device_mesh.size())
    return local, min(each * value.device_mesh.get_local_rank(), value.shape[0])


def check_fit(shapes: Mapping[str, Sequence[int]], own: Mapping[str, Tensor]) -> None:
    """ValueError where a checkpoint holds other tensors than a run learns."""
    odd = sorted(set(shapes) ^ set(own)) or [name for name in own if tuple(shapes[name]) != tuple(own[name].shape)]
    if odd:
        here, there = (what.get(odd[0]) for what in (own, shapes))
        shape = None if here is None else tuple(here.shape)
        raise ValueError(f"it is of another model or learns other parts: {odd[0]} is {there} there, {shape} here")


@torch.no_grad()
def fill(value: Tensor, parts: Any, name: str) -> None:
    """Take over what this process holds of a tensor from `Parts` or their like."""
    local, first = _rows_here(value)
    if local.numel():
        local.copy_(parts.rows(name, first, first + len(local) if local.dim() else 0))


def size_of(path: Path) -> int:
    """Bytes of a plain file.

    Raises:
        ValueError: it is missing, or a link, a folder, a pipe.
    """
    try:
        found = os.lstat(path)
    except OSError as error:
        raise ValueError(f"{path.name} is missing ({error.strerror or error})") from error
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path.name} is no plain file")
    return found.st_size


def read_whole(path: Path, max_bytes: int) -> bytes:
    """Content of a plain file of at most so many bytes.

    Raises:
        ValueError: it is missing, larger, or a link, a folder, a pipe.
    """
    if (size := size_of(path)) > max_bytes:
        raise ValueError(f"{path.name} has {size} bytes, expected at most {max_bytes}")
    return path.read_bytes()


def first_whole(
    candidates: Iterable[Path], read: Callable[[Path], Any | None]
) -> tuple[Any | None, list[tuple[Path, str]]]:
    """What `read` makes of the first candidate that is there and whole, and what is wrong with those before it.

    Args:
        candidates: checkpoints, the one to prefer first.
        read: None where there is no checkpoint, BadInput where it is damaged.
    """
    damaged: list[tuple[Path, str]] = []
    for path in candidates:
        try:
            if (content := read(path)) is not None:
                return content, damaged
        except BadInput as error:
            damaged.append((path, str(error)))
    return None, damaged


def set_aside(path: Path) -> Path:
    """Rename what cannot be used, to the first such name that is free; returns where it is."""
    number = 1
    while os.path.lexists(aside := path.with_name(f"aside_{number}_{path.name}")):
        number += 1
    return path.rename(aside)
