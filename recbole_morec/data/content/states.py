"""Stored states of a frozen encoder as item content."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from recbole_morec.data.content.state_store import StateStore


class StateReader:
    """Token states of items, out of a state store.

    Args:
        modality: ``image`` or ``text``; names the keys ``<modality>_states`` and
            ``<modality>_states_mask``.
        store: the states of all items.
    """

    def __init__(self, modality: str, store: StateStore):
        self.keys = (f"{modality}_states", f"{modality}_states_mask")
        self._store = store

    def fetch(self, items: np.ndarray) -> tuple[Tensor, Tensor]:
        """States ``[n, T, D]`` and the mask ``[n, T]`` of the real ones."""
        return self._store.fetch(items)
