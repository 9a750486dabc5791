"""How a history becomes training rows: ``windows``, ``last`` or ``prefixes``."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from recbole_morec.data.splits import Splits


class Rows(ABC):
    """Training rows: each is a user and a half-open range of ``histories.items``."""

    def __init__(self, size: int):
        self.size = size

    def __len__(self) -> int:
        return self.size

    @abstractmethod
    def ranges(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return ``(user, start, stop)``, each ``[B]``, of the given rows."""


class Windows(Rows):
    """Disjoint windows of L + 1 items, cut from the newest end (PixelRec, SDM 2024).

    Every item of a window but its first is a target. The oldest items that do not fill a window
    make a shorter one (``keep``) or are dropped as in the published code (``drop``); a user with
    fewer than L + 1 training items has one short window in both cases.

    Args:
        splits: the training parts.
        max_length: L.
        remainder: ``keep`` or ``drop``.
        last: only the newest window of each user (IDvs.MoRec, NineRec).
        shortest: items that a window needs, 1 or 2.
    """

    def __init__(
        self,
        splits: Splits,
        max_length: int,
        remainder: str,
        last: bool = False,
        shortest: int = 2,
    ):
        width = max_length + 1
        length = splits.train_stop - splits.start
        full, rest = np.divmod(length, width)
        kept_rest = (rest >= shortest) & ((full == 0) | (remainder == "keep"))
        count = full + kept_rest
        if last:
            count = np.minimum(count, 1)
        self._stop = splits.train_stop
        self._start = splits.start
        self._width = width
        self._first = np.concatenate([[0], np.cumsum(count)])
        super().__init__(int(self._first[-1]))

    def ranges(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        user = np.searchsorted(self._first, rows, side="right") - 1
        stop = self._stop[user] - (rows - self._first[user]) * self._width
        return user, np.maximum(self._start[user], stop - self._width), stop


class Prefixes(Rows):
    """Every training item but a user's first as a target, with all that came before (RecBole).

    Args:
        splits: the training parts.
        max_length: L; histories are cut to their newest L items.
    """

    def __init__(self, splits: Splits, max_length: int):
        self._start = splits.start
        self._length = max_length
        self._first = np.concatenate(
            [[0], np.cumsum(np.maximum(splits.train_stop - splits.start - 1, 0))]
        )
        super().__init__(int(self._first[-1]))

    def ranges(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        user = np.searchsorted(self._first, rows, side="right") - 1
        stop = self._start[user] + 2 + rows - self._first[user]
        return user, np.maximum(self._start[user], stop - self._length - 1), stop


class Pairs(Rows):
    """Every training interaction alone (general recommenders)."""

    def __init__(self, splits: Splits):
        self._start = splits.start
        self._first = np.concatenate([[0], np.cumsum(splits.train_stop - splits.start)])
        super().__init__(int(self._first[-1]))

    def ranges(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        user = np.searchsorted(self._first, rows, side="right") - 1
        start = self._start[user] + rows - self._first[user]
        return user, start, start + 1
