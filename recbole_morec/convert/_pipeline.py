"""From what a converter found to a dataset folder: the same steps for every source."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from recbole_morec.convert._events import ITEM_FIELD, TIME_FIELD, USER_FIELD, read_events
from recbole_morec.convert._filters import choose_rows
from recbole_morec.convert._images import ImageFiles, place_images, verify_images
from recbole_morec.convert._items import IMAGE_FIELD, build_content, default_text_fields
from recbole_morec.convert._output import (
    REPORT_FILE,
    check_output,
    fingerprints,
    new_folder,
    write_settings,
)
from recbole_morec.convert._rows import Rows
from recbole_morec.convert._source import Counts, Options, Source
from recbole_morec.convert._write_inter import write_interactions
from recbole_morec.convert.report import Report
from recbole_morec.data.atomic import ContentTable, write_content
from recbole_morec.data.by_user import Numbering
from recbole_morec.errors import DataError


def convert_source(
    kind: str, find: Callable[[Options, Report], Source], options: Options
) -> Report:
    """Convert a source.

    The output holds ``<name>.inter`` (rows in the order of the source), ``<name>.content``,
    ``images/``, ``<name>.yaml``, ``prepared/`` and ``convert_report.json``. It is written beside
    its place and renamed at the end, so that a failed conversion leaves nothing.

    Args:
        kind: name of the converter.
        find: looks at the source and says what is where.
        options: what the user asked for.

    Returns:
        What was found, kept and dropped.

    Raises:
        DataError: the source cannot be read as it is, or the output folder is in use.
    """
    if not options.input.is_dir():
        raise DataError(f"{options.input}: no such folder (--input).")
    check_output(options.output, options.input, options.overwrite)
    report = Report(options.dataset_name, str(options.input), str(options.output))
    source = find(options, report)
    for rows in (source.interactions, source.items and source.items.rows):
        _report_left_out(rows, report)
    with (
        new_folder(options.output) as folder,
        tempfile.TemporaryDirectory(prefix=".log.", dir=folder) as temporary,
    ):
        work = Path(temporary)
        found = read_events(source.interactions, source.columns, work / "log", report)
        log = found.log
        keep = choose_rows(log, source.interactions, options.filters, report, work / "spill")
        numbering = Numbering.of(log, keep)
        write_interactions(folder / f"{report.name}.inter", found, numbering, report)

        interacted = log.items.tokens(numbering.item_numbers).to_list()
        dropped: set[str] = set()
        if report.core:
            numbers = np.setdiff1d(np.arange(len(log.items)), numbering.item_numbers)
            dropped = set(log.items.tokens(numbers).to_list())
        content = _write_content(source, interacted, dropped, folder, options, report)
        _compare(source.published, report)
        _write_yaml(folder / f"{report.name}.yaml", kind, source, content, report)
        report.files = fingerprints(folder, without=work.name)
        (folder / REPORT_FILE).write_text(
            json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    return report


def _write_content(
    source: Source,
    interacted: list[str],
    dropped: set[str],
    folder: Path,
    options: Options,
    report: Report,
) -> ContentTable | None:
    files = source.images
    content, used = build_content(
        source.items, source.item_column, interacted, dropped, files, report
    )
    if content is None:
        report.notes.append(
            "There is no item table and no image of an item: no .content file was written."
        )
        return None
    if report.items_without_content:
        report.notes.append(
            f"{report.items_without_content} items with interactions have no row in the content "
            "file; models that read content stop at them unless missing_content: blank is set."
        )
    write_content(folder / f"{report.name}.content", content)
    if used:
        if bare := report.images["items without"]:
            report.notes.append(
                f"{bare} items of the content file have no image; models that read images stop at "
                "them unless missing_content: blank is set."
            )
        _report_bad_images(files, used, report, options.progress)
        wanted = {file: files.root / file for file in sorted(set(used.values()))}
        place_images(wanted, folder / "images", options.link_images == "link", options.progress)
    return content


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


def _compare(published: Counts | None, report: Report) -> None:
    """Put the published numbers beside ours."""
    if published is None:
        return
    dropped = bool(report.dropped)
    for what, theirs, ours in (
        ("users", published.users, report.users),
        ("items", published.items, report.items),
        ("interactions", published.interactions, report.rows_kept),
    ):
        if theirs is not None:
            report.published[what] = {
                "published": theirs,
                "here": ours,
                "difference": ours - theirs,
            }
    if dropped and any(each["difference"] for each in report.published.values()):
        report.notes.append(
            "The published numbers count the whole data set; here interactions were dropped."
        )


def _write_yaml(
    path: Path, kind: str, source: Source, content: ContentTable | None, report: Report
) -> None:
    texts: list[str] = []
    if content is not None:
        texts = default_text_fields(content)
        if source.text_fields is not None:
            texts = [name for name in source.text_fields if name in content.text_fields]
    lines = [
        f"{report.name}: written by `recbole-morec convert {kind}`; counts in {REPORT_FILE}.",
        *([f"Source: {source.citation}"] if source.citation else []),
        *(f"{what}: {found}" for what, found in report.detected.items()),
    ]
    write_settings(
        path,
        source=[re.sub(r"\s+", " ", line) for line in lines],
        user_field=USER_FIELD,
        item_field=ITEM_FIELD,
        time_field=TIME_FIELD,
        text_fields=texts,
        other_texts=[] if content is None else [n for n in content.text_fields if n not in texts],
        image_field=IMAGE_FIELD if content is not None and content.image_fields else None,
        protocol=source.protocol,
    )


def _report_left_out(rows: Rows | None, report: Report) -> None:
    for column, why in (rows.left_out if rows is not None else {}).items():
        report.notes.append(f'{rows.path.name}: the column "{column}" {why} and was left out.')
