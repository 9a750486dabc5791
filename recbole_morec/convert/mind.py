"""``recbole-morec convert mind``: the official MIND release (small, large, demo).

Layout (https://learn.microsoft.com/azure/open-datasets/dataset-microsoft-news and
https://github.com/msnews/msnews.github.io, assets/doc/introduction.md): folders
``MINDsmall_train``, ``MINDsmall_dev``, ``MINDlarge_test``, ... each with two tab-separated files
without a header and without quoting. ``behaviors.tsv``: impression, user, time
(``11/11/2019 9:05:58 AM``), history (news clicked before, by blanks, oldest first), impressions
(``N55689-1 N35729-0``: shown and clicked, shown and not clicked; without labels in the test
split). ``news.tsv``: news, category, subcategory, title, abstract, url, title entities, abstract
entities.

What becomes an interaction:

1. The history of a user's first impression (earliest time; of equal times the first line, train
   before dev before test). It has no times of its own: the last of its n news is set one second
   before that impression, the one before two seconds, the oldest n seconds. So they come first, in
   their order. The histories of his later impressions are not read again; what stands in them
   alone is counted.
2. Every clicked news of every impression, at the time of the impression. Clicks of one impression
   share their time and keep the order in which they are listed.

News that were shown and not clicked are no interactions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from recbole_morec.convert._events import EventColumns
from recbole_morec.convert._find_images import find_images, name_in
from recbole_morec.convert._rows import LineRows, Rows
from recbole_morec.convert._search import choose_variant, files_below
from recbole_morec.convert._source import Counts, Options, Source
from recbole_morec.convert._spread import LineNumbers, SeveralRows
from recbole_morec.convert._tables import Table, table_of, without_missing
from recbole_morec.convert._times import TimeColumn
from recbole_morec.convert.report import Report
from recbole_morec.data.event_log import is_missing
from recbole_morec.data.line_blocks import Block, line_blocks
from recbole_morec.data.tokens import NONE, TokenNumbers
from recbole_morec.errors import DataError, counted

CITATION = "Wu et al., MIND: A Large-scale Dataset for News Recommendation, ACL 2020"
READS = ("images", "variant")
# introduction.md: 1 million users, of which the small version samples 50,000 (for each of its two
# splits; together they have more).
PUBLISHED = {
    ("MINDlarge", ("train", "dev", "test")): Counts(users=1_000_000),
    ("MINDsmall", ("train",)): Counts(users=50_000),
    ("MINDsmall", ("dev",)): Counts(users=50_000),
}

_SPLITS = ("train", "dev", "test")
_BEHAVIOURS = ("impression", "user", "time", "history", "impressions")
_NEWS = (
    *("item", "category", "subcategory", "title", "abstract"),
    *("url", "title entities", "abstract entities"),
)
_NO_TIME = np.iinfo(np.int64).max


def find(options: Options, report: Report) -> Source:
    """Find the splits of a release.

    Raises:
        DataError: there is no behaviors.tsv, or those of several releases; a file is broken.
    """
    found = _splits(options.input)
    name = choose_variant(found, options, "behaviors.tsv in MINDsmall_train or the like")
    splits = found[name]
    report.detected["data set"] = f"{name} ({', '.join(splits)})"
    rows = ImpressionRows(options.input, [folder / "behaviors.tsv" for folder in splits.values()])
    report.detected["interactions"] = rows.form
    report.detected["user, item, time"] = (
        f"columns 2, 4 and 5, 3 of behaviors.tsv; histories of the first impressions of "
        f"{rows.users:,} users, and clicks (-1); times {rows.times}, of histories set one second "
        "apart before the first impression"
    )
    if rows.unlabelled:
        report.notes.append(
            f"{counted(rows.unlabelled, 'news shown has', 'news shown have')} no label (-0 or -1), "
            "as in the test split: no click."
        )
    if rows.only_later:
        pairs, users = rows.only_later
        report.notes.append(
            f"Only later histories hold {counted(pairs, 'news', 'news')} of "
            f"{counted(users, 'user')}: not in the first one, and not clicked in an impression. "
            "When they were read is not known; they are no interactions."
        )
    items = _open_news(options, splits, report)
    return Source(
        rows,
        EventColumns("user", "item", "time"),
        items,
        "item" if items is not None else None,
        find_images(options, report, (options.input,), ("images",)),
        ["title"],
        "pixelrec",
        PUBLISHED.get((name, tuple(splits))),
        CITATION,
    )


def _splits(folder: Path) -> dict[str, dict[str, Path]]:
    """Release -> split -> folder, the splits in the order of time."""
    found: dict[str, dict[str, Path]] = {}
    for path in files_below(folder):
        if path.name != "behaviors.tsv":
            continue
        where = path.parent.absolute()
        match = re.fullmatch(r"(MIND[a-z]+)[_-](train|dev|test)", where.name)
        split = where.name if where.name in _SPLITS else "dev" if where.name == "valid" else ""
        if match:
            name, split = match[1], match[2]
        elif split:
            size = re.match(r"MIND[a-z]+", where.parent.name)
            name = size.group() if size else "MIND"
        else:
            name, split = "MIND", where.name
        if split in found.setdefault(name, {}):
            raise DataError(
                f"{folder}: {name} has its {split} split twice, in {found[name][split]} and in "
                f"{path.parent}. Remove one."
            )
        found[name][split] = path.parent
    order = {split: at for at, split in enumerate(_SPLITS)}
    return {
        name: dict(sorted(splits.items(), key=lambda pair: order.get(pair[0], 0)))
        for name, splits in found.items()
    }


class ImpressionRows(Rows):
    """First histories and clicks of the impressions of several files; see the module.

    Attributes:
        users: number of users.
        unlabelled: news shown without a label.
        only_later: news (once per user) that stand in later histories alone, and their users;
            ``None`` if there are none.
        times: how the times are written.
    """

    def __init__(self, folder: Path, paths: Sequence[Path]):
        files = ", ".join(name_in(path, folder) for path in paths)
        super().__init__(folder, ("user", "item", "time"), f"{files} (tab-separated, no header)")
        self._paths = list(paths)
        self._parts: list[tuple[int, Path, LineNumbers]] = []
        self.unlabelled = 0
        self._first, users, first_history = self._first_impressions()
        self.users = len(users)
        self.only_later = self._count_later(users, first_history)

    def blocks(self) -> Iterator[pl.DataFrame]:
        self._parts = []
        rows = impression = 0
        times = TimeColumn("behaviors.tsv", american=True)
        for path in self._paths:
            lines = LineNumbers()
            self._parts.append((rows, path, lines))
            for block in _blocks(path):
                frame = self._spread(block, impression, times, lines)
                impression += block.frame.height
                rows += frame.height
                if frame.height:
                    yield frame

    def place(self, row: int) -> str:
        start, path, lines = next(part for part in reversed(self._parts) if part[0] <= row)
        return f"{name_in(path, self.path)} line {lines.line(row - start)}"

    def _spread(
        self, block: Block, before: int, times: TimeColumn, lines: LineNumbers
    ) -> pl.DataFrame:
        """The interactions of some impressions, by impression, its history first."""
        frame = block.frame
        count = frame.height
        time = times.read(frame["time"])
        is_first = self._is_first(before, count)
        history = _words(frame["history"].set(pl.Series(~is_first), None))
        clicks = _clicks(frame)
        old, new = _lengths(history), _lengths(clicks)
        lines.add(block.line, old + new)
        line = np.concatenate([np.repeat(np.arange(count), old), np.repeat(np.arange(count), new)])
        left = np.repeat(np.cumsum(old), old) - np.arange(old.sum())
        left = np.concatenate([left, np.zeros(new.sum(), dtype=left.dtype)])
        item = pl.concat([_exploded(history, old), _exploded(clicks, new)])
        order = np.argsort(line, kind="stable")
        line, left = line[order], left[order]
        stamp = pl.Series(time[line] - left)
        stamp = stamp.set(pl.Series(is_missing(time)[line]), None)
        return pl.DataFrame(
            {
                "user": frame["user"].gather(line),
                "item": item.gather(order),
                "time": stamp.cast(pl.String),
            }
        )

    def _is_first(self, before: int, count: int) -> np.ndarray:
        """Which of some impressions are their user's first (bool)."""
        return np.isin(np.arange(before, before + count), self._first, assume_unique=True)

    def _count_later(
        self, users: TokenNumbers, first_history: np.ndarray
    ) -> tuple[int, int] | None:
        """Count what stands in later histories alone; takes 8 bytes per interaction.

        Args:
            users: their numbers.
            first_history: checksum of the first history by user; most later ones are the same.
        """
        items = TokenNumbers()
        kept: list[np.ndarray] = []
        later: list[np.ndarray] = []

        def pairs(user: np.ndarray, lists: pl.Series, rows: np.ndarray) -> np.ndarray:
            lists = lists.filter(pl.Series(rows))
            lengths = _lengths(lists)
            item = items.number(_exploded(lists, lengths)).astype(np.int64)
            return np.repeat(user[rows], lengths) << 32 | item

        impression = 0
        for path in self._paths:
            for block in _blocks(path):
                frame = block.frame
                user = users.number(without_missing(frame["user"])).astype(np.int64)
                named = user != NONE
                is_first = self._is_first(impression, frame.height)
                impression += frame.height
                other = named & ~is_first
                other[other] = _checksums(frame)[other] != first_history[user[other]]
                history = _words(frame["history"])
                kept.append(pairs(user, history, is_first))
                kept.append(pairs(user, _clicks(frame), named))
                later.append(pairs(user, history, other))
        alone = np.setdiff1d(np.concatenate(later), np.concatenate(kept))
        return (len(alone), len(np.unique(alone >> 32))) if len(alone) else None

    def _first_impressions(self) -> tuple[np.ndarray, TokenNumbers, np.ndarray]:
        """Find the impressions that are their user's first.

        Returns:
            Their numbers, from 0 over all files; the users; by user, a checksum of its history.
        """
        users = TokenNumbers()
        best = np.full(1024, _NO_TIME, dtype=np.int64)
        row = np.full(1024, -1, dtype=np.int64)
        history = np.zeros(1024, dtype=np.uint64)
        impression = 0
        times = TimeColumn(f"{self._paths[0].name} column 3", american=True)
        starts: list[tuple[int, Path]] = []
        for path in self._paths:
            starts.append((impression, path))
            for block in _blocks(path):
                frame = block.frame
                time = times.read(frame["time"])
                time = np.where(is_missing(time), _NO_TIME, time)
                numbers = users.number(without_missing(frame["user"]))
                while len(users) > len(best):
                    best = np.append(best, np.full(len(best), _NO_TIME, dtype=np.int64))
                    row = np.append(row, np.full(len(row), -1, dtype=np.int64))
                    history = np.append(history, np.zeros_like(history))
                here = np.flatnonzero(numbers != NONE)
                # Of each user of this block the earliest impression, of equal times the first.
                order = here[np.lexsort((here, time[here], numbers[here]))]
                number = numbers[order]
                first = order[np.append(True, number[1:] != number[:-1])[: len(order)]]
                number = numbers[first]
                better = (time[first] < best[number]) | (row[number] < 0)
                best[number[better]] = time[first[better]]
                row[number[better]] = impression + first[better]
                history[number[better]] = _checksums(frame)[first[better]]
                shown = frame["impressions"].fill_null("")
                self.unlabelled += int(
                    shown.str.count_matches(r"\S+").sum()
                    - shown.str.count_matches(r"-[01](?:\s|$)").sum()
                )
                impression += frame.height
        if impression == 0:
            raise DataError(f"{self._paths[0]}: there is not one line in it.")

        def place(row: int) -> str:
            start, path = next(each for each in reversed(starts) if each[0] <= row)
            return f"{path} line {row - start + 1}"

        self.times = times.finish(place)
        return np.sort(row[: len(users)]), users, history


def _blocks(path: Path) -> Iterator[Block]:
    return line_blocks(path, _BEHAVIOURS, header=False)


def _checksums(frame: pl.DataFrame) -> np.ndarray:
    return frame["history"].fill_null("").hash().to_numpy()


def _clicks(frame: pl.DataFrame) -> pl.Series:
    clicked = pl.element().filter(pl.element().str.ends_with("-1")).str.head(-2)
    return _words(frame["impressions"]).list.eval(clicked)


def _words(text: pl.Series) -> pl.Series:
    return text.str.split(" ").list.eval(pl.element().filter(pl.element() != ""))


def _lengths(lists: pl.Series) -> np.ndarray:
    return lists.list.len().fill_null(0).to_numpy().astype(np.int64)


def _exploded(lists: pl.Series, lengths: np.ndarray) -> pl.Series:
    return lists.filter(pl.Series(lengths > 0)).explode().cast(pl.String)


def _open_news(options: Options, splits: dict[str, Path], report: Report) -> Table | None:
    paths = [folder / "news.tsv" for folder in splits.values()]
    missing = [path for path in paths if not path.is_file()]
    if len(missing) == len(paths):
        report.detected["items"] = "no news.tsv"
        return None
    if missing:
        names = ", ".join(str(path) for path in missing)
        raise DataError(f"{names}: not found beside its behaviors.tsv. Put it there.")
    form = "tab-separated, no header"
    parts = [LineRows(path, _NEWS, "\t", form, header=False) for path in paths]
    rows = parts[0] if len(parts) == 1 else SeveralRows(options.input, parts)
    table = table_of(rows)
    table.frame = table.frame.select("item", "title", "abstract", "category", "subcategory")
    files = ", ".join(name_in(path, options.input) for path in paths)
    report.detected["items"] = f"{files} ({form})"
    report.notes.append("Columns of news.tsv not taken over: url, title and abstract entities.")
    if len(parts) > 1:
        report.notes.append("News stand in the news.tsv of several splits; the first row counts.")
    return table
