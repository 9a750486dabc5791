"""Stored states of a frozen encoder, or of the frozen part of one, as item content."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from recbole_morec.data.content.state_store import StateStore


class StateReader:
    """States of items, out of a state store.

    Args:
        key: what they are called in the content; their mask is ``<key>_mask``.
        store: the states of all items.
        vector: an item has one state, given as ``[n, D]``.
        mask: give the mask of the real states too.
    """

    def __init__(self, key: str, store: StateStore, vector: bool = False, mask: bool = True):
        self._store = store
        self._vector = vector and store.longest == 1
        self._mask = mask and not vector
        self.keys = (key, f"{key}_mask") if self._mask else (key,)

    def fetch(self, items: np.ndarray) -> tuple[Tensor, ...]:
        """States ``[n, T, D]`` (or ``[n, D]``) and the mask ``[n, T]`` of the real ones."""
        states, mask = self._store.fetch(items)
        if self._vector:
            states = states[:, 0]
        return (states, mask) if self._mask else (states,)
