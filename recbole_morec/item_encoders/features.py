"""``item_encoder: features``: stored vectors, found by item token, and a trained projection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_morec.errors import ConfigError, DataError
from recbole_morec.item_encoders.base import Content, ItemEncoder
from recbole_morec.item_encoders.projection import Projection
from recbole_morec.item_encoders.registry import EncoderCard, register_item_encoder
from recbole_morec.item_encoders.settings import EncoderSettings

_SHOWN = 5
_WANTED = {
    ".npy": "a matrix of numbers [items, D], as numpy.save writes it",
    ".safetensors": "a tensor of numbers 'features' [items, D]",
    ".parquet": "a column item_id and a column vector of lists of numbers",
}


class FeaturesEncoder(ItemEncoder):
    """Frozen features -> MLP (MoRec's two-stage tower, PixelRec's ViNet).

    The matrix is data, not weights: checkpoints hold the projection only.

    Args:
        name: the name it was asked for by.
        matrix: ``[item_num, D]`` float32; row = internal item id, row 0 (PAD) zero.
        dim: size ``d`` of an item vector.
        hidden: hidden sizes of the projection.
        activation: of the projection.
    """

    matrix: Tensor

    def __init__(
        self,
        name: str,
        matrix: Tensor,
        dim: int,
        hidden: tuple[int, ...] = (),
        activation: str = "relu",
    ):
        super().__init__(name, dim)
        self.register_buffer("matrix", matrix, persistent=False)
        self.projection = Projection(matrix.shape[1], dim, hidden, activation)

    def tokens(self, content: Content) -> tuple[Tensor, Tensor | None]:
        """Return the stored vector as the item's only token, ``[n, 1, D]``."""
        return self.matrix[content["items"]].unsqueeze(1), None

    def forward(self, content: Content) -> Tensor:
        """``content["items"]`` ``[n]`` -> ``[n, d]``."""
        return self.projection(self.matrix[content["items"]])


def read_features(path: Path) -> tuple[list[str], np.ndarray]:
    """Read a features file: item tokens and a float32 matrix ``[rows, D]`` in the same order.

    Formats: ``.npy`` with ``NAME.tokens.txt`` beside it (one item token per line);
    ``.safetensors`` with a tensor ``features`` and the tokens as a JSON list in the metadata key
    ``tokens`` or in ``NAME.tokens.txt``; ``.parquet`` with columns ``item_id`` and ``vector``.

    Raises:
        DataError: the file or its tokens are absent or do not fit; a value is not finite.
    """
    if path.is_dir():
        raise DataError(f"features: {path} is a folder; name a file in it.")
    if not path.is_file():
        raise DataError(f"features: {path} does not exist.")
    readers = {".npy": _read_npy, ".safetensors": _read_safetensors, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise DataError(f"features: {path} is none of {', '.join(readers)}.")
    try:
        tokens, matrix = readers[path.suffix](path)
    except DataError:
        raise
    except Exception as error:  # Each library has errors of its own for damaged files.
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"features: {path} cannot be read as a {path.suffix} file ({why}). It needs "
            f"{_WANTED[path.suffix]}; write it anew."
        ) from error
    if matrix.ndim != 2 or matrix.shape[0] != len(tokens):
        raise DataError(
            f"features: {path} has shape {matrix.shape} and {len(tokens)} item tokens; it needs "
            "one row per token."
        )
    if len(set(tokens)) != len(tokens):
        seen: set[str] = set()
        twice = next(token for token in tokens if token in seen or seen.add(token))
        raise DataError(f"features: item {twice!r} occurs twice in {path}.")
    wrong = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if wrong.size:
        raise DataError(
            f"features: {path}: {wrong.size} rows hold a value that is not finite, the first for "
            f"item {tokens[wrong[0]]!r}."
        )
    return tokens, matrix


def _read_npy(path: Path) -> tuple[list[str], np.ndarray]:
    with path.open("rb") as file:  # np.load would also take archives, and advise unpickling
        version = np.lib.format.read_magic(file)
        read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_0", None)
        dtype = None if read_header is None else read_header(file)[2]
    if dtype is not None and dtype.kind not in "fiu":
        raise DataError(
            f"features: {path} holds values of the type {dtype}. It needs {_WANTED['.npy']}."
        )
    matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    return _read_tokens_file(path), np.asarray(matrix, dtype=np.float32)


def _read_safetensors(path: Path) -> tuple[list[str], np.ndarray]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        if "features" not in names:
            raise DataError(f"features: {path} has no tensor 'features', but {names}.")
        matrix = file.get_tensor("features").float().numpy()
        metadata = file.metadata() or {}
    if "tokens" in metadata:
        return _tokens_of(metadata["tokens"], path), matrix
    return _read_tokens_file(path), matrix


def _tokens_of(listed: str, path: Path) -> list[str]:
    try:
        tokens = json.loads(listed)
    except ValueError:
        tokens = None
    if not isinstance(tokens, list):
        raise DataError(
            f"features: the metadata key 'tokens' of {path} is no JSON list. It needs one item "
            "token per row."
        )
    return [str(token) for token in tokens]


def _read_parquet(path: Path) -> tuple[list[str], np.ndarray]:
    import polars as pl

    table = pl.read_parquet(path)
    missing = [name for name in ("item_id", "vector") if name not in table.columns]
    if missing:
        raise DataError(
            f"features: {path} lacks the column {missing[0]!r}; it has {table.columns}."
        )
    kind = table.schema["vector"]
    if not isinstance(kind, pl.List | pl.Array) or not kind.inner.is_numeric():
        raise DataError(
            f"features: the column 'vector' of {path} has the type {kind}; it needs lists of "
            "numbers."
        )
    unnamed = table["item_id"].null_count()
    if unnamed:
        raise DataError(f"features: {unnamed} rows of {path} have no item_id; each needs one.")
    rows = table["vector"].to_list()
    widths = {0 if row is None else len(row) for row in rows}
    if len(widths) > 1:
        raise DataError(f"features: {path} has vectors of different lengths: {sorted(widths)}.")
    return table["item_id"].cast(pl.String).to_list(), np.asarray(rows, dtype=np.float32)


def _read_tokens_file(path: Path) -> list[str]:
    file = path.with_suffix(".tokens.txt")
    if not file.is_file():
        raise DataError(
            f"features: {path} needs {file.name} beside it: one item token per line, in row order."
        )
    try:
        lines = file.read_text(encoding="utf-8").split("\n")  # splitlines would cut at U+0085 too
    except UnicodeDecodeError as error:
        raise DataError(
            f"features: {file} is not UTF-8 text ({error.reason} at byte {error.start}). It needs "
            "one item token per line."
        ) from error
    return lines[:-1] if lines[-1] == "" else lines


def features_by_id(
    tokens: list[str], matrix: np.ndarray, item_tokens: np.ndarray, path: Path
) -> Tensor:
    """Order the rows by internal item id, ``[item_num, D]``, with a zero row for PAD.

    Raises:
        DataError: items of the dataset without features; the first few are named.
    """
    row_of = {token: row for row, token in enumerate(tokens)}
    wanted = [str(token) for token in item_tokens[1:]]
    missing = [token for token in wanted if token not in row_of]
    if missing:
        raise DataError(
            f"features: {path} has no row for {len(missing)} of {len(wanted)} items, for example "
            f"{', '.join(missing[:_SHOWN])}."
        )
    result = np.zeros((len(item_tokens), matrix.shape[1]), dtype=np.float32)
    result[1:] = matrix[[row_of[token] for token in wanted]]
    return torch.from_numpy(result)


@register_item_encoder(
    EncoderCard("features", modality="features", source="features", pretrained=False)
)
def build_features(card: EncoderCard, settings: EncoderSettings, dataset: Any) -> FeaturesEncoder:
    """Read the file named by ``features`` (relative to the dataset's folder first)."""
    if settings.features is None:
        raise ConfigError(
            "item_encoder: features needs the key features: the path of a .npy, .safetensors or "
            ".parquet file."
        )
    path = Path(settings.features).expanduser()
    if (Path(dataset.folder) / path).is_file():
        path = Path(dataset.folder) / path
    tokens, matrix = read_features(path)
    return FeaturesEncoder(
        card.name,
        features_by_id(tokens, matrix, dataset.item_tokens, path),
        settings.embedding_size,
        settings.projection_layers,
        settings.activation,
    )
