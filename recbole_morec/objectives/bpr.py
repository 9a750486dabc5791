"""Bayesian personalised ranking over positions (Rendle et al., UAI 2009; PixelRec, SDM 2024)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recbole_morec.objectives.base import OBJECTIVES, Objective, Positions


@OBJECTIVES.register("bpr")
class BPR(Objective):
    """``-log(sigmoid(h_t . e(pos_t) - h_t . e(neg_t)) + 1e-8)`` at every position t.

    As published: one uniform negative per position that is not in the window, terms summed over
    the positions of a window and averaged over windows. With several negatives the terms of a
    position are averaged over them.

    Use it to reproduce PixelRec's table; ``in_batch`` needs no further items and so about half the
    item encodings.
    """

    published_reduction = "sum"
    _EPSILON = 1e-8

    def __init__(self, negatives: int = 1, reduction: str | None = None):
        super().__init__(reduction)
        self.negatives = negatives

    @classmethod
    def from_config(cls, config: Any) -> BPR:
        return cls(config["negatives"], config["reduction"])

    def terms(
        self, h: Tensor, positions: Positions, vectors: Tensor, batch: dict[str, Any]
    ) -> Tensor:
        positive = (h * vectors[positions.label]).sum(-1, keepdim=True)  # [M, 1]
        negative = torch.einsum("md,mkd->mk", h, vectors[positions.negatives])  # [M, K]
        return -torch.log(torch.sigmoid(positive - negative) + self._EPSILON).mean(-1)
