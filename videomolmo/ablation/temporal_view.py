"""Where the temporal attention looks: its weights laid over the past frames."""

from __future__ import annotations

import numpy as np
import torch
from einops import rearrange
from torch import nn

from videomolmo.ablation.temporal_data import SeenClips


@torch.inference_mode()
def attention_maps(both: nn.ModuleDict, clips: SeenClips, clip: int, context: int) -> np.ndarray:
    """How much each patch of each past frame is looked at, float (context, rows, columns); 1 everywhere is evenly.

    Mean over the heads and over the four patches of the window that looks. A window sees its own four patches of
    the past and no others: the map compares them with each other and with the same place at other times.

    Args:
        both: a trained cell of kind "cross_attention_all"; attention to the mean cannot tell the frames apart.
        clips: as the tower sees them.
        clip: number of the clip.
        context: number l of past frames.
    """
    batch = clips.batch(np.array([clip]), context)
    temporal = both["model"].temporal
    weights = temporal.weights(batch["features"].float(), batch["past"].float())[0, 0].mean((1, 2))  # windows keys
    return rearrange(
        weights * weights.shape[1],
        "(rows cols) (past down right) -> past (rows down) (cols right)",
        rows=temporal.grid // 2,
        down=2,
        right=2,
    ).numpy()


def overlays(frames: np.ndarray, maps: np.ndarray) -> list[np.ndarray]:
    """Past frames (context, height, width, 3), dimmed where little is looked at; the most in fifty patches is full."""
    px = frames.shape[1] // maps.shape[1]
    light = np.kron((maps / np.quantile(maps, 0.98)).clip(max=1), np.ones((1, px, px)))[..., None]
    return list((frames * (0.15 + 0.85 * light)).astype(np.uint8))
