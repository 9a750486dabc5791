"""Checks on the lines and cells of atomic files; every failure names file, line, field and cure."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import polars as pl

from recbole_morec.errors import DataError, suggest

_CHUNK_BYTES = 1 << 25
_START_BYTES = 1 << 16
_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_UNESCAPES = {"\\": "\\", "t": "\t", "n": "\n", "r": "\r"}
_ESCAPED = re.compile(r"\\(.?)", re.DOTALL)
_BREAKS_A_CELL = re.compile(r"[\t\n\r]")
_NEEDS_ESCAPE = re.compile(r"[\\\t\n\r]")


# --- files --------------------------------------------------------------------------------------


def existing(path: str | Path) -> Path:
    """Return the path of a file that is there, else raise a DataError that says what is."""
    path = Path(path)
    if path.is_file():
        return path
    if path.is_dir():
        raise DataError(f"{path}: is a folder; a {path.suffix or 'data'} file was expected.")
    if not path.parent.is_dir():
        raise DataError(f"{path}: not found, nor is its folder {path.parent}.")
    names = sorted(entry.name for entry in path.parent.iterdir() if entry.is_file())
    listed = ", ".join(names[:8]) + (" ..." if len(names) > 8 else "")
    raise DataError(
        f"{path}: not found.{suggest(path.name, names)} "
        f"The folder holds {listed or 'no files'}. Check the dataset's name and folder."
    )


@contextlib.contextmanager
def whole_file(path: Path, temporary: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its place only if all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary or path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def decode_line(raw: bytes, path: Path, line: int) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        check_text(path)
        raise DataError(_not_utf8(path, line, raw, error)) from None


def check_text(path: Path) -> None:
    """Raise a DataError if a file begins as UTF-16 or has the line ends of old Macs."""
    with path.open("rb") as file:
        start = file.read(_START_BYTES)
    if encoding := _utf16(start):
        raise DataError(
            f"{path}: the file is UTF-16, but UTF-8 is read. Convert it: "
            f"iconv -f {encoding} -t UTF-8 OLD > NEW."
        )
    if b"\r" in start and b"\n" not in start:
        raise DataError(
            f"{path}: the lines end with bare carriage returns, as on old Macs. Convert it: "
            "tr '\\r' '\\n' < OLD > NEW."
        )


def _utf16(start: bytes) -> str | None:
    """The name of the UTF-16 that a text begins in: a mark, or NUL bytes at every second place."""
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    pairs = start[: min(len(start), 32) & ~1]
    for high, low, name in ((1, 0, "UTF-16LE"), (0, 1, "UTF-16BE")):
        if len(pairs) > 2 and not any(pairs[high::2]) and all(pairs[low::2]):
            return name
    return None


def _not_utf8(path: Path, line: int, raw: bytes, error: UnicodeDecodeError) -> str:
    return (
        f"{path} line {line}: byte {error.start + 1} of the line (0x{raw[error.start]:02x}) is not "
        "UTF-8. Save the file as UTF-8, for example with: iconv -f latin1 -t utf-8 OLD > NEW."
    )


def check_utf8(path: Path) -> None:
    """Raise a DataError that names the first line that is not UTF-8, if there is one."""
    line = 1
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            chunk += file.readline()
            check_chunk_utf8(path, chunk, line)
            line += chunk.count(b"\n")


def check_chunk_utf8(path: Path, chunk: bytes, line: int) -> None:
    if chunk.isascii():
        return
    try:
        chunk.decode("utf-8")
    except UnicodeDecodeError as error:
        start = chunk.rfind(b"\n", 0, error.start) + 1
        end = chunk.find(b"\n", error.start)
        raw = chunk[start : end if end >= 0 else None]
        decode_line(raw, path, line + chunk.count(b"\n", 0, error.start))


def content_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number, text) of every line below the header, without the blank ones at the end."""
    blank: int | None = None
    with path.open("rb") as file:
        file.readline()
        for number, raw in enumerate(file, start=2):
            text = decode_line(raw, path, number).removesuffix("\n").removesuffix("\r")
            if not text:
                blank = number if blank is None else blank
                continue
            if blank is not None:
                raise DataError(f"{path} line {blank}: the line is empty. Delete it.")
            yield number, text


# --- messages -----------------------------------------------------------------------------------


def require_field(path: Path, header: Mapping[str, str], role: str, name: str, kind: str) -> None:
    """Raise unless the header has the field that a role (user, item, time) is read from."""
    setting = {"user": "USER_ID_FIELD", "item": "ITEM_ID_FIELD", "time": "TIME_FIELD"}[role]
    found = ", ".join(f"{key}:{value}" for key, value in header.items())
    if name not in header:
        raise DataError(
            f'{path} line 1: the {role} field "{name}" is missing.{suggest(name, header)} The file '
            f"has {found}. Set {setting} to the field of the {role}, or rename the header"
            + (", or set TIME_FIELD=~ if the rows are in order of time." if role == "time" else ".")
        )
    if header[name] != kind:
        raise DataError(
            f'{path} line 1: the {role} field "{name}" has the type "{header[name]}" but must be '
            f'"{name}:{kind}". Change the header.'
        )


def wrong_columns(path: Path, line: int, found: int, expected: int, separator: str = "\t") -> str:
    """Say that a line has another number of fields than the header."""
    name = "tab" if separator == "\t" else f'"{separator}"'
    return (
        f"{path} line {line}: {found} field{'s' if found != 1 else ''}, but the header names "
        f"{expected}. Fields are separated by one {name}; a {name} or line break inside a text is "
        "the usual cause."
    )


def empty_token(path: Path, line: int, name: str, role: str) -> str:
    return (
        f'{path} line {line}: the {role} field "{name}" is empty. '
        f"Fill in the {role}'s id or delete the line."
    )


# --- .inter -------------------------------------------------------------------------------------


def check_tokens_to_write(
    path: Path, name: str, column: pl.Series, required: bool, before: int = 0
) -> None:
    """Raise for a token that the format cannot hold, or for an empty one where it is required.

    ``before`` is the number of rows before the first one of ``column``, for messages.
    """
    empty = (column.is_null() | (column == "")).fill_null(True)
    if required and empty.any():
        row = before + empty.arg_max() + 1
        raise DataError(f'{path}: the field "{name}" is empty in row {row}.')
    broken = column.str.contains(_BREAKS_A_CELL.pattern).fill_null(False)
    if broken.any():
        row = broken.arg_max()
        raise DataError(
            f'{path}: the field "{name}" of row {before + row + 1} is {column[row]!r}; an id '
            "cannot hold a tab or a line break. Rename it in the source."
        )


def check_numbers_to_write(
    path: Path, name: str, column: pl.Series, required: bool, before: int = 0
) -> None:
    """Raise for a missing or non-finite number where one is required; ``before`` as above."""
    if not column.dtype.is_numeric():
        raise DataError(f'{path}: the field "{name}" must be numeric, found {column.dtype}.')
    bad = column.is_null()
    if column.dtype.is_float():
        bad = bad | ~column.is_finite().fill_null(True)
    if required and bad.any():
        row = before + bad.arg_max() + 1
        raise DataError(f'{path}: the field "{name}" of row {row} is not a number.')


# --- .content -----------------------------------------------------------------------------------


def escape_text(text: str) -> str:
    """Write tab, newline, carriage return and backslash of ``text`` as backslash sequences."""
    return _NEEDS_ESCAPE.sub(lambda found: _ESCAPES[found.group()], text)


def unescape_text(text: str) -> str:
    """Undo :func:`escape_text`.

    Raises:
        ValueError: a backslash is not followed by a backslash, ``t``, ``n`` or ``r``; the message
            is the sequence that was found.
    """
    if "\\" not in text:
        return text

    def replace(found: re.Match[str]) -> str:
        if found.group(1) not in _UNESCAPES:
            raise ValueError(found.group())
        return _UNESCAPES[found.group(1)]

    return _ESCAPED.sub(replace, text)


def parse_cell(path: Path, line: int, name: str, kind: str, cell: str) -> str | None:
    """Return the value of a ``.content`` cell, ``None`` where it is missing."""
    if not cell:
        return None
    if kind == "text":
        try:
            return unescape_text(cell)
        except ValueError as error:
            raise DataError(
                f'{path} line {line}: the text field "{name}" holds the unknown escape "{error}". '
                "Write a backslash as two backslashes; only \\t, \\n, \\r and \\\\ are escapes."
            ) from None
    if kind == "float":
        _check_float(f'{path} line {line}: the float field "{name}"', cell)
    return cell


def format_cell(path: Path, item: str, name: str, kind: str, value: str | None) -> str:
    """Return a value as it stands in a ``.content`` cell of its type."""
    if value is None:
        return ""
    if kind == "text":
        return escape_text(value)
    where = f'{path}: the {kind} field "{name}" of the item "{item}"'
    if kind == "float" and value:
        _check_float(where, value)
    if _BREAKS_A_CELL.search(value):
        raise DataError(
            f"{where} is {value!r}; only text fields can hold a tab or a line break. "
            "Rename it in the source."
        )
    return value


def encode_row(row: str, path: Path, item: str) -> bytes:
    try:
        return row.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f'{path}: the item "{item}" holds the character {row[error.start]!r}, which UTF-8 '
            "cannot write. Repair the source, which was decoded with the wrong encoding."
        ) from None


def _check_float(where: str, cell: str) -> None:
    try:
        # float() would also take the underscores of Python literals, which no other reader takes.
        finite = "_" not in cell and math.isfinite(float(cell))
    except ValueError:
        finite = False
    if not finite:
        raise DataError(f'{where} is "{cell}", which is not a finite number. Empty means missing.')
