"""The feature store: files of vectors keyed by item token, read in blocks of bounded size.

A file may hold any items in any order and any type of number; the rows of a dataset's items are
picked out of it and become the only copy in memory, float32 by internal item id. An item may have
one vector, or one for each of its R regions.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recbole_morec.errors import DataError

BLOCK_BYTES = 2**25  # of float32 values; what is held beside the result

_SHOWN = 5
_WANTED = {
    ".npy": "numbers [items, D] or [items, R, D], as numpy.save writes them",
    ".safetensors": "a tensor of numbers 'features', [items, D] or [items, R, D]",
    ".parquet": "a column item_id and a column vector of lists of numbers",
}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FeatureFile:
    """An opened file of vectors.

    Attributes:
        path: where it is.
        tokens: the item of each row, no item twice.
        shape: of an item's numbers: ``(D,)``, or ``(R, D)`` of regions.
        dtype: type of its numbers, as the file calls it.
        blocks: yields ``(first row, rows [m, *shape])`` over the whole file, in order.
    """

    path: Path
    tokens: list[str]
    shape: tuple[int, ...]
    dtype: str
    blocks: Callable[[], Iterator[tuple[int, np.ndarray]]]


def open_features(path: Path) -> FeatureFile:
    """Open a file of vectors; its tokens are read and checked, its rows are not.

    Formats: ``.npy`` with ``NAME.tokens.txt`` beside it (one item token per line);
    ``.safetensors`` with a tensor ``features`` and the tokens as a JSON list in the metadata key
    ``tokens`` or in ``NAME.tokens.txt``; ``.parquet`` with columns ``item_id`` and ``vector``.
    The first two may hold maps ``[items, H, W, D]``, which are ``R = H W`` regions.

    Raises:
        DataError: the file or its tokens are absent, damaged or do not fit.
    """
    if path.is_dir():
        raise DataError(f"features: {path} is a folder; name a file in it.")
    if not path.is_file():
        raise DataError(f"features: {path} does not exist.")
    readers = {".npy": _open_npy, ".safetensors": _open_safetensors, ".parquet": _open_parquet}
    if path.suffix not in readers:
        raise DataError(f"features: {path} is none of {', '.join(readers)}.")
    file = _guarded(path, readers[path.suffix], path)
    if len(set(file.tokens)) != len(file.tokens):
        seen: set[str] = set()
        twice = next(token for token in file.tokens if token in seen or seen.add(token))
        raise DataError(f"features: item {twice!r} occurs twice in {path}.")
    return file


def gather_features(
    file: FeatureFile, item_tokens: Sequence[str], missing_content: str = "error"
) -> np.ndarray:
    """Pick the rows of a dataset's items out of a file.

    Args:
        file: the opened file.
        item_tokens: by internal item id; id 0 is padding.
        missing_content: ``blank`` gives items without a row a zero vector.

    Returns:
        float32 ``[item_num, *shape]`` by internal item id, with a zero row for padding.

    Raises:
        DataError: items without a row (the first few are named), a value that is not finite, or
            damage to the file.
    """
    tokens = [str(token) for token in item_tokens]
    id_of = {token: item for item, token in enumerate(tokens) if item > 0}
    ids = np.fromiter((id_of.get(token, 0) for token in file.tokens), np.int64, len(file.tokens))
    lacks = np.ones(len(tokens), dtype=bool)
    lacks[0] = False
    lacks[ids] = False
    _check_missing(file, [tokens[item] for item in np.flatnonzero(lacks)], tokens, missing_content)
    _log.info(
        "Features: %s has %d vectors of %s numbers (%s), %d of them of items that the dataset does "
        "not have.",
        file.path,
        len(file.tokens),
        " x ".join(map(str, file.shape)),
        file.dtype,
        np.count_nonzero(ids == 0),
    )
    matrix = np.zeros((len(tokens), *file.shape), dtype=np.float32)
    wrong = _guarded(file.path, _fill, matrix, file, ids)
    if wrong:
        raise DataError(
            f"features: {file.path}: {len(wrong)} rows hold a value that is not finite, the first "
            f"for item {file.tokens[wrong[0]]!r}."
        )
    return matrix


def _fill(matrix: np.ndarray, file: FeatureFile, ids: np.ndarray) -> list[int]:
    """Put the rows of a file into their places; return those that hold no finite numbers."""
    wrong: list[int] = []
    for first, block in file.blocks():
        places = ids[first : first + len(block)]
        used = np.flatnonzero(places)
        with np.errstate(over="ignore"):  # float64 that is too large becomes infinite, see below
            rows = block[used].astype(np.float32, copy=False)
        wrong += (first + used[~np.isfinite(rows).all(axis=tuple(range(1, rows.ndim)))]).tolist()
        matrix[places[used]] = rows
    return wrong


def _check_missing(
    file: FeatureFile, missing: Sequence[str], tokens: Sequence[str], policy: str
) -> None:
    if not missing:
        return
    total = len(tokens) - 1
    if len(missing) == total:
        held = f"the file names {file.tokens[0]!r}" if file.tokens else "the file is empty"
        raise DataError(
            f"features: {file.path} has no row for any of the {total} items: {held}, the dataset "
            f"{missing[0]!r}. Its tokens must be the item ids of the .inter file."
        )
    shown = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
    if policy != "blank":
        raise DataError(
            f"features: {file.path} has no row for {len(missing)} of {total} items, for example "
            f"{shown}. Add their vectors, leave these items out when converting, or set "
            "missing_content: blank to use a zero vector."
        )
    _log.warning(
        "Features: %d of %d items have no row in %s (%s): they get a zero vector "
        "(missing_content: blank).",
        len(missing),
        total,
        file.path,
        shown,
    )


def _guarded(path: Path, action: Callable[..., Any], *arguments: Any) -> Any:
    """Call what reads a file; whatever a library says of damage becomes a DataError."""
    try:
        return action(*arguments)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # Each library has errors of its own for damaged files.
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"features: {path} cannot be read as a {path.suffix} file ({why}). It needs "
            f"{_WANTED[path.suffix]}; write it anew."
        ) from error


def _rows_per_block(width: int) -> int:
    return max(1, BLOCK_BYTES // (4 * max(1, width)))


# --- formats ------------------------------------------------------------------------------------


def _of_matrix(
    path: Path,
    tokens: list[str],
    shape: Sequence[int],
    dtype: str,
    part: Callable[[slice], np.ndarray],
) -> FeatureFile:
    """A file whose rows can be had by number; ``part`` gives a slice of them."""
    if len(shape) < 2 or shape[0] != len(tokens) or 0 in shape[1:]:
        raise DataError(
            f"features: {path} has shape {tuple(shape)} and {len(tokens)} item tokens; it needs "
            "one row per token."
        )

    of_item = (math.prod(shape[1:-1]), shape[-1]) if len(shape) > 2 else (shape[1],)

    def blocks() -> Iterator[tuple[int, np.ndarray]]:
        step = _rows_per_block(math.prod(of_item))
        for first in range(0, shape[0], step):
            rows = part(slice(first, min(first + step, shape[0])))
            yield first, rows.reshape(len(rows), *of_item)

    return FeatureFile(path, tokens, of_item, dtype, blocks)


def _open_npy(path: Path) -> FeatureFile:
    with path.open("rb") as file:  # np.load would also take archives, and advise unpickling
        version = np.lib.format.read_magic(file)
        read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_0", None)
        dtype = None if read_header is None else read_header(file)[2]
    if dtype is not None and dtype.kind not in "fiu":
        raise DataError(
            f"features: {path} holds values of the type {dtype}. It needs {_WANTED['.npy']}."
        )
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    tokens = _read_tokens_file(path)
    return _of_matrix(path, tokens, mapped.shape, str(mapped.dtype), mapped.__getitem__)


def _open_safetensors(path: Path) -> FeatureFile:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        if "features" not in names:
            raise DataError(f"features: {path} has no tensor 'features', but {names}.")
        mapped = file.get_slice("features")
        metadata = file.metadata() or {}
    if "tokens" in metadata:
        tokens = _tokens_of(metadata["tokens"], path)
    else:
        tokens = _read_tokens_file(path)

    def part(rows: slice) -> np.ndarray:
        return mapped[rows.start : rows.stop].float().numpy()  # bfloat16 too, which numpy lacks

    return _of_matrix(path, tokens, mapped.get_shape(), mapped.get_dtype(), part)


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


def _open_parquet(path: Path) -> FeatureFile:
    import pyarrow as pa
    from pyarrow import parquet, types

    file = parquet.ParquetFile(path, memory_map=True)
    schema = file.schema_arrow
    missing = [name for name in ("item_id", "vector") if name not in schema.names]
    if missing:
        raise DataError(f"features: {path} lacks the column {missing[0]!r}; it has {schema.names}.")
    kind = schema.field("vector").type
    lists = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    numbers = (types.is_floating, types.is_integer)
    if not any(is_list(kind) for is_list in lists) or not any(
        is_number(kind.value_type) for is_number in numbers
    ):
        raise DataError(
            f"features: the column 'vector' of {path} has the type {kind}; it needs lists of "
            "numbers."
        )
    items = file.read(columns=["item_id"])["item_id"]
    if items.null_count:
        raise DataError(
            f"features: {items.null_count} rows of {path} have no item_id; each needs one."
        )
    width = next((len(rows[0]) for _, rows in _vectors(file, path, 1, None)), 0)
    if width == 0:
        raise DataError(
            f"features: {path} has no row, or its first vector is empty. It needs "
            f"{_WANTED['.parquet']}."
        )

    def blocks() -> Iterator[tuple[int, np.ndarray]]:
        return _vectors(file, path, _rows_per_block(width), width)

    tokens = items.cast(pa.string()).to_pylist()
    return FeatureFile(path, tokens, (width,), str(kind.value_type), blocks)


def _vectors(
    file: Any, path: Path, step: int, width: int | None
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the vectors of a parquet file in blocks of at most ``step`` rows."""
    from pyarrow import compute

    first = 0
    for batch in file.iter_batches(batch_size=step, columns=["vector"]):
        column = batch.column(0)
        lengths = compute.fill_null(compute.list_value_length(column), 0).unique().to_pylist()
        widths = sorted({*lengths, *([] if width is None else [width])})
        if len(widths) > 1:
            raise DataError(f"features: {path} has vectors of different lengths: {widths}.")
        values = column.flatten().to_numpy(zero_copy_only=False)
        yield first, values.reshape(len(column), -1 if values.size else 0)
        first += len(column)


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
