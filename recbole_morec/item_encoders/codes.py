"""``item_encoder: codes``: the mean of the vectors of an item's semantic codes.

PixelRec's FSASRec with ``semantic_model``: codes of a product quantiser (5 positions of 512 there),
learned from the items' content beforehand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recbole_morec.data.content.feature_store import gather_features, open_features
from recbole_morec.errors import ConfigError, DataError
from recbole_morec.item_encoders.base import Content, ItemEncoder
from recbole_morec.item_encoders.registry import EncoderCard, register_item_encoder
from recbole_morec.item_encoders.settings import EncoderSettings

_LARGEST = 2**24  # up to here float32 knows every integer


class CodesEncoder(ItemEncoder):
    """``e_i = mean over positions c of E[c * (1 + cap) + code(i, c)]``.

    It has no backbone and no parameter per item: items that share codes share vectors, and new
    items with codes of the same quantiser have vectors at once.

    Args:
        name: the name it was asked for by.
        codes: ``[item_num, C]`` integers from 0 on; row = internal item id, row 0 (PAD) zero.
        cap: 1 + the largest code; every position has ``1 + cap`` rows of the table.
        dim: size ``d`` of an item vector.
    """

    codes: Tensor

    def __init__(self, name: str, codes: Tensor, cap: int, dim: int):
        super().__init__(name, dim)
        self.cap = cap
        positions = codes.shape[1]
        shifted = codes + torch.arange(positions) * (1 + cap)
        self.register_buffer("codes", shifted, persistent=False)
        # As published, row 0 is padding's alone; of codes that begin at 0 it is an ordinary row.
        padding = None if (codes[1:, 0] == 0).any() else 0
        self.embedding = nn.Embedding(positions * (1 + cap), dim, padding_idx=padding)
        nn.init.xavier_normal_(self.embedding.weight)

    def tokens(self, content: Content) -> tuple[Tensor, Tensor | None]:
        """Return the vectors of the item's codes, ``[n, C, d]``."""
        return self.embedding(self.codes[content["items"]]), None

    def forward(self, content: Content) -> Tensor:
        """``content["items"]`` ``[n]`` -> ``[n, d]``."""
        return self.tokens(content)[0].mean(dim=1)

    def architecture(self) -> dict[str, Any]:
        """``cap`` decides the size of the table, also where the items of a dataset use less."""
        return {"name": self.name, "modality": "codes", "source": "codes", "cap": self.cap}


@register_item_encoder(EncoderCard("codes", modality="codes", source="codes", pretrained=False))
def build_codes(card: EncoderCard, settings: EncoderSettings, dataset: Any) -> CodesEncoder:
    """Read the file named by ``codes`` (relative to the dataset's folder first).

    Raises:
        ConfigError: no file is named.
        DataError: the file cannot be used, holds something else than codes, or lacks items
            (``missing_content: error``).
    """
    if settings.codes is None:
        raise ConfigError(
            "item_encoder: codes needs the key codes: the path of a .npy, .safetensors or .parquet "
            "file of integers, a row per item."
        )
    path = Path(settings.codes).expanduser()
    if (Path(dataset.folder) / path).is_file():
        path = Path(dataset.folder) / path
    try:
        file = open_features(path)
        matrix = gather_features(file, dataset.item_tokens, settings.missing_content)
    except DataError as error:  # it speaks of the key that these files are known by
        raise DataError(f"codes: {str(error).removeprefix('features: ')}") from error
    if matrix.ndim > 2:
        raise DataError(
            f"codes: {path} holds {' x '.join(map(str, file.shape))} numbers per item; codes are "
            "one row of integers per item. For regions use item_encoder: features."
        )
    wrong = (matrix < 0) | (matrix >= _LARGEST) | (matrix != np.floor(matrix))
    if wrong.any():
        item, position = np.argwhere(wrong)[0]
        raise DataError(
            f"codes: {path} holds {matrix[item, position]} for item "
            f"{str(dataset.item_tokens[item])!r}; codes are integers from 0 to {_LARGEST - 1}. For "
            "vectors use item_encoder: features."
        )
    codes = torch.from_numpy(matrix.astype(np.int64))
    cap = 1 + int(codes.max())
    saved = (settings.architecture or {}).get("cap")
    if saved is not None and cap > saved:
        raise DataError(
            f"codes: {path} holds code {cap - 1}, and the model knows codes up to {saved - 1}; "
            "give codes of the quantiser that it was trained with."
        )
    return CodesEncoder(card.name, codes, saved or cap, settings.embedding_size)
