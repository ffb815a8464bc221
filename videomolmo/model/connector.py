"""The connector: each window of patch features becomes one token of the language model."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from videomolmo.model.config import VideoMolmoConfig
from videomolmo.model.vision import MultiHeadAttention

CURRENT = 4  # patches of the current frame in a window; they come first


PERIODS = (2.0, 1.0, 0.5, 0.2, 0.1, 0.05)  # shares of the frame


def phases(places: Float[Tensor, "... axes"]) -> Float[Tensor, "... phases"]:
    """Sines and cosines of places (shares of the frame) at all `PERIODS`."""
    turns = 2 * torch.pi * places[..., None] / places.new_tensor(PERIODS)
    return torch.cat([turns.sin(), turns.cos()], dim=-1).flatten(-2)


class Projector(nn.Module):
    """SwiGLU MLP: down(silu(gate x) * up x). Source: paper, eq. 2; published model."""

    def __init__(self, dim: int, hidden: int, out_dim: int) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, hidden, bias=False)
        self.up = nn.Linear(dim, hidden, bias=False)
        self.down = nn.Linear(hidden, out_dim, bias=False)

    def forward(self, x: Float[Tensor, "... dim"]) -> Float[Tensor, "... out"]:
        """From pooled width to the language model's width."""
        return self.down(functional.silu(self.gate(x)) * self.up(x))


class WindowPositions(nn.Module):
    """Tokens with the place they speak of: row and column of their window, and where their object's centre lies.

    A window's token knows the way from the window to the centre of what it shows; centre and way make a place, which
    is added as sines and cosines. The digits of a coordinate are periodic functions of the place: without the code
    the second digit stayed at chance through the whole training.

    Differs: ours, for the nano model; the way is learnt from places alone, no gradient of the code flows into it.
    """

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        self.row = nn.Parameter(torch.randn(side, width) * 0.02)
        self.column = nn.Parameter(torch.randn(side, width) * 0.02)
        self.way = nn.Parameter(torch.zeros(2, width))
        self.code = nn.Parameter(torch.randn(width, 4 * len(PERIODS)) * 0.1)

    def places(self, tokens: Float[Tensor, "... windows width"]) -> Float[Tensor, "... windows 2"]:
        """Where each token's object has its centre: x and y as shares of the crop."""
        side = len(self.row)
        cells = torch.arange(side**2, device=tokens.device)
        centres = torch.stack([cells % side + 0.5, cells // side + 0.5], dim=1) / side
        return centres.to(tokens.dtype) + 0.1 * functional.linear(tokens, self.way)

    def forward(self, tokens: Float[Tensor, "... windows width"]) -> Float[Tensor, "... windows width"]:
        """Tokens with their window's place in the crop and their object's place added."""
        code = phases(self.places(tokens).detach())
        window = rearrange(self.row[:, None] + self.column[None], "rows cols width -> (rows cols) width")
        return tokens + window + functional.linear(code, self.code)


class Connector(nn.Module):
    """Pool windows by attention from their mean, then project.

    Source: published model (`attention-meanq`). Differs: LayerNorms around the projector and window positions are
    options of ours that help a small model train; both are off in published sizes.
    """

    def __init__(self, config: VideoMolmoConfig) -> None:
        super().__init__()
        vision, width = config.vision, config.language.width
        self.pooling = MultiHeadAttention(
            vision.feature_dim, vision.heads, vision.width // vision.heads, vision.width, bias=True, windowed=True
        )
        self.projector = Projector(vision.width, config.projector_dim, width)
        self.input_norm = nn.LayerNorm(vision.width) if config.connector_norm else nn.Identity()
        self.output_norm = nn.LayerNorm(width) if config.connector_norm else nn.Identity()
        self.positions = WindowPositions(config.image.window_grid, width) if config.window_positions else nn.Identity()

    def forward(
        self, windows: Float[Tensor, "batch crops windows window dim"]
    ) -> Float[Tensor, "batch crops windows width"]:
        """One language-model token for each window."""
        pooled = self.pool(windows)
        flat = pooled.flatten(0, 1)  # quantised layers take no more than three axes
        tokens = self.output_norm(self.projector(self.input_norm(flat)))
        return self.positions(tokens).unflatten(0, pooled.shape[:2])

    def pool(
        self, windows: Float[Tensor, "batch crops windows window dim"]
    ) -> Float[Tensor, "batch crops windows pooled"]:
        """One vector for each window: its mean over the current frame asks, all its vectors answer."""
        batch, crops = windows.shape[:2]
        flat = rearrange(windows, "batch crops windows window dim -> (batch crops windows) window dim")
        pooled = self.pooling(flat[:, :CURRENT].mean(dim=1, keepdim=True), flat)
        return rearrange(pooled, "(batch crops windows) 1 dim -> batch crops windows dim", batch=batch, crops=crops)
