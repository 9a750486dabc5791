"""``recbole-morec convert ninerec``: the eleven sets of NineRec.

Layout (README of westlake-repl/NineRec; ``get_behaviour.py`` there): no file has a header.
``X_item.csv`` is the item, its text in Chinese and in English, quoted where needed. ``X_pair.csv``
is, says the README, user, item, timestamp, while ``get_behaviour.py`` reads item, user, timestamp;
so the columns are compared with the item table. QB and TN have no timestamps but
``X_behaviour.tsv``, a line per user with his items in time order. Ids are ``u`` and ``v`` and a
number, or bare numbers. Covers are ``X_cover/<item>.jpg``; the two source sets share
``Source_Bili_2M_cover``.

The second code base of NineRec (``BiSC``) keeps its texts in ``text.csv``, whose column of the text
differs from set to set, and its interactions, cut to 23 a user, in ``bisc/bisc.inter``. Both are
read too: languages are told by the script of a column.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from recbole_morec.convert._behaviours import open_behaviours
from recbole_morec.convert._events import EventColumns
from recbole_morec.convert._find_images import find_images, name_in
from recbole_morec.convert._layout import names_items, open_interactions
from recbole_morec.convert._rows import Rows, first_record, open_rows
from recbole_morec.convert._search import (
    UNNAMED,
    by_variant,
    choose_variant,
    files_below,
    item_file,
    known_variant,
    the_file,
)
from recbole_morec.convert._source import COLUMNS, DIALECT, FILES, Counts, Options, Source
from recbole_morec.convert._tables import Table, given_file, table_of, without_missing
from recbole_morec.convert.report import Report
from recbole_morec.errors import DataError

CITATION = (
    "Zhang et al., NineRec: A Benchmark Dataset Suite for Evaluating Transferable Recommendation, "
    "TPAMI 2024 (arXiv 2309.07705)"
)
READS = (*FILES, "variant", "language", *COLUMNS, *DIALECT)
# assets/NineRec_figure1.png of westlake-repl/NineRec.
PUBLISHED = {
    "Bili_2M": Counts(2_000_000, 144_146, 24_497_157),
    "Bili_500K": Counts(500_000, 138_033, 7_845_805),
    "Bili_Food": Counts(6_549, 1_579, 39_740),
    "Bili_Dance": Counts(10_715, 2_307, 83_392),
    "Bili_Movie": Counts(16_525, 3_509, 115_576),
    "Bili_Cartoon": Counts(30_300, 4_724, 215_443),
    "Bili_Music": Counts(50_664, 6_038, 360_177),
    "KU": Counts(2_034, 5_370, 18_519),
    "QB": Counts(17_722, 6_121, 133_664),
    "TN": Counts(20_211, 3_334, 122_576),
    "DY": Counts(20_398, 8_299, 139_834),
}

_SOURCES = ("Bili_2M", "Bili_500K")
_ID = r"^[A-Za-z]?\d+$"
_HAN = r"\p{Han}"


def find(options: Options, report: Report) -> Source:
    """Find interactions, texts and covers of one of the sets.

    Raises:
        DataError: there is no set, or several; it cannot be told which column is which.
    """
    files = files_below(options.input)
    pairs, behaviours, items = (_named(files, ending) for ending in _ENDINGS)
    if options.interactions is not None:
        path = given_file(options.input, options.interactions, "--interactions")
        name = known_variant(options.variant, PUBLISHED)
        name = name or next(iter(_named([path], r"(pair\.csv|behaviour\.tsv)")), UNNAMED)
        pairs = {name: [path]} if path.suffix.lower() != ".tsv" else {}
        behaviours = {} if pairs else {name: [path]}
    else:
        bisc = [path for path in files if path.name == "bisc.inter"]
        if bisc and not pairs and not behaviours:
            name = known_variant(options.variant, PUBLISHED) or UNNAMED
            pairs = {name: bisc}
        else:
            name = choose_variant(
                {**pairs, **behaviours}, options, "X_pair.csv or X_behaviour.tsv (X = QB, ...)"
            )
    report.detected["data set"] = name
    near = the_file((pairs.get(name) or []) or behaviours[name], "--interactions").parent
    table = _open_items(options, items.get(name, []), files, report)
    ids = None if table is None else without_missing(table.frame["item"])
    rows, columns = _open_rows(
        pairs.get(name, []), behaviours.get(name, []), ids, options, report, PUBLISHED.get(name)
    )
    report.detected["interactions"] = f"{name_in(rows.path, options.input)} ({rows.form})"
    covers = [f"{name}_cover"]
    if name in _SOURCES:
        covers += ["Source_Bili_2M_cover", "Bili_2M_cover", "Bili_500K_cover"]
    return Source(
        rows,
        columns,
        table,
        "item" if table is not None else None,
        find_images(options, report, (near, near.parent, options.input), covers),
        _text_fields(table, options.language or "en", report),
        "ninerec",
        PUBLISHED.get(name),
        CITATION,
    )


_ENDINGS = (r"pair\.csv", r"behaviour\.tsv", r"item\.csv")


def _named(files: list[Path], ending: str) -> dict[str, list[Path]]:
    return by_variant(files, rf"(?:Source_)?(?P<name>\w+?)_{ending}", PUBLISHED)


def _open_rows(
    pairs: list[Path],
    behaviours: list[Path],
    items: pl.Series | None,
    options: Options,
    report: Report,
    published: Counts | None,
) -> tuple[Rows, EventColumns]:
    """Pairs with times are best; then behaviours, which are in time order; then bare pairs."""
    if pairs:
        path = the_file(pairs, "--interactions")
        if len(first_record(path, options.delimiter or ",")) > 2 or not behaviours:
            if behaviours:
                report.notes.append(
                    f"{path.name} has timestamps and is read; {behaviours[0].name} is not."
                )
            return open_interactions(path, options, items, report, published)
        report.notes.append(
            f"{path.name} has no timestamps: {behaviours[0].name} is read, which has the items of "
            "a user in time order."
        )
    return open_behaviours(the_file(behaviours, "--interactions"), options, report)


# --- texts --------------------------------------------------------------------------------------


def _open_items(
    options: Options, named: list[Path], files: list[Path], report: Report
) -> Table | None:
    texts = [path for path in files if path.name == "text.csv"]
    path = item_file(options, named or texts, report)
    if path is None:
        return None
    separator = options.delimiter or ","
    first = first_record(path, separator)
    header = options.header or names_items(first)
    numbered = [f"column {number}" for number in range(1, len(first) + 1)]
    table = table_of(open_rows(path, None if header else numbered, separator))
    names = table.frame.columns
    item = _id_column(table.frame, path)
    kept = {item: "item"}
    shares = {}
    for name in names[names.index(item) + 1 :]:
        filled = table.frame[name].drop_nulls()
        if not len(filled) or filled.str.contains(_ID).all():
            continue
        shares[name] = float(filled.str.contains(_HAN).mean())
    for language, name in _languages(shares).items():
        kept[name] = f"title_{language}"
    said = ", ".join(f"{field} {name}" for name, field in kept.items())
    report.detected["items"] = f"{name_in(path, options.input)} ({table.form}; {said})"
    table.frame = table.frame.select(kept.keys()).rename(kept)
    left = [name for name in names if name not in kept]
    if left:
        report.notes.append(f"{path.name}: {', '.join(left)} not taken over.")
    return table


def _id_column(frame: pl.DataFrame, path: Path) -> str:
    """The column of ids; a saved index (0, 1, 2, ... or 1, 2, 3, ...) before it is none.

    Rows may be repeated; the first one of an item counts.
    """
    fitting = [
        name
        for name in frame.columns
        if frame[name].str.strip_chars().str.contains(_ID).fill_null(False).all()
        and 2 * frame[name].n_unique() > frame.height
    ]
    if not fitting:
        raise DataError(
            f"{path}: no column holds ids (v123 or 123). The first column of an item "
            "file is the item's id, the others are its texts."
        )
    if len(fitting) > 1:
        numbers = frame[fitting[0]].cast(pl.Int64, strict=False).unique(maintain_order=True)
        if numbers.null_count() == 0 and (numbers.diff().drop_nulls() == 1).all():
            return fitting[1]
    return fitting[0]


def _languages(shares: dict[str, float]) -> dict[str, str]:
    """The column of each language: Chinese has Chinese characters in most cells."""
    found: dict[str, str] = {}
    for name, share in shares.items():
        found.setdefault("zh" if share > 0.5 else "en", name)
    return found


def _text_fields(table: Table | None, language: str, report: Report) -> list[str]:
    if table is None:
        return []
    titles = [name for name in table.frame.columns if name != "item"]
    wanted = f"title_{language}"
    if wanted not in titles and titles:
        report.notes.append(f"There is no {wanted}; {titles[0]} is read as the items' text.")
        return titles[:1]
    return [wanted]
