"""Tensors of files that a stranger may have made: what they are is known before they are read, and none is NaN."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from videomolmo.errors import BadInput
from videomolmo.io.untrusted import first_line, shortened

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def shapes_of(path: Path) -> dict[str, Tensor]:
    """Names and tensors without data (on the meta device) of a safetensors file, of which only the header is read.

    Raises:
        BadInput: a file that is cut off or no safetensors at all, or weights that are no floating point numbers.
    """
    found = {}
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            for name in names:
                part = file.get_slice(name)
                kind, shape = part.get_dtype(), part.get_shape()
                if kind not in DTYPES:
                    raise ValueError(f"weight {shortened(name)} is of type {kind}, expected floating point")
                found[name] = torch.empty(shape, dtype=DTYPES[kind], device="meta")
    except Exception as error:  # safetensors, the system and, for absurd shapes, torch have errors of their own
        raise BadInput(
            f"{path} is no complete safetensors file ({first_line(error)}); copy or download it again"
        ) from error
    return found


def check_finite(name: str, value: Tensor, stored: Tensor | None = None, source: object = "") -> None:
    """Nothing, where all numbers of a weight are finite.

    Args:
        name: of the weight.
        value: as it goes into the model.
        stored: as it is in its file, to tell what was wrong there from what no longer fits in fewer bits.
        source: where it comes from, for the message.

    Raises:
        BadInput: NaN or infinity.
    """
    if not value.is_floating_point() or _finite(value):
        return
    where = f"{source}: weight" if source else "weight"
    if stored is not None and _finite(stored):
        raise BadInput(f"{where} {shortened(name)} is too large for {value.dtype}; load it with dtype='float32'")
    raise BadInput(f"{where} {shortened(name)} is not finite (NaN or infinity); train or download it anew")


def _finite(value: Tensor) -> bool:
    """In one pass and without a copy (`isfinite` and sums of half precision make one): extremes tell of NaN, too."""
    return not value.numel() or bool(torch.stack(value.aminmax()).isfinite().all())
