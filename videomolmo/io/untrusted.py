"""Files that a stranger may have made: regular, in their folder, of bounded size, with values of known kinds."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from functools import cache
from inspect import get_annotations
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from videomolmo.errors import BadInput

MOST_TEXT = 64 * 2**20  # bytes of a text file that is read whole; published tokenizers have up to 33 MB
SHOWN = 120  # characters of a strange value in an error
T = TypeVar("T")


def whole(least: int, most: int) -> Any:
    """The type of whole numbers from `least` to `most`; what only equals one (4.0, True) is none."""
    return Annotated[int, Field(ge=least, le=most)]


def number(least: float, most: float) -> Any:
    """The type of finite numbers from `least` to `most`."""
    return Annotated[float, Field(ge=least, le=most, allow_inf_nan=False)]


def regular_file(path: str | Path, most_bytes: int | None = None) -> Path:
    """The same path, where a regular file of at most `most_bytes` lies there: to open it neither waits nor never ends.

    Raises:
        BadInput: nothing there, a folder, a pipe or a device, or a larger file.
    """
    try:
        facts = os.stat(path)
    except FileNotFoundError as error:
        raise BadInput(f"{path} does not exist; copy or download all files of the model") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise BadInput(f"{str(path)[:200]!r} cannot be opened ({reason}); check the path") from error
    if not stat.S_ISREG(facts.st_mode):
        raise BadInput(f"{path} is a folder, a pipe or a device, expected a file; copy or download it again")
    if most_bytes is not None and facts.st_size > most_bytes:
        raise BadInput(f"{path} has {facts.st_size} bytes, expected at most {most_bytes}; it is no such file")
    return Path(path)


def model_file(path: str | Path, most_bytes: int | None = None) -> Path:
    """As `regular_file`, of a model's folder: a link leads to the folder itself or to the hub's cache around it.

    Raises:
        BadInput: also for a link that leads elsewhere, whose content is not the model's.
    """
    path = regular_file(path, most_bytes)
    folder, target = Path(os.path.realpath(path.parent)), Path(os.path.realpath(path))
    cached = folder.parent.name == "snapshots" and target.parent == folder.parent.parent / "blobs"
    if not cached and not target.is_relative_to(folder):
        raise BadInput(f"{path} is a link that leaves its folder, to {target}; copy the file there")
    return path


def read_text(path: str | Path, most_bytes: int = MOST_TEXT) -> str:
    """A text of a model's folder, in UTF-8 with or without a byte order mark."""
    path = model_file(path, most_bytes)
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read ({error}); copy or download all files of the model") from error


def read_json(path: str | Path, most_bytes: int = MOST_TEXT) -> dict[str, Any]:
    """A JSON object of a model's folder; NaN and Infinity, which JSON does not have, are no values here.

    Raises:
        BadInput: no such file, no JSON, nested too deeply, or no object.
    """
    text = read_text(path, most_bytes)
    try:
        values = json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        where = f"{error.msg}, line {error.lineno}" if isinstance(error, json.JSONDecodeError) else str(error)[:80]
        raise BadInput(f"{path} is not JSON ({where}); copy or download it again") from error
    if not isinstance(values, dict):
        raise BadInput(f"{path} holds no JSON object; copy or download it again")
    return values


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), -float("inf")):
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
    fault = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(part for part in (name, *map(str, fault["loc"])) if part) or "value"
    shown = "missing" if fault["type"] == "missing" else shortened(fault["input"])
    return f"{where} is {shown} ({fault['msg'].lower()})"


def first_line(error: BaseException) -> str:
    """What an error of a library says, for a message of one line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(lines[0].split())[:160]


def shortened(value: object) -> str:
    """A value as it is shown in an error: one line, however large it is."""
    if isinstance(value, int) and value.bit_length() > 200:
        return "a huge number"
    try:
        text = " ".join(repr(value).split())
    except (RecursionError, ValueError):
        return f"a deep {type(value).__name__}"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


@cache
def _adapter(kind: Any) -> TypeAdapter:
    return TypeAdapter(kind)


@cache
def _fields(owner: type) -> list[tuple[str, Callable[[], TypeAdapter]]]:
    hints = get_annotations(owner, eval_str=True)
    return [(name, cache(lambda hint=hint: TypeAdapter(hint))) for name, hint in hints.items()]
