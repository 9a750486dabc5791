"""Bayesian personalised ranking over positions (Rendle et al., UAI 2009; PixelRec, SDM 2024)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_morec.objectives.base import DRAWS, OBJECTIVES, Objective, Positions
from recbole_morec.objectives.chunks import scores


@OBJECTIVES.register("bpr")
class BPR(Objective):
    """``-log sigmoid(h_t . e(pos_t) - h_t . e(neg_t))`` at every position t, with an epsilon.

    The epsilon that published code guards the logarithm with stands in one of two places:

    ``inside``   ``-log(sigmoid(x) + epsilon)``: 1e-8 in PixelRec (SASRec, GRU4Rec, BERT4Rec, ...),
                 1e-6 in NineRec's copies of its image models.
    ``outside``  ``-(epsilon + log sigmoid(x))``: PixelRec's MF, SRGNN and LightGCN. It shifts the
                 loss and no gradient.

    Epsilon 0 is PixelRec's MOMF, computed stably.

    As published: one uniform negative per position that is not in the window, terms summed over the
    positions of a window and averaged over windows (``reduction``). With several negatives the
    terms of a position are averaged over them.

    When to use it: to reproduce PixelRec's table. It costs two item vectors per position;
    ``in_batch`` needs no further items and so about half the item encodings.

    Args:
        negatives: per position.
        epsilon: at least 0.
        place: ``inside`` or ``outside`` of the logarithm.
    """

    reads = DRAWS | {"bpr_epsilon", "bpr_epsilon_place"}
    published_reduction = "sum"
    published_negatives = 1

    def __init__(
        self,
        negatives: int | None = None,
        epsilon: float = 1e-8,
        place: Literal["inside", "outside"] = "inside",
        reduction: str | None = None,
    ):
        super().__init__(reduction)
        self.negatives = negatives or self.published_negatives
        self.epsilon = epsilon
        self.place = place

    @classmethod
    def from_config(cls, config: Any, dataset: Any) -> BPR:
        return cls(
            config["negatives"],
            config["bpr_epsilon"],
            config["bpr_epsilon_place"],
            config["reduction"],
        )

    def terms(
        self, h: Tensor, positions: Positions, vectors: Tensor, batch: dict[str, Any]
    ) -> Tensor:
        positive = (h * vectors[positions.label]).sum(-1, keepdim=True)  # [M, 1]
        return self.compare(positive, scores(h, vectors, positions.negatives))

    def compare(self, positive: Tensor, negative: Tensor) -> Tensor:
        """Terms ``[M]`` of the scores ``[M, 1]`` of targets and ``[M, K]`` of their negatives."""
        margin = positive - negative
        if self.place == "outside" or self.epsilon == 0:
            return -(F.logsigmoid(margin) + self.epsilon).mean(-1)
        return -torch.log(torch.sigmoid(margin) + self.epsilon).mean(-1)
