"""Tokens (original ids of users and items) <-> numbers, for tens of millions of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from recbole_morec.errors import DataError

PAD = "[PAD]"
NONE = np.uint32(2**32 - 1)

_BATCH = 1 << 20


class TokenNumbers:
    """Numbers tokens from 0 in the order of their first appearance.

    The table is polars' (a namespace of categories of its own): about 100 bytes per token, and
    several million look-ups per second.
    """

    def __init__(self) -> None:
        self._type = pl.Categorical(pl.Categories.random("recbole_morec"))
        # The categories live as long as a series of theirs does.
        self._anchor = pl.Series([], dtype=self._type)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def number(self, tokens: pl.Series) -> np.ndarray:
        """Return the numbers of tokens, uint32 ``[n]``; :data:`NONE` where one is null."""
        found = tokens.cast(self._type).to_physical()
        numbers = found.fill_null(NONE).to_numpy()
        self._count += _new(numbers, self._count)
        return numbers

    def tokens(self, numbers: np.ndarray) -> pl.Series:
        """Return the tokens of numbers, String ``[n]``."""
        physical = pl.Series(np.ascontiguousarray(numbers, dtype=np.uint32))
        return physical.cat.to(self._type).cast(pl.String)


def _new(numbers: np.ndarray, known: int) -> int:
    """Count the numbers that appear first here, and check that they follow one another."""
    real = numbers[numbers != NONE].astype(np.int64)
    highest = np.maximum.accumulate(np.append(known - 1, real))
    if (real > highest[:-1] + 1).any():
        raise RuntimeError(
            f"polars {pl.__version__} does not number categories by first appearance; please "
            "report this."
        )
    return int(highest[-1]) + 1 - known


class TokenTable:
    """Tokens by internal id, memory-mapped; id 0 is ``[PAD]``.

    Behaves as a numpy array of strings where the code reads tokens: ``len``, an int or an array of
    ids or a boolean mask as index, iteration.

    Args:
        path: an Arrow file of equal batches of a column ``token`` (the last one may be shorter) and
            a column ``order`` (the ids in the order of their tokens).
    """

    def __init__(self, path: Path):
        self.path = path
        with pa.memory_map(str(path)) as file:
            table = pa.ipc.open_file(file).read_all()
        self._tokens = table.column("token")
        self._order = table.column("order")
        self._size = len(self._tokens.chunk(0)) if self._tokens.num_chunks else 1

    def __reduce__(self) -> tuple:
        # A spawned worker maps the file itself, where it is still there, in place of a copy.
        if self.path.is_file():
            return TokenTable, (self.path,)
        return super().__reduce__()

    def __len__(self) -> int:
        return len(self._tokens) + 1

    def __iter__(self) -> Iterator[str]:
        yield PAD
        for batch in self._tokens.chunks:
            yield from batch.to_pylist()

    def __getitem__(self, ids: Any) -> Any:
        """Return the token of one id (str), or those of several (object array)."""
        if isinstance(ids, slice):
            ids = np.arange(len(self))[ids]
        ids = np.asarray(ids)
        if ids.dtype == bool:
            ids = np.flatnonzero(ids)
        if ids.size and not (-len(self) <= ids.min() and ids.max() < len(self)):
            raise IndexError(f"{ids} is beyond the {len(self)} tokens of {self.path}.")
        ids = ids % len(self)
        if ids.ndim == 0:
            return self._token(int(ids))
        flat = ids.ravel()
        tokens = np.full(flat.shape, PAD, dtype=object)
        for places, found in self._batches(flat):
            tokens[places] = found.to_numpy(zero_copy_only=False)
        return tokens.reshape(ids.shape)

    def lines(self, ids: np.ndarray) -> bytes:
        """The tokens of ids ``[n]``, none of them 0, one per line, as bytes."""
        if len(self) - 1 > self._size and (np.diff(ids) < 0).any():
            return "\n".join(self[ids]).encode()
        return b"\n".join(bytes(_joined(found)) for _, found in self._batches(ids))

    def _batches(self, ids: np.ndarray) -> Iterator[tuple[np.ndarray, pa.LargeStringArray]]:
        """Yield places in ``ids`` (none of an id 0) and their tokens, batch of the file by batch.

        Arrow's own look-up in a column of several batches would copy the whole column.
        """
        batch = (ids - 1) // self._size
        for number in np.unique(batch[ids > 0]):
            places = np.flatnonzero(batch == number)
            within = pa.array(ids[places] - 1 - number * self._size)
            yield places, self._tokens.chunk(int(number)).take(within)

    @property
    def ids(self) -> TokenIds:
        """Internal ids by token."""
        return TokenIds(self)

    def _token(self, number: int) -> str:
        return PAD if number == 0 else self._tokens[number - 1].as_py()


class TokenIds(Mapping):
    """Internal ids by token, by binary search in the sorted tokens; no dict is built."""

    def __init__(self, table: TokenTable):
        self._table = table

    def __len__(self) -> int:
        return len(self._table)

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __getitem__(self, token: str) -> int:
        if token == PAD:
            return 0
        table = self._table
        wanted = token.encode() if isinstance(token, str) else None
        low, high = 0, len(table) - 1
        while wanted is not None and low < high:
            middle = (low + high) // 2
            number = table._order[middle].as_py()
            found = table._token(number).encode()
            if found == wanted:
                return number
            if found < wanted:
                low = middle + 1
            else:
                high = middle
        raise KeyError(token)


def write_tokens(path: Path, tokens: pl.Series, digest: Any) -> None:
    """Write the file of a :class:`TokenTable`.

    Args:
        path: where to.
        tokens: String series, by internal id from 1.
        digest: a hash that is fed with them, one per line.

    Raises:
        DataError: ``[PAD]`` is among them.
    """
    reserved = (tokens == PAD).arg_max() if len(tokens) and (tokens == PAD).any() else None
    if reserved is not None:
        raise DataError(f'The id "{PAD}" is reserved for padding; rename it.')
    order = tokens.arg_sort().to_numpy().astype(np.int32) + 1
    schema = pa.schema([("token", pa.large_string()), ("order", pa.int32())])
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for start in range(0, len(tokens), _BATCH):
            some = tokens.slice(start, _BATCH).to_arrow().cast(pa.large_string())
            where = pa.array(order[start : start + _BATCH])
            digest.update(_joined(some))
            digest.update(b"\n")
            writer.write_batch(pa.record_batch([some, where], schema=schema))


def _joined(tokens: pa.LargeStringArray) -> memoryview:
    """The bytes of tokens, one per line."""
    whole = pa.LargeListArray.from_arrays(pa.array([0, len(tokens)], pa.int64()), tokens)
    return memoryview(pc.binary_join(whole, pa.scalar("\n", pa.large_string()))[0].as_buffer())
