"""DSSM (Huang et al., CIKM 2013): two towers.

The user's reads the mean of the history (PixelRec's DSSM and MODSSM, NineRec's variant), or with
``user_encoder: UserID`` a vector per user (IDvs.MoRec's and NineRec's).
"""

from __future__ import annotations

from recbole_morec.models.base import MultimodalSequential


class DSSM(MultimodalSequential):
    """Mean of the history against an item encoder; see ``properties/model/DSSM.yaml``."""
