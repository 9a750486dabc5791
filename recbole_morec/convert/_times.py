"""Time columns: numbers stay numbers, dates become Unix seconds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl

from recbole_morec.convert._tables import without_missing
from recbole_morec.data.event_log import missing_as
from recbole_morec.data.inter import whole_times
from recbole_morec.errors import DataError, short

# Size of a present-day time in each unit: from 1973 to 2286.
UNITS = {
    "seconds": (1e8, 1e10),
    "milliseconds": (1e11, 1e13),
    "microseconds": (1e14, 1e16),
    "nanoseconds": (1e17, 1e19),
}
# Only formats that can be read in one way: 03/04/2013 is a day in March or in April.
_DATES = (
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%d",
    "%Y/%m/%d %H:%M:%S%.f",
    "%Y/%m/%d",
)
_ZONED = "%Y-%m-%d %H:%M:%S%.f%z"
# As the official MIND release writes them; elsewhere the day may come first.
_AMERICAN = "%m/%d/%Y %I:%M:%S %p"
# More than this share of unreadable times is no slip of a few rows but another way of writing.
_MAX_UNREAD = 0.01
_EXAMPLES = 3


class TimeColumn:
    """Reads a column of times block by block.

    Whether it holds numbers or dates is settled by the first block that has any; :meth:`finish`
    judges the column as a whole.

    Args:
        where: file and column, for messages.
        unit: unit of the numbers, one of :data:`UNITS`, where the user knows it: then they are not
            looked at.
        american: whether 11/12/2019 9:05:58 AM, with the month first, is known to be meant.
    """

    def __init__(self, where: str, unit: str | None = None, american: bool = False):
        self._where = where
        self._unit = unit
        self._american = american
        self._form: str | None = None
        self._values = 0
        self._unread = 0
        self._unread_examples: list[str] = []
        self._rows = 0
        self._first_unread: int | None = None
        self._units: dict[str, list] = {}
        self._fractions = False

    def read(self, text: pl.Series) -> np.ndarray:
        """Read one block.

        Args:
            text: String values ``[n]``.

        Returns:
            int64, or float64 where there are fractions, ``[n]``; values that are missing or no time
            are :func:`~recbole_morec.data.event_log.missing_as`.

        Raises:
            DataError: not one value of the first block is a number or a date in ISO order.
        """
        text = without_missing(text).replace(["nan", "NaN", "NAN", "NaT"], None)
        before, self._rows = self._rows, self._rows + len(text)
        if text.null_count() == len(text):
            return np.full(len(text), missing_as(np.dtype(np.int64)))
        if self._form is None:
            numbers = text.cast(pl.Float64, strict=False).is_finite().fill_null(False).sum()
            self._form = "numbers" if numbers * 2 >= text.count() else "dates"
        times = self._numbers(text, before) if self._form == "numbers" else self._dates(text)
        unread = text.is_not_null() & times.is_null()
        if unread.any():
            if self._first_unread is None:
                self._first_unread = before + unread.arg_max()
            self._note_unread(text.filter(unread))
        self._values += text.count()
        self._fractions |= times.dtype == pl.Float64
        kind = np.dtype(np.int64 if times.dtype == pl.Int64 else np.float64)
        return times.fill_null(missing_as(kind)).to_numpy()

    def finish(self, place: Callable[[int], str]) -> str:
        """Return how the column was read.

        Args:
            place: where a row (from 0, over all blocks) stands, for messages.

        Raises:
            DataError: more than 1 % of the values cannot be read like the others, or they are in
                different units.
        """
        if self._unread > _MAX_UNREAD * self._values:
            shown = ", ".join(f'"{short(value)}"' for value in self._unread_examples)
            raise DataError(
                f"{self._where}: {self._unread:,} of {self._values:,} values cannot be read as "
                f"{self._form}, as others are, the first in {place(self._first_unread)}: {shown}. "
                "Write all of them as Unix seconds, or all as ISO dates such as 2013-02-28 "
                "17:40:00; empty the cells whose rows are to be dropped."
            )
        if len(self._units) > 1:
            found = ", ".join(
                f"{count:,} look like {unit} ({example} in {place(row)})"
                for unit, (count, example, row) in self._units.items()
            )
            raise DataError(
                f"{self._where}: the times are in different units: {found}. Bring them to one "
                "unit, and empty the cells whose rows are to be dropped; --time-unit takes them "
                "as they are."
            )
        fractions = " with fractions" if self._fractions else ""
        if self._form == "dates":
            return f"dates{fractions}, written as Unix seconds (UTC)"
        if self._unit is not None:
            return f"numbers{fractions}, {self._unit} as --time-unit says"
        unit = next(iter(self._units), None)
        return f"numbers{fractions}" + (f", look like Unix {unit}" if unit else "")

    def _numbers(self, text: pl.Series, before: int) -> pl.Series:
        times, _ = whole_times(text)
        size = times.cast(pl.Float64).abs()
        if (too_big := (size >= 2.0**63).fill_null(False)).any():
            times = times.set(too_big, None)
        if self._unit is None:
            for unit, (low, high) in UNITS.items():
                fitting = (size >= low) & (size < high)
                if count := fitting.sum():
                    at = fitting.arg_max()
                    known = self._units.setdefault(unit, [0, text[at], before + at])
                    known[0] += count
        return times

    def _dates(self, text: pl.Series) -> pl.Series:
        micro = parse_dates(text, self._american)
        if self._values == self._unread and not micro.count():
            example = short(text.drop_nulls()[0])
            raise DataError(
                f'{self._where}: "{example}" is neither a number nor a date such as 2013-02-28 or '
                "2013-02-28 17:40:00. Write Unix seconds or ISO dates."
            )
        whole = (micro % 1_000_000 == 0).all()
        return micro // 1_000_000 if whole else micro / 1_000_000

    def _note_unread(self, unread: pl.Series) -> None:
        self._unread += len(unread)
        for value in unread.unique(maintain_order=True)[:_EXAMPLES]:
            if len(self._unread_examples) < _EXAMPLES and value not in self._unread_examples:
                self._unread_examples.append(value)


def parse_dates(text: pl.Series, american: bool = False) -> pl.Series:
    """Microseconds since 1970 (UTC where no zone is given), null where no format fits.

    Args:
        text: String values.
        american: whether the month comes first in 11/12/2019 9:05:58 AM.
    """
    frame = text.str.replace(r"^(\d{4}-\d\d-\d\d)T", "${1} ").str.replace(r" ?(Z|UTC)$", "+0000")
    frame = frame.alias("text").to_frame()
    plain = [
        pl.col("text").str.to_datetime(form, time_unit="us", strict=False).dt.epoch("us")
        for form in (*_DATES, *([_AMERICAN] if american else []))
    ]
    zoned = pl.col("text").str.to_datetime(_ZONED, time_unit="us", strict=False).dt.epoch("us")
    return frame.select(pl.coalesce(*plain, zoned)).to_series()
