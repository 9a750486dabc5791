"""Negatives of stock models, as a function of (seed, epoch, row): uniform or by popularity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.data.negatives import ItemDistribution, TrainedItems
from recbole_morec.errors import ConfigError, DataError
from recbole_morec.randomness import stream

_MOST_ATTEMPTS = 200


class StockNegatives:
    """Draws negatives as RecBole's ``train_neg_sample_args`` ask for.

    General models never get an item that the user has in the training part (RecBole's ``Sampler``),
    sequential models never the target itself (its ``RepeatableSampler``).

    Popularity counts training interactions; RecBole counts those of validation and test as well.

    Args:
        dataset: the dataset; its candidates can be drawn.
        args: resolved ``train_neg_sample_args`` with a ``distribution`` other than ``none``.
        seed: of the draws.
        repeatable: True for sequential models.

    Raises:
        ConfigError: a distribution or option that is not supported.
    """

    def __init__(
        self, dataset: MultimodalDataset, args: Mapping[str, Any], seed: int, *, repeatable: bool
    ):
        _check(args)
        self.count = int(args["sample_num"])
        self._seed = seed
        self._folder = dataset.folder
        candidates = np.flatnonzero(dataset.candidates)
        self._items = ItemDistribution(candidates)
        if args["distribution"] == "popularity":
            counts = dataset.train_counts[candidates]
            self._items = ItemDistribution.by_popularity(candidates, counts, float(args["alpha"]))
        self._trained = None if repeatable else TrainedItems(dataset)

    def draw(
        self, users: np.ndarray, targets: np.ndarray, rows: np.ndarray, epoch: int
    ) -> np.ndarray:
        """Negatives int64 ``[B, count]`` of the rows ``rows [B]``.

        Raises:
            DataError: a user has (nearly) every item.
        """
        drawn = np.zeros((len(rows), self.count), dtype=np.int64)
        open_ = np.ones(drawn.shape, dtype=bool)
        barred = self._trained.of(users) if self._trained is not None else None
        for attempt in range(_MOST_ATTEMPTS):
            b, k = np.nonzero(open_)
            if len(b) == 0:
                return drawn
            picked = self._items.pick(stream(self._seed, "negatives", epoch, attempt), rows[b], k)
            drawn[b, k] = picked
            open_[b, k] = picked == targets[b] if barred is None else barred.holds(b, picked)
        raise DataError(
            f"{self._folder}: no negative item was found for {int(open_.any(1).sum())} training "
            f"rows in {_MOST_ATTEMPTS} draws; their users have nearly all "
            f"{len(self._items.items)} items."
        )


def _check(args: Mapping[str, Any]) -> None:
    problems = []
    if args["distribution"] not in ("uniform", "popularity"):
        problems.append(
            f"train_neg_sample_args.distribution={args['distribution']!r}: must be uniform or "
            "popularity."
        )
    if not isinstance(args["sample_num"], int) or args["sample_num"] < 1:
        problems.append(
            f"train_neg_sample_args.sample_num={args['sample_num']!r}: must be a whole number "
            "from 1."
        )
    if args.get("dynamic"):
        problems.append(
            "train_neg_sample_args.dynamic=True: negatives that depend on the model's scores are "
            "not supported, since batches are built ahead of the model; set it to False."
        )
    if problems:
        raise ConfigError(problems)
