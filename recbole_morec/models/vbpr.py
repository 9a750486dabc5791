"""VBPR (He & McAuley, AAAI 2016), as PixelRec runs it on stored features.

``s(u, i) = g_u . g_i + t_u . (E f_i) + b . f_i``: free vectors g of users and items, vectors t of
users that meet a linear map of the item's features f, and a visual bias. Half of ``embedding_size``
goes to each of the two products. Training: BPR over all pairs of user and training item.

With ``x_u = [g_u; t_u; 1]`` and ``x_i = [g_i; E f_i; b . f_i]`` that is a dot product, so every
objective and every item encoder fits. There is no bias of user, item or the whole, as published.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from recbole_morec.errors import ConfigError
from recbole_morec.models.base import MultimodalSequential
from recbole_morec.user_encoders import History, UserEncoder


class VBPR(MultimodalSequential):
    """Free and visual vectors of users and items; see ``properties/model/VBPR.yaml``."""

    def __init__(self, config: Any, dataset: Any, load_weights: bool = True):
        if config["embedding_size"] % 2:
            raise ConfigError(
                f"embedding_size={config['embedding_size']}: VBPR gives half of it to each part; "
                "choose an even number."
            )
        super().__init__(config, dataset, load_weights)
        half = config["embedding_size"] // 2
        self.item_embedding = nn.Embedding(dataset.item_num, half, padding_idx=0)
        self.visual = nn.Linear(self.item_encoder.dim, half, bias=False)
        self.visual_bias = nn.Linear(self.item_encoder.dim, 1, bias=False)
        for module in (self.item_embedding, self.visual, self.visual_bias):
            nn.init.xavier_normal_(module.weight)

    def build_user_encoder(self, config: Any, dataset: Any) -> UserEncoder:
        return _Users(dataset.user_num, config["embedding_size"])

    def rows_by_id(self) -> frozenset[str]:
        return super().rows_by_id() | {"item_embedding.weight"}

    def encode_items(self, content: dict[str, Tensor]) -> Tensor:
        """``[g_i; E f_i; b . f_i]``, ``[n, embedding_size + 1]``."""
        features = super().encode_items(content)
        free = self.item_embedding(content["items"])
        return torch.cat([free, self.visual(features), self.visual_bias(features)], dim=1)


class _Users(UserEncoder):
    """``[g_u; t_u; 1]`` of every user."""

    needs = frozenset({"user"})
    transferable = False
    targets = "each"

    def __init__(self, user_num: int, dim: int):
        super().__init__()
        self.embedding = nn.Embedding(user_num, dim)
        nn.init.xavier_normal_(self.embedding.weight)

    @classmethod
    def from_config(cls, config: Any, dataset: Any) -> _Users:
        return cls(dataset.user_num, config["embedding_size"])

    def forward(self, history: History) -> Tensor:
        own = self.embedding(history.user)  # [B, d]
        state = torch.cat([own, own.new_ones(len(own), 1)], dim=1)
        return state[:, None].expand(-1, history.mask.shape[1], -1)
