"""The published model's names and settings, and ours: each from the other, exactly."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, GenerationConfig, PreTrainedModel

from videomolmo.errors import BadInput
from videomolmo.io.untrusted import first_line, read_model_json, shortened
from videomolmo.model.config import (
    EXTRA_TOKENS,
    ImageConfig,
    LanguageConfig,
    VideoMolmoConfig,
    VisionConfig,
    changed,
)
from videomolmo.model.temporal import TemporalModule
from videomolmo.weights.assign import CONFIG_FILE, Shards, Weight, check_fit

FIXED = {  # values of the published configuration that this package has no options for
    "activation_type": "swiglu", "rope": True, "clip_qkv": None, "qkv_bias": True, "layer_norm_type": "rms",
    "include_bias": False, "scale_logits": False, "norm_after": False, "attention_layer_norm": False,
    "image_pooling_2d": "attention-meanq", "image_projector": "mlp", "image_pooling_h": 2, "image_pooling_w": 2,
    "normalize_input_embeds": False, "rope_impl": "llama",
}  # fmt: skip
FIXED_IMAGE = {  # the same of its preprocessor
    "crop_mode": "overlap-and-resize-c2", "use_col_tokens": True, "pad_value": 0, "image_pooling_h": 2,
    "image_pooling_w": 2,
}  # fmt: skip


def config_from_published(values: dict[str, Any]) -> VideoMolmoConfig:
    """Our configuration from the resolved published one (language, vision, preprocessor and special ids).

    Raises:
        BadInput: an option that this package does not compute, or special ids in other places.
    """
    full, special = values["full_config"], values["special_token_ids"]
    _refuse_others(full, FIXED)
    heads = full["n_heads"]
    language = LanguageConfig(
        vocab_size=full.get("embedding_size") or full["vocab_size"],  # tables may have rows that no word has
        extra_vocab=full["additional_vocab_size"],
        width=full["d_model"],
        layers=full["n_layers"],
        heads=heads,
        kv_heads=full.get("n_kv_heads") or (1 if full.get("multi_query_attention") else heads),
        ff=(full.get("mlp_hidden_size") or full["mlp_ratio"] * full["d_model"]) // 2,
        rope_theta=float(full["rope_theta"]),
        rms_eps=full["layer_norm_eps"],
        max_positions=full["max_sequence_length"],
        tie_word_embeddings=full["weight_tying"],
        end_of_text=special["eos_used_as_bos"],
    )
    for name in EXTRA_TOKENS:
        if special[name] != language.extra_ids[name]:
            raise BadInput(f"id of {name} is {special[name]}, expected {language.extra_ids[name]}; use other weights")
    return VideoMolmoConfig(
        image=_published_image(values["preprocessor"]),
        vision=_published_vision(full),
        language=language,
        context=values["num_prev_frames"],
        image_padding_embed=full["image_padding_embed"],
        loss_token_weighting=values.get("train_loss_token_weighting"),
    )


def _refuse_others(values: dict[str, Any], fixed: dict[str, Any]) -> None:
    """Refuse a configuration in which an option has another value than the one that is computed here."""
    for name, wanted in fixed.items():
        if values.get(name, wanted) != wanted:
            raise BadInput(
                f"published option {name} is {values[name]!r}, only {wanted!r} is supported; use other weights"
            )


def _published_image(values: dict[str, Any]) -> ImageConfig:
    size = values["base_image_input_size"]
    _refuse_others(values, FIXED_IMAGE | {"base_image_input_size": [size[0], size[0]]})
    return ImageConfig(
        size_px=size[0],
        patch_px=values["image_patch_size"],
        margins=tuple(values["overlap_margins"]),
        max_crops=values["max_crops"],
    )


def _published_vision(full: dict[str, Any]) -> VisionConfig:
    vision = full["vision_backbone"]
    heads, width = vision["image_num_heads"], vision["image_emb_dim"]
    _refuse_others(
        vision,
        {
            "image_mlp_activations": "quick_gelu",
            "image_num_key_value_heads": heads,
            "image_head_dim": width // heads,
        },
    )
    return VisionConfig(
        width=width,
        heads=heads,
        layers=vision["image_num_layers"],
        mlp=vision["image_mlp_dim"],
        vit_layers=tuple(full["vit_layers"]),
        norm_eps=vision["image_norm_eps"],
    )


MOLMO_7B_D = {  # config.json of the published checkpoint, as far as this package reads it
    "model_type": "molmo", "embedding_size": 152064, "hidden_size": 3584, "intermediate_size": 37888,
    "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "max_position_embeddings": 4096,
    "layer_norm_eps": 1e-6, "layer_norm_type": "rms", "rope_theta": 1e6, "qkv_bias": True, "clip_qkv": None,
    "norm_after": False, "attention_layer_norm": False, "weight_tying": False,
}  # fmt: skip
KNOWN = {  # published models whose configuration need not be asked for
    "ghazishazan/VideoMolmo": VideoMolmoConfig.molmo_7b,
    "allenai/Molmo-7B-D-0924": lambda: VideoMolmoConfig.molmo_7b(image_padding_embed="pad_and_partial_pad"),
}
OURS = "videomolmo"  # key of our own configuration in a config.json that we wrote
HUB_FIXED = ("layer_norm_type", "qkv_bias", "clip_qkv", "norm_after", "attention_layer_norm", "weight_tying")


def config_from_hub(values: dict[str, Any], names: set[str]) -> VideoMolmoConfig:
    """Our configuration for a folder of the hub.

    Its config.json describes the language model alone: what the published class fixes for the rest is taken as fixed.
    Which of the two models it is shows in the names of the weights: Molmo has the padding embedding, VideoMolmo
    the temporal module instead. Molmo's temporal module starts as if it were not there.

    Args:
        values: its config.json.
        names: of its weights.

    Raises:
        BadInput: an architecture that is not computed here. Molmo-7B-O is such a one: OLMo blocks with normed
            queries and keys, norms after attention and MLP, and no bias on the fused projection, which
            Qwen2 has no place for.
    """
    if OURS in values:
        return VideoMolmoConfig.from_dict(values[OURS])
    if values.get("model_type") != "molmo":
        raise BadInput(
            f"config.json is of model_type {shortened(values.get('model_type'))}, expected 'molmo' "
            "(VideoMolmo, Molmo-7B-D) or a model saved by this package; for Molmo 2 see videomolmo.load_grounder"
        )
    values = MOLMO_7B_D | values
    for name in HUB_FIXED:
        if values[name] != MOLMO_7B_D[name]:
            raise BadInput(
                f"config.json has {name} = {shortened(values[name])}, only {MOLMO_7B_D[name]!r} is supported: "
                "these are the blocks of another language model (Molmo-7B-O has such); use VideoMolmo or Molmo-7B-D"
            )
    ff = values["intermediate_size"]
    if not isinstance(ff, int) or ff % 2:
        raise BadInput(f"config.json has intermediate_size = {shortened(ff)}, expected an even number: gate and up")
    language = LanguageConfig(
        vocab_size=values["embedding_size"] or values["vocab_size"],
        width=values["hidden_size"],
        layers=values["num_hidden_layers"],
        heads=values["num_attention_heads"],
        kv_heads=values["num_key_value_heads"] or values["num_attention_heads"],
        ff=ff // 2,
        rope_theta=values["rope_theta"],
        rms_eps=values["layer_norm_eps"],
        max_positions=values["max_position_embeddings"],
    )
    padded = "model.vision_backbone.pad_embed" in names
    return VideoMolmoConfig(language=language, image_padding_embed="pad_and_partial_pad" if padded else None)


def config_for_hub(config: VideoMolmoConfig) -> dict[str, Any]:
    """config.json of an exported model: the published keys, and ours so that any size comes back exactly."""
    language = config.language
    return MOLMO_7B_D | {
        "embedding_size": language.vocab_size,
        "vocab_size": language.vocab_size,
        "hidden_size": language.width,
        "intermediate_size": 2 * language.ff,
        "num_hidden_layers": language.layers,
        "num_attention_heads": language.heads,
        "num_key_value_heads": language.kv_heads,
        "max_position_embeddings": language.max_positions,
        "layer_norm_eps": language.rms_eps,
        "rope_theta": language.rope_theta,
        "weight_tying": language.tie_word_embeddings,
        OURS: {name: value for name, value in config.to_dict().items() if name != "model_type"},
    }


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
PAD_EMBED = "model.vision_backbone.pad_embed"


def _generic(name: str) -> tuple[str, str]:
    """A name with its block number replaced by `{n}`, and the number."""
    match = re.search(r"\.(\d+)\.", name)
    return (name, "") if match is None else (name.replace(match.group(), ".{n}.", 1), match.group(1))


def from_published(name: str, value: Weight, config: VideoMolmoConfig) -> list[tuple[str, Weight]]:
    """Our names and tensors for one published tensor; fused projections come apart as views.

    Pure, one tensor at a time; one that is still in its file stays there.

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
        raise BadInput(
            f"weight {shortened(name)} is unknown, expected names of a published Molmo model; check the file"
        )
    if value.shape[:1] != (sum(rows),):
        raise BadInput(
            f"weight {name!r} has {(*value.shape, 0)[0]} rows, the configuration expects {sum(rows)}; "
            "use the configuration that belongs to the weights"
        )
    return list(zip(names, value.split(rows), strict=True))


def convert_published(state: Iterable[tuple[str, Weight]], config: VideoMolmoConfig) -> Iterator[tuple[str, Weight]]:
    """Published names and tensors, renamed and taken apart one by one."""
    for name, value in state:
        yield from from_published(name, value, config)


def to_published(model: PreTrainedModel) -> dict[str, Tensor]:
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
            raise BadInput(
                f"weight {name!r} has no published name: only models of the published shape can be exported, and nano "
                "is another one; `save_pretrained` keeps it"
            )
        published[RENAMES_BACK[generic].replace("{n}", number)] = value
    return published


class PublishedConfig(VideoMolmoConfig):
    """What reads a published config.json for transformers' Auto classes."""

    model_type = "molmo"

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Our configuration; only a folder's weights tell which of the two models it is, see `read_configuration`."""
        made = changed(config_from_hub(config_dict, set()), kwargs)
        (made[0] if isinstance(made, tuple) else made).is_published = True
        return made


AutoConfig.register(PublishedConfig.model_type, PublishedConfig, exist_ok=True)


def read_configuration(folder: str | Path) -> VideoMolmoConfig:
    """The configuration of a model in a folder, ours or published; of its weights only names are read."""
    values = read_model_json(Path(folder) / CONFIG_FILE)
    if not is_published(values):
        return VideoMolmoConfig.from_json(Path(folder) / CONFIG_FILE)
    names = set(Shards(folder).tensors)
    try:
        return config_from_hub(values, names)
    except (ValueError, TypeError, KeyError) as error:
        raise BadInput(f"{Path(folder) / CONFIG_FILE}: {error}; copy or download it again") from error


def read_generation(folder: Path) -> GenerationConfig | None:
    """How a model of ours generates, as it was saved; None where nothing is, or the model is a published one.

    Raises:
        BadInput: the file is broken, or has a setting that this release of transformers does not know.
    """
    path = folder / "generation_config.json"
    if not os.path.lexists(path) or is_published(read_model_json(folder / CONFIG_FILE)):
        return None
    values = read_model_json(path)
    try:
        if unknown := sorted(values.keys() - GenerationConfig().to_dict().keys() - {"transformers_version"}):
            raise ValueError(f"{shortened(unknown[0])} is no setting of generate")
        return GenerationConfig.from_dict(values)
    except Exception as error:  # transformers checks values as it goes
        raise BadInput(f"{path}: {first_line(error)}; correct it, or remove the file for the usual settings") from error


def is_published(values: dict[str, Any]) -> bool:
    """Whether a config.json comes with weights under published names; those that we wrote earlier name no type."""
    return values.get("model_type", VideoMolmoConfig.model_type) != VideoMolmoConfig.model_type


def weights_in(folder: str | Path, model: PreTrainedModel, dtype: torch.dtype | None = None) -> dict[str, Weight]:
    """Our names and the weights of a folder, ours or published, which stay there until each is asked for.

    Args:
        folder: config.json and safetensors, whole or in shards.
        model: what they are for, on the meta device.
        dtype: of the weights when they are read; None keeps theirs.

    Raises:
        BadInput: files missing or broken, or names missing, unexpected or of another shape.
    """
    stored = Shards(folder).stored(dtype)
    if not is_published(read_model_json(Path(folder) / CONFIG_FILE)):
        check_fit(model, stored, str(folder))
        return dict(stored)
    return fitted(stored, model, str(folder))


def fitted(state: Iterable[tuple[str, Weight]], model: PreTrainedModel, source: str) -> dict[str, Weight]:
    """Our names and weights from published ones, once it is known that all of them fit `model`.

    Where a Molmo checkpoint has no temporal module at all, ours starts with Xavier weights and zero output, so that
    the model answers like Molmo until it is trained: zero everywhere would be a point without any gradient, and what
    the published code does, leaving the module as uninitialised memory, no start at all.

    Args:
        state: published names and weights.
        model: what they are for, on the meta device.
        source: for messages.

    Raises:
        BadInput: names missing, unexpected, doubled or of another shape.
    """
    try:
        pairs = list(convert_published(state, model.config))
    except BadInput as error:
        raise BadInput(f"{source}: {error}") from error
    if any(name.startswith("temporal.") for name, _ in pairs):
        check_fit(model, pairs, source)
        return dict(pairs)
    check_fit(model, [*pairs, *_in(model.temporal)], source)
    with torch.random.fork_rng(devices=[]):  # only now: its memory is that of the vision tower's width
        torch.manual_seed(0)
        fresh = TemporalModule(replace(model.config, init_output_zero=True))
    return dict([*pairs, *_in(fresh)])


def _in(temporal: torch.nn.Module) -> list[tuple[str, Tensor]]:
    return [(f"temporal.{name}", value) for name, value in temporal.state_dict().items()]
