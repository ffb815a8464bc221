"""Memory that a model takes, for inference and for training."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakSet, finalize

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from videomolmo.errors import BadInput
from videomolmo.model import VideoMolmoConfig, VideoMolmoForConditionalGeneration
from videomolmo.model.image import ImageProcessor
from videomolmo.pointing import BATCH
from videomolmo.training.model import recompute, set_trainable
from videomolmo.training.pointing import Pointing, one_pass
from videomolmo.training.recipe import PRECISIONS, QUANTIZE, Learn, Recipe
from videomolmo.training.trainer import kind_of
from videomolmo.weights import hub
from videomolmo.weights.published import KNOWN, read_configuration
from videomolmo.weights.quantize import KINDS

TURN = 100  # tokens of a usual question with its answer
BLOCK = 64  # weights of a layer in four bits that share a scale
FLOAT, HALF = 4, 2
KIND = Pointing()


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes on each device at the peak of a step.

    Attributes:
        parameters, learning: of the whole model, and of them trained.
        crops, tokens: of a frame, and of its sequence with all questions.
        weights, gradients, states: what stays: this device's share of weights, gradients and AdamW's two means.
        gathered: weights and gradients of others that are here for a moment (FSDP2).
        activations: most that a forward and backward pass holds beside all that, or the optimiser's step.
    """

    parameters: int
    learning: int
    crops: int
    tokens: int
    weights: int
    gradients: int
    states: int
    gathered: int
    activations: int

    @property
    def peak(self) -> int:
        return self.weights + self.gradients + self.states + self.gathered + self.activations

    def table(self) -> str:
        """One line for each part, in GB (10⁹ bytes)."""
        head = (
            f"{self.parameters:,} parameters, {self.learning:,} learn; {self.crops} crops and {self.tokens} tokens "
            "a sample\n"
        )
        rows = {
            "weights": self.weights, "gradients": self.gradients, "optimiser states": self.states,
            "gathered for a moment": self.gathered, "activations": self.activations, "peak of each device": self.peak,
        }  # fmt: skip
        return head + "\n".join(f"{name:24}{size / 1e9:8.2f} GB" for name, size in rows.items())


def training_memory(
    config: VideoMolmoConfig,
    height: int,
    width: int,
    learn: Learn,
    precision: str = "float32",
    micro_batch: int = 1,
    questions: int = 4,
    devices: int = 1,
    shard: bool = False,
    gradient_checkpointing: bool = False,
    quantize: str | None = None,
) -> TrainingMemory:
    """Memory of training on frames of a size.

    A forward and a backward pass are run on tensors that know their size only, and what lives at the same time is
    added up; kernels' own workspace, the allocator's slack and the driver are not counted: leave a tenth free.

    Args:
        config: of the model.
        height, width: of the frames in pixels.
        learn: what is trained.
        precision, micro_batch, shard, gradient_checkpointing, quantize: as in a recipe.
        questions: packed into a sample, a hundred tokens each.
        devices: that train together.

    Raises:
        BadInput: settings that no recipe may have.
    """
    if precision not in PRECISIONS or quantize not in QUANTIZE or min(micro_batch, questions, devices) < 1:
        raise BadInput(
            f"precision {precision!r}, quantize {quantize!r}, micro_batch {micro_batch}, questions {questions}, "
            f"devices {devices}: expected one of {list(PRECISIONS)}, one of {list(QUANTIZE)}, and at least 1 of each"
        )
    if quantize and (shard or "lora" not in learn.names):
        raise BadInput("quantize '4bit' needs lora among the parts that learn, and cannot be sharded")
    layout = ImageProcessor(config.image).layout(height, width)
    crops, tokens = len(layout.input_idx), 1 + len(layout.token_kinds) + questions * TURN
    sharded, mixed = shard and devices > 1, precision == "mixed"
    model = VideoMolmoForConditionalGeneration.empty(config).train()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    set_trainable(KIND, model, learn)
    learning = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
    divided, count = devices if sharded else 1, sum(learning)
    weights, gathered = _weights(model, mixed, quantize), _gathered(model, mixed) if sharded else 0
    activations = _activations(
        json.dumps(config.to_dict()),
        learn,
        (micro_batch, crops, tokens),
        mixed,
        mixed and sharded,
        gradient_checkpointing,
    )
    return TrainingMemory(
        parameters=parameters, learning=count, crops=crops, tokens=tokens,
        weights=weights // divided, gradients=FLOAT * count // divided, states=2 * FLOAT * count // divided,
        gathered=gathered, activations=max(activations, FLOAT * max(learning) // divided),
    )  # fmt: skip


def recipe_memory(recipe: Recipe, height: int, width: int, devices: int = 1) -> TrainingMemory:
    """What each device must hold to train by a recipe; of the model only its configuration is read.

    Args:
        recipe: as `read_recipe` gives it.
        height, width: of the frames, in pixels.
        devices: that train together.

    Raises:
        BadInput: see `training_memory` and `read_configuration`.
    """
    source, run = recipe.model.source, recipe.run
    config = KNOWN[source]() if source in KNOWN else _configuration(hub.pointing_folder(source))
    config = config if recipe.model.context is None else replace(config, context=recipe.model.context)
    return training_memory(
        config, height, width, recipe.learn, precision=run.precision, micro_batch=recipe.optimiser.micro_batch,
        questions=recipe.data.questions, devices=devices, shard=run.shard,
        gradient_checkpointing=run.gradient_checkpointing, quantize=recipe.model.quantize,
    )  # fmt: skip


def _configuration(folder: Path) -> VideoMolmoConfig:
    if not isinstance(kind_of(folder), Pointing):
        raise BadInput(f"{folder} is no pointing model, and training is estimated for those alone; try a few steps")
    return read_configuration(folder)


def _weights(model: VideoMolmoForConditionalGeneration, mixed: bool, quantize: str | None) -> int:
    """Bytes of all weights: what learns in float32, what is frozen in half precision or in four bits."""
    frozen = HALF if mixed else FLOAT
    total = sum(parameter.numel() * (FLOAT if parameter.requires_grad else frozen) for parameter in model.parameters())
    for layer in model.language.modules() if quantize else ():
        if isinstance(layer, nn.Linear) and layer.weight.shape[0] and not layer.weight.requires_grad:
            numbers = layer.weight.numel()
            total += numbers // 2 + FLOAT * -(-numbers // BLOCK) - numbers * frozen
    return total


def _gathered(model: VideoMolmoForConditionalGeneration, mixed: bool) -> int:
    """The largest unit with its gradient, and the one that is fetched ahead."""
    size = HALF if mixed else FLOAT
    whole = sorted((sum(one.numel() for one in unit.parameters()) for unit in KIND.units(model)), reverse=True)
    largest = max(sum(one.numel() for one in unit.parameters() if one.requires_grad) for unit in KIND.units(model))
    rest = sum(one.numel() for one in model.parameters()) - sum(whole)
    return size * (whole[0] + whole[1] + rest) + FLOAT * largest


@lru_cache(maxsize=8)
def _activations(config: str, learn: Learn, sizes: tuple[int, int, int], mixed: bool, halves: bool, again: bool) -> int:
    """Most bytes that live during a pass beside weights and gradients; the gradients of an earlier one are there.

    `config` is JSON, by which the cache knows it; `sizes` are samples, crops and tokens; `halves`: FSDP2 gathers all
    weights in bfloat16, else only products are.
    """
    model = VideoMolmoForConditionalGeneration.empty(VideoMolmoConfig.from_dict(json.loads(config))).train()
    set_trainable(KIND, model, learn)
    if again:
        recompute(KIND, model)
    arithmetic = torch.autocast("cpu", torch.bfloat16, cache_enabled=False) if mixed and not halves else nullcontext()
    with FakeTensorMode(allow_non_fake_inputs=True):
        _fake(model, mixed, halves)
        with _Living(model) as living:
            with arithmetic:
                loss = one_pass(model, *sizes, "cpu")
            loss.backward()
    return living.peak


def _fake(model: VideoMolmoForConditionalGeneration, mixed: bool, halves: bool) -> None:
    """Give a model on the meta device weights and gradients that pretend to lie on a CPU, in training's precision."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            half = halves or (mixed and not parameter.requires_grad)
            content = torch.empty(parameter.shape, dtype=torch.bfloat16 if half else torch.float32)
            fake = nn.Parameter(content, requires_grad=parameter.requires_grad)
            fake.grad = torch.zeros_like(fake) if parameter.requires_grad else None
            setattr(module, name, fake)
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))


class _Living(TorchDispatchMode):
    """Adds up the bytes of all tensors made inside that are still referred to; weights were there before."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.now = self.peak = 0
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        there = [*model.parameters(), *model.buffers(), *gradients]
        self._known = WeakSet(tensor.untyped_storage() for tensor in there)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        finalize(storage, self._remove, size)

    def _remove(self, size: int) -> None:
        self.now -= size


PROMPT, ANSWER = 40, 60  # tokens of a usual question and answer beside the image
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Estimate:
    """Bytes on the device while key frames are asked about; `peak` must fit; `kinds`: weights of each precision."""

    parameters: int
    crops: int
    tokens: int
    weights: int
    features: int
    vision: int
    connector: int
    cache: int
    prefill: int
    kinds: dict[str, int]

    @property
    def peak(self) -> int:
        """Weights, kept features, and the most that any step needs on top."""
        return self.weights + self.features + max(self.vision, self.connector, self.cache + self.prefill)

    def table(self) -> str:
        """One line for each part, in GB."""
        rows = {
            "weights": self.weights, "features kept": self.features, "vision of one frame": self.vision,
            "connector of one frame": self.connector, "key-value cache": self.cache, "prefill": self.prefill,
            "peak": self.peak,
        }  # fmt: skip
        head = f"{self.parameters:,} parameters; {self.crops} crops and {self.tokens} tokens a key frame\n"
        lines = [f"{name:24}{size / 1e9:8.2f} GB" for name, size in rows.items()]
        weights = ", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in self.kinds.items())
        return head + "\n".join([*lines, f"weights by precision: {weights}"])


def estimate(
    config: VideoMolmoConfig,
    height: int,
    width: int,
    frames: int,
    every: int = 5,
    dtype: str = "bfloat16",
    quantize: str | None = None,
    context: int | None = None,
) -> Estimate:
    """Memory of the pointing model for a clip.

    Counted are the largest tensors that live at the same time, as the code keeps them; kernels' own workspace and the
    allocator's slack are not.

    Args:
        config: of the model.
        height, width: of the frames in pixels.
        frames: of the clip.
        every: frames between key frames.
        dtype: of weights and activations.
        quantize: None, "8bit" or "4bit".
        context: past frames looked at (l); None takes the model's own.

    Raises:
        BadInput: a context below 1, or a precision or quantisation that does not exist.
    """
    if dtype not in BYTES or quantize not in KINDS:
        raise BadInput(f"dtype {dtype!r} and quantize {quantize!r}: expected one of {list(BYTES)} and of {KINDS}")
    if context is not None and config.needs_past:
        if context < 1:
            raise BadInput(f"context is {context}, expected at least 1 past frame")
        config = replace(config, context=context)
    size, language, vision = BYTES[dtype], config.language, config.vision
    model = VideoMolmoForConditionalGeneration.empty(config)
    layout = ImageProcessor(config.image).layout(height, width)
    crops, image_tokens = len(layout.input_idx), len(layout.token_kinds)
    tokens, keys = 1 + image_tokens + PROMPT, min(BATCH, -(-frames // every))
    patches = crops * (config.image.patches + 1)
    feature = crops * config.image.patches * config.vision.feature_dim * size
    kept = config.context + 2 if config.needs_past else 1  # the frame, its past and a black one
    waiting = keys * crops * config.image.windows * language.width * size
    windows = crops * config.image.windows
    inner = 4 * windows * config.attention_shape[0] * config.attention_shape[1] * size
    return Estimate(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        crops=crops,
        tokens=tokens,
        weights=_weights_gb(model, size, quantize),
        features=kept * feature + 2 * waiting,
        vision=patches * (2 * vision.width + max(6 * vision.width, 3 * vision.mlp)) * size
        + crops * config.image.patches * config.image.patch_values * (4 + size),
        connector=max(
            (config.context + 4) * feature + 4 * inner, 2 * feature + windows * config.projector_dim * 3 * size
        ),
        cache=2 * language.layers * language.kv_heads * (language.width // language.heads) * keys
        * (tokens + ANSWER) * size,
        prefill=keys * tokens * (6 * language.width + 3 * language.ff) * size + keys * tokens**2 * (size + 1),
        kinds=_by_precision(model),
    )  # fmt: skip


def _by_precision(model: VideoMolmoForConditionalGeneration) -> dict[str, int]:
    """Bytes of all weights in every precision; few bits stand beside bfloat16."""
    whole = {name: _weights_gb(model, size, None) for name, size in BYTES.items()}
    return whole | {kind: _weights_gb(model, BYTES["bfloat16"], kind) for kind in KINDS if kind}


def _weights_gb(model: VideoMolmoForConditionalGeneration, size: int, quantize: str | None) -> int:
    """Bytes of all weights: linear layers in few bits with their scales, the head and everything else whole."""
    total = sum(parameter.numel() for parameter in model.parameters()) * size
    if quantize is None:
        return total
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and name != "head":
            numbers = layer.weight.numel()
            small = numbers // 2 + 4 * -(-numbers // 64) if quantize == "4bit" else numbers + 4 * layer.out_features
            total += small - numbers * size
    return total
