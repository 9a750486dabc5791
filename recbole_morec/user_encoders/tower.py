"""A tower: the multi-layer perceptron of two-tower models, on the user's side or the items'."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from recbole_morec.item_encoders.projection import ACTIVATIONS

TOWER_SETTINGS = frozenset(
    {"tower_layers", "tower_activation", "tower_batch_norm", "hidden_dropout_prob"}
)


def tower(
    dim: int,
    layers: Sequence[int],
    activation: str = "relu",
    batch_norm: bool = False,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Layers of Dropout, Linear, BatchNorm (or none) and activation, the last one too.

    PixelRec's DSSM: ReLU; its MF: BatchNorm and tanh, as NineRec's DSSM; IDvs.MoRec's DSSM: GELU.
    Weights start Xavier-normal, biases at 0. BatchNorm takes its statistics over the batch of one
    process, as published.

    Args:
        dim: size of what comes in.
        layers: sizes of the layers; none gives back what comes in.
    """
    tower = nn.Sequential()
    for size, following in pairwise([dim, *layers]):
        linear = nn.Linear(size, following)
        nn.init.xavier_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        norm = [_BatchNorm(following)] if batch_norm else []
        tower.append(nn.Sequential(nn.Dropout(dropout), linear, *norm, ACTIVATIONS[activation]()))
    return tower


def tower_of(config: Any, dim: int) -> nn.Sequential:
    """The tower that the settings describe."""
    return tower(
        dim,
        config["tower_layers"],
        config["tower_activation"],
        config["tower_batch_norm"],
        config["hidden_dropout_prob"],
    )


def tower_size(config: Any, dim: int) -> int:
    """Size of what that tower gives."""
    return config["tower_layers"][-1] if config["tower_layers"] else dim


class _BatchNorm(nn.BatchNorm1d):
    """BatchNorm that reads a batch of one row, as the last of an epoch may be, with its running
    statistics."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) == 1:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(x)
