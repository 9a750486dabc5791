"""CuratorNet (Messina et al., ComplexRec 2020), as PixelRec runs it on stored features.

An item is its features through two SELU layers. A user is the history's items, pooled by maximum
and by mean, through three more; the score is their dot product. In training each item of a row is
predicted from all others of it. Training: BPR.

Padding takes no part in the pooling; with ``pad_vector: encoded`` it does, as published (features
of zeros through the SELU layers).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from recbole_morec.models.base import MultimodalSequential
from recbole_morec.user_encoders import History, UserEncoder


class CuratorNet(MultimodalSequential):
    """Shared item tower and a profile tower; see ``properties/model/CuratorNet.yaml``."""

    def __init__(self, config: Any, dataset: Any, load_weights: bool = True):
        super().__init__(config, dataset, load_weights)
        dim = config["embedding_size"]
        self.shared = _selu_layers(self.item_encoder.dim, dim, dim)

    def build_user_encoder(self, config: Any, dataset: Any) -> UserEncoder:
        return _Profile.from_config(config, dataset)

    def encode_items(self, content: dict[str, Tensor]) -> Tensor:
        return self.shared(super().encode_items(content))


class _Profile(UserEncoder):
    """Pooled item vectors -> state.

    Args:
        dim: d.
        width: of the hidden layers.
        reads_padding: padding takes part in the pooling.
    """

    targets = "each"

    def __init__(self, dim: int, width: int, reads_padding: bool = False):
        super().__init__()
        self.reads_padding = reads_padding
        self.layers = _selu_layers(2 * dim, width, width, dim)

    @classmethod
    def from_config(cls, config: Any, dataset: Any) -> _Profile:
        dim = config["embedding_size"]
        return cls(dim, 2 * dim, config["pad_vector"] == "encoded")

    def forward(self, history: History) -> Tensor:
        return self.layers(self.pooled(history))

    def pooled(self, history: History) -> Tensor:
        """Maximum and mean of the items that a slot may read, ``[B, S, 2 d]``."""
        vectors, mask = history.vectors, history.mask
        length = mask.shape[1]
        read = torch.ones_like(mask) if self.reads_padding else mask
        read = read[:, None].expand(-1, length, -1)  # [B, slot, slot that it reads]
        if history.mode == "train":
            read = read & ~torch.eye(length, dtype=torch.bool, device=mask.device)
        each = vectors[:, None].expand(-1, length, -1, -1)
        lowest = torch.finfo(vectors.dtype).min
        largest = each.masked_fill(~read[..., None], lowest).amax(2)
        some = read.any(2, keepdim=True)  # a slot that reads nothing is no target
        share = read.to(vectors.dtype) / read.sum(2, keepdim=True).clamp_min(1)
        mean = share @ vectors
        return torch.cat([largest.masked_fill(~some, 0.0), mean], dim=2)


def _selu_layers(*sizes: int) -> nn.Sequential:
    layers = []
    for size, following in pairwise(sizes):
        linear = nn.Linear(size, following)
        nn.init.xavier_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.SELU()]
    return nn.Sequential(*layers)
