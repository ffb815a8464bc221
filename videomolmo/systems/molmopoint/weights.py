"""Weights of MolmoPoint under their published names, of which some hold several of ours, or a part of one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from videomolmo.errors import BadInput
from videomolmo.io.untrusted import read_model_json
from videomolmo.systems.molmopoint.config import MolmoPointConfig
from videomolmo.weights.assign import CONFIG_FILE, Shards, check_fit
from videomolmo.weights.tensors import check_finite

NAMES = (  # ours, published
    (r"^model\.language_model\.layers\.", "model.transformer.blocks."),
    (r"^model\.language_model\.norm\.", "model.transformer.ln_f."),
    (r"\.self_attn\.[qkv]_proj\.(?=\w+$)", ".self_attn.att_proj."),
    (r"\.self_attn\.o_proj\.", ".self_attn.attn_out."),
    (r"\.input_layernorm\.", ".attn_norm."),
    (r"\.post_attention_layernorm\.", ".ff_norm."),
    (r"\.mlp\.(gate|up)_proj\.", ".mlp.ff_proj."),
    (r"\.mlp\.down_proj\.", ".mlp.ff_out."),
)
VISION = (
    (r"^model\.vision_tower\.layers\.", "model.vit.transformer.resblocks."),
    (r"^model\.vision_tower\.", "model.vit."),
    (r"\.self_attn\.([qkvo])_proj\.", r".attention.w\1."),
    (r"\.layer_norm1\.", ".attention_norm."),
    (r"\.layer_norm2\.", ".ffn_norm."),
    (r"\.mlp\.fc([12])\.", r".feed_forward.w\1."),
    (r"image_pooling_2d\.([qkv])_proj\.", r"image_pooling_2d.w\1."),
    (r"image_projector\.gate_proj\.", "image_projector.w1."),
    (r"image_projector\.down_proj\.", "image_projector.w2."),
    (r"image_projector\.up_proj\.", "image_projector.w3."),
)
TABLES = {  # ours -> published parts: the words of the tokenizer, and the additional ones
    "model.language_model.embed_tokens.weight":
        ("model.transformer.wte.embedding", "model.transformer.wte.new_embedding"),
    "lm_head.weight": ("lm_head.output_embeddings", "lm_head.new_output_embeddings"),
}  # fmt: skip


class Rows(NamedTuple):
    """Rows from `first` to before `last` of one of our weights."""

    name: str
    first: int
    last: int


def published_rows(model: nn.Module) -> dict[str, list[Rows]]:
    """Published names, and the rows of our weights that each holds, in its order."""
    found: dict[str, list[Rows]] = {}
    words = model.config.text_config.vocab_size
    for name, value in model.state_dict().items():
        count = value.shape[0]
        if name in TABLES:
            base, more = TABLES[name]
            found[base], found[more] = [Rows(name, 0, words)], [Rows(name, words, count)]
            continue
        new = name
        for ours, theirs in NAMES if name.startswith("model.language_model.") else VISION:
            new = re.sub(ours, theirs, new)
        parts = found.setdefault(new, [])
        parts.insert(0 if ".up_proj." in name and ".ff_proj." in new else len(parts), Rows(name, 0, count))
    return found


def published_state(model: nn.Module, rows: dict[str, list[Rows]] | None = None) -> Iterator[tuple[str, Tensor]]:
    """Published names and weights."""
    state = model.state_dict()
    for name, parts in (rows or published_rows(model)).items():
        values = [state[part.name][part.first : part.last].detach() for part in parts]
        yield name, values[0] if len(values) == 1 else torch.cat(values)


def read_configuration(folder: str | Path) -> MolmoPointConfig:
    """The configuration of a folder, ours or published, `settled` by its weights.

    Raises:
        BadInput: files missing or broken, or of another model.
    """
    path = Path(folder) / CONFIG_FILE
    values = read_model_json(path)
    try:
        config = MolmoPointConfig.from_dict(values)
    except (ValueError, TypeError, AttributeError) as error:
        raise BadInput(f"{path}: {error}; copy or download it again") from error
    return settled(config, folder)


def settled(config: MolmoPointConfig, folder: str | Path) -> MolmoPointConfig:
    """The configuration, in which both places agree whether tables of words are one.

    Published folders say so in two places, which may disagree, or in one or none; the weights then do.
    """
    path = Path(folder) / CONFIG_FILE
    values = read_model_json(path) if path.is_file() else {}
    text = values.get("text_config")
    said = {part.get("tie_word_embeddings") for part in (values, text if isinstance(text, dict) else {})}
    if len(said) > 1 or None in said:
        config.tie_word_embeddings = TABLES["lm_head.weight"][0] not in Shards(folder).tensors
    config.text_config.tie_word_embeddings = config.tie_word_embeddings
    return config


def fill(
    model: nn.Module, folder: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> None:
    """Give a model without memory the weights of a folder, one by one: no second copy is ever held.

    Raises:
        BadInput: files missing or broken, names missing, unexpected, doubled or of another shape, or a weight that is
            not finite.
    """
    rows = published_rows(model)
    wanted = nn.Module()
    wanted.state_dict = lambda: dict(published_state(model, rows))
    stored = Shards(folder).stored()
    check_fit(wanted, stored, str(folder))
    ours = dict(model.named_parameters())
    for name, value in stored:
        whole = value[...]
        placed = whole.to(device, dtype)
        check_finite(name, placed, whole, folder)
        first = 0
        for part in rows[name]:
            parameter = ours[part.name]
            if parameter.is_meta:
                owner, _, own = part.name.rpartition(".")
                parameter = nn.Parameter(torch.empty(parameter.shape, device=device, dtype=dtype))
                setattr(model.get_submodule(owner), own, parameter)
                ours[part.name] = parameter
            count = part.last - part.first
            parameter.data[part.first : part.last] = placed[first : first + count]
            first += count
