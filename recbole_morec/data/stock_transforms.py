"""RecBole's batch transforms (masking, cropping, ...) from seeded randomness.

RecBole's transforms draw from Python's global generator, so that a row's mask would depend on the
batches before it. Here the draws are a function of (seed, epoch, row), and the global generator is
left as it was. Masking, which BERT4Rec needs, is vectorised; it gives the fields of RecBole's
``MaskItemSequence``, which is a loop over rows and slots.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.data.transform import (
    Equal,
    InverseItemSequence,
    MaskItemSequence,
    construct_transform,
)

from recbole_morec.errors import ConfigError, DataError
from recbole_morec.randomness import random_bits, random_integers, stream

_MOST_ATTEMPTS = 200


class StockTransform:
    """The transform that ``config["transform"]`` names.

    Make it before the model: it puts the names of its fields into the config.

    Args:
        config: resolved settings.
        dataset: the dataset; masking reads its number of items.

    Raises:
        ConfigError: the masked share of the longest history is less than one item.
    """

    def __init__(self, config: Any, dataset: Any):
        self._transform: Any = construct_transform(config)
        self._dataset = dataset
        self._seed = config["seed"]
        self._list_field = config["ITEM_ID_FIELD"] + config["LIST_SUFFIX"]
        self._length_field = config["ITEM_LIST_LENGTH_FIELD"]
        if isinstance(self._transform, MaskItemSequence) and self._transform.mask_item_length < 1:
            raise ConfigError(
                f"mask_ratio={config['mask_ratio']} of MAX_ITEM_LIST_LENGTH="
                f"{config['MAX_ITEM_LIST_LENGTH']} is less than one item: raise one of them."
            )

    def train(self, interaction: Interaction, rows: np.ndarray, epoch: int) -> Interaction:
        """Transform training rows; the draws are a function of (seed, epoch, row)."""
        transform = self._transform
        if isinstance(transform, Equal) or len(rows) == 0:
            return interaction
        if isinstance(transform, InverseItemSequence):
            return transform(self._dataset, interaction)
        if isinstance(transform, MaskItemSequence):
            return self._mask(interaction, rows, epoch)
        seeds = random_bits(stream(self._seed, "transform", epoch), rows).tolist()
        changed = []
        with seeded(0):
            for i, seed in enumerate(seeds):
                random.seed(seed)
                columns = {key: interaction[key][i : i + 1] for key in interaction}
                changed.append(transform(self._dataset, Interaction(columns)).interaction)
        return Interaction({key: torch.cat([row[key] for row in changed]) for key in changed[0]})

    def score(self, interaction: Interaction) -> Interaction:
        """Transform histories to score.

        Only the reversal of the padding takes part. RecBole's SHAN learns from histories padded on
        the left but its ``full_sort_predict`` reads those padded on the right; here both are left.
        """
        if not isinstance(self._transform, InverseItemSequence):
            return interaction
        device = interaction[self._list_field].device
        changed = self._transform(self._dataset, interaction.cpu()).to(device)
        changed[self._list_field] = changed[self._transform.INVERSE_ITEM_SEQ]
        return changed

    def has_terms(self, interaction: Interaction) -> bool:
        """False where RecBole's masked loss would divide 0 by 0.

        BERT4Rec takes a masked slot 0 for padding, so a loss needs another masked slot.
        """
        if not isinstance(self._transform, MaskItemSequence) or len(interaction) == 0:
            return True
        return bool(interaction[self._transform.MASK_INDEX].any())

    def _mask(self, interaction: Interaction, rows: np.ndarray, epoch: int) -> Interaction:
        """Mask a share of each history; with probability ``ft_ratio`` its last item alone."""
        rule = self._transform
        items = interaction[self._list_field].numpy()  # [B, L], padded on the right
        slot = np.arange(items.shape[1])[None, :]
        last = interaction[self._length_field].numpy()[:, None] - 1
        masked = (self._shares("mask", epoch, rows[:, None], slot) < rule.mask_ratio) & (items > 0)
        finetune = self._shares("finetune", epoch, rows, 0) < rule.ft_ratio
        masked = np.where(finetune[:, None], slot == last, masked)
        others = self._items_outside(items, masked, rows, epoch)
        token = self._dataset.item_num  # MASK stands behind the items
        return Interaction(
            {
                **interaction.interaction,
                rule.MASK_ITEM_SEQ: torch.from_numpy(np.where(masked, token, items)),
                rule.POS_ITEMS: self._collect(items, masked),
                rule.NEG_ITEMS: self._collect(others, masked),
                rule.MASK_INDEX: self._collect(np.broadcast_to(slot, items.shape), masked),
            }
        )

    def _collect(self, values: np.ndarray, masked: np.ndarray) -> torch.Tensor:
        """The last K masked values of each row ``[B, K]``, padded on the left with 0."""
        width = self._transform.mask_item_length
        from_end = np.cumsum(masked[:, ::-1], axis=1)[:, ::-1]  # 1 = last masked slot
        row, slot = np.nonzero(masked & (from_end <= width))
        collected = np.zeros((len(values), width), dtype=np.int64)
        collected[row, width - from_end[row, slot]] = values[row, slot]
        return torch.from_numpy(collected)

    def _items_outside(
        self, items: np.ndarray, masked: np.ndarray, rows: np.ndarray, epoch: int
    ) -> np.ndarray:
        """For every masked slot an item that its history does not hold ``[B, L]``."""
        drawn = np.zeros_like(items)
        open_ = masked.copy()
        for attempt in range(_MOST_ATTEMPTS):
            b, t = np.nonzero(open_)
            if len(b) == 0:
                return drawn
            key = stream(self._seed, "mask negatives", epoch, attempt)
            picked = 1 + random_integers(key, self._dataset.item_num - 1, rows[b], t)
            drawn[b, t] = picked
            open_[b, t] = (items[b] == picked[:, None]).any(1)
        raise DataError(
            f"{self._dataset.folder}: histories hold nearly all of the "
            f"{self._dataset.item_num - 1} items; use a smaller MAX_ITEM_LIST_LENGTH."
        )

    def _shares(self, purpose: str, epoch: int, *counters: Any) -> np.ndarray:
        """Uniform numbers in ``[0, 1)``."""
        bits = random_bits(stream(self._seed, purpose, epoch), *counters)
        return (bits >> np.uint64(11)) * 2.0**-53


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators that RecBole draws from (Python's, numpy's), and put them back."""
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
