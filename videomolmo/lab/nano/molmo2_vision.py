"""How Nano-Molmo2 learns to see: from the shipped nano model, whose convolutions its linear patch embedding lacks.

Two fresh blocks stand before the shipped model's four, and the tower learns to give the features that the shipped one
gives (Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", on features in place of classes).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_outputs import BaseModelOutputWithPooling

from videomolmo.lab.nano.checkpoint import CHECKPOINT, Log, MovingAverage, found, load_weights, resume, run_steps
from videomolmo.model.image import ImageProcessor
from videomolmo.synth.clips import generate_clip
from videomolmo.synth.event_stage import event_clip
from videomolmo.systems.molmo2 import inputs_of
from videomolmo.training.model import cosine
from videomolmo.weights.checkpoint import load_model
from videomolmo.weights.hub import nano_pointing_96

FRESH = 3  # blocks before those of the shipped model: they stand for its convolutions
PLACES = 1.0  # weight of what tells places, which then varies about as much as the features themselves
FRAMES, RATE, AVERAGE, WARMUP = 32, 2e-3, 0.99, 50  # of a step; peak rate; decay of the moving average; steps
_BLOCK = {
    "attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj", "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj", "attention_norm": "layer_norm1", "mlp_norm": "layer_norm2", "up": "mlp.fc1",
    "down": "mlp.fc2",
}  # fmt: skip


def shipped_model() -> Any:
    """The shipped nano model for frames of 96 pixels."""
    return load_model(nano_pointing_96()).float().eval()


@torch.no_grad()
def shipped_features(
    shipped: Any, pixels: Float[Tensor, "frames patches pixel"]
) -> tuple[Float[Tensor, "frames patches width"], Float[Tensor, "frames patches width"]]:
    """What the shipped model sees on each patch, deep and early; the deep features also tell places.

    Its vision does not know where a patch lies: its connector adds that afterwards (`WindowPositions`), which Molmo 2's
    cannot. Left out here, coordinates stay at chance.
    """
    deep, early = shipped.vision.selected_hidden(pixels)
    features = torch.cat([deep, early], -1)[:, None, 1:]
    past = features[:, None].expand(-1, shipped.config.context, *(-1,) * (features.ndim - 1))
    windows = shipped.temporal(features, past)
    connector = shipped.connector
    tokens = connector.output_norm(connector.projector(connector.input_norm(connector.pool(windows).flatten(0, 1))))
    told = connector.positions(tokens) - tokens  # frames, windows, width
    side = round(told.shape[1] ** 0.5)
    square = told.unflatten(1, (side, side)).repeat_interleave(2, 1).repeat_interleave(2, 2)
    return deep[:, 1:] + PLACES * square.flatten(1, 2), early[:, 1:]


class ShippedTower(nn.Module):
    """The shipped model's vision in place of `Molmo2VisionModel`: the same frames in, its features for both layers."""

    def __init__(self) -> None:
        super().__init__()
        self.shipped = [shipped_model()]  # in a list: its weights are not the model's

    @torch.no_grad()
    def forward(self, pixel_values: Float[Tensor, "frames patches pixel"], **_: Any) -> BaseModelOutputWithPooling:
        """What `Molmo2Model.get_image_features` reads: hidden states, of which two are filled."""
        deep, early = shipped_features(self.shipped[0], pixel_values)
        return BaseModelOutputWithPooling(hidden_states=(*[None] * (2 + FRESH), early, None, deep))


@torch.no_grad()
def begin_vision(tower: nn.Module, shipped: Any) -> None:
    """Copy the blocks and the position embeddings of the shipped model, which have the same shapes."""
    for number, block in enumerate(shipped.vision.blocks):
        own = tower.layers[FRESH + number]
        for theirs, ours in _BLOCK.items():
            for kind in ("weight", "bias"):
                own.get_submodule(ours).get_parameter(kind).copy_(block.get_submodule(theirs).get_parameter(kind))
    tower.positional_embedding.copy_(shipped.vision.positional_embedding[1:])


def distil(model: Any, processor: Any, folder: Path, steps: int, seed: int) -> None:
    """Train the vision tower of a Nano-Molmo2 to see what the shipped model sees; resumable.

    Args:
        model: whose tower is filled with the averaged weights at the end.
        processor: of the model.
        folder: gets checkpoint.safetensors while running, log.jsonl, and weights.safetensors at the end.
        steps: how many, of `FRAMES` generated frames each.
        seed: of the frames.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done, tower = folder / "weights.safetensors", model.model.vision_tower
    if there := found(done):
        tower.load_state_dict(load_weights(there, own=tower.state_dict()))
        return
    shipped = shipped_model()
    optimiser = torch.optim.AdamW(tower.parameters(), lr=RATE, weight_decay=0.01)
    average = MovingAverage(tower, AVERAGE)
    start = resume(folder / CHECKPOINT, tower, optimiser, average)

    def act(step: int, frames: UInt8[np.ndarray, "frames h w 3"]) -> Log:
        for group in optimiser.param_groups:
            group["lr"] = cosine(step, steps, RATE, min(WARMUP, steps // 4))
        loss = unlike(model, processor, shipped, frames)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimiser.step()
        average.update(tower, step)
        return {"unlike": loss.item()}

    numbered = ((step, frames_of(seed, step)) for step in range(start, steps))
    run_steps(numbered, act, SimpleNamespace(name="see", steps=steps), folder, (tower, optimiser, average))
    tower.load_state_dict(average.state)


def unlike(model: Any, processor: Any, shipped: Any, frames: UInt8[np.ndarray, "frames h w 3"]) -> Float[Tensor, ""]:
    """How far the tower's features are from the shipped model's: the share of their variance that is missed."""
    seen = inputs_of(processor, frames, np.arange(len(frames)) / 2, "<|video|>")["pixel_values_videos"]
    layers = model.config.adapter_config.vision_feature_layer
    hidden = model.model.vision_tower(seen, output_hidden_states=True).hidden_states
    with torch.no_grad():
        pixels = ImageProcessor(shipped.config.image).pixels_only(frames)[:, 0]
        wanted = shipped_features(shipped, pixels)
    pairs = zip([hidden[layer + 1] for layer in layers], wanted, strict=True)
    return torch.stack([functional.mse_loss(made, true) / true.var() for made, true in pairs]).mean()


def frames_of(seed: int, step: int) -> UInt8[np.ndarray, "frames 96 96 3"]:
    """Frames of a step: of clips of events, and of those that the shipped model was trained on."""
    return np.stack(list(_frames(np.random.default_rng([seed, 53, step]))))


def _frames(rng: np.random.Generator) -> Iterator[np.ndarray]:
    for number in range(FRAMES // 4):
        key = int(rng.integers(10_000_000))
        if number % 2:
            clip = generate_clip(key, frames=4, height=96, width=96, square=False)
            yield from clip.frames
        else:
            themes = ("objects", "living", "collides", "hides")
            clip = event_clip(key, themes[number // 2 % 4], duration_s=3.0, height=96, width=96)
            yield from clip.frames[:: len(clip.frames) // 3][:4]
