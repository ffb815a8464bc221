"""Weights of VideoGLaMM under their published names, which are ours but for one, read strictly and one by one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import CLIPVisionModel

from videomolmo.errors import BadInput
from videomolmo.io.untrusted import first_line, read_model_json, shortened
from videomolmo.systems.videoglamm.config import VideoGLaMMConfig, config_from_published
from videomolmo.weights import hub
from videomolmo.weights.assign import CONFIG_FILE, Shards, Stored, check_fit
from videomolmo.weights.tensors import check_finite

_GAMMA = re.compile(r"^(model\.visual_model\.memory_encoder\.fuser\.layers\.\d+\.)(weight|gamma)$")
EMBEDDING, SAM2 = "model.embed_tokens.weight", "model.visual_model."
CLIP = "model.image_vision_tower.vision_tower.vision_model."


def our_name(name: str) -> str:
    """Our name for a published one: the scale of SAM 2's fusion blocks, which the released code calls "weight"."""
    return _GAMMA.sub(r"\1gamma", name)


def published_name(name: str) -> str:
    """The inverse of `our_name`."""
    return _GAMMA.sub(r"\1weight", name)


def read_configuration(folder: str | Path) -> VideoGLaMMConfig:
    """The configuration of a folder, ours or published; of its weights only names and shapes are read.

    Raises:
        BadInput: files missing or broken, or of another model.
    """
    path = Path(folder) / CONFIG_FILE
    values = read_model_json(path)
    try:
        if values.get("model_type") == VideoGLaMMConfig.model_type:
            return VideoGLaMMConfig.from_dict(values)
        if not {"mm_vision_tower", "image_mm_vision_tower"} <= values.keys():
            raise BadInput(
                f"model_type is {shortened(values.get('model_type'))}, expected {VideoGLaMMConfig.model_type!r}, or "
                "the published configuration with its two vision towers"
            )
        table = Shards(folder).tensors.get(EMBEDDING)
        if table is None or table.ndim != 2:
            raise BadInput(f"the weights beside it have no table {EMBEDDING!r}")
        return config_from_published(values, len(table))
    except (ValueError, TypeError) as error:
        raise BadInput(f"{path}: {error}; copy or download it again") from error


def folder_of(name: str | Path, revision: str | None = None, offline: bool = False) -> Path:
    """The folder of a model: itself, or that of an id of the hub. Raises BadInput where there is none."""
    return (
        Path(name) if Path(name).is_dir() else hub.pointing_folder(f"{name}@{revision}" if revision else name, offline)
    )


def weights_in(folder: str | Path, model: nn.Module, clip: str | Path | None) -> dict[str, Stored | Tensor]:
    """Our names and the weights of a folder, which stay there until each is asked for.

    Args:
        folder: safetensors, whole or in shards.
        model: what they are for.
        clip: folder or hub id of the image encoder, which the published export leaves out; needed then alone.

    Raises:
        BadInput: files missing or broken, or names missing, unexpected, doubled or of another shape.
    """
    found: list[tuple[str, Stored | Tensor]] = [(our_name(name), value) for name, value in Shards(folder).stored()]
    known = {name for name, _ in found}
    found += [(name, value) for name, value in shared_weights(model.config).items() if name not in known]
    if clip is not None and not any(name.startswith(CLIP) for name, _ in found):
        found += [(f"{CLIP}{name}", value) for name, value in _clip(clip).items()]
    lacking = clip is None and not any(name.startswith(CLIP) for name, _ in found)
    try:
        check_fit(model, found, str(folder))
    except BadInput as error:
        hint = "; the export leaves CLIP out, give clip='openai/clip-vit-large-patch14-336' or its folder"
        raise BadInput(f"{error}{hint if lacking else ''}") from error
    return dict(found)


def fill(
    model: nn.Module,
    weights: Mapping[str, Stored | Tensor],
    device: torch.device | str,
    dtype: torch.dtype,
    source: str,
) -> None:
    """Give a model without memory its weights, checked with `weights_in`, one by one: no second copy is ever held.

    SAM 2 is always float32, as in its package, parts of which compute in nothing else.

    Raises:
        BadInput: a weight that is not finite.
    """
    for name, stored in weights.items():
        owner, _, own = name.rpartition(".")
        module, value = model.get_submodule(owner), stored[...]
        placed = value.to(device, torch.float32 if name.startswith(SAM2) else dtype, copy=True)
        check_finite(name, placed, value, source)
        if own in module._buffers:
            module._buffers[own] = placed
        else:
            setattr(module, own, nn.Parameter(placed))


OF_CLIP = {  # parts of nano's vision tower, and transformers' names for them
    "vision.class_embedding": "embeddings.class_embedding",
    "vision.positional_embedding": "embeddings.position_embedding.weight",
    "vision.stem.layers.": "embeddings.patch_embedding.",
    "vision.pre_norm.": "pre_layrnorm.",
    "vision.blocks.": "encoder.layers.",
}
OF_BLOCK = {
    "attention.wq.": "self_attn.q_proj.", "attention.wk.": "self_attn.k_proj.", "attention.wv.": "self_attn.v_proj.",
    "attention.wo.": "self_attn.out_proj.", "attention_norm.": "layer_norm1.", "mlp_norm.": "layer_norm2.",
    ".up.": ".mlp.fc1.", ".down.": ".mlp.fc2.",
}  # fmt: skip


def shared_weights(config: VideoGLaMMConfig) -> dict[str, Tensor]:
    """Our names and the weights that a configuration says are those of the shipped models: CLIP, and all of SAM 2."""
    if config.shared == "nothing":
        return {}
    return nano_clip() | {SAM2 + name: stored[...].float() for name, stored in Shards(hub.nano_masks()).stored()}


def nano_clip() -> dict[str, Tensor]:
    """The vision tower of the shipped pointing model at 96 pixels, which is a CLIP but for its stem, by our names."""
    weights = {}
    for name, stored in Shards(hub.nano_pointing_96()).stored():
        for theirs, ours in OF_CLIP.items():
            if name.startswith(theirs):
                own = name.replace(theirs, ours, 1)
                for before, after in OF_BLOCK.items():
                    own = own.replace(before, after) if ours == "encoder.layers." else own
                weights[CLIP + own] = stored[...].float()
    return weights


def _clip(name: str | Path) -> dict[str, Tensor]:
    """Weights of a CLIP by transformers' names; of a model with texts those for images alone."""
    try:
        model = CLIPVisionModel.from_pretrained(name, use_safetensors=True, dtype=torch.float32)
    except Exception as error:  # transformers and the hub's client raise many kinds
        raise BadInput(
            f"clip {str(name)!r}: no CLIP that can be read ({first_line(error)}); give its folder"
        ) from error
    return dict(model.state_dict())
