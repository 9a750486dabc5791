"""What a converter finds in a source, and the options that all converters share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from recbole_morec.convert._encode_image import Encoding
from recbole_morec.convert._events import EventColumns
from recbole_morec.convert._filters import Filters
from recbole_morec.convert._images import ImageFiles
from recbole_morec.convert._rows import SEPARATORS, Rows
from recbole_morec.convert._tables import Table
from recbole_morec.convert._times import UNITS
from recbole_morec.errors import ConfigError, suggest, unknown

FORMS = ("store", "copy", "link")
BAD_IMAGES = ("text_only", "mean", "drop", "error")
LANGUAGES = ("en", "zh")
# Choices that some sources do not read; each module of a source names those that it does.
FILES = ("interactions", "items", "images")
COLUMNS = ("user_field", "item_field", "time_field", "time_unit")
DIALECT = ("separator", "header")
CHOICES = (*FILES, "variant", *COLUMNS, "language", *DIALECT)


@dataclass(frozen=True)
class ImageOptions:
    """What becomes of the images.

    Args:
        form: one packed ``store``, or files: ``copy``, or ``link`` to make symbolic links.
        encoding: of the store.
        bad: of an item whose image is missing or cannot be read: ``text_only`` leaves its image
            field empty, ``mean`` does so and lets training read a grey image there, ``drop`` drops
            the item and its interactions, ``error`` stops.
    """

    form: str = "store"
    encoding: Encoding = field(default_factory=Encoding)
    bad: str = "text_only"

    def __post_init__(self) -> None:
        problems = [
            unknown(flag, value, known, "choice")
            for flag, value, known in (
                ("--image-form", self.form, FORMS),
                ("--bad-images", self.bad, BAD_IMAGES),
            )
            if value not in known
        ]
        if problems:
            raise ConfigError(problems)


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
        separator: of the tables that are text, by name or itself; default found.
        header: whether the first line of these tables names the columns; default found.
        language: of the texts that are read, where a source has them in several; default English.
        overwrite: replace an earlier conversion, if nobody has changed its folder since.
        filters: which interactions are dropped.
        image: what becomes of the images.
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
    separator: str | None = None
    header: bool | None = None
    language: str | None = None
    overwrite: bool = False
    filters: Filters = field(default_factory=Filters)
    image: ImageOptions = field(default_factory=ImageOptions)
    progress: bool = False

    @classmethod
    def of(cls, *, input: str | Path, output: str | Path, **choices: Any) -> Options:
        """Make options of flat choices, as the command line has them.

        Args:
            input, output: folders.
            choices: fields of this class; those of :class:`Filters` by their names; of the images
                ``image_form`` and ``bad_images``, and the fields of ``Encoding`` as
                ``image_encoding``, ``image_size``, ``image_resize`` and ``image_quality``.

        Raises:
            ConfigError: an unknown choice.
        """

        def taken(names: dict[str, str]) -> dict[str, Any]:
            return {name: choices.pop(key) for name, key in names.items() if key in choices}

        filters = Filters(**taken({each.name: each.name for each in fields(Filters)}))
        try:
            how = Encoding(**taken({each.name: f"image_{each.name}" for each in fields(Encoding)}))
        except ConfigError as error:
            raise ConfigError([f"--image-{problem}" for problem in error.problems]) from None
        image = ImageOptions(encoding=how, **taken({"form": "image_form", "bad": "bad_images"}))
        return cls(Path(input), Path(output), filters=filters, image=image, **choices)

    def __post_init__(self) -> None:
        problems = []
        if self.time_unit is not None and self.time_unit not in UNITS:
            problems.append(unknown("--time-unit", self.time_unit, UNITS, "unit"))
        known = (*SEPARATORS, *SEPARATORS.values(), "\\t", None)
        if self.separator not in known:
            problems.append(
                f'--separator: unknown "{self.separator}".{suggest(self.separator, SEPARATORS)} '
                f"Use one of {', '.join(SEPARATORS)}, or the character."
            )
        if self.language is not None and self.language not in LANGUAGES:
            problems.append(unknown("--language", self.language, LANGUAGES, "language"))
        if not re.fullmatch(r"\w[\w.-]*", self.dataset_name):
            problems.append(
                f'--name: "{self.dataset_name}" cannot name a dataset. Use letters, digits, "_", '
                '"-" and ".".'
            )
        if problems:
            raise ConfigError(problems)

    @property
    def delimiter(self) -> str | None:
        """The character that separates columns, if it was given."""
        if self.separator == "\\t":  # as a shell hands it over
            return "\t"
        return SEPARATORS.get(self.separator, self.separator)

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
