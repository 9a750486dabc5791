"""VisRank (Kang et al., ICDM 2017), as PixelRec runs it: no training, similarity to the history.

``s(u, i)`` is the mean of the largest cosines of item i's features with those of the history's
items: of the ``visrank_top`` largest (``average_top_k``), the largest (``maximum``) or all
(``average``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_morec.models.base import MultimodalRecommender

_MOST_PAIRS = 1 << 24  # cosines that are held at once


class VisRank(MultimodalRecommender):
    """Cosine similarity to the items seen; see ``properties/model/VisRank.yaml``."""

    trains = False
    chooses = ()

    def __init__(self, config: Any, dataset: Any, load_weights: bool = True):
        super().__init__(config, dataset, load_weights)
        self.method = config["visrank_method"]
        self.top = config["visrank_top"]

    def encode_items(self, content: dict[str, Tensor]) -> Tensor:
        """Features of length 1, ``[n, D]``."""
        return F.normalize(super().encode_items(content), dim=1)

    def encode_users(self, vectors: Tensor, items: Tensor, user: Tensor) -> tuple[Tensor, Tensor]:
        """The history itself: features ``[B, L, D]`` and what of it is real ``[B, L]``."""
        return vectors, items > 0

    def score(self, users: tuple[Tensor, Tensor], items: Tensor) -> Tensor:
        vectors, real = users
        chunk = max(1, _MOST_PAIRS // max(real.numel(), 1))
        return torch.cat([self._score(vectors, real, part) for part in items.split(chunk)], 1)

    def _score(self, vectors: Tensor, real: Tensor, items: Tensor) -> Tensor:
        cosine = torch.einsum("bld,nd->bnl", vectors, items)
        count = real.sum(1).clamp_min(1)[:, None]
        if self.method == "average":
            return (cosine * real[:, None]).sum(2) / count
        top = 1 if self.method == "maximum" else min(self.top, real.shape[1])
        largest = cosine.masked_fill(~real[:, None], float("-inf")).topk(top, dim=2).values
        known = largest.isfinite()
        return largest.masked_fill(~known, 0.0).sum(2) / known.sum(2).clamp_min(1)

    def calculate_loss(self, batch: dict[str, Any]) -> Tensor:
        return torch.zeros(())
