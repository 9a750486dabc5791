"""Objectives: states, item vectors and targets -> loss. One file each; importing registers them."""

from recbole_morec.objectives import (  # noqa: F401 - registers them
    bce,
    bpr,
    full_softmax,
    gbce,
    in_batch,
    item_head,
    sampled_softmax,
)
from recbole_morec.objectives.base import OBJECTIVES, Objective, Positions, positions

__all__ = ["OBJECTIVES", "Objective", "Positions", "positions"]
