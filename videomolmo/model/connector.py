"""The connector: each window of patch features becomes one token of the language model."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from videomolmo.model.attention import MultiHeadAttention
from videomolmo.model.config import PointingConfig

CURRENT = 4  # patches of the current frame in a window; they come first


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
    """A learned row and column vector for every window of a crop. Differs: ours; off in the published model."""

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        self.row = nn.Parameter(torch.randn(side, width) * 0.02)
        self.column = nn.Parameter(torch.randn(side, width) * 0.02)

    def forward(self, tokens: Float[Tensor, "batch crops windows width"]) -> Float[Tensor, "batch crops windows width"]:
        """Tokens with their place in the crop added."""
        places = self.row[:, None] + self.column[None]
        return tokens + rearrange(places, "rows cols width -> (rows cols) width")


class Connector(nn.Module):
    """Pool windows by attention from their mean, then project.

    Source: published model (`attention-meanq`). Differs: LayerNorms around the projector and window positions are
    options of ours that help a small model train; both are off in published sizes.
    """

    def __init__(self, config: PointingConfig) -> None:
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
