"""Foreign tables (CSV, TSV, parquet, atomic files) -> frames of text, whatever their dialect."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from recbole_morec.data._atomic_lines import (
    check_lines,
    check_utf8,
    decode_line,
    wrong_columns,
)
from recbole_morec.data.atomic import CONTENT_TYPES, INTER_TYPES, read_content, read_header
from recbole_morec.errors import DataError, suggest

_SEPARATORS = ",\t;|"
_NAMES = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar"}
# What programs write for a missing value. Not "nan": it is an id in some data sets.
_MISSING = ("", "None", "null", "NULL", "N/A", "<NA>")
_TEXT_SUFFIXES = (".csv", ".tsv", ".txt")


@dataclass
class Table:
    """A table as it was found.

    Attributes:
        path: its file.
        frame: all columns as String; null where a value is empty.
        form: how it was read, for the report.
        line_of: line of each row where rows are not simply lines below a header, else ``None``.
        left_out: columns that could not be read as text, with the reason.
    """

    path: Path
    frame: pl.DataFrame
    form: str
    line_of: Sequence[int] | None = None
    left_out: dict[str, str] = field(default_factory=dict)

    def place(self, row: int) -> str:
        """Where a row (from 0) stands in the file, for messages."""
        if self.path.suffix.lower() == ".parquet":
            return f"row {row + 1}"
        return f"line {self.line_of[row] if self.line_of is not None else row + 2}"


def find_file(
    folder: Path, given: str | None, flag: str, stems: re.Pattern[str], suffixes: Sequence[str]
) -> Path | None:
    """Return the one file of a folder that looks right by name, or the given one.

    Args:
        folder: where to look; subfolders are not searched.
        given: what the user named, relative to ``folder`` or to the current folder.
        flag: the option that names the file, for messages.
        stems: pattern of file names without suffix, in lower case.
        suffixes: suffixes that are enough by themselves, beside the usual ones with such a stem.

    Raises:
        DataError: the given file is not there, or several files fit.
    """
    if given is not None:
        for path in (folder / given, Path(given)):
            if path.is_file():
                return path
        names = sorted(path.name for path in folder.iterdir() if path.is_file())
        held = ", ".join(names[:10]) + (", ..." if names[10:] else "")
        raise DataError(
            f'{flag}: the file "{given}" was not found in the input folder {folder}.'
            f"{suggest(given, names)} The folder holds {held or 'no files'}. Name one of them, or "
            "give the whole path."
        )
    fitting = [
        path
        for path in sorted(folder.iterdir())
        if path.is_file()
        and (
            path.suffix.lower() in suffixes
            or (
                path.suffix.lower() in (*_TEXT_SUFFIXES, ".parquet")
                and stems.fullmatch(path.stem.lower())
            )
        )
    ]
    if len(fitting) > 1:
        names = ", ".join(path.name for path in fitting)
        raise DataError(f"{folder}: several files fit: {names}. Choose one with {flag}.")
    return fitting[0] if fitting else None


def read_table(path: Path) -> Table:
    """Read a table; the dialect of a text file is found out.

    Raises:
        DataError: naming file and line: not UTF-8, another number of fields, unbalanced quotes.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        table = _read_parquet(path)
    elif suffix == ".content":
        content = read_content(path, next(iter(read_header(path, CONTENT_TYPES))))
        columns = {content.item_field: content.tokens, **content.columns}
        schema = dict.fromkeys(columns, pl.String)
        table = Table(path, pl.DataFrame(columns, schema=schema), "atomic file")
    elif suffix in (".inter", ".item"):
        table = _read_lines(path, list(read_header(path, INTER_TYPES)), "\t", "atomic file")
    else:
        table = _read_text(path)
    if table.frame.height == 0:
        raise DataError(f"{path}: there is a header but not one row below it.")
    return table


def without_missing(column: pl.Series) -> pl.Series:
    """A column of ids or times without blanks around them, null where the value is missing."""
    return column.str.strip_chars().replace(list(_MISSING), None)


def ids_of(table: Table, column: str) -> pl.Series:
    """A column of users or items without blanks around them, null where the id is missing.

    Raises:
        DataError: an id holds a tab or a line break.
    """
    ids = without_missing(table.frame[column])
    broken = ids.str.contains(r"[\t\n\r]").fill_null(False)
    if broken.any():
        row = broken.arg_max()
        raise DataError(
            f'{table.path} {table.place(row)}: the column "{column}" holds {ids[row]!r}; an id '
            "cannot hold a tab or a line break. Rename it in this file."
        )
    return ids


# --- text ---------------------------------------------------------------------------------------


def _read_text(path: Path) -> Table:
    with path.open("rb") as file:
        first = decode_line(file.readline(), path, 1).removeprefix("\ufeff").rstrip("\r\n")
        more = bool(file.read(1))
    if not first.strip():
        raise DataError(
            f"{path}: {'line 1' if more else 'the file'} is empty. The first line names the "
            "columns, separated by comma, tab, semicolon or bar; the rows stand below it."
        )
    separator = max(_SEPARATORS, key=first.count)
    if separator not in first:
        raise DataError(
            f'{path} line 1: "{first[:80]}" has no separator. The first line names the columns, '
            "separated by comma, tab, semicolon or bar."
        )
    form = f"{_NAMES[separator]}-separated"
    if not _has_quotes(path):
        names = _header(path, first.split(separator))
        return _read_lines(path, names, separator, form)
    try:
        return _read_quoted(path, separator, f"{form}, quoted")
    except DataError as quoted:
        # In tab-separated files quotation marks are often part of the texts.
        if separator != "\t":
            raise
        try:
            names = _header(path, first.split(separator))
            return _read_lines(path, names, separator, f"{form}, quotation marks are text")
        except DataError:
            raise quoted from None


def _has_quotes(path: Path) -> bool:
    with path.open("rb") as file:
        while chunk := file.read(1 << 24):
            if b'"' in chunk:
                return True
    return False


def _read_lines(path: Path, names: list[str], separator: str, form: str) -> Table:
    rows = check_lines(path, len(names), separator)
    if rows == 0:
        return Table(path, pl.DataFrame(schema=dict.fromkeys(names, pl.String)), form)
    positions = [f"column {at}" for at in range(len(names))]
    frame = pl.read_csv(
        path,
        has_header=False,
        skip_rows=1,
        n_rows=rows,
        separator=separator,
        quote_char=None,
        schema=dict.fromkeys(positions, pl.String),
        glob=False,
    )
    return _named(path, frame, names, form)


def _read_quoted(path: Path, separator: str, form: str) -> Table:
    rows: list[list[str]] = []
    line_of: list[int] = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=separator, strict=True)
        try:
            names = _header(path, next(reader))
            start = reader.line_num + 1
            for row in reader:
                if len(row) != len(names):
                    raise DataError(wrong_columns(path, start, len(row), len(names), separator))
                rows.append(row)
                line_of.append(start)
                start = reader.line_num + 1
        except csv.Error as error:
            raise DataError(
                f"{path} line {reader.line_num}: {error}. A quotation mark inside a quoted text is "
                "written twice; look for one that is not closed, in or before this line."
            ) from None
        except UnicodeDecodeError:
            check_utf8(path)  # names the line
            raise
    columns = [[row[at] or None for row in rows] for at in range(len(names))]
    positions = [f"column {at}" for at in range(len(names))]
    frame = pl.DataFrame(
        dict(zip(positions, columns, strict=True)), schema=dict.fromkeys(positions, pl.String)
    )
    return _named(path, frame, names, form, line_of)


def _header(path: Path, names: Sequence[str]) -> list[str]:
    names = [name.strip() for name in names]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise DataError(f'{path} line 1: the column "{twice[0]}" stands twice. Rename one of them.')
    return names


def _named(
    path: Path, frame: pl.DataFrame, names: list[str], form: str, line_of: list[int] | None = None
) -> Table:
    """Give the columns their names; one without a name (a saved index) is left out."""
    left_out = {f"column {at + 1}": "has no name" for at, name in enumerate(names) if not name}
    kept = {f"column {at}": name for at, name in enumerate(names) if name}
    return Table(path, frame.select(kept.keys()).rename(kept), form, line_of, left_out)


# --- parquet ------------------------------------------------------------------------------------


def _read_parquet(path: Path) -> Table:
    try:
        frame = pl.read_parquet(path, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file ({error}).") from None
    left_out: dict[str, str] = {}
    columns = []
    for column in frame.get_columns():
        text = _as_text(column)
        if text is None:
            left_out[column.name] = f"has the type {column.dtype}"
        else:
            columns.append(text.replace("", None))
    return Table(path, pl.DataFrame(columns), "parquet", None, left_out)


def _as_text(column: pl.Series) -> pl.Series | None:
    kind = column.dtype
    if kind.is_float():
        column = column.fill_nan(None)
        # Ids that a data frame turned into floats because one of them was missing.
        if (column == column.floor()).all() and (column.abs() < 2.0**53).all():
            column = column.cast(pl.Int64)
        return column.cast(pl.String)
    if kind == pl.Datetime:
        if kind.time_zone is not None:
            column = column.dt.convert_time_zone("UTC")
        return column.dt.strftime("%Y-%m-%d %H:%M:%S%.6f")
    if kind == pl.List(pl.String):
        return column.list.join("|")
    if kind.is_nested() or kind == pl.Binary or kind == pl.Object:
        return None
    return column.cast(pl.String)


def find_column(table: Table, given: str | None, names: Sequence[str], flag: str) -> str | None:
    """Return the column of a role: the given one, or the first of ``names`` that is there.

    Raises:
        DataError: the given column is not there.
    """
    columns = table.frame.columns
    if given is not None:
        if given not in columns:
            raise DataError(
                f'{table.path}: there is no column "{given}" ({flag}).{suggest(given, columns)} '
                f"The columns are {', '.join(columns)}."
            )
        return given
    plain = {plain_name(column): column for column in reversed(columns)}
    return next((plain[name] for name in names if name in plain), None)


def need_column(table: Table, role: str, given: str | None, names: Sequence[str], flag: str) -> str:
    """Like :func:`find_column`, but the column must be there."""
    found = find_column(table, given, names, flag)
    if found is None:
        columns = table.frame.columns
        raise DataError(
            f"{table.path}: no column looks like the {role}; the columns are "
            f"{', '.join(columns)}. Name it with {flag}. If the first line already is data, put a "
            "line with the names of the columns above it."
        )
    return found


def plain_name(column: str) -> str:
    """A column's name in lower case, with single underscores for everything but letters, digits."""
    return re.sub(r"[\W_]+", "_", column.lower()).strip("_")
