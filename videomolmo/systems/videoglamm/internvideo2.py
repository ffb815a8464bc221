"""InternVideo2, the encoder of short chunks of frames: joint attention over all patches of a chunk.

Source: InternVideo2-Stage2-1B, 4 frames of 224 pixels, as VideoGLaMM runs it: frozen, without its last block and final
norm. Names of the parts are those of the published weights.
Differs: no stochastic depth, which the released training leaves on inside this frozen encoder.
"""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from videomolmo.model.vision import stem_layers
from videomolmo.systems.videoglamm.config import PretrainingConfig, VideoConfig

EPS = 1e-6


class VideoTower(nn.Module):
    """The encoder, and beside it the projection to texts of its pretraining where a file holds it."""

    def __init__(self, config: VideoConfig) -> None:
        super().__init__()
        self.vision_encoder = InternVideo2(config)
        heads = config.pretraining
        if heads is not None:
            self.vision_proj = nn.Linear(heads.clip_width, heads.text_width)

    @torch.no_grad()
    def forward(
        self, frames: Float[Tensor, "frames 3 height width"]
    ) -> Float[Tensor, "chunks chunk_frames patches width"]:
        """Patch features of frames, whose number is a multiple of a chunk's; chunks do not see each other."""
        size = self.vision_encoder.config.frames
        chunks = rearrange(
            frames, "(chunks frames) colours height width -> chunks colours frames height width", frames=size
        )
        return rearrange(
            self.vision_encoder(chunks), "chunks (frames patches) width -> chunks frames patches width", frames=size
        )


class InternVideo2(nn.Module):
    """Patches of a chunk with a class token and positions, through all blocks but the last."""

    def __init__(self, config: VideoConfig) -> None:
        super().__init__()
        self.config = config
        width, grid, frames = config.width, config.grid, config.frames
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(sincos_positions(width, grid, frames)[None])
        self.patch_embed = PatchEmbedding(config)
        run = config.layers if config.pretraining is not None else config.layers - 1
        self.blocks = nn.ModuleList(Block(config) for _ in range(run))
        if config.pretraining is not None:
            self._add_heads(config.pretraining, width, grid, frames)

    def _add_heads(self, heads: PretrainingConfig, width: int, grid: int, frames: int) -> None:
        """What published weights hold and nothing here runs, so that they load strictly and are saved whole."""
        image, video = sincos_positions(width, grid, 1), sincos_positions(width, grid, frames)
        self.img_pos_embed, self.clip_img_pos_embed = nn.Parameter(image[None]), nn.Parameter(image[None].clone())
        self.clip_pos_embed = nn.Parameter(video[None])
        self.clip_projector = AttentionPooling(width, heads.clip_width)
        self.clip_decoder = nn.ModuleList(Decoder(width, heads.teacher_width) for _ in range(heads.layers))
        self.final_clip_decoder = Decoder(heads.clip_width, heads.final_width)

    def forward(self, chunks: Float[Tensor, "chunks 3 frames height width"]) -> Float[Tensor, "chunks tokens width"]:
        """Features of all patches, ordered by frame, row and column; the class token is left out."""
        patches = self.patch_embed(chunks.to(self.cls_token.dtype))
        x = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches.flatten(1, 2)], dim=1) + self.pos_embed
        for block in self.blocks[: self.config.layers - 1]:
            x = block(x)
        return x[:, 1:]


class PatchEmbedding(nn.Module):
    """One vector for each patch of each frame."""

    def __init__(self, config: VideoConfig) -> None:
        super().__init__()
        kernel = (1, config.patch_px, config.patch_px)
        if config.stem == "conv":
            self.proj = FramewiseStem(*stem_layers(config.patch_px, config.width))
        else:
            self.proj = nn.Conv3d(3, config.width, kernel_size=kernel, stride=kernel)

    def forward(
        self, chunks: Float[Tensor, "chunks 3 frames height width"]
    ) -> Float[Tensor, "chunks frames patches width"]:
        return rearrange(self.proj(chunks), "chunks width frames rows columns -> chunks frames (rows columns) width")


class FramewiseStem(nn.Sequential):
    """Nano's convolutions, on every frame alone."""

    def forward(self, chunks: Float[Tensor, "chunks 3 frames height width"]) -> Tensor:
        frames = super().forward(rearrange(chunks, "chunks colours frames h w -> (chunks frames) colours h w"))
        return rearrange(frames, "(chunks frames) width h w -> chunks width frames h w", frames=chunks.shape[2])


class Block(nn.Module):
    """Attention and MLP, each behind a norm and scaled per channel."""

    def __init__(self, config: VideoConfig) -> None:
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(config.width), RMSNorm(config.width)
        self.attn = Attention(config.width, config.heads)
        self.mlp = MLP(config.width, config.ff)
        self.ls1, self.ls2 = LayerScale(config.width), LayerScale(config.width)

    def forward(self, x: Float[Tensor, "chunks tokens width"]) -> Float[Tensor, "chunks tokens width"]:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class Attention(nn.Module):
    """Every token of a chunk sees every other. Queries and keys are normed over all heads together."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_norm, self.k_norm = RMSNorm(width), RMSNorm(width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "chunks tokens width"]) -> Float[Tensor, "chunks tokens width"]:
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        split = [
            rearrange(part, "chunks tokens (heads dim) -> chunks heads tokens dim", heads=self.heads)
            for part in (self.q_norm(query), self.k_norm(key), value)
        ]
        seen = functional.scaled_dot_product_attention(*split)
        return self.proj(rearrange(seen, "chunks heads tokens dim -> chunks tokens (heads dim)"))


class MLP(nn.Module):
    """Two layers with a GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "chunks tokens width"]) -> Float[Tensor, "chunks tokens width"]:
        return self.fc2(functional.gelu(self.fc1(x)))


class RMSNorm(nn.Module):
    """Vectors at unit mean square, which is taken in float32, times a learned weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
        exact = x.float()
        return self.weight * (exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + EPS)).to(x.dtype)


class LayerScale(nn.Module):
    """A learned factor for each channel; the product is taken in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width) * 1e-5)

    def forward(self, x: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
        return (x.float() * self.gamma.float()).to(x.dtype)


class AttentionPooling(nn.Module):
    """Weights of a pretraining head: all tokens in one vector. Not run."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.norm1_q, self.norm1_k, self.norm1_v = (nn.LayerNorm(width) for _ in "qkv")
        self.cross_attn = nn.Module()
        for name in "qkv":
            setattr(self.cross_attn, name, nn.Linear(width, width, bias=False))
            setattr(self.cross_attn, f"{name}_bias", nn.Parameter(torch.zeros(width)))
        self.cross_attn.proj = nn.Linear(width, out)


class Decoder(nn.Module):
    """Weights of a pretraining head: features as the teacher's. Not run."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.head, self.norm = nn.Linear(width, out), nn.LayerNorm(out)


def sincos_positions(width: int, grid: int, frames: int) -> Float[Tensor, "tokens width"]:
    """A fresh position table: zero for the class token, then a code of frame, column and row for each patch.

    The first quarter of the channels codes the frame, the next 3/8 the column and the last 3/8 the row.
    """
    time, space = width // 4, width // 4 * 3 // 2
    rows = _code(torch.arange(grid), space)[:, None].expand(grid, grid, -1)
    columns = _code(torch.arange(grid), space)[None].expand(grid, grid, -1)
    places = torch.cat([columns, rows], dim=-1).reshape(1, grid * grid, -1).expand(frames, -1, -1)
    times = _code(torch.arange(frames), time)[:, None].expand(-1, grid * grid, -1)
    table = torch.cat([times, places], dim=-1).flatten(0, 1)
    return functional.pad(table, (0, 0, 1, 0)).float()


def _code(positions: Tensor, channels: int) -> Float[Tensor, "positions channels"]:
    """Sines, then cosines, of positions at falling frequencies."""
    half = channels // 2
    angles = positions.double()[:, None] * 10000.0 ** -(torch.arange(half, dtype=torch.float64) / half)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def resized_positions(
    table: Float[Tensor, "1 stored_tokens width"], grid: int, frames: int, stored_frames: int
) -> Float[Tensor, "1 tokens width"]:
    """A stored position table for another grid or another number of frames; the class token's row stays as it is.

    Frames are interpolated linearly, then every frame's grid bicubically.

    Args:
        table: as stored.
        grid, frames: wanted.
        stored_frames: of the table.
    """
    first, rest = table[:, :1].float(), table[:, 1:].float()
    side = round((rest.shape[1] // stored_frames) ** 0.5)
    if frames != stored_frames:
        series = rearrange(rest, "1 (frames places) width -> places width frames", frames=stored_frames)
        series = functional.interpolate(series, size=frames, mode="linear", align_corners=False)
        rest = rearrange(series, "places width frames -> 1 (frames places) width")
    if grid != side:
        maps = rearrange(rest, "1 (frames rows columns) width -> frames width rows columns", rows=side, columns=side)
        maps = functional.interpolate(maps, size=(grid, grid), mode="bicubic", align_corners=False)
        rest = rearrange(maps, "frames width rows columns -> 1 (frames rows columns) width")
    return torch.cat([first, rest], dim=1).to(table.dtype)
