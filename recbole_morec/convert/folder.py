"""``recbole-morec convert folder``: tables of interactions and items and a folder of images.

Any CSV, TSV, parquet or atomic file will do. Files, separators, quoting and columns are found by
looking at them, everything found is in the report, and every guess has an option that overrides it.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import polars as pl

from recbole_morec.convert._image_sources import SUFFIXES, FolderImages
from recbole_morec.convert._images import ImageFiles, place_images, verify_images
from recbole_morec.convert._interactions import check_duplicates_choice, clean_interactions
from recbole_morec.convert._items import IMAGE_FIELD, ITEM_FIELD, build_content, default_text_fields
from recbole_morec.convert._output import (
    REPORT_FILE,
    check_output,
    fingerprints,
    new_folder,
    write_settings,
)
from recbole_morec.convert._tables import (
    Table,
    find_column,
    find_file,
    ids_of,
    need_column,
    read_table,
)
from recbole_morec.convert._times import parse_times
from recbole_morec.convert.report import Report
from recbole_morec.data.atomic import write_content, write_inter
from recbole_morec.errors import ConfigError, DataError, suggest

USER_FIELD = "user_id"
TIME_FIELD = "timestamp"
LINKS = ("copy", "link")

_USERS = (
    *("user", "user_id", "userid", "uid", "u", "reviewer_id", "reviewerid", "customer_id"),
    *("customerid", "visitor_id", "visitorid", "member_id", "session", "session_id", "sessionid"),
)
_ITEMS = (
    *("item", "item_id", "itemid", "iid", "i", "product_id", "productid", "article_id"),
    *("articleid", "movie_id", "movieid", "video_id", "videoid", "news_id", "newsid", "book_id"),
    *("parent_asin", "asin", "sku", "isbn", "track_id", "song_id", "business_id", "movie", "video"),
)
_TIMES = (
    *("timestamp", "time", "ts", "t", "unix_time", "unixtime", "unix_review_time", "date"),
    *("unixreviewtime", "datetime", "event_time", "created_at", "rated_at", "t_dat"),
)
_PREFIX = r"(.*[_-])?"
_INTERACTION_FILES = re.compile(
    _PREFIX + r"(interactions?|inter|ratings?|events?|clicks?|pairs?|purchases|transactions|plays)"
)
_ITEM_FILES = re.compile(
    _PREFIX
    + r"(items?|item[_-]info|products?|movies?|articles?|books?|songs?|tracks?|videos?|metadata)"
)
_IMAGE_FOLDERS = re.compile(_PREFIX + r"(images?|imgs?|covers?|posters?|pictures?|photos?)")


def convert_folder(
    input: str | Path,
    output: str | Path,
    *,
    name: str | None = None,
    interactions: str | None = None,
    items: str | None = None,
    images: str | None = None,
    user_field: str | None = None,
    item_field: str | None = None,
    time_field: str | None = None,
    overwrite: bool = False,
    min_user_inter: int = 0,
    min_item_inter: int = 0,
    duplicates: str = "keep",
    link_images: str = "copy",
    progress: bool = False,
) -> Report:
    """Convert a folder of tables and images into a dataset folder.

    The output holds ``<name>.inter`` (rows in the order of the source), ``<name>.content``,
    ``images/``, ``<name>.yaml`` and ``convert_report.json``. It is written beside its place and
    renamed at the end, so that a failed conversion leaves nothing.

    Args:
        input: folder of the source.
        output: folder to write.
        name: of the dataset; default the name of ``output``.
        interactions, items: files, relative to ``input``; default found by name. The items may be
            absent.
        images: folder of images, relative to ``input``; default found by name. May be absent.
        user_field, item_field, time_field: columns of the source; default found by name. Without a
            time, the order of the rows is the time: ``timestamp`` is the row's position.
        overwrite: replace an earlier conversion, if nobody has changed its folder since.
        min_user_inter, min_item_inter: drop users and items with fewer interactions, repeated until
            none is left (k-core).
        duplicates: what becomes of rows with the same user and item: ``keep``, ``first``, ``last``
            or ``error``.
        link_images: ``copy``, or ``link`` to make symbolic links.
        progress: show progress bars.

    Returns:
        What was found, kept and dropped.

    Raises:
        DataError: the source cannot be read as it is, or the output folder is in use.
        ConfigError: an unknown choice.
    """
    source, output = Path(input), Path(output)
    _check_choices(duplicates, link_images, min_user_inter, min_item_inter)
    if not source.is_dir():
        raise DataError(f"{source}: no such folder (--input).")
    check_output(output, source, overwrite)
    name = output.absolute().name if name is None else name
    _check_name(name)
    report = Report(name=name, source=str(input), output=str(output))

    table = _open_interactions(source, interactions, report)
    frame, extra_columns = _interaction_frame(table, user_field, item_field, time_field, report)
    kept = clean_interactions(
        frame,
        report,
        table.place,
        duplicates=duplicates,
        min_user_inter=min_user_inter,
        min_item_inter=min_item_inter,
    )
    interacted = kept["item"].unique(maintain_order=True).to_list()
    removed = set(frame["item"].drop_nulls().unique()) - set(interacted)

    item_table = _open_items(source, items, table.path, report)
    item_column = None
    if item_table is not None:
        # --item-field may name the column of both tables, or only that of the interactions.
        given = item_field if item_field in item_table.frame.columns else None
        item_column = need_column(item_table, "item", given, _ITEMS, "--item-field")
        report.detected["item column (items)"] = item_column
    files = _open_images(source, images, report)
    content, used = build_content(
        item_table, item_column, interacted, removed if report.core else set(), files, report
    )
    if content is None:
        report.notes.append(
            "There is no item table and no image of an item: no .content file was written."
        )
    elif report.items_without_content:
        report.notes.append(
            f"{report.items_without_content} items with interactions have no row in the content "
            "file; models that read content stop at them unless missing_content: blank is set."
        )
    if used:
        if bare := report.images["items without"]:
            report.notes.append(
                f"{bare} items of the content file have no image; models that read images stop at "
                "them unless missing_content: blank is set."
            )
        _report_bad_images(files, used, report, progress)

    with new_folder(output) as folder:
        write_inter(
            folder / f"{name}.inter",
            kept.select("user", "item", "time", *extra_columns),
            USER_FIELD,
            ITEM_FIELD,
            TIME_FIELD,
        )
        if content is not None:
            write_content(folder / f"{name}.content", content)
        if used:
            wanted = {file: files.root / file for file in sorted(set(used.values()))}
            place_images(wanted, folder / "images", link_images == "link", progress)
        _write_yaml(folder / f"{name}.yaml", report, content)
        report.files = fingerprints(folder)
        (folder / REPORT_FILE).write_text(
            json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    return report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that only this source has."""
    group = parser.add_argument_group("folder", "files and columns, where they are not found")
    group.add_argument("--interactions", metavar="FILE", help="table of interactions")
    group.add_argument("--items", metavar="FILE", help="table of items")
    group.add_argument("--images", metavar="DIR", help="folder of images")
    group.add_argument("--user-field", metavar="COLUMN", help="column of the user")
    group.add_argument("--item-field", metavar="COLUMN", help="column of the item")
    group.add_argument("--time-field", metavar="COLUMN", help="column of the time")


def convert(args: argparse.Namespace) -> Report:
    """Convert as the command line asks."""
    return convert_folder(
        args.input,
        args.output,
        name=args.name,
        interactions=args.interactions,
        items=args.items,
        images=args.images,
        user_field=args.user_field,
        item_field=args.item_field,
        time_field=args.time_field,
        overwrite=args.overwrite,
        min_user_inter=args.min_user_inter,
        min_item_inter=args.min_item_inter,
        duplicates=args.duplicates,
        link_images=args.link_images,
        progress=True,
    )


# --- the source ---------------------------------------------------------------------------------


def _open_interactions(source: Path, given: str | None, report: Report) -> Table:
    path = find_file(source, given, "--interactions", _INTERACTION_FILES, (".inter",))
    if path is None:
        names = ", ".join(sorted(entry.name for entry in source.iterdir())[:10])
        raise DataError(
            f"{source}: no file looks like interactions (interactions.csv, ratings.tsv, "
            f"NAME.inter, ...); the folder holds {names or 'nothing'}. Name it with --interactions."
        )
    table = read_table(path)
    report.detected["interactions"] = f"{_name(path, source)} ({table.form})"
    _report_left_out(table, report)
    return table


def _open_items(source: Path, given: str | None, taken: Path, report: Report) -> Table | None:
    suffixes = (".content",) if any(source.glob("*.content")) else (".item",)
    path = find_file(source, given, "--items", _ITEM_FILES, suffixes)
    if path is None or path == taken:
        report.detected["items"] = "no table"
        return None
    table = read_table(path)
    report.detected["items"] = f"{_name(path, source)} ({table.form})"
    _report_left_out(table, report)
    return table


def _open_images(source: Path, given: str | None, report: Report) -> ImageFiles | None:
    if given is not None:
        root = source / given if (source / given).is_dir() else Path(given)
        if not root.is_dir():
            folders = [entry.name for entry in source.iterdir() if entry.is_dir()]
            raise DataError(f"{root}: no such folder (--images).{suggest(given, folders)}")
    else:
        fitting = [
            entry
            for entry in sorted(source.iterdir())
            if entry.is_dir() and _IMAGE_FOLDERS.fullmatch(entry.name.lower())
        ]
        if len(fitting) > 1:
            names = ", ".join(entry.name for entry in fitting)
            raise DataError(f"{source}: several folders fit: {names}. Choose one with --images.")
        if not fitting:
            report.detected["images"] = "no folder"
            return None
        root = fitting[0]
    files = ImageFiles(FolderImages(root), source)
    if not files.paths:
        report.notes.append(f"{root} holds no image ({', '.join(SUFFIXES)}).")
    report.detected["images"] = f"{_name(root, source)}/ ({len(files.paths):,} files)"
    return files


def _interaction_frame(
    table: Table, user: str | None, item: str | None, time: str | None, report: Report
) -> tuple[pl.DataFrame, list[str]]:
    """Return user, item, time, row and further columns, and the names of the latter."""
    user = need_column(table, "user", user, _USERS, "--user-field")
    item = need_column(table, "item", item, _ITEMS, "--item-field")
    time = find_column(table, time, _TIMES, "--time-field")
    if len({user, item, time}) < 3:
        raise DataError(f'{table.path}: "{user}", "{item}" and "{time}" must be different columns.')
    report.detected |= {"user column": user, "item column": item}
    if time is None:
        times = pl.Series(range(table.frame.height), dtype=pl.Int64)
        report.detected["time"] = "none; the order of the rows is the time"
        report.notes.append(
            "There is no time column: the order of the rows is taken as the order in time, and "
            "timestamp is the row's position, from 0."
        )
    else:
        times, form = parse_times(table.frame[time], f"{table.path} column {time}")
        report.detected["time column"] = f"{time} ({form})"
    frame = pl.DataFrame(
        {
            "user": ids_of(table, user),
            "item": ids_of(table, item),
            "time": times,
            "row": pl.Series(range(table.frame.height), dtype=pl.Int64),
        }
    )
    extra, left_out = [], []
    for name in table.frame.columns:
        if name in (user, item, time):
            continue
        numbers = _numbers(table.frame[name])
        clean = re.sub(r"[\s:]+", "_", name)
        if numbers is None or clean in ("row", "user", "item", "time", USER_FIELD, ITEM_FIELD):
            left_out.append(name)
            continue
        frame = frame.with_columns(numbers.alias(clean))
        extra.append(clean)
    if extra:
        report.detected["further columns kept"] = ", ".join(extra)
    if left_out:
        report.notes.append(f"Columns of the interactions left out: {', '.join(left_out)}.")
    return frame, extra


def _numbers(column: pl.Series) -> pl.Series | None:
    """Return a column of numbers (rating, price), or ``None`` if it holds anything else."""
    numbers = column.str.strip_chars().cast(pl.Float64, strict=False)
    unread = numbers.is_null() & column.is_not_null()
    if unread.any() or not numbers.count():
        return None
    numbers = numbers.fill_nan(None)
    whole = (numbers == numbers.floor()).all() and (numbers.abs() < 2.0**53).all()
    return numbers.cast(pl.Int64) if whole else numbers


# --- the output ---------------------------------------------------------------------------------


def _report_bad_images(
    files: ImageFiles, used: dict[str, str], report: Report, progress: bool
) -> None:
    bad = verify_images(files.root, sorted(set(used.values())), progress)
    report.images["bad files"] = len(bad)
    report.bad_images = [
        {"item": item, "file": file, "reason": bad[file]}
        for item, file in used.items()
        if file in bad
    ]
    if bad:
        report.notes.append(
            f"{len(bad)} image files cannot be read. They were taken over as they are; replace "
            "them, or train with bad_images: blank."
        )


def _write_yaml(path: Path, report: Report, content: Any) -> None:
    texts = [] if content is None else default_text_fields(content)
    source = [
        f"{report.name}: written by `recbole-morec convert folder`; counts in {REPORT_FILE}.",
        *(f"{what}: {found}" for what, found in report.detected.items()),
    ]
    write_settings(
        path,
        source=[re.sub(r"\s+", " ", line) for line in source],
        user_field=USER_FIELD,
        item_field=ITEM_FIELD,
        time_field=TIME_FIELD,
        text_fields=texts,
        other_texts=[] if content is None else [n for n in content.text_fields if n not in texts],
        image_field=IMAGE_FIELD if content is not None and content.image_fields else None,
    )


def _report_left_out(table: Table, report: Report) -> None:
    for column, why in table.left_out.items():
        report.notes.append(f'{table.path.name}: the column "{column}" {why} and was left out.')


def _check_choices(duplicates: str, link_images: str, *minimums: int) -> None:
    check_duplicates_choice(duplicates)
    if link_images not in LINKS:
        raise ConfigError(
            f'--link-images: unknown choice "{link_images}".{suggest(link_images, LINKS)} '
            f"Use one of {', '.join(LINKS)}."
        )
    if min(minimums) < 0:
        raise ConfigError("--min-user-inter and --min-item-inter cannot be negative.")


def _check_name(name: str) -> None:
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ConfigError(
            f'--name: "{name}" cannot name a dataset. Use letters, digits, "_", "-" and ".".'
        )


def _name(path: Path, source: Path) -> str:
    return path.relative_to(source).as_posix() if path.is_relative_to(source) else str(path)
