"""VBPR (He & McAuley, "VBPR: Visual Bayesian Personalized Ranking from Implicit Feedback", AAAI
2016), as PixelRec runs it on stored features.

``s(u, i) = g_u . g_i + t_u . (E f_i) + b . f_i`` (their equation 4 without biases of user, item and
the whole): free vectors g of users and items, vectors t of users that meet a linear map of the
item's features f, and a visual bias. Half of ``embedding_size`` goes to each of the two products.
Training: BPR over all pairs of a user and a training item, negatives outside the user's history.

With ``x_u = [g_u; t_u; 1]`` and ``x_i = [g_i; E f_i; b . f_i]`` that is a dot product, so every
objective and every item encoder fits: a trained one makes it DVBPR (Kang et al., ICDM 2017).

Differences from the authors' code: no bias of user or item, as in PixelRec; ``projection_group:
encoder`` gives E and b a rate and decay of their own, as PixelRec does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from recbole_morec.models.base import MultimodalSequential
from recbole_morec.objectives import OBJECTIVES
from recbole_morec.user_encoders import History, UserEncoder


class VBPR(MultimodalSequential):
    """Free and visual vectors of users and items; see ``properties/model/VBPR.yaml``.

    ``embedding_size`` is even, and the objective compares users with item vectors.
    """

    chooses = ("objective",)
    transfer_parts: ClassVar = {
        **MultimodalSequential.transfer_parts,
        "item_embedding": "item_table",
        "visual": "projection",
        "visual_bias": "projection",
    }

    def __init__(self, config: Any, dataset: Any, load_weights: bool = True):
        super().__init__(config, dataset, load_weights)
        half = config["embedding_size"] // 2
        self.item_embedding = nn.Embedding(dataset.item_num, half)
        self.visual = nn.Linear(self.item_size, half, bias=False)
        self.visual_bias = nn.Linear(self.item_size, 1, bias=False)
        for module in (self.item_embedding, self.visual, self.visual_bias):
            nn.init.xavier_normal_(module.weight)

    @classmethod
    def unfit_settings(cls, values: Mapping[str, Any]) -> list[str]:
        problems = []
        if values["embedding_size"] % 2:
            problems.append(
                f"embedding_size={values['embedding_size']}: VBPR gives half of it to each part; "
                "choose an even number."
            )
        name = values["objective"]
        if OBJECTIVES.problem(name) is None and not OBJECTIVES.get(name).reads_vectors:
            problems.append(
                f"objective={name}: it reads no item vector, and the users of VBPR have a vector "
                "each, so that none would be learned; choose another."
            )
        return problems

    def build_user_encoder(self, config: Any, dataset: Any) -> UserEncoder:
        return _Users.from_config(config, dataset)

    def rows_by_id(self) -> frozenset[str]:
        return super().rows_by_id() | {"item_embedding.weight"}

    def projection_parameters(self) -> Iterator[nn.Parameter]:
        yield from super().projection_parameters()
        yield from self.visual.parameters()
        yield from self.visual_bias.parameters()

    def encode_items(self, content: dict[str, Tensor]) -> Tensor:
        """``[g_i; E f_i; b . f_i]``, ``[n, embedding_size + 1]``."""
        features = super().encode_items(content)
        free = self.item_embedding(content["items"])
        return torch.cat([free, self.visual(features), self.visual_bias(features)], dim=1)


class _Users(UserEncoder):
    """``[g_u; t_u; 1]`` of every user."""

    reads_history = False
    transferable = False
    targets = "each"

    def __init__(self, user_num: int, half: int):
        super().__init__()
        self.free = nn.Embedding(user_num, half)
        self.visual = nn.Embedding(user_num, half)
        for table in (self.free, self.visual):
            nn.init.xavier_normal_(table.weight)

    @classmethod
    def from_config(cls, config: Any, dataset: Any) -> _Users:
        return cls(dataset.user_num, config["embedding_size"] // 2)

    def forward(self, history: History) -> Tensor:
        free, visual = self.free(history.user), self.visual(history.user)  # [B, d / 2]
        state = torch.cat([free, visual, free.new_ones(len(free), 1)], dim=1)
        return state[:, None].expand(-1, history.mask.shape[1], -1)
