"""Which files of a source lie where, and which of its data sets they are."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from recbole_morec.convert._find_images import name_in
from recbole_morec.convert._images import SUFFIXES
from recbole_morec.convert._output import REPORT_FILE
from recbole_morec.convert._source import Options
from recbole_morec.convert._tables import given_file
from recbole_morec.convert.report import Report
from recbole_morec.errors import DataError, suggest

UNNAMED = "(unnamed)"

_DEPTH = 2
_SHOWN = 10


def files_below(folder: Path, depth: int = _DEPTH) -> list[Path]:
    """Files of a folder and its subfolders down to a depth, without images, in a fixed order.

    What a conversion wrote into a subfolder, or left in a hidden one, is no source.
    """
    found: list[Path] = []
    for place, folders, names in os.walk(folder):
        if len(Path(place).relative_to(folder).parts) >= depth:
            folders.clear()
        folders[:] = [
            name
            for name in sorted(folders)
            if not name.startswith(".") and not Path(place, name, REPORT_FILE).exists()
        ]
        found += [Path(place, name) for name in names if not name.lower().endswith(SUFFIXES)]
    return sorted(found, key=lambda path: (len(path.parts), path))


def by_variant(
    files: Iterable[Path], pattern: str, published: Iterable[str]
) -> dict[str, list[Path]]:
    """Sort files whose whole name matches a pattern (in any case) by data set.

    Args:
        files: to look at.
        pattern: of the file name; its group ``name`` is the data set.
        published: names of the data sets that are known, in the usual spelling.
    """
    known = {name.lower(): name for name in published}
    found: dict[str, list[Path]] = {}
    for path in files:
        match = re.fullmatch(pattern, path.name, re.IGNORECASE)
        name = known.get(match["name"].lower()) if match else None
        if name is not None:
            found.setdefault(name, []).append(path)
    return found


def choose_variant(found: Iterable[str], options: Options, expected: str) -> str:
    """Return the data set to convert: the given one, or the only one.

    Args:
        found: data sets whose files are there.
        options: with ``variant``.
        expected: file names that were looked for, for messages.

    Raises:
        DataError: none is there, or several are and none was chosen.
    """
    names = list(dict.fromkeys(found))
    if not names:
        held = [name_in(path, options.input) for path in files_below(options.input)]
        listed = ", ".join(held[:_SHOWN]) + (", ..." if held[_SHOWN:] else "")
        raise DataError(
            f"{options.input}: found no {expected}. The folder holds {listed or 'no such files'}. "
            "Choose another --input, or name the file with --interactions."
        )
    if options.variant is not None:
        if (name := _meant(options.variant, names)) is not None:
            return name
        raise DataError(
            f'{options.input}: there is no "{options.variant}" (--variant).'
            f"{suggest(options.variant, names)} Found: {', '.join(names)}."
        )
    if len(names) > 1:
        raise DataError(
            f"{options.input}: several data sets are here: {', '.join(names)}. Choose one with "
            "--variant."
        )
    return names[0]


def chosen_set(
    options: Options,
    found: Mapping[str, Sequence[Path]],
    expected: str,
    published: Iterable[str],
    name_of: Callable[[Path], str | None],
) -> tuple[str, Path]:
    """The data set to convert and its interactions: those that are given, or the only ones.

    Args:
        options: with ``variant`` and ``interactions``.
        found: data set -> its files.
        expected, published: see :func:`choose_variant` and :func:`by_variant`.
        name_of: data set of a file, by its name; ``None`` = none that is known.

    Raises:
        DataError: none is there, or several are and none was chosen.
    """
    if options.interactions is None:
        name = choose_variant(found, options, expected)
        return name, the_file(found[name], "--interactions")
    path = given_file(options.input, options.interactions, "--interactions")
    return known_variant(options.variant, list(published)) or name_of(path) or UNNAMED, path


def the_file(files: Sequence[Path], flag: str) -> Path:
    """The one file of a kind.

    Raises:
        DataError: there are several.
    """
    if len(files) > 1:
        raise DataError(
            f"Several files fit: {', '.join(str(path) for path in files)}. Choose one with {flag}."
        )
    return files[0]


def item_file(options: Options, named: Sequence[Path], report: Report) -> Path | None:
    """The item table: the given one, or the one that was found; ``None`` and said so if neither.

    Raises:
        DataError: the given file is not there, or several were found.
    """
    if options.items is not None:
        return given_file(options.input, options.items, "--items")
    if named:
        return the_file(named, "--items")
    report.detected["items"] = "no table"
    return None


def known_variant(given: str | None, known: Mapping[str, object] | Sequence[str]) -> str | None:
    """The data set that ``--variant`` names, in the usual spelling; ``None`` if not given.

    Raises:
        DataError: there is no such data set.
    """
    if given is None:
        return None
    if (name := _meant(given, known)) is not None:
        return name
    raise DataError(
        f'--variant: unknown data set "{given}".{suggest(given, known)} Known: {", ".join(known)}.'
    )


def _meant(given: str, names: Iterable[str]) -> str | None:
    """The name that is meant, in any case; its end is enough where no other ends so."""
    ending = [name for name in names if name.lower().endswith(given.lower())]
    exact = [name for name in ending if len(name) == len(given)]
    return exact[0] if exact else ending[0] if len(ending) == 1 else None
