"""Plain values from arguments: Python's own numbers and paths, and NumPy's arrays, from whatever stands for them.

A NumPy number that is taken in is found out when a file of results is written, after all the work; here it is not.
"""

import operator
import os
from pathlib import Path
from typing import Any

import numpy as np

from videomolmo.errors import BadInput


def as_int(value: Any, minimum: int = 1) -> int | None:
    """A whole number from `minimum` on, be it Python's, NumPy's or a tensor's, as an int; None for anything else.

    Example:
        >>> as_int(np.int64(5)), as_int(0), as_int(2.0), as_int(True)
        (5, None, None, None)
    """
    if isinstance(value, (bool, np.bool_)):  # NumPy 2.1 warns of an index that is one
        return None
    try:
        found = operator.index(value)
    except TypeError:
        return None
    return None if found < minimum else found


def as_float(value: Any) -> float | None:
    """A number, be it Python's, NumPy's or a tensor's, as a float; None for anything else, also for a text.

    Example:
        >>> as_float(np.float32(0.5)), as_float(2), as_float("0.5"), as_float(True)
        (0.5, 2.0, None, None)
    """
    is_one = hasattr(value, "__float__") and getattr(value, "ndim", 0) == 0
    if not is_one or isinstance(value, (bool, np.bool_)):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None


def as_path(value: Any) -> Path | None:
    """A path from a text or anything that says it is one (`os.PathLike`); None for anything else, and for no text.

    Example:
        >>> as_path("clips").name, as_path(""), as_path(5)
        ('clips', None, None)
    """
    if not isinstance(value, (str, os.PathLike)):
        return None
    text = os.fsdecode(value)
    return Path(text) if text else None


def require_path(value: Any, what: str) -> Path:
    """`as_path` of what has to be one.

    Raises:
        BadInput: it is none; the line speaks of `what`.
    """
    path = as_path(value)
    if path is None:
        raise BadInput(f"{what} is {value!r}, expected a path")
    return path


def as_array(value: Any, what: str) -> np.ndarray:
    """A NumPy array of booleans or numbers from one, a tensor on any device, or nested lists.

    Raises:
        BadInput: it is none of these; the line speaks of `what`.

    Example:
        >>> as_array([[0, 1], [1, 1]], "mask").shape
        (2, 2)
    """
    try:
        array = np.asarray(_on_cpu(value))
    except Exception as error:  # lists of unequal length, tensors of types NumPy lacks: each raises its own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInput(f"{what}: a {type(value).__name__} that is no array ({reason}); give a NumPy array") from None
    if array.dtype.kind not in "biuf":
        raise BadInput(f"{what}: a {type(value).__name__} of {array.dtype}; expected an array of booleans or numbers")
    return array


def as_json(value: Any) -> Any:
    """What `json.dumps` writes for a value it does not know: NumPy's numbers and arrays as plain ones, else its text.

    Example:
        >>> import json
        >>> json.dumps({"tau": np.float32(0.5), "at": Path("a")}, default=as_json)
        '{"tau": 0.5, "at": "a"}'
    """
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _on_cpu(value: Any) -> Any:
    """A tensor, or a list of them, where NumPy can read it."""
    if isinstance(value, (list, tuple)):
        return [_on_cpu(one) for one in value] if any(hasattr(one, "detach") for one in value) else value
    return value.detach().cpu() if hasattr(value, "detach") else value
