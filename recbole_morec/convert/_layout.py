"""Which column of a table of interactions is the user, the item and the time.

A header says it. Without one the columns themselves do: by the letter that their ids begin with, by
the published numbers of users and items, by how many of their ids stand in the item table, by
whether they look like times. What was decided goes into the report with its evidence; what cannot
be decided is an error, never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from recbole_morec.convert._events import EventColumns
from recbole_morec.convert._rows import Rows, first_record, open_rows, plain_name
from recbole_morec.convert._source import Counts, Options
from recbole_morec.convert._tables import find_column, need_column, without_missing
from recbole_morec.convert._times import UNITS, parse_dates
from recbole_morec.convert.report import Report
from recbole_morec.errors import DataError, suggest

USER_NAMES = (
    *("user", "user_id", "userid", "uid", "u", "reviewer_id", "reviewerid", "customer_id"),
    *("customerid", "visitor_id", "visitorid", "member_id", "session", "session_id", "sessionid"),
)
ITEM_NAMES = (
    *("item", "item_id", "itemid", "iid", "i", "product_id", "productid", "article_id"),
    *("articleid", "movie_id", "movieid", "video_id", "videoid", "news_id", "newsid", "book_id"),
    *("parent_asin", "asin", "sku", "isbn", "track_id", "song_id", "business_id", "movie", "video"),
)
TIME_NAMES = (
    *("timestamp", "time", "ts", "t", "unix_time", "unixtime", "unix_review_time", "date"),
    *("unixreviewtime", "datetime", "event_time", "created_at", "rated_at", "t_dat"),
)

_USER_LETTERS = "u"
_ITEM_LETTERS = "iv"
# A few items may be missing in the item table; a column of users is far from complete there.
_MOST = 0.99
_FEW = 0.9
# Of users that are bare numbers, as the items are; above it the table may be that of other items.
_HALF = 0.5


def open_interactions(
    path: Path,
    options: Options,
    items: pl.Series | None,
    report: Report,
    published: Counts | None = None,
    separator: str = ",",
) -> tuple[Rows, EventColumns]:
    """Open a table of interactions and find its columns.

    Args:
        path: a text file.
        options: with ``user_field``, ``item_field`` and ``time_field``, by name or, in a file
            without a header, by number from 1; ``header`` overrides what is found.
        items: ids of the item table, if there is one.
        report: gets the order of the columns and how it was found.
        published: numbers of the data set, if they are known.
        separator: of the file, where the options name none.

    Raises:
        DataError: naming the file and, where the columns cannot be told apart, the flags.
    """
    separator = options.delimiter or separator
    first = first_record(path, separator)
    header = options.header
    if header is None:
        # Numbers name columns by position, even where the first row holds the same numbers.
        given = {options.user_field, options.item_field}
        by_name = not any(field.isdigit() for field in given - {None})
        header = is_header(first) or (by_name and given <= {*first})
    if header:
        rows = open_rows(path, separator=separator)
        columns = named_columns(rows, options)
        roles = {columns.user: "user", columns.item: "item", columns.time: "time"}
        why = "as the header says"
    else:
        names = [f"column {number}" for number in range(1, len(first) + 1)]
        rows = open_rows(path, names, separator)
        found = _Decision(rows, first, items, options, published)
        columns = EventColumns(
            found.roles["user"], found.roles["item"], found.roles.get("time"), options.time_unit
        )
        roles = {column: role for role, column in found.roles.items()}
        why = "; ".join(found.evidence)
    order = ",".join(roles.get(column, "-") for column in rows.columns)
    report.detected["column order"] = f"{order} ({why})"
    return rows, columns


def is_header(cells: Sequence[str]) -> bool:
    """Whether cells name a column of users and one of items."""
    names = {plain_name(cell) for cell in cells}
    return bool(names & {*USER_NAMES}) and bool(names & {*ITEM_NAMES})


def names_items(cells: Sequence[str]) -> bool:
    """Whether the first cells of an item table name its columns: one is called like an item."""
    return any(plain_name(cell) in ITEM_NAMES for cell in cells if len(cell) > 1)


def names_users(cell: str) -> bool:
    """Whether the first cell of a behaviour file names the column of users."""
    return len(cell) > 1 and plain_name(cell) in USER_NAMES


def named_columns(rows: Rows, options: Options) -> EventColumns:
    """The columns of a file with a header: those that the user names, or with usual names.

    Where no column is called like a time, the only one that holds dates is it. Numbers are not
    looked at: those of orders can be as large as a time.

    Raises:
        DataError: a column is not there, or has two roles; several hold dates.
    """
    user = need_column(rows, "user", options.user_field, USER_NAMES, "--user-field")
    item = need_column(rows, "item", options.item_field, ITEM_NAMES, "--item-field")
    time = find_column(rows, options.time_field, TIME_NAMES, "--time-field")
    time = time or _column_of_dates(rows, {user, item})
    if len({user, item, time}) < 3:
        raise DataError(f'{rows.path}: "{user}", "{item}" and "{time}" must be different columns.')
    return EventColumns(user, item, time, options.time_unit)


def _column_of_dates(rows: Rows, taken: set[str]) -> str | None:
    block = next(rows.blocks(), None)
    if block is None:
        return None
    free = [name for name in rows.columns if name not in taken]
    found = [name for name in free if _holds_dates(block[name])]
    if len(found) > 1:
        raise DataError(
            f"{rows.path}: {' and '.join(found)} hold dates; say which is the time of an "
            "interaction with --time-field."
        )
    return found[0] if found else None


def _holds_dates(column: pl.Series) -> bool:
    values = without_missing(column.cast(pl.String)).drop_nulls()
    if len(values) == 0 or values.cast(pl.Float64, strict=False).null_count() < len(values):
        return False
    return parse_dates(values).count() >= _MOST * len(values)


@dataclass(frozen=True)
class _Column:
    """What the values of a column look like.

    Attributes:
        ids: number of distinct values.
        letter: that all of them begin with, before digits; "" = all are bare numbers, ``None`` =
            neither.
        known: how many are ids of the item table.
        times: whether they look like times.
    """

    ids: int
    letter: str | None
    known: int
    times: bool


class _Decision:
    """The roles of the columns of a file without a header, and the evidence for them."""

    def __init__(
        self,
        rows: Rows,
        first: Sequence[str],
        items: pl.Series | None,
        options: Options,
        published: Counts | None,
    ):
        self._rows = rows
        self._items = items
        self._published = published
        self.roles: dict[str, str] = {}
        self.evidence: list[str] = []
        for role in ("user", "item", "time"):
            given = getattr(options, f"{role}_field")
            if given is not None:
                self.roles[role] = self._by_flag(given, f"--{role}-field")
                self.evidence.append(f"{role} as --{role}-field says")
        if len({*self.roles.values()}) < len(self.roles):
            raise DataError(
                f"{rows.path}: --user-field, --item-field and --time-field must name different "
                "columns."
            )
        blocks = rows.blocks()
        block = next(blocks)
        self._whole = next(blocks, None) is None
        if not self._whole:
            self.evidence.append(f"by the first {block.height:,} rows")
        self._looks = {name: _look(block[name], items) for name in rows.columns}
        if options.header is None:
            self._reject_header(block, first)
        self._find_time()
        self._find_ids()

    def _by_flag(self, given: str, flag: str) -> str:
        name = f"column {given}" if given.isdigit() else given
        if name not in self._rows.columns:
            raise DataError(
                f'{self._rows.path}: there is no column "{given}" ({flag}).'
                f"{suggest(given, self._rows.columns)} The first line names no columns, so give "
                f"the number of one, 1 to {len(self._rows.columns)}."
            )
        return name

    def _reject_header(self, block: pl.DataFrame, first: Sequence[str]) -> None:
        """Raise if the first line seems to name the columns, in words that we do not know."""
        for name, cell in zip(self._rows.columns, first, strict=True):
            below = block[name].slice(1).str.contains(r"^\s*[A-Za-z]?\d+(\.\d+)?\s*$")
            if len(below) and below.all() and re.fullmatch(r"\s*[A-Za-z_]{2,}\s*", cell):
                raise DataError(
                    f"{self._rows.path} line 1: {', '.join(first)} seem to be names of columns, "
                    "but which is the user, the item and the time is not clear. Name them with "
                    "--user-field, --item-field and --time-field."
                )

    def _free(self) -> list[str]:
        return [name for name in self._rows.columns if name not in self.roles.values()]

    def _find_time(self) -> None:
        if "time" in self.roles or len(self._rows.columns) < 3:
            return
        times = [name for name in self._free() if self._looks[name].times]
        if not times and {"user", "item"} <= {*self.roles}:
            self.evidence.append("no column looks like times")
            return
        if len(times) != 1:
            found = f"{' and '.join(times)} look" if times else "no column looks"
            flags = "--time-field"
            if not times:
                flags += " (where there are none, with --user-field and --item-field)"
            raise self._unclear(f"{found} like times", flags)
        self.roles["time"] = times[0]
        self.evidence.append(f"{times[0]} looks like times")

    def _find_ids(self) -> None:
        if "user" in self.roles and "item" in self.roles:
            return
        free = self._free()
        for role, other in (("user", "item"), ("item", "user")):
            if role in self.roles:
                if len(free) != 1:
                    raise self._unclear(f"{' and '.join(free)} are left", f"--{other}-field")
                self.roles[other] = free[0]
                return
        if self._by_letter(free):
            return
        self._look_at_all(free)
        if not (self._by_published(free) or self._by_items(free)):
            flags = "--user-field and --item-field"
            if self._items is None:
                raise self._unclear("there is no item table to compare their ids with", flags)
            known = ", ".join(
                f"{self._looks[name].known:,} of {self._looks[name].ids:,} ids of {name}"
                for name in free
            )
            raise self._unclear(f"the item table holds {known}", flags)

    def _by_letter(self, free: list[str]) -> bool:
        letters = {name: self._looks[name].letter for name in free}
        users = [name for name in free if letters[name] and letters[name] in _USER_LETTERS]
        items = [name for name in free if letters[name] and letters[name] in _ITEM_LETTERS]
        if len(users) > 1 or len(items) > 1 or not (users or items):
            return False
        rest = [name for name in free if name not in users + items]
        if not (users and items) and len(rest) != 1:
            return False
        self.roles |= {"user": (users or rest)[0], "item": (items or rest)[0]}
        said = [f'ids of {name} begin with "{letters[name]}"' for name in users + items]
        self.evidence.append(", ".join(said))
        return True

    def _look_at_all(self, free: list[str]) -> None:
        """Look at the ids of all rows, where only the first ones were looked at."""
        if self._whole:
            return
        ids = {name: pl.Series(name, dtype=pl.String) for name in free}
        for block in self._rows.blocks():
            ids = {name: pl.concat([ids[name], block[name]]).unique() for name in free}
        self._looks |= {name: _look(ids[name], self._items) for name in free}
        self.evidence.append("ids by all rows")

    def _by_published(self, free: list[str]) -> bool:
        """Where there are exactly as many users and items as the data set has."""
        counts = self._published
        if counts is None or counts.users == counts.items or len(free) != 2:
            return False
        for user, item in (free, free[::-1]):
            if (self._looks[user].ids, self._looks[item].ids) == (counts.users, counts.items):
                self.roles |= {"user": user, "item": item}
                self.evidence.append(
                    f"{counts.items:,} ids of {item} and {counts.users:,} of {user}, as published"
                )
                return True
        return False

    def _by_items(self, free: list[str]) -> bool:
        """Where the ids of one column are in the item table and those of the other are not.

        Bare numbers are in the table by chance, too: of a table of half of the items, numbered from
        1, all users can be "items". There it takes a table of all items and no others.
        """
        if self._items is None:
            return False
        share = {name: self._looks[name].known / max(1, self._looks[name].ids) for name in free}
        items = [name for name in free if share[name] >= _MOST]
        users = [name for name in free if share[name] <= _FEW]
        if len(items) != 1 or len(users) != 1:
            return False
        (user,), (item,) = users, items
        complete = (
            self._looks[item].ids == self._looks[item].known == self._items.drop_nulls().n_unique()
        )
        numbers = self._looks[user].letter == self._looks[item].letter == ""
        if numbers and not (complete and share[user] <= _HALF):
            return False
        self._take(user, item)
        return True

    def _take(self, user: str, item: str) -> None:
        self.roles |= {"user": user, "item": item}
        for name, what in ((item, "are items"), (user, "are")):
            look = self._looks[name]
            count = (
                f"all {look.ids:,}" if look.known == look.ids else f"{look.known:,} of {look.ids:,}"
            )
            self.evidence.append(f"{count} ids of {name} {what}")

    def _unclear(self, what: str, flags: str) -> DataError:
        shown = ", ".join(self._rows.columns)
        return DataError(
            f"{self._rows.path}: the first line names no columns, and which of {shown} is the "
            f"user, the item and the time cannot be told: {what}. Say it with {flags} and the "
            "number of the column, such as --item-field 1."
        )


def _look(column: pl.Series, items: pl.Series | None) -> _Column:
    ids = without_missing(column).drop_nulls().unique()
    letters = ids.str.extract(r"^([A-Za-z]?)\d+$").unique()
    letter = letters[0] if len(letters) == 1 else None
    known = 0 if items is None else int(ids.is_in(items.implode()).sum())
    numbers = ids.cast(pl.Float64, strict=False)
    fitting = max(
        int(((numbers >= low) & (numbers < high)).fill_null(False).sum())
        for low, high in UNITS.values()
    )
    unix = len(ids) > 0 and fitting >= _MOST * len(ids)
    return _Column(len(ids), letter, known, unix or _holds_dates(ids))
