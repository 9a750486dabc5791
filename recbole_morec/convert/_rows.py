"""Rows of foreign tables in blocks of text columns, whatever the file's dialect."""

from __future__ import annotations

import bisect
import csv
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from recbole_morec.data._atomic_lines import check_text, check_utf8, decode_line, wrong_columns
from recbole_morec.data.atomic import CONTENT_TYPES, INTER_TYPES, read_content, read_header
from recbole_morec.data.line_blocks import line_blocks
from recbole_morec.errors import DataError

TEXT_SUFFIXES = (".csv", ".tsv", ".txt")

SEPARATORS = {"comma": ",", "tab": "\t", "semicolon": ";", "bar": "|"}

_NAMES = {separator: name for name, separator in SEPARATORS.items()}
_BLOCK = 1 << 17
_READ = 1 << 24


class Rows(ABC):
    """The rows of one file.

    Attributes:
        path: the file.
        columns: names of the columns; every block has them.
        form: how the file is read, for the report.
        left_out: columns that cannot be read as text, with the reason.
    """

    def __init__(self, path: Path, columns: Sequence[str], form: str):
        self.path = path
        self.columns = list(columns)
        self.form = form
        self.left_out: dict[str, str] = {}

    @abstractmethod
    def blocks(self) -> Iterator[pl.DataFrame]:
        """Yield the rows in order: String columns, null where a cell is empty.

        Raises:
            DataError: naming file and line.
        """

    @abstractmethod
    def place(self, row: int) -> str:
        """Where a row (from 0) stands in the file, for messages; it was read before."""

    def at(self, row: int) -> str:
        """File and place of a row, for messages."""
        return f"{self.path} {self.place(row)}"


def open_rows(path: Path, names: Sequence[str] | None = None, separator: str | None = None) -> Rows:
    """Open a table; the dialect of a text file is found out.

    Args:
        path: a CSV, TSV, parquet or atomic file.
        names: column names of a text file without a header; ``None`` = the first line names them.
        separator: of a text file, where it is known; ``.inter`` files are text files then.

    Raises:
        DataError: naming file and line.
    """
    suffix = path.suffix.lower()
    if separator is not None:
        return _open_text(path, names, separator)
    if suffix == ".parquet":
        return ParquetRows(path)
    if suffix == ".content":
        return ContentRows(path)
    if suffix in (".inter", ".item"):
        return LineRows(path, list(read_header(path, INTER_TYPES)), "\t", "atomic file")
    return _open_text(path, names)


class LineRows(Rows):
    """A row is a line; no quoting."""

    def __init__(
        self, path: Path, names: Sequence[str], separator: str, form: str, header: bool = True
    ):
        named = [name for name in names if name]
        super().__init__(path, named, form)
        self.left_out = _nameless(names)
        self._positions = [f"column {at}" for at in range(len(names))]
        self._kept = {f"column {at}": name for at, name in enumerate(names) if name}
        self._separator = separator
        self._header = header

    def blocks(self) -> Iterator[pl.DataFrame]:
        for block in line_blocks(self.path, self._positions, self._separator, self._header):
            yield block.frame.select(self._kept.keys()).rename(self._kept)

    def place(self, row: int) -> str:
        return f"line {row + 1 + self._header}"


class QuotedRows(Rows):
    """Cells may be quoted and then hold separators and line breaks."""

    def __init__(
        self, path: Path, names: Sequence[str], separator: str, form: str, header: bool = True
    ):
        super().__init__(path, [name for name in names if name], form)
        self.left_out = _nameless(names)
        self._names = list(names)
        self._separator = separator
        self._header = header
        # Line of a row = row + the shift of the last entry at or before it.
        self._rows = [0]
        self._shifts = [1 + header]

    def check(self) -> None:
        """Read the whole file once, for its errors."""
        for _ in self._records():
            pass

    def blocks(self) -> Iterator[pl.DataFrame]:
        schema = dict.fromkeys(self.columns, pl.String)
        kept = [(at, name) for at, name in enumerate(self._names) if name]
        records: list[list[str]] = []

        def frame() -> pl.DataFrame:
            columns = {name: [record[at] or None for record in records] for at, name in kept}
            return pl.DataFrame(columns, schema=schema)

        for record in self._records():
            records.append(record)
            if len(records) == _BLOCK:
                yield frame()
                records = []
        if records:
            yield frame()

    def place(self, row: int) -> str:
        return f"line {row + self._shifts[bisect.bisect_right(self._rows, row) - 1]}"

    def _records(self) -> Iterator[list[str]]:
        self._rows, self._shifts = [0], [1 + self._header]
        with self.path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=self._separator, strict=True)
            try:
                if self._header:
                    next(reader)
                start = reader.line_num + 1
                for row, record in enumerate(reader):
                    if len(record) != len(self._names):
                        raise DataError(
                            wrong_columns(
                                self.path, start, len(record), len(self._names), self._separator
                            )
                        )
                    if start - row != self._shifts[-1]:
                        self._rows.append(row)
                        self._shifts.append(start - row)
                    yield record
                    start = reader.line_num + 1
            except csv.Error as error:
                raise DataError(
                    f"{self.path} line {reader.line_num}: {error}. A quotation mark inside a "
                    "quoted text is written twice; look for one that is not closed, in or before "
                    "this line."
                ) from None
            except UnicodeDecodeError:
                check_utf8(self.path)  # names the line
                raise


class ParquetRows(Rows):
    """A parquet file; numbers and dates become text."""

    def __init__(self, path: Path):
        try:
            self._file = pq.ParquetFile(path)
            schema = pl.from_arrow(self._file.schema_arrow.empty_table()).schema
        except (pa.ArrowException, OSError, pl.exceptions.PolarsError) as error:
            raise DataError(f"{path}: not a readable parquet file ({error}).") from None
        readable = [name for name, kind in schema.items() if _readable(kind)]
        super().__init__(path, readable, "parquet")
        self.left_out = {
            name: f"has the type {kind}" for name, kind in schema.items() if name not in readable
        }

    def blocks(self) -> Iterator[pl.DataFrame]:
        try:
            for batch in self._file.iter_batches(_BLOCK, columns=self.columns):
                frame = pl.from_arrow(pa.Table.from_batches([batch]))
                yield frame.select(_as_text(frame[name]).replace("", None) for name in self.columns)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: not a readable parquet file ({error}).") from None

    def place(self, row: int) -> str:
        return f"row {row + 1}"


class ContentRows(Rows):
    """A ``.content`` file, unescaped."""

    def __init__(self, path: Path):
        self._content = read_content(path, next(iter(read_header(path, CONTENT_TYPES))))
        super().__init__(path, [self._content.item_field, *self._content.columns], "atomic file")

    def blocks(self) -> Iterator[pl.DataFrame]:
        columns = {self._content.item_field: self._content.tokens, **self._content.columns}
        yield pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))

    def place(self, row: int) -> str:
        return f"line {row + 2}"


# --- text files ---------------------------------------------------------------------------------


def _open_text(path: Path, names: Sequence[str] | None, separator: str | None = None) -> Rows:
    first, more = _first_line(path)
    if not first.strip():
        raise DataError(
            f"{path}: {'line 1' if more else 'the file'} is empty. The first line "
            + (
                "names the columns, separated by comma, tab, semicolon or bar; the rows stand "
                "below it."
                if names is None
                else "is the first row; this kind of file has no header."
            )
        )
    if separator is None:
        separator = find_separator(path)
    elif separator not in first:
        raise DataError(
            f'{path} line 1: "{first[:80]}" has no {_NAMES[separator]}, which separates the '
            "columns. Choose another one with --separator."
        )
    form = f"{_NAMES[separator]}-separated" + ("" if names is None else ", no header")
    header = names is None
    quoted = _has_quotes(path)
    # In tab-separated files quotation marks are often part of the texts.
    plain_form = f"{form}, quotation marks are text" if quoted else form

    def plain() -> LineRows:
        found = _checked_names(path, first.split(separator)) if header else names
        return LineRows(path, found, separator, plain_form, header)

    if not quoted:
        return plain()
    try:
        found = _checked_names(path, first_record(path, separator)) if header else names
        rows = QuotedRows(path, found, separator, f"{form}, quoted", header)
        if separator == "\t":
            rows.check()
        return rows
    except DataError as error:
        if separator != "\t":
            raise
        try:
            return plain()
        except DataError:
            raise error from None


def find_separator(path: Path) -> str:
    """The separator of a text file: that which is most often in its first line.

    Raises:
        DataError: there is none.
    """
    first, _ = _first_line(path)
    separator = max(_NAMES, key=first.count)
    if separator not in first:
        raise DataError(
            f'{path} line 1: "{first[:80]}" has no separator. The first line names the columns, '
            "separated by comma, tab, semicolon or bar."
        )
    return separator


def _first_line(path: Path) -> tuple[str, bool]:
    """The first line of a text file, and whether there are more."""
    check_text(path)
    with path.open("rb") as file:
        first = decode_line(file.readline(_READ), path, 1).removeprefix("\ufeff").rstrip("\r\n")
        return first, bool(file.read(1))


def first_record(path: Path, separator: str) -> list[str]:
    """The cells of the first row of a text file; of an empty file, none.

    Raises:
        DataError: naming file and line.
    """
    check_text(path)
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            return next(csv.reader(file, delimiter=separator, strict=True), [])
        except csv.Error as error:
            raise DataError(
                f"{path} line 1: {error}. A quotation mark inside a quoted text is written twice."
            ) from None
        except UnicodeDecodeError:
            check_utf8(path)
            raise


def _has_quotes(path: Path) -> bool:
    """Whether a quotation mark is in a file; a NUL byte is an error."""
    quotes, lines = False, 1
    with path.open("rb") as file:
        while chunk := file.read(_READ):
            if (at := chunk.find(b"\0")) >= 0:
                number = lines + chunk.count(b"\n", 0, at)
                raise DataError(
                    f"{path} line {number}: the line holds a NUL byte. The file is damaged, or is "
                    "no UTF-8 text (UTF-16 has NUL bytes)."
                )
            quotes = quotes or b'"' in chunk
            lines += chunk.count(b"\n")
    return quotes


def _checked_names(path: Path, names: Sequence[str]) -> list[str]:
    names = [name.strip() for name in names]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise DataError(f'{path} line 1: the column "{twice[0]}" stands twice. Rename one of them.')
    return names


def _nameless(names: Sequence[str]) -> dict[str, str]:
    """Columns without a name, such as a saved index."""
    return {f"column {at + 1}": "has no name" for at, name in enumerate(names) if not name}


# --- parquet ------------------------------------------------------------------------------------


def _readable(kind: pl.DataType) -> bool:
    if kind == pl.List(pl.String):
        return True
    return not (kind.is_nested() or kind in (pl.Binary, pl.Object))


def _as_text(column: pl.Series) -> pl.Series:
    kind = column.dtype
    if kind.is_float():
        column = column.fill_nan(None)
        # Ids that a data frame turned into floats because one of them was missing.
        whole = (column == column.floor()) & (column.abs() < 2.0**53)
        integers = column.cast(pl.Int64, strict=False).cast(pl.String)
        return integers.zip_with(whole.fill_null(False), column.cast(pl.String))
    if kind == pl.Datetime:
        if kind.time_zone is not None:
            column = column.dt.convert_time_zone("UTC")
        return column.dt.strftime("%Y-%m-%d %H:%M:%S%.6f")
    if kind == pl.List(pl.String):
        return column.list.join("|")
    return column.cast(pl.String)


def plain_name(column: str) -> str:
    """A column's name in lower case, with single underscores for everything but letters, digits."""
    return re.sub(r"[\W_]+", "_", column.lower()).strip("_")
