"""Batches of RecBole's models with the content of their items."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from recbole_morec.data.content import ContentReader
from recbole_morec.data.stock_batches import StockBatches


class StockContentBatches:
    """A builder's batches with ``content``: that of every distinct item the model reads, once.

    Args:
        builder: of the batches.
        content: reader of what the item encoder needs.
        fields: fields of the interaction that hold the items that the model reads; those that are
            not there are passed over.
        item_num: N, padding included; ids from N on are no items (a mask token).
        all_items: the model encodes all items in each step and keeps their content itself: a batch
            carries their ids alone.
    """

    def __init__(
        self,
        builder: StockBatches,
        content: ContentReader,
        fields: Sequence[str],
        item_num: int,
        all_items: bool = False,
    ):
        self.rows = builder.rows
        self.terms = builder.terms
        self._builder = builder
        self._content = content
        self._fields = fields
        self._item_num = item_num
        self._all = all_items

    def build(self, rows: np.ndarray, epoch: int, step: int = 0) -> dict[str, Any]:
        """The batch of the given rows; one without loss terms has no content."""
        batch = self._builder.build(rows, epoch, step)
        if self._all:
            batch["content"] = {"items": torch.arange(1, self._item_num)}
        elif batch["has_terms"]:
            batch["content"] = self._content.fetch(self._distinct(batch["interaction"]))
        return batch

    def without_content(self) -> StockContentBatches:
        """A builder of the same batches whose content is ids alone."""
        bare = copy.copy(self)
        bare._content = ContentReader()
        return bare

    def _distinct(self, interaction: Any) -> np.ndarray:
        """The items that the model reads, in ascending order."""
        fields = [field for field in self._fields if field in interaction]
        items = np.unique(np.concatenate([interaction[field].numpy().ravel() for field in fields]))
        return items[(items > 0) & (items < self._item_num)]
