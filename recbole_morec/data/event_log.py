"""Interactions in the order of their rows, as numbers on disk: 16 bytes each, memory bounded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from recbole_morec.data.tokens import NONE, TokenNumbers

CHUNK = 1 << 22


def missing_as(kind: np.dtype) -> int | float:
    """What stands for a missing time of a type."""
    return float("nan") if kind.kind == "f" else int(np.iinfo(np.int64).min)


def is_missing(time: np.ndarray) -> np.ndarray:
    """Which times are missing, bool ``[n]``."""
    return np.isnan(time) if time.dtype.kind == "f" else time == missing_as(time.dtype)


class Events(NamedTuple):
    """Some consecutive interactions.

    Attributes:
        row: number of rows before the first one.
        user, item: numbers uint32 ``[n]``, :data:`~recbole_morec.data.tokens.NONE` = missing.
        time: int64 or float64 ``[n]``; see :func:`missing_as`.
    """

    row: int
    user: np.ndarray
    item: np.ndarray
    time: np.ndarray

    def __len__(self) -> int:
        return len(self.user)


class EventLog:
    """Grows by :meth:`append`, is read by :meth:`chunks`.

    Args:
        folder: where the columns are written; made if it is not there.
        extra: names of further columns of numbers.

    Attributes:
        users, items: tokens by number.
        rows: number of interactions.
        time_type: int64, or float64 once a time with a fraction was appended.
    """

    def __init__(self, folder: Path, extra: Sequence[str] = ()):
        self.folder = folder
        self.extra = list(extra)
        folder.mkdir(parents=True, exist_ok=True)
        self.users = TokenNumbers()
        self.items = TokenNumbers()
        self.rows = 0
        self.time_type = np.dtype(np.int64)
        for column in ("user", "item", "time", *self._extra_columns()):
            self._path(column).write_bytes(b"")

    def append(
        self,
        user: pl.Series,
        item: pl.Series,
        time: np.ndarray,
        extra: Sequence[np.ndarray] = (),
    ) -> None:
        """Add interactions.

        Args:
            user, item: tokens ``[n]``, null = missing.
            time: int64 or float64 ``[n]``.
            extra: the further columns, float64 ``[n]``, NaN = missing.
        """
        self._write("user", self.users.number(user))
        self._write("item", self.items.number(item))
        if time.dtype.kind == "f" and self.time_type.kind == "i":
            self._times_to_float()
        elif self.time_type.kind == "f":
            time = _as_float(time)
        self._write("time", time)
        for column, values in zip(self._extra_columns(), extra, strict=True):
            self._write(column, values)
        self.rows += len(user)

    def chunks(self) -> Iterator[Events]:
        """Yield all interactions in the order of the rows, :data:`CHUNK` at a time."""
        types = {"user": np.uint32, "item": np.uint32, "time": self.time_type}
        for row in range(0, self.rows, CHUNK):
            count = min(CHUNK, self.rows - row)
            yield Events(row, *(self._read(name, kind, row, count) for name, kind in types.items()))

    def extra_values(self, row: int, count: int) -> dict[str, np.ndarray]:
        """The further columns of some rows, float64 ``[count]`` by name."""
        columns = zip(self.extra, self._extra_columns(), strict=True)
        return {name: self._read(column, np.float64, row, count) for name, column in columns}

    def renumber(self, column: str, tokens: pl.Series) -> None:
        """Give the users (or items) other tokens; equal ones become one, null ones are missing.

        Args:
            column: ``user`` or ``item``.
            tokens: new tokens by old number.
        """
        numbers = TokenNumbers()
        new = np.append(numbers.number(tokens), NONE)
        path = self.folder / f"{column}-new.bin"
        with path.open("wb") as file:
            for events in self.chunks():
                old = getattr(events, column)
                new[np.minimum(old, len(new) - 1)].tofile(file)
        path.replace(self._path(column))
        setattr(self, f"{column}s", numbers)

    def _extra_columns(self) -> list[str]:
        return [f"extra-{at}" for at in range(len(self.extra))]

    def _read(self, column: str, kind: np.dtype | type, row: int, count: int) -> np.ndarray:
        offset = row * np.dtype(kind).itemsize
        return np.fromfile(self._path(column), dtype=kind, count=count, offset=offset)

    def _path(self, column: str) -> Path:
        return self.folder / f"{column}.bin"

    def _write(self, column: str, values: np.ndarray) -> None:
        with self._path(column).open("ab") as file:
            values.tofile(file)

    def _times_to_float(self) -> None:
        old, new = self._path("time"), self._path("time-float")
        with new.open("wb") as file:
            for events in self.chunks():
                _as_float(events.time).tofile(file)
        new.replace(old)
        self.time_type = np.dtype(np.float64)


def _as_float(time: np.ndarray) -> np.ndarray:
    if time.dtype.kind == "f":
        return time
    return np.where(is_missing(time), np.nan, time.astype(np.float64))
