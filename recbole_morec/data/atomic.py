"""Atomic files: tab-separated UTF-8 with a typed header, read and written without any quoting.

``.inter`` holds interactions (see :mod:`recbole_morec.data.inter`), one per line. ``.content``
holds what an item is: free text and the paths of its images. A line is a line of bytes up to
``\\n``; a field is what stands between two tabs. Nothing else has a meaning, so a quotation mark
at the start of a title is just a quotation mark. Inside a ``text`` field, tab, newline,
carriage return and backslash are written ``\\t``, ``\\n``, ``\\r`` and two backslashes; an empty
field means missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from recbole_morec.data import _atomic_lines as lines
from recbole_morec.errors import DataError, suggest

INTER_TYPES = ("token", "float", "token_seq", "float_seq")
CONTENT_TYPES = ("token", "text", "image", "float")


@dataclass
class ContentTable:
    """The rows of a ``.content`` file, in the order of the file.

    Attributes:
        fields: field name -> type (``token``, ``text``, ``image`` or ``float``), without the item.
        tokens: the item of each row; no item twice.
        columns: field name -> one value per row as text, unescaped; ``None`` where it is missing.
        item_field: the name of the item column.
    """

    fields: dict[str, str]
    tokens: list[str]
    columns: dict[str, list[str | None]] = field(default_factory=dict)
    item_field: str = "item_id"

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def text_fields(self) -> list[str]:
        """Names of the ``text`` fields, in the order of the header."""
        return [name for name, kind in self.fields.items() if kind == "text"]

    @property
    def image_fields(self) -> list[str]:
        """Names of the ``image`` fields, in the order of the header."""
        return [name for name, kind in self.fields.items() if kind == "image"]


# --- header -------------------------------------------------------------------------------------


def read_header(path: str | Path, types: Sequence[str] = INTER_TYPES) -> dict[str, str]:
    """Return the header of an atomic file as field name -> type, in the order of the file.

    Raises:
        DataError: the file is missing or empty, a field has no type or an unknown one, or a name
            stands twice.
    """
    path = lines.existing(path)
    with path.open("rb") as file:
        line = lines.decode_line(file.readline(), path, 1).removeprefix("\ufeff").rstrip("\r\n")
    if not line:
        raise DataError(
            f"{path} line 1: the header is missing. An atomic file starts with a line "
            f'"name:type<TAB>name:type ..." where a type is one of {", ".join(types)}.'
        )
    if "\t" not in line and "," in line:
        raise DataError(
            f'{path} line 1: the header "{line}" has no tab. The fields of an atomic file are '
            "separated by tabs, not by commas. To convert a CSV file: recbole-morec convert folder."
        )
    header: dict[str, str] = {}
    for column in line.split("\t"):
        name, colon, kind = column.rpartition(":")
        if not colon or not name:
            raise DataError(
                f'{path} line 1: the header field "{column}" has no type. Write it as '
                f'"{column or "name"}:TYPE" with one of {", ".join(types)}.'
            )
        if kind not in types:
            raise DataError(
                f'{path} line 1: the field "{name}" has the unknown type "{kind}".'
                f"{suggest(kind, types)} The types of a {path.suffix} file are {', '.join(types)}."
            )
        if name in header:
            raise DataError(f'{path} line 1: the field "{name}" stands twice. Rename one of them.')
        header[name] = kind
    return header


# --- .content -----------------------------------------------------------------------------------


def read_content(path: str | Path, item_field: str = "item_id") -> ContentTable:
    """Read a ``.content`` file.

    Raises:
        DataError: naming the file, the line, the field and what to do: a bad header, a line with
            another number of fields, an empty or repeated item, a ``float`` that is no number, a
            backslash that starts no known escape, bytes that are not UTF-8.
    """
    path = lines.existing(path)
    header = read_header(path, CONTENT_TYPES)
    lines.require_field(path, header, "item", item_field, "token")
    names, kinds = list(header), list(header.values())
    values: list[list[str | None]] = [[] for _ in names]
    first_line: dict[str, int] = {}
    item_column = names.index(item_field)
    for number, line in lines.content_lines(path):
        cells = line.split("\t")
        if len(cells) != len(names):
            raise DataError(lines.wrong_columns(path, number, len(cells), len(names)))
        token = cells[item_column]
        if not token:
            raise DataError(lines.empty_token(path, number, item_field, "item"))
        if token in first_line:
            raise DataError(
                f'{path} line {number}: the item "{token}" already stands in line '
                f"{first_line[token]}. Keep one line per item."
            )
        first_line[token] = number
        for column, cell in enumerate(cells):
            values[column].append(
                lines.parse_cell(path, number, names[column], kinds[column], cell)
            )
    tokens = [token for token in values[item_column] if token is not None]
    columns = {name: values[at] for at, name in enumerate(names) if at != item_column}
    fields = {name: kind for name, kind in header.items() if name != item_field}
    return ContentTable(fields, tokens, columns, item_field)


def write_content(path: str | Path, table: ContentTable) -> None:
    """Write a ``.content`` file; the file is whole or absent.

    Raises:
        DataError: a column has another length than ``tokens``, an item is empty or stands twice,
            or a value cannot be written in a field of its type.
    """
    path = Path(path)
    for name, kind in table.fields.items():
        if kind not in CONTENT_TYPES:
            raise DataError(
                f'{path}: the field "{name}" has the unknown type "{kind}".'
                f"{suggest(kind, CONTENT_TYPES)} Use one of {', '.join(CONTENT_TYPES)}."
            )
        if len(table.columns[name]) != len(table.tokens):
            raise DataError(
                f'{path}: the field "{name}" has {len(table.columns[name])} values for '
                f"{len(table.tokens)} items."
            )
    seen: set[str] = set()
    columns = [table.columns[name] for name in table.fields]
    kinds = list(table.fields.items())
    with lines.whole_file(path) as temporary, temporary.open("wb") as file:
        header = [f"{table.item_field}:token", *(f"{name}:{kind}" for name, kind in kinds)]
        file.write(("\t".join(header) + "\n").encode())
        for row, token in enumerate(table.tokens):
            if not token or token in seen:
                what = "stands twice" if token else "is empty"
                raise DataError(f'{path}: the item "{token}" (row {row + 1}) {what}.')
            seen.add(token)
            cells = [lines.format_cell(path, token, table.item_field, "token", token)]
            for (name, kind), column in zip(kinds, columns, strict=True):
                cells.append(lines.format_cell(path, token, name, kind, column[row]))
            file.write(lines.encode_row("\t".join(cells) + "\n", path, token))
