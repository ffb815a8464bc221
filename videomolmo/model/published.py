"""Weights under the names of the published files, and our own: a mapping both ways over names and tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain

import torch
from torch import Tensor

from videomolmo.errors import BadInput
from videomolmo.model.config import PointingConfig
from videomolmo.model.placement import Devices
from videomolmo.model.pointing import PointingModel
from videomolmo.model.temporal import TemporalModule
from videomolmo.model.weights import Put, check_fit, put_plain
from videomolmo.untrusted import shortened

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
        raise BadInput(
            f"weight {shortened(name)} is unknown, expected names of a published Molmo model; check the file"
        )
    if value.shape[:1] != (sum(rows),):
        raise BadInput(
            f"weight {name!r} has {(*value.shape, 0)[0]} rows, the configuration expects {sum(rows)}; "
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
            raise BadInput(
                f"weight {name!r} has no published name: only models of the published shape can be exported, and nano "
                "is another one; `save_pretrained` keeps it"
            )
        published[RENAMES_BACK[generic].replace("{n}", number)] = value
    return published


def load_published(state: dict[str, Tensor], config: PointingConfig) -> PointingModel:
    """A float32 model with the weights of a published state dict; folders are `loading.load_model`'s.

    Raises:
        BadInput: names missing, unexpected, doubled or of another shape.
    """
    return build(state.items(), state.items(), config, "the published state")


def build(
    shapes: Iterable[tuple[str, Tensor]],
    tensors: Iterable[tuple[str, Tensor]],
    config: PointingConfig,
    source: str,
    devices: Devices = "cpu",
    dtype: torch.dtype = torch.float32,
    attn_implementation: str = "sdpa",
    prepare: Callable[[PointingModel], Put] = lambda model: put_plain,
) -> PointingModel:
    """A model from published names and tensors, taken one by one once it is known that all of them fit.

    Where a Molmo checkpoint has no temporal module at all, ours starts with Xavier weights and zero output, so that
    the model answers like Molmo until it is trained: zero everywhere would be a point without any gradient, and what
    the published code does, leaving the module as uninitialised memory, no start at all.

    Args:
        shapes: the names with tensors of the right shape, with or without data.
        tensors: the names with data.
        config: of the model.
        source: for messages.
        devices, dtype: see `PointingModel.filled`.
        attn_implementation: of the language model.
        prepare: changes the empty model where needed and says how its weights are put; see `quantize.quantised`.
    """
    model = PointingModel.empty(config, attn_implementation)
    try:
        shapes = list(convert_published(shapes, config))
    except BadInput as error:
        raise BadInput(f"{source}: {error}") from error
    added: list[tuple[str, Tensor]] = []
    if any(name.startswith("temporal.") for name, _ in shapes):
        check_fit(model, shapes, source)
    else:
        check_fit(model, [*shapes, *_in(model.temporal)], source)
        added = _fresh_temporal(config)  # only now: its memory is that of the vision tower's width
    return model.filled(chain(convert_published(tensors, config), added), devices, dtype, prepare(model), source)


def _fresh_temporal(config: PointingConfig) -> list[tuple[str, Tensor]]:
    """First weights of a temporal module that changes nothing yet (seed 0)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = TemporalModule(replace(config, init_output_zero=True))
    return _in(module)


def _in(temporal: TemporalModule) -> list[tuple[str, Tensor]]:
    return [(f"temporal.{name}", value) for name, value in temporal.state_dict().items()]
