"""``recbole-morec convert folder``: tables of interactions and items and a folder of images.

Any CSV, TSV, parquet or atomic file will do. Files, separators, quoting and columns are found by
looking at them, everything found is in the report, and every guess has an option that overrides it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from recbole_morec.convert._find_images import find_images, name_in
from recbole_morec.convert._layout import ITEM_NAMES, named_columns
from recbole_morec.convert._pipeline import convert_source
from recbole_morec.convert._rows import Rows, open_rows
from recbole_morec.convert._source import Options, Source
from recbole_morec.convert._tables import Table, find_file, need_column, read_table
from recbole_morec.convert.report import Report
from recbole_morec.errors import DataError

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
    folder = options.input
    rows = _open_interactions(folder, options.interactions, report)
    columns = named_columns(rows, options)
    items = _open_items(folder, options.items, rows.path, report)
    item_column = None
    if items is not None:
        # --item-field may name the column of both tables, or only that of the interactions.
        given = options.item_field if options.item_field in items.rows.columns else None
        item_column = need_column(items.rows, "item", given, ITEM_NAMES, "--item-field")
        report.detected["item column (items)"] = item_column
    images = find_images(options, report)
    return Source(rows, columns, items, item_column, images)


# --- the source ---------------------------------------------------------------------------------


def _open_interactions(source: Path, given: str | None, report: Report) -> Rows:
    path = find_file(source, given, "--interactions", _INTERACTION_FILES, (".inter",))
    if path is None:
        names = ", ".join(sorted(entry.name for entry in source.iterdir())[:10])
        raise DataError(
            f"{source}: no file looks like interactions (interactions.csv, ratings.tsv, "
            f"NAME.inter, ...); the folder holds {names or 'nothing'}. Name it with --interactions."
        )
    rows = open_rows(path)
    report.detected["interactions"] = f"{name_in(path, source)} ({rows.form})"
    return rows


def _open_items(source: Path, given: str | None, taken: Path, report: Report) -> Table | None:
    suffixes = (".content",) if any(source.glob("*.content")) else (".item",)
    path = find_file(source, given, "--items", _ITEM_FILES, suffixes)
    if path is None or path == taken:
        report.detected["items"] = "no table"
        return None
    table = read_table(path)
    report.detected["items"] = f"{name_in(path, source)} ({table.form})"
    return table
