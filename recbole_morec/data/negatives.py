"""Negatives as a function of (seed, epoch, row, slot), or of (seed, epoch, step) where shared."""

from __future__ import annotations

from typing import Any

import numpy as np

from recbole_morec.errors import DataError
from recbole_morec.randomness import random_bits, random_integers, stream

_MOST_ATTEMPTS = 200


class ItemDistribution:
    """Items to draw from, with replacement.

    Args:
        items: item ids.
        weights: ``[len(items)]``, not negative; ``None`` = all alike.
    """

    def __init__(self, items: np.ndarray, weights: np.ndarray | None = None):
        self.items = items
        self._heap: np.ndarray | None = None
        if weights is not None:
            heap = np.cumsum(weights, dtype=np.float64)
            self._heap = heap / heap[-1]

    @classmethod
    def by_popularity(
        cls, items: np.ndarray, counts: np.ndarray, exponent: float
    ) -> ItemDistribution:
        """In proportion to ``counts ** exponent``; items without a count are never drawn."""
        weights = np.asarray(counts, dtype=np.float64)
        return cls(items, np.where(weights > 0, weights**exponent, 0.0))

    def pick(self, key: int, *counters: np.ndarray) -> np.ndarray:
        """One item for every element of the (broadcast) counters."""
        if self._heap is None:
            return self.items[random_integers(key, len(self.items), *counters)]
        share = (random_bits(key, *counters) >> np.uint64(11)) * 2.0**-53  # in [0, 1)
        return self.items[np.searchsorted(self._heap, share, side="right")]


class Barred:
    """Which items which rows of a batch may not draw.

    Args:
        row, item: the barred pairs, ``[n]`` each.
        item_num: larger than every item id.
    """

    def __init__(self, row: np.ndarray, item: np.ndarray, item_num: int):
        self._item_num = item_num
        self._pairs = np.sort(row.astype(np.int64) * item_num + item)

    def holds(self, row: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Bool, for every element of the (broadcast) rows and items."""
        pair = row * self._item_num + item
        if len(self._pairs) == 0:
            return np.zeros(pair.shape, dtype=bool)
        place = np.searchsorted(self._pairs, pair)
        return self._pairs[np.minimum(place, len(self._pairs) - 1)] == pair


class TrainedItems:
    """The training items of users, read from the histories: nothing is held for all users.

    Args:
        dataset: has ``histories``, ``splits`` and ``item_num``.
    """

    def __init__(self, dataset: Any):
        self._items = dataset.histories.items
        self._start, self._stop = dataset.splits.start, dataset.splits.train_stop
        self._item_num = dataset.item_num

    def of(self, users: np.ndarray) -> Barred:
        """Bars row b from the training items of ``users[b]``."""
        start, stop = self._start[users], self._stop[users]
        length = np.maximum(stop - start, 0)
        row = np.repeat(np.arange(len(users)), length)
        first = np.cumsum(length) - length
        place = np.arange(len(row)) + (start - first)[row]
        return Barred(row, self._items[place], self._item_num)


class NegativeSampler:
    """Draws the negatives of a batch: of every target, or one set for the whole batch.

    Args:
        items: what they are drawn from.
        count: negatives per target, or of the batch.
        seed: of the draws.
        item_num: N, padding included.
        shared: one set for the batch.
        trained: bars a user's training items; ``None`` = the items of the row's own window.
    """

    def __init__(
        self,
        items: ItemDistribution,
        count: int,
        *,
        seed: int,
        item_num: int,
        shared: bool = False,
        trained: TrainedItems | None = None,
    ):
        self.count = count
        self.is_shared = shared
        self._items = items
        self._seed = seed
        self._item_num = item_num
        self._trained = trained

    @classmethod
    def from_config(
        cls, config: Any, dataset: Any, count: int, *, shared: bool = False
    ) -> NegativeSampler:
        """As ``negative_distribution``, ``negative_exponent`` and ``negatives_avoid`` say."""
        candidates = np.flatnonzero(dataset.candidates)
        items = ItemDistribution(candidates)
        if config["negative_distribution"] == "popularity":
            counts = dataset.train_counts[candidates]
            items = ItemDistribution.by_popularity(candidates, counts, config["negative_exponent"])
        return cls(
            items,
            count,
            seed=config["seed"],
            item_num=dataset.item_num,
            shared=shared,
            trained=TrainedItems(dataset) if config["negatives_avoid"] == "history" else None,
        )

    def barred(self, windows: np.ndarray, users: np.ndarray) -> Barred:
        """What the rows of a batch may not draw.

        Args:
            windows: items of the rows ``[B, W]``, 0 = padding.
            users: their users ``[B]``.
        """
        if self._trained is not None:
            return self._trained.of(users)
        row = np.repeat(np.arange(len(windows)), windows.shape[1])
        return Barred(row, windows.ravel(), self._item_num)

    def per_target(
        self,
        windows: np.ndarray,
        users: np.ndarray,
        rows: np.ndarray,
        wanted: np.ndarray,
        epoch: int,
    ) -> np.ndarray:
        """Draw negatives for every target.

        Args:
            windows, users: see :meth:`barred`.
            rows: ``[B]`` global row numbers; with seed and epoch they fix the draws.
            wanted: ``[B, S]`` bool, the slots that need negatives; a slot's draws do not depend on
                what other slots want.
            epoch: from 0.

        Returns:
            int64 ``[B, S, count]``, 0 at the other slots.

        Raises:
            DataError: a row may not draw (nearly) any candidate.
        """
        barred = self.barred(windows, users)
        draws = np.zeros((*wanted.shape, self.count), dtype=np.int64)
        open_ = np.repeat(wanted[:, :, None], self.count, axis=2)
        for attempt in range(_MOST_ATTEMPTS):
            b, t, k = np.nonzero(open_)
            if len(b) == 0:
                return draws
            key = stream(self._seed, "negatives", epoch, attempt)
            # The first slot, rarely a target, counts last.
            place = (t - 1) % draws.shape[1] * self.count + k
            picked = self._items.pick(key, rows[b], place)
            draws[b, t, k] = picked
            open_[b, t, k] = barred.holds(b, picked)
        by_window = self._trained is None
        whose = "windows" if by_window else "users' histories"
        cure = "a smaller MAX_ITEM_LIST_LENGTH" if by_window else "negatives_avoid=window"
        raise DataError(
            f"No negative item was found for {int(open_.any((1, 2)).sum())} training rows in "
            f"{_MOST_ATTEMPTS} draws: their {whose} hold nearly all {len(self._items.items)} "
            f"items. Use objective=in_batch, {cure} or more items."
        )

    def shared(self, epoch: int, step: int) -> np.ndarray:
        """The batch's negatives int64 ``[count]``, the same for all rows, micro-batches and
        processes; some rows may have to leave some of them out (:meth:`barred`)."""
        key = stream(self._seed, "shared negatives", epoch, step)
        return self._items.pick(key, np.arange(self.count))
