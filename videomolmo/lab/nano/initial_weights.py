"""Initial weights of trainings: a fresh model, the nano model before its temporal module, or with ablated parts.

The last two at 96 pixels, where a step costs a third.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from videomolmo.errors import BadInput
from videomolmo.lab.nano.auxiliary_losses import ProbeHeads
from videomolmo.model import VideoMolmoConfig, VideoMolmoForConditionalGeneration
from videomolmo.weights.hub import data_folder, nano_pointing_96

State = dict[str, Tensor]


def shipped_config(**changes: object) -> VideoMolmoConfig:
    """The shipped model's configuration with other values for some of its fields."""
    return replace(VideoMolmoConfig.from_json(nano_pointing_96() / "config.json"), **changes)


def single_frame_start() -> State:
    """The nano model as it was before it saw a past frame (after the stage `text_3`), with the probe heads.

    Its vision tower is the shipped one, which has not changed since; the rest is a file of 2.4 MB.
    """
    shipped = load_file(nano_pointing_96() / "model.safetensors")
    state = {f"model.{name}": value for name, value in shipped.items() if name.startswith("vision.")}
    state |= load_file(data_folder() / "ablations" / "temporal_start.safetensors")
    return {name: value.float() for name, value in state.items()}


def pretrained_without_temporal() -> State:
    """The shipped model without its temporal module, with the probe heads: its language knows words of motion.

    They come from tokens that cross-attention to the mean of four frames had made, which favours that variant.
    """
    kept = {f"model.{name}": value for name, value in _shipped().items() if not name.startswith("temporal.")}
    return kept | _heads()


def ablated(lost: Sequence[str], seed: int) -> State:
    """The shipped model with some parts as new, and probe heads for its training.

    Args:
        lost: names of parts, or beginnings of names of weights, as in "language.layers.3"; none leaves it whole.
        seed: of the new weights.

    Raises:
        BadInput: a name that no weight begins with.
    """
    torch.manual_seed(seed)
    new = VideoMolmoForConditionalGeneration(shipped_config()).state_dict()
    shipped = _shipped()
    for part in lost:
        chosen = {name: new[name] for name in shipped if name == part or name.startswith(f"{part}.")}
        if not chosen:
            parts = sorted({name.split(".")[0] for name in shipped})
            raise BadInput(f"no weight's name begins with {part!r}, expected parts of {', '.join(parts)}")
        shipped |= chosen
    return {f"model.{name}": value for name, value in shipped.items()} | _heads()


def _shipped() -> State:
    return {name: value.float() for name, value in load_file(nano_pointing_96() / "model.safetensors").items()}


def _heads() -> State:
    return {name: value for name, value in single_frame_start().items() if name.startswith("heads.")}


def assembled(state: State, config: VideoMolmoConfig, seed: int = 0) -> nn.ModuleDict:
    """Model and probe heads with the weights of `state`; without any, or where it lacks a temporal module, from `seed`.

    So are the heads of a model that chooses places, where the state is of one that writes them.

    Raises:
        BadInput: other weights than these are missing, or do not fit.
    """
    torch.manual_seed(seed)
    model = VideoMolmoForConditionalGeneration(config, attn_implementation="eager")
    heads = ProbeHeads(config.language.width, config.vision.feature_dim, config.image.patch_px)
    both = nn.ModuleDict({"model": model, "heads": heads})
    if not state:
        return both
    try:
        missing, unexpected = both.load_state_dict(state, strict=False)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise BadInput(f"weights of the stage before do not fit: {reason}; train from the first stage on") from error
    strange = [
        name for name in (*missing, *unexpected) if not name.startswith(("model.temporal.", "model.token_heads."))
    ]
    if strange:
        raise BadInput(f"weights of the stage before do not fit: {strange[:4]}; train from the first stage on")
    return both
