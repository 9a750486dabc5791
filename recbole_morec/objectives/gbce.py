"""Generalised binary cross-entropy (gSASRec: Petrov & Macdonald, RecSys 2023)."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from recbole_morec.errors import ConfigError
from recbole_morec.objectives.base import DRAWS, OBJECTIVES, Objective, Positions
from recbole_morec.objectives.chunks import scores


@OBJECTIVES.register("gbce")
class GBCE(Objective):
    """BCE whose positive probability is raised to a power beta, at every position t.

    ``( -beta log sigmoid(h_t . e(pos_t)) - sum_k log(1 - sigmoid(h_t . e(neg_t,k))) ) / (K + 1)``
    with ``beta = alpha (t (1 - 1 / alpha) + 1 / alpha)`` and ``alpha = K / (|I| - 1)``, the share
    of the other items that is drawn.

    With few negatives ``bce`` sees too few of them and learns probabilities near 1 for all its top
    items, so that it cannot order them; beta takes that back. The calibration t is 0 for plain BCE
    (beta = 1) and 1 for probabilities that come out calibrated (beta = alpha); as published
    t = 0.75 and K = 256.

    When to use it: on ID, features or other cheap item encoders; it costs 1 + K item vectors per
    position. With t = 0 it is ``bce`` with ``bce_average: cells``. ``sampled_softmax`` shares its
    negatives over the batch and costs K vectors per step.

    Args:
        item_num: |I|, number of items that a negative is drawn from.
        negatives: K, at most |I| - 1.
        calibration: t, from 0 to 1.

    Raises:
        ConfigError: more negatives than other items.
    """

    reads = DRAWS | {"gbce_calibration"}
    published_reduction = "mean"
    published_negatives = 256

    def __init__(
        self,
        item_num: int,
        negatives: int | None = None,
        calibration: float = 0.75,
        reduction: str | None = None,
    ):
        super().__init__(reduction)
        self.negatives = negatives or self.published_negatives
        if self.negatives > item_num - 1:
            raise ConfigError(
                f"negatives={self.negatives}: objective=gbce draws a share of the "
                f"{item_num - 1} other items, so that there can be no more; use "
                "objective=full_softmax or fewer."
            )
        alpha = self.negatives / (item_num - 1)
        self.beta = alpha * (calibration * (1 - 1 / alpha) + 1 / alpha)

    @classmethod
    def from_config(cls, config: Any, dataset: Any) -> GBCE:
        return cls(
            int(dataset.candidates.sum()),
            config["negatives"],
            config["gbce_calibration"],
            config["reduction"],
        )

    def terms(
        self, h: Tensor, positions: Positions, vectors: Tensor, batch: dict[str, Any]
    ) -> Tensor:
        positive = F.softplus(-(h * vectors[positions.label]).sum(-1))  # [M]
        negative = F.softplus(scores(h, vectors, positions.negatives))  # [M, K]
        return (self.beta * positive + negative.sum(-1)) / (1 + negative.shape[1])
