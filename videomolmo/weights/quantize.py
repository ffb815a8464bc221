"""Weights in 4 or 8 bits through bitsandbytes, put layer by layer into an empty model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from videomolmo.errors import BadInput
from videomolmo.weights.assign import Put, put_plain

KINDS = (None, "8bit", "4bit")


def quantised(kind: str | None) -> Callable[[nn.Module], Put]:
    """What prepares an empty model for weights of `kind`, and returns how a weight is put in its place.

    All linear layers but the output head are quantised: vision tower, temporal module, connector and language model;
    embeddings, norms and biases stay. "4bit" is fp4 in blocks of 64 without double quantisation, computed in the
    precision of its input; "8bit" is row-wise int8 with outliers above 6 kept apart.

    Source: published inference (4 bits by the library's defaults; 262 of 263 linear layers).
    Differs: fused projections come apart before they are quantised, which changes no value, because blocks never
    reach across a row.

    Raises:
        BadInput: another kind, or bitsandbytes is not installed.
    """
    if kind not in KINDS:
        raise BadInput(f"quantize is {kind!r}, expected one of {KINDS}")
    if kind is None:
        return lambda model: put_plain
    try:
        import bitsandbytes
    except ImportError as error:
        raise BadInput(
            f"quantize={kind!r} needs bitsandbytes, which is not here ({error}); pip install 'videomolmo[quantize]'"
        ) from error

    def prepare(model: nn.Module) -> Put:
        for name, layer in list(model.named_modules()):
            if isinstance(layer, nn.Linear) and name != "head":
                owner, _, own = name.rpartition(".")
                setattr(model.get_submodule(owner), own, _empty_layer(bitsandbytes.nn, layer, kind))
        return lambda module, name, value: _put(bitsandbytes.nn, module, name, value)

    return prepare


def _empty_layer(library: Any, layer: nn.Linear, kind: str) -> nn.Module:
    sizes = {"bias": layer.bias is not None, "device": "meta"}
    if kind == "8bit":
        return library.Linear8bitLt(
            layer.in_features, layer.out_features, has_fp16_weights=False, threshold=6.0, **sizes
        )
    small = library.Linear4bit(
        layer.in_features, layer.out_features, quant_type="fp4", compress_statistics=False, **sizes
    )  # fmt: skip
    # On CPUs with bfloat16 arithmetic the library packs weights anew, which fails where a row is not of whole blocks:
    # the 588 values of a patch of 14 x 14 pixels. Without it all CPUs compute alike.
    small.support_avx512bf16_for_cpu = False
    return small


def _put(library: Any, module: nn.Module, name: str, value: Tensor) -> None:
    """A weight of a quantised layer is quantised where it lies; everything else stays as it is."""
    if name != "weight" or not isinstance(module, (library.Linear4bit, library.Linear8bitLt)):
        put_plain(module, name, value)
    elif isinstance(module, library.Linear4bit):
        weight = library.Params4bit(
            value.to("cpu"), requires_grad=False, quant_type="fp4", compress_statistics=False, module=module
        )  # fmt: skip
        module.weight = weight.to(value.device)
    else:
        module.weight = library.Int8Params(value.to("cpu"), requires_grad=False, has_fp16_weights=False).to(
            value.device
        )


def bits(kind: str | None, dtype: torch.dtype) -> Any:
    """transformers' settings for weights of `kind`, or None; what is quantised and how, see `quantised`.

    Raises:
        BadInput: another kind, or bitsandbytes is not installed.
    """
    if quantised(kind) and kind is None:
        return None
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_8bit=kind == "8bit", load_in_4bit=kind == "4bit", bnb_4bit_quant_type="fp4",
        bnb_4bit_compute_dtype=dtype, llm_int8_threshold=6.0, llm_int8_skip_modules=["head"],
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
