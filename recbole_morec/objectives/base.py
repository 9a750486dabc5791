"""The seam between states and loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from recbole_morec.registry import Registry

OBJECTIVES = Registry("objective", "objective")

# How negatives are drawn, of whoever draws some.
DRAWS = frozenset(
    {"negatives", "negative_distribution", "negative_exponent", "negatives_avoid", "reduction"}
)


@dataclass(frozen=True)
class Positions:
    """The M targets of a batch and the states that predict them.

    Args:
        row: window of each position ``[M]``.
        slot: slot of the state that predicts ``[M]``.
        label: row of ``[padding; item vectors]`` that holds its target ``[M]``.
        negatives: like ``label``, of its negatives ``[M, K]``; ``None`` where none were drawn.
    """

    row: Tensor
    slot: Tensor
    label: Tensor
    negatives: Tensor | None


def positions(batch: dict[str, Any], offset: int) -> Positions:
    """The targets of a batch.

    Args:
        batch: see ``recbole_morec.data.batches``.
        offset: slots between a target and the state that predicts it: 1 where states predict the
            next item, 0 where the state stands at the target's own slot.
    """
    row, slot = torch.nonzero(batch["target"], as_tuple=True)
    negatives = batch.get("negative_index")
    return Positions(
        row,
        slot - offset,
        batch["item_index"][row, slot],
        None if negatives is None else negatives[row, slot],
    )


class Objective(nn.Module, ABC):
    """A loss over the positions of a batch of windows.

    Every process computes the terms of its own rows and divides by the *global* number of rows or
    positions, so that the losses of all processes add up to the loss of the whole batch.

    Args:
        reduction: ``sum`` adds the terms of a row's positions and averages over rows; ``mean``
            averages over all positions.

    Attributes:
        reads: settings that it reads beside ``embedding_size``, those of its negatives included;
            others that a user gives get a warning. ``None``: it does not say.
        negatives: drawn negatives that the batch must carry, of every position.
        shares_negatives: they are one set for the whole batch instead.
        encodes: ``batch``, or ``catalogue`` where every step needs the vectors of all candidates.
        reads_whole_batch: a term depends on the other rows of the batch, so that micro-batches do
            not add up to it.
        reads_vectors: False where states are compared with no item vector.
        transferable: False where parameter shapes depend on the number of users or items.
    """

    published_reduction: Literal["sum", "mean"] = "mean"
    encodes: Literal["batch", "catalogue"] = "batch"
    reads: frozenset[str] | None = None
    reads_whole_batch: bool = False
    reads_vectors: bool = True
    transferable: bool = True

    def __init__(self, reduction: Literal["sum", "mean"] | None = None):
        super().__init__()
        self.reduction = reduction or self.published_reduction
        self.negatives = 0
        self.shares_negatives = False

    @classmethod
    @abstractmethod
    def from_config(cls, config: Any, dataset: Any) -> Objective:
        """Build it from the settings; ``dataset`` tells ``item_num`` and ``candidates``."""

    @abstractmethod
    def terms(
        self, h: Tensor, positions: Positions, vectors: Tensor, batch: dict[str, Any]
    ) -> Tensor:
        """Return the loss terms ``[M]`` of this process's M positions, unreduced.

        Args:
            h: the states that predict, ``[M, d]``.
            positions: what they predict.
            vectors: ``[1 + n, d]``: a row for padding, then the batch's distinct items.
            batch: see ``recbole_morec.data.batches``.
        """

    def forward(
        self, states: Tensor, positions: Positions, vectors: Tensor, batch: dict[str, Any]
    ) -> Tensor:
        """Return this process's share of the batch loss, a scalar.

        Args:
            states: user states ``[B, S, d]``.
            positions, vectors, batch: see :meth:`terms`.
        """
        count = batch["global_rows"] if self.reduction == "sum" else batch["global_terms"]
        h = states[positions.row, positions.slot]
        return self.terms(h, positions, vectors, batch).sum() / max(int(count), 1)
