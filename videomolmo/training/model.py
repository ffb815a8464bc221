"""What is trained: the model, its adapters, the loss module, and the state that is saved."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import AutocastKwargs, DistributedDataParallelKwargs, DistributedType
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from videomolmo.errors import BadInput
from videomolmo.io.untrusted import read_model_json
from videomolmo.model import VideoMolmoForConditionalGeneration
from videomolmo.model.config import VideoMolmoConfig
from videomolmo.model.decoding import answer_loss, attention_mask_of, visible
from videomolmo.systems.molmo2 import load_molmo2
from videomolmo.training.recipe import Learn, Optimiser, Recipe
from videomolmo.weights import hub
from videomolmo.weights.published import read_configuration, weights_in
from videomolmo.weights.quantize import bits
from videomolmo.weights.tensors import check_finite

ADAPTER = "default"  # peft's name of the one adapter
PLAIN = ("head", "token_heads", "vision", "temporal", "connector")  # what no quantisation touches: it may learn
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def part_of(name: str) -> str:
    """The part of the model that a parameter belongs to: vision, temporal, connector, language or lora.

    Example:
        >>> part_of("language.layers.0.self_attn.q_proj.lora_A.default.weight"), part_of("head.weight")
        ('lora', 'language')
    """
    if ".lora_" in name:
        return "lora"
    head = name.removeprefix("model.").split(".")[0]
    if head in ("vision", "temporal", "connector"):
        return head
    return {"pad_embed": "connector", "vision_tower": "vision", "multi_modal_projector": "connector"}.get(
        head, "language"
    )


def has_no_gradient(model: VideoMolmoForConditionalGeneration, name: str) -> bool:
    """Whether the loss on answers has no gradient for a parameter: it would only wait for one.

    Vision blocks after the last selected one are never computed, and the way to an object's centre is trained by
    places alone (see `WindowPositions`).
    """
    if name == "connector.positions.way":
        return True
    if is_molmo2(model):
        layers, last = model.config.vision_config.num_hidden_layers, model.config.adapter_config.vision_feature_layer
        blocks, seen = "model.vision_tower.layers.", max(at if at >= 0 else layers + at for at in last)
    else:
        blocks, seen = "vision.blocks.", max(model.config.vision.selected)
    return name.startswith(blocks) and int(name[len(blocks) :].split(".")[0]) > seen


def is_molmo2(model: nn.Module) -> bool:
    """Whether a model is transformers' Molmo 2, which sees whole videos."""
    return getattr(model.config, "model_type", None) == "molmo2"


def set_trainable(model: VideoMolmoForConditionalGeneration, learn: Learn) -> None:
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
        chosen = part_of(name) in learn.names and not has_no_gradient(model, name)
        if parameter.is_floating_point():
            parameter.requires_grad_(chosen)
    there = {part_of(name) for name, parameter in model.named_parameters() if parameter.requires_grad}
    if lacking := [name for name in learn.names if name not in there and "everything" not in learn.parts]:
        kind = getattr(model.config, "temporal", "all frames at once")
        raise BadInput(f"learn.parts names {lacking[0]!r}, of which this model (temporal={kind!r}) has no weights")


def _inject(model: VideoMolmoForConditionalGeneration, learn: Learn) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise BadInput(
            f"learn.parts has 'lora', which needs peft ({error}): pip install 'videomolmo[train]'"
        ) from error
    config = LoraConfig(
        r=learn.rank, lora_alpha=learn.alpha, lora_dropout=learn.dropout,
        target_modules=rf"(language|model\.language_model)\.layers\.\d+\.(self_attn|mlp)\.({'|'.join(TARGETS)})",
    )  # fmt: skip
    empty = next(model.parameters()).is_meta
    inject_adapter_in_model(config, model, adapter_name=ADAPTER, low_cpu_mem_usage=empty)


def start_adapters(name: str, like: Tensor, seed: int) -> Tensor:
    """First weights of an adapter: random into it, zero out of it, so that the model starts as it was."""
    if ".lora_B." in name:
        return torch.zeros(like.shape)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + zlib.crc32(name.encode()))
    weight = torch.empty(like.shape)
    return nn.init.kaiming_uniform_(weight, a=5**0.5, generator=generator)


@torch.no_grad()
def merge(model: VideoMolmoForConditionalGeneration, trained: Mapping[str, Tensor], learn: Learn) -> None:
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


def cosine(step: int, total: int, peak: float, warmup: int, floor: float = 0.02) -> float:
    """Learning rate at `step`: linear up for `warmup` steps, then a cosine down to `floor` of `peak`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    share = (step - warmup) / max(1, total - warmup)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))


class LossModule(nn.Module):
    """What is minimised, as one module, so that engines see only tensors going in and one number coming out."""

    def __init__(self, model: VideoMolmoForConditionalGeneration) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Weighted sum of the answer tokens' cross-entropies; divided by all weights of a step later."""
        out = self.model(**batch)
        return out.loss.float() * weight_of(batch).clamp(min=1)


class Molmo2Loss(LossModule):
    """What is minimised; logits are made only where an answer is."""

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Weighted sum of the answer tokens' cross-entropies; divided by all weights of a step later."""
        inputs = {name: value for name, value in batch.items() if name not in ("targets", "loss_masks")}
        inputs["input_ids"] = inputs["input_ids"].clamp(min=0)
        inputs["position_ids"] = inputs["position_ids"].clamp(min=0)
        allowed = inputs.pop("allowed")[:, None]
        dtype = self.model.dtype
        inputs["attention_mask"] = torch.where(allowed, 0.0, torch.finfo(dtype).min).to(dtype)
        hidden = self.model.model(**inputs, use_cache=False).last_hidden_state
        chosen = (batch["loss_masks"] > 0) & (batch["targets"] >= 0)
        logits = self.model.lm_head(hidden[chosen]).float()
        losses = nn.functional.cross_entropy(logits, batch["targets"][chosen], reduction="none")
        return (losses * batch["loss_masks"][chosen]).sum()


def weight_of(batch: dict[str, Tensor]) -> Tensor:
    """What the loss of a batch divides by: the weights of its answer tokens, most of them 1."""
    return (batch["loss_masks"].clamp(min=0) * (batch["targets"] >= 0)).sum()


class FlopCount:
    """Floating-point operations of one forward and backward pass over one frame and its past.

    Counted are products, convolutions and attention as PyTorch runs them, in the backward pass only where something
    learns; recomputation under gradient checkpointing does not count, so that the TFLOP/s logged are of useful work.

    Args:
        config: of the model.
        learn: what is trained.
    """

    def __init__(self, config: VideoMolmoConfig, learn: Learn) -> None:
        self.config, self.learn = config, learn
        self._curves: dict[int, np.ndarray] = {}

    @cached_property
    def _model(self) -> VideoMolmoForConditionalGeneration:
        model = VideoMolmoForConditionalGeneration.empty(self.config)
        set_trainable(model, self.learn)
        return model.train()

    def operations(self, crops: int, tokens: int) -> float:
        """Of a frame of so many crops in a sequence of so many tokens: exactly a + b·tokens + c·tokens²."""
        if crops not in self._curves:
            places = (16, 32, 48)
            self._curves[crops] = np.polyfit(places, [self._count(crops, place) for place in places], 2)
        return float(np.polyval(self._curves[crops], tokens))

    def _count(self, crops: int, tokens: int) -> int:
        with FlopCounterMode(display=False) as counter:
            one_pass(self._model, 1, crops, tokens, "meta").backward()
        return counter.get_total_flops()


def one_pass(model: VideoMolmoForConditionalGeneration, batch: int, crops: int, tokens: int, device: str) -> Tensor:
    """The loss of a batch of nothing in particular, by the same layers and sizes as in training.

    Args:
        model: with weights of any kind, also without memory.
        batch, crops, tokens: samples, crops of a frame, and tokens of a sequence.
        device: of the weights.
    """
    config, image = model.config, model.config.image
    pixels = torch.zeros(batch, 1 + config.context, crops, image.patches, image.patch_values, device=device)
    features = model.encode_frames(pixels[:, 0])
    past = model.encode_past(pixels[:, 1:]) if config.needs_past else None
    masks = torch.ones(batch, crops, image.patches, device=device)
    seen = model.image_tokens(features, past, masks).flatten(1, 2)[:, :tokens]
    embeds = model.language.embed_tokens(torch.zeros(batch, tokens, dtype=torch.long, device=device))
    embeds = embeds + torch.nn.functional.pad(seen, (0, 0, 0, tokens - seen.shape[1])).to(embeds)
    allowed = visible(torch.ones(batch, tokens, dtype=torch.bool, device=device))
    targets = torch.zeros(batch, tokens, dtype=torch.long, device=device)
    out = model.language(
        inputs_embeds=embeds, attention_mask={"full_attention": attention_mask_of(allowed, "sdpa", embeds.dtype)},
        position_ids=targets, use_cache=False,
    )  # fmt: skip
    return answer_loss(model.logits(out.last_hidden_state), targets, torch.ones(batch, tokens, device=device))


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
        model: the pointing model itself, whole or this process's share of it.
        loss_module: what is called, wrapped by the engine.
        optimiser: with a group for each part.
        sharded: whether each process holds a share only.
        folder: where the first weights came from.
    """

    accelerator: Accelerator
    model: VideoMolmoForConditionalGeneration
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


def configuration(recipe: Recipe, folder: Path) -> VideoMolmoConfig:
    """The model's configuration with the recipe's changes."""
    config = read_configuration(folder)
    return config if recipe.model.context is None else replace(config, context=recipe.model.context)


def assemble(recipe: Recipe, accelerator: Accelerator) -> TrainState:
    """Load a model for training and hand it to the engine: DDP, FSDP2, or neither for one process.

    Differs: accelerate offers FSDP2 on GPUs only; PyTorch's own call, used here, works on CPU processes too.

    Raises:
        BadInput: weights that are missing or do not fit, or parts that cannot learn.
    """
    folder = hub.pointing_folder(recipe.model.source, recipe.model.offline)
    asked = recipe.run.shard or accelerator.distributed_type == DistributedType.FSDP  # accelerate launch --use_fsdp
    sharded = asked and accelerator.num_processes > 1
    if read_model_json(folder / "config.json").get("model_type") == "molmo2":
        model = _load_molmo2(recipe, folder, accelerator)
        loss_module: nn.Module = Molmo2Loss(model)
        for unit in units_of(model) if sharded else ():
            fully_shard(unit, **_sharding(accelerator, recipe))
    else:
        model = _load(recipe, folder, configuration(recipe, folder), accelerator, sharded)
        loss_module = LossModule(model)
    if sharded:
        fully_shard(loss_module, **_sharding(accelerator, recipe, root=True))
    settings = recipe.optimiser
    optimiser = torch.optim.AdamW(
        groups(model, settings), betas=(settings.beta1, settings.beta2), eps=settings.epsilon,
        weight_decay=settings.weight_decay, fused=accelerator.device.type == "cuda",
    )  # fmt: skip
    if not sharded and accelerator.num_processes > 1:
        loss_module = accelerator.prepare_model(loss_module)
    return TrainState(accelerator, model, loss_module, optimiser, sharded, folder)


def _load(
    recipe: Recipe, folder: Path, config: VideoMolmoConfig, accelerator: Accelerator, sharded: bool
) -> VideoMolmoForConditionalGeneration:
    """The model with its weights where they belong, each read once; frozen ones in half precision where allowed."""
    if recipe.model.quantize:
        dtype = torch.bfloat16 if recipe.run.precision == "mixed" else torch.float32
        model = VideoMolmoForConditionalGeneration.from_pretrained(
            folder, config=config, device_map={"": accelerator.device},
            quantization_config=bits(recipe.model.quantize, dtype, plain=PLAIN),
        )  # fmt: skip
        _prepare(model, recipe)
    else:
        model = _read(recipe, folder, config, accelerator, sharded)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            _copy(parameter, start_adapters(name, parameter, recipe.run.seed))
    return model.train()


def _load_molmo2(recipe: Recipe, folder: Path, accelerator: Accelerator) -> nn.Module:
    """A Molmo 2 where it belongs, its parts and adapters as the recipe says; each process reads all of it."""
    for name, value in (("context", recipe.model.context), ("quantize", recipe.model.quantize)):
        if value is not None:
            raise BadInput(f"model.{name} is {value!r}, which training Molmo 2 does not have; leave it out")
    model, _ = load_molmo2(folder)
    _prepare(model, recipe)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            _copy(parameter, start_adapters(name, parameter, recipe.run.seed))
    return model.to(accelerator.device).train()


def _read(
    recipe: Recipe, folder: Path, config: VideoMolmoConfig, accelerator: Accelerator, sharded: bool
) -> VideoMolmoForConditionalGeneration:
    """The model, divided while it is empty, so that each process has memory for its share alone; then its weights."""
    model = VideoMolmoForConditionalGeneration.empty(config)
    weights = weights_in(folder, model, torch.float32)
    _prepare(model, recipe)
    if sharded:
        for unit in units_of(model):
            fully_shard(unit, **_sharding(accelerator, recipe))
    model.to_empty(device=accelerator.device)
    for name, stored in weights.items():
        owner, _, own = name.rpartition(".")
        module = model.get_submodule(owner)
        _copy(getattr(getattr(module, "base_layer", module), own), stored[...])
    rotary = type(model.language.rotary_emb)(config=model.language.config)
    model.language.rotary_emb = rotary.to(accelerator.device)
    return model


def _prepare(model: VideoMolmoForConditionalGeneration, recipe: Recipe) -> None:
    """Choose what learns; what is frozen takes half the room, and what can be computed again takes none."""
    set_trainable(model, recipe.learn)
    _halve_frozen(model, recipe)
    if recipe.run.gradient_checkpointing:
        recompute(model)


def layers_of(model: VideoMolmoForConditionalGeneration) -> list[nn.Module]:
    """The repeated layers of both towers, whose insides need not be kept for the backward pass."""
    if is_molmo2(model):
        return [*model.model.vision_tower.layers, *model.model.language_model.layers]
    return [*model.vision.blocks, *model.language.layers]


def units_of(model: VideoMolmoForConditionalGeneration) -> list[nn.Module]:
    """What FSDP2 gathers at a time: layers, the connector, and the two tables of words where they are not one."""
    if is_molmo2(model):
        return [*layers_of(model), model.model.multi_modal_projector]
    tables = [] if model.head is None else [model.head, model.language.embed_tokens]
    return [*layers_of(model), model.connector, *tables]


def recompute(model: VideoMolmoForConditionalGeneration) -> None:
    """Keep only each layer's input for the backward pass."""
    for layer in layers_of(model):
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


def _halve_frozen(model: VideoMolmoForConditionalGeneration, recipe: Recipe) -> None:
    for parameter in model.parameters():
        if recipe.run.precision == "mixed" and parameter.dtype == torch.float32 and not parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)


def _sharding(accelerator: Accelerator, recipe: Recipe, root: bool = False) -> dict:
    """Arguments of `fully_shard`: all processes in one row, bfloat16 arithmetic where the recipe wants it."""
    mesh = torch.distributed.init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    if recipe.run.precision == "float32":
        return {"mesh": mesh}
    halves = {"param_dtype": torch.bfloat16, "reduce_dtype": torch.float32}
    return {"mesh": mesh, "mp_policy": MixedPrecisionPolicy(**halves, cast_forward_inputs=not root)}


@torch.no_grad()
def _copy(parameter: nn.Parameter, value: Tensor) -> None:
    """Fill a parameter, or this process's share of it, with a whole tensor."""
    if isinstance(parameter, DTensor):
        value = value.to(parameter.device, parameter.dtype)
        value = distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
    parameter.copy_(value)
