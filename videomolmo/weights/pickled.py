"""Files that were pickled elsewhere or by earlier versions, read without running anything that they name.

A pickle is a program: it may call whatever its reader lets it find. Here it finds nothing but stand-ins that hold what
they are given, made anew for each file. Nothing is imported in its name, and torch's own reading of such files, which
had holes until its release 2.10, is not used.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

Known = Mapping[tuple[str, str], Callable[..., Any]]
_STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip
_REGISTERED = ("EXT1", "EXT2", "EXT4")  # objects by number, which are looked up without asking for a name
_LARGEST = 256 << 20  # bytes of a pickle; tensors lie beside it


class Foreign(ValueError):
    """What a file holds is not what it may hold; who reads it says which file."""


class Record:
    """Stands for an object of a class that is never imported; `held` is what the object was made of."""

    held: Any = None

    def __setstate__(self, state: Any) -> None:
        self.held = state


def record(name: str) -> type[Record]:
    """A new class of records: what a hostile file does to it ends with the file."""
    return type(name, (Record,), {})


def unpickle(data: bytes, known: Known, persistent: Callable[[Any], Any] | None = None) -> Any:
    """What a pickle describes, made of plain values and of what `known` gives for the names in it.

    Args:
        data: the pickle.
        known: (module, name) to a stand-in, harmless whatever it is called with.
        persistent: makes objects that lie outside the pickle from what it says of them.

    Raises:
        ValueError: it names anything else, or is damaged; nothing was run.
    """
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in _REGISTERED or ("PUT" in opcode.name and int(argument) > len(data)):
                raise Foreign(f"a pickle with {opcode.name} {argument!r:.40}, expected plain values and tensors")
        return _Unpickler(io.BytesIO(data), known, persistent).load()
    except Foreign:
        raise
    except Exception as error:  # what damage makes pickle raise has no common class
        raise Foreign(f"a damaged pickle ({type(error).__name__}: {error!s:.80})") from error


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, known: Known, persistent: Callable[[Any], Any] | None) -> None:
        super().__init__(file)
        self._known, self._persistent = known, persistent

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._known:
            raise Foreign(f"a pickle that names {module}.{name}"[:120] + ", expected plain values and tensors only")
        return self._known[module, name]

    def persistent_load(self, told: Any) -> Any:
        if self._persistent is None:
            raise Foreign("a pickle that names objects outside of it")
        return self._persistent(told)


def read_torch(source: Path | BinaryIO) -> Any:
    """What `torch.save` wrote: plain values, and tensors on the CPU.

    Args:
        source: a file of PyTorch 1.6 or later, or its content.

    Raises:
        ValueError: it is none, is damaged, or would make other objects than tensors; nothing was run.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            return _Torch(archive).read()
    except Foreign:
        raise
    except Exception as error:  # zipfile and torch raise many kinds
        raise Foreign(f"not a whole file of torch.save ({type(error).__name__}: {error!s:.80})") from error


class _Torch:
    """An archive of `torch.save`: a pickle, and beside it a member for each block of numbers."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        self.members = {member.filename: member for member in archive.infolist()}
        (pickled,) = (name for name in self.members if name.count("/") == 1 and name.endswith("/data.pkl"))
        self.folder = pickled.removesuffix("data.pkl")
        self._blocks: dict[str, Tensor] = {}
        self._left = archive.fp.seek(0, io.SEEK_END)

    def read(self) -> Any:
        known = {("torch", name): dtype for name, dtype in _STORAGES.items()} | {
            ("torch._utils", "_rebuild_tensor_v2"): lambda *given: _tensor(*given),
            ("torch._utils", "_rebuild_parameter"): lambda value, *_: value,
            ("collections", "OrderedDict"): type("Ordered", (dict,), {"__setstate__": lambda *_: None}),
        }
        return unpickle(bytes(self._content("data.pkl", _LARGEST)), known, self._block)

    def _content(self, name: str, most: int) -> bytearray:
        """A member's bytes; the archive's checksum of them is looked at."""
        member = self.members[self.folder + name]
        if member.compress_type != zipfile.ZIP_STORED or member.file_size > most:
            raise Foreign(f"{name} is packed, or larger than the {most} bytes that were expected")
        content = bytearray(member.file_size)
        with self.archive.open(member) as file:
            if file.readinto(content) != len(content) or file.read(1):
                raise Foreign(f"{name} is cut off")
        return content

    def _block(self, told: Any) -> Tensor:
        """The numbers that the pickle means by ("storage", kind, name, device, count), as one row."""
        _, dtype, name, _, count = told
        if not (isinstance(dtype, torch.dtype) and isinstance(name, str) and type(count) is int and count >= 0):
            raise Foreign(f"a pickle that names {told!r:.80}, expected a block of numbers")
        if name not in self._blocks:
            size = count * dtype.itemsize
            self._left -= size  # else members that lie over one another would fill the memory
            if self._left < 0 or self.members[f"{self.folder}data/{name}"].file_size != size:
                raise Foreign(f"block {name} has another size than {count} numbers")
            content = self._content(f"data/{name}", size)
            self._blocks[name] = torch.frombuffer(content, dtype=dtype) if size else torch.empty(0, dtype=dtype)
        return self._blocks[name]


def _tensor(block: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    """A tensor within a block; never larger than that."""
    if not isinstance(block, Tensor) or math.prod(shape) > len(block) or any(size < 0 for size in shape):
        raise Foreign(f"a tensor of shape {shape!r:.80} in a block of other size")
    return torch.as_strided(block, shape, strides, offset)
