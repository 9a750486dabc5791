"""What a conversion found, kept and dropped: as data (JSON) and as a table to read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

_BUCKETS = (1, 2, 3, 4, 5, 10, 20, 50, 100, 200)


@dataclass
class Report:
    """Counts of a conversion. ``None`` means that the question did not arise.

    Attributes:
        name, source, output: the dataset's name, the source folder, the folder written.
        detected: what was found out about the source, question -> answer.
        rows_read, rows_kept: interactions.
        dropped: interactions dropped, reason -> count.
        examples: reason -> where the first few of them stand.
        repeated_pairs: rows whose user and item occurred in an earlier row (before any dropping of
            duplicates); ``repeated_rows`` repeat its time too.
        core: what the k-core did, in words.
        users, items: distinct ones in the interactions kept.
        tied_rows, tied_users: rows that share user and time with another row; their users.
        mean_length, longest: interactions per user.
        lengths: histogram of them, bucket -> users.
        content_rows: rows of the content file.
        items_without_content: interacted items without such a row.
        never_interacted: rows of the content file whose item has no interaction.
        item_rows: rows of the item table by what became of them (read, repeated, empty id, ...).
        missing_text: text field -> rows of the content file where it is empty.
        images: images used, missing and bad, and files that no item uses.
        bad_images: the bad ones: item, file, reason.
        published: users, items, interactions -> the number that is published, the one found here,
            and their difference.
        notes: everything else that a reader should know.
        files: file of the output -> SHA-256 of its bytes; ``images/`` -> of the names in it. So a
            later conversion can tell whether someone has changed the folder since.
    """

    name: str
    source: str
    output: str
    detected: dict[str, str] = field(default_factory=dict)
    rows_read: int = 0
    rows_kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    repeated_pairs: int = 0
    repeated_rows: int = 0
    core: str | None = None
    users: int = 0
    items: int = 0
    tied_rows: int | None = None
    tied_users: int | None = None
    mean_length: float = 0.0
    longest: int = 0
    lengths: dict[str, int] = field(default_factory=dict)
    content_rows: int | None = None
    items_without_content: int | None = None
    never_interacted: int | None = None
    item_rows: dict[str, int] = field(default_factory=dict)
    missing_text: dict[str, int] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    bad_images: list[dict[str, str]] = field(default_factory=list)
    published: dict[str, dict[str, int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able values."""
        return asdict(self)


def length_histogram(lengths: Mapping[int, int]) -> dict[str, int]:
    """Sum up users by history length.

    Args:
        lengths: interactions of a user -> number of such users.

    Returns:
        Bucket (``"5-9"``) -> users, without the empty buckets at both ends.
    """
    histogram = {}
    for at, low in enumerate(_BUCKETS):
        high = _BUCKETS[at + 1] - 1 if at + 1 < len(_BUCKETS) else None
        label = f"{low}+" if high is None else str(low) if high == low else f"{low}-{high}"
        histogram[label] = sum(
            users
            for length, users in lengths.items()
            if low <= length and (high is None or length <= high)
        )
    filled = [at for at, users in enumerate(histogram.values()) if users]
    labels = list(histogram)[filled[0] : filled[-1] + 1] if filled else []
    return {label: histogram[label] for label in labels}


def print_report(report: Report, console: Console | None = None) -> None:
    """Print a report as a table; ``console`` defaults to standard output."""
    console = console or Console()
    table = Table(title=escape(f"{report.name}: {report.source} -> {report.output}"))
    table.add_column("what", no_wrap=True)
    table.add_column("found", overflow="fold")
    for section in (_detected, _interactions, _items, _images, _published):
        rows = section(report)
        for what, found in rows:
            table.add_row(escape(what), escape(found))
        if rows:
            table.add_section()
    console.print(table)
    for note in report.notes:
        console.print(f"- {note}", markup=False, highlight=False)


def _detected(report: Report) -> list[tuple[str, str]]:
    return list(report.detected.items())


def _interactions(report: Report) -> list[tuple[str, str]]:
    rows = [
        ("interactions read", f"{report.rows_read:,}"),
        ("interactions kept", f"{report.rows_kept:,}"),
    ]
    for reason, count in report.dropped.items():
        where = ", ".join(report.examples.get(reason, []))
        rows.append((f"dropped: {reason}", f"{count:,}" + (f" ({where})" if where else "")))
    rows += [
        (
            "same user and item again",
            _with(report.repeated_pairs, report.repeated_rows, "time too"),
        ),
        ("users, items", f"{report.users:,}, {report.items:,}"),
    ]
    if report.core is not None:
        rows.append(("k-core", report.core))
    if report.tied_rows is not None:
        rows.append(("ties in time", f"{report.tied_rows:,} rows of {report.tied_users:,} users"))
    rows.append(("interactions per user", f"mean {report.mean_length:.1f}, max {report.longest:,}"))
    rows.append(
        ("users by interactions", "  ".join(f"{k}: {v:,}" for k, v in report.lengths.items()))
    )
    return rows


def _items(report: Report) -> list[tuple[str, str]]:
    rows = [(f"item rows: {what}", f"{count:,}") for what, count in report.item_rows.items()]
    if report.content_rows is not None:
        rows += [
            ("content rows written", f"{report.content_rows:,}"),
            ("items without content row", f"{report.items_without_content or 0:,}"),
            ("content rows never interacted", f"{report.never_interacted or 0:,}"),
        ]
    rows += [
        (f'without text "{name}"', f"{count:,}") for name, count in report.missing_text.items()
    ]
    return rows


def _images(report: Report) -> list[tuple[str, str]]:
    rows = [(f"images: {what}", f"{count:,}") for what, count in report.images.items()]
    rows += [
        (f'bad image of "{bad["item"]}"', f"{bad['file']}: {bad['reason']}")
        for bad in report.bad_images[:5]
    ]
    return rows


def _published(report: Report) -> list[tuple[str, str]]:
    rows = []
    for what, found in report.published.items():
        difference = found["difference"]
        verdict = "OK" if difference == 0 else f"{difference:+,} here"
        rows.append((f"published {what}", f"{found['published']:,}: {verdict}"))
    return rows


def _with(count: int, part: int, what: str) -> str:
    return f"{count:,}" + (f", of these {part:,} with the {what}" if part else "")
