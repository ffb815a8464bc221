"""What the trainer asks of a kind of model; adapters, parts that learn, rates, and the state that is saved."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import AutocastKwargs, DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.checkpoint import checkpoint

from videomolmo.errors import BadInput
from videomolmo.training.recipe import Learn, Optimiser, Recipe
from videomolmo.weights.tensors import check_finite

if TYPE_CHECKING:
    from peft import LoraConfig

    from videomolmo.training.data import MicroBatches, Samples

ADAPTER = "default"  # peft's name of the one adapter
Batch = dict[str, Tensor]


class Counts(NamedTuple):
    """Of one pass: what its loss is divided by, answer tokens, all tokens, samples."""

    weight: float
    answers: float
    tokens: float
    samples: int


class Trainable(Protocol):
    """A kind of model that can be trained: the pointing model (`pointing.py`), Molmo 2, VideoGLaMM.

    Attributes:
        parts: beginnings of weights' names, each with the part of `learn.parts` that they are; all else is "language".
        adapted: pattern of the names of linear layers that get adapters.
        full: beginnings of the names of weights that stay float32 even where they are frozen.
        terms: names of what the loss is the sum of, logged one by one; () where it is one alone.
        by_pass: whether the loss is a mean over each pass, so that `optimiser.micro_batch` decides the weights too.
    """

    parts: Mapping[str, str]
    adapted: str
    full: tuple[str, ...]
    terms: tuple[str, ...]
    by_pass: bool

    def load(self, recipe: Recipe, folder: Path, accelerator: Accelerator, sharded: bool) -> nn.Module:
        """The model with its first weights, where it belongs, its parts and adapters as the recipe says.

        Raises:
            BadInput: weights do not fit, or the recipe has what this kind has not.
        """

    def plain(self, recipe: Recipe, folder: Path, config: object) -> tuple[nn.Module, Callable[[Path], None]]:
        """The model with its first weights on the CPU, to add what was learnt; and what writes words and views."""

    def data(self, recipe: Recipe, folder: Path, config: object) -> tuple[Samples, Callable[..., MicroBatches]]:
        """Samples, and what makes micro-batches of them for a sampler, from a step to another."""

    def has_no_gradient(self, config: object, name: str) -> bool:
        """Whether the loss has no gradient for a weight: it would only wait for one."""

    def layers(self, model: nn.Module) -> list[nn.Module]:
        """The repeated layers, whose insides need not be kept for the backward pass."""

    def units(self, model: nn.Module) -> list[nn.Module]:
        """What FSDP2 gathers at a time."""

    def loss_module(self, model: nn.Module) -> nn.Module:
        """What is minimised, as one module: it takes a batch and gives sums (`terms`), not yet divided."""

    def counts(self, batch: Batch) -> Counts:
        """What a step adds up of a batch; its loss is divided by the weight of all its passes."""

    def operations(self, model: nn.Module, learn: Learn) -> Callable[[Batch], float] | None:
        """What tells the floating-point operations of a pass, None where they are not counted."""


def part_of(kind: Trainable, name: str) -> str:
    """The part of the model that a weight belongs to, as `learn.parts` names it."""
    if ".lora_" in name:
        return "lora"
    return next((part for begin, part in kind.parts.items() if name.startswith(begin)), "language")


def set_trainable(kind: Trainable, model: nn.Module, learn: Learn) -> None:
    """Add adapters where they are asked for, and let only the chosen parts learn.

    Args:
        kind: of the model.
        model: with weights or without (on the meta device); changed in place.
        learn: which parts, and the size of adapters.

    Raises:
        BadInput: a chosen part has no weights (a temporal module that only adds), or peft is not installed.
    """
    if "lora" in learn.names:
        config, empty = adapter_config(kind, learn), next(model.parameters()).is_meta
        from peft import inject_adapter_in_model

        inject_adapter_in_model(config, model, adapter_name=ADAPTER, low_cpu_mem_usage=empty)
    asked = {*learn.names, *kind.parts.values()} if "everything" in learn.parts else {*learn.names}
    for name, parameter in model.named_parameters():
        chosen = part_of(kind, name) in asked and not kind.has_no_gradient(model.config, name)
        if parameter.is_floating_point():
            parameter.requires_grad_(chosen)
    there = {part_of(kind, name) for name, parameter in model.named_parameters() if parameter.requires_grad}
    if lacking := [name for name in learn.names if name not in there and "everything" not in learn.parts]:
        temporal = getattr(model.config, "temporal", "all frames at once")
        raise BadInput(f"learn.parts names {lacking[0]!r}, of which this model (temporal={temporal!r}) has no weights")


def adapter_config(kind: Trainable, learn: Learn) -> LoraConfig:
    """Size and place of adapters, in peft's terms.

    Raises:
        BadInput: peft is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise BadInput(
            f"learn.parts has 'lora', which needs peft ({error}): pip install 'videomolmo[train]'"
        ) from error
    return LoraConfig(
        r=learn.rank, lora_alpha=learn.alpha, lora_dropout=learn.dropout, target_modules=kind.adapted
    )  # fmt: skip


def start_adapters(model: nn.Module, seed: int) -> None:
    """Give adapters their first weights: random into them, zero out of them, so that the model starts as it was."""
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            copy(parameter, torch.zeros(parameter.shape))
        elif ".lora_" in name:
            generator = torch.Generator().manual_seed(seed * 1_000_003 + zlib.crc32(name.encode()))
            weight = torch.empty(parameter.shape)
            copy(parameter, nn.init.kaiming_uniform_(weight, a=5**0.5, generator=generator))


@torch.no_grad()
def merge(model: nn.Module, trained: Mapping[str, Tensor], learn: Learn) -> None:
    """Put trained weights into a plain model: parts as they are, adapters as weight + alpha / rank · B·A.

    Args:
        model: without adapters; changed in place.
        trained: whole tensors under the names of the model with adapters.
        learn: size of the adapters.

    Raises:
        BadInput: a trained tensor that is not finite.
    """
    plain = dict(model.named_parameters())
    for name, value in trained.items():
        check_finite(name, value)
        if ".lora_A." in name:
            out = trained[name.replace(".lora_A.", ".lora_B.")]
            delta = out.float() @ value.float() * (learn.alpha / learn.rank)
            plain[name.split(".lora_A.")[0] + ".weight"].add_(delta)
        elif ".lora_" not in name:
            plain[name].copy_(value)


def groups(kind: Trainable, model: nn.Module, optimiser: Optimiser) -> list[dict]:
    """Parameter groups of the optimiser, one for each part that learns, each with its peak rate."""
    found: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            found.setdefault(part_of(kind, name), []).append(parameter)
    return [
        {"params": parameters, "part": part, "peak": getattr(optimiser, part), "lr": getattr(optimiser, part)}
        for part, parameters in found.items()
    ]


def rate(step: int, total: int, peak: float, settings: Optimiser) -> float:
    """Learning rate at `step` by a recipe: linear up, then by a cosine or a line down to its floor."""
    if settings.schedule == "cosine" or step < settings.warmup:
        return cosine(step, total, peak, settings.warmup, settings.floor)
    share = (step - settings.warmup) / max(1, total - settings.warmup)
    return peak * (1 - (1 - settings.floor) * min(1.0, share))


def cosine(step: int, total: int, peak: float, warmup: int, floor: float = 0.02) -> float:
    """Learning rate at `step`: linear up for `warmup` steps, then a cosine down to `floor` of `peak`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    share = (step - warmup) / max(1, total - warmup)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))


def speed(row: Mapping[str, float], seconds: float, peak: float | None, accelerator: Accelerator) -> dict[str, float]:
    """What a step's sums come to for each second; `share_of_peak` is of all devices together.

    Args:
        row: samples, tokens and operations of a step on all processes.
        seconds: that it took.
        peak: TFLOP/s of one device, None where unknown.
        accelerator: how many processes, and on which device.
    """
    found = {
        "seconds": seconds, "samples_per_s": row["samples"] / seconds, "tokens_per_s": row["tokens"] / seconds,
        "data_wait_share": row["data_wait_s"] / seconds,
    }  # fmt: skip
    if row["operations"]:
        found["tflops"] = row["operations"] / seconds / 1e12
        found |= {"share_of_peak": found["tflops"] / peak / accelerator.num_processes} if peak else {}
    if accelerator.device.type == "cuda":
        found["memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return found


@dataclass
class TrainState:
    """Everything that a step needs.

    Attributes:
        accelerator: processes, device and precision.
        kind: what is known of models of its kind.
        model: the model itself, whole or this process's share of it.
        loss_module: what is called, wrapped by the engine.
        optimiser: with a group for each part.
        sharded: whether each process holds a share only.
        folder: where the first weights came from.
    """

    accelerator: Accelerator
    kind: Trainable
    model: nn.Module
    loss_module: nn.Module
    optimiser: torch.optim.Optimizer
    sharded: bool
    folder: Path


def accelerator_for(recipe: Recipe) -> Accelerator:
    """Processes and device as `accelerate launch` set them up; one process without it."""
    mixed = "bf16" if recipe.run.precision == "mixed" else "no"
    cpu = recipe.run.cpu or not torch.cuda.is_available()
    # no second copy of gradients, and bfloat16 copies of weights only as long as their layer needs them
    thrifty = [DistributedDataParallelKwargs(gradient_as_bucket_view=True), AutocastKwargs(cache_enabled=False)]
    AcceleratorState._reset_state()  # else the first run of a notebook decides the precision of all others
    return Accelerator(cpu=cpu, mixed_precision=mixed, kwargs_handlers=thrifty)


def refuse(values: Mapping[str, object], name: str) -> None:
    """Nothing where all these settings of a recipe are None.

    Args:
        values: by their names in the recipe.
        name: of the kind of model.

    Raises:
        BadInput: one is given, which this kind does not have.
    """
    for setting, value in values.items():
        if value is not None:
            raise BadInput(f"{setting} is {value!r}, which training {name} does not have; leave it out")


def prepare(kind: Trainable, model: nn.Module, recipe: Recipe) -> None:
    """Choose what learns; what is frozen takes half the room, and what can be computed again takes none."""
    set_trainable(kind, model, recipe.learn)
    for name, parameter in model.named_parameters() if recipe.run.precision == "mixed" else ():
        if parameter.dtype == torch.float32 and not parameter.requires_grad and not name.startswith(kind.full):
            parameter.data = parameter.data.to(torch.bfloat16)
    if recipe.run.gradient_checkpointing:
        recompute(kind, model)


def recompute(kind: Trainable, model: nn.Module) -> None:
    """Keep only each layer's input for the backward pass."""
    for layer in kind.layers(model):
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


def placed(kind: Trainable, model: nn.Module, recipe: Recipe, accelerator: Accelerator, sharded: bool) -> nn.Module:
    """A model that was read whole: its parts and adapters as the recipe says, on its device, divided if `sharded`."""
    prepare(kind, model, recipe)
    start_adapters(model, recipe.run.seed)
    model = model.to(accelerator.device).train()
    if sharded:
        shard(kind.units(model), recipe, accelerator)
    return model


def shard(modules: list[nn.Module], recipe: Recipe, accelerator: Accelerator, root: bool = False) -> None:
    """Divide modules among all processes in one row, with bfloat16 arithmetic where the recipe wants it."""
    options: dict = {"mesh": torch.distributed.init_device_mesh(accelerator.device.type, (accelerator.num_processes,))}
    if recipe.run.precision != "float32":
        halves = {"param_dtype": torch.bfloat16, "reduce_dtype": torch.float32}
        options["mp_policy"] = MixedPrecisionPolicy(**halves, cast_forward_inputs=not root)
    for module in modules:
        fully_shard(module, **options)


@torch.no_grad()
def copy(parameter: nn.Parameter, value: Tensor) -> None:
    """Fill a parameter, or this process's share of it, with a whole tensor."""
    if isinstance(parameter, DTensor):
        value = value.to(parameter.device, parameter.dtype)
        value = distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
    parameter.copy_(value)
