"""How Nano-Molmo2 begins: from the words, the looking and the pointing that the shipped pointing model has learnt.

Molmo 2 too comes from a model that points in pictures.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from videomolmo.lab.nano.molmo2_vision import ShippedTower, frames_of
from videomolmo.model.processor import VideoMolmoProcessor, collate
from videomolmo.systems.molmo2 import inputs_of
from videomolmo.weights.hub import nano_pointing_96

RATE, FRAMES = 3e-3, 32  # of the connector's first training
BORROWED = (
    "self_attn.q_proj.weight", "self_attn.q_proj.bias", "self_attn.k_proj.weight", "self_attn.k_proj.bias",
    "self_attn.v_proj.weight", "self_attn.v_proj.bias", "self_attn.o_proj.weight", "mlp.gate_proj.weight",
    "mlp.up_proj.weight", "mlp.down_proj.weight", "input_layernorm.weight", "post_attention_layernorm.weight",
)  # fmt: skip
ASKED = ("the red circle", "the square moving left", "all the stars", "the blue object")


@torch.no_grad()
def begin_language(model: Any, tokenizer: Any, shipped: Any) -> None:
    """Copy the shipped language model's layers and what it knows of each word; layers above begin as nothing.

    Args:
        model: a Nano-Molmo2 whose language model is as wide and has at least as many layers.
        tokenizer: of the model; a token that the shipped model has not begins as the mean of the tokens it is made of.
        shipped: the shipped pointing model.
    """
    language, theirs = model.model.language_model, shipped.language
    for own, layer in zip(language.layers, theirs.layers, strict=False):
        for name in BORROWED:
            own.get_parameter(name).copy_(layer.get_parameter(name))
    for layer in language.layers[len(theirs.layers) :]:
        nn.init.zeros_(layer.self_attn.o_proj.weight)
        nn.init.zeros_(layer.mlp.down_proj.weight)
    language.norm.weight.copy_(theirs.norm.weight)
    for (queries, keys), layer in zip(sizes_of_attention(shipped), language.layers, strict=False):
        layer.self_attn.q_norm.weight.fill_(queries)
        layer.self_attn.k_norm.weight.fill_(keys)
    known = VideoMolmoProcessor.from_pretrained(nano_pointing_96()).tokenizer
    table, words = language.embed_tokens.weight, theirs.embed_tokens.weight
    special = {*tokenizer.all_special_ids}
    for token in range(len(tokenizer)):
        text = tokenizer.decode([token])
        if token not in special and (pieces := known.encode(text, add_special_tokens=False)):
            table[token] = words[pieces].mean(0)
    patch = shipped.config.language.extra_ids["<im_patch>"] - shipped.config.language.vocab_size
    table[model.config.image_token_id] = shipped.new_embedding[patch]
    model.lm_head.weight.copy_(table[: len(model.lm_head.weight)])


@torch.no_grad()
def sizes_of_attention(shipped: Any) -> list[tuple[float, float]]:
    """How large the shipped model's queries and keys are, layer by layer: what Molmo 2's norms have to keep."""
    processor = VideoMolmoProcessor.from_pretrained(nano_pointing_96())
    frames = frames_of(1, 0)[: len(ASKED)]
    text = collate([processor.tokens((96, 96), [[f"Point to {one}.", ""]]) for one in ASKED])
    features = shipped.encode_frames(processor.image.pixels_only(frames)[:, :1])
    found: list[list[float]] = [[] for _ in shipped.language.layers]
    with ExitStack() as stack:
        for number, layer in enumerate(shipped.language.layers):
            for part in (layer.self_attn.q_proj, layer.self_attn.k_proj):
                hook = part.register_forward_hook(
                    lambda _, __, made, n=number, size=layer.self_attn.head_dim: found[n].append(
                        made.unflatten(-1, (-1, size)).square().mean(-1).sqrt().mean().item()
                    )
                )
                stack.callback(hook.remove)
        past = features[:, None].expand(-1, shipped.config.context, *(-1,) * (features.ndim - 1))
        shipped(text["input_ids"], image_input_idx=text["image_input_idx"], features=features, past_features=past)
    return [(queries, keys) for queries, keys in found]


def begin_connector(model: Any, processor: Any, shipped: Any, steps: int, seed: int) -> float:
    """Train the connector to give the tokens that the shipped one gives; returns the share of variance still missed.

    The shipped connector adds sines and cosines of the place of what a window shows; Molmo 2's has to learn them.
    """
    projector = model.model.multi_modal_projector
    _copy_connector(projector, shipped.connector)
    optimiser = torch.optim.AdamW(projector.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=max(steps, 2))
    own, model.model.vision_tower = model.model.vision_tower, ShippedTower()
    missed = float("nan")
    for step in tqdm(range(steps), desc="connect", mininterval=5):
        made, wanted = tokens_of(model, processor, shipped, frames_of(seed + 1, step))
        loss = functional.mse_loss(made, wanted) / wanted.var()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        missed = loss.item()
    model.model.vision_tower = own
    return missed


def tokens_of(model: Any, processor: Any, shipped: Any, frames: Any) -> tuple[Tensor, Tensor]:
    """Tokens of frames, the model's and the shipped model's (frames · windows, width)."""
    seen = inputs_of(processor, frames, np.arange(len(frames)) / 2, "<|video|>")
    found = model.model.get_video_features(
        seen["pixel_values_videos"], seen["video_token_pooling"], seen["video_grids"]
    )
    with torch.no_grad():
        features = shipped.encode_frames(seen["pixel_values_videos"][:, None])
        past = features[:, None].expand(-1, shipped.config.context, *(-1,) * (features.ndim - 1))
        wanted = shipped.image_tokens(features, past)
    return torch.cat(found.pooler_output), wanted.flatten(0, 2)


@torch.no_grad()
def _copy_connector(projector: Any, shipped: Any) -> None:
    pooling = {"wq": "q_proj", "wk": "k_proj", "wv": "v_proj", "wo": "o_proj"}
    for theirs, ours in pooling.items():
        for kind in ("weight", "bias"):
            own = projector.image_pooling_2d.get_submodule(ours).get_parameter(kind)
            own.copy_(shipped.pooling.get_submodule(theirs).get_parameter(kind))
