"""The folder that a conversion writes: whole or absent."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import yaml

from recbole_morec.errors import DataError

REPORT_FILE = "convert_report.json"

_DESKTOP_FILES = (".DS_Store", "Thumbs.db", "desktop.ini")


def check_output(output: Path, source: Path, overwrite: bool) -> None:
    """Raise a DataError if writing ``output`` could destroy anything that is no old conversion."""
    here, there = output.resolve(), source.resolve()
    if here == there or here in there.parents:
        raise DataError(
            f"{output}: the output folder is or holds the source {source}. Choose another --output."
        )
    check_folder(output)
    if not output.is_dir() or not any(output.iterdir()):
        return
    if not overwrite:
        raise DataError(
            f"{output}: the folder is not empty. Add --overwrite to replace it, or choose another "
            "--output."
        )
    if not (output / REPORT_FILE).is_file():
        raise DataError(
            f"{output}: --overwrite replaces only a folder that a conversion wrote, and this one "
            f"has no {REPORT_FILE}. Delete it yourself, or choose another --output."
        )


def check_folder(output: Path) -> None:
    """Raise a DataError if ``output`` cannot be a folder: it or one above it is a file."""
    for path in (output, *output.parents):
        if path.exists():
            if not path.is_dir():
                raise DataError(
                    f"{output}: {path} is a file; --output must name a folder, and all above it "
                    "must be folders. Choose another --output."
                )
            return


def files_below(folder: Path) -> list[Path]:
    """All files of a folder and its subfolders, without what file managers leave there."""
    return [
        Path(place, name)
        for place, _, names in os.walk(folder)
        for name in names
        if name not in _DESKTOP_FILES
    ]


def shortened(names: Iterable[str], most: int = 5) -> str:
    """The first few names in order, and how many more there are."""
    names = sorted(names)
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


@contextlib.contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``output`` that takes its place if all went well."""
    output = output.resolve()  # of a symbolic link, the folder that it names is replaced
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    old = output.with_name(f".{output.name}.{os.getpid()}.old")
    temporary.mkdir()
    try:
        yield temporary
        if output.exists():
            output.rename(old)
        try:
            temporary.rename(output)
        except OSError:
            if old.exists():
                old.rename(output)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if old.exists():
            shutil.rmtree(old)


def write_settings(
    path: Path,
    *,
    source: Sequence[str],
    user_field: str,
    item_field: str,
    time_field: str,
    text_fields: Sequence[str],
    other_texts: Sequence[str],
    image_field: str | None,
) -> None:
    """Write the dataset's own yaml: names of fields and the protocol, with comments."""
    lines = [f"# {line}" for line in source]
    fields = {"USER_ID_FIELD": user_field, "ITEM_ID_FIELD": item_field, "TIME_FIELD": time_field}
    lines.append(_yaml(fields))
    lines.append("# For stock RecBole, which loads only the columns that it is told to.")
    lines.append(_yaml({"load_col": {"inter": [user_field, item_field, time_field]}}))
    lines.append("# Leave-one-out, whole histories; see the documentation of protocols.")
    lines.append(_yaml({"protocol": "pixelrec"}))
    if text_fields:
        lines.append("# Text fields that are read, in this order.")
        if other_texts:
            lines.append(
                f"# Left out, since they do not describe an item: {', '.join(other_texts)}"
            )
        lines.append(_yaml({"text_fields": list(text_fields)}))
    if image_field is not None:
        lines.append(_yaml({"image_field": image_field}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _yaml(settings: dict) -> str:
    """Write one key per line, with its value in flow style."""
    lines = []
    for key, value in settings.items():
        # Inside a list a scalar gets neither a line of its own nor an end mark.
        listed = yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, width=10**6)
        lines.append(f"{key}: {listed.strip()[1:-1]}")
    return "\n".join(lines)
