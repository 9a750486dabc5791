"""ODMT's item side: an item's words, picture and ID read each other and give three vectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from recbole_morec.errors import ConfigError
from recbole_morec.item_encoders.base import Content, ItemEncoder, Reserved
from recbole_morec.item_encoders.id_aware_transformer import BRANCHES, IdAwareTransformer


class IdAwareEncoder(ItemEncoder):
    """Token features and ID -> ``[n, 3, d]``: the branches' vectors in the order of ``BRANCHES``.

    Args:
        item_num: N, rows of the ID table.
        dim: d.
        transformer: joins the tokens; ``None`` leaves the branches apart (an ablation): each is a
            linear map of the ID, the first word token and the first image token.
        widths: sizes of an ID vector, a text token and an image token, by branch.
    """

    def __init__(
        self,
        name: str,
        item_num: int,
        dim: int,
        widths: dict[str, int],
        transformer: IdAwareTransformer | None,
    ):
        super().__init__(name, dim)
        self.embedding = nn.Embedding(item_num, widths["id"], padding_idx=0)
        nn.init.xavier_normal_(self.embedding.weight)
        self.transformer = transformer
        if transformer is None:
            self.inputs = nn.ModuleDict({key: nn.Linear(widths[key], dim) for key in BRANCHES})
        self.projection = nn.ModuleDict({key: _head(dim) for key in BRANCHES})

    def forward(self, content: Content) -> Tensor:
        """Return ``[n, 3, d]``.

        Args:
            content: ``items [n]``, ``text_tokens [n, T, D]``, ``text_token_mask [n, T]`` and
                ``image_tokens [n, P, D]``.
        """
        ids = self.embedding(content["items"])
        text, image = content["text_tokens"].to(ids.dtype), content["image_tokens"].to(ids.dtype)
        if self.transformer is None:
            first = {"id": ids, "text": text[:, 0], "image": image[:, 0]}
            read = torch.stack([self.inputs[key](first[key]) for key in BRANCHES], 1)
        else:
            read = self.transformer(ids, text, content["text_token_mask"], image)
        heads = [self.projection[key](read[:, b]) for b, key in enumerate(BRANCHES)]
        return torch.stack(heads, 1)

    def reserved(self, kind: Reserved) -> Content:
        raise ConfigError(
            f"{kind}_vector: ODMT's items are token features, and none are kept for "
            f"{'padding' if kind == 'pad' else 'a mask'}; use "
            f"{'pad_vector: zero' if kind == 'pad' else 'mask_vector: learned'}."
        )

    def architecture(self) -> dict[str, Any]:
        return {"name": self.name}


def _head(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, dim), nn.LeakyReLU(0.01), nn.Linear(dim, dim))
