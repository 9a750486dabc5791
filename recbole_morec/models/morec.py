"""MoRec (Yuan et al., "Where to Go Next for Recommender Systems? ID- vs. Modality-based Recommender
Models Revisited", SIGIR 2023): a text or image encoder in place of the item ID, trained end to end.

``e_i = GELU(W pool(f(content_i)) + b)``, states by SASRec, in-batch cross-entropy with
log-popularity correction on each user's newest window. With ``item_encoder: image+text`` the
vectors of both encoders are fused.

Differences from the authors' code: as for :class:`~recbole_morec.models.pixelnet.PixelNet`.
"""

from __future__ import annotations

from recbole_morec.models.base import MultimodalSequential


class MoRec(MultimodalSequential):
    """Text (or image+text) encoder + user encoder; see ``properties/model/MoRec.yaml``."""
