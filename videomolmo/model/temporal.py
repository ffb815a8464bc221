"""The temporal module: what the past frames add to the current frame's features, window by window."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from videomolmo.errors import BadInput
from videomolmo.model.config import VideoMolmoConfig
from videomolmo.model.vision import MultiHeadAttention


def to_windows(
    features: Float[Tensor, "batch crops patches dim"], grid: int
) -> Float[Tensor, "batch crops windows 4 dim"]:
    """Cut each crop's square of patches into non-overlapping 2x2 windows. Source: paper, section on module M.

    Example:
        >>> to_windows(torch.arange(16.0).reshape(1, 1, 16, 1), grid=4)[0, 0, 1, :, 0].tolist()
        [2.0, 3.0, 6.0, 7.0]
    """
    return rearrange(
        features,
        "batch crops (rows down cols right) dim -> batch crops (rows cols) (down right) dim",
        rows=grid // 2,
        down=2,
        right=2,
    )


def mean_context(past: Float[Tensor, "batch past crops patches dim"]) -> Float[Tensor, "batch crops patches dim"]:
    """f̄, the mean over the past frames. Source: paper, section 3 (temporal context)."""
    return past.mean(dim=1)


class TemporalModule(nn.Module):
    """Enrich the current frame's windows with its past. One class, five kinds:

    none                 the current windows as they are (single frame)
    addition             current + mean of the past
    concatenation        the window's 4 current and 4 mean vectors side by side; pooling then sees 8
    cross_attention      current + attention of the 4 current to the 4 mean vectors: f̂ = f + M(f, f̄)
    cross_attention_all  current + attention of the 4 current to the 4·l vectors of all past frames

    Source: paper, eq. 1, and its ablation of the temporal module. No biases, no norm, no positions.
    Differs: the output starts at zero by default, which keeps a single-frame checkpoint's answers at the start;
    `cross_attention_all` is ours and asks whether the mean loses anything.
    """

    def __init__(self, config: VideoMolmoConfig) -> None:
        super().__init__()
        self.kind, self.grid = config.temporal, config.image.grid
        self.attention: MultiHeadAttention | None = None
        if self.kind.startswith("cross_attention"):
            dim = config.vision.feature_dim
            self.attention = MultiHeadAttention(dim, *config.attention_shape, dim, bias=False, windowed=True)
            self.reset_parameters(config.init_output_zero)

    def reset_parameters(self, output_zero: bool) -> None:
        """Xavier-normal weights (paper); the output projection at zero where asked."""
        if self.attention is not None:
            for layer in (self.attention.wq, self.attention.wk, self.attention.wv, self.attention.wo):
                nn.init.xavier_normal_(layer.weight)
            if output_zero:
                nn.init.zeros_(self.attention.wo.weight)

    def forward(
        self,
        features: Float[Tensor, "batch crops patches dim"],
        past: Float[Tensor, "batch past crops patches dim"] | None,
    ) -> Float[Tensor, "batch crops windows window dim"]:
        """Enriched windows; `window` is 4, or 8 with concatenation (the 4 current ones first).

        Args:
            features: the current frame.
            past: the past frames, oldest first; not needed by kind "none".

        Raises:
            BadInput: the past is missing or cut into another number of crops than the current frame.
        """
        current = to_windows(features, self.grid)
        if self.kind == "none":
            return current
        check_past(features, past, self.kind)
        if self.kind == "addition":
            return current + to_windows(mean_context(past), self.grid)
        if self.kind == "concatenation":
            return torch.cat([current, to_windows(mean_context(past), self.grid)], dim=3)
        batch, crops = features.shape[:2]
        added = self.attention(_flat(current), _flat(self.keys(past)))
        return current + rearrange(
            added, "(batch crops windows) window dim -> batch crops windows window dim", batch=batch, crops=crops
        )

    def keys(
        self, past: Float[Tensor, "batch past crops patches dim"]
    ) -> Float[Tensor, "batch crops windows keys dim"]:
        """The vectors that a window attends to: 4 of the mean, or 4·l of all past frames (oldest first)."""
        if self.kind == "cross_attention":
            return to_windows(mean_context(past), self.grid)
        frames = [to_windows(frame, self.grid) for frame in past.unbind(1)]
        return torch.cat(frames, dim=3)

    def weights(
        self,
        features: Float[Tensor, "batch crops patches dim"],
        past: Float[Tensor, "batch past crops patches dim"],
    ) -> Float[Tensor, "batch crops windows heads 4 keys"]:
        """Where each window looks in its past: the attention weights, for the inspector."""
        if self.attention is None:
            raise BadInput(f"temporal={self.kind!r} has no attention, expected cross_attention or cross_attention_all")
        check_past(features, past, self.kind)
        weights = self.attention.weights(_flat(to_windows(features, self.grid)), _flat(self.keys(past)))
        batch, crops = features.shape[:2]
        return rearrange(weights, "(batch crops windows) ... -> batch crops windows ...", batch=batch, crops=crops)


def _flat(windows: Float[Tensor, "batch crops windows window dim"]) -> Float[Tensor, "problems window dim"]:
    return rearrange(windows, "batch crops windows window dim -> (batch crops windows) window dim")


def check_past(features: Tensor, past: Tensor | None, kind: str) -> None:
    """BadInput unless the past has the current frame's batch, crops and patches."""
    if past is None:
        raise BadInput(f"past frames are missing, expected them with temporal={kind!r}; pass black frames at the start")
    wanted = (features.shape[0], "past", *features.shape[1:])
    if past.shape[0] != wanted[0] or past.shape[2:] != features.shape[1:] or past.shape[1] < 1:
        raise BadInput(
            f"past features have shape {tuple(past.shape)}, expected {wanted} like the current frame; "
            "give past frames the current frame's size"
        )
