"""Multi-head attention with separate projections, shared by the vision tower, the temporal module and the pooling."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


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
