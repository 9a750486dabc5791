"""DSSM as PixelRec and NineRec run it on histories: the mean of the items through a tower.

In training each item of a row is predicted from the mean of all other items of it, later ones too.
(The other DSSM, whose user side is a table of users, is ``UserID``.)

Differences from the authors' code: PixelRec's ID version computes the loss of the first row of a
batch alone; here every row counts, as in its image version.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from recbole_morec.user_encoders.base import USER_ENCODERS, History, UserEncoder
from recbole_morec.user_encoders.tower import TOWER_SETTINGS, tower_of, tower_size


@USER_ENCODERS.register("DSSM")
class DSSM(UserEncoder):
    """Mean of a history's item vectors -> tower.

    Args:
        tower: ``[..., d]`` -> ``[..., d]``.
    """

    reads = TOWER_SETTINGS
    targets = "each"

    def __init__(self, tower: nn.Module):
        super().__init__()
        self.tower = tower

    @classmethod
    def from_config(cls, config: Any, dataset: Any) -> DSSM:
        return cls(tower_of(config, config["embedding_size"]))

    @classmethod
    def state_size(cls, config: Any) -> int:
        return tower_size(config, config["embedding_size"])

    def forward(self, history: History) -> Tensor:
        total, count = others(history)
        mean = total / count.clamp_min(1)[..., None]
        # The tower sees no padding (nor does its BatchNorm), and no state that nobody reads.
        read = torch.zeros_like(history.mask) if history.newest_only else history.mask.clone()
        read[:, -1] = True
        found = self.tower(mean[read])  # [M, d]
        states = found.new_zeros(*read.shape, found.shape[-1])
        return states.masked_scatter(read[..., None], found)


def others(history: History) -> tuple[Tensor, Tensor]:
    """For every slot the sum of the other items' vectors ``[B, S, d]`` and their number ``[B, S]``.

    When predicting nothing is left out: every slot has the sum of the whole history.
    """
    vectors = history.vectors * history.mask[..., None]
    total, count = vectors.sum(1, keepdim=True), history.mask.sum(1, keepdim=True)
    if history.mode == "train":
        return total - vectors, count - history.mask.long()
    return total.expand_as(vectors), count.expand_as(history.mask)
