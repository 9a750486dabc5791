"""Training batches of our models: ids, and the content of every distinct item once.

A batch is a dict:

=================== ============= ==================================================================
key                 shape         meaning
=================== ============= ==================================================================
user                ``[B]``       internal user ids
item_seq            ``[B, L+1]``  window of item ids, padded on the left with 0
mask                ``[B, L+1]``  True at real items
content             dict          content of the n distinct items (``items [n]``, ``image``, ...)
target              ``[B, L+1]``  True at the slots that are predicted
item_index          ``[B, L+1]``  row of ``[padding; item vectors]`` that each slot reads
slot_count          ``[n]``       how often an item stands in ``item_seq``
log_popularity      ``[n]``       log share of the training interactions
negative_index      ``[.., K]``   like item_index: negatives of each target, 0 elsewhere (where an
                                  objective needs them)
newest_only         bool          every row has its newest item as its only target
global_rows         int           rows of the whole batch, over all processes and micro-batches
global_terms        int           targets in the whole batch
epoch, step, steps  int           from 0, and steps per epoch; set by the loader
=================== ============= ==================================================================
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from recbole_morec.data.content import ContentReader
from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.data.histories import gather_left_padded
from recbole_morec.data.negatives import draw_negatives
from recbole_morec.data.targets import Targets
from recbole_morec.data.windows import Rows


class MultimodalBatches:
    """Builds the batches of a sequential model of ours.

    Args:
        dataset: the dataset.
        content: reader of the item content that the item encoder needs.
        rows: training rows.
        targets: which slots of a row are predicted.
        negatives: uniform negatives per target; 0 = none.
        seed: of the negatives.
    """

    def __init__(
        self,
        dataset: MultimodalDataset,
        content: ContentReader,
        rows: Rows,
        targets: Targets,
        negatives: int,
        seed: int,
    ):
        self.rows = rows
        self._items = dataset.histories.items
        self._content = content
        self._targets = targets
        self._negatives = negatives
        self._seed = seed
        self._candidates = np.flatnonzero(dataset.candidates)
        with np.errstate(divide="ignore"):
            self._log_popularity = np.log(dataset.popularity).astype(np.float32)

    def terms(self, rows: np.ndarray, epoch: int) -> int:
        """Number of targets in the given rows."""
        _, start, stop = self.rows.ranges(rows)
        return int(self._targets.mark(stop - start, rows, epoch).sum())

    def build(self, rows: np.ndarray, epoch: int) -> dict[str, Any]:
        """Build the batch of the given rows (row numbers ``[B]``, possibly none)."""
        user, start, stop = self.rows.ranges(rows)
        item_seq = gather_left_padded(self._items, start, stop, self._targets.width)
        target = self._targets.mark(stop - start, rows, epoch)
        drawn = None
        if self._negatives:
            drawn = draw_negatives(
                self._candidates,
                item_seq,
                rows,
                target,
                self._negatives,
                seed=self._seed,
                epoch=epoch,
            )
        distinct = np.unique(item_seq if drawn is None else np.append(item_seq, drawn))
        distinct = distinct[distinct > 0]
        if len(distinct) == 0:
            distinct = self._candidates[:1]  # a process without rows still runs the encoder
        reserved = np.concatenate([[0], distinct])
        item_index = np.searchsorted(reserved, item_seq)
        batch = {
            "user": torch.from_numpy(user),
            "item_seq": torch.from_numpy(item_seq),
            "mask": torch.from_numpy(item_seq > 0),
            "target": torch.from_numpy(target),
            "newest_only": self._targets.kind == "last",
            "content": self._content.fetch(distinct),
            "item_index": torch.from_numpy(item_index),
            "slot_count": torch.from_numpy(
                np.bincount(item_index.ravel(), minlength=len(reserved))[1:].astype(np.float32)
            ),
            "log_popularity": torch.from_numpy(self._log_popularity[distinct]),
        }
        if drawn is not None:
            batch["negative_index"] = torch.from_numpy(np.searchsorted(reserved, drawn))
        return batch
