"""Rows of files with a JSON object per line, gzipped or not."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl

from recbole_morec.convert._rows import Rows
from recbole_morec.data._atomic_lines import check_text
from recbole_morec.errors import DataError, short

SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")

_BLOCK_BYTES = 1 << 24
_HALVES = re.compile("[\ud800-\udfff]")
# Ids that may be no text or number, or hold half of a character, which polars reads as NUL.
_ODD_ID = r"^[\[{]|^(true|false)$|\x00"
_DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error)


class JsonRows(Rows):
    """Chosen fields of the objects of a file; one object per line.

    Args:
        path: the file; whether it is gzipped is seen by its first bytes.
        fields: column -> key of the object. Missing keys and ``null`` are empty cells; numbers
            become text.
        lists: columns whose value may be a list of strings -> what joins them.
        ids: columns of ids; their values must be texts or numbers.

    Attributes:
        halves: halves of characters (lone surrogates, such as a cut emoji leaves) that were
            replaced in texts so far.
    """

    def __init__(
        self,
        path: Path,
        fields: Mapping[str, str],
        lists: Mapping[str, str] | None = None,
        ids: Collection[str] = (),
    ):
        form = "a JSON object per line" + (", gzipped" if _is_gzip(path) else "")
        super().__init__(path, list(fields), form)
        self._fields = dict(fields)
        self._lists = dict(lists or {})
        self._ids = frozenset(ids)
        self.halves = 0

    def blocks(self) -> Iterator[pl.DataFrame]:
        for line, data in _json_blocks(self.path):
            frame = self._parsed(line, data) if self._lists else self._plain(line, data)
            yield frame.select(pl.all().replace("", None))

    def place(self, row: int) -> str:
        return f"line {row + 1}"

    def _plain(self, line: int, data: bytes) -> pl.DataFrame:
        schema = dict.fromkeys(self._fields.values(), pl.String)
        try:  # polars reads only the fields of the schema, and any value of theirs as text
            frame = pl.read_ndjson(data, schema=schema)
        except pl.exceptions.PolarsError:
            return self._parsed(line, data)  # names the line
        frame = frame.select(pl.col(key).alias(column) for column, key in self._fields.items())
        odd = (frame[column].str.contains(_ODD_ID).any() for column in self._ids)
        return self._parsed(line, data) if any(odd) else frame

    def _parsed(self, line: int, data: bytes) -> pl.DataFrame:
        columns: dict[str, list[str | None]] = {column: [] for column in self._fields}
        for number, line_text in enumerate(data.rstrip().split(b"\n"), start=line):
            found = _parse(self.path, number, line_text)
            try:
                for column, key in self._fields.items():
                    columns[column].append(self._value(number, column, key, found.get(key)))
            except RecursionError:
                raise _too_deep(self.path, number) from None
        return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))

    def _value(self, line: int, column: str, key: str, value: Any) -> str | None:
        if column in self._ids:
            return _id(f'{self.path} line {line}: "{key}"', value)
        text = _as_text(value, self._lists.get(column))
        if text is not None:
            text, halves = _HALVES.subn("\ufffd", text)
            self.halves += halves
        return text


def first_object(path: Path) -> dict[str, Any]:
    """The first object of a file.

    Raises:
        DataError: the file is empty, damaged, or its first line is no JSON object.
    """
    if not _is_gzip(path):
        check_text(path)
    with _open(path) as file:
        line = file.readline()
    if not line.strip():
        raise DataError(f"{path}: the file is empty, or its first line is.")
    return _parse(path, 1, line)


def _as_text(value: Any, joiner: str | None) -> str | None:
    if value is None:
        return None
    if joiner is not None and isinstance(value, list):
        texts = [str(part).strip() for part in value if part is not None]
        return joiner.join(text for text in texts if text)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _id(where: str, value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise DataError(
            f"{where} is {short(json.dumps(value))}, neither a text nor a number, and so no id. "
            "Repair or delete the line."
        )
    text = value if isinstance(value, str) else json.dumps(value)
    if _HALVES.search(text):
        raise DataError(
            f"{where} is {short(json.dumps(text))}, which holds half of a character (a lone "
            "surrogate) that no file can hold. Repair or delete the line."
        )
    return text


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    with gzip.open(path) if _is_gzip(path) else path.open("rb") as file:
        try:
            yield file
        except _DAMAGED as error:
            raise DataError(
                f"{path}: the gzip file is damaged or was cut off ({error}). Download it again."
            ) from None


def _json_blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield whole lines, and the number of the first one from 1; no empty one is between them."""
    line, blank = 1, None
    with _open(path) as file:
        while chunk := file.read(_BLOCK_BYTES):
            if not chunk.endswith(b"\n"):
                chunk += file.readline()
            texts = chunk.removesuffix(b"\n").split(b"\n")
            filled = [bool(text.strip()) for text in texts]
            if blank is None and not all(filled):
                blank = line + filled.index(False)
            if any(filled):
                last = line + len(texts) - 1 - filled[::-1].index(True)
                if blank is not None and blank < last:
                    raise DataError(f"{path} line {blank}: the line is empty. Delete it.")
                yield line, chunk
            line += len(texts)


def _too_deep(path: Path, line: int) -> DataError:
    return DataError(f"{path} line {line}: the object is nested too deeply. Delete the line.")


def _parse(path: Path, line: int, text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except RecursionError:
        raise _too_deep(path, line) from None
    except ValueError as error:
        python = (
            " It is written as Python would, with single quotes, as in the releases before 2018; "
            "only strict JSON is read."
            if text.lstrip().startswith((b"{'", b"{u'"))
            else ""
        )
        raise DataError(f"{path} line {line}: no JSON object ({error}).{python}") from None
    if not isinstance(found, dict):
        raise DataError(
            f"{path} line {line}: {text[:40].decode(errors='replace')!r} is no JSON object. The "
            "file must hold one object per line."
        )
    return found
