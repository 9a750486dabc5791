"""``.inter`` files: one interaction per line, ``user_id:token  item_id:token  timestamp:float``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
import polars as pl

from recbole_morec.data import _atomic_lines as lines
from recbole_morec.data.atomic import INTER_TYPES, read_header
from recbole_morec.data.event_log import EventLog
from recbole_morec.data.line_blocks import Block, line_blocks
from recbole_morec.errors import DataError

_ROLES = ("user", "item", "time")


def read_inter_log(path: Path, fields: dict[str, str | None], folder: Path) -> EventLog:
    """Read an ``.inter`` file in bounded memory.

    Args:
        path: the file.
        fields: names of its fields of ``user``, ``item`` and ``time``; a time of ``None`` = the
            rows are in the order of time.
        folder: where the log is written.

    Raises:
        DataError: naming the file, the line, the field and what to do.
    """
    log = EventLog(folder)
    for block, time in _checked(path, fields):
        if time is None:
            time = np.arange(block.row, block.row + block.frame.height)
        log.append(block.frame["user"], block.frame["item"], time)
    return log


def read_inter(
    path: str | Path,
    user_field: str = "user_id",
    item_field: str = "item_id",
    time_field: str | None = "timestamp",
) -> pl.DataFrame:
    """Read an ``.inter`` file into memory.

    Args:
        path: the file.
        user_field, item_field: names of the ``token`` fields of user and item.
        time_field: name of the ``float`` field of the time, or ``None`` to read no time.

    Returns:
        Columns ``user`` and ``item`` (String) and, with a time field, ``time``: Int64 when every
        value is a whole number, else Float64. The order of the rows is that of the file.

    Raises:
        DataError: naming the file, the line, the field and what to do.
    """
    fields = {"user": user_field, "item": item_field, "time": time_field}
    frames, times = [], []
    for block, time in _checked(Path(path), fields):
        frames.append(block.frame.select("user", "item"))
        if time is not None:
            times.append(time)
    frame = pl.concat(frames)
    return frame.with_columns(time=np.concatenate(times)) if times else frame


def whole_times(text: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Read numbers: where all are whole as Int64, exactly, else as Float64.

    Args:
        text: String values.

    Returns:
        The numbers, null where a value is no finite number, and which ones are (Boolean).
    """
    integer = text.cast(pl.Int64, strict=False)
    if integer.null_count() == 0:
        return integer, pl.repeat(True, len(text), dtype=pl.Boolean, eager=True)
    number = text.cast(pl.Float64, strict=False)
    good = number.is_finite().fill_null(False)
    # Beyond 2^63 a whole float stays a float. Only values such as 1362061200.0 go through a float.
    fits = (number == number.floor()) & (number.abs() < 2.0**63)
    if (integer.is_not_null() | fits.fill_null(False) | ~good).all():
        whole = number.set(~good, None).cast(pl.Int64, strict=False)
        return integer.zip_with(integer.is_not_null(), whole), good
    return number.set(~good, None), good


class InterWriter:
    """Writes an ``.inter`` file piece by piece; the file is whole or absent.

    A context manager; the file takes its place when the block ends without an error.

    Args:
        path: the file to write.
        user_field, item_field: the names that the header gives them.
        time_field: that of the time; ``None`` writes none.
        extra: further columns, name -> type of an atomic file.

    Attributes:
        sha256: of the bytes so far.
    """

    def __init__(
        self,
        path: Path,
        user_field: str = "user_id",
        item_field: str = "item_id",
        time_field: str | None = "timestamp",
        extra: dict[str, str] | None = None,
    ):
        self.path = path
        self._names = {"user": user_field, "item": item_field}
        if time_field is not None:
            self._names["time"] = time_field
        self._extra = dict(extra or {})
        self._hash = hashlib.sha256()
        self._rows = 0

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def __enter__(self) -> InterWriter:
        self._whole = lines.whole_file(self.path)
        self._file: BinaryIO = self._whole.__enter__().open("wb")
        kinds = {"user": "token", "item": "token", "time": "float"}
        header = [f"{name}:{kinds[role]}" for role, name in self._names.items()]
        header += [f"{name}:{kind}" for name, kind in self._extra.items()]
        self._put(("\t".join(header) + "\n").encode())
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._whole.__exit__(kind, error, trace)

    def write(self, frame: pl.DataFrame, checked: bool = False) -> None:
        """Add rows: columns ``user``, ``item``, ``time`` and the further ones.

        Args:
            frame: the rows.
            checked: whether the caller knows that every cell can be written.

        Raises:
            DataError: a user or item is empty or holds a tab or a line break, which this format
                has no way to write, or a time is missing or not finite.
        """
        frame = frame.select(*self._names, *self._extra)
        for name in [] if checked else frame.columns:
            shown = self._names.get(name, name)
            if name == "time" or self._extra.get(name) == "float":
                lines.check_numbers_to_write(
                    self.path, shown, frame[name], name == "time", self._rows
                )
            else:
                lines.check_tokens_to_write(
                    self.path, shown, frame[name], name in self._names, self._rows
                )
        self._rows += frame.height
        self._put(
            frame.write_csv(separator="\t", include_header=False, quote_style="never").encode()
        )

    def _put(self, data: bytes) -> None:
        self._hash.update(data)
        self._file.write(data)


def write_inter(
    path: str | Path,
    frame: pl.DataFrame,
    user_field: str = "user_id",
    item_field: str = "item_id",
    time_field: str | None = "timestamp",
) -> None:
    """Write interactions as an ``.inter`` file; the file is whole or absent.

    Args:
        path: the file to write.
        frame: columns ``user``, ``item`` and, with a time field, ``time``. Further columns follow
            under their own names, numbers as ``float`` and the rest as ``token``.
        user_field, item_field, time_field: the names that the header gives them.

    Raises:
        DataError: see :meth:`InterWriter.write`.
    """
    path = Path(path)
    roles = _ROLES if time_field is not None else _ROLES[:2]
    missing = [name for name in roles if name not in frame.columns]
    if missing:
        raise DataError(
            f"{path}: cannot write interactions without the columns {', '.join(missing)}; "
            f"the frame has {', '.join(frame.columns)}."
        )
    extra = {
        name: "float" if frame[name].dtype.is_numeric() else "token"
        for name in frame.columns
        if name not in _ROLES
    }
    tokens = ["user", "item", *(name for name, kind in extra.items() if kind == "token")]
    frame = frame.with_columns(pl.col(tokens).cast(pl.String))
    with InterWriter(path, user_field, item_field, time_field, extra) as writer:
        writer.write(frame)


def _checked(
    path: Path, fields: dict[str, str | None]
) -> Iterator[tuple[Block, np.ndarray | None]]:
    """Yield blocks with the columns of the roles, and their times; every cell is checked."""
    path = lines.existing(path)
    header = read_header(path, INTER_TYPES)
    wanted = {role: name for role, name in fields.items() if name is not None}
    for role, name in wanted.items():
        lines.require_field(path, header, role, name, "float" if role == "time" else "token")
    names = list(header)
    column = {role: f"column {names.index(name)}" for role, name in wanted.items()}
    rows = 0
    for block in line_blocks(path, [f"column {at}" for at in range(len(names))]):
        frame = block.frame.select(pl.col(name).alias(role) for role, name in column.items())
        rows += frame.height
        time, good = None, None
        if "time" in column:
            times, good = whole_times(frame["time"].fill_null(""))
            time = times.to_numpy()
        _refuse_first_bad(path, wanted, frame, good, block.line)
        yield Block(frame, block.row, block.line), time
    if rows == 0:
        raise DataError(
            f"{path}: there is a header but not one interaction below it. Write one line per "
            "interaction, or convert the source again."
        )


def _refuse_first_bad(
    path: Path, wanted: dict[str, str], frame: pl.DataFrame, good: pl.Series | None, line: int
) -> None:
    bad = {role: frame[role].is_null() for role in wanted if role != "time"}
    if good is not None:
        bad["time"] = ~good
    first = {role: found.arg_max() for role, found in bad.items() if found.any()}
    if not first:
        return
    role = min(first, key=first.get)
    row = first[role]
    if role != "time":
        raise DataError(lines.empty_token(path, line + row, wanted[role], role))
    raise DataError(
        f'{path} line {line + row}: the time field "{wanted[role]}" is '
        f"{frame['time'][row] or ''!r}, which is not a finite number. Write seconds (or any number "
        "that grows with time), without separators."
    )
