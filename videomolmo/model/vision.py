"""Vision tower: pixels of patches become patch features (CLIP-style transformer)."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from videomolmo.model.config import ImageConfig, VisionConfig


class MultiHeadAttention(nn.Module):
    """Attend from `query` to `context`: one out vector for each query vector, no mask.

    Args:
        dim: width of query and context.
        heads, head_dim: inner width is their product.
        out_dim: width of the result.
        bias: whether the four projections have biases.
        windowed: many tiny problems (2x2 windows); computed by plain products, because fused kernels limit the number
            of problems and are slow at this size.
    """

    def __init__(self, dim: int, heads: int, head_dim: int, out_dim: int, bias: bool, windowed: bool) -> None:
        super().__init__()
        self.heads, self.windowed = heads, windowed
        self.wq = nn.Linear(dim, heads * head_dim, bias)
        self.wk = nn.Linear(dim, heads * head_dim, bias)
        self.wv = nn.Linear(dim, heads * head_dim, bias)
        self.wo = nn.Linear(heads * head_dim, out_dim, bias)

    def forward(
        self, query: Float[Tensor, "problems queries dim"], context: Float[Tensor, "problems keys dim"]
    ) -> Float[Tensor, "problems queries out"]:
        """Scaled dot-product attention over the context vectors of each problem."""
        q, k, v = (self._split(*pair) for pair in ((self.wq, query), (self.wk, context), (self.wv, context)))
        plain = self.windowed or (q.device.type == "cpu" and q.dtype == torch.bfloat16)  # fused bf16 is slow on CPU
        out = attention_weights(q, k) @ v if plain else functional.scaled_dot_product_attention(q, k, v)
        return self.wo(rearrange(out, "problems heads queries dim -> problems queries (heads dim)"))

    def weights(
        self, query: Float[Tensor, "problems queries dim"], context: Float[Tensor, "problems keys dim"]
    ) -> Float[Tensor, "problems heads queries keys"]:
        """The attention weights alone, for inspection."""
        return attention_weights(self._split(self.wq, query), self._split(self.wk, context))

    def _split(self, project: nn.Linear, x: Tensor) -> Float[Tensor, "problems heads tokens head_dim"]:
        return rearrange(project(x), "problems tokens (heads dim) -> problems heads tokens dim", heads=self.heads)


def attention_weights(
    q: Float[Tensor, "problems heads queries dim"], k: Float[Tensor, "problems heads keys dim"]
) -> Float[Tensor, "problems heads queries keys"]:
    """softmax(q k / sqrt(dim)), the softmax in float32 where the inputs are half precision."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return torch.softmax(scores.float(), dim=-1).to(q.dtype)


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x), the activation of CLIP."""
    return x * torch.sigmoid(1.702 * x)


class ResidualConv(nn.Module):
    """Two 3x3 convolutions added to their input, each after a norm and GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [_norm(width), nn.GELU(), nn.Conv2d(width, width, 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Float[Tensor, "crops width rows cols"]) -> Float[Tensor, "crops width rows cols"]:
        """x plus what the convolutions see in it."""
        return x + self.layers(x)


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(count for count in (8, 4, 2, 1) if width % count == 0), width)


def stem_layers(patch_px: int, width: int) -> list[nn.Module]:
    """Stride-2 3x3 convolutions from a picture to one vector for each patch, two residual blocks before the last."""
    depth = patch_px.bit_length() - 1
    widths = [3] + [width >> (depth - 1 - level) for level in range(depth)]
    layers: list[nn.Module] = []
    for level in range(depth):
        if level and level == depth - 1:
            layers += [ResidualConv(widths[level]), ResidualConv(widths[level])]
        if level:
            layers += [_norm(widths[level]), nn.GELU()]
        layers.append(nn.Conv2d(widths[level], widths[level + 1], 3, stride=2, padding=1))
    return layers


class ConvStem(nn.Module):
    """Patch vectors from `stem_layers`: small shapes need them.

    Differs: ours, for the nano model, which learns shapes faster from it; the published stem is one linear map.
    """

    def __init__(self, patch_px: int, width: int) -> None:
        super().__init__()
        self.patch_px = patch_px
        self.layers = nn.Sequential(*stem_layers(patch_px, width))

    def forward(self, pixels: Float[Tensor, "crops patches pixel"]) -> Float[Tensor, "crops patches width"]:
        """Undo the patch layout, convolve, and read one vector per patch."""
        grid = int(pixels.shape[1] ** 0.5)
        image = rearrange(
            pixels,
            "crops (rows cols) (patch_rows patch_cols rgb) -> crops rgb (rows patch_rows) (cols patch_cols)",
            rows=grid,
            patch_rows=self.patch_px,
            rgb=3,
        )
        return rearrange(self.layers(image), "crops width rows cols -> crops (rows cols) width")


class VisionBlock(nn.Module):
    """Pre-norm transformer block with quick GELU. Source: CLIP; published model."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width = config.width
        self.attention_norm = nn.LayerNorm(width, config.norm_eps)
        self.attention = MultiHeadAttention(
            width, config.heads, width // config.heads, width, bias=True, windowed=False
        )
        self.mlp_norm = nn.LayerNorm(width, config.norm_eps)
        self.up = nn.Linear(width, config.mlp)
        self.down = nn.Linear(config.mlp, width)

    def forward(self, x: Float[Tensor, "crops tokens width"]) -> Float[Tensor, "crops tokens width"]:
        """Attention and MLP, each added to its input."""
        normed = self.attention_norm(x)
        x = x + self.attention(normed, normed)
        return x + self.down(quick_gelu(self.up(self.mlp_norm(x))))


class VisionTower(nn.Module):
    """CLIP-style ViT that returns the concatenated outputs of selected blocks. Source: published model.

    Blocks after the last selected one hold weights of the published file but are never computed.
    """

    def __init__(self, config: VisionConfig, image: ImageConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        if config.stem == "conv":
            self.stem: nn.Module = ConvStem(image.patch_px, width)
        else:
            self.stem = nn.Linear(image.patch_values, width, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width) * width**-0.5)
        self.positional_embedding = nn.Parameter(torch.randn(image.patches + 1, width) * width**-0.5)
        self.pre_norm = nn.LayerNorm(width, config.norm_eps)
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.layers))

    def forward(self, pixels: Float[Tensor, "batch crops patches pixel"]) -> Float[Tensor, "batch crops patches dim"]:
        """Features of every patch; crops that are collation padding (all exactly -1) give zeros."""
        batch = pixels.shape[0]
        real = (pixels != -1).flatten(2).any(-1)  # batch crops
        flat = rearrange(pixels, "batch crops patches pixel -> (batch crops) patches pixel")
        features = torch.cat(self.selected_hidden(flat), dim=-1)[:, 1:]  # without the class token
        features = rearrange(features, "(batch crops) patches dim -> batch crops patches dim", batch=batch)
        return features * real[:, :, None, None].to(features.dtype)

    def selected_hidden(
        self, pixels: Float[Tensor, "crops patches pixel"]
    ) -> list[Float[Tensor, "crops tokens width"]]:
        """Outputs of the selected blocks, class token first, in the configured order."""
        x = self.stem(pixels.to(self.class_embedding.dtype))
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1).to(x.dtype), x], dim=1) + self.positional_embedding
        x = self.pre_norm(x)
        outputs = {}
        for index, block in enumerate(self.blocks[: max(self.config.selected) + 1]):
            x = block(x)
            outputs[index] = x
        return [outputs[index] for index in self.config.selected]
