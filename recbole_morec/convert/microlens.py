"""``recbole-morec convert microlens``: MicroLens-50K, -100K and -1M.

Layout: ``MicroLens-50k_pairs.csv`` has a header, ``user,item,timestamp`` (``userID, videoID,
timestamp`` in the release's readme), all integers, times in milliseconds; ``..._pairs.tsv`` is a
line per user with his videos in time order. Titles are ``MicroLens-50k_titles.csv``, quoted, with
the header ``item,title``; of the larger sets ``MicroLens-100k_title_en.csv`` and
``MicroLens-1M_title.csv``, without a header, in which commas and quotation marks of a title are not
escaped, so that a line is split at its first comma. ``..._likes_and_views.txt`` is item, likes,
views, separated by tabs. Covers are ``..._covers/<item>.jpg``.

File names as at https://recsys.westlake.edu.cn/MicroLens-50k-Dataset/ (-100k-, -1M-); columns as
found there by public readers of these files.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from recbole_morec.convert._behaviours import open_behaviours
from recbole_morec.convert._find_images import find_images, name_in
from recbole_morec.convert._first_cell import FirstCellRows
from recbole_morec.convert._layout import names_items, open_interactions
from recbole_morec.convert._rows import LineRows, Rows, open_rows, plain_name
from recbole_morec.convert._search import (
    by_variant,
    chosen_set,
    files_below,
    item_file,
    the_file,
)
from recbole_morec.convert._source import COLUMNS, DIALECT, FILES, Counts, Options, Source
from recbole_morec.convert._tables import Table, table_of, without_missing
from recbole_morec.convert.report import Report
from recbole_morec.data._atomic_lines import decode_line

CITATION = (
    "Ni et al., A Content-Driven Micro-Video Recommendation Dataset at Scale (arXiv 2309.15379)"
)
READS = (*FILES, "variant", "language", *COLUMNS, *DIALECT)
# 100K and 1M: Table 1 of arXiv 2309.15379. 50K came later than the paper; counted in the released
# files (50,000 users, 19,220 videos, 359,708 pairs) by several of its public readers.
PUBLISHED = {
    "MicroLens-50k": Counts(50_000, 19_220, 359_708),
    "MicroLens-100k": Counts(100_000, 19_738, 719_405),
    "MicroLens-1M": Counts(1_000_000, 91_402, 9_095_620),
}

_NAME = r"(?P<name>MicroLens-\w+?)"


def find(options: Options, report: Report) -> Source:
    """Find pairs, titles and covers.

    Raises:
        DataError: there are no pairs, or those of several sets.
    """
    files = files_below(options.input)
    pairs = _named(files, r"pairs\.csv")
    lines = _named(files, r"pairs\.tsv")
    name, path = chosen_set(
        options,
        {**lines, **pairs},
        "MicroLens-50k_pairs.csv or the like",
        PUBLISHED,
        lambda path: next(iter(_named([path], r"pairs\.[ct]sv")), None),
    )
    report.detected["data set"] = name
    items = _open_items(options, files, name, report)
    if path.suffix.lower() == ".tsv":
        rows, columns = open_behaviours(path, options, report)
        report.notes.append(f"{path.name} has no timestamps; the order of a user's items counts.")
    else:
        ids = None if items is None else without_missing(items.frame["item"])
        rows, columns = open_interactions(path, options, ids, report, PUBLISHED.get(name))
    report.detected["interactions"] = f"{name_in(path, options.input)} ({rows.form})"
    folders = (path.parent, options.input, path.parent.parent)
    return Source(
        rows,
        columns,
        items,
        "item" if items is not None else None,
        find_images(options, report, folders, (f"{name}_covers", f"{name}_cover")),
        ["title"],
        "pixelrec",
        PUBLISHED.get(name),
        CITATION,
    )


def _named(files: list[Path], ending: str) -> dict[str, list[Path]]:
    return by_variant(files, rf"{_NAME}_{ending}", PUBLISHED)


def _open_items(options: Options, files: list[Path], name: str, report: Report) -> Table | None:
    titles = _named(files, r"titles?(_[a-z]+)?\.csv").get(name, [])
    wanted = options.language or "en"
    in_wanted = [path for path in titles if path.stem.endswith(f"_{wanted}")]
    path = item_file(options, in_wanted[:1] or titles, report)
    if path is None:
        return None
    if options.items is None and options.language is not None and not in_wanted:
        report.notes.append(f"There are no titles in {wanted}; {path.name} is read.")
    table = table_of(_title_rows(path, options))
    table.frame = table.frame.rename(
        dict(zip(table.frame.columns[:2], ("item", "title"), strict=True))
    )
    report.detected["items"] = f"{name_in(path, options.input)} ({table.form})"
    _add_counters(table, _named(files, r"likes_and_views\.txt").get(name, []), report)
    return table


def _title_rows(path: Path, options: Options) -> Rows:
    separator = options.delimiter or ","
    with path.open("rb") as file:
        first = decode_line(file.readline(), path, 1).removeprefix("\ufeff")
    cells = [plain_name(cell) for cell in first.split(separator)]
    if options.header or (names_items(cells[:1]) and cells[1:] in (["title"], ["titles"])):
        return open_rows(path, separator=separator)
    return FirstCellRows(path, separator=separator, unquote=True)


def _add_counters(table: Table, files: list[Path], report: Report) -> None:
    """Put likes and views beside the titles."""
    if not files:
        return
    path = the_file(files, "--items")
    rows = LineRows(path, ("item", "likes", "views"), "\t", "tab-separated, no header", False)
    counters = table_of(rows).frame.with_columns(pl.col("item").str.strip_chars())
    counters = counters.unique("item", keep="first")
    table.frame = table.frame.join(counters, on="item", how="left", maintain_order="left")
    report.detected["likes and views"] = f"{path.name} ({rows.form})"
