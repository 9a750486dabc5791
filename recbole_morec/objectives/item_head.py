"""Cross-entropy through a separate output layer (CESASRec in NineRec's code)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from recbole_morec.objectives.base import OBJECTIVES, Objective, Positions
from recbole_morec.objectives.full_softmax import cross_entropy


@OBJECTIVES.register("item_head")
class ItemHead(Objective):
    """``loss_t = -log softmax(W h_t + b)_y`` over all item ids; scores are dot products all the
    same.

    States learn to name the next item's id through ``W [N, d]`` and ``b [N]``, which are thrown
    away at inference: user states meet the item vectors only as what they read. As published the
    padding id is a class too.

    When to use it: to reproduce CESASRec, or as a cheap warm start of encoders, since no item is
    encoded but those of the rows and no catalogue has to be. ``full_softmax`` compares states with
    the item vectors that inference uses. The head belongs to the catalogue it was trained on and
    does not move to another.

    Args:
        item_num: N, padding included.
        dim: d.
        temperature: what logits are divided by; 1 as published.
    """

    reads = frozenset({"temperature", "reduction"})
    published_reduction = "mean"
    reads_vectors = False
    transferable = False

    def __init__(
        self, item_num: int, dim: int, temperature: float = 1.0, reduction: str | None = None
    ):
        super().__init__(reduction)
        self.head = nn.Linear(dim, item_num)
        self.temperature = temperature
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    @classmethod
    def from_config(cls, config: Any, dataset: Any) -> ItemHead:
        return cls(
            dataset.item_num, config["embedding_size"], config["temperature"], config["reduction"]
        )

    def terms(
        self, h: Tensor, positions: Positions, vectors: Tensor, batch: dict[str, Any]
    ) -> Tensor:
        label = batch["content"]["items"][positions.label - 1]  # the target's id
        weight, bias = self.head.weight / self.temperature, self.head.bias / self.temperature
        return cross_entropy(h, weight, bias, label)
