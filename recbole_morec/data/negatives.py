"""Uniform negatives that a row does not hold, as a function of (seed, epoch, row)."""

from __future__ import annotations

import numpy as np

from recbole_morec.errors import DataError
from recbole_morec.randomness import random_integers, stream

_MOST_ATTEMPTS = 200


def draw_negatives(
    candidates: np.ndarray,
    windows: np.ndarray,
    rows: np.ndarray,
    wanted: np.ndarray,
    count: int,
    *,
    seed: int,
    epoch: int,
) -> np.ndarray:
    """Draw items that do not stand in the row's own window.

    Args:
        candidates: item ids to draw from.
        windows: ``[B, W]`` items that row b may not draw.
        rows: ``[B]`` global row numbers; with seed and epoch they fix the draws.
        wanted: ``[B, S]`` bool, the slots that need negatives; a slot's draws do not depend on
            what other slots want.
        count: negatives per slot.

    Returns:
        int64 ``[B, S, count]``, 0 at the other slots.

    Raises:
        DataError: a window holds (nearly) every candidate.
    """
    draws = np.zeros((*wanted.shape, count), dtype=np.int64)
    open_ = np.repeat(wanted[:, :, None], count, axis=2)
    for attempt in range(_MOST_ATTEMPTS):
        b, t, k = np.nonzero(open_)
        if len(b) == 0:
            return draws
        key = stream(seed, "negatives", epoch, attempt)
        place = (t - 1) % draws.shape[1] * count + k  # the first slot, rarely a target, counts last
        picked = candidates[random_integers(key, len(candidates), rows[b], place)]
        draws[b, t, k] = picked
        open_[b, t, k] = (windows[b] == picked[:, None]).any(1)
    raise DataError(
        f"No negative item was found for {int(open_.any((1, 2)).sum())} training rows in "
        f"{_MOST_ATTEMPTS} draws: their windows hold nearly all {len(candidates)} items. "
        "Use objective=in_batch, a smaller MAX_ITEM_LIST_LENGTH or more items."
    )
