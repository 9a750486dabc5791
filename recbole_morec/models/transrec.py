"""TransRec (Zhang et al., "NineRec: A Benchmark Dataset Suite for Evaluating Transferable
Recommendation", TPAMI 2024): text or image encoders in place of item IDs, so that what one platform
has taught moves to another.

``e_i = GELU(W f(content_i) + b)``, states by SASRec without attention biases on each user's newest
window, binary cross-entropy with one uniform negative per position. Train on a source, then give
that run to the target with ``load`` (docs/transfer.md).

Differences from the authors' code: weights alone are loaded, by part and with a report; theirs take
the optimiser and its learning rates along. Otherwise as for
:class:`~recbole_morec.models.pixelnet.PixelNet`.
"""

from __future__ import annotations

from recbole_morec.models.base import MultimodalSequential


class TransRec(MultimodalSequential):
    """Transferable text (or image) encoder + user encoder; ``properties/model/TransRec.yaml``."""
