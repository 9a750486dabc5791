"""Training batches of RecBole's own models, built on the fly from the same histories as ours.

Every builder gives ``{"interaction": Interaction, "has_terms": bool}``; the loader adds
``global_rows``, ``local_rows`` and the rest. The interaction holds the fields that RecBole's own
loaders give:

============ ========================================= ==================================
rows         fields                                    models
============ ========================================= ==================================
users        user                                      auto-encoders
pairs        user, item (, negative item | label)      general and context-aware models
prefixes     user, item, item list, length (, ...)     sequential models
all at once  user, item                                models without a gradient (Pop)
============ ========================================= ==================================
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.utils import InputType, ModelType

from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.data.stock_negatives import StockNegatives
from recbole_morec.data.stock_transforms import StockTransform
from recbole_morec.data.windows import Pairs, Prefixes, Rows
from recbole_morec.randomness import random_integers, stream


class StockBatches(ABC):
    """Base of the builders.

    Attributes:
        rows: the training rows (the loader asks for their number).
    """

    rows: Any

    def terms(self, rows: np.ndarray, epoch: int) -> int:
        """Number of loss terms of the given rows: one each."""
        return len(rows)

    def build(self, rows: np.ndarray, epoch: int, step: int = 0) -> dict[str, Any]:
        """The batch of the given rows (row numbers ``[B]``, possibly none), whatever the step."""
        return {"interaction": self.interaction(rows, epoch), "has_terms": len(rows) > 0}

    @abstractmethod
    def interaction(self, rows: np.ndarray, epoch: int) -> Interaction:
        """The fields of the given rows."""


class UserBatches(StockBatches):
    """One row per user with a training part: auto-encoders look its items up themselves."""

    def __init__(self, dataset: MultimodalDataset):
        self.rows = np.flatnonzero(dataset.splits.train_stop > dataset.splits.start)
        self._field = dataset.uid_field

    def interaction(self, rows: np.ndarray, epoch: int) -> Interaction:
        return Interaction({self._field: torch.from_numpy(self.rows[rows])})


class WholeBatches(StockBatches):
    """All training pairs in one batch, in every process: for models that only count.

    The single row makes an epoch of one step. A process gets the batch even where the loader gives
    it no row, so that every process ends with the same model.
    """

    def __init__(self, dataset: MultimodalDataset):
        self.rows = range(1)
        self._dataset = dataset

    def interaction(self, rows: np.ndarray, epoch: int) -> Interaction:
        pairs = self._dataset.inter_feat
        fields = (self._dataset.uid_field, self._dataset.iid_field)
        return Interaction({field: pairs[field] for field in fields})


class PairBatches(StockBatches):
    """Every training interaction, with negatives or labels as the model asks.

    ``train_batch_size`` counts interactions; RecBole counts their negatives too.

    Args:
        config: resolved settings.
        dataset: the dataset.
        negatives: how to draw them; ``None`` = the model needs none.
    """

    def __init__(self, config: Any, dataset: MultimodalDataset, negatives: StockNegatives | None):
        self.rows: Rows = Pairs(dataset.splits)
        self._items = dataset.histories.items
        self._user_field, self._item_field = dataset.uid_field, dataset.iid_field
        self._negatives = negatives
        self._pairwise = config["MODEL_INPUT_TYPE"] == InputType.PAIRWISE
        self._negative_field = config["NEG_PREFIX"] + dataset.iid_field
        self._label_field = config["LABEL_FIELD"]
        self._join = dataset.join if config["MODEL_TYPE"] == ModelType.CONTEXT else None

    def interaction(self, rows: np.ndarray, epoch: int) -> Interaction:
        user, start, _ = self.rows.ranges(rows)
        item = self._items[start].astype(np.int64)
        fields = {
            self._user_field: torch.from_numpy(user),
            self._item_field: torch.from_numpy(item),
        }
        joined = self.add_negatives(Interaction(fields), user, item, rows, epoch)
        return self._join(joined) if self._join else joined

    def add_negatives(
        self,
        positives: Interaction,
        user: np.ndarray,
        item: np.ndarray,
        rows: np.ndarray,
        epoch: int,
    ) -> Interaction:
        """Repeat the rows for their negatives, in RecBole's order: all first negatives, all second
        ones, ...; pointwise models get them as rows of label 0 below the positives."""
        if self._negatives is None:
            return positives
        drawn = self._negatives.draw(user, item, rows, epoch)  # [B, K]
        flat = torch.from_numpy(drawn.T.reshape(-1))
        if self._pairwise:
            joined = positives.repeat(self._negatives.count)
            joined.update(Interaction({self._negative_field: flat}))
            return joined
        joined = positives.repeat(1 + self._negatives.count)
        joined[self._item_field] = torch.cat([positives[self._item_field], flat])
        label = torch.zeros(len(joined))
        label[: len(rows)] = 1.0
        joined.update(Interaction({self._label_field: label}))
        return joined


class PrefixBatches(PairBatches):
    """Every training item but a user's first, with the items before it padded on the right.

    Args:
        config, dataset, negatives: as for :class:`PairBatches`.
        transform: RecBole's change of the batch (masking, ...).
        negative_lists: add a drawn item for every item of the history (DIEN).
    """

    def __init__(
        self,
        config: Any,
        dataset: MultimodalDataset,
        negatives: StockNegatives | None,
        transform: StockTransform,
        negative_lists: bool = False,
    ):
        super().__init__(config, dataset, negatives)
        self._length = config["MAX_ITEM_LIST_LENGTH"]
        self.rows = Prefixes(dataset.splits, self._length)
        self._item_num = dataset.item_num
        self._transform = transform
        self._list_field = dataset.iid_field + config["LIST_SUFFIX"]
        self._length_field = config["ITEM_LIST_LENGTH_FIELD"]
        lists = config["NEG_PREFIX"] + self._list_field
        self._negative_list_field = lists if negative_lists else ""
        self._seed = config["seed"]

    def build(self, rows: np.ndarray, epoch: int, step: int = 0) -> dict[str, Any]:
        batch = super().build(rows, epoch, step)
        batch["has_terms"] = batch["has_terms"] and self._transform.has_terms(batch["interaction"])
        return batch

    def interaction(self, rows: np.ndarray, epoch: int) -> Interaction:
        plain = self._prefixes(rows)
        user, item = plain[self._user_field].numpy(), plain[self._item_field].numpy()
        changed = self._transform.train(plain, rows, epoch)
        return self.add_negatives(changed, user, item, rows, epoch)

    def all_prefixes(self) -> Interaction:
        """All rows at once, without negatives: RecBole's augmented ``inter_feat``."""
        return self._prefixes(np.arange(len(self.rows)))

    def _prefixes(self, rows: np.ndarray) -> Interaction:
        user, start, stop = self.rows.ranges(rows)
        histories, place = gather_right_padded(self._items, start, stop - 1, self._length)
        fields = {
            self._user_field: torch.from_numpy(user),
            self._item_field: torch.from_numpy(self._items[stop - 1].astype(np.int64)),
            self._list_field: torch.from_numpy(histories),
            self._length_field: torch.from_numpy(stop - 1 - start),
        }
        if self._negative_list_field:
            drawn = other_items(self._item_num, histories, place, self._seed)
            fields[self._negative_list_field] = torch.from_numpy(drawn)
        return Interaction(fields)


def gather_right_padded(
    items: np.ndarray, starts: np.ndarray, stops: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cut ``items[start:stop]`` for every row into a matrix padded on the right with 0.

    Args:
        items: flat item ids.
        starts, stops: ``[B]``, ranges of at most ``width`` items.
        width: number of slots.

    Returns:
        Items int64 ``[B, width]``, and their places in ``items`` (0 at the padding).
    """
    place = starts[:, None] + np.arange(width)[None, :]
    real = place < stops[:, None]
    place = np.where(real, place, 0)
    return np.where(real, items[place], 0).astype(np.int64), place


def other_items(item_num: int, items: np.ndarray, place: np.ndarray, seed: int) -> np.ndarray:
    """A uniform item other than the one itself for every item; 0 at the padding.

    Args:
        item_num: N, padding included.
        items: ``[B, L]``.
        place: ``[B, L]`` places in the histories: an interaction gets the same item in every row.
        seed: of the draws.
    """
    drawn = 1 + random_integers(stream(seed, "other items"), max(item_num - 2, 1), place)
    drawn += drawn >= items  # skips the item itself and stays uniform over the others
    return np.where(items > 0, drawn, 0)
