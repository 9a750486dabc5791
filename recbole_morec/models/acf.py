"""ACF (Chen et al., "Attentive Collaborative Filtering", SIGIR 2017), as PixelRec runs it.

Two attentions, of the user u over the regions of each item l in the history and over its items:

``beta_lm = softmax_m(w_1 . ReLU(W_1 u + V_1 x_lm))``, ``x_l = sum_m beta_lm x_lm``;
``alpha_l = softmax_l(w_2 . ReLU(W_2 u + P p_l + X x_l))``; state = ``W_2 u + sum_l alpha_l p_l``.

``p`` is a free vector per item, the same for candidates and profile, and ``x_lm`` a region's
features through a linear layer and ReLU. In training each item of a row is predicted from all
others of it. Training: BPR. As published, the state holds the transformed user vector, not the
vector itself.

The item encoder gives the regions: stored maps ``[N, R, D]``, or the tokens of a trained one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from recbole_morec.models.base import MultimodalSequential
from recbole_morec.objectives import positions
from recbole_morec.user_encoders import History, UserEncoder, training_history


class ACF(MultimodalSequential):
    """Attention over regions and items; see ``properties/model/ACF.yaml``.

    An item is ``[1 + R, d]``: its free vector, then its regions.
    """

    def __init__(self, config: Any, dataset: Any, load_weights: bool = True):
        super().__init__(config, dataset, load_weights)
        dim = config["embedding_size"]
        self.item_embedding = nn.Embedding(dataset.item_num, dim, padding_idx=0)
        nn.init.xavier_normal_(self.item_embedding.weight)
        self.region = _linear(_token_width(self.item_encoder), dim)

    def build_user_encoder(self, config: Any, dataset: Any) -> UserEncoder:
        return _Attention.from_config(config, dataset)

    def rows_by_id(self) -> frozenset[str]:
        return super().rows_by_id() | {"item_embedding.weight"}

    def encode_items(self, content: dict[str, Tensor]) -> Tensor:
        """``[n, 1 + R, d]``."""
        regions, _ = self.item_encoder.tokens(content)  # [n, R, D]
        free = self.item_embedding(content["items"])
        return torch.cat([free[:, None], torch.relu(self.region(regions))], dim=1)

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
    """The two attentions, over item vectors ``[B, S, 1 + R, d]``."""

    needs = frozenset({"user"})
    transferable = False
    targets = "each"

    def __init__(self, user_num: int, dim: int):
        super().__init__()
        self.embedding = nn.Embedding(user_num, dim)
        nn.init.xavier_normal_(self.embedding.weight)
        self.region_of, self.region_user, self.region_weight = (
            _linear(dim, dim), _linear(dim, dim), _linear(dim, 1),
        )  # fmt: skip
        self.item_user, self.item_free, self.item_seen, self.item_weight = (
            _linear(dim, dim), _linear(dim, dim), _linear(dim, dim), _linear(dim, 1),
        )  # fmt: skip

    @classmethod
    def from_config(cls, config: Any, dataset: Any) -> _Attention:
        return cls(dataset.user_num, config["embedding_size"])

    def forward(self, history: History) -> Tensor:
        free, regions = history.vectors[:, :, 0], history.vectors[:, :, 1:]
        user = self.embedding(history.user)  # [B, d]
        asked = self.region_user(user)[:, None, None]
        beta = self.region_weight(torch.relu(self.region_of(regions) + asked)).softmax(2)
        seen = (beta * regions).sum(2)  # [B, S, d]
        own = self.item_user(user)
        read = torch.relu(own[:, None] + self.item_free(free) + self.item_seen(seen))
        weight = self.item_weight(read)[..., 0]  # [B, S]
        return own[:, None] + self._shares(weight, history) @ free

    def _shares(self, weight: Tensor, history: History) -> Tensor:
        """alpha for every slot: over the items that it may read, ``[B, S, S]``."""
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


@torch.no_grad()
def _token_width(encoder: nn.Module) -> int:
    probe = getattr(encoder, "probe_content", None)
    content = probe() if probe else {"items": torch.zeros(1, dtype=torch.long)}
    return encoder.tokens(content)[0].shape[-1]
