"""``recbole-morec convert odmt``: Stream (KS), Arts, Office, H&M and Bili as ODMT reads them.

Layout (``code/utils/dataset_config.py`` and ``code/utils/load_data.py`` of xyliugo/ODMT): a
behaviour file without a header, user, tab, items separated by blanks, oldest first; and a file of
texts without a header. File names say which: ``10wu_ks_pairs.tsv`` and ``10wu_ks_title.csv`` (the
first comma ends the id, later ones are of the title), ``hm_pick_users_5W.tsv`` and
``hm_pick_items_5W.tsv``, ``bili_pick_users_10W.tsv`` and ``bili_pick_items_10W.tsv`` (two columns
with a tab), ``Office_Products_user_behaviours.tsv`` and ``Office_Products_text.tsv`` (the first tab
ends the id, further columns are joined with a blank).
"""

from __future__ import annotations

import re
from pathlib import Path

from recbole_morec.convert._behaviours import open_behaviours
from recbole_morec.convert._find_images import find_images, name_in
from recbole_morec.convert._first_cell import FirstCellRows
from recbole_morec.convert._rows import LineRows, Rows
from recbole_morec.convert._search import choose_variant, files_below, the_file
from recbole_morec.convert._source import FILES, Counts, Options, Source
from recbole_morec.convert._tables import Table, given_file, table_of
from recbole_morec.convert.report import Report
from recbole_morec.errors import DataError

CITATION = (
    "Ji et al., Online Distillation-enhanced Multi-modal Transformer for Sequential "
    "Recommendation, ACM MM 2023 (arXiv 2308.04067)"
)
READS = (*FILES, "variant")
# As a reader of the paper reports them; the repository gives no numbers, nor any of Arts, Office.
PUBLISHED = {
    "KS_10wu": Counts(100_000, 19_683, 687_487),
    "hm_5W": Counts(50_000, 61_042, 606_922),
}

# Histories, and how a set's name and its texts' file follow from them.
_KINDS = (
    (r"(?P<tag>\w+)_ks_pairs\.tsv", "KS_{tag}", "{tag}_ks_title.csv"),
    (r"hm_pick_users_(?P<tag>\w+)\.tsv", "hm_{tag}", "hm_pick_items_{tag}.tsv"),
    (r"bili_pick_users_(?P<tag>\w+)\.tsv", "bili_{tag}", "bili_pick_items_{tag}.tsv"),
    (r"(?P<tag>\w+)_user_behaviours\.tsv", "{tag}", "{tag}_text.tsv"),
)


def find(options: Options, report: Report) -> Source:
    """Find histories, texts and images.

    Raises:
        DataError: there are no histories, or those of several sets; their texts are missing.
    """
    if options.interactions is not None:
        files = [given_file(options.input, options.interactions, "--interactions")]
    else:
        files = files_below(options.input)
    histories: dict[str, list[Path]] = {}
    texts: dict[str, str] = {}
    for path in files:
        for pattern, name, text in _KINDS:
            if match := re.fullmatch(pattern, path.name):
                known = name.format(tag=match["tag"])
                histories.setdefault(known, []).append(path)
                texts[known] = text.format(tag=match["tag"])
                break
    name = choose_variant(histories, options, "10wu_ks_pairs.tsv, hm_pick_users_5W.tsv or the like")
    path = the_file(histories[name], "--interactions")
    report.detected["data set"] = name
    rows, columns = open_behaviours(path, options, report)
    report.detected["interactions"] = f"{name_in(path, options.input)} ({rows.form})"
    items = _open_items(options, path.parent / texts[name], report)
    return Source(
        rows,
        columns,
        items,
        "item",
        find_images(options, report, (path.parent, options.input), ("images",)),
        ["title"],
        "morec",
        PUBLISHED.get(name),
        CITATION,
    )


def _open_items(options: Options, usual: Path, report: Report) -> Table:
    path = usual
    if options.items is not None:
        path = given_file(options.input, options.items, "--items")
    if not path.is_file():
        raise DataError(
            f"{path}: not found; it holds the texts of the items. Put it there, or name it with "
            "--items."
        )
    rows = _text_rows(path)
    report.detected["items"] = f"{name_in(path, options.input)} ({rows.form})"
    return table_of(rows)


def _text_rows(path: Path) -> Rows:
    if path.suffix.lower() == ".csv":
        return FirstCellRows(path, separator=",")
    if path.stem.endswith("_text"):
        return FirstCellRows(path, separator="\t", joined=" ")
    return LineRows(path, ("item", "title"), "\t", "tab-separated, no header", header=False)
