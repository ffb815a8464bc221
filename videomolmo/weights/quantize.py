"""Weights in 4 or 8 bits through transformers and bitsandbytes."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from videomolmo.errors import BadInput

KINDS = (None, "8bit", "4bit")
# It warns at its import (peft's, too) of a package that is not there, and in every product of how it computes.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def bits(
    kind: str | None, dtype: torch.dtype, plain: Sequence[str] = ("head", "token_heads")
) -> BitsAndBytesConfig | None:
    """transformers' settings for weights of `kind`; None for whole ones.

    All linear layers but those in `plain` are quantised; embeddings, norms and biases stay. "4bit" is fp4 in blocks of
    64 without double quantisation; "8bit" is row-wise int8 with outliers above 6 kept apart.

    Source: published inference (4 bits by the library's defaults; 262 of 263 linear layers).
    Differs: fused projections come apart before they are quantised, which changes no value, because blocks never
    reach across a row.

    Args:
        kind: one of `KINDS`.
        dtype: to compute in.
        plain: parts of the model that stay as they are.

    Raises:
        BadInput: another kind, or bitsandbytes is not installed.
    """
    if kind not in KINDS:
        raise BadInput(f"quantize is {kind!r}, expected one of {KINDS}")
    if kind is None:
        return None
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise BadInput(
            f"quantize={kind!r} needs bitsandbytes, which is not here ({error}); pip install 'videomolmo[quantize]'"
        ) from error
    return BitsAndBytesConfig(
        load_in_8bit=kind == "8bit", load_in_4bit=kind == "4bit", bnb_4bit_quant_type="fp4",
        bnb_4bit_compute_dtype=dtype, llm_int8_threshold=6.0, llm_int8_skip_modules=list(plain),
    )  # fmt: skip


def unpacked(model: nn.Module) -> None:
    """Make layers of 4 bits compute alike on all CPUs.

    On CPUs with bfloat16 arithmetic the library packs weights anew, which fails where a row is not of whole blocks:
    the 588 values of a patch of 14 x 14 pixels.
    """
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all weights as they lie in memory, with the scales of quantised ones."""
    total = 0
    for parameter in model.parameters():
        total += parameter.numel() * parameter.element_size()
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            total += sum(part.numel() * part.element_size() for part in vars(state).values() if torch.is_tensor(part))
        scales = getattr(parameter, "SCB", None)
        total += scales.numel() * scales.element_size() if torch.is_tensor(scales) else 0
    return total
