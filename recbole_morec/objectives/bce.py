"""Binary cross-entropy over positions (SASRec, ICDM 2018; IDvs.MoRec, SIGIR 2023; NineRec)."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor
from torch.nn import functional as F

from recbole_morec.objectives.base import DRAWS, OBJECTIVES, Objective, Positions
from recbole_morec.objectives.chunks import scores


@OBJECTIVES.register("bce")
class BCE(Objective):
    """Positives against 1, K drawn negatives against 0, at every position t.

    ``sides``: ``softplus(-h_t . e(pos_t)) + mean_k softplus(h_t . e(neg_t,k))``: the mean over
    positives and the mean over negatives are added (SASRec of IDvs.MoRec and NineRec, where
    K = 1). Positives and negatives weigh the same for every K.

    ``cells``: ``( softplus(-h_t . e(pos_t)) + sum_k softplus(h_t . e(neg_t,k)) ) / (1 + K)``: one
    mean over all cells (DSSM of IDvs.MoRec and NineRec). For K = 1 it is half of ``sides``.

    When to use it: to reproduce those tables. It costs 1 + K item vectors per position. ``gbce``
    mends the scores that it exaggerates for the price of one number; ``bpr`` compares the two
    scores of a pair instead; ``in_batch`` needs no further items and was better in every published
    comparison.

    Args:
        negatives: K.
        average: ``sides`` or ``cells``.
    """

    reads = DRAWS | {"bce_average"}
    published_reduction = "mean"
    published_negatives = 1

    def __init__(
        self,
        negatives: int | None = None,
        average: Literal["sides", "cells"] = "sides",
        reduction: str | None = None,
    ):
        super().__init__(reduction)
        self.negatives = negatives or self.published_negatives
        self.average = average

    @classmethod
    def from_config(cls, config: Any, dataset: Any) -> BCE:
        return cls(config["negatives"], config["bce_average"], config["reduction"])

    def terms(
        self, h: Tensor, positions: Positions, vectors: Tensor, batch: dict[str, Any]
    ) -> Tensor:
        positive = F.softplus(-(h * vectors[positions.label]).sum(-1))  # [M]
        negative = F.softplus(scores(h, vectors, positions.negatives))  # [M, K]
        if self.average == "sides":
            return positive + negative.mean(-1)
        return (positive + negative.sum(-1)) / (1 + negative.shape[1])
