"""Item tables and image files -> the rows of a ``.content`` file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from recbole_morec.convert._images import ImageFiles
from recbole_morec.convert._rows import plain_name
from recbole_morec.convert._tables import Table, item_ids
from recbole_morec.convert.report import Report
from recbole_morec.data.atomic import ContentTable
from recbole_morec.errors import counted

IMAGE_FIELD = "cover"
ITEM_FIELD = "item_id"

_IMAGE_NAMES = {
    *("image", "images", "cover", "covers", "img", "picture", "photo", "poster", "thumbnail"),
    *("image_path", "image_file", "image_name", "image_filename", "cover_path", "cover_image"),
    *("img_path", "poster_path", "file_name", "filename"),
}
_TEXT_NAMES = {"title", "name", "description", "text", "abstract", "item_name", "product_title"}
# What says where an item comes from, not what it is: never read as its text by default.
_PROVENANCE = re.compile(
    r"(.*_)?(urls?|uri|links?|sources?|paths?|files?|filename|licen[cs]e|ids?|hash|md5|sha\d*)"
    r"|(image|img|cover|poster|photo|thumbnail|picture)s?(_.*)?"
)
_MISSING = ("", "nan", "NaN", "NAN")
_EXAMPLES = 5


def build_content(
    table: Table | None,
    item_column: str | None,
    interacted: Sequence[str],
    removed: Mapping[str, set[str]],
    images: ImageFiles | None,
    report: Report,
) -> tuple[ContentTable | None, dict[str, str]]:
    """Join an item table with images.

    Args:
        table: the item table, if there is one.
        item_column: its column of the items.
        interacted: items of the interactions, by first appearance.
        removed: reason -> items whose interactions were dropped for it; they get no row.
        images: the images, if there are any.
        report: gets the counts.

    Returns:
        The content, without its image field (``None`` if there is neither text nor image), and, by
        item, the name of its image in the source.
    """
    columns: dict[str, list[str | None]] = {}
    tokens: list[str] = []
    if table is not None:
        frame = _usable_rows(table, item_column, removed, report)
        tokens = frame["item"].to_list()
        columns = {name: frame[name].to_list() for name in frame.columns if name != "item"}
    known = set(tokens)
    added = [
        token
        for token in interacted
        if token not in known and images is not None and images.of_item(token) is not None
    ]
    if not tokens and not added:
        _find_images(list(interacted), [], [], images, report)
        return None, {}
    if added and table is not None:
        report.item_rows["added: an image but no row in the item table"] = len(added)
        report.notes.append(
            f"{counted(len(added), 'item has', 'items have')} an image but no row in the item "
            f"table; {'its' if len(added) == 1 else 'their'} texts are empty."
        )
    named = _image_column(columns, images, report)
    values = columns.pop(named) if named else []
    had = known.union(added)
    others = [token for token in interacted if token not in had]
    files = _find_images(tokens + added, values, others, images, report)

    content = ContentTable({}, tokens + added, {}, ITEM_FIELD)
    for name, values in columns.items():
        kind = _kind(name, values)
        if kind is None:
            report.notes.append(f'The item column "{name}" is empty and was left out.')
            continue
        target = _field_name(name, content)
        if target != name:
            report.notes.append(f'The item column "{name}" is called "{target}" now.')
        content.fields[target] = kind
        content.columns[target] = values + [None] * len(added)
        if kind == "text":
            report.missing_text[target] = content.columns[target].count(None)
    written, wanted = set(content.tokens), set(interacted)
    report.content_rows = len(content)
    report.items_without_content = sum(token not in written for token in wanted)
    report.never_interacted = sum(token not in wanted for token in written)
    return content, files


def default_text_fields(content: ContentTable) -> list[str]:
    """Text fields that describe an item, without links and notes on where it comes from."""
    return [
        name
        for name in content.text_fields
        if not _PROVENANCE.fullmatch(plain_name(name).removesuffix("_text"))
        and not _links(content.columns[name])
    ]


def _usable_rows(
    table: Table, item_column: str, removed: Mapping[str, set[str]], report: Report
) -> pl.DataFrame:
    frame = table.frame.with_columns(pl.all().replace(list(_MISSING), None))
    blank = [pl.col(name).str.strip_chars() == "" for name in frame.columns]
    frame = frame.with_columns(
        pl.when(empty.fill_null(False)).then(None).otherwise(pl.col(name)).alias(name)
        for name, empty in zip(frame.columns, blank, strict=True)
    )
    # The item's own column keeps what looks like a missing number: "nan" may be an id.
    item = item_ids(table, item_column).alias("item")
    frame = frame.drop(item_column)
    if "item" in frame.columns:
        frame = frame.rename({"item": "item_text"})
    frame = frame.with_columns(item)
    report.item_rows["read"] = frame.height
    empty = frame["item"].is_null()
    if empty.any():
        report.item_rows["dropped: no item"] = int(empty.sum())
        frame = frame.filter(~empty)
    again = ~frame["item"].is_first_distinct()
    if again.any():
        report.item_rows["dropped: item again (the first row was kept)"] = int(again.sum())
        report.examples["item again"] = frame.filter(again)["item"].head(_EXAMPLES).to_list()
        frame = frame.filter(~again)
    for reason, items in removed.items():
        outside = frame["item"].is_in(list(items))
        if outside.any():
            report.item_rows[f"dropped: {reason}"] = int(outside.sum())
            frame = frame.filter(~outside)
    return frame


def _image_column(
    columns: dict[str, list[str | None]], images: ImageFiles | None, report: Report
) -> str | None:
    """Return the column that names the image files; the first whose files are there."""
    for name, values in columns.items():
        if plain_name(name) not in _IMAGE_NAMES:
            continue
        filled = [value for value in values if value is not None]
        if images is not None and any(images.of_value(value) for value in filled):
            report.detected["images by"] = (
                f'the column "{name}", else the file <item>.jpg, .png, ...'
            )
            return name
        if filled:
            report.notes.append(
                f'The item column "{name}" (for example "{filled[0]}") names no file that is '
                "there; it was kept as text. If the files lie elsewhere, name their folder with "
                "--images."
            )
    if images is not None:
        report.detected["images by"] = "the file <item>.jpg, .png, ..."
    return None


def _find_images(
    tokens: list[str],
    values: list[str | None],
    others: list[str],
    images: ImageFiles | None,
    report: Report,
) -> dict[str, str]:
    if images is None:
        return {}
    values = values + [None] * (len(tokens) - len(values))
    files: dict[str, str] = {}
    lost: list[str] = []
    # Items with no row of their own, which one image alone would have given them.
    several = [f"{token}: {', '.join(pair)}" for token in others if (pair := images.several(token))]
    for token, value in zip(tokens, values, strict=True):
        file = images.of_value(value) if value is not None else None
        file = file or images.of_item(token)
        pair = (images.several(value) if value is not None else None) or images.several(token)
        if file is not None:
            files[token] = file
        elif pair is not None:
            several.append(f"{token}: {', '.join(pair)}")
        if value is not None and pair is None and images.of_value(value) is None:
            lost.append(f"{token}: {value}")
    if lost:
        report.notes.append(
            f"{counted(len(lost), 'item names', 'items name')} an image file that is not there "
            f"({_first(lost, ', ')})."
        )
    report.images["items with one"] = len(files)
    report.images["items without"] = len(tokens) - len(files)
    report.images["files that no item uses"] = len(images.paths - set(files.values()))
    if several:
        report.images["items with several files to choose from"] = len(several)
        report.notes.append(
            f"{counted(len(several), 'item has', 'items have')} no image because files of "
            f"its name lie in several subfolders ({_first(several, '; ')}). Name the file "
            'with its subfolder in a column "image" of the item table, or keep one of them.'
        )
    elif images.paths and not files:
        example = min(images.paths)
        report.notes.append(
            f"{images.root}: none of the {len(images.paths):,} image files belongs to an item "
            f'(files such as {example}; items such as "{tokens[0]}"). Call them '
            f'<item>{Path(example).suffix}, or name them in a column "image" of the item table.'
        )
    return files


def _first(found: list[str], separator: str) -> str:
    return separator.join(found[:_EXAMPLES]) + (separator + "..." if found[_EXAMPLES:] else "")


def _kind(name: str, values: list[str | None]) -> str | None:
    filled = pl.Series([value for value in values if value is not None], dtype=pl.String)
    if filled.len() == 0:
        return None
    if plain_name(name) in _TEXT_NAMES:
        return "text"
    numbers = filled.cast(pl.Float64, strict=False)
    # A leading zero marks a code (an ISBN, a postal code), not a quantity.
    if numbers.is_finite().fill_null(False).all() and not filled.str.contains(r"^[-+]?0\d").any():
        return "float"
    return "text"


def _field_name(name: str, content: ContentTable) -> str:
    clean = re.sub(r"[\s:]+", "_", name.strip())
    taken = {ITEM_FIELD, IMAGE_FIELD, *content.fields}
    while clean in taken:
        clean += "_text"
    return clean


def _links(values: list[str | None]) -> bool:
    filled = [value for value in values if value is not None]
    links = sum(value.lower().startswith(("http://", "https://", "//")) for value in filled)
    return links * 2 > len(filled)
