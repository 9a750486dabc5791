"""Atomic files: tab-separated UTF-8 with a typed header, read and written without any quoting.

``.inter`` holds interactions (``user_id:token  item_id:token  timestamp:float``), one per line.
``.content`` holds what an item is: free text and the paths of its images. A line is a line of bytes
up to ``\\n``; a field is what stands between two tabs. Nothing else has a meaning, so a quotation
mark at the start of a title is just a quotation mark. Inside a ``text`` field, tab, newline,
carriage return and backslash are written ``\\t``, ``\\n``, ``\\r`` and two backslashes; an empty
field means missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

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


# --- .inter -------------------------------------------------------------------------------------


def scan_inter(
    path: str | Path,
    user_field: str = "user_id",
    item_field: str = "item_id",
    time_field: str | None = "timestamp",
) -> pl.LazyFrame:
    """Check an ``.inter`` file in streaming passes and return it as a lazy frame.

    Two passes over the file in bounded memory find every bad line before a row is used; the
    returned frame reads the file once more when it is collected or sunk.

    Args:
        path: the file.
        user_field, item_field: names of the ``token`` fields of user and item.
        time_field: name of the ``float`` field of the time, or ``None`` to read no time.

    Returns:
        Columns ``user`` and ``item`` (String) and, with a time field, ``time``: Int64 when every
        value is a whole number, else Float64. The order of the rows is that of the file.

    Raises:
        DataError: naming the file, the line, the field and what to do.
    """
    path = lines.existing(path)
    header = read_header(path, INTER_TYPES)
    wanted = {"user": (user_field, "token"), "item": (item_field, "token")}
    if time_field is not None:
        wanted["time"] = (time_field, "float")
    for role, (name, kind) in wanted.items():
        lines.require_field(path, header, role, name, kind)

    rows = lines.check_lines(path, len(header))
    if rows == 0:
        raise DataError(
            f"{path}: there is a header but not one interaction below it. Write one line per "
            "interaction, or convert the source again."
        )
    names = [f"column {number}" for number in range(len(header))]
    position = {name: names[number] for number, name in enumerate(header)}
    cells = pl.scan_csv(
        path,
        has_header=False,
        skip_rows=1,
        n_rows=rows,
        separator="\t",
        quote_char=None,
        schema=dict.fromkeys(names, pl.String),
        row_index_name="row",
        glob=False,
    )
    raw = cells.select(
        "row",
        *(pl.col(position[name]).fill_null("").alias(role) for role, (name, _) in wanted.items()),
    )
    return lines.typed_inter(path, raw, wanted)


def read_inter(
    path: str | Path,
    user_field: str = "user_id",
    item_field: str = "item_id",
    time_field: str | None = "timestamp",
) -> pl.DataFrame:
    """Read an ``.inter`` file into memory; see :func:`scan_inter` for columns and errors."""
    return scan_inter(path, user_field, item_field, time_field).collect()


def write_inter(
    path: str | Path,
    frame: pl.DataFrame,
    user_field: str = "user_id",
    item_field: str = "item_id",
    time_field: str | None = "timestamp",
) -> None:
    """Write interactions as an ``.inter`` file; the file is whole or absent.

    Args:
        path: the file to write.
        frame: columns ``user``, ``item`` and, with a time field, ``time``. Further columns follow
            under their own names, numbers as ``float`` and the rest as ``token``.
        user_field, item_field, time_field: the names that the header gives them.

    Raises:
        DataError: a user or item is empty or holds a tab or a line break, which this format has
            no way to write, or a time is missing or not finite.
    """
    path = Path(path)
    names = {"user": user_field, "item": item_field}
    if time_field is not None:
        names["time"] = time_field
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise DataError(
            f"{path}: cannot write interactions without the columns {', '.join(missing)}; "
            f"the frame has {', '.join(frame.columns)}."
        )
    extra = [name for name in frame.columns if name not in ("user", "item", "time")]
    frame = frame.select(*names, *extra)
    header = []
    for name in frame.columns:
        kind = "float" if name == "time" or frame[name].dtype.is_numeric() else "token"
        if kind == "float":
            lines.check_numbers_to_write(path, names.get(name, name), frame[name], name == "time")
        else:
            frame = frame.with_columns(pl.col(name).cast(pl.String))
            lines.check_tokens_to_write(path, names.get(name, name), frame[name], name in names)
        header.append(f"{names.get(name, name)}:{kind}")
    with lines.whole_file(path) as temporary, temporary.open("wb") as file:
        file.write(("\t".join(header) + "\n").encode())
        frame.write_csv(file, separator="\t", include_header=False, quote_style="never")


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
