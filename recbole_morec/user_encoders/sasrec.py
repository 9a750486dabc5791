"""SASRec (Kang & McAuley, ICDM 2018), as PixelRec, IDvs.MoRec and NineRec run it on item vectors.

``x_t = Dropout(LN(e_t + p_t))``, then n post-LN blocks of causal multi-head self-attention and a
position-wise feed-forward network. The position index counts slots from the left edge, so that the
newest item always stands at position L - 1.

PixelRec: biases in the attention, GELU, eps 1e-12, weights from N(0, 0.02). IDvs.MoRec and NineRec:
no biases in the attention, ReLU, eps 1e-6, Xavier-normal weights (``attention_bias: False``,
``hidden_act: relu``, ``layer_norm_eps: 1e-6``, ``initializer: xavier_normal``).

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
        attention_bias: biases in the four projections of the attention.
        initializer: ``normal`` or ``xavier_normal``, of linear and position weights; biases start
            at 0.
        initializer_range: standard deviation of ``normal``.

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
        attention_bias: bool = True,
        initializer: str = "normal",
        initializer_range: float = 0.02,
    ):
        super().__init__()
        if dim % n_heads:
            raise ConfigError(
                f"embedding_size={dim} cannot be split over n_heads={n_heads} attention heads; "
                f"choose a multiple of {n_heads}."
            )
        self.initializer = initializer
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
        if not attention_bias:
            for layer in self.layers.layer:
                for name in ("query", "key", "value", "dense"):
                    setattr(layer.multi_head_attention, name, nn.Linear(dim, dim, bias=False))
        self.apply(self._init_weights)

    @classmethod
    def from_config(cls, config: Any, dataset: Any) -> SASRec:
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
            attention_bias=config["attention_bias"],
            initializer=config["initializer"],
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
            if self.initializer == "xavier_normal":
                nn.init.xavier_normal_(module.weight)
            else:
                nn.init.normal_(module.weight, std=self.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
