"""SASRec (Kang & McAuley, ICDM 2018), as PixelRec, IDvs.MoRec and NineRec run it on item vectors.

PixelRec: biases in the attention, GELU, eps 1e-12, weights from N(0, 0.02). IDvs.MoRec and NineRec:
no biases in the attention, ReLU, eps 1e-6, Xavier-normal weights (``attention_bias: False``,
``hidden_act: relu``, ``layer_norm_eps: 1e-6``, ``initializer: xavier_normal``).

Differences from the authors' code: masked keys get the lowest finite float instead of -1e9 (equal
after the softmax); slots at padding hold zeros instead of an encoded blank image (never read by a
real slot).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recbole_morec.user_encoders.base import USER_ENCODERS, History
from recbole_morec.user_encoders.transformer import Transformer


@USER_ENCODERS.register("SASRec")
class SASRec(Transformer):
    """Causal transformer over item vectors; ``slots`` is L."""

    @classmethod
    def from_config(cls, config: Any, dataset: Any) -> SASRec:
        length = config["MAX_ITEM_LIST_LENGTH"]
        return cls(config["embedding_size"], length, **cls.settings(config))

    def forward(self, history: History) -> Tensor:
        length = history.vectors.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=history.mask.device).tril()
        return self.encode(history.vectors, causal & history.mask[:, None, None, :])
