"""Sampled candidates: RecBole's ``uni100`` and ``pop100`` evaluation modes."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from recbole_morec.data.dataset import MultimodalDataset


def sample_candidates(
    dataset: MultimodalDataset, phase: str, users: np.ndarray, seed: int
) -> Tensor:
    """Candidates of each user: the target and distinct items drawn for that user.

    As in RecBole for sequential models, only the target itself is never drawn; items of the
    history may be. RecBole draws with replacement, we draw distinct items, so that a list of k
    among n + 1 candidates means the same for everyone. Sampled metrics do not order models as full
    ranking does (Krichene & Rendle, KDD 2020).

    Args:
        dataset: its protocol names the mode, ``uniN`` or ``popN``.
        users: internal user ids ``[T]``; the draws are a function of (seed, phase, user).

    Returns:
        ``[T, N]`` bool.
    """
    mode = dataset.protocol.eval_mode
    kind, count = mode[:3], int(mode[3:])
    items = np.flatnonzero(dataset.candidates)
    weight = None
    if kind == "pop":
        weight = dataset.train_counts[items].astype(np.float64)
        weight /= weight.sum()
    drawable = len(items) if weight is None else int((weight > 0).sum())
    count = min(count, drawable - 1)
    position = np.searchsorted(dataset.splits.users[phase], users)
    targets = dataset.histories.items[dataset.splits.targets[phase][position]]
    allowed = np.zeros((len(users), dataset.item_num), dtype=bool)
    for row, (user, target) in enumerate(zip(users, targets, strict=True)):
        rng = np.random.Generator(np.random.PCG64([seed, zlib.crc32(phase.encode()), int(user)]))
        drawn = rng.choice(items, size=count + 1, replace=False, p=weight)
        allowed[row, drawn[drawn != target][:count]] = True
        allowed[row, target] = True
    return torch.from_numpy(allowed)
