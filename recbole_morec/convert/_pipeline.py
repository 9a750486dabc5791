"""From what a converter found to a dataset folder: the same steps for every source."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recbole_morec.convert._events import ITEM_FIELD, TIME_FIELD, USER_FIELD, read_events
from recbole_morec.convert._filters import NO_IMAGE, OUTSIDE, Filters, choose_rows
from recbole_morec.convert._items import IMAGE_FIELD, build_content, default_text_fields
from recbole_morec.convert._output import (
    REPORT_FILE,
    check_output,
    fingerprints,
    new_folder,
    restore_interrupted,
    write_settings,
)
from recbole_morec.convert._place_images import put_images
from recbole_morec.convert._rows import Rows
from recbole_morec.convert._source import Counts, Options, Source
from recbole_morec.convert._write_inter import write_interactions
from recbole_morec.convert.report import Report
from recbole_morec.data.atomic import ContentTable, write_content
from recbole_morec.data.by_user import Numbering
from recbole_morec.data.event_log import EventLog
from recbole_morec.errors import DataError, counted, refused

_SHOWN = 5


def convert_source(
    kind: str, find: Callable[[Options, Report], Source], options: Options
) -> Report:
    """Convert a source.

    The output holds ``<name>.inter`` (rows in the order of the source), ``<name>.content``,
    ``images/``, ``<name>.yaml``, ``prepared/`` and ``convert_report.json``. It is written beside
    its place and renamed at the end, so that a failed conversion leaves nothing there. What an
    image store has packed so far stays beside it in ``.<output>.images``, for the next try.

    Args:
        kind: name of the converter.
        find: looks at the source and says what is where.
        options: what the user asked for.

    Returns:
        What was found, kept and dropped.

    Raises:
        DataError: the source cannot be read as it is, the output folder is in use, or the disk is
            full.
    """
    if not options.input.is_dir():
        raise DataError(f"{options.input}: no such folder (--input).")
    restore_interrupted(options.output)
    check_output(options.output, options.input, options.overwrite)
    report = Report(options.dataset_name, str(options.input), str(options.output))
    try:
        source = find(options, report)
        for rows in (source.interactions, source.items and source.items.rows):
            _report_left_out(rows, report)
        with new_folder(options.output) as folder:
            with tempfile.TemporaryDirectory(prefix=".log.", dir=folder) as temporary:
                _fill(folder, Path(temporary), kind, source, options, report)
            # Others may have put something there meanwhile.
            check_output(options.output, options.input, options.overwrite)
    except OSError as error:
        raise DataError(
            f"{refused(error, options.output)}. Nothing was written to {options.output}."
            + _kept_images(options)
        ) from error
    return report


def _fill(
    folder: Path, work: Path, kind: str, source: Source, options: Options, report: Report
) -> None:
    """Write all of a dataset's files into a folder; ``work`` is a subfolder for temporary ones."""
    found = read_events(source.interactions, source.columns, work / "log", report)
    plan = _Plan(source, options, found.log, folder, work / "spill")
    if options.image.bad == "drop":
        # Only the images themselves say which of them are bad, and then which items are left. The
        # newest N come later: they may reach back to any item once others are gone.
        trial = copy.deepcopy(report)
        tried = plan.choose(trial, filters=replace(options.filters, last_n=0))
        images = plan.put_images(tried, trial)
        chosen = plan.choose(report, plan.without_image(tried, images))
        report.images |= {k: n for k, n in trial.images.items() if k not in report.images}
        report.detected |= trial.detected
        report.bad_images = trial.bad_images
        report.notes += [note for note in trial.notes if note not in report.notes]
    else:
        chosen = plan.choose(report)
        images = plan.put_images(chosen, report)
    if options.image.bad == "error":
        plan.refuse(plan.without_image(chosen, images), report)
    inter = folder / f"{report.name}.inter"
    digest = write_interactions(inter, found, chosen.numbering, report)
    content = chosen.content
    if content is None:
        report.notes.append(
            "There is no item table and no image of an item: no .content file was written."
        )
    else:
        _write_content(content, images, options.image.bad, folder, report)
    if images:
        plan.image_folder.rename(folder / "images")
    _compare(source.published, report)
    _write_yaml(folder / f"{report.name}.yaml", kind, source, content, options, report)
    report.files = fingerprints(folder, without=work.name, known={inter.name: digest})
    (folder / REPORT_FILE).write_text(
        json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )


class _Chosen(NamedTuple):
    """What is kept: interactions, items of theirs, content without images, item -> its image."""

    numbering: Numbering
    interacted: list[str]
    content: ContentTable | None
    used: dict[str, str]


class _Plan:
    """Which interactions, items and images are kept."""

    def __init__(self, source: Source, options: Options, log: EventLog, folder: Path, spill: Path):
        self.source = source
        self.options = options
        self.log = log
        self.spill = spill
        self.image_folder = folder / "images"
        if options.image.form == "store":
            self.image_folder = _image_folder(options)

    def choose(
        self, report: Report, unusable: Collection[str] = (), filters: Filters | None = None
    ) -> _Chosen:
        """Choose, without the items that have no usable image."""
        source, log = self.source, self.log
        filters = filters or self.options.filters
        keep = choose_rows(log, source.interactions, filters, report, self.spill, unusable)
        numbering = Numbering.of(log, keep)
        removed = {NO_IMAGE: set(unusable)} if unusable else {}
        if report.core:
            numbers = np.setdiff1d(np.arange(len(log.items)), numbering.item_numbers)
            removed[OUTSIDE] = set(log.items.tokens(numbers).to_list()) - set(unusable)
        interacted = log.items.tokens(numbering.item_numbers).to_list()
        content, used = build_content(
            source.items, source.item_column, interacted, removed, source.images, report
        )
        return _Chosen(numbering, interacted, content, used)

    def put_images(self, chosen: _Chosen, report: Report) -> dict[str, str]:
        """Put the images into their folder; return item -> value of its image field."""
        files = self.source.images
        if files is None or not chosen.used:
            return {}
        report.notes += files.notes()
        values = put_images(
            files,
            chosen.used,
            self.image_folder,
            self.options.image,
            report,
            self.options.progress,
        )
        if not values:
            shutil.rmtree(self.image_folder, ignore_errors=True)
        return values

    def without_image(self, chosen: _Chosen, images: dict[str, str]) -> list[str]:
        """Items, of the interactions or of the content alone, that have no usable image."""
        tokens = [] if chosen.content is None else chosen.content.tokens
        return [t for t in dict.fromkeys([*tokens, *chosen.interacted]) if t not in images]

    def refuse(self, without: list[str], report: Report) -> None:
        """Raise a DataError if there are items without a usable image."""
        if not without:
            return
        reasons = {bad["item"]: bad["reason"] for bad in report.bad_images}
        listed = "; ".join(f"{t}: {reasons.get(t, 'no image')}" for t in without[:_SHOWN])
        raise DataError(
            f"{self.options.input}: {counted(len(without), 'item has', 'items have')} no usable "
            f"image ({listed}"
            f"{'; ...' if without[_SHOWN:] else ''}). Add or repair them, or choose with "
            f"--bad-images what becomes of these items.{_kept_images(self.options)}"
        )


def _image_folder(options: Options) -> Path:
    """Where the image store is packed: of a fixed name, so that a later run finds and finishes
    what a killed one left."""
    output = options.output.resolve()
    return output.with_name(f".{output.name}.images")


def _kept_images(options: Options) -> str:
    """A sentence on what an unfinished image store has left, if there is one."""
    images = _image_folder(options)
    if not os.path.exists(images):  # Path.exists raises for names that are too long
        return ""
    return f" The images packed so far are kept in {images} for the next try."


def _write_content(
    content: ContentTable, images: dict[str, str], bad: str, folder: Path, report: Report
) -> None:
    if report.items_without_content:
        report.notes.append(
            f"{counted(report.items_without_content, 'item')} with interactions, but no row in the "
            "content file; models that read content stop at them unless missing_content: blank is "
            "set."
        )
    if images:
        content.fields[IMAGE_FIELD] = "image"
        content.columns[IMAGE_FIELD] = [images.get(token) for token in content.tokens]
        bare = content.columns[IMAGE_FIELD].count(None)
        if bare and bad == "mean":
            report.notes.append(
                f"{counted(bare, 'item')} of the content file without a usable image; read as grey "
                "(missing_content: blank, as --bad-images mean asked for)."
            )
        elif bare:
            report.notes.append(
                f"{counted(bare, 'item')} of the content file without a usable image; models that "
                "read images stop at them unless missing_content: blank is set."
            )
    if report.bad_images:
        report.notes.append(
            f"{report.images['bad files']} images cannot be read and were left out; the report "
            "lists them with the reasons (bad_images)."
        )
    write_content(folder / f"{report.name}.content", content)


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
    path: Path,
    kind: str,
    source: Source,
    content: ContentTable | None,
    options: Options,
    report: Report,
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
        blank=options.image.bad == "mean",
        protocol=source.protocol,
    )


def _report_left_out(rows: Rows | None, report: Report) -> None:
    for column, why in (rows.left_out if rows is not None else {}).items():
        report.notes.append(f'{rows.path.name}: the column "{column}" {why} and was left out.')
