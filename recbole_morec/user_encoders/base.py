"""The seam between item vectors and user states."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from recbole_morec.objectives.base import Positions, next_item
from recbole_morec.registry import Registry

USER_ENCODERS = Registry("user encoder", "user_encoder")


@dataclass
class History:
    """What a user encoder may read of a batch of histories, padded on the left.

    Args:
        vectors: item vectors ``[B, L, d]``; padding rows are zero.
        items: internal item ids ``[B, L]``, 0 = padding.
        mask: ``[B, L]`` bool, True at real items.
        user: internal user ids ``[B]``.
        mode: ``train`` or ``predict``.
    """

    vectors: Tensor
    items: Tensor
    mask: Tensor
    user: Tensor
    mode: Literal["train", "predict"]


class UserEncoder(nn.Module, ABC):
    """Item vectors of a history to one state per position.

    Attributes:
        needs: what it reads of :class:`History` beyond ``vectors`` and ``mask`` (``items``,
            ``user``). One that needs nothing more is transferable: its parameter shapes do not
            depend on the dataset.
    """

    needs: frozenset[str] = frozenset()

    @classmethod
    @abstractmethod
    def from_config(cls, config: Any) -> UserEncoder:
        """Build it from the settings."""

    @abstractmethod
    def forward(self, history: History) -> Tensor:
        """Return states ``[B, L, d]``; the state at slot t may read slots 0..t only."""

    def predicts(self, batch: dict[str, Any]) -> Positions:
        """What the states of a training batch predict; those of a causal encoder the next item.

        Args:
            batch: see ``recbole_morec.data.batches``.
        """
        return next_item(batch)

    @property
    def transferable(self) -> bool:
        """True if its parameters fit any dataset."""
        return not self.needs
