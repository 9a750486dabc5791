"""In-batch cross-entropy with log-popularity correction (IDvs.MoRec; Yi et al., RecSys 2019)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recbole_morec import parallel
from recbole_morec.objectives.base import OBJECTIVES, Objective, Positions
from recbole_morec.objectives.chunks import in_chunks


@OBJECTIVES.register("in_batch")
class InBatch(Objective):
    """Softmax of the target against every item slot of the whole batch.

    ``loss_t = -log( exp(s_t,y) / sum_j exp(s_t,j) )`` with ``s_t,j = h_t . e_j / tau - a log p_j``:
    the columns j are all item slots of the batch, ``p_j`` is the item's share of the training
    interactions and a is ``popularity_correction``. Columns whose item stands anywhere in the
    row's own window are barred, except the label's own slot. At inference scores are plain dot
    products.

    The published code holds one column per slot, so a popular item fills several equal columns. We
    keep one column per distinct item and add the logarithm of its count, which is the same sum; the
    label's column counts once, because its other slots are barred. ``tests/test_objectives.py``
    compares the two.

    When to use it: by default. Every item that is encoded for a history serves all other rows as a
    negative, so a position costs one item vector (``bpr`` and ``bce``: two); logits are bounded in
    memory (``chunks.py``). ``sampled_softmax`` chooses its negatives; ``full_softmax`` needs none.

    Args:
        popularity_correction: exponent a.
        mask_own_history: bar the row's own items as negatives.
        gather: use the items of all processes as negatives, with gradient.
        temperature: tau; 1 as published by IDvs.MoRec.
    """

    reads = frozenset(
        {
            "popularity_correction", "mask_own_history", "gather_negatives", "temperature",
            "reduction",
        }
    )  # fmt: skip
    published_reduction = "mean"
    reads_whole_batch = True

    def __init__(
        self,
        popularity_correction: float = 1.0,
        mask_own_history: bool = True,
        gather: bool = True,
        temperature: float = 1.0,
        reduction: str | None = None,
    ):
        super().__init__(reduction)
        self.popularity_correction = popularity_correction
        self.mask_own_history = mask_own_history
        self.gather = gather
        self.temperature = temperature

    @classmethod
    def from_config(cls, config: Any, dataset: Any) -> InBatch:
        return cls(
            config["popularity_correction"],
            config["mask_own_history"],
            config["gather_negatives"],
            config["temperature"],
            config["reduction"],
        )

    def terms(
        self, h: Tensor, positions: Positions, vectors: Tensor, batch: dict[str, Any]
    ) -> Tensor:
        columns = vectors[1:]  # [n, d]
        items, bias = batch["content"]["items"], self._column_bias(batch)
        first = 0  # column of this process's first item
        if self.gather and parallel.world_size() > 1:
            columns, sizes = parallel.gather_rows_with_gradient(columns)
            items = parallel.gather_rows(items, sizes)
            bias = parallel.gather_rows(bias, sizes)
            first = sum(sizes[: parallel.rank()])

        label = positions.label - 1  # [M]
        log_p = batch["log_popularity"][label]
        h = h / self.temperature
        own = (h * vectors[1:][label]).sum(-1) - self.popularity_correction * log_p  # [M]
        owns = own_items(batch["item_seq"], items) if self.mask_own_history else None  # [B, n]

        def terms(h: Tensor, own: Tensor, label: Tensor, row: Tensor) -> Tensor:
            logits = h @ columns.T + bias  # [m, n]
            if owns is not None:
                logits = logits.masked_fill(owns[row], float("-inf"))
                # The label's own slot is never barred, and it is a single slot.
                logits = logits.scatter(1, label[:, None], own[:, None].to(logits.dtype))
            return torch.logsumexp(logits, dim=1) - own

        return in_chunks(terms, (h, own, label + first, positions.row), len(columns))

    def _column_bias(self, batch: dict[str, Any]) -> Tensor:
        """``log count - a log p`` of every distinct item, ``[n]``."""
        log_count = batch["slot_count"].clamp_min(1).log()
        bias = log_count - self.popularity_correction * batch["log_popularity"]
        # An item that stands in no slot (a placeholder) is no negative.
        return bias.masked_fill(batch["slot_count"] == 0, float("-inf"))


def own_items(item_seq: Tensor, columns: Tensor) -> Tensor:
    """``[B, n]`` bool: does the item of a column stand in the row's window?"""
    own = torch.zeros(len(item_seq), len(columns), dtype=torch.bool, device=item_seq.device)
    for slot in item_seq.T:
        own |= slot[:, None] == columns[None, :]
    return own
