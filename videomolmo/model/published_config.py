"""Configurations of the published models: as resolved in their code, as `config.json` on the hub, and as ours."""

from __future__ import annotations

from typing import Any

from videomolmo.errors import BadInput
from videomolmo.model.config import EXTRA_TOKENS, ImageConfig, LanguageConfig, PointingConfig, VisionConfig
from videomolmo.untrusted import shortened

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


MOLMO_7B_D = {  # config.json of the published checkpoint, as far as this package reads it
    "model_type": "molmo", "embedding_size": 152064, "hidden_size": 3584, "intermediate_size": 37888,
    "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "max_position_embeddings": 4096,
    "layer_norm_eps": 1e-6, "layer_norm_type": "rms", "rope_theta": 1e6, "qkv_bias": True, "clip_qkv": None,
    "norm_after": False, "attention_layer_norm": False, "weight_tying": False,
}  # fmt: skip
KNOWN = {  # published models whose configuration need not be asked for
    "ghazishazan/VideoMolmo": PointingConfig.molmo_7b,
    "allenai/Molmo-7B-D-0924": lambda: PointingConfig.molmo_7b(image_padding_embed="pad_and_partial_pad"),
}
OURS = "videomolmo"  # key of our own configuration in a config.json that we wrote
HUB_FIXED = ("layer_norm_type", "qkv_bias", "clip_qkv", "norm_after", "attention_layer_norm", "weight_tying")


def config_from_hub(values: dict[str, Any], names: set[str]) -> PointingConfig:
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
        return PointingConfig.from_dict(values[OURS])
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
    return PointingConfig(language=language, image_padding_embed="pad_and_partial_pad" if padded else None)


def config_for_hub(config: PointingConfig) -> dict[str, Any]:
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
        OURS: config.to_dict(),
    }
