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
shared_items        ``[K]``       ids of the negatives that all rows share (in place of
                                  negative_index, where an objective needs them)
shared_index        ``[k]``       like item_index: this process's part of them; the parts of all
                                  processes, in order, make up the K
shared_barred       ``[B, K]``    True at those that a row may not have as a negative
shared_log_share    ``[K]``       like log_popularity, of all K
newest_only         bool          every row has its newest item as its only target
global_rows         int           rows of the whole batch, over all processes and micro-batches
global_terms        int           targets in the whole batch
epoch, step, steps  int           from 0, and steps per epoch; set by the loader
=================== ============= ==================================================================
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

from recbole_morec.data.content import ContentReader
from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.data.histories import gather_left_padded
from recbole_morec.data.negatives import NegativeSampler
from recbole_morec.data.targets import Targets
from recbole_morec.data.windows import Rows


class MultimodalBatches:
    """Builds the batches of a sequential model of ours.

    Args:
        dataset: the dataset.
        content: reader of the item content that the item encoder needs.
        rows: training rows.
        targets: which slots of a row are predicted.
        negatives: draws them; ``None`` = the model needs none.
        share: ``(rank, world size)`` of the processes that share out the shared negatives;
            ``(0, 1)`` = this one has them all.
        whole_catalogue: the batch's items are all candidates, whatever stands in its rows, and its
            content their ids alone: the model keeps the rest
            (:class:`recbole_morec.models.whole_catalogue.WholeCatalogue`).
    """

    def __init__(
        self,
        dataset: MultimodalDataset,
        content: ContentReader,
        rows: Rows,
        targets: Targets,
        negatives: NegativeSampler | None = None,
        share: tuple[int, int] = (0, 1),
        whole_catalogue: bool = False,
    ):
        self.rows = rows
        self._items = dataset.histories.items
        self._content = content
        self._targets = targets
        self._negatives = negatives
        self._share = share
        self._whole = whole_catalogue
        self._candidates = np.flatnonzero(dataset.candidates)
        with np.errstate(divide="ignore"):
            self._log_popularity = np.log(dataset.popularity).astype(np.float32)

    def terms(self, rows: np.ndarray, epoch: int) -> int:
        """Number of targets in the given rows."""
        _, start, stop = self.rows.ranges(rows)
        return int(self._targets.mark(stop - start, rows, epoch).sum())

    def build(self, rows: np.ndarray, epoch: int, step: int = 0) -> dict[str, Any]:
        """Build the batch of the given rows (row numbers ``[B]``, possibly none)."""
        user, start, stop = self.rows.ranges(rows)
        item_seq = gather_left_padded(self._items, start, stop, self._targets.width)
        target = self._targets.mark(stop - start, rows, epoch)
        drawn = np.zeros(0, dtype=np.int64)
        extra: dict[str, Any] = {}
        if self._negatives is not None and self._negatives.is_shared:
            everyones = self._negatives.shared(epoch, step)
            rank, processes = self._share
            drawn = np.array_split(everyones, processes)[rank]
            barred = self._negatives.barred(item_seq, user)
            of_row = barred.holds(np.arange(len(rows))[:, None], everyones[None, :])
            extra["shared_items"] = torch.from_numpy(everyones)
            extra["shared_barred"] = torch.from_numpy(of_row)
            extra["shared_log_share"] = torch.from_numpy(self._log_popularity[everyones])
        elif self._negatives is not None:
            drawn = self._negatives.per_target(item_seq, user, rows, target, epoch)
        reserved = np.concatenate([[0], self._distinct(item_seq, drawn)])
        item_index = np.searchsorted(reserved, item_seq)
        if self._negatives is not None:
            name = "shared_index" if self._negatives.is_shared else "negative_index"
            extra[name] = torch.from_numpy(np.searchsorted(reserved, drawn))
        return {
            "user": torch.from_numpy(user),
            "item_seq": torch.from_numpy(item_seq),
            "mask": torch.from_numpy(item_seq > 0),
            "target": torch.from_numpy(target),
            "newest_only": self._targets.kind == "last",
            "content": self._fetch(reserved[1:]),
            "item_index": torch.from_numpy(item_index),
            "slot_count": torch.from_numpy(
                np.bincount(item_index.ravel(), minlength=len(reserved))[1:].astype(np.float32)
            ),
            "log_popularity": torch.from_numpy(self._log_popularity[reserved[1:]]),
            **extra,
        }

    def without_content(self) -> MultimodalBatches:
        """A builder of the same batches whose content is ids alone."""
        bare = copy.copy(self)
        bare._content = ContentReader()
        return bare

    def _distinct(self, item_seq: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        """The items of the batch in ascending order."""
        if self._whole:
            return self._candidates
        distinct = np.unique(np.append(item_seq, drawn))
        distinct = distinct[distinct > 0]
        # A process without rows still runs the encoder.
        return distinct if len(distinct) else self._candidates[:1]

    def _fetch(self, items: np.ndarray) -> dict[str, torch.Tensor]:
        if self._whole:
            return {"items": torch.from_numpy(items)}
        return self._content.fetch(items)
