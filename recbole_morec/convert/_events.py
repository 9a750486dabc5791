"""Rows of interactions -> an :class:`EventLog`: ids cleaned, times read, numbers kept."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from recbole_morec.convert._rows import Rows
from recbole_morec.convert._tables import broken_ids, no_rows, unusable_id, without_missing
from recbole_morec.convert._times import TimeColumn
from recbole_morec.convert.report import Report
from recbole_morec.data.event_log import EventLog
from recbole_morec.errors import DataError, counted

USER_FIELD = "user_id"
ITEM_FIELD = "item_id"
TIME_FIELD = "timestamp"

_LOOKED_AT = 1 << 20
_RESERVED = ("row", "user", "item", "time", USER_FIELD, ITEM_FIELD)


@dataclass(frozen=True)
class EventColumns:
    """Which column of the interactions plays which role.

    Args:
        user, item: the columns.
        time: that of the time; ``None`` = the order of the rows is the order in time.
        time_unit: unit of its numbers, where the user gave it.
        positions: whether the time is a position in the user's history, so that it has no unit.
    """

    user: str
    item: str
    time: str | None
    time_unit: str | None = None
    positions: bool = False


@dataclass(frozen=True)
class Found:
    """Interactions as they were read.

    Attributes:
        log: all rows; missing cells are marked.
        extra: further columns of numbers, name -> whether all values are whole.
    """

    log: EventLog
    extra: dict[str, bool]


def read_events(rows: Rows, columns: EventColumns, folder: Path, report: Report) -> Found:
    """Read all interactions in bounded memory.

    Args:
        rows: the file.
        columns: its columns.
        folder: where the log is written.
        report: gets what was found out about the columns.

    Raises:
        DataError: naming file and row: the file cannot be read, there is no row, an id cannot be
            written into an atomic file, or times are written in several ways.
    """
    report.detected |= {"user column": columns.user, "item column": columns.item}
    numbers = _Numbers(
        [name for name in rows.columns if name not in (columns.user, columns.item, columns.time)]
    )
    log = EventLog(folder, numbers.names)
    unit = "positions" if columns.positions else columns.time_unit
    times = TimeColumn(f"{rows.path} column {columns.time}", unit)
    for frame in rows.blocks():
        if columns.time is None:
            time = np.arange(log.rows, log.rows + frame.height)
        else:
            time = times.read(frame[columns.time])
        log.append(frame[columns.user], frame[columns.item], time, numbers.read(frame))
    if log.rows == 0:
        raise no_rows(rows)
    if columns.positions:
        report.detected["time"] = "none; the order of the items in a line is the time"
    elif columns.time is None:
        report.detected["time"] = "none; the order of the rows is the time"
        report.notes.append(
            "There is no time column: the order of the rows is taken as the order in time, and "
            "timestamp is the row's position, from 0."
        )
    else:
        report.detected["time column"] = f"{columns.time} ({times.finish(rows.place)})"
    for column, source in (("user", columns.user), ("item", columns.item)):
        _clean_ids(log, column, rows, source)
    report.detected["ids"] = f"users {_shape(log, 'user')}, items {_shape(log, 'item')}"
    numbers.report(report)
    return Found(log, numbers.kept)


def _clean_ids(log: EventLog, column: str, rows: Rows, source: str) -> None:
    """Strip blanks from ids and mark missing ones; id by id, not row by row."""
    table = getattr(log, f"{column}s")
    ids = table.tokens(np.arange(len(table)))
    clean = without_missing(ids)
    broken = broken_ids(clean)
    if broken.any():
        number = broken.arg_max()
        row = _first_row(log, column, number)
        raise DataError(unusable_id(rows.at(row), source, clean[number]))
    if not clean.equals(ids, null_equal=True):
        log.renumber(column, clean)


def _shape(log: EventLog, column: str) -> str:
    """What the ids of a column look like: a prefix and numbers, or an example."""
    table = getattr(log, f"{column}s")
    ids = table.tokens(np.arange(min(len(table), _LOOKED_AT))).drop_nulls()
    if not len(ids):
        return "none"
    prefixes = ids.str.extract(r"^([A-Za-z]*)\d+$").unique()
    if len(prefixes) > 1 or prefixes[0] is None:
        return f'such as "{ids[0]}"'
    return f"{prefixes[0]} + number" if prefixes[0] else "bare numbers"


def _first_row(log: EventLog, column: str, number: int) -> int:
    for events in log.chunks():
        found = np.flatnonzero(getattr(events, column) == number)
        if len(found):
            return events.row + int(found[0])
    raise AssertionError("a number of the log is in one of its rows")


class _Numbers:
    """Further columns that hold numbers only (rating, price); others are left out."""

    def __init__(self, columns: list[str]):
        self._columns = {name: re.sub(r"[\s:]+", "_", name) for name in columns}
        self._left_out = {name for name, clean in self._columns.items() if clean in _RESERVED}
        self._whole = dict.fromkeys(columns, True)
        self._seen: set[str] = set()
        self._endless: Counter[str] = Counter()

    @property
    def names(self) -> list[str]:
        return list(self._columns.values())

    @property
    def kept(self) -> dict[str, bool]:
        return {
            clean: self._whole[name]
            for name, clean in self._columns.items()
            if name not in self._left_out and name in self._seen
        }

    def read(self, frame: pl.DataFrame) -> list[np.ndarray]:
        """float64 ``[n]`` per column, NaN where it is missing or left out."""
        return [self._column(name, frame[name]) for name in self._columns]

    def report(self, report: Report) -> None:
        if kept := list(self.kept):
            report.detected["further columns kept"] = ", ".join(kept)
        left_out = [n for n in self._columns if n in self._left_out or n not in self._seen]
        for name, count in self._endless.items():
            if name not in left_out:
                report.notes.append(
                    f'The column "{name}" of the interactions: {counted(count, "value")} not '
                    "finite (inf, or too large for a number); left empty."
                )
        if left_out:
            report.notes.append(f"Columns of the interactions left out: {', '.join(left_out)}.")

    def _column(self, name: str, text: pl.Series) -> np.ndarray:
        if name not in self._left_out:
            numbers = text.str.strip_chars().cast(pl.Float64, strict=False)
            if (numbers.is_null() & text.is_not_null()).any():
                self._left_out.add(name)
            else:
                endless = numbers.is_infinite().fill_null(False)
                if endless.any():
                    self._endless[name] += int(endless.sum())
                    numbers = numbers.set(endless, None)
                numbers = numbers.fill_null(float("nan")).to_numpy()
                real = numbers[~np.isnan(numbers)]
                if len(real):
                    self._seen.add(name)
                self._whole[name] &= bool(
                    ((real == np.floor(real)) & (np.abs(real) < 2.0**53)).all()
                )
                return numbers
        return np.full(len(text), np.nan)
