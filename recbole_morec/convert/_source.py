"""What a converter finds in a source, and the options that all converters share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from recbole_morec.convert._events import EventColumns
from recbole_morec.convert._filters import Filters
from recbole_morec.convert._images import ImageFiles
from recbole_morec.convert._rows import Rows
from recbole_morec.convert._tables import Table
from recbole_morec.convert._times import UNITS
from recbole_morec.errors import ConfigError, suggest

LINKS = ("copy", "link")
LANGUAGES = ("en", "zh")


@dataclass(frozen=True)
class Options:
    """How to convert, whatever the source.

    Args:
        input: folder of the source.
        output: folder to write.
        name: of the dataset; default the name of ``output``.
        variant: which of a source's data sets; default found by the files' names.
        interactions, items, images: files and folder, relative to ``input``; default found.
        user_field, item_field, time_field: columns; default found.
        time_unit: unit of the times, where it should not be guessed.
        language: of the texts that are read, where a source has them in several; default English.
        overwrite: replace an earlier conversion, if nobody has changed its folder since.
        filters: which interactions are dropped.
        link_images: ``copy``, or ``link`` to make symbolic links.
        progress: show progress bars.
    """

    input: Path
    output: Path
    name: str | None = None
    variant: str | None = None
    interactions: str | None = None
    items: str | None = None
    images: str | None = None
    user_field: str | None = None
    item_field: str | None = None
    time_field: str | None = None
    time_unit: str | None = None
    language: str | None = None
    overwrite: bool = False
    filters: Filters = field(default_factory=Filters)
    link_images: str = "copy"
    progress: bool = False

    def __post_init__(self) -> None:
        problems = []
        if self.link_images not in LINKS:
            problems.append(
                f'--link-images: unknown choice "{self.link_images}".'
                f"{suggest(self.link_images, LINKS)} Use one of {', '.join(LINKS)}."
            )
        if self.time_unit is not None and self.time_unit not in UNITS:
            problems.append(
                f'--time-unit: unknown unit "{self.time_unit}".{suggest(self.time_unit, UNITS)} '
                f"Use one of {', '.join(UNITS)}."
            )
        if self.language is not None and self.language not in LANGUAGES:
            problems.append(
                f'--language: unknown language "{self.language}". Use one of '
                f"{', '.join(LANGUAGES)}."
            )
        if not re.fullmatch(r"\w[\w.-]*", self.dataset_name):
            problems.append(
                f'--name: "{self.dataset_name}" cannot name a dataset. Use letters, digits, "_", '
                '"-" and ".".'
            )
        if problems:
            raise ConfigError(problems)

    @property
    def dataset_name(self) -> str:
        """The name of the dataset."""
        return self.output.absolute().name if self.name is None else self.name


@dataclass(frozen=True)
class Counts:
    """Numbers that a data set's authors publish; ``None`` where they do not."""

    users: int | None = None
    items: int | None = None
    interactions: int | None = None


@dataclass
class Source:
    """What a converter found.

    Attributes:
        interactions: the rows.
        columns: what they hold.
        items: the item table, if there is one.
        item_column: its column of the items.
        images: the image files, if there are any.
        text_fields: fields of the item table that are read as an item's text, in this order;
            ``None`` = those that look like it.
        protocol: protocol that the data set's authors evaluate with.
        published: numbers to compare with.
        citation: what to cite, for the dataset's settings.
    """

    interactions: Rows
    columns: EventColumns
    items: Table | None = None
    item_column: str | None = None
    images: ImageFiles | None = None
    text_fields: Sequence[str] | None = None
    protocol: str = "pixelrec"
    published: Counts | None = None
    citation: str | None = None
