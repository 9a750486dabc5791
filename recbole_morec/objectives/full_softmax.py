"""Cross-entropy over the whole catalogue (RecBole's ``loss_type: CE``; Klenitskiy & Vasilev, RecSys
2023)."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from recbole_morec.objectives.base import OBJECTIVES, Objective, Positions
from recbole_morec.objectives.chunks import in_chunks


@OBJECTIVES.register("full_softmax")
class FullSoftmax(Objective):
    """``loss_t = -log( exp(s_t,y) / sum_j exp(s_t,j) )`` over all candidates j, with
    ``s_t,j = h_t . e_j / tau``.

    The vectors of all candidates are needed, and trained, in every step: with ``id``, ``features``
    and ``codes`` that is a table and a projection, with a frozen encoder the projection of pooled
    vectors that are encoded once. An encoder that trains would encode the catalogue in every step;
    ``catalogue_per_step`` allows it for small ones. With several processes each encodes all.

    When to use it: wherever it is allowed; there is no sampling to choose, and with SASRec on ids
    it is the strongest published loss. A step costs M x N logits, of which only a chunk is ever
    held (``chunks.py``). ``sampled_softmax`` estimates it from K items, ``in_batch`` from those of
    the batch.

    Args:
        temperature: tau.
    """

    reads = frozenset({"temperature", "reduction", "catalogue_per_step"})
    published_reduction = "mean"
    encodes = "catalogue"

    def __init__(self, temperature: float = 1.0, reduction: str | None = None):
        super().__init__(reduction)
        self.temperature = temperature

    @classmethod
    def from_config(cls, config: Any, dataset: Any) -> FullSoftmax:
        return cls(config["temperature"], config["reduction"])

    def terms(
        self, h: Tensor, positions: Positions, vectors: Tensor, batch: dict[str, Any]
    ) -> Tensor:
        return cross_entropy(h / self.temperature, vectors[1:], None, positions.label - 1)


def cross_entropy(h: Tensor, weight: Tensor, bias: Tensor | None, label: Tensor) -> Tensor:
    """``F.cross_entropy(F.linear(h, weight, bias), label)`` unreduced ``[M]``, in bounded memory.

    Args:
        h: ``[M, d]``.
        weight, bias: of the classes, ``[n, d]`` and ``[n]``.
        label: class of each row ``[M]``.
    """

    def terms(h: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(h, weight, bias), label, reduction="none")  # [m]

    return in_chunks(terms, (h, label), len(weight))
