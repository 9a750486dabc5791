"""Leave-one-out under a protocol, as index arithmetic on the histories."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recbole_morec.data.histories import Histories
from recbole_morec.evaluation.protocol import Protocol


@dataclass(frozen=True)
class Splits:
    """Where each user's training part ends and which interactions are targets.

    All arrays index ``histories.items``. A user trains on ``items[start:train_stop]``. A phase's
    target is one item; what comes before it (from ``start``) is its history.

    Args:
        start: first interaction that exists under the protocol, ``[U]``.
        train_stop: end of the training part ``[U]``; ``start`` where the user is left out.
        targets: position of the target of every user of a phase.
        users: users with a target in a phase, ascending.
        left_out: users with fewer interactions than the protocol asks for.
        train_only: users too short to hold out a target; all they have trains.
    """

    start: np.ndarray
    train_stop: np.ndarray
    targets: dict[str, np.ndarray]
    users: dict[str, np.ndarray]
    left_out: int
    train_only: int

    @classmethod
    def build(cls, histories: Histories, protocol: Protocol) -> Splits:
        """Split every history: newest item = test, the one before = validation, the rest trains."""
        first, stop = histories.offsets[:-1], histories.offsets[1:]
        length = histories.lengths
        kept = (length > 0) & (length >= protocol.min_user_inter)
        start = first if not protocol.truncate else np.maximum(first, stop - protocol.truncate)
        has_test = kept & (length >= 3)
        has_valid = kept & (length >= protocol.valid_needs)
        held_out = has_test.astype(np.int64) + has_valid
        train_stop = np.where(kept, stop - held_out, start)
        test_users = np.flatnonzero(has_test)
        valid_users = np.flatnonzero(has_valid)
        return cls(
            start=start,
            train_stop=train_stop,
            targets={"test": stop[test_users] - 1, "valid": stop[valid_users] - 2},
            users={"test": test_users, "valid": valid_users},
            left_out=int(((length > 0) & ~kept).sum()),
            train_only=int((kept & ~has_test).sum()),
        )

    @property
    def trained_users(self) -> int:
        """Number of users with at least two interactions to train on."""
        return int((self.train_stop - self.start > 1).sum())

    def training_mask(self, total: int) -> np.ndarray:
        """``[total]`` bool: does an interaction train?"""
        return ranges_mask(self.start, self.train_stop, total)


def ranges_mask(starts: np.ndarray, stops: np.ndarray, total: int) -> np.ndarray:
    """Mark the positions of disjoint half-open ranges."""
    steps = np.zeros(total + 1, dtype=np.int32)
    np.add.at(steps, starts, 1)
    np.add.at(steps, stops, -1)
    return np.cumsum(steps[:-1]) > 0
