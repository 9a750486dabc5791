"""``recbole-morec convert folder``: tables of interactions and items and a folder of images.

Any CSV, TSV, parquet or atomic file will do. Files, separators, quoting and columns are found by
looking at them, everything found is in the report, and every guess has an option that overrides it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import polars as pl

from recbole_morec.convert._events import EventColumns
from recbole_morec.convert._find_images import find_images, name_in
from recbole_morec.convert._layout import (
    ITEM_NAMES,
    named_columns,
    names_items,
    open_interactions,
)
from recbole_morec.convert._pipeline import convert_source
from recbole_morec.convert._rows import Rows, find_separator, first_record, open_rows
from recbole_morec.convert._source import COLUMNS, DIALECT, FILES, Options, Source
from recbole_morec.convert._tables import Table, find_file, need_column, table_of, without_missing
from recbole_morec.convert.report import Report
from recbole_morec.errors import DataError

READS = (*FILES, *COLUMNS, *DIALECT)

_PREFIX = r"(.*[_-])?"
_INTERACTION_FILES = re.compile(
    _PREFIX + r"(interactions?|inter|ratings?|events?|clicks?|pairs?|purchases|transactions|plays)"
)
_ITEM_FILES = re.compile(
    _PREFIX
    + r"(items?|item[_-]info|products?|movies?|articles?|books?|songs?|tracks?|videos?|metadata)"
)


def convert_folder(
    input: str | Path,
    output: str | Path,
    **choices: Any,
) -> Report:
    """Convert a folder of tables and images into a dataset folder.

    See :meth:`~recbole_morec.convert._source.Options.of` for the choices and
    :func:`~recbole_morec.convert._pipeline.convert_source` for the output and the errors.
    """
    return convert_source("folder", find, Options.of(input=input, output=output, **choices))


def find(options: Options, report: Report) -> Source:
    """Find tables, columns and images by their names.

    Raises:
        DataError: there is no table of interactions, or several; a column is missing.
    """
    path = _interactions(options)
    items, item_column = _open_items(options, path, report)
    ids = without_missing(items.frame[item_column]) if items is not None else None
    rows, columns = _open_interactions(path, options, ids, report)
    images = find_images(options, report)
    return Source(rows, columns, items, item_column, images)


# --- the source ---------------------------------------------------------------------------------


def _interactions(options: Options) -> Path:
    source = options.input
    path = find_file(
        source, options.interactions, "--interactions", _INTERACTION_FILES, (".inter",)
    )
    if path is None:
        names = ", ".join(sorted(entry.name for entry in source.iterdir())[:10])
        raise DataError(
            f"{source}: no file looks like interactions (interactions.csv, ratings.tsv, "
            f"NAME.inter, ...); the folder holds {names or 'nothing'}. Name it with --interactions."
        )
    return path


def _open_interactions(
    path: Path, options: Options, items: pl.Series | None, report: Report
) -> tuple[Rows, EventColumns]:
    if options.header is False and _is_text(path):
        separator = options.delimiter or find_separator(path)
        rows, columns = open_interactions(path, options, items, report, separator=separator)
    else:
        _check_numbers(path, options)
        rows = open_rows(path, separator=options.delimiter if _is_text(path) else None)
        columns = named_columns(rows, options)
    report.detected["interactions"] = f"{name_in(path, options.input)} ({rows.form})"
    return rows, columns


def _open_items(options: Options, taken: Path, report: Report) -> tuple[Table | None, str | None]:
    """The item table and its column of the items."""
    source = options.input
    suffixes = (".content",) if any(source.glob("*.content")) else (".item",)
    path = find_file(source, options.items, "--items", _ITEM_FILES, suffixes)
    path = None if path == taken else path
    _check_dialect(options, [taken, *([path] if path else [])])
    if path is None:
        report.detected["items"] = "no table"
        return None, None
    separator = options.delimiter if _is_text(path) else None
    names = _numbers(path, separator) if options.header is False and _is_text(path) else None
    table = table_of(open_rows(path, names, separator))
    report.detected["items"] = f"{name_in(path, source)} ({table.form})"
    if names is not None:
        report.detected["item column (items)"] = f"{names[0]}, the first"
        return table, names[0]
    # --item-field may name the column of both tables, or only that of the interactions.
    given = options.item_field if options.item_field in table.rows.columns else None
    column = need_column(table.rows, "item", given, ITEM_NAMES, "--item-field")
    report.detected["item column (items)"] = column
    return table, column


def _numbers(path: Path, separator: str | None) -> list[str] | None:
    """Names for the columns of an item table without a header; ``None`` if it has one after all."""
    first = first_record(path, separator or find_separator(path))
    if names_items(first):
        return None
    return [f"column {number}" for number in range(1, len(first) + 1)]


def _is_text(path: Path) -> bool:
    return path.suffix.lower() not in (".parquet", ".inter", ".item", ".content")


def _check_numbers(path: Path, options: Options) -> None:
    """Raise if columns are given by number and it is not said whether there is a header."""
    for role in ("user", "item", "time"):
        given = getattr(options, f"{role}_field")
        if given is not None and given.isdigit() and options.header is None and _is_text(path):
            raise DataError(
                f"{path}: --{role}-field {given} is a number. If the first line is data, add "
                f'--no-header; if it names a column "{given}", add --header.'
            )


def _check_dialect(options: Options, paths: list[Path]) -> None:
    """Raise if a separator or header is given and no table is a plain text file."""
    given = options.separator is not None or options.header is not None
    if given and not any(_is_text(path) for path in paths):
        raise DataError(
            f"{paths[0]} names its columns itself and has no separator to choose: leave out "
            "--separator and --header or --no-header."
        )
