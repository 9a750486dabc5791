"""``item_encoder: id``: the classic table with one free vector per item."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from recbole_morec.item_encoders.base import Content, ItemEncoder
from recbole_morec.item_encoders.registry import EncoderCard, register_item_encoder
from recbole_morec.item_encoders.settings import EncoderSettings


class IdEncoder(ItemEncoder):
    """One vector per item id, Xavier-normal over the whole table as published.

    It has no backbone: its table trains at the rate of the recommender, not at the encoder's,
    and cannot be transferred to another catalogue.

    Args:
        name: the name it was asked for by.
        item_num: number of items, PAD included.
        dim: size ``d`` of an item vector.
    """

    def __init__(self, name: str, item_num: int, dim: int):
        super().__init__(name, dim)
        # Row 0 is read where pad_vector is `encoded`, but never trained, as published.
        self.embedding = nn.Embedding(item_num, dim, padding_idx=0)
        nn.init.xavier_normal_(self.embedding.weight)

    def tokens(self, content: Content) -> tuple[Tensor, Tensor | None]:
        """Return the item's vector as its only token, ``[n, 1, d]``."""
        return self.embedding(content["items"]).unsqueeze(1), None

    def forward(self, content: Content) -> Tensor:
        """``content["items"]`` ``[n]`` -> ``[n, d]``."""
        return self.projection(self.embedding(content["items"]))


@register_item_encoder(EncoderCard("id", modality="id", source="id", pretrained=False))
def build_id(card: EncoderCard, settings: EncoderSettings, dataset: Any) -> IdEncoder:
    """Build the table for the dataset's items."""
    return IdEncoder(card.name, dataset.item_num, settings.embedding_size)
