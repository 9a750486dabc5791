"""``recbole-morec convert pixelrec``: PixelRec (50K, 200K, 1M, 8M and the whole set).

Layout (README and ``dataset/readme.md`` of westlake-repl/PixelRec, and the loaders in
``code/REC/data/dataload.py``): interactions are a CSV file with a header, the item first:
``item_id,user_id,timestamp`` in Unix seconds, neither grouped nor sorted. Item information is a
second CSV file, quoted, by name: seven counters that are written as floats or empty, ``title``,
``tag`` and, since April 2024, ``description``. It lies beside the interactions
(``pixel50k_item_info.csv``) or in a folder of its own under the same file name. Covers are
``<item>.jpg`` in ``cover/``, or in ``images/`` where PixelRec's own code looks for them.
"""

from __future__ import annotations

import re
from pathlib import Path

from recbole_morec.convert._find_images import find_images, name_in
from recbole_morec.convert._layout import is_header, open_interactions
from recbole_morec.convert._rows import first_record, open_rows, plain_name
from recbole_morec.convert._search import (
    UNNAMED,
    chosen_set,
    files_below,
    item_file,
    known_variant,
)
from recbole_morec.convert._source import COLUMNS, DIALECT, FILES, Counts, Options, Source
from recbole_morec.convert._tables import Table, need_column, table_of
from recbole_morec.convert.report import Report

CITATION = (
    "Cheng et al., An Image Dataset for Benchmarking Recommender Systems with Raw Pixels, SDM 2024 "
    "(arXiv 2309.06789)"
)
READS = (*FILES, "variant", *COLUMNS, *DIALECT)
# README (50K) and doc/pre.pdf p. 13 of westlake-repl/PixelRec.
PUBLISHED = {
    "PixelRec50K": Counts(50_000, 82_865, 989_494),
    "Pixel200K": Counts(200_000, 96_282, 3_965_656),
    "Pixel1M": Counts(1_001_822, 100_541, 19_886_579),
    "Pixel8M": Counts(8_886_078, 407_082, 158_488_652),
    "PixelRec": Counts(29_845_039, 408_374, 195_755_320),
}

_INFO = {"title", "title_en", "view_number", "tag"}


def find(options: Options, report: Report) -> Source:
    """Find interactions, item information and covers.

    Raises:
        DataError: there are no interactions, or several sets; a column is missing.
    """
    interactions, infos = _tables(options.input, options.delimiter or ",")
    if options.variant is not None and [*interactions] == [UNNAMED]:
        interactions = {known_variant(options.variant, PUBLISHED): interactions[UNNAMED]}
    expected = "interactions such as Pixel200K.csv"
    name, path = chosen_set(options, interactions, expected, PUBLISHED, _variant)
    report.detected["data set"] = name
    items = _open_items(options, infos, name, report)
    ids = None if items is None else items.frame["item_id"]
    rows, columns = open_interactions(path, options, ids, report, PUBLISHED.get(name))
    report.detected["interactions"] = f"{name_in(path, options.input)} ({rows.form})"
    near = [options.input, path.parent, path.parent.parent, *([items.path.parent] if items else [])]
    texts = ("title", "tag", "description")
    if items is not None and "title_en" in items.frame.columns:
        texts = ("title_en", "tag", "description")  # early downloads; title is Chinese there
    return Source(
        rows,
        columns,
        items,
        "item_id" if items is not None else None,
        find_images(options, report, near, ("cover", "covers", "images")),
        texts,
        "pixelrec",
        PUBLISHED.get(name),
        CITATION,
    )


def _tables(folder: Path, separator: str) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """Interactions and item information by data set; told apart by their headers."""
    interactions: dict[str, list[Path]] = {}
    infos: dict[str, list[Path]] = {}
    for path in files_below(folder):
        if path.suffix.lower() != ".csv":
            continue
        header = first_record(path, separator)
        if {plain_name(cell) for cell in header} & _INFO:
            infos.setdefault(_variant(path), []).append(path)
        elif is_header(header) or re.match(r"pixel|interaction", path.stem.lower()):
            interactions.setdefault(_variant(path), []).append(path)
    return interactions, infos


def _variant(path: Path) -> str:
    size = re.search(r"(50k|200k|1m|8m)", path.stem, re.IGNORECASE)
    if size is not None:
        size = size.group().upper()
        return "PixelRec50K" if size == "50K" else f"Pixel{size}"
    return "PixelRec" if re.match(r"pixel_?rec", path.stem, re.IGNORECASE) else UNNAMED


def _open_items(
    options: Options, infos: dict[str, list[Path]], name: str, report: Report
) -> Table | None:
    only = next(iter(infos.values())) if len(infos) == 1 else []
    path = item_file(options, infos.get(name) or only, report)
    if path is None:
        if infos:
            held = ", ".join(name_in(each, options.input) for v in infos.values() for each in v)
            report.notes.append(
                f"No item information belongs to {name} (found {held}). Name it with --items."
            )
        return None
    table = table_of(open_rows(path, separator=options.delimiter or ","))
    column = need_column(table.rows, "item", None, ("item_id", "item"), "--items")
    table.frame = table.frame.rename({column: "item_id"})
    report.detected["items"] = f"{name_in(path, options.input)} ({table.form})"
    if "description" not in table.frame.columns:
        report.notes.append(f"{path.name} has no description: downloads before April 2024 lack it.")
    return table
