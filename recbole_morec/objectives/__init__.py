"""Objectives: states, item vectors and targets -> loss. One file each; importing registers them."""

from recbole_morec.objectives import bce, bpr, in_batch
from recbole_morec.objectives.base import OBJECTIVES, Objective, Positions, positions

__all__ = ["OBJECTIVES", "Objective", "Positions", "bce", "bpr", "in_batch", "positions"]
