"""Files that a stranger may have made: regular, in their folder, of bounded size, with values of known kinds."""

from __future__ import annotations

import json
import math
import os
import reprlib
import stat
import struct
import tomllib
import zipfile
from codecs import BOM_UTF8
from collections.abc import Callable, Sequence
from functools import cache
from inspect import get_annotations
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TypeVar

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from videomolmo.errors import BadInput

MAX_TEXT_BYTES = 64 << 20  # of a text of a model, read whole; published tokenizers have up to 33 MB
MAX_JSON_BYTES = 32 << 20  # of a file that a run left
MAX_ARRAY_BYTES = 2 << 30
MAX_INDEX_BYTES = 1 << 33  # of a file of labels; run lengths of all masks of a data set may take gigabytes
_MAX_HEADER_BYTES = 10_000  # of an array
_MAX_DIRECTORY_BYTES = 64 << 10  # of a zip file
_CHUNK_BYTES = 1 << 18  # unpacked at a time
_ENCRYPTED = 0x1  # flag of a zip's member
_SHOWN = 120  # characters of a strange value in an error
_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxlist, _REPR.maxtuple, _REPR.maxdict, _REPR.maxstring, _REPR.maxother = 3, 20, 20, 20, 120, 120
T = TypeVar("T")


def int_in(low: int, high: int) -> Any:
    """The type of whole numbers from `low` to `high`; what only equals one (4.0, True) is none."""
    return Annotated[int, Field(ge=low, le=high)]


def float_in(low: float, high: float) -> Any:
    """The type of finite numbers from `low` to `high`."""
    return Annotated[float, Field(ge=low, le=high, allow_inf_nan=False)]


def regular_file(path: str | Path, max_bytes: int | None = None) -> Path:
    """The same path, where a regular file of at most `max_bytes` lies there: to open it neither waits nor never ends.

    Raises:
        BadInput: nothing there, a folder, a pipe or a device, or a larger file.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        raise BadInput(f"{path} does not exist; copy or download all files of the model") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise BadInput(f"{str(path)[:200]!r} cannot be opened ({reason}); check the path") from error
    if not stat.S_ISREG(status.st_mode):
        raise BadInput(f"{path} is a folder, a pipe or a device, expected a file; copy or download it again")
    if max_bytes is not None and status.st_size > max_bytes:
        raise BadInput(f"{path} has {status.st_size} bytes, expected at most {max_bytes}; it is no such file")
    return Path(path)


def model_file(path: str | Path, max_bytes: int | None = None) -> Path:
    """As `regular_file`, of a model's folder: a link leads to the folder itself or to the hub's cache around it.

    Raises:
        BadInput: also for a link that leads elsewhere, whose content is not the model's.
    """
    path = regular_file(path, max_bytes)
    folder, target = Path(os.path.realpath(path.parent)), Path(os.path.realpath(path))
    cached = folder.parent.name == "snapshots" and target.parent == folder.parent.parent / "blobs"
    if not cached and not target.is_relative_to(folder):
        raise BadInput(f"{path} is a link that leaves its folder, to {target}; copy the file there")
    return path


def open_plain(path: str | Path) -> BinaryIO:
    """A file opened to be read; never a pipe or a device, which might keep the reader waiting for ever.

    Raises:
        OSError: it is not there, or cannot be opened.
        BadInput: it is something else than a file.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return os.fdopen(handle, "rb")
    os.close(handle)
    raise BadInput(f"{path} is a pipe, a device or a folder, expected a file; remove it")


def read_bytes(path: str | Path, max_bytes: int = MAX_JSON_BYTES) -> bytes:
    """Content of a file, not read where it is longer than `max_bytes`.

    Raises:
        OSError, BadInput: as `open_plain`; BadInput for a longer one, too.
    """
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise BadInput(f"{path} has {size} bytes, expected at most {max_bytes}; it was not written by this program")
        return file.read(size)


def read_json(path: str | Path, kind: Any = dict[str, Any], max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Content of a JSON file that a run left.

    Raises:
        OSError, BadInput: as `read_bytes` and `parse`.
    """
    return parse(kind, read_bytes(path, max_bytes), str(path))


def parse(kind: Any, data: bytes, place: str) -> Any:
    """What `data`, JSON, holds; its nesting is bounded.

    Args:
        kind: a type that pydantic knows, such as those of `videomolmo.io.schemas`.
        data: the text in UTF-8, with or without a byte order mark.
        place: for the message.

    Raises:
        BadInput: it is not JSON, or not of this kind; the line names the first fault.
    """
    try:
        return _adapter(kind).validate_json(data.removeprefix(BOM_UTF8))
    except ValidationError as error:
        raise BadInput(f"{place}: {first_fault(error)}") from None


def wrong_keys(kind: Any, content: Any) -> dict[str, str]:
    """Keys of a JSON object, read already, that are not as `kind` wants them, with the reason; "" for the whole."""
    try:
        _adapter(kind).validate_json(json.dumps(content))
    except ValidationError as error:
        found = {}
        for fault in error.errors(include_url=False, include_context=False):
            found.setdefault(str(fault["loc"][0]) if fault["loc"] else "", _in_words(fault))
        return found
    return {}


def read_model_text(path: str | Path, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """A text of a model's folder, in UTF-8 with or without a byte order mark."""
    path = model_file(path, max_bytes)
    try:
        return read_bytes(path, max_bytes).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read ({error}); copy or download all files of the model") from error


def read_model_json(path: str | Path) -> dict[str, Any]:
    """A JSON object of a model's folder; NaN and Infinity, which JSON does not have, are no values here.

    Raises:
        BadInput: no such file, no JSON, nested too deeply, or no object.
    """
    text = read_model_text(path)
    try:
        values = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        where = f"{error.msg}, line {error.lineno}" if isinstance(error, json.JSONDecodeError) else str(error)[:80]
        raise BadInput(f"{path} is not JSON ({where}); copy or download it again") from error
    if not isinstance(values, dict):
        raise BadInput(f"{path} holds no JSON object; copy or download it again")
    return values


def read_toml(path: str | Path, remedy: str) -> dict[str, Any]:
    """What stands in a TOML file.

    Raises:
        BadInput: no such file, not UTF-8, or no TOML; the line for the first ends with `remedy`.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 (byte {error.start}), as TOML has to be; save it as UTF-8") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadInput(f"{path}: it is not TOML ({error}); {remedy}") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:40]} is beyond all numbers")
    return value


def checked(kind: type[T], values: Any, source: str) -> T:
    """`values`, where they are of `kind`: types as they stand (no text for a number), and within their bounds.

    Raises:
        BadInput: they are not; names the first that is wrong, and `source`.
    """
    try:
        return _adapter(kind).validate_python(values, strict=True)
    except (ValidationError, RecursionError) as error:
        raise BadInput(f"{source}: {first_fault(error)}; correct it, or download the file again") from error


def check_fields(owner: object) -> None:
    """Nothing, where each field of a dataclass (or another class with annotations) is of its annotated type.

    Raises:
        ValueError: names the first field that is not.
    """
    for name, adapter in _fields(type(owner)):
        try:
            adapter().validate_python(getattr(owner, name), strict=True)
        except ValidationError as error:
            raise ValueError(f"{type(owner).__name__}.{first_fault(error, name)}") from None


def first_fault(error: Exception, name: str = "") -> str:
    """What a check found first, in one line: where, the value, and what was expected."""
    if not isinstance(error, ValidationError):
        return f"{name or 'values'} are nested too deeply"
    faults = error.errors(include_url=False, include_context=False)
    return _in_words(faults[0], name) + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else "")


def _in_words(fault: Any, name: str = "") -> str:
    where = ".".join(part for part in (name, *map(str, fault["loc"])) if part)
    message = fault["msg"].replace("Input should be", "expected").replace("\n", " ")
    if fault["type"] == "json_invalid" or not where:
        return message
    return f"{where} is missing" if fault["type"] == "missing" else f"{where} is {shortened(fault['input'])}, {message}"


def first_line(error: BaseException) -> str:
    """What an error of a library says, for a message of one line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(lines[0].split())[:160]


def shortened(value: object) -> str:
    """A value as it is shown in an error: one line, however large it is."""
    if isinstance(value, int) and value.bit_length() > 200:
        return "a huge number"
    try:
        text = " ".join(_REPR.repr(value).split())
    except ValueError:
        return f"a huge {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


@cache
def _adapter(kind: Any) -> TypeAdapter:
    return TypeAdapter(kind)


@cache
def _fields(owner: type) -> list[tuple[str, Callable[[], TypeAdapter]]]:
    hints = get_annotations(owner, eval_str=True)
    return [(name, cache(lambda hint=hint: TypeAdapter(hint))) for name, hint in hints.items()]


class StoredArrays:
    """A .npz whose arrays are read one by one, each only where its header, the zip's directory and the caller agree.

    Args:
        path: of the file.

    Attributes:
        bytes: name of each array to its size in the file as the directory tells it, header included, unpacked.

    Raises:
        OSError, BadInput: as `open_plain`; BadInput also for what is no whole zip of arrays.
    """

    def __init__(self, path: str | Path) -> None:
        self.path, self._file = path, open_plain(path)
        try:
            self._check_directory()
            self._zip = zipfile.ZipFile(self._file)
            members = {info.filename.removesuffix(".npy"): info for info in self._zip.infolist()}
            if len(members) != self._count:
                raise ValueError("its directory names arrays twice, or was cut short")
        except Exception as error:  # zip, zlib and NumPy have no common class for what damage makes them raise
            self._file.close()
            raise self._bad(error) from None
        self._members, self.bytes = members, {name: info.file_size for name, info in members.items()}

    def _check_directory(self) -> None:
        """Nothing where the zip's directory is as NumPy writes it: at the end, small, without a second one."""
        end = struct.Struct("<4s4H2LH")
        size = self._file.seek(0, os.SEEK_END)
        self._file.seek(max(0, size - end.size - 20))
        tail = self._file.read()
        if len(tail) < end.size or tail[-end.size :][:4] != b"PK\x05\x06":
            raise ValueError("no whole zip file")
        *_, self._count, directory, _, _ = end.unpack(tail[-end.size :])
        if tail[:4] == b"PK\x06\x07" or directory > _MAX_DIRECTORY_BYTES:
            raise ValueError("its directory is larger than that of any file of arrays")

    def __enter__(self) -> "StoredArrays":
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()
        self._file.close()

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def read(
        self, name: str, kinds: str, shape: Sequence[int | None] | None, max_bytes: int = MAX_ARRAY_BYTES
    ) -> np.ndarray:
        """One array.

        Args:
            name: in the file.
            kinds: NumPy's letters of the kinds of numbers that may be, such as "iu"; or "u1", bytes. Never objects.
            shape: what it must be; None in it: any length; None: any shape.
            max_bytes: of it, unpacked.

        Raises:
            BadInput: it is not there, of another kind or shape, larger, damaged, encrypted or packed as NumPy never
                does.
        """
        try:
            info = self._members[name]
            if info.flag_bits & _ENCRYPTED or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError("it is encrypted, or packed in a way that is not read here")
            if info.file_size > max_bytes + _MAX_HEADER_BYTES:
                raise ValueError(f"it has {info.file_size} bytes, expected at most {max_bytes}")
            with self._zip.open(info) as file:
                found, is_by_columns, dtype = _header(file, info.file_size, kinds, shape)
                data, done = np.empty(info.file_size - file.tell(), np.uint8), 0
                while done < len(data):
                    if not (part := file.read(_CHUNK_BYTES)):
                        raise ValueError("it ends early")
                    data[done : done + len(part)] = np.frombuffer(part, np.uint8)
                    done += len(part)
            return np.ndarray(found, dtype, data, order="F" if is_by_columns else "C")
        except Exception as error:  # as above
            raise self._bad(error, name) from None

    def _bad(self, error: Exception, name: str = "") -> BadInput:
        if isinstance(error, BadInput):
            return error
        reason = f"there is no array {name}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        where = f"{self.path}, array {name}" if name and not isinstance(error, KeyError) else str(self.path)
        return BadInput(f"{where}: {' '.join(reason.split()):.300}; it is damaged, or no file of this program")


def _header(file: Any, size: int, kinds: str, shape: Sequence[int | None]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and type of an array: numbers of one of `kinds`, of `shape`, and as many as there are."""
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"its format is {version}, expected 1.0")
    found, is_by_columns, dtype = readers[version](file, max_header_size=_MAX_HEADER_BYTES)
    have = f"it is {dtype} {found}"
    if dtype.hasobject or not (dtype == kinds if kinds == "u1" else dtype.kind in kinds):
        raise ValueError(f"{have}, expected one of the kinds {kinds}")
    wanted = [None] * len(found) if shape is None else shape
    fits = len(found) == len(wanted) and all(n >= 0 and of in (None, n) for n, of in zip(found, wanted, strict=True))
    if not fits:
        raise ValueError(f"{have}, expected the shape ({', '.join('any' if n is None else str(n) for n in wanted)})")
    if math.prod(found) * dtype.itemsize != size - file.tell():
        raise ValueError(f"{have}, which are not the {size - file.tell()} bytes that are there")
    return found, is_by_columns, dtype
