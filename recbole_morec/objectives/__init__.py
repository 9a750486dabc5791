"""Objectives: states, item vectors and targets -> loss. One file each; importing registers them."""

from recbole_morec.objectives import bpr, in_batch
from recbole_morec.objectives.base import OBJECTIVES, Objective

__all__ = ["OBJECTIVES", "Objective", "bpr", "in_batch"]
