"""Files in which a line gives several rows, or a table that lies in several files."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from recbole_morec.convert._rows import Rows


class LineNumbers:
    """The line of each row where a line gives any number of rows: 4 bytes a line."""

    def __init__(self) -> None:
        self._rows: list[int] = []
        self._lines: list[int] = []
        self._counts: list[np.ndarray] = []
        self._total = 0

    def add(self, line: int, counts: np.ndarray) -> None:
        """Say how many rows the next lines give.

        Args:
            line: the first of these lines, from 1.
            counts: rows per line ``[lines]``.
        """
        self._rows.append(self._total)
        self._lines.append(line)
        self._counts.append(counts.astype(np.uint32))
        self._total += int(counts.sum())

    def line(self, row: int) -> int:
        """The line, from 1, that gave a row, from 0."""
        at = bisect.bisect_right(self._rows, row) - 1
        ends = np.cumsum(self._counts[at], dtype=np.int64)
        return self._lines[at] + int(np.searchsorted(ends, row - self._rows[at], side="right"))


class SeveralRows(Rows):
    """The rows of several files, one file after the other.

    Args:
        folder: where they lie.
        parts: the files, all with the same columns.
    """

    def __init__(self, folder: Path, parts: Sequence[Rows]):
        super().__init__(folder, parts[0].columns, f"{len(parts)} files, {parts[0].form}")
        self._parts = list(parts)
        self._starts: list[int] = []

    def blocks(self) -> Iterator[pl.DataFrame]:
        self._starts = []
        row = 0
        for part in self._parts:
            self._starts.append(row)
            for frame in part.blocks():
                row += frame.height
                yield frame

    def place(self, row: int) -> str:
        at = bisect.bisect_right(self._starts, row) - 1
        part = self._parts[at]
        return f"{part.path.relative_to(self.path)} {part.place(row - self._starts[at])}"
