"""MF: matrix factorisation with BPR (Rendle et al., UAI 2009), on any item encoder.

``s(u, i) = p_u . e_i`` (PixelRec's MF and MOMF); ``tower_layers`` puts a tower after the user's
vector and ``item_tower`` one after the item's.
"""

from __future__ import annotations

from recbole_morec.models.base import MultimodalSequential


class MF(MultimodalSequential):
    """A vector per user and an item encoder; see ``properties/model/MF.yaml``."""
