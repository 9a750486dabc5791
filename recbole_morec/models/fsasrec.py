"""FSASRec (PixelRec's ViNet): SASRec on stored features.

``e_i = ReLU(W f_i + b)``; with ``item_encoder: [features, id]`` PixelRec's hybrid; with
``item_encoder: codes`` its semantic codes.
"""

from __future__ import annotations

from recbole_morec.models.base import MultimodalSequential


class FSASRec(MultimodalSequential):
    """Stored features and SASRec; see ``properties/model/FSASRec.yaml``."""
