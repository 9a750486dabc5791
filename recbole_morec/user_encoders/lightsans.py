"""LightSANs (Fan et al., SIGIR 2021) on item vectors, as PixelRec runs it.

Items attend to k latent interests of the history in place of its items; positions have an
attention of their own, which is added. All softmaxes run over the second-to-last axis, as in
RecBole (for the interests that is the slots; in both attentions it is the queries). There is no
padding mask: padding is read like items (the zero vector, or with ``pad_vector: encoded`` the
vector of a blank item, as published). One history has one state.
"""

from __future__ import annotations

from typing import Any

from recbole.model.layers import LightTransformerEncoder
from torch import Tensor, nn

from recbole_morec.user_encoders.base import USER_ENCODERS
from recbole_morec.user_encoders.prefixes import PrefixEncoder
from recbole_morec.user_encoders.transformer import TRANSFORMER_SETTINGS, check_heads


@USER_ENCODERS.register("LightSANs")
class LightSANs(PrefixEncoder):
    """Low-rank self-attention over item vectors.

    Args:
        dim: d, size of item vectors and states.
        max_length: L, rows of the position table.
        k_interests: latent interests of a history.
        n_layers, n_heads, inner_size, hidden_dropout_prob, attn_dropout_prob, hidden_act,
            layer_norm_eps: as in RecBole's ``LightTransformerEncoder``.
        initializer_range: standard deviation of linear and position weights.

    Raises:
        ConfigError: ``dim`` is not a multiple of ``n_heads``.
    """

    reads = frozenset({*TRANSFORMER_SETTINGS, "k_interests"}) - {"attention_bias", "initializer"}

    def __init__(
        self,
        dim: int,
        max_length: int,
        *,
        k_interests: int = 3,
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
        check_heads(dim, n_heads)
        self.positions = nn.Embedding(max_length, dim)
        self.norm = nn.LayerNorm(dim, eps=layer_norm_eps)
        self.dropout = nn.Dropout(hidden_dropout_prob)
        self.layers = LightTransformerEncoder(
            n_layers=n_layers,
            n_heads=n_heads,
            k_interests=k_interests,
            hidden_size=dim,
            seq_len=max_length,
            inner_size=inner_size or 4 * dim,
            hidden_dropout_prob=hidden_dropout_prob,
            attn_dropout_prob=attn_dropout_prob,
            hidden_act=hidden_act,
            layer_norm_eps=layer_norm_eps,
        )
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=initializer_range)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    @classmethod
    def from_config(cls, config: Any, dataset: Any) -> LightSANs:
        settings = {name: config[name] for name in sorted(cls.reads)}
        return cls(config["embedding_size"], config["MAX_ITEM_LIST_LENGTH"], **settings)

    def encode(self, vectors: Tensor, items: Tensor, mask: Tensor) -> Tensor:
        return self.states(vectors)[:, -1]

    def states(self, vectors: Tensor) -> Tensor:
        """States of all slots ``[P, L, d]``; only the last is a history's."""
        x = self.dropout(self.norm(vectors))
        return self.layers(x, self.positions.weight[: vectors.shape[1]])[-1]
