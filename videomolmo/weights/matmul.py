"""Faster float32 matrix multiplication on a CPU: by oneDNN in place of MKL, where that loses no precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock

import torch

_entered, _before, _lock = 0, "highest", Lock()


@contextmanager
def fast_matmul() -> Iterator[None]:
    """Within it torch may multiply float32 matrices on a CPU by oneDNN, where that is as exact as MKL, its default.

    MKL does not use all of what processors other than Intel's can do: on an AMD one with AVX-512 a large product takes
    half of the time, and so does attention to thousands of tokens. Small ones get slower. The switch that torch has for
    it, "medium" precision, would allow bfloat16 on processors with AMX, and TF32 on a GPU: there nothing is done, and
    GPUs must not be used within. May be entered by several threads.
    """
    global _entered, _before
    if not stays_float32():
        yield
        return
    with _lock:
        if not _entered:
            _before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("medium")
        _entered += 1
    try:
        yield
    finally:
        with _lock:
            _entered -= 1
            if not _entered:
                torch.set_float32_matmul_precision(_before)


@cache
def stays_float32() -> bool:
    """Whether products are float32 with torch's switch at "medium", too: tried once on a small one.

    False where torch has a GPU, whose products the switch would change, or was set up by its newer switches, with which
    this one cannot be read.
    """
    if torch.cuda.is_available():
        return False
    matrix = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    try:
        told = torch.get_float32_matmul_precision()
    except RuntimeError:
        return False
    plain = matrix @ matrix
    try:
        torch.set_float32_matmul_precision("medium")
        return torch.allclose(matrix @ matrix, plain, rtol=0, atol=1e-3)  # bfloat16 is .16 off, TF32 .02
    finally:
        torch.set_float32_matmul_precision(told)
