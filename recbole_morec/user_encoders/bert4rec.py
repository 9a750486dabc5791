"""BERT4Rec (Sun et al., CIKM 2019), as PixelRec and NineRec run it on item vectors.

Training hides items of a row (``mask_ratio``) and predicts each from the items around it; when
scoring, a mask stands after the newest item. PixelRec: biases in the attention, GELU, 0.6
masked. NineRec (IDs and text): no biases in the attention, ReLU, eps 1e-6.

The mask is a vector of its own (``mask_vector: learned``) or encoded content (``encoded``: an image
of ones, a sentence). It is no item: it is neither ranked nor drawn as a negative.

Differences from the authors' code: in NineRec's the mask is the last item of the catalogue, which
is ranked and drawn like any other; its class with a learned mask (MOBERT4Rec2) reads an encoded
blank image in its place when scoring.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_morec.user_encoders.base import USER_ENCODERS, History
from recbole_morec.user_encoders.transformer import Transformer


@USER_ENCODERS.register("BERT4Rec")
class BERT4Rec(Transformer):
    """Bidirectional transformer over item vectors; ``slots`` is L + 1.

    Args:
        learned_mask: hold a mask vector; False reads :attr:`History.mask_vector`.
    """

    reads = Transformer.reads | {"mask_vector", "mask_ratio"}
    targets = "masked"

    def __init__(self, dim: int, slots: int, *, learned_mask: bool = True, **settings: Any):
        super().__init__(dim, slots, **settings)
        self.mask_vector = nn.Parameter(torch.empty(dim)) if learned_mask else None
        if self.mask_vector is not None:
            nn.init.normal_(self.mask_vector, std=self.initializer_range)

    @classmethod
    def from_config(cls, config: Any, dataset: Any) -> BERT4Rec:
        return cls(
            config["embedding_size"],
            config["MAX_ITEM_LIST_LENGTH"] + 1,
            learned_mask=config["mask_vector"] == "learned",
            **cls.settings(config),
        )

    def forward(self, history: History) -> Tensor:
        vectors, mask, hidden = history.vectors, history.mask, history.hidden
        if history.mode == "predict":
            vectors = F.pad(vectors, (0, 0, 0, 1))  # a slot after the newest item
            mask = F.pad(mask, (0, 1), value=True)
            hidden = torch.zeros_like(mask)
            hidden[:, -1] = True
        shown = self.mask_vector if history.mask_vector is None else history.mask_vector
        vectors = torch.where(hidden[..., None], shown.to(vectors.dtype), vectors)
        return self.encode(vectors, mask[:, None, None, :])
