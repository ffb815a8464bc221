"""What of a model is trained, by name: parts of it, or LoRA adapters on the language model; how these merge back."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from videomolmo.errors import BadInput
from videomolmo.model import PointingModel
from videomolmo.tensors import check_finite
from videomolmo.training.recipe import Learn, Optimiser

ADAPTER = "default"  # peft's name of the one adapter
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def part_of(name: str) -> str:
    """The part of the model that a parameter belongs to: vision, temporal, connector, language or lora.

    Example:
        >>> part_of("language.layers.0.self_attn.q_proj.lora_A.default.weight"), part_of("head.weight")
        ('lora', 'language')
    """
    if ".lora_" in name:
        return "lora"
    head = name.split(".")[0]
    if head in ("vision", "temporal", "connector"):
        return head
    return "connector" if head == "pad_embed" else "language"


def out_of_reach(model: PointingModel, name: str) -> bool:
    """Whether the loss on answers has no gradient for a parameter: it would only wait for one.

    Vision blocks after the last selected one are never computed, and the way to an object's centre is learnt from
    places alone (see `WindowPositions`).
    """
    if name == "connector.positions.way":
        return True
    blocks = "vision.blocks."
    return name.startswith(blocks) and int(name[len(blocks) :].split(".")[0]) > max(model.config.vision.selected)


def choose(model: PointingModel, learn: Learn) -> None:
    """Add adapters where they are asked for, and let only the chosen parts learn.

    Args:
        model: with weights or without (on the meta device); changed in place.
        learn: which parts, and the size of adapters.

    Raises:
        BadInput: a chosen part has no weights (a temporal module that only adds), or peft is not installed.
    """
    if "lora" in learn.names:
        _inject(model, learn)
    for name, parameter in model.named_parameters():
        chosen = part_of(name) in learn.names and not out_of_reach(model, name)
        if parameter.is_floating_point():
            parameter.requires_grad_(chosen)
    there = {part_of(name) for name, parameter in model.named_parameters() if parameter.requires_grad}
    if lacking := [name for name in learn.names if name not in there and "everything" not in learn.parts]:
        kind = model.config.temporal
        raise BadInput(f"learn.parts names {lacking[0]!r}, of which this model (temporal={kind!r}) has no weights")


def _inject(model: PointingModel, learn: Learn) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise BadInput(
            f"learn.parts has 'lora', which needs peft ({error}): pip install 'videomolmo[train]'"
        ) from error
    config = LoraConfig(
        r=learn.rank, lora_alpha=learn.alpha, lora_dropout=learn.dropout,
        target_modules=rf"language\.layers\.\d+\.(self_attn|mlp)\.({'|'.join(TARGETS)})",
    )  # fmt: skip
    inject_adapter_in_model(config, model, adapter_name=ADAPTER, low_cpu_mem_usage=model.new_embedding.is_meta)


def start_adapters(name: str, like: Tensor, seed: int) -> Tensor:
    """First weights of an adapter: random into it, zero out of it, so that the model starts as it was."""
    if ".lora_B." in name:
        return torch.zeros(like.shape)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + zlib.crc32(name.encode()))
    weight = torch.empty(like.shape)
    return nn.init.kaiming_uniform_(weight, a=5**0.5, generator=generator)


@torch.no_grad()
def merge(model: PointingModel, learnt: Mapping[str, Tensor], learn: Learn) -> None:
    """Put what was learnt into a plain model: parts as they are, adapters as weight + alpha / rank · B·A.

    Args:
        model: without adapters; changed in place.
        learnt: whole tensors under the names of the model with adapters.
        learn: size of the adapters.

    Raises:
        BadInput: a learnt tensor that is not finite.
    """
    plain = dict(model.named_parameters())
    for name, value in learnt.items():
        check_finite(name, value)
        if ".lora_A." in name:
            out = learnt[name.replace(".lora_A.", ".lora_B.")]
            delta = out.float() @ value.float() * (learn.alpha / learn.rank)
            plain[name.split(".lora_A.")[0] + ".weight"].add_(delta)
        elif ".lora_" not in name:
            plain[name].copy_(value)


def groups(model: nn.Module, optimiser: Optimiser) -> list[dict]:
    """Parameter groups of the optimiser, one for each part that learns, each with its peak rate."""
    found: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            found.setdefault(part_of(name), []).append(parameter)
    return [
        {"params": parameters, "part": part, "peak": getattr(optimiser, part), "lr": getattr(optimiser, part)}
        for part, parameters in found.items()
    ]
