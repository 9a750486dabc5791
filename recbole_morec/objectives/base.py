"""The seam between states and loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

from torch import Tensor, nn

from recbole_morec.registry import Registry

OBJECTIVES = Registry("objective", "objective")


class Objective(nn.Module, ABC):
    """A loss over the positions of a batch of windows.

    Every process computes the terms of its own rows and divides by the *global* number of rows or
    positions, so that the losses of all processes add up to the loss of the whole batch.

    Args:
        reduction: ``sum`` adds the terms of a row's positions and averages over rows; ``mean``
            averages over all positions.

    Attributes:
        negatives: uniform negatives per position that the batch must carry.
    """

    published_reduction: Literal["sum", "mean"] = "mean"

    def __init__(self, reduction: Literal["sum", "mean"] | None = None):
        super().__init__()
        self.reduction = reduction or self.published_reduction
        self.negatives = 0

    @classmethod
    @abstractmethod
    def from_config(cls, config: Any) -> Objective:
        """Build it from the settings."""

    @abstractmethod
    def terms(self, states: Tensor, vectors: Tensor, batch: dict[str, Any]) -> Tensor:
        """Return the loss terms ``[M]`` of this process's M real positions, unreduced.

        Args:
            states: user states ``[B, L, d]`` at the input slots.
            vectors: ``[1 + n, d]``: a zero row for padding, then the batch's distinct items.
            batch: see ``recbole_morec.data.batches``.
        """

    def forward(self, states: Tensor, vectors: Tensor, batch: dict[str, Any]) -> Tensor:
        """Return this process's share of the batch loss, a scalar."""
        count = batch["global_rows"] if self.reduction == "sum" else batch["global_terms"]
        return self.terms(states, vectors, batch).sum() / max(int(count), 1)
