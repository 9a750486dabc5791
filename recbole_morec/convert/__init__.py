"""Converters: from data as it is published to dataset folders. One module per kind of source.

A source is a module with ``find(options, report) -> Source``, which says what lies where, and
``READS``, the choices that it reads; all else is shared. It is made known by one line in
:data:`SOURCES`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from recbole_morec.convert import amazon, folder, microlens, mind, morec, ninerec, odmt, pixelrec
from recbole_morec.convert._encode_image import ENCODINGS, RESIZINGS
from recbole_morec.convert._filters import DUPLICATES
from recbole_morec.convert._image_sources import open_images
from recbole_morec.convert._image_store_writer import build_image_store
from recbole_morec.convert._pipeline import convert_source
from recbole_morec.convert._rows import SEPARATORS
from recbole_morec.convert._source import BAD_IMAGES, CHOICES, FORMS, LANGUAGES, Options
from recbole_morec.convert._times import UNITS
from recbole_morec.convert.folder import convert_folder
from recbole_morec.convert.report import Report, print_report
from recbole_morec.errors import ConfigError, suggest

__all__ = [
    "SOURCES",
    "Report",
    "add_arguments",
    "build_image_store",
    "convert_folder",
    "open_images",
    "print_report",
    "run",
]

SOURCES: dict[str, ModuleType] = {
    "amazon": amazon,
    "folder": folder,
    "microlens": microlens,
    "mind": mind,
    "morec": morec,
    "ninerec": ninerec,
    "odmt": odmt,
    "pixelrec": pixelrec,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``recbole-morec convert`` to a parser."""
    parser.add_argument("source", metavar="SOURCE", help=f"one of: {', '.join(sorted(SOURCES))}")
    parser.add_argument("--input", required=True, metavar="DIR", help="folder of the source")
    parser.add_argument("--output", required=True, metavar="DIR", help="dataset folder to write")
    parser.add_argument("--name", help="of the dataset (default: the name of the output folder)")
    parser.add_argument(
        "--variant", metavar="NAME", help="which of a source's data sets (default: by file names)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier conversion")

    group = parser.add_argument_group("what is dropped, in this order")
    group.add_argument(
        "--duplicates",
        default="keep",
        metavar="CHOICE",
        help=f"rows with the same user and item: {', '.join(DUPLICATES)} (default: keep)",
    )
    group.add_argument(
        "--min-user-inter",
        type=int,
        default=0,
        metavar="N",
        help="users with fewer interactions (k-core with --min-item-inter, iterated)",
    )
    group.add_argument(
        "--min-item-inter", type=int, default=0, metavar="N", help="items with fewer"
    )
    group.add_argument(
        "--last-n", type=int, default=0, metavar="N", help="all but each user's newest N"
    )

    group = parser.add_argument_group("files, columns and units, where they are not found")
    group.add_argument("--interactions", metavar="FILE", help="table of interactions")
    group.add_argument("--items", metavar="FILE", help="table of items")
    group.add_argument("--images", metavar="PATH", help="folder, zip, tar or LMDB of images")
    group.add_argument(
        "--user-field",
        metavar="COLUMN",
        help="column of the user (its number from 1, without a header)",
    )
    group.add_argument("--item-field", metavar="COLUMN", help="column of the item")
    group.add_argument("--time-field", metavar="COLUMN", help="column of the time")
    group.add_argument("--time-unit", metavar="UNIT", help=f"one of {', '.join(UNITS)}")
    group.add_argument(
        "--separator",
        metavar="CHOICE",
        help=f"of text tables: {', '.join(SEPARATORS)}, or the character",
    )
    group.add_argument(
        "--header",
        action=argparse.BooleanOptionalAction,
        help="whether the first line of text tables names the columns",
    )
    group.add_argument(
        "--language",
        metavar="CODE",
        help=f"of the texts, where there are several: {' or '.join(LANGUAGES)} (default: en)",
    )

    group = parser.add_argument_group("images")
    group.add_argument(
        "--image-form",
        default="store",
        metavar="CHOICE",
        help=f"{', '.join(FORMS)}: one packed store (default) or files",
    )
    group.add_argument(
        "--image-encoding",
        default="jpeg",
        metavar="CHOICE",
        help=f"of the store: {', '.join(ENCODINGS)} (default: jpeg)",
    )
    group.add_argument(
        "--image-size", type=int, default=256, metavar="N", help="of the store (default: 256)"
    )
    group.add_argument(
        "--image-resize",
        default="shorter",
        metavar="CHOICE",
        help=f"{', '.join(RESIZINGS)} (default: shorter side down to the size, never enlarged)",
    )
    group.add_argument("--image-quality", type=int, default=90, metavar="N", help="1 to 100")
    group.add_argument(
        "--bad-images",
        default="text_only",
        metavar="CHOICE",
        help=f"items whose image is missing or bad: {', '.join(BAD_IMAGES)} (default: text_only)",
    )


def run(args: argparse.Namespace) -> int:
    """Convert as the parsed arguments ask and print the report; return the exit status.

    Raises:
        ConfigError: unknown source or choice.
        DataError: see :func:`~recbole_morec.convert._pipeline.convert_source`.
    """
    if args.source not in SOURCES:
        raise ConfigError(
            f'convert: there is no source "{args.source}".{suggest(args.source, SOURCES)} '
            f"Known: {', '.join(sorted(SOURCES))}."
        )
    given = vars(args).copy()
    kind = given.pop("source")
    _check_choices(kind, given)
    options = Options.of(**given, progress=True)
    print_report(convert_source(kind, SOURCES[kind].find, options))
    return 0


def _check_choices(source: str, given: Mapping[str, Any]) -> None:
    """Raise a ConfigError for all choices that the source does not read."""
    problems = []
    for name in CHOICES:
        if given.get(name) is None or name in SOURCES[source].READS:
            continue
        readers = [each for each in sorted(SOURCES) if name in SOURCES[each].READS]
        problems.append(
            f"--{name.replace('_', '-')}: `convert {source}` does not read it; only "
            f"{', '.join(readers)} do."
        )
    if problems:
        raise ConfigError(problems)
