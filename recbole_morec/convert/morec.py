"""``recbole-morec convert morec``: the MIND, HM and Bili files of IDvs.MoRec.

Layout (``data_utils/preprocess.py`` and ``dataset/`` of westlake-repl/IDvs.MoRec): no headers,
tabs. ``mind_60w_users.tsv`` and ``hm_50w_users.tsv`` are a user and his items, separated by blanks,
oldest first; further columns are ignored. ``mind_60w_items.tsv`` has exactly three columns (item,
title, abstract), ``hm_50w_items.tsv`` one (``v`` and a number), which lists the catalogue. Images
are ``hm_images/<item>.jpg``. Bili is given on request; its reader there is that of HM, so files
called ``*bili*_users.tsv`` and ``*bili*_items.tsv`` are taken to be alike.
"""

from __future__ import annotations

from pathlib import Path

from recbole_morec.convert._behaviours import open_behaviours
from recbole_morec.convert._find_images import find_images, name_in
from recbole_morec.convert._rows import LineRows
from recbole_morec.convert._search import (
    by_variant,
    chosen_set,
    files_below,
    item_file,
)
from recbole_morec.convert._source import FILES, Counts, Options, Source
from recbole_morec.convert._tables import Table, table_of
from recbole_morec.convert.report import Report
from recbole_morec.data._atomic_lines import decode_line
from recbole_morec.errors import DataError, counted

CITATION = (
    "Yuan et al., Where to Go Next for Recommender Systems? ID- vs. Modality-based Recommender "
    "Models Revisited, SIGIR 2023 (arXiv 2303.13835)"
)
READS = (*FILES, "variant")
# Table 1 of the paper rounds its counts, so that they cannot be compared to the last digit.
# hm_50w_items.tsv is in the repository and has 86,733 lines.
PUBLISHED = {"MIND": Counts(), "HM": Counts(items=86_733), "Bili": Counts()}
_ROUNDED = {
    "MIND": "630K users, 80K items",
    "HM": "500K users, 87K items",
    "Bili": "400K users, 128K items",
}
_COLUMNS = {3: ("item", "title", "abstract"), 2: ("item", "title"), 1: ("item",)}


def find(options: Options, report: Report) -> Source:
    """Find histories, items and images.

    Raises:
        DataError: there are no histories, or those of several sets; the items of MIND have another
            number of columns than three.
    """
    files = files_below(options.input)
    users = _named(files, "users")
    name, path = chosen_set(
        options,
        users,
        "mind_60w_users.tsv or hm_50w_users.tsv",
        PUBLISHED,
        lambda path: next(iter(_named([path], "users")), None),
    )
    report.detected["data set"] = name
    if name in _ROUNDED:
        report.detected["published, rounded"] = f"{_ROUNDED[name]} (Table 1 of the paper)"
    rows, columns = open_behaviours(path, options, report)
    report.detected["interactions"] = f"{name_in(path, options.input)} ({rows.form})"
    items = _open_items(options, _named(files, "items").get(name, []), name, report)
    folders = (path.parent, options.input, path.parent.parent)
    names = (f"{name.lower()}_images", f"{name.lower()}_image", "images")
    images = find_images(options, report, folders, names)
    if items is not None and images is None and items.frame.width == 1:
        report.notes.append(
            f"{items.path.name} lists {counted(items.frame.height, 'item')} without any text, and "
            "there are no images: there is nothing to write about them."
        )
        items = None
    return Source(
        rows,
        columns,
        items,
        "item" if items is not None else None,
        images,
        ["title"],  # all scripts of the repository read the title alone
        "morec",
        PUBLISHED.get(name),
        CITATION,
    )


def _named(files: list[Path], ending: str) -> dict[str, list[Path]]:
    return by_variant(files, rf"(?P<name>mind|hm|bili)_(.*_)?{ending}\.tsv", PUBLISHED)


def _open_items(options: Options, named: list[Path], name: str, report: Report) -> Table | None:
    path = item_file(options, named, report)
    if path is None:
        return None
    with path.open("rb") as file:
        count = decode_line(file.readline(), path, 1).count("\t") + 1
    if count not in _COLUMNS or (name == "MIND" and count != 3):
        raise DataError(
            f"{path} line 1: {count} columns, but "
            + ("the items of MIND have exactly 3: " if name == "MIND" else "items have at most 3: ")
            + "item, title, abstract, separated by tabs."
        )
    rows = LineRows(path, _COLUMNS[count], "\t", "tab-separated, no header", header=False)
    table = table_of(rows)
    said = ", ".join(_COLUMNS[count])
    report.detected["items"] = f"{name_in(path, options.input)} ({rows.form}; {said})"
    return table
