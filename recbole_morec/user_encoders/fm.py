"""Factorisation machine (Rendle, ICDM 2010) over the items of a history, as PixelRec runs it.

The score of a set of items is the sum of the dot products of all its pairs, ``1/2 sum_d ((sum_i
v_i)^2 - sum_i v_i^2)``. Of a history h and a candidate i it is the score of h alone plus
``(sum_h v) . v_i``, and the former is the same for every candidate. So a state is the sum of the
other items, and all losses that compare candidates of one user, and all rankings, are those of the
FM score.

Differences from the authors' code: its ID version computes the loss of the first row of a batch
alone; here every row counts.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from recbole_morec.user_encoders.base import USER_ENCODERS, History, UserEncoder
from recbole_morec.user_encoders.dssm import others


@USER_ENCODERS.register("FM")
class FM(UserEncoder):
    """Sum of a history's item vectors."""

    reads = frozenset()
    targets = "each"

    @classmethod
    def from_config(cls, config: Any, dataset: Any) -> FM:
        return cls()

    def forward(self, history: History) -> Tensor:
        return others(history)[0]
