"""ACF (Chen et al., "Attentive Collaborative Filtering: Multimedia Recommendation with Item- and
Component-Level Attention", SIGIR 2017), as PixelRec runs it on stored feature maps.

Two attentions of the user u, over the regions m of each item l of the history (component-level,
their equations 9 and 10) and over its items (item-level, 6 and 7)::

    beta_lm = softmax_m(w . ReLU(W_u u + W_x x_lm)),          x_l = sum_m beta_lm x_lm
    alpha_l = softmax_l(v . ReLU(V_u u + V_p p_l + V_x x_l)), state = V_u u + sum_l alpha_l p_l

``p`` is a free vector per item and ``x_lm = ReLU(W f_lm + b)`` a region's features through the item
encoder's projection. The score of item i is ``state . p_i``. In training each item of a row is
predicted from all others of it, BPR.

The item encoder gives the regions: stored maps ``[N, R, D]`` or ``[N, H, W, D]``, vectors as the
only region, or the places of an image encoder's last map (``pooling`` has no effect).

Differences from the authors' code, all PixelRec's: the state holds the transformed user vector
``V_u u``, not u; items and profile share one table; the item-level attention reads no item vector
beside the profile's.

Known limit: at evaluation the regions of all items lie on the device, ``N (1 + R) d`` numbers.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from recbole_morec.errors import ConfigError
from recbole_morec.item_encoders import ItemEncoder
from recbole_morec.item_encoders.base import TextNeed
from recbole_morec.models.base import MultimodalSequential
from recbole_morec.objectives import positions
from recbole_morec.user_encoders import History, UserEncoder, training_history


class ACF(MultimodalSequential):
    """Attention over regions and items; see ``properties/model/ACF.yaml``.

    An item is ``[1 + R, d]``: its free vector, then its regions.

    Raises:
        ConfigError: the item encoder gives no regions, or ``item_tower`` is set.
    """

    chooses = ("objective",)
    transfer_parts: ClassVar = {
        **MultimodalSequential.transfer_parts,
        "item_embedding": "item_table",
    }

    def __init__(self, config: Any, dataset: Any, load_weights: bool = True):
        super().__init__(config, dataset, load_weights)
        dim = config["embedding_size"]
        self.item_embedding = nn.Embedding(dataset.item_num, dim)
        nn.init.xavier_normal_(self.item_embedding.weight)
        if self.item_tower is not None:
            raise ConfigError("item_tower: ACF compares free vectors of items; leave it out.")

    def build_item_encoder(self, config: Any, dataset: Any, load_weights: bool) -> ItemEncoder:
        if not isinstance(config["item_encoder"], str):
            raise ConfigError(
                f"item_encoder={config['item_encoder']}: ACF reads the regions of one encoder."
            )
        # All of a backbone that regions depend on trains, nothing that only a pooling would read.
        settings = {**config.final_config_dict, "pooling": "project_mean"}
        encoder = super().build_item_encoder(settings, dataset, load_weights)
        if any(isinstance(need, TextNeed) for need in encoder.needs):
            raise ConfigError(
                f"item_encoder={config['item_encoder']}: ACF reads regions, and a text has none; "
                "use an image encoder, or features with maps [items, R, D]."
            )
        return encoder

    def build_user_encoder(self, config: Any, dataset: Any) -> UserEncoder:
        super().build_user_encoder(config, dataset)  # for its check of sizes
        return _Attention.from_config(config, dataset)

    def rows_by_id(self) -> frozenset[str]:
        return super().rows_by_id() | {"item_embedding.weight"}

    def encode_items(self, content: dict[str, Tensor]) -> Tensor:
        """``[n, 1 + R, d]``."""
        regions, _ = self.item_encoder.tokens(content)  # [n, R, D]
        free = self.item_embedding(content["items"])
        return torch.cat([free[:, None], self.item_encoder.projection(regions)], dim=1)

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """``[B, n]`` of states ``[B, d]`` and items ``[n, 1 + R, d]``."""
        return users @ items[:, 0].T

    def calculate_loss(self, batch: dict[str, Any]) -> Tensor:
        batch, vectors = self.encode_batch(batch)  # [1 + n, 1 + R, d]
        history = training_history(batch, vectors, self.user_encoder)
        predicted = positions(batch, self.user_encoder.offset)
        free = vectors[:, 0]
        if len(batch["item_seq"]) == 0:
            return self.objective(history.vectors[:, :, 0], predicted, free, batch) + self.nothing()
        return self.objective(self.user_encoder(history), predicted, free, batch)


class _Attention(UserEncoder):
    """The two attentions, over items ``[B, S, 1 + R, d]``."""

    transferable = False
    targets = "each"

    def __init__(self, user_num: int, dim: int):
        super().__init__()
        self.embedding = nn.Embedding(user_num, dim)
        nn.init.xavier_normal_(self.embedding.weight)
        self.region_user, self.region_own = _linear(dim, dim), _linear(dim, dim)  # W_u, W_x
        self.region_weight = _linear(dim, 1)  # w
        self.item_user, self.item_free = _linear(dim, dim), _linear(dim, dim)  # V_u, V_p
        self.item_seen, self.item_weight = _linear(dim, dim), _linear(dim, 1)  # V_x, v

    @classmethod
    def from_config(cls, config: Any, dataset: Any) -> _Attention:
        return cls(dataset.user_num, config["embedding_size"])

    def forward(self, history: History) -> Tensor:
        free, regions = history.vectors[:, :, 0], history.vectors[:, :, 1:]
        user = self.embedding(history.user)  # [B, d]
        asked = self.region_user(user)[:, None, None]
        beta = self.region_weight(torch.relu(self.region_own(regions) + asked)).softmax(2)
        seen = (beta * regions).sum(2)  # [B, S, d]
        own = self.item_user(user)[:, None]
        read = torch.relu(own + self.item_free(free) + self.item_seen(seen))
        return own + self.alpha(self.item_weight(read)[..., 0], history) @ free

    def alpha(self, weight: Tensor, history: History) -> Tensor:
        """Shares ``[B, S, S]`` of the items that each slot may read, out of weights ``[B, S]``."""
        length = weight.shape[1]
        allowed = history.mask[:, None].expand(-1, length, -1)
        if history.mode == "train":
            allowed = allowed & ~torch.eye(length, dtype=torch.bool, device=weight.device)
        scores = weight[:, None].masked_fill(~allowed, torch.finfo(weight.dtype).min)
        return scores.softmax(2) * allowed


def _linear(size: int, following: int) -> nn.Linear:
    linear = nn.Linear(size, following)
    nn.init.xavier_normal_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
