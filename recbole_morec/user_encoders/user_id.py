"""A vector per user: the user side of MF (PixelRec) and of DSSM (IDvs.MoRec, NineRec).

MF (Rendle et al., UAI 2009): the user's vector itself. DSSM (Huang et al., CIKM 2013): a tower on
it; where items are IDs they have a second tower of the same shape (``item_tower``). Every training
item of a user is a target. It reads no history, so it knows only the users that it was trained on.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from recbole_morec.user_encoders.base import USER_ENCODERS, History, UserEncoder
from recbole_morec.user_encoders.tower import TOWER_SETTINGS, tower_of, tower_size


@USER_ENCODERS.register("UserID")
class UserID(UserEncoder):
    """A table of users -> tower.

    Args:
        user_num: rows of the table, padding included.
        dim: size of a row; ``[..., dim]`` is what the tower takes.
        tower: gives states ``[..., d]``.
    """

    reads = TOWER_SETTINGS
    reads_history = False
    transferable = False
    targets = "each"

    def __init__(self, user_num: int, dim: int, tower: nn.Module):
        super().__init__()
        self.embedding = nn.Embedding(user_num, dim)
        nn.init.xavier_normal_(self.embedding.weight)
        self.tower = tower

    @classmethod
    def from_config(cls, config: Any, dataset: Any) -> UserID:
        dim = config["embedding_size"]
        return cls(dataset.user_num, dim, tower_of(config, dim))

    @classmethod
    def state_size(cls, config: Any) -> int:
        return tower_size(config, config["embedding_size"])

    def forward(self, history: History) -> Tensor:
        state = self.tower(self.embedding(history.user))  # [B, d]
        return state[:, None].expand(-1, history.mask.shape[1], -1)
