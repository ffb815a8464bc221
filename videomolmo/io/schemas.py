"""Files that runs left and that are read back: kinds, types, ranges and sizes are checked before memory is taken."""

import json
import math
import os
import stat
import struct
import zipfile
from codecs import BOM_UTF8
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, NotRequired

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic takes that of typing from Python 3.12 on only

from videomolmo.errors import BadInput

# Far beyond what a run leaves, and small enough to be held: what is larger is damaged, or meant to do harm.
MOST_FRAMES = 1 << 22  # 38 hours at 30 frames a second
MOST_OBJECTS = 10_000
MOST_PIXELS = 1 << 27  # of a frame: 16K
MOST_MASK_PIXELS = 1 << 32  # of all objects on one frame
MOST_JSON_BYTES = 32 << 20  # of one file
MOST_ARRAY_BYTES = 2 << 30
_MOST_HEADER_BYTES = 10_000  # of an array
_MOST_DIRECTORY_BYTES = 64 << 10  # of a zip file
_AT_ONCE = 1 << 18  # bytes unpacked at a time
_LOCKED = 0x1  # flag of an encrypted member

Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e300, le=1e300)]
Seconds = Annotated[float, Field(allow_inf_nan=False, ge=-1e10, le=1e10)]
Frame = Annotated[int, Field(ge=0, lt=MOST_FRAMES)]
Text = Annotated[str, Field(max_length=1 << 20)]
Points = Annotated[list[tuple[Number, Number]], Field(max_length=10_000)]


class Facts(TypedDict):
    """run.json of a result; what else stands in it is kept as it is."""

    __pydantic_config__ = ConfigDict(extra="allow", strict=True)
    sentence: Annotated[str, Field(max_length=10_000)]
    video: Annotated[str, Field(max_length=10_000)] | None
    frames: Annotated[int, Field(ge=0, le=MOST_FRAMES)]
    objects: Annotated[int, Field(ge=0, le=MOST_OBJECTS)]
    height: Annotated[int, Field(ge=0, lt=1 << 16)]
    width: Annotated[int, Field(ge=0, lt=1 << 16)]
    fps: Annotated[float, Field(allow_inf_nan=False, ge=0, le=1e6)]
    times_s: Annotated[list[Seconds], Field(max_length=MOST_FRAMES)]
    warning: Text | None
    model: NotRequired[dict[str, Any]]


class Answer(TypedDict):
    """A line of answers.jsonl; see `videomolmo.results.KeyAnswer`."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)
    frame: Frame
    time_s: Seconds
    text: Text
    outcome: Literal["found", "absent", "malformed"]
    points_px: Points
    inside: Annotated[list[bool], Field(max_length=10_000)]
    problem: NotRequired[Text | None]


class Asked(TypedDict):
    """A key frame of `KeptAnswer`."""

    __pydantic_config__ = ConfigDict(extra="allow", strict=True)
    frame: Frame
    outcome: Literal["found", "absent", "malformed"]
    points_px: Points


class KeptAnswer(TypedDict):
    """What an evaluation keeps of one expression."""

    __pydantic_config__ = ConfigDict(extra="allow", strict=True)
    text: Text
    objects: Annotated[int, Field(ge=0, le=MOST_OBJECTS)]
    seconds: Number
    key_frames: Annotated[list[Asked], Field(max_length=MOST_FRAMES)]


class Correction(TypedDict):
    """A line of corrections.jsonl; what it does not need to say to be followed is kept as it is."""

    __pydantic_config__ = ConfigDict(extra="allow", strict=True)
    action: Literal["add_point", "remove_point", "drop_answer", "undo", "redo"]
    frame: NotRequired[Frame]
    object: NotRequired[Annotated[int, Field(ge=1, le=MOST_OBJECTS)]]
    clicks: NotRequired[Annotated[list[tuple[Number, Number, Literal[0, 1]]], Field(max_length=1000)]]


def read_facts(path: str | Path) -> dict[str, Any]:
    """run.json of a result, `Facts` that fit together.

    Raises:
        OSError, BadInput: as `read_json`; BadInput also where they contradict each other.
    """
    facts = read_json(path, Facts)
    if reason := contradiction(facts):
        raise BadInput(f"{path}: {reason}")
    return facts


def contradiction(facts: Mapping[str, Any]) -> str:
    """What does not fit together in `Facts`; "" where all does."""
    pixels, frames = facts["height"] * facts["width"], len(facts["times_s"])
    if 0 < facts["fps"] < 1e-6:
        return f"fps is {facts['fps']}, expected frames a second"
    if pixels > MOST_PIXELS or pixels * facts["objects"] > MOST_MASK_PIXELS:
        return f"{facts['objects']} objects of {facts['height']}×{facts['width']} pixels are more than can be held"
    return "" if facts["frames"] == frames else f"frames is {facts['frames']}, but times_s has {frames}"


def answer_problem(answer: Mapping[str, Any], frames: int, size: tuple[int, int]) -> str:
    """What in an `Answer` contradicts itself or the clip; "" where nothing does.

    Args:
        answer: as read.
        frames: how many the clip has.
        size: (height, width) of them.
    """
    if not answer["frame"] < frames:
        return f"frame {answer['frame']} is not in the clip of {frames} frames"
    if len(answer["inside"]) != len(answer["points_px"]):
        return f"it tells of {len(answer['inside'])} of {len(answer['points_px'])} points whether they are inside"
    for (x, y), is_inside in zip(answer["points_px"], answer["inside"], strict=True):
        if is_inside and not (0 <= x < size[1] and 0 <= y < size[0]):
            return f"point ({x:g}, {y:g}) is called inside the frame of {size[1]}×{size[0]} pixels"
    return ""


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


def read_bytes(path: str | Path, most: int = MOST_JSON_BYTES) -> bytes:
    """Content of a file, not read where it is longer than `most` bytes.

    Raises:
        OSError, BadInput: as `open_plain`; BadInput for a longer one, too.
    """
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise BadInput(f"{path} has {size} bytes, expected at most {most}; it was not written by this program")
        return file.read(most)


def read_json(path: str | Path, kind: Any = dict[str, Any], most: int = MOST_JSON_BYTES) -> Any:
    """Content of a JSON file.

    Raises:
        OSError, BadInput: as `read_bytes` and `parse`.
    """
    return parse(kind, read_bytes(path, most), str(path))


def parse(kind: Any, data: bytes, place: str) -> Any:
    """What `data`, JSON, holds; its nesting is bounded.

    Args:
        kind: a type that pydantic knows, such as `Facts`.
        data: the text in UTF-8.
        place: for the message.

    Raises:
        BadInput: it is not JSON, or not of this kind; the line names the first thing that is wrong.
    """
    try:
        return _reader(kind).validate_json(data.removeprefix(BOM_UTF8))
    except ValidationError as error:
        raise BadInput(f"{place}: {reason_of(error)}") from None


def wrong_keys(kind: Any, content: Any) -> dict[str, str]:
    """Keys of a JSON object, read already, that are not as `kind` wants them, with the reason; "" for the whole."""
    try:
        _reader(kind).validate_json(json.dumps(content))
    except ValidationError as error:
        found = {}
        for one in error.errors(include_url=False, include_context=False):
            found.setdefault(str(one["loc"][0]) if one["loc"] else "", _told(one))
        return found
    return {}


@cache
def _reader(kind: Any) -> TypeAdapter:
    return TypeAdapter(kind)


def reason_of(error: ValidationError) -> str:
    """The first thing that is wrong, in one line."""
    found = error.errors(include_url=False, include_context=False)
    return _told(found[0]) + (f" (and {len(found) - 1} more)" if len(found) > 1 else "")


def _told(one: Any) -> str:
    where = ".".join(map(str, one["loc"]))
    message = one["msg"].replace("Input should be", "expected").replace("\n", " ")
    if one["type"] == "json_invalid" or not where:
        return message
    return f"{where} is missing" if one["type"] == "missing" else f"{where} is {_short(one['input'])}, {message}"


def _short(value: Any) -> str:
    """A value as it would be typed, cut short; of a large one only what it is."""
    if isinstance(value, (list, dict)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 200:
        return "a number of hundreds of digits"
    return repr(value[:60] if isinstance(value, str) else value)


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
        if tail[:4] == b"PK\x06\x07" or directory > _MOST_DIRECTORY_BYTES:
            raise ValueError("its directory is larger than that of any file of arrays")

    def __enter__(self) -> "StoredArrays":
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()
        self._file.close()

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def read(
        self, name: str, kinds: str, shape: Sequence[int | None] | None, most: int = MOST_ARRAY_BYTES
    ) -> np.ndarray:
        """One array.

        Args:
            name: in the file.
            kinds: NumPy's letters of the kinds of numbers that may be, such as "iu"; or "u1", bytes. Never objects.
            shape: what it must be; None in it: any length; None: any shape.
            most: bytes, unpacked.

        Raises:
            BadInput: it is not there, of another kind or shape, larger, damaged, encrypted or packed as NumPy never
                does.
        """
        try:
            info = self._members[name]
            if info.flag_bits & _LOCKED or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError("it is encrypted, or packed in a way that is not read here")
            if info.file_size > most + _MOST_HEADER_BYTES:
                raise ValueError(f"it has {info.file_size} bytes, expected at most {most}")
            with self._zip.open(info) as file:
                found, is_by_columns, dtype = _header(file, info.file_size, kinds, shape)
                data, done = np.empty(info.file_size - file.tell(), np.uint8), 0
                while done < len(data):
                    if not (part := file.read(_AT_ONCE)):
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
    found, is_by_columns, dtype = readers[version](file, max_header_size=_MOST_HEADER_BYTES)
    told = f"it is {dtype} {found}"
    if dtype.hasobject or not (dtype == kinds if kinds == "u1" else dtype.kind in kinds):
        raise ValueError(f"{told}, expected one of the kinds {kinds}")
    wanted = [None] * len(found) if shape is None else shape
    fits = len(found) == len(wanted) and all(n >= 0 and of in (None, n) for n, of in zip(found, wanted, strict=True))
    if not fits:
        raise ValueError(f"{told}, expected the shape ({', '.join('any' if n is None else str(n) for n in wanted)})")
    if math.prod(found) * dtype.itemsize != size - file.tell():
        raise ValueError(f"{told}, which are not the {size - file.tell()} bytes that are there")
    return found, is_by_columns, dtype
