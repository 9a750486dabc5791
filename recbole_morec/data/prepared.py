"""``prepared/histories``: the interactions of a dataset in binary, memory-mapped form.

Derived from ``<name>.inter`` and made again when that has changed: ``users.arrow`` and
``items.arrow`` (tokens by internal id), ``offsets.npy`` and ``items.npy`` (histories), and
``meta.json``, which is written last.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from filelock import FileLock

from recbole_morec.data import _atomic_lines as lines
from recbole_morec.data.by_user import Numbering, UserBlock, by_user
from recbole_morec.data.event_log import EventLog
from recbole_morec.data.file_sum import size_and_sum
from recbole_morec.data.histories import Histories
from recbole_morec.data.inter import read_inter_log
from recbole_morec.data.tokens import TokenTable, write_tokens
from recbole_morec.errors import DataError, refused

FORMAT = 1
FOLDER = "prepared"

_NAME = "histories"
_FILES = ("users.arrow", "items.arrow", "offsets.npy", "items.npy")
_READ = 1 << 24
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """Interactions as they are opened.

    Attributes:
        users, items: tokens by internal id.
        histories: items of every user in time order.
        repeats: rows whose user and item occur in an earlier row.
        tokens_digest: a hash of users and items in the order of their internal ids.
        histories_digest: a hash of the histories, in internal ids.
    """

    users: TokenTable
    items: TokenTable
    histories: Histories
    repeats: int
    tokens_digest: str
    histories_digest: str


def open_prepared(
    inter: Path, user_field: str, item_field: str, time_field: str | None
) -> Prepared:
    """Open the prepared form of an ``.inter`` file; make it first where it is absent or stale.

    Several processes may call this at once: one makes it and the others wait. Where the dataset's
    folder cannot be written to, it is made in a temporary folder each time.

    Args:
        inter: the ``.inter`` file.
        user_field, item_field: names of its ``token`` fields of user and item.
        time_field: name of its ``float`` field of the time; ``None`` = rows are in order of time.

    Raises:
        DataError: the file is missing or malformed; file and line are named.
    """
    fields = {"user": user_field, "item": item_field, "time": time_field}
    root = inter.parent / FOLDER
    folder = root / _NAME
    if (found := _open_if_fresh(folder, inter, fields)) is not None:
        return found
    try:
        root.mkdir(exist_ok=True)
        lock = FileLock(root / f"{_NAME}.lock")
        lock.acquire()
    except OSError as error:
        _log.warning(
            "%s cannot be written to (%s): every process reads the text file at every start, with "
            "about %.1f GB of temporary files in %s (TMPDIR).",
            root,
            error.strerror,
            inter.stat().st_size * 1.5 / 1e9 if inter.exists() else 0,
            tempfile.gettempdir(),
        )
        return _open_temporary(inter, fields)
    with contextlib.ExitStack() as stack:
        stack.callback(lock.release)
        stack.enter_context(_disk_errors(inter))
        if (found := _open_if_fresh(folder, inter, fields)) is not None:
            return found
        for abandoned in root.glob(f".{_NAME}.*"):  # by a process that was killed
            shutil.rmtree(abandoned, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=f".{_NAME}.", dir=root) as temporary:
            _make(Path(temporary), inter, fields)
            place(Path(temporary) / _NAME, folder)
        return _open(folder, _read_meta(folder))


def write_prepared(
    folder: Path,
    log: EventLog,
    numbering: Numbering,
    inter: Path,
    fields: dict[str, str | None],
    inter_sha256: str,
    watch: Callable[[UserBlock], None] | None = None,
) -> None:
    """Write the prepared form of a log whose kept rows are those of ``inter``, in order.

    Args:
        folder: a new folder.
        log, numbering: the interactions.
        inter: the ``.inter`` file that holds the same.
        fields: its fields of ``user``, ``item`` and ``time``.
        inter_sha256: of its bytes.
        watch: is called with every block of users.
    """
    folder.mkdir(parents=True)
    tokens = hashlib.sha256()
    for table, numbers, name in (
        (log.users, numbering.user_numbers, "users.arrow"),
        (log.items, numbering.item_numbers, "items.arrow"),
    ):
        write_tokens(folder / name, table.tokens(numbers), tokens)
    offsets = np.cumsum(numbering.user_counts)
    np.save(folder / "offsets.npy", np.concatenate([[0], offsets]))
    repeats = 0
    with (folder / "items.npy").open("wb") as file:
        header = {"descr": "<i4", "fortran_order": False, "shape": (int(offsets[-1]),)}
        np.lib.format.write_array_header_1_0(file, header)
        for block in by_user(log, numbering, folder / "spill"):
            block.item.tofile(file)
            repeats += block.repeats
            if watch is not None:
                watch(block)
    shutil.rmtree(folder / "spill", ignore_errors=True)
    meta = {
        "format": FORMAT,
        "fields": fields,
        "inter": {**_stat(inter), "sha256": inter_sha256},
        "repeats": repeats,
        "tokens": tokens.hexdigest(),
        "histories": sha256(folder / "offsets.npy") + sha256(folder / "items.npy"),
        "files": {name: size_and_sum(folder / name) for name in _FILES},
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")


def place(made: Path, folder: Path) -> None:
    """Put a new folder in the place of an old one."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    made.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_READ):
            digest.update(chunk)
    return digest.hexdigest()


def _make(temporary: Path, inter: Path, fields: dict[str, str | None]) -> None:
    lines.existing(inter)
    for attempt in ("log", "again"):
        before = _stat(inter)
        log = read_inter_log(inter, fields, temporary / attempt)
        digest = sha256(inter)
        if _stat(inter) == before:
            break
    else:
        raise DataError(f"{inter} changed while it was read, twice. Start again when it is whole.")
    _log.info("%s: %d interactions read; preparing them for the next starts.", inter, log.rows)
    write_prepared(temporary / _NAME, log, Numbering.of(log), inter, fields, digest)


@contextlib.contextmanager
def _disk_errors(inter: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{refused(error, inter)}. The interactions of {inter.name} are prepared "
            "beside it; they need about 1.5 times its size there while they are made."
        ) from error


def _open_temporary(inter: Path, fields: dict[str, str | None]) -> Prepared:
    # Memory-mapped files can be removed while they are open.
    with _disk_errors(inter), tempfile.TemporaryDirectory(prefix="recbole_morec-") as temporary:
        _make(Path(temporary), inter, fields)
        made = Path(temporary) / _NAME
        return _open(made, _read_meta(made))


def _open_if_fresh(folder: Path, inter: Path, fields: dict[str, str | None]) -> Prepared | None:
    if not inter.is_file():
        return None
    if not (folder.is_dir() and inter.is_file()):
        return None
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if meta["format"] != FORMAT or meta["fields"] != fields:
            return None
        known, there = meta["inter"], _stat(inter)
        digest = known.pop("sha256")
        if known["size"] != there["size"]:
            return None
        if known != there:
            # A copy or a checkout has other times; only other bytes make it stale.
            if sha256(inter) != digest:
                return None
            _note(folder, meta | {"inter": {**there, "sha256": digest}})
        for name in _FILES:
            if size_and_sum(folder / name) != meta["files"][name]:
                raise ValueError(f"{name} is not the file that was written")
        return _open(folder, meta)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
        _log.warning("%s is damaged (%s) and is made again.", folder, error)
        return None


def _open(folder: Path, meta: dict[str, Any]) -> Prepared:
    return Prepared(
        TokenTable(folder / "users.arrow"),
        TokenTable(folder / "items.arrow"),
        Histories.open(folder),
        meta["repeats"],
        meta["tokens"],
        meta["histories"],
    )


def _note(folder: Path, meta: dict[str, Any]) -> None:
    """Note the new times, so that the next start need not read the file again."""
    temporary = folder / f".meta.{os.getpid()}.tmp"
    with contextlib.suppress(OSError):
        temporary.write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
        temporary.replace(folder / "meta.json")


def _read_meta(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "meta.json").read_text(encoding="utf-8"))


def _stat(path: Path) -> dict[str, int]:
    """Size and times; the time of the inode cannot be set back by who copies over a file."""
    stat = path.stat()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "ctime_ns": stat.st_ctime_ns}
