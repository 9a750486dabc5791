"""Behaviour files: a line is a user, a tab and his items in time order, separated by blanks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from recbole_morec.convert._events import EventColumns
from recbole_morec.convert._layout import names_users
from recbole_morec.convert._rows import Rows
from recbole_morec.convert._source import Options
from recbole_morec.convert._spread import LineNumbers
from recbole_morec.convert._tables import without_missing
from recbole_morec.convert.report import Report
from recbole_morec.data._atomic_lines import decode_line
from recbole_morec.data.line_blocks import LONGEST_LINE, Block, line_blocks
from recbole_morec.data.tokens import NONE, TokenNumbers
from recbole_morec.errors import ConfigError, DataError, counted

_COLUMNS = ("user", "item", "position")
_UNREAD = ("user_field", "item_field", "time_field", "time_unit")


class BehaviourRows(Rows):
    """One row per item of a line; its position in the line, from 0, is its time.

    Further columns of a line are ignored, as the published readers do. A user with several lines
    keeps the last one, as in the published code, whose dictionary of users is overwritten.

    Attributes:
        header: whether the first line names the columns.
        superseded: numbers of the lines, from 0, that a later one of the same user replaces.
        without_items: lines of users without an item; they give no row.
    """

    def __init__(self, path: Path):
        super().__init__(path, _COLUMNS, "a line per user, items in time order")
        first = _first_cells(path)
        self.header = names_users(first[0])
        self._names = ["user", "items", *(f"more {n}" for n in range(len(first) - 2))]
        self._lines = LineNumbers()
        self.superseded, self.without_items = self._look()

    def blocks(self) -> Iterator[pl.DataFrame]:
        self._lines = LineNumbers()
        for block in self._blocks():
            lines = block.frame.height
            items = (
                block.frame["items"]
                .str.split(" ")
                .list.eval(pl.element().filter(pl.element() != ""))
            )
            counts = items.list.len().fill_null(0).to_numpy().astype(np.int64)
            kept = ~np.isin(np.arange(block.row, block.row + lines), self.superseded)
            counts = np.where(kept, counts, 0)
            self._lines.add(block.line, counts)
            if not counts.any():
                continue
            filled = pl.Series(counts > 0)
            starts = np.cumsum(counts) - counts
            position = np.arange(counts.sum()) - np.repeat(starts, counts)
            yield pl.DataFrame(
                {
                    "user": block.frame["user"].gather(np.repeat(np.arange(lines), counts)),
                    "item": items.filter(filled).explode(),
                    "position": pl.Series(position).cast(pl.String),
                }
            )

    def place(self, row: int) -> str:
        return f"line {self._lines.line(row)}"

    def _blocks(self) -> Iterator[Block]:
        return line_blocks(self.path, self._names, header=self.header)

    def _look(self) -> tuple[np.ndarray, int]:
        users = TokenNumbers()
        last = np.full(1024, -1, dtype=np.int64)
        nameless = []
        lines = without = 0
        for block in self._blocks():
            items = block.frame["items"].str.strip_chars().fill_null("")
            without += int((items == "").sum())
            numbers = users.number(without_missing(block.frame["user"]))
            while len(users) > len(last):
                last = np.append(last, np.full(len(last), -1, dtype=np.int64))
            named = numbers != NONE
            np.maximum.at(last, numbers[named], np.flatnonzero(named) + block.row)
            nameless.append(np.flatnonzero(~named) + block.row)
            lines += block.frame.height
        if lines == 0:
            raise DataError(f"{self.path}: there is not one line in it.")
        # Lines without a user stay: their rows are dropped and counted like those of any table.
        counted = np.concatenate([last[: len(users)], *nameless])
        return np.setdiff1d(np.arange(lines), counted), without


def open_behaviours(
    path: Path, options: Options, report: Report
) -> tuple[BehaviourRows, EventColumns]:
    """Open a behaviour file; what was found about its lines goes into the report.

    Raises:
        ConfigError: the options name columns or a unit.
        DataError: naming file and line.
    """
    problems = [
        f"--{name.replace('_', '-')}: {path.name} is a line per user, his items in time order, and "
        "has no columns or times to choose."
        for name in _UNREAD
        if getattr(options, name) is not None
    ]
    if problems:
        raise ConfigError(problems)
    rows = BehaviourRows(path)
    if rows.header:
        report.notes.append(f"{path.name} line 1 names the columns; it is not read as data.")
    report.detected["column order"] = "user, then items in time order"
    if count := len(rows.superseded):
        report.notes.append(
            f"{path.name}: {counted(count, 'line belongs', 'lines belong')} to a user who has "
            "another line further down; the last line of a user counts, as in the published code, "
            "and its items alone are kept."
        )
    if rows.without_items:
        report.notes.append(
            f"{path.name}: {counted(rows.without_items, 'line names', 'lines name')} a user "
            "without any item and give no interaction."
        )
    return rows, EventColumns("user", "item", "position", positions=True)


def _first_cells(path: Path) -> list[str]:
    with path.open("rb") as file:
        line = decode_line(file.readline(LONGEST_LINE), path, 1).removeprefix("\ufeff")
    if "\t" not in line:
        raise DataError(
            f'{path} line 1: "{line[:80].rstrip()}" has no tab. A line of this file is a user, a '
            "tab and his items, separated by blanks."
        )
    return line.split("\t")
