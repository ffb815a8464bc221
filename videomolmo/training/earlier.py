"""Checkpoints of earlier versions, which torch.distributed.checkpoint wrote with pickles, read without running any."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videomolmo.training.tensor_files import read_whole, size_of
from videomolmo.weights.pickled import Record, read_torch, record, unpickle

_SHARE = re.compile(r"__\d+_\d+\.distcp")
_MODULE, _FILES = "torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem"
_CLASSES = (
    "Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata", "TensorProperties",
    "MetadataIndex", "StorageMeta",
)  # fmt: skip
_DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
_MAX_BYTES = 256 << 20  # bytes of .metadata


class EarlierParts:
    """The tensors of an earlier version's checkpoint; nothing is read yet but where they lie.

    Args:
        metadata: the file .metadata of the checkpoint.

    Attributes:
        shapes: of all tensors, by name.

    Raises:
        ValueError: files are missing, damaged, or name other things than tensors; nothing was run.
    """

    def __init__(self, metadata: Path) -> None:
        self.folder = metadata.parent
        told = unpickle(read_whole(metadata, _MAX_BYTES), _known()).held
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._chunks: dict[str, list[tuple[int, tuple[int, ...], Record]]] = {}
        for name, about in told["state_dict_metadata"].items():
            if isinstance(about.held, dict) and "size" in about.held:
                self.shapes[name] = about.held["size"]
                self._chunks[name] = []
        for index, place in told["storage_data"].items():
            name, offset = index.held["fqn"], index.held.get("offset")
            if name in self.shapes and offset is not None:
                self._chunks[name].append((offset[0] if offset else 0, offset, place))
        for name, shape in self.shapes.items():
            if not all(type(size) is int and size >= 0 for size in shape):
                raise ValueError(f"{name} has shape {shape!r:.60}")

    def check(self, process: int = 0, processes: int = 1) -> None:
        """Nothing: earlier versions kept no hashes; each tensor has a checksum of its own, seen when it is read."""

    def rows(self, name: str, first: int, last: int) -> Tensor:
        """Rows `first` to `last` (excluded) of a tensor; all of it where it has no dimension."""
        pieces, end = [], first
        for start, offset, place in sorted(self._chunks[name], key=lambda chunk: chunk[0]):
            if any(offset[1:]):
                raise ValueError(f"{name} is divided otherwise than by rows")
            if not self.shapes[name]:
                return self._read(place)
            if start >= last or end >= last:
                break
            piece = self._read(place)
            if start > end or piece.shape[1:] != torch.Size(self.shapes[name][1:]):
                raise ValueError(f"{name}: rows {end} to {start} are missing, or of another shape")
            if start + len(piece) > end:
                pieces.append(piece[end - start : last - start])
                end = min(start + len(piece), last)
        if end < last:
            raise ValueError(f"{name}: rows {end} to {last} are missing")
        return torch.cat(pieces)

    def _read(self, place: Record) -> Tensor:
        file, start, length = (place.held[key] for key in ("relative_path", "offset", "length"))
        if not isinstance(file, str) or not _SHARE.fullmatch(file) or place.held.get("transform_descriptors"):
            raise ValueError(f"tensors in {file!r:.80}, expected a file __0_0.distcp in the folder")
        path = self.folder / file
        if not (type(start) is type(length) is int and 0 <= start <= start + length <= size_of(path)):
            raise ValueError(f"{path.name} is cut off")
        with open(path, "rb") as opened:
            opened.seek(start)
            value = read_torch(io.BytesIO(opened.read(length)))
        if not isinstance(value, Tensor):
            raise ValueError(f"{path.name} holds a {type(value).__name__}, expected a tensor")
        return value


def _known() -> dict[tuple[str, str], Any]:
    """Stand-ins for all that such a file names."""
    known: dict[tuple[str, str], Any] = {(_MODULE, name): record(name) for name in _CLASSES}
    known |= {("torch", name): None for name in _DTYPES}
    nothing = [("torch.serialization", "_get_layout"), (_MODULE, "_MEM_FORMAT_ENCODING")]
    nothing += [("pathlib", name) for name in ("PosixPath", "WindowsPath")]
    known |= {name: lambda *_: None for name in nothing}
    return known | {("torch", "Size"): tuple, (_FILES, "_StorageInfo"): record("_StorageInfo")}
