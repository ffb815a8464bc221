"""Weights under the names of the published files, and our own: a mapping both ways over names and tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from videomolmo.errors import BadInput
from videomolmo.model.config import EXTRA_TOKENS, ImageConfig, LanguageConfig, PointingConfig, VisionConfig
from videomolmo.model.pointing import PointingModel
from videomolmo.model.weights import load_strict

# Published name -> our name, `{n}` a block number, where tensors stay as they are. Biases ride along with weights.
RENAMES = {
    "model.transformer.wte.embedding": "language.embed_tokens.weight",
    "model.transformer.wte.new_embedding": "new_embedding",
    "model.transformer.ln_f.weight": "language.norm.weight",
    "model.transformer.ff_out.weight": "head.weight",
    "model.transformer.blocks.{n}.attn_norm.weight": "language.layers.{n}.input_layernorm.weight",
    "model.transformer.blocks.{n}.ff_norm.weight": "language.layers.{n}.post_attention_layernorm.weight",
    "model.transformer.blocks.{n}.attn_out.weight": "language.layers.{n}.self_attn.o_proj.weight",
    "model.transformer.blocks.{n}.ff_out.weight": "language.layers.{n}.mlp.down_proj.weight",
    "model.vision_backbone.pad_embed": "pad_embed",
    "model.vision_backbone.image_projector.w1.weight": "connector.projector.gate.weight",
    "model.vision_backbone.image_projector.w2.weight": "connector.projector.down.weight",
    "model.vision_backbone.image_projector.w3.weight": "connector.projector.up.weight",
    "model.vision_backbone.image_vit.class_embedding": "vision.class_embedding",
    "model.vision_backbone.image_vit.positional_embedding": "vision.positional_embedding",
    "model.vision_backbone.image_vit.patch_embedding.weight": "vision.stem.weight",
}
for _part in ("weight", "bias"):
    _vit = "model.vision_backbone.image_vit."
    RENAMES[f"{_vit}pre_ln.{_part}"] = f"vision.pre_norm.{_part}"
    _block = f"{_vit}transformer.resblocks.{{n}}."
    RENAMES[f"{_block}attention_norm.{_part}"] = f"vision.blocks.{{n}}.attention_norm.{_part}"
    RENAMES[f"{_block}ffn_norm.{_part}"] = f"vision.blocks.{{n}}.mlp_norm.{_part}"
    RENAMES[f"{_block}feed_forward.w1.{_part}"] = f"vision.blocks.{{n}}.up.{_part}"
    RENAMES[f"{_block}feed_forward.w2.{_part}"] = f"vision.blocks.{{n}}.down.{_part}"
    for _w in ("wq", "wk", "wv", "wo"):
        RENAMES[f"{_block}attention.{_w}.{_part}"] = f"vision.blocks.{{n}}.attention.{_w}.{_part}"
        RENAMES[f"model.vision_backbone.image_pooling_2d.{_w}.{_part}"] = f"connector.pooling.{_w}.{_part}"
        if _part == "weight":
            RENAMES[f"model.vision_backbone.adapter.{_w}.weight"] = f"temporal.attention.{_w}.weight"
RENAMES_BACK = {ours: published for published, ours in RENAMES.items()}

FUSED_ATTENTION = "model.transformer.blocks.{n}.att_proj."  # rows: queries, keys, values
FUSED_MLP = "model.transformer.blocks.{n}.ff_proj.weight"  # rows: up, gate
ADAPTER = tuple(f"model.vision_backbone.adapter.{w}.weight" for w in ("wq", "wk", "wv", "wo"))


def _generic(name: str) -> tuple[str, str]:
    """A name with its block number replaced by `{n}`, and the number."""
    match = re.search(r"\.(\d+)\.", name)
    return (name, "") if match is None else (name.replace(match.group(), ".{n}.", 1), match.group(1))


def from_published(name: str, value: Tensor, config: PointingConfig) -> list[tuple[str, Tensor]]:
    """Our names and tensors for one published tensor; fused projections come apart as views.

    Pure, one tensor at a time, so that large files can be streamed.

    Raises:
        BadInput: the name or the number of rows is none of a published pointing model's.
    """
    generic, number = _generic(name)
    if generic in RENAMES:
        return [(RENAMES[generic].replace("{n}", number), value)]
    language, layer = config.language, f"language.layers.{number}"
    if generic.startswith(FUSED_ATTENTION):
        part, head_dim = generic.removeprefix(FUSED_ATTENTION), language.width // language.heads
        rows = [language.heads * head_dim, language.kv_heads * head_dim, language.kv_heads * head_dim]
        names = [f"{layer}.self_attn.{which}_proj.{part}" for which in "qkv"]
    elif generic == FUSED_MLP:
        rows = [language.ff, language.ff]
        names = [f"{layer}.mlp.{which}_proj.weight" for which in ("up", "gate")]
    else:
        raise BadInput(f"weight {name!r} is unknown, expected names of a published Molmo model; check the file")
    if value.shape[0] != sum(rows):
        raise BadInput(
            f"weight {name!r} has {value.shape[0]} rows, the configuration expects {sum(rows)}; "
            "use the configuration that belongs to the weights"
        )
    return list(zip(names, value.split(rows), strict=True))


def convert_published(state: Iterable[tuple[str, Tensor]], config: PointingConfig) -> Iterator[tuple[str, Tensor]]:
    """Published names and tensors, renamed and taken apart one by one."""
    for name, value in state:
        yield from from_published(name, value, config)


def to_published(model: PointingModel) -> dict[str, Tensor]:
    """All weights of a model under published names; the inverse of `load_published`, bit by bit.

    Raises:
        BadInput: the model has parts that no published model has.
    """
    ours = model.state_dict()
    published: dict[str, Tensor] = {}
    for index in range(model.config.language.layers):
        layer = f"language.layers.{index}"
        for part in ("weight", "bias"):
            rows = [ours.pop(f"{layer}.self_attn.{which}_proj.{part}") for which in "qkv"]
            published[f"{FUSED_ATTENTION}{part}".replace("{n}", str(index))] = torch.cat(rows)
        rows = [ours.pop(f"{layer}.mlp.{which}_proj.weight") for which in ("up", "gate")]
        published[FUSED_MLP.replace("{n}", str(index))] = torch.cat(rows)
    for name, value in ours.items():
        generic, number = _generic(name)
        if generic not in RENAMES_BACK:
            raise BadInput(f"weight {name!r} has no published name, expected the published parts only; save as ours")
        published[RENAMES_BACK[generic].replace("{n}", number)] = value
    return published


def load_published(state: dict[str, Tensor], config: PointingConfig) -> PointingModel:
    """A model with the weights of a published state dict.

    Where a Molmo checkpoint has no temporal module at all, ours starts with Xavier weights and zero output, so that
    the model answers like Molmo until it is trained.

    Raises:
        BadInput: names missing, unexpected or of another shape.
    """
    model = PointingModel(config)
    ours = dict(convert_published(state.items(), config))
    fresh: frozenset[str] = frozenset()
    if model.temporal.attention is not None and not any(name in state for name in ADAPTER):
        model.temporal.reset_parameters(output_zero=True)
        fresh = frozenset(name for name in model.state_dict() if name.startswith("temporal."))
    load_strict(model, ours, "the published state", fresh)
    return model


FIXED = {  # values of the published configuration that this package has no options for
    "activation_type": "swiglu", "rope": True, "clip_qkv": None, "qkv_bias": True, "layer_norm_type": "rms",
    "include_bias": False, "scale_logits": False, "norm_after": False, "attention_layer_norm": False,
    "image_pooling_2d": "attention-meanq", "image_projector": "mlp", "image_pooling_h": 2, "image_pooling_w": 2,
    "normalize_input_embeds": False,
}  # fmt: skip


def config_from_published(values: dict[str, Any]) -> PointingConfig:
    """Our configuration from the resolved published one (language, vision, preprocessor and special ids).

    Raises:
        BadInput: an option that this package does not compute, or special ids in other places.
    """
    full, special = values["full_config"], values["special_token_ids"]
    for name, wanted in FIXED.items():
        if full.get(name, wanted) != wanted:
            raise BadInput(
                f"published option {name} is {full[name]!r}, only {wanted!r} is supported; use other weights"
            )
    language = LanguageConfig(
        vocab_size=full["vocab_size"],
        extra_vocab=full["additional_vocab_size"],
        width=full["d_model"],
        layers=full["n_layers"],
        heads=full["n_heads"],
        kv_heads=full["n_kv_heads"],
        ff=full["mlp_hidden_size"] // 2,
        rope_theta=float(full["rope_theta"]),
        rms_eps=full["layer_norm_eps"],
        max_positions=full["max_sequence_length"],
        tie_word_embeddings=full["weight_tying"],
        end_of_text=special["eos_used_as_bos"],
    )
    for name in EXTRA_TOKENS:
        if special[name] != language.extra_ids[name]:
            raise BadInput(f"id of {name} is {special[name]}, expected {language.extra_ids[name]}; use other weights")
    return PointingConfig(
        image=_published_image(values["preprocessor"]),
        vision=_published_vision(full),
        language=language,
        context=values["num_prev_frames"],
        image_padding_embed=full["image_padding_embed"],
        loss_token_weighting=values.get("train_loss_token_weighting"),
    )


def _published_image(values: dict[str, Any]) -> ImageConfig:
    return ImageConfig(
        size_px=values["base_image_input_size"][0],
        patch_px=values["image_patch_size"],
        margins=tuple(values["overlap_margins"]),
        max_crops=values["max_crops"],
    )


def _published_vision(full: dict[str, Any]) -> VisionConfig:
    vision = full["vision_backbone"]
    if vision["image_mlp_activations"] != "quick_gelu":
        raise BadInput(
            f"published option image_mlp_activations is {vision['image_mlp_activations']!r}, "
            "only 'quick_gelu' is supported; use other weights"
        )
    return VisionConfig(
        width=vision["image_emb_dim"],
        heads=vision["image_num_heads"],
        layers=vision["image_num_layers"],
        mlp=vision["image_mlp_dim"],
        vit_layers=tuple(full["vit_layers"]),
        norm_eps=vision["image_norm_eps"],
    )
