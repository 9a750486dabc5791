"""Texts that hold their file's separator unquoted: the first cell is the id, the rest text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from recbole_morec.convert._rows import SEPARATORS, Rows
from recbole_morec.data.line_blocks import line_blocks

# Separates nothing: a line is one cell.
_NEVER = "\x1f"


class FirstCellRows(Rows):
    """A line is an id, a separator and a text to the end of the line.

    Args:
        path: the file.
        text: name of the text's column.
        separator: the first one in a line ends the id.
        joined: what stands for the separator in the text.
        unquote: whether a text that is quoted as a CSV cell loses its quotes.
        header: whether the first line is no row.
    """

    def __init__(
        self,
        path: Path,
        text: str = "title",
        separator: str = ",",
        joined: str | None = None,
        unquote: bool = False,
        header: bool = False,
    ):
        name = next(name for name, each in SEPARATORS.items() if each == separator)
        said = "" if header else ", no header"
        super().__init__(path, ["item", text], f"split at the first {name}{said}")
        self._separator = separator
        self._joined = joined
        self._unquote = unquote
        self._header = header

    def blocks(self) -> Iterator[pl.DataFrame]:
        item, text = self.columns
        for block in line_blocks(self.path, ["line"], _NEVER, self._header):
            cells = block.frame["line"].str.splitn(self._separator, 2).struct.unnest()
            rest = cells["field_1"]
            if self._unquote:
                quoted = rest.str.contains(r'^"([^"]|"")*"$').fill_null(False)
                inside = rest.str.strip_prefix('"').str.strip_suffix('"')
                rest = inside.str.replace_all('""', '"', literal=True).zip_with(quoted, rest)
            if self._joined is not None:
                rest = rest.str.replace_all(self._separator, self._joined, literal=True)
            yield pl.DataFrame(
                {item: cells["field_0"].replace("", None), text: rest.replace("", None)}
            )

    def place(self, row: int) -> str:
        return f"line {row + 1 + self._header}"
