"""What a clip will cost in memory, from sizes alone: weights, features, activations and the key-value cache."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from videomolmo.errors import BadInput
from videomolmo.model import PointingConfig, PointingModel
from videomolmo.model.image import ImageProcessor
from videomolmo.model.quantize import KINDS
from videomolmo.pointer import BATCH

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
    config: PointingConfig,
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
    size, language, vision, model = BYTES[dtype], config.language, config.vision, PointingModel.empty(config)
    layout = ImageProcessor(config.image).layout(height, width)
    crops, image_tokens = len(layout.input_idx), len(layout.token_kinds)
    tokens = 1 + image_tokens + PROMPT
    keys = min(BATCH, -(-frames // every))
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
        weights=_weights(model, size, quantize),
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


def _by_precision(model: PointingModel) -> dict[str, int]:
    """Bytes of all weights in every precision; few bits stand beside bfloat16."""
    whole = {name: _weights(model, size, None) for name, size in BYTES.items()}
    return whole | {kind: _weights(model, BYTES["bfloat16"], kind) for kind in KINDS if kind}


def _weights(model: PointingModel, size: int, quantize: str | None) -> int:
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
