"""FM: factorisation machine over the items of a history (PixelRec's FM and MOFM); see
:mod:`recbole_morec.user_encoders.fm`.
"""

from __future__ import annotations

from recbole_morec.models.base import MultimodalSequential


class FM(MultimodalSequential):
    """Sum of the history's items; see ``properties/model/FM.yaml``."""
