"""Time columns: numbers stay numbers, dates become Unix seconds."""

from __future__ import annotations

import polars as pl

from recbole_morec.convert._tables import without_missing
from recbole_morec.errors import DataError

# Only formats that can be read in one way: 03/04/2013 is a day in March or in April.
_DATES = (
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%d",
    "%Y/%m/%d %H:%M:%S%.f",
    "%Y/%m/%d",
)
_ZONED = "%Y-%m-%d %H:%M:%S%.f%z"
# Size of a present-day time in each unit: from 1973 to 2286.
_UNITS = {
    "seconds": (1e8, 1e10),
    "milliseconds": (1e11, 1e13),
    "microseconds": (1e14, 1e16),
    "nanoseconds": (1e17, 1e19),
}
# More than this share of unreadable times is no slip of a few rows but another way of writing.
_MAX_UNREAD = 0.01
_EXAMPLES = 3


def parse_times(text: pl.Series, where: str) -> tuple[pl.Series, str]:
    """Read a column of times.

    Args:
        text: String values.
        where: file and column, for messages.

    Returns:
        Int64 (or Float64, if there are fractions) with null where a value is missing or no time,
        and how the column was read.

    Raises:
        DataError: not one value is a number or a date in ISO order; more than 1 % of them cannot be
            read like the others; or they are in different units.
    """
    text = without_missing(text).replace(["nan", "NaN", "NAN", "NaT"], None)
    number = text.cast(pl.Float64, strict=False)
    number = number.set(~number.is_finite().fill_null(False), None)
    if number.count() * 2 >= text.count() and number.count():
        _check_unread(text, number, where, "numbers")
        _check_units(text, number, where)
        integer = text.cast(pl.Int64, strict=False)
        fits = (number == number.floor()) & (number.abs() < 2.0**63)
        if (integer.is_not_null() | fits.fill_null(True)).all():
            # Written integers stay exact; only values such as 1362061200.0 pass through a float.
            whole = number.cast(pl.Int64, strict=False)
            return integer.zip_with(integer.is_not_null(), whole), "numbers"
        return number, "numbers with fractions"
    micro = _parse_dates(text)
    if not micro.count():
        example = next((value for value in text if value), "")
        raise DataError(
            f'{where}: "{example}" is neither a number nor a date such as 2013-02-28 or '
            "2013-02-28 17:40:00. Write Unix seconds or ISO dates."
        )
    _check_unread(text, micro, where, "dates")
    if (micro % 1_000_000 == 0).all():
        return micro // 1_000_000, "dates, written as Unix seconds (UTC)"
    return micro / 1_000_000, "dates with fractions, written as Unix seconds (UTC)"


def _check_unread(text: pl.Series, read: pl.Series, where: str, form: str) -> None:
    unread = text.filter(text.is_not_null() & read.is_null())
    if unread.len() > _MAX_UNREAD * text.count():
        shown = ", ".join(f'"{value}"' for value in unread.unique(maintain_order=True)[:_EXAMPLES])
        raise DataError(
            f"{where}: {unread.len():,} of {text.count():,} values cannot be read as {form}, as "
            f"others are: {shown}. Write all of them as Unix seconds, or all as ISO dates such as "
            "2013-02-28 17:40:00; empty the cells whose rows are to be dropped."
        )


def _check_units(text: pl.Series, number: pl.Series, where: str) -> None:
    size = number.abs()
    found = {}
    for unit, (low, high) in _UNITS.items():
        fitting = text.filter(((size >= low) & (size < high)).fill_null(False))
        if fitting.len():
            found[unit] = f"{fitting.len():,} look like {unit} ({fitting[0]})"
    if len(found) > 1:
        raise DataError(
            f"{where}: the times are in different units: {', '.join(found.values())}. Bring them "
            "to one unit, and empty the cells whose rows are to be dropped."
        )


def _parse_dates(text: pl.Series) -> pl.Series:
    """Microseconds since 1970 (UTC where no zone is given), null where no format fits."""
    frame = text.str.replace(r"^(\d{4}-\d\d-\d\d)T", "${1} ").str.replace(r" ?(Z|UTC)$", "+0000")
    frame = frame.alias("text").to_frame()
    plain = [
        pl.col("text").str.to_datetime(form, time_unit="us", strict=False).dt.epoch("us")
        for form in _DATES
    ]
    zoned = pl.col("text").str.to_datetime(_ZONED, time_unit="us", strict=False).dt.epoch("us")
    return frame.select(pl.coalesce(*plain, zoned)).to_series()
