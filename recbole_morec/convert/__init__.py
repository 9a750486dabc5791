"""Converters: from data as it is published to dataset folders. One module per kind of source.

A source is a module with ``add_arguments(parser)`` for options of its own and
``convert(args) -> Report``; it is made known by one line in :data:`SOURCES`.
"""

from __future__ import annotations

import argparse
from types import ModuleType

from recbole_morec.convert import folder
from recbole_morec.convert.folder import convert_folder
from recbole_morec.convert.report import Report, print_report
from recbole_morec.errors import ConfigError, suggest

__all__ = ["SOURCES", "Report", "add_arguments", "convert_folder", "print_report", "run"]

SOURCES: dict[str, ModuleType] = {"folder": folder}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``recbole-morec convert`` to a parser."""
    parser.add_argument("source", metavar="SOURCE", help=f"one of: {', '.join(sorted(SOURCES))}")
    parser.add_argument("--input", required=True, metavar="DIR", help="folder of the source")
    parser.add_argument("--output", required=True, metavar="DIR", help="dataset folder to write")
    parser.add_argument("--name", help="of the dataset (default: the name of the output folder)")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier conversion")
    parser.add_argument(
        "--min-user-inter",
        type=int,
        default=0,
        metavar="N",
        help="drop users with fewer interactions (k-core with --min-item-inter)",
    )
    parser.add_argument(
        "--min-item-inter", type=int, default=0, metavar="N", help="drop items with fewer"
    )
    parser.add_argument(
        "--duplicates",
        default="keep",
        metavar="CHOICE",
        help="rows with the same user and item: keep (default), first, last, error",
    )
    parser.add_argument(
        "--link-images", default="copy", metavar="CHOICE", help="copy (default) or link the images"
    )
    for source in SOURCES.values():
        source.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Convert as the parsed arguments ask and print the report; return the exit status.

    Raises:
        ConfigError: unknown source or choice.
        DataError: see the source's own function.
    """
    if args.source not in SOURCES:
        raise ConfigError(
            f'convert: there is no source "{args.source}".{suggest(args.source, SOURCES)} '
            f"Known: {', '.join(sorted(SOURCES))}."
        )
    print_report(SOURCES[args.source].convert(args))
    return 0
