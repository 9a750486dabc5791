"""FSASRec: SASRec (Kang & McAuley, ICDM 2018) on stored features, as PixelRec's ViNet runs it.

An item's vector is made of what is stored of it, in one of PixelRec's three ways:

``e_i = ReLU(W f_i + b)``               ``item_encoder: features`` (its ``freeze_model``)
``e_i = ReLU(W [f_i; id_i] + b)``       ``item_encoder: [features, id]``, ``fusion: concat``,
                                        ``projection_layers: {features: none}`` (``hybrid_model``)
``e_i = mean over c of E[c, code(i, c)]``  ``item_encoder: codes`` (``semantic_model``)

BPR with one negative per position, summed over the positions of a window.

Differences from the authors' code: features and codes are found by item token, not by the order in
which one particular file happens to list the items.
"""

from __future__ import annotations

from recbole_morec.models.base import MultimodalSequential


class FSASRec(MultimodalSequential):
    """Stored features and SASRec; see ``properties/model/FSASRec.yaml``."""
