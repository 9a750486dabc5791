"""``item_encoder: features``: stored vectors, found by item token, and a trained projection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recbole_morec.data.content.feature_store import gather_features, open_features
from recbole_morec.errors import ConfigError
from recbole_morec.item_encoders.base import Content, ItemEncoder
from recbole_morec.item_encoders.projection import make_projection
from recbole_morec.item_encoders.registry import EncoderCard, register_item_encoder
from recbole_morec.item_encoders.settings import EncoderSettings


class FeaturesEncoder(ItemEncoder):
    """Frozen features -> MLP (MoRec's two-stage tower, PixelRec's ViNet).

    The matrix is data, not weights: checkpoints hold the projection only.

    Args:
        name: the name it was asked for by.
        matrix: ``[item_num, D]`` float32, or ``[item_num, R, D]`` where an item has a vector for
            each of R regions; row = internal item id, row 0 (PAD) zero.
        settings: of the projection.
    """

    matrix: Tensor

    def __init__(self, name: str, matrix: Tensor, settings: EncoderSettings):
        projection, dim = make_projection(matrix.shape[-1], settings)
        super().__init__(name, dim)
        self.register_buffer("matrix", matrix, persistent=False)
        self.projection = projection

    def tokens(self, content: Content) -> tuple[Tensor, Tensor | None]:
        """Return the regions, or the stored vector as the item's only token, ``[n, R, D]``."""
        rows = self.matrix[content["items"]]
        return (rows if rows.ndim == 3 else rows.unsqueeze(1)), None

    def forward(self, content: Content) -> Tensor:
        """``content["items"]`` ``[n]`` -> ``[n, d]``, of the regions' mean where there are some."""
        return self.projection(self.tokens(content)[0].mean(1))


@register_item_encoder(
    EncoderCard("features", modality="features", source="features", pretrained=False)
)
def build_features(card: EncoderCard, settings: EncoderSettings, dataset: Any) -> FeaturesEncoder:
    """Read the file named by ``features`` (relative to the dataset's folder first).

    Raises:
        ConfigError: no file is named.
        DataError: the file cannot be used, or lacks items (``missing_content: error``).
    """
    if settings.features is None:
        raise ConfigError(
            "item_encoder: features needs the key features: the path of a .npy, .safetensors or "
            ".parquet file. To encode the items' own content: item_encoder=image or text."
        )
    path = Path(settings.features).expanduser()
    if (Path(dataset.folder) / path).is_file():
        path = Path(dataset.folder) / path
    matrix = gather_features(open_features(path), dataset.item_tokens, settings.missing_content)
    return FeaturesEncoder(card.name, torch.from_numpy(matrix), settings)
