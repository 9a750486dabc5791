"""The last step of every item encoder: encoder width ``D`` -> item vector ``d``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "none": nn.Identity,
}


class Projection(nn.Module):
    """Linear layers, each followed by the activation, the last one too.

    PixelRec: ``ReLU(W x + b)``; MoRec: ``GELU(W x + b)``; NineRec's fusion: ``W x + b`` (``none``).
    Weights start Xavier-normal and biases at zero, as published.

    Args:
        width: size ``D`` of what comes in (the last dimension).
        dim: size ``d`` of an item vector.
        hidden: sizes of hidden layers between the two, ``()`` for a single Linear.
        activation: one of :data:`ACTIVATIONS`.
    """

    def __init__(self, width: int, dim: int, hidden: Sequence[int] = (), activation: str = "relu"):
        super().__init__()
        sizes = [width, *hidden, dim]
        self.layers = nn.ModuleList(
            nn.Linear(size_in, size_out) for size_in, size_out in pairwise(sizes)
        )
        self.activation = ACTIVATIONS[activation]()
        for layer in self.layers:
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., D]`` -> ``[..., d]``."""
        for layer in self.layers:
            x = self.activation(layer(x))
        return x
