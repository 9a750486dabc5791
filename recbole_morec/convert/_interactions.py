"""Cleaning of interactions: what is dropped, why, and how many."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from recbole_morec.convert.report import Report, length_histogram
from recbole_morec.errors import ConfigError, DataError, suggest

DUPLICATES = ("keep", "first", "last", "error")

_EXAMPLES = 5


def clean_interactions(
    frame: pl.DataFrame,
    report: Report,
    place: Callable[[int], str],
    *,
    duplicates: str = "keep",
    min_user_inter: int = 0,
    min_item_inter: int = 0,
) -> pl.DataFrame:
    """Drop unusable rows, then duplicates, then what is outside the k-core; fill in the report.

    Args:
        frame: ``user``, ``item`` (null = missing), ``time`` (null = no time), ``row`` (0, 1, ...
            in the source) and any further columns.
        report: gets the counts.
        place: where a row stands in the source, for messages.
        duplicates: rows with the same user and item: ``keep`` all, the ``first`` or ``last`` in
            time, or raise (``error``).
        min_user_inter, min_item_inter: users and items with fewer rows are dropped, again and again
            until all that are left have as many.

    Returns:
        The rows that are kept, in their order.

    Raises:
        DataError: nothing is left, or duplicates are an error.
    """
    check_duplicates_choice(duplicates)
    report.rows_read = frame.height
    for reason, bad in (
        ("no user", pl.col("user").is_null()),
        ("no item", pl.col("item").is_null()),
        ("no usable time", pl.col("time").is_null()),
    ):
        frame = _drop(frame, bad, reason, report, place)
    frame = _drop_duplicates(frame, duplicates, report, place)
    frame = _core(frame, min_user_inter, min_item_inter, report)
    if frame.height == 0:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in report.dropped.items())
        raise DataError(
            f"{report.source}: no interaction is left of {report.rows_read} ({reasons}). Check the "
            "columns (--user-field, --item-field, --time-field) and the minimum numbers."
        )
    _count(frame, report)
    return frame


def check_duplicates_choice(duplicates: str) -> None:
    """Raise a ConfigError unless the choice is a known one."""
    if duplicates not in DUPLICATES:
        raise ConfigError(
            f'--duplicates: unknown choice "{duplicates}".{suggest(duplicates, DUPLICATES)} '
            f"Use one of {', '.join(DUPLICATES)}."
        )


def _drop(
    frame: pl.DataFrame, bad: pl.Expr, reason: str, report: Report, place: Callable[[int], str]
) -> pl.DataFrame:
    rows = frame.filter(bad)["row"]
    if rows.len():
        report.dropped[reason] = rows.len()
        report.examples[reason] = [place(row) for row in rows.head(_EXAMPLES)]
        frame = frame.filter(~bad)
    return frame


def _drop_duplicates(
    frame: pl.DataFrame, duplicates: str, report: Report, place: Callable[[int], str]
) -> pl.DataFrame:
    pair = pl.struct("user", "item")
    again = ~pair.is_first_distinct()
    repeated = frame.filter(again)
    report.repeated_pairs = repeated.height
    if repeated.height == 0:
        return frame
    report.repeated_rows = frame.filter(
        ~pl.struct("user", "item", "time").is_first_distinct()
    ).height
    if duplicates == "error":
        row, user, item = repeated.select("row", "user", "item").row(0)
        raise DataError(
            f"{report.source}: {repeated.height} rows repeat a user and item, the first in "
            f'{place(row)} (user "{user}", item "{item}"). Choose with --duplicates whether to '
            "keep all, the first or the last."
        )
    if duplicates == "keep":
        return frame
    ordered = frame.sort("time", "row")
    chosen = ordered.unique(["user", "item"], keep=duplicates, maintain_order=True).sort("row")
    report.dropped["same user and item again"] = frame.height - chosen.height
    return chosen


def _core(frame: pl.DataFrame, min_user: int, min_item: int, report: Report) -> pl.DataFrame:
    if min_user <= 1 and min_item <= 1:
        return frame
    before = frame.select(pl.col("user", "item").n_unique()).row(0)
    rows, rounds = frame.height, 0
    while True:
        kept = frame.filter(
            (pl.len().over("user") >= min_user) & (pl.len().over("item") >= min_item)
        )
        if kept.height == frame.height:
            break
        frame, rounds = kept, rounds + 1
    after = frame.select(pl.col("user", "item").n_unique()).row(0)
    if rows > frame.height:
        report.dropped["outside the k-core"] = rows - frame.height
    report.core = (
        f"users >= {min_user}, items >= {min_item} interactions; {rounds} round"
        f"{'' if rounds == 1 else 's'}, {before[0] - after[0]:,} users and "
        f"{before[1] - after[1]:,} items dropped"
    )
    return frame


def _count(frame: pl.DataFrame, report: Report) -> None:
    report.rows_kept = frame.height
    report.users, report.items = frame.select(pl.col("user", "item").n_unique()).row(0)
    tied = frame.filter(pl.len().over("user", "time") > 1)
    report.tied_rows, report.tied_users = tied.height, tied["user"].n_unique()
    lengths = frame.group_by("user").len()["len"]
    report.mean_length = float(lengths.mean())
    report.longest = int(lengths.max())
    report.lengths = length_histogram(dict(lengths.value_counts().rows()))
