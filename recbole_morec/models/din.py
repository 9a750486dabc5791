"""DIN (Zhou et al., KDD 2018), as PixelRec runs it on item vectors.

The items k of a history are weighed for each candidate q: ``a(q, k) = MLP([q; k; q - k; q * k]) /
sqrt(d)`` with sigmoids between the layers, not normalised over the history; ``s = q . sum_k a(q, k)
k``. Every item of a row but its first is a target, with the items before it as history. Training:
BPR.

As published for IDs, ``din_penalty`` (0.01 there) adds that many times the L2 norm of all item
vectors that the batch reads, divided by the number of rows.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from recbole_morec.models.base import MultimodalRecommender
from recbole_morec.objectives.bpr import BPR
from recbole_morec.user_encoders.tower import tower

_MOST_NUMBERS = 1 << 26  # of the attention's input that are held at once when scoring


class DIN(MultimodalRecommender):
    """Attention of the candidate over the history; see ``properties/model/DIN.yaml``.

    Attributes:
        objective: BPR; scores depend on the candidate, so no objective over states fits.
    """

    chooses = ()

    def __init__(self, config: Any, dataset: Any, load_weights: bool = True):
        super().__init__(config, dataset, load_weights)
        dim, layers = self.item_size, config["din_layers"]
        dropout = config["hidden_dropout_prob"]
        self.attention = tower(4 * dim, layers, "sigmoid", dropout=dropout)
        self.weight = nn.Linear(layers[-1], 1)
        nn.init.xavier_normal_(self.weight.weight)
        nn.init.zeros_(self.weight.bias)
        self.objective = BPR.from_config(config, dataset)
        self.negatives = self.objective.negatives
        self.penalty = config["din_penalty"]
        self.reads_whole_batch = bool(self.penalty)
        newest = config["window"] == "prefixes" or config["target_slots"] == "last"
        self.targets = "last" if newest else "next"

    def encode_users(self, vectors: Tensor, items: Tensor, user: Tensor) -> tuple[Tensor, Tensor]:
        """The history itself: vectors ``[B, L, d]`` and what of it is real ``[B, L]``."""
        return vectors, items > 0

    def score(self, users: tuple[Tensor, Tensor], items: Tensor) -> Tensor:
        vectors, mask = users
        chunk = max(1, _MOST_NUMBERS // max(4 * vectors.numel(), 1))
        parts = [
            self.interest(part.expand(len(vectors), -1, -1), vectors, mask)
            for part in items.split(chunk)
        ]
        return torch.cat(parts, dim=1)

    def interest(self, candidates: Tensor, vectors: Tensor, mask: Tensor) -> Tensor:
        """Scores ``[P, C]`` of candidates ``[P, C, d]`` after histories ``[P, L, d]``."""
        q = candidates[:, :, None].expand(-1, -1, vectors.shape[1], -1)
        k = vectors[:, None].expand_as(q)
        read = self.weight(self.attention(torch.cat([q, k, q - k, q * k], dim=-1)))[..., 0]
        share = read / math.sqrt(vectors.shape[-1]) * mask[:, None]  # [P, C, L]
        return ((share @ vectors) * candidates).sum(-1)

    def calculate_loss(self, batch: dict[str, Any]) -> Tensor:
        batch, table = self.encode_batch(batch)
        index, mask = batch["item_index"], batch["mask"]
        row, slot = torch.nonzero(batch["target"], as_tuple=True)
        before = torch.arange(index.shape[1] - 1, device=index.device) < slot[:, None]
        candidates = torch.cat([index[row, slot, None], batch["negative_index"][row, slot]], dim=1)
        found = self.interest(table[candidates], table[index[row, :-1]], mask[row, :-1] & before)
        loss = self.objective.compare(found[:, :1], found[:, 1:]).sum() / self._count(batch)
        if self.penalty:
            read = torch.cat([index[row, :-1], candidates], dim=1)
            loss = loss + self.penalty * table[read].norm() / max(int(batch["global_rows"]), 1)
        return loss + self.nothing() if len(index) == 0 else loss

    def _count(self, batch: dict[str, Any]) -> int:
        by_row = self.objective.reduction == "sum"
        return max(int(batch["global_rows" if by_row else "global_terms"]), 1)
