"""A tower: the multi-layer perceptron of two-tower models, on the user's side or the items'."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import nn

from recbole_morec.item_encoders.projection import ACTIVATIONS


def tower(
    dim: int,
    layers: Sequence[int],
    activation: str = "relu",
    batch_norm: bool = False,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Layers of Dropout, Linear, BatchNorm (or none) and activation, the last one too.

    PixelRec's DSSM: ReLU; its MF: BatchNorm and tanh, as NineRec's DSSM; IDvs.MoRec's DSSM: GELU.
    Weights start Xavier-normal, biases at 0.

    Args:
        dim: size of what comes in.
        layers: sizes of the layers; none gives back what comes in.
    """
    tower = nn.Sequential()
    for size, following in pairwise([dim, *layers]):
        linear = nn.Linear(size, following)
        nn.init.xavier_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        norm = [nn.BatchNorm1d(following)] if batch_norm else []
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
