"""Kept interactions of a log -> ``<name>.inter``, ``prepared/histories`` and their counts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl

from recbole_morec.convert._events import ITEM_FIELD, TIME_FIELD, USER_FIELD, Found
from recbole_morec.convert.report import Report, length_histogram
from recbole_morec.data.by_user import Numbering, UserBlock
from recbole_morec.data.inter import InterWriter
from recbole_morec.data.prepared import write_prepared


def write_interactions(path: Path, found: Found, numbering: Numbering, report: Report) -> str:
    """Write the text file and its prepared form beside it.

    Args:
        path: of the ``.inter`` file, in the order of the source's rows.
        found: the interactions.
        numbering: which of them.
        report: gets the counts.

    Returns:
        The SHA-256 of the text file.
    """
    log = found.log
    extra = dict.fromkeys(found.extra, "float")
    with InterWriter(path, USER_FIELD, ITEM_FIELD, TIME_FIELD, extra) as writer:
        for events in log.chunks():
            rows = slice(None)
            if numbering.keep is not None:
                rows = numbering.keep[events.row : events.row + len(events.user)]
            columns = {
                "user": log.users.tokens(events.user[rows]),
                "item": log.items.tokens(events.item[rows]),
                "time": events.time[rows],
            }
            values = log.extra_values(events.row, len(events.user)) if extra else {}
            for name, whole in found.extra.items():
                numbers = pl.Series(values[name][rows]).fill_nan(None)
                columns[name] = numbers.cast(pl.Int64) if whole else numbers
            # Every id was checked when it was read, which is cheaper than every row.
            writer.write(pl.DataFrame(columns), checked=True)
    counts = _Counts()
    fields = {"user": USER_FIELD, "item": ITEM_FIELD, "time": TIME_FIELD}
    write_prepared(
        path.parent / "prepared" / "histories",
        log,
        numbering,
        path,
        fields,
        writer.sha256,
        counts.add,
    )
    counts.report(numbering, report)
    return writer.sha256


class _Counts:
    """Counts over all users' interactions, block by block."""

    def __init__(self) -> None:
        self.rows = 0
        self.repeated_pairs = 0
        self.repeated_rows = 0
        self.tied_rows = 0
        self.tied_users = 0
        self.lengths: Counter[int] = Counter()

    def add(self, block: UserBlock) -> None:
        user, time = block.user, block.time
        if len(user) == 0:
            return
        new_user = np.append(True, user[1:] != user[:-1])
        lengths = np.diff(np.append(np.flatnonzero(new_user), len(user)))
        found, users = np.unique(lengths, return_counts=True)
        self.lengths.update(dict(zip(found.tolist(), users.tolist(), strict=True)))
        self.rows += len(user)

        as_before = ~new_user[1:] & (time[1:] == time[:-1])
        tied = np.append(False, as_before) | np.append(as_before, False)
        self.tied_rows += int(tied.sum())
        self.tied_users += len(np.unique(user[tied]))

        if again := block.repeats:
            self.repeated_pairs += again
            pair = block.pair
            order = np.argsort(pair, kind="stable")  # of one pair by time
            same = (pair[order][1:] == pair[order][:-1]) & (np.diff(time[order]) == 0)
            self.repeated_rows += int(same.sum())

    def report(self, numbering: Numbering, report: Report) -> None:
        users = len(numbering.user_counts) - 1
        report.rows_kept, report.users, report.items = self.rows, users, numbering.items
        report.tied_rows, report.tied_users = self.tied_rows, self.tied_users
        if not report.repeated_pairs:  # else counted before some of them were dropped
            report.repeated_pairs = self.repeated_pairs
            report.repeated_rows = self.repeated_rows
        report.mean_length = self.rows / users
        report.longest = max(self.lengths)
        report.lengths = length_histogram(self.lengths)
