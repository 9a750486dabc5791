"""Attention over the tokens of two encoders: the blocks of co-attention and merged attention.

LXMERT's layers (Tan and Bansal, 2019), post-LayerNorm as in BERT: ``x + Dropout(W a)`` and
``x + Dropout(W_2 GELU(W_1 x))``, each followed by a LayerNorm.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_EPS = 1e-12
_MASKED = -1e4  # not -inf: a text without any token attends to all of its places alike


class Attention(nn.Module):
    """``LN(x + Dropout(W_o softmax(Q K^T / sqrt(d / heads)) V))``, all four maps with biases.

    Args:
        dim: size ``d`` of a token.
        heads: attention heads; they divide ``dim``.
        dropout: rate, of the attention weights too.
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, _EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """Tokens ``[n, T, d]`` read tokens ``[n, S, d]`` where ``mask`` ``[n, S]`` is True."""
        bias = torch.zeros(mask.shape, dtype=x.dtype, device=x.device)
        bias = bias.masked_fill(~mask, _MASKED)[:, None, None]  # [n, 1, 1, S]
        read = F.scaled_dot_product_attention(
            self._split(self.query(x)),
            self._split(self.key(context)),
            self._split(self.value(context)),
            attn_mask=bias,
            dropout_p=self.dropout.p if self.training else 0.0,
        )  # [n, heads, T, d / heads]
        return self.norm(x + self.dropout(self.output(read.transpose(1, 2).flatten(2))))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """``LN(x + Dropout(W_2 GELU(W_1 x)))``, ``W_1`` to ``inner`` numbers."""

    def __init__(self, dim: int, inner: int, dropout: float = 0.0):
        super().__init__()
        self.up = nn.Linear(dim, inner)
        self.down = nn.Linear(inner, dim)
        self.norm = nn.LayerNorm(dim, _EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., d]`` -> ``[..., d]``."""
        return self.norm(x + self.dropout(self.down(F.gelu(self.up(x)))))


class SelfAttentionBlock(nn.Module):
    """Attention of tokens to each other, then the feed-forward layer."""

    def __init__(self, dim: int, heads: int, inner: int, dropout: float = 0.0):
        super().__init__()
        self.attention = Attention(dim, heads, dropout)
        self.feed_forward = FeedForward(dim, inner, dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``[n, T, d]`` and its bool mask ``[n, T]`` -> ``[n, T, d]``."""
        return self.feed_forward(self.attention(x, x, mask))


class CoAttentionBlock(nn.Module):
    """Each side reads the other, then itself, then its feed-forward layer.

    Both directions share the weights of the cross-attention, and both read the tokens that came in.
    """

    def __init__(self, dim: int, heads: int, inner: int, dropout: float = 0.0):
        super().__init__()
        self.cross = Attention(dim, heads, dropout)
        self.first = SelfAttentionBlock(dim, heads, inner, dropout)
        self.second = SelfAttentionBlock(dim, heads, inner, dropout)

    def forward(
        self, x: Tensor, y: Tensor, x_mask: Tensor, y_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """``[n, T, d]`` and ``[n, S, d]`` with their masks -> the same shapes."""
        read_x, read_y = self.cross(x, y, y_mask), self.cross(y, x, x_mask)
        return self.first(read_x, x_mask), self.second(read_y, y_mask)
