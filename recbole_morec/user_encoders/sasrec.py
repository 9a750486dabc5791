"""SASRec (Kang & McAuley, ICDM 2018), as PixelRec (SDM 2024) runs it on item vectors.

``x_t = Dropout(LN(e_t + p_t))``, then n post-LN blocks of causal multi-head self-attention and a
position-wise feed-forward network. The position index counts slots from the left edge, so that the
newest item always stands at position L - 1.

Differences from the authors' code: masked keys get the lowest finite float instead of -1e9 (equal
after the softmax); slots at padding hold zeros instead of an encoded blank image (never read by a
real slot).
"""

from __future__ import annotations

from typing import Any

import torch
from recbole.model.layers import TransformerEncoder
from torch import Tensor, nn

from recbole_morec.errors import ConfigError
from recbole_morec.user_encoders.base import USER_ENCODERS, History, UserEncoder


@USER_ENCODERS.register("SASRec")
class SASRec(UserEncoder):
    """Causal transformer over item vectors.

    Args:
        dim: d, size of item vectors and states.
        max_length: L, number of slots.
        n_layers, n_heads, inner_size, hidden_dropout_prob, attn_dropout_prob, hidden_act,
            layer_norm_eps: as in RecBole's ``TransformerEncoder``.
        initializer_range: standard deviation of the normal that linear and position weights are
            drawn from; biases start at 0.

    Raises:
        ConfigError: ``dim`` is not a multiple of ``n_heads``.
    """

    def __init__(
        self,
        dim: int,
        max_length: int,
        *,
        n_layers: int = 2,
        n_heads: int = 2,
        inner_size: int | None = None,
        hidden_dropout_prob: float = 0.1,
        attn_dropout_prob: float = 0.1,
        hidden_act: str = "gelu",
        layer_norm_eps: float = 1e-12,
        initializer_range: float = 0.02,
    ):
        super().__init__()
        if dim % n_heads:
            raise ConfigError(
                f"embedding_size={dim} cannot be split over n_heads={n_heads} attention heads; "
                f"choose a multiple of {n_heads}."
            )
        self.initializer_range = initializer_range
        self.positions = nn.Embedding(max_length, dim)
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
        self.apply(self._init_weights)

    @classmethod
    def from_config(cls, config: Any) -> SASRec:
        return cls(
            config["embedding_size"],
            config["MAX_ITEM_LIST_LENGTH"],
            n_layers=config["n_layers"],
            n_heads=config["n_heads"],
            inner_size=config["inner_size"],
            hidden_dropout_prob=config["hidden_dropout_prob"],
            attn_dropout_prob=config["attn_dropout_prob"],
            hidden_act=config["hidden_act"],
            layer_norm_eps=config["layer_norm_eps"],
            initializer_range=config["initializer_range"],
        )

    def forward(self, history: History) -> Tensor:
        length = history.vectors.shape[1]
        x = self.dropout(self.norm(history.vectors + self.positions.weight[:length]))  # [B, L, d]
        states = self.layers(x, self._attention_bias(history.mask, x.dtype))
        return states[-1]

    @staticmethod
    def _attention_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
        """Additive bias ``[B, 1, L, L]``: 0 where slot i may read slot j, else the lowest float."""
        length = mask.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
        allowed = causal & mask[:, None, None, :]
        bias = torch.zeros(allowed.shape, dtype=dtype, device=mask.device)
        # A slot before the first item may read nothing; finite values keep its softmax defined.
        return bias.masked_fill(~allowed, torch.finfo(dtype).min)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
