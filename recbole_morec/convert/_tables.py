"""Whole tables in memory (items), and which file and which column plays which role."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from recbole_morec.convert._rows import TEXT_SUFFIXES, Rows, plain_name
from recbole_morec.errors import DataError, short, suggest

# What programs write for a missing value. Not "nan": it is an id in some data sets.
_MISSING = ("", "None", "null", "NULL", "N/A", "<NA>")


@dataclass
class Table:
    """A table as it was found.

    Attributes:
        rows: the file.
        frame: all columns as String; null where a value is empty.
    """

    rows: Rows
    frame: pl.DataFrame

    @property
    def path(self) -> Path:
        return self.rows.path

    @property
    def form(self) -> str:
        """How it was read, for the report."""
        return self.rows.form


def table_of(rows: Rows) -> Table:
    """Read all rows.

    Raises:
        DataError: naming file and line; there is no row.
    """
    frames = list(rows.blocks())
    if not frames:
        raise no_rows(rows)
    return Table(rows, pl.concat(frames))


def no_rows(rows: Rows) -> DataError:
    """The error of a table without rows."""
    return DataError(
        f"{rows.path}: there is not one row in it (below the header, if it has one). Is it the "
        "right file, and whole?"
    )


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
        return given_file(folder, given, flag)
    fitting = [
        path
        for path in sorted(folder.iterdir())
        if path.is_file()
        and (
            path.suffix.lower() in suffixes
            or (
                path.suffix.lower() in (*TEXT_SUFFIXES, ".parquet")
                and stems.fullmatch(path.stem.lower())
            )
        )
    ]
    if len(fitting) > 1:
        names = ", ".join(path.name for path in fitting)
        raise DataError(f"{folder}: several files fit: {names}. Choose one with {flag}.")
    return fitting[0] if fitting else None


def given_file(folder: Path, given: str, flag: str) -> Path:
    """Return the file that the user named, relative to ``folder`` or to the current folder.

    Raises:
        DataError: it is not there, or a folder.
    """
    for path in (folder / given, Path(given)):
        if path.is_file():
            return path
        if path.is_dir():
            raise DataError(f"{flag}: {path} is a folder; name a file in it.")
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    held = ", ".join(names[:10]) + (", ..." if names[10:] else "")
    raise DataError(
        f'{flag}: the file "{given}" was not found in the input folder {folder}.'
        f"{suggest(given, names)} The folder holds {held or 'no files'}. Name one of them, or "
        "give the whole path."
    )


def without_missing(column: pl.Series) -> pl.Series:
    """A column of ids or times without blanks around them, null where the value is missing."""
    return column.str.strip_chars().replace(list(_MISSING), None)


def item_ids(table: Table, column: str) -> pl.Series:
    """The column of items without blanks around them, null where the id is missing.

    Raises:
        DataError: an id holds a tab or a line break.
    """
    ids = without_missing(table.frame[column])
    broken = broken_ids(ids)
    if broken.any():
        row = broken.arg_max()
        raise DataError(unusable_id(table.rows.at(row), column, ids[row]))
    return ids


def broken_ids(ids: pl.Series) -> pl.Series:
    """Which ids cannot be written into an atomic file (Boolean)."""
    return (ids.str.contains(r"[\t\n\r\x00]") | (ids == "[PAD]")).fill_null(False)


def unusable_id(place: str, column: str, found: str) -> str:
    """Say that an id cannot be used."""
    return (
        f'{place}: the column "{column}" holds {short(found)!r}; an id cannot hold a tab, a line '
        "break or a NUL, and [PAD] is reserved. Rename it in this file."
    )


def find_column(rows: Rows, given: str | None, names: Sequence[str], flag: str) -> str | None:
    """Return the column of a role: the given one, or the first of ``names`` that is there.

    Raises:
        DataError: the given column is not there.
    """
    if given is not None:
        if given not in rows.columns:
            raise DataError(
                f'{rows.path}: there is no column "{given}" ({flag}).'
                f"{suggest(given, rows.columns)} The columns are {', '.join(rows.columns)}."
            )
        return given
    plain = {plain_name(column): column for column in reversed(rows.columns)}
    return next((plain[name] for name in names if name in plain), None)


def need_column(rows: Rows, role: str, given: str | None, names: Sequence[str], flag: str) -> str:
    """Like :func:`find_column`, but the column must be there."""
    found = find_column(rows, given, names, flag)
    if found is None:
        raise DataError(
            f"{rows.path}: no column looks like the {role}; the columns are "
            f"{', '.join(rows.columns)}. Name it with {flag}. If the first line already is data, "
            "give --no-header and the numbers of the columns, or put a line with the names of the "
            "columns above it."
        )
    return found
