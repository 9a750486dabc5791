"""Binary cross-entropy over positions (SASRec, ICDM 2018; IDvs.MoRec, SIGIR 2023; NineRec)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_morec.objectives.base import OBJECTIVES, Objective, Positions


@OBJECTIVES.register("bce")
class BCE(Objective):
    """``softplus(-h_t . e(pos_t)) + softplus(h_t . e(neg_t))`` at every position t.

    As published: one uniform negative per position, the terms of positives and of negatives are
    each averaged over positions and the two means added. With several negatives those of a position
    are averaged, so that positives and negatives keep their weights.

    ``bpr`` compares the two scores of a pair instead; ``in_batch`` needs no further items.
    """

    published_reduction = "mean"

    def __init__(self, negatives: int = 1, reduction: str | None = None):
        super().__init__(reduction)
        self.negatives = negatives

    @classmethod
    def from_config(cls, config: Any) -> BCE:
        return cls(config["negatives"], config["reduction"])

    def terms(
        self, h: Tensor, positions: Positions, vectors: Tensor, batch: dict[str, Any]
    ) -> Tensor:
        positive = (h * vectors[positions.label]).sum(-1)  # [M]
        negative = torch.einsum("md,mkd->mk", h, vectors[positions.negatives])  # [M, K]
        return F.softplus(-positive) + F.softplus(negative).mean(-1)
