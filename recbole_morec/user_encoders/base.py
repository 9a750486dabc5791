"""The seam between item vectors and user states."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from recbole_morec.data.targets import TargetKind
from recbole_morec.registry import Registry

USER_ENCODERS = Registry("user encoder", "user_encoder")


@dataclass
class History:
    """What a user encoder may read of a batch of histories, padded on the left.

    Args:
        vectors: item vectors ``[B, S, d]``; padding rows are zero, or with ``pad_vector: encoded``
            the vector of blank content.
        items: internal item ids ``[B, S]``, 0 = padding.
        mask: ``[B, S]`` bool, True at real items.
        user: internal user ids ``[B]``.
        mode: ``train`` or ``predict``.
        newest_only: only the state of the last slot is read (always so when predicting).
        padding: ``[d]``, what padding holds in ``vectors``; ``None`` is zero.
        hidden: ``[B, S]`` bool, items that stand for a mask; their vector is zero and their id 0.
            ``None`` where none is hidden.
        mask_vector: ``[d]``, what is read in their place with ``mask_vector: encoded``; else
            ``None``.
    """

    vectors: Tensor
    items: Tensor
    mask: Tensor
    user: Tensor
    mode: Literal["train", "predict"]
    newest_only: bool = False
    padding: Tensor | None = None
    hidden: Tensor | None = None
    mask_vector: Tensor | None = None


class UserEncoder(nn.Module, ABC):
    """Item vectors of a history to one state per slot.

    In training an encoder whose ``targets`` are ``next`` gets a row without its newest item, and
    the state at slot t predicts the item at slot t + 1. Other encoders get the whole row, and the
    state at slot t predicts the item at slot t without reading it.

    Attributes:
        reads: settings that it reads beside ``embedding_size`` and ``MAX_ITEM_LIST_LENGTH``; others
            that a user gives get a warning. ``None``: it does not say.
        reads_history: False where states know the user alone.
        transferable: False where parameter shapes depend on the number of users or items.
        targets: the slots that it learns from; see :class:`~recbole_morec.data.targets.Targets`.
            ``target_slots: last`` and ``window: prefixes`` leave the newest only.
    """

    reads: frozenset[str] | None = None
    reads_history: bool = True
    transferable: bool = True
    targets: TargetKind = "next"

    @property
    def offset(self) -> int:
        """Slots between a target and the state that predicts it."""
        return 1 if self.targets == "next" else 0

    @classmethod
    @abstractmethod
    def from_config(cls, config: Any, dataset: Any) -> UserEncoder:
        """Build it from the settings; ``dataset`` tells ``user_num`` and ``item_num``."""

    @classmethod
    def state_size(cls, config: Any) -> int:
        """Size d of its states under the settings; they are compared with item vectors."""
        return config["embedding_size"]

    @abstractmethod
    def forward(self, history: History) -> Tensor:
        """Return states ``[B, S, d]``; when predicting, the last slot's is read."""


def training_history(
    batch: dict[str, Any],
    vectors: Tensor,
    encoder: UserEncoder,
    mask_vector: Tensor | None = None,
) -> History:
    """What an encoder reads of the rows of a training batch, without what it has to predict.

    Args:
        batch: see ``recbole_morec.data.batches``.
        vectors: ``[1 + n, d]``: padding, then the batch's items.
        encoder: who reads.
        mask_vector: ``[d]``, see :class:`History`.
    """
    slots = slice(None) if encoder.targets != "next" else slice(None, -1)
    items = batch["item_seq"][:, slots]
    read, hidden = vectors[batch["item_index"][:, slots]], None  # [B, S, d]
    if encoder.targets == "masked":
        hidden = batch["target"]
        items = items.masked_fill(hidden, 0)
        read = read.masked_fill(hidden[..., None], 0.0)
    return History(
        vectors=read,
        items=items,
        mask=batch["mask"][:, slots],
        user=batch["user"],
        mode="train",
        newest_only=batch["newest_only"],
        padding=vectors[0],
        hidden=hidden,
        mask_vector=mask_vector,
    )
