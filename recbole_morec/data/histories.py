"""Histories of all users in one CSR structure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Histories:
    """Items of every user in time order.

    The items of user u are ``items[offsets[u]:offsets[u + 1]]``; user 0 is padding and has none.

    Args:
        items: internal item ids ``[M]`` int32.
        offsets: ``[U + 1]`` int64, U counting the padding user.
    """

    items: np.ndarray
    offsets: np.ndarray

    @classmethod
    def open(cls, folder: Path) -> Histories:
        """Map ``items.npy`` and ``offsets.npy`` of a folder into memory."""
        return cls(
            np.load(folder / "items.npy", mmap_mode="r"),
            np.load(folder / "offsets.npy", mmap_mode="r"),
        )

    def __reduce__(self) -> tuple:
        # A spawned worker maps the files itself, where they are still there, in place of a copy.
        file = getattr(self.items, "filename", None)
        if file is not None and Path(file).is_file():
            return Histories.open, (Path(file).parent,)
        return Histories, (np.array(self.items), np.array(self.offsets))

    @property
    def user_num(self) -> int:
        """Number of users, padding user included."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Interactions per user ``[U]``."""
        return np.diff(self.offsets)

    def of(self, user: int) -> np.ndarray:
        """Items of one user, oldest first."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]


def gather_left_padded(
    items: np.ndarray, starts: np.ndarray, stops: np.ndarray, width: int
) -> np.ndarray:
    """Cut ``items[start:stop]`` for every row into a matrix padded on the left with 0.

    Args:
        items: flat item ids.
        starts, stops: ``[B]``; only the newest ``width`` items of a row are kept.
        width: number of slots.

    Returns:
        int64 ``[B, width]``.
    """
    position = stops[:, None] - width + np.arange(width)[None, :]
    real = position >= starts[:, None]
    return np.where(real, items[np.where(real, position, 0)], 0).astype(np.int64)
