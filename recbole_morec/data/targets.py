"""Which slots of a training row are predicted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from recbole_morec.randomness import random_bits, stream

TargetKind = Literal["next", "last", "each", "masked"]


@dataclass(frozen=True)
class Targets:
    """Chooses the target slots of training rows.

    ``next``    every item but a row's first, from the items before it (SASRec and its kin).
    ``last``    a row's newest item only (NineRec's sequence-to-one; rows that are prefixes).
    ``each``    every item, from the other items of its row, later ones too, or from the user alone
                (DSSM, FM, MF).
    ``masked``  every item with probability ``mask_ratio``; it is hidden from the encoder
                (BERT4Rec). A row may have no target.

    Args:
        kind: one of the above.
        width: slots of a row, L + 1.
        mask_ratio: share of masked items.
        seed: of the masks; they are a function of (seed, epoch, row, slot).
    """

    kind: TargetKind
    width: int
    mask_ratio: float = 0.0
    seed: int = 0

    def mark(self, lengths: np.ndarray, rows: np.ndarray, epoch: int) -> np.ndarray:
        """Mark the target slots.

        Args:
            lengths: items of each row ``[B]``, at least 2, or 1 where they are predicted from the
                user alone; they stand in the row's last slots.
            rows: row numbers ``[B]``.
            epoch: from 0.

        Returns:
            bool ``[B, width]``.
        """
        slot = np.arange(self.width)[None, :]
        first = self.width - lengths[:, None]
        if self.kind == "next":
            return slot > first
        if self.kind == "last":
            return np.broadcast_to(slot == self.width - 1, (len(rows), self.width)).copy()
        real = slot >= first
        if self.kind == "each":
            return real
        bits = random_bits(stream(self.seed, "masks", epoch), rows[:, None], slot)
        return real & ((bits >> np.uint64(11)) * 2.0**-53 < self.mask_ratio)
