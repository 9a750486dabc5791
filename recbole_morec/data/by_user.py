"""Interactions of a log, user by user in time order: an external sort in bounded memory."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recbole_morec.data.event_log import EventLog, Events
from recbole_morec.data.line_blocks import prefetched

BLOCK_ROWS = 1 << 22
_MOST_BLOCKS = 256


@dataclass(frozen=True)
class UserBlock:
    """All interactions of some consecutive users, sorted stably by (user, time, row).

    Attributes:
        user, item: int64 and int32 ``[n]``, as numbered by the :class:`Numbering`.
        time: int64 or float64 ``[n]``.
        row: int64 ``[n]``, the row in the log.
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    row: np.ndarray

    @functools.cached_property
    def pair(self) -> np.ndarray:
        """One number for user and item, int64 ``[n]``."""
        if len(self.user) == 0:
            return self.user
        return (self.user - self.user[0]) * (int(self.item.max()) + 1) + self.item

    @functools.cached_property
    def repeats(self) -> int:
        """Number of rows whose user and item occur in another row before."""
        pair = np.sort(self.pair)
        return int((pair[1:] == pair[:-1]).sum())


@dataclass(frozen=True)
class Numbering:
    """Which rows of a log count, and internal ids (from 1) for its users and items.

    Args:
        keep: ``[rows]`` bool, or ``None`` for all rows.
        user_ids, item_ids: internal id by number of the log, int32, 0 where none is left; ``None``
            = number + 1.
        user_counts: rows by internal user id, int64 ``[U + 1]``, id 0 has none.
        items: number of items.
    """

    keep: np.ndarray | None
    user_ids: np.ndarray | None
    item_ids: np.ndarray | None
    user_counts: np.ndarray
    items: int

    @classmethod
    def of(cls, log: EventLog, keep: np.ndarray | None = None) -> Numbering:
        """Number users and items by first appearance among the rows that are kept.

        A missing user or item (``NONE``) must not be in a row that is kept.
        """
        if keep is None or keep.all():
            counts = np.zeros(len(log.users) + 1, dtype=np.int64)
            for events in log.chunks():
                np.add.at(counts, events.user.astype(np.int64) + 1, 1)
            return cls(None, None, None, counts, len(log.items))
        first_user = np.full(len(log.users), log.rows, dtype=np.int64)
        first_item = np.full(len(log.items), log.rows, dtype=np.int64)
        for events in log.chunks():
            rows = np.flatnonzero(keep[events.row : events.row + len(events.user)])
            for first, numbers in (
                (first_user, events.user[rows]),
                (first_item, events.item[rows]),
            ):
                unseen = first[numbers] == log.rows
                # Of several assignments the last one stays, so backwards the first row does.
                first[numbers[unseen][::-1]] = (events.row + rows[unseen])[::-1]
        user_ids, item_ids = _by_first(first_user, log.rows), _by_first(first_item, log.rows)
        counts = np.zeros(int(user_ids.max(initial=0)) + 1, dtype=np.int64)
        for events in log.chunks():
            rows = keep[events.row : events.row + len(events.user)]
            np.add.at(counts, user_ids[events.user[rows]], 1)
        return cls(keep, user_ids, item_ids, counts, int(item_ids.max(initial=0)))

    def user_id(self, numbers: np.ndarray) -> np.ndarray:
        """Internal ids of users, int64."""
        if self.user_ids is None:
            return numbers.astype(np.int64) + 1
        return self.user_ids[numbers].astype(np.int64)

    def item_id(self, numbers: np.ndarray) -> np.ndarray:
        """Internal ids of items, int32."""
        if self.item_ids is None:
            return (numbers + np.uint32(1)).astype(np.int32)
        return self.item_ids[numbers]

    @property
    def user_numbers(self) -> np.ndarray:
        """Numbers of the log by internal user id, from id 1."""
        return _numbers(self.user_ids, len(self.user_counts) - 1)

    @property
    def item_numbers(self) -> np.ndarray:
        """Numbers of the log by internal item id, from id 1."""
        return _numbers(self.item_ids, self.items)


def _by_first(first: np.ndarray, rows: int) -> np.ndarray:
    order = np.argsort(first, kind="stable")
    kept = int((first < rows).sum())
    ids = np.zeros(len(first), dtype=np.int32)
    ids[order[:kept]] = np.arange(1, kept + 1, dtype=np.int32)
    return ids


def _numbers(ids: np.ndarray | None, count: int) -> np.ndarray:
    if ids is None:
        return np.arange(count, dtype=np.uint32)
    numbers = np.zeros(count, dtype=np.uint32)
    kept = np.flatnonzero(ids)
    numbers[ids[kept] - 1] = kept
    return numbers


def by_user(log: EventLog, numbering: Numbering, spill: Path) -> Iterator[UserBlock]:
    """Yield all users' interactions, each user's in one block, users ascending.

    Logs of more than :data:`BLOCK_ROWS` are split into files first, which are removed again; a
    block is sorted in a thread while the one before is used. A block has about that many rows, or
    all of one user who has more.

    Args:
        log: the interactions.
        numbering: which of them, under which ids.
        spill: folder for the files.
    """
    return prefetched(_sorted_blocks(log, numbering, spill))


def _sorted_blocks(log: EventLog, numbering: Numbering, spill: Path) -> Iterator[UserBlock]:
    kind = np.dtype(
        [("user", np.int32), ("item", np.int32), ("time", log.time_type), ("row", np.int64)]
    )
    total = int(numbering.user_counts.sum())
    block_rows = max(BLOCK_ROWS, -(-total // _MOST_BLOCKS))
    if total <= block_rows:
        records = [_records(events, numbering, kind) for events in log.chunks()]
        yield _sorted(np.concatenate(records) if records else np.empty(0, kind))
        return
    ends = np.cumsum(numbering.user_counts)
    block_of = ((ends - 1).clip(0) // block_rows).astype(np.uint16)
    spill.mkdir(parents=True, exist_ok=True)
    paths = [spill / f"users-{at}.bin" for at in range(int(block_of[-1]) + 1)]
    try:
        with ExitStack() as stack:
            files = [stack.enter_context(path.open("wb")) for path in paths]
            for events in log.chunks():
                records = _records(events, numbering, kind)
                block = block_of[records["user"]]
                records = records[np.argsort(block, kind="stable")]
                stops = np.cumsum(np.bincount(block, minlength=len(paths)))
                for file, part in zip(files, np.split(records, stops[:-1]), strict=True):
                    part.tofile(file)
        for path in paths:
            records = np.fromfile(path, dtype=kind)
            path.unlink()
            if len(records):
                yield _sorted(records)
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


def _records(events: Events, numbering: Numbering, kind: np.dtype) -> np.ndarray:
    rows = slice(None)
    if numbering.keep is not None:
        rows = numbering.keep[events.row : events.row + len(events.user)]
    user = numbering.user_id(events.user[rows])
    records = np.empty(len(user), dtype=kind)
    records["user"], records["item"] = user, numbering.item_id(events.item[rows])
    records["time"] = events.time[rows]
    records["row"] = np.arange(events.row, events.row + len(events.user))[rows]
    return records


def _sorted(records: np.ndarray) -> UserBlock:
    user, time = records["user"].astype(np.int64), records["time"].copy()
    order = _order(user, time)
    return UserBlock(user[order], records["item"][order], time[order], records["row"][order])


def _order(user: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Sort stably by (user, time); the records are in the order of the rows."""
    if len(user) == 0 or time.dtype.kind == "f":
        return np.lexsort((time, user))
    users, span = int(user.max() - user.min()), int(time.max()) - int(time.min())
    if users.bit_length() + span.bit_length() > 62:
        return np.lexsort((time, user))
    # One key in place of two is five times faster, though its sort is not stable: ties are put
    # into the order of their rows afterwards.
    key = (user - user.min() << span.bit_length()) | (time - time.min())
    order = np.argsort(key)
    key = key[order]
    same = np.zeros(len(key) + 1, dtype=bool)
    same[1:-1] = key[1:] == key[:-1]
    tied = np.flatnonzero(same[1:] | same[:-1])
    order[tied] = order[tied][np.lexsort((order[tied], key[tied]))]
    return order
