"""Delimited text files without quoting, read in blocks: every line checked, memory bounded."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import polars as pl

from recbole_morec.data._atomic_lines import check_chunk_utf8, check_text, wrong_columns
from recbole_morec.errors import DataError

BLOCK_BYTES = 1 << 25
LONGEST_LINE = 1 << 26
_BOM = b"\xef\xbb\xbf"
Item = TypeVar("Item")


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a file.

    Attributes:
        frame: one String column per name, null where a cell is empty.
        row: number of rows before the first one of this block.
        line: line of the file, from 1, on which the first row stands.
    """

    frame: pl.DataFrame
    row: int
    line: int


def line_blocks(
    path: Path,
    names: Sequence[str],
    separator: str = "\t",
    header: bool = True,
) -> Iterator[Block]:
    """Read a file in which a row is a line and no quoting has a meaning.

    The next block is read and checked in a thread while the last one is used. Blank lines at the
    end of the file do not count.

    Args:
        path: the file.
        names: a column name per field, all different.
        separator: one ASCII character.
        header: whether the first line is no row.

    Raises:
        DataError: naming file and line: not UTF-8, bare carriage returns, a NUL byte, another
            number of fields, an empty line between others, a line of more than 64 MiB.
    """
    return prefetched(_read(path, list(names), separator, header))


def prefetched(items: Iterator[Item]) -> Iterator[Item]:
    """Yield the items of an iterator, each made in a thread while the one before is used."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(lambda: list(islice(items, 1)))
        while found := coming.result():
            coming = pool.submit(lambda: list(islice(items, 1)))
            yield found[0]


def _read(path: Path, names: list[str], separator: str, header: bool) -> Iterator[Block]:
    check_text(path)
    row, line = 0, 1
    blank: int | None = None
    with path.open("rb") as file:
        if header:
            _whole_line(file, b"", path, line)
            line = 2
        while chunk := file.read(BLOCK_BYTES):
            chunk = _whole_line(file, chunk, path, line)
            if line == 1:
                chunk = chunk.removeprefix(_BOM)
            _check_bytes(path, chunk, line)
            lines, filled, end, blank = _check_lines(
                path, chunk, line, len(names), separator, blank
            )
            if filled:
                yield Block(_parse(chunk[:end], names, separator, filled), row, line)
            row += filled
            line += lines


def _whole_line(file: BinaryIO, chunk: bytes, path: Path, line: int) -> bytes:
    """Add the rest of the last line to a chunk."""
    if chunk.endswith(b"\n"):
        return chunk
    rest = file.readline(LONGEST_LINE + 1)
    if len(rest) > LONGEST_LINE:
        number = line + chunk.count(b"\n")
        raise DataError(
            f"{path} line {number}: the line is longer than {LONGEST_LINE >> 20} MiB. A file with "
            "other line ends than \\n or \\r\\n, or a binary file, is the usual cause."
        )
    return chunk + rest


def _check_bytes(path: Path, chunk: bytes, line: int) -> None:
    if (at := chunk.find(b"\0")) >= 0:
        number = line + chunk.count(b"\n", 0, at)
        raise DataError(
            f"{path} line {number}: the line holds a NUL byte. The file is damaged, or is no UTF-8 "
            "text (UTF-16 has NUL bytes)."
        )
    check_chunk_utf8(path, chunk, line)


def _check_lines(
    path: Path, chunk: bytes, line: int, columns: int, separator: str, blank: int | None
) -> tuple[int, int, int, int | None]:
    """Return lines, rows, bytes up to the last row's end, and the first blank line so far."""
    content = np.frombuffer(chunk, dtype=np.uint8)
    ends = np.flatnonzero(content == ord("\n"))
    if not chunk.endswith(b"\n"):
        ends = np.append(ends, len(chunk))
    before = np.searchsorted(np.flatnonzero(content == ord(separator)), ends)
    found = np.diff(before, prepend=0) + 1
    lengths = np.diff(ends, prepend=-1) - 1
    # A Windows line end leaves one carriage return on an otherwise empty line.
    empty = (lengths == 0) | ((lengths == 1) & (content[ends - 1] == ord("\r")))
    filled = np.flatnonzero(~empty)
    bad = np.flatnonzero((found != columns) & ~empty)
    last = int(filled[-1]) if len(filled) else -1
    if blank is None and len(gap := np.flatnonzero(empty)):
        blank = line + int(gap[0])
    first_bad = line + int(bad[0]) if len(bad) else math.inf
    if blank is not None and last >= 0 and blank < min(first_bad, line + last):
        raise DataError(f"{path} line {blank}: the line is empty. Delete it.")
    if len(bad):
        raise DataError(wrong_columns(path, int(first_bad), int(found[bad[0]]), columns, separator))
    return len(ends), last + 1, (int(ends[last]) if last >= 0 else 0), blank


def _parse(data: bytes, names: list[str], separator: str, rows: int) -> pl.DataFrame:
    frame = pl.read_csv(
        data,
        has_header=False,
        separator=separator,
        quote_char=None,
        schema=dict.fromkeys(names, pl.String),
    )
    if frame.height != rows:  # a guard of our own: a lost row would shift every number after it
        raise DataError(f"{rows} lines gave {frame.height} rows; please report this file.")
    return frame
