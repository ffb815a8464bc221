"""Where the parts of a model go: all on one device, or the language layers side by side on several GPUs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import nn

from videomolmo.errors import BadInput

Devices = str | torch.device | dict[str, int | str]
SPARE = 0.85  # of the free memory may hold weights; the rest is for activations and the cache


def device_of(name: str, devices: Devices) -> torch.device:
    """The device of the parameter `name`; in a map, the longest part of its name that is listed decides."""
    if not isinstance(devices, dict):
        return torch.device(devices)
    parts = name.split(".")
    keys = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return torch.device(next(devices[key] for key in keys if key in devices))


def side_by_side(model: nn.Module, element: int, free: Sequence[int] | None = None) -> dict[str, int | str]:
    """A device map that gives each GPU a run of language layers; everything before them is on the first GPU.

    Only the hidden states of a few tokens travel from one GPU to the next, once for each step.

    Args:
        model: a `VideoMolmoForConditionalGeneration`, filled or empty.
        element: bytes of one weight.
        free: free bytes of each GPU; None asks the GPUs.

    Raises:
        BadInput: no GPU, or not enough memory on all of them.
    """
    if free is None:
        free = [torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count())]
    if not free:
        raise BadInput("device_map 'auto' spreads a model over GPUs and there is none; leave it out")
    layers = [_bytes(layer, element) for layer in model.language.layers]
    whole = _bytes(model, element)
    first = whole - sum(layers) - (0 if model.head is None else _bytes(model.head, element))
    if whole > SPARE * sum(free) or first + layers[0] > SPARE * free[0]:
        raise BadInput(
            f"the weights take {whole / 1e9:.1f} GB and the GPUs have {sum(free) / 1e9:.1f} GB free; "
            "take quantize='4bit', or more memory"
        )
    index, used, share = 0, first, whole / sum(free)
    devices: dict[str, int | str] = {name: 0 for name, _ in model.named_children() if name != "language"}
    devices |= {name: 0 for name, _ in model.named_parameters() if "." not in name}
    devices |= {"language.embed_tokens": 0, "language.rotary_emb": 0}
    for number, size in enumerate(layers):
        while index + 1 < len(free) and used + size / 2 > share * free[index]:
            index, used = index + 1, 0
        devices[f"language.layers.{number}"], used = index, used + size
    last = devices[f"language.layers.{len(layers) - 1}"]
    return devices | {"language.norm": last} | ({"head": last} if model.head is not None else {})


def connect(model: nn.Module, devices: Devices) -> nn.Module:
    """Make a model that lies on several devices move its inputs along; the key-value cache stays where it grows."""
    if not isinstance(devices, dict):
        return model
    from accelerate import dispatch_model

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The following device_map keys")  # it means the bare parameters
        return dispatch_model(
            model, devices, main_device=devices["language.embed_tokens"], skip_keys=["past_key_values", "cache"]
        )


def _bytes(module: nn.Module, element: int) -> int:
    return element * sum(parameter.numel() for parameter in module.parameters())
