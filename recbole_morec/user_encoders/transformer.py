"""What SASRec and BERT4Rec share: item vectors and positions through post-LN transformer blocks.

``x_t = Dropout(LN(e_t + p_t))``, then n post-LN blocks of multi-head self-attention and a
position-wise feed-forward network. The position index counts slots from the left edge, so that the
newest item always stands in the last one.
"""

from __future__ import annotations

from typing import Any

import torch
from recbole.model.layers import TransformerEncoder
from torch import Tensor, nn

from recbole_morec.errors import ConfigError
from recbole_morec.user_encoders.base import UserEncoder

TRANSFORMER_SETTINGS = (
    "n_layers", "n_heads", "inner_size", "hidden_dropout_prob", "attn_dropout_prob", "hidden_act",
    "layer_norm_eps", "attention_bias", "initializer", "initializer_range",
)  # fmt: skip


def check_heads(dim: int, n_heads: int) -> None:
    """Raise ConfigError where vectors of ``dim`` cannot be split over the attention heads."""
    problems = heads_problems(dim, n_heads)
    if problems:
        raise ConfigError(problems)


def heads_problems(dim: int, heads: int, key: str = "n_heads") -> list[str]:
    """Say that vectors of ``dim`` cannot be split over the attention heads, where it is so."""
    if dim % heads == 0:
        return []
    return [
        f"embedding_size={dim} cannot be split over {key}={heads} attention heads; choose a "
        f"multiple of {heads}, or heads that divide {dim}."
    ]


class Transformer(UserEncoder):
    """Transformer over item vectors; subclasses say which slot reads which.

    Args:
        dim: d, size of item vectors and states.
        slots: rows of the position table.
        n_layers, n_heads, inner_size, hidden_dropout_prob, attn_dropout_prob, hidden_act,
            layer_norm_eps: as in RecBole's ``TransformerEncoder``.
        attention_bias: biases in the four projections of the attention.
        initializer: ``normal`` or ``xavier_normal``, of linear and position weights; biases start
            at 0.
        initializer_range: standard deviation of ``normal``.

    Raises:
        ConfigError: ``dim`` is not a multiple of ``n_heads``.
    """

    reads = frozenset(TRANSFORMER_SETTINGS)

    def __init__(
        self,
        dim: int,
        slots: int,
        *,
        n_layers: int = 2,
        n_heads: int = 2,
        inner_size: int | None = None,
        hidden_dropout_prob: float = 0.1,
        attn_dropout_prob: float = 0.1,
        hidden_act: str = "gelu",
        layer_norm_eps: float = 1e-12,
        attention_bias: bool = True,
        initializer: str = "normal",
        initializer_range: float = 0.02,
    ):
        super().__init__()
        check_heads(dim, n_heads)
        self.initializer = initializer
        self.initializer_range = initializer_range
        self.positions = nn.Embedding(slots, dim)
        self.norm = nn.LayerNorm(dim, eps=layer_norm_eps)
        self.dropout = nn.Dropout(hidden_dropout_prob)
        self.layers = TransformerEncoder(
            n_layers=n_layers,
            n_heads=n_heads,
            hidden_size=dim,
            inner_size=inner_size or 4 * dim,
            hidden_dropout_prob=hidden_dropout_prob,
            attn_dropout_prob=attn_dropout_prob,
            hidden_act=hidden_act,
            layer_norm_eps=layer_norm_eps,
        )
        if not attention_bias:
            for layer in self.layers.layer:
                for name in ("query", "key", "value", "dense"):
                    setattr(layer.multi_head_attention, name, nn.Linear(dim, dim, bias=False))
        self.apply(self._init_weights)

    @staticmethod
    def settings(config: Any) -> dict[str, Any]:
        """The arguments that are settings of the same name."""
        return {name: config[name] for name in TRANSFORMER_SETTINGS}

    def encode(self, vectors: Tensor, allowed: Tensor) -> Tensor:
        """Return states ``[B, S, d]``.

        Args:
            vectors: ``[B, S, d]``.
            allowed: bool ``[B, 1, S or 1, S]``, True where a slot may read another.
        """
        x = self.dropout(self.norm(vectors + self.positions.weight[: vectors.shape[1]]))
        bias = torch.zeros(allowed.shape, dtype=x.dtype, device=x.device)
        # A slot before the first item may read nothing; finite values keep its softmax defined.
        return self.layers(x, bias.masked_fill(~allowed, torch.finfo(x.dtype).min))[-1]

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            if self.initializer == "xavier_normal":
                nn.init.xavier_normal_(module.weight)
            else:
                nn.init.normal_(module.weight, std=self.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
