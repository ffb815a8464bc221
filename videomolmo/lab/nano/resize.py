"""The same model for larger frames: what tells places apart is stretched, everything else stays as it was learnt."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from videomolmo.model import PointingConfig

State = dict[str, Tensor]
PLACES = "model.vision.positional_embedding"  # the class token's first, then a square of patches
SIDES = ("model.connector.positions.row", "model.connector.positions.column")


def enlarged(config: PointingConfig, size_px: int) -> PointingConfig:
    """The same configuration for frames of size_px × size_px pixels, with as many more patches and windows."""
    return replace(config, image=replace(config.image, size_px=size_px))


def grown(state: State, config: PointingConfig) -> State:
    """Weights of a smaller model, as trained, for the frames of `config`; patches keep their size in pixels.

    Position embeddings are interpolated between their neighbours: an object at the same share of the frame is found
    at the same place, and looks as a larger one did before. All other tensors are those of `state`.

    Args:
        state: weights of model and reading heads, as a stage of training leaves them.
        config: the larger model.
    """
    places = state[PLACES]
    side = round((len(places) - 1) ** 0.5)
    square = places[1:].unflatten(0, (side, side)).permute(2, 0, 1)[None]
    size = (config.image.grid, config.image.grid)
    larger = functional.interpolate(square, size=size, mode="bicubic", align_corners=False)[0]
    new = {PLACES: torch.cat([places[:1], larger.flatten(1).T])}
    for name in SIDES:
        line = functional.interpolate(state[name].T[None], size=config.image.window_grid, mode="linear")
        new[name] = line[0].T.contiguous()
    return state | new
