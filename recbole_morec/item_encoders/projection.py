"""The last step of every item encoder: encoder width ``D`` -> item vector ``d``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from recbole_morec.item_encoders.settings import EncoderSettings

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "leaky_relu": nn.LeakyReLU,
    "none": nn.Identity,
}


class Projection(nn.Module):
    """Linear layers, each followed by the activation, the last one too.

    PixelRec: ``ReLU(W x + b)``; MoRec: ``GELU(W x + b)``, in its two-stage tower followed by
    layers ``[Dropout -> Linear(d, d) -> GELU]``; NineRec's fusion: ``W x + b`` (``none``).
    Weights start Xavier-normal and biases at zero, as published.

    Args:
        width: size ``D`` of what comes in (the last dimension).
        dim: size ``d`` of an item vector.
        hidden: sizes of hidden layers between the two, ``()`` for a single Linear.
        activation: one of :data:`ACTIVATIONS`.
        dropout: rate of a dropout before every layer that reads an item vector or a hidden one.
        reads_vectors: what comes in is item vectors already (of a fusion's members), so that the
            first layer has the dropout too.
    """

    def __init__(
        self,
        width: int,
        dim: int,
        hidden: Sequence[int] = (),
        activation: str = "relu",
        dropout: float = 0.0,
        reads_vectors: bool = False,
    ):
        super().__init__()
        sizes = [width, *hidden, dim]
        self.layers = nn.ModuleList(
            nn.Linear(size_in, size_out) for size_in, size_out in pairwise(sizes)
        )
        self.activation = ACTIVATIONS[activation]()
        self.dropout = nn.Dropout(dropout)
        self.reads_vectors = reads_vectors
        for layer in self.layers:
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., D]`` -> ``[..., d]``."""
        for place, layer in enumerate(self.layers):
            if place > 0 or self.reads_vectors:
                x = self.dropout(x)
            x = self.activation(layer(x))
        return x


def make_projection(
    width: int, settings: EncoderSettings, reads_vectors: bool = False
) -> tuple[nn.Module, int]:
    """Return the projection that the settings of an encoder ask for, and the size it gives.

    ``projection_layers: none`` leaves vectors as they are, ``width`` numbers.
    """
    if settings.projection_layers is None:
        return nn.Identity(), width
    projection = Projection(
        width,
        settings.embedding_size,
        settings.projection_layers,
        settings.activation,
        settings.projection_dropout,
        reads_vectors,
    )
    return projection, settings.embedding_size
