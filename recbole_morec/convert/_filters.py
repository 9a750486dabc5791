"""Which interactions are kept: unusable rows, duplicates, k-core, newest N."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recbole_morec.convert._rows import Rows
from recbole_morec.convert.report import Report
from recbole_morec.data.by_user import Numbering, by_user
from recbole_morec.data.event_log import EventLog, Events, is_missing
from recbole_morec.data.tokens import NONE
from recbole_morec.errors import ConfigError, DataError, unknown

DUPLICATES = ("keep", "first", "last", "error")

OUTSIDE = "outside the k-core"
NO_IMAGE = "item without a usable image"

_EXAMPLES = 3


@dataclass(frozen=True)
class Filters:
    """What is dropped, in this order.

    Args:
        duplicates: rows with the same user and item: ``keep`` all, the ``first`` or ``last`` in
            time, or raise (``error``).
        min_user_inter, min_item_inter: users and items with fewer rows are dropped, again and again
            until all that are left have as many (k-core).
        last_n: then only the newest so many rows of each user are kept; 0 = all.
    """

    duplicates: str = "keep"
    min_user_inter: int = 0
    min_item_inter: int = 0
    last_n: int = 0

    def __post_init__(self) -> None:
        problems = []
        if self.duplicates not in DUPLICATES:
            problems.append(unknown("--duplicates", self.duplicates, DUPLICATES, "choice"))
        for name in ("min_user_inter", "min_item_inter", "last_n"):
            if getattr(self, name) < 0:
                problems.append(f"--{name.replace('_', '-')} cannot be negative.")
        if problems:
            raise ConfigError(problems)


def choose_rows(
    log: EventLog,
    rows: Rows,
    filters: Filters,
    report: Report,
    spill: Path,
    unusable: Collection[str] = (),
) -> np.ndarray:
    """Say which rows are kept.

    Args:
        log: the interactions.
        rows: where they come from, for messages.
        filters: what is dropped.
        report: gets the counts and examples of what is dropped, and why.
        spill: folder for temporary files.
        unusable: items without a usable image, whose rows are dropped too.

    Returns:
        bool ``[rows]``.

    Raises:
        DataError: nothing is left, or duplicates are an error.
    """
    report.rows_read = log.rows
    keep = np.ones(log.rows, dtype=bool)
    for reason, bad in (
        ("no user", lambda events: events.user == NONE),
        ("no item", lambda events: events.item == NONE),
        ("no usable time", lambda events: is_missing(events.time)),
    ):
        _drop(log, keep, bad, reason, report, rows)
    if unusable:
        tokens = log.items.tokens(np.arange(len(log.items)))
        without = np.append(tokens.is_in(list(unusable)).to_numpy(), False)
        _drop(
            log,
            keep,
            lambda events: without[np.minimum(events.item, len(tokens))],
            NO_IMAGE,
            report,
            rows,
        )
    if filters.duplicates != "keep" and keep.any():
        _drop_duplicates(log, keep, filters.duplicates, report, rows, spill)
    _core(log, keep, filters.min_user_inter, filters.min_item_inter, report)
    if filters.last_n and keep.any():
        _newest(log, keep, filters.last_n, report, spill)
    if not keep.any():
        reasons = ", ".join(f"{reason}: {count}" for reason, count in report.dropped.items())
        raise DataError(
            f"{report.source}: no interaction is left of {report.rows_read} ({reasons}). Check the "
            "columns (--user-field, --item-field, --time-field) and the minimum numbers."
        )
    return keep


def _drop(
    log: EventLog,
    keep: np.ndarray,
    bad: Callable[[Events], np.ndarray],
    reason: str,
    report: Report,
    rows: Rows,
) -> None:
    count, examples = 0, []
    for events in log.chunks():
        part = keep[events.row : events.row + len(events.user)]
        found = np.flatnonzero(bad(events) & part)
        part[found] = False
        count += len(found)
        examples += (events.row + found[: _EXAMPLES - len(examples)]).tolist()
    if count:
        report.dropped[reason] = count
        report.examples[reason] = [rows.place(row) for row in examples]


def _drop_duplicates(
    log: EventLog, keep: np.ndarray, choice: str, report: Report, rows: Rows, spill: Path
) -> None:
    first_again: int | None = None
    pairs = again_in_time = 0
    drop = np.zeros(len(keep), dtype=bool)
    for block in by_user(log, Numbering.of(log, keep), spill):
        pair = block.pair
        order = np.argsort(pair, kind="stable")  # of one pair by time and row
        same = pair[order][1:] == pair[order][:-1]
        pairs += int(same.sum())
        again_in_time += int((same & (np.diff(block.time[order]) == 0)).sum())
        later, earlier = order[1:][same], order[:-1][same]
        drop[block.row[later if choice == "first" else earlier]] = True
        if choice == "error" and len(later):
            row = _first_repeat(block.row, pair)
            first_again = row if first_again is None else min(first_again, row)
    report.repeated_pairs, report.repeated_rows = pairs, again_in_time
    if first_again is not None:
        events = next(e for e in log.chunks() if e.row + len(e.user) > first_again)
        at = first_again - events.row
        user, item = log.users.tokens(events.user[[at]])[0], log.items.tokens(events.item[[at]])[0]
        raise DataError(
            f"{rows.path}: {pairs} rows repeat a user and item, the first in "
            f'{rows.place(first_again)} (user "{user}", item "{item}"). Choose with --duplicates '
            "whether to keep all, the first or the last."
        )
    if pairs:
        report.dropped["same user and item again"] = int(drop.sum())
        keep &= ~drop


def _first_repeat(row: np.ndarray, pair: np.ndarray) -> int:
    """The first row of the file whose pair stands in an earlier row."""
    order = np.lexsort((row, pair))
    same = pair[order][1:] == pair[order][:-1]
    return int(row[order[1:][same]].min())


def _core(log: EventLog, keep: np.ndarray, min_user: int, min_item: int, report: Report) -> None:
    if min_user <= 1 and min_item <= 1:
        return
    before, rows, rounds = None, int(keep.sum()), 0
    while True:
        users = np.zeros(len(log.users), dtype=np.int64)
        items = np.zeros(len(log.items), dtype=np.int64)
        for events in log.chunks():
            part = keep[events.row : events.row + len(events.user)]
            np.add.at(users, events.user[part], 1)
            np.add.at(items, events.item[part], 1)
        found = (int((users > 0).sum()), int((items > 0).sum()))
        before = before or found
        if not (
            ((users > 0) & (users < min_user)).any() or ((items > 0) & (items < min_item)).any()
        ):
            break
        rounds += 1
        for events in log.chunks():
            part = keep[events.row : events.row + len(events.user)]
            at = np.flatnonzero(part)
            part[at] = (users[events.user[at]] >= min_user) & (items[events.item[at]] >= min_item)
    if dropped := rows - int(keep.sum()):
        report.dropped[OUTSIDE] = dropped
    report.core = (
        f"users >= {min_user}, items >= {min_item} interactions; {rounds} round"
        f"{'' if rounds == 1 else 's'}, {before[0] - found[0]:,} users and "
        f"{before[1] - found[1]:,} items dropped"
    )


def _newest(log: EventLog, keep: np.ndarray, count: int, report: Report, spill: Path) -> None:
    dropped = 0
    for block in by_user(log, Numbering.of(log, keep), spill):
        _, start, length = np.unique(block.user, return_index=True, return_counts=True)
        left = np.repeat(start + length, length) - np.arange(len(block.user))
        old = block.row[left > count]
        keep[old] = False
        dropped += len(old)
    if dropped:
        report.dropped[f"older than the user's newest {count}"] = dropped
