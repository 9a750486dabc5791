"""CuratorNet (Messina et al., "CuratorNet: Visually-aware Recommendation of Art Images", ComplexRec
at RecSys 2020), as PixelRec runs it on stored features.

An item is its features through two SELU layers. A user is the history's items, pooled by maximum
and by mean, through three more; the score is their dot product. No parameter belongs to a user or
an item, so that a trained model serves new ones. In training each item of a row is predicted from
all others of it, BPR.

Differences from the authors' code: padding takes no part in the pooling. With ``pad_vector:
encoded`` it does, as PixelRec publishes it (features of zeros through the SELU layers).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from recbole_morec.models.base import MultimodalSequential
from recbole_morec.user_encoders import History, UserEncoder


class CuratorNet(MultimodalSequential):
    """Shared item tower and a profile tower; see ``properties/model/CuratorNet.yaml``."""

    chooses = ("objective",)
    transfer_parts: ClassVar = {**MultimodalSequential.transfer_parts, "shared": "projection"}

    def __init__(self, config: Any, dataset: Any, load_weights: bool = True):
        super().__init__(config, dataset, load_weights)
        dim = config["embedding_size"]
        self.shared = _selu_layers(self.item_size, dim, dim)

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
        """Maximum and mean of the items that a slot may read, ``[B, S, 2 d]``.

        In training a slot reads all others: its maximum is the second largest where its own item
        has the largest.
        """
        vectors = history.vectors
        read = torch.ones_like(history.mask) if self.reads_padding else history.mask
        read = read[..., None]  # [B, S, 1]
        barred = vectors.masked_fill(~read, torch.finfo(vectors.dtype).min)
        total, count = (vectors * read).sum(1, keepdim=True), read.sum(1, keepdim=True)
        if history.mode == "predict":
            largest = barred.amax(1, keepdim=True)
        else:
            value, place = barred.topk(2, dim=1)  # [B, 2, d]
            own = torch.arange(vectors.shape[1], device=place.device)[:, None] == place[:, :1]
            largest = torch.where(own, value[:, 1:], value[:, :1])  # [B, S, d]
            total, count = total - vectors * read, count - read.long()
        mean = total / count.clamp_min(1)
        both = torch.cat([largest.masked_fill(count == 0, 0.0), mean], dim=2)
        return both.expand(-1, vectors.shape[1], -1)


def _selu_layers(*sizes: int) -> nn.Sequential:
    layers = []
    for size, following in pairwise(sizes):
        linear = nn.Linear(size, following)
        nn.init.xavier_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.SELU()]
    return nn.Sequential(*layers)
