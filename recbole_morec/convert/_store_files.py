"""The files of an image store while it is built: each is whole under its name, or absent."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from recbole_morec.data.content.image_store import (
    INDEX,
    MANIFEST,
    SEGMENTS,
    Segment,
    file_sha256,
    key_hash,
    open_batch,
    record_crc,
)
from recbole_morec.data.held import held
from recbole_morec.errors import DataError

_NOTES = b"recbole_morec"
_NOTES_CRC = b"recbole_morec.crc32"
_TEMPORARY = ".tmp"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def segment_path(folder: Path, number: int) -> Path:
    """Return the file of a segment."""
    return folder / f"segment-{number:05d}.arrow"


def write_segment(path: Path, records: Sequence[tuple[bytes, bytes]], notes: dict[str, Any]) -> str:
    """Write a segment.

    Args:
        path: of the file.
        records: key in UTF-8 and image.
        notes: what a later build needs to know of it, kept in the file itself.

    Returns:
        The SHA-256 of the file.

    Raises:
        DataError: the disk is full.
    """
    text = json.dumps(notes).encode()
    batch = pa.record_batch(
        [
            pa.array([key.decode() for key, _ in records], pa.string()),
            pa.array([image for _, image in records], pa.large_binary()),
            pa.array([record_crc(key, image) for key, image in records], pa.uint32()),
        ],
        schema=pa.schema(
            [("key", pa.string()), ("image", pa.large_binary()), ("crc32", pa.uint32())],
            metadata={_NOTES: text, _NOTES_CRC: str(zlib.crc32(text)).encode()},
        ),
    )
    return _write_batch(path, batch)


def read_segment(path: Path) -> tuple[dict[str, Any], str] | None:
    """Return the notes in a segment and its SHA-256 if it is as it was written, else ``None``.

    Checksums tell whether records and notes are sound; that nothing else has changed (padding, the
    frame) shows when the file is written again, into a checksum alone.
    """
    try:
        segment = Segment(path)
        text = segment.metadata[_NOTES]
        if str(zlib.crc32(text)).encode() != segment.metadata[_NOTES_CRC]:
            return None
        if not all(map(segment.sound, range(len(segment)))):
            return None
        again = _HashingFile()
        _write_arrow(again, open_batch(path))
        digest = again.digest.hexdigest()
        return (json.loads(text), digest) if digest == file_sha256(path) else None
    except (DataError, KeyError, ValueError):
        return None


def write_index(folder: Path, segments: int) -> str:
    """Write the index of the segments in a folder; return its SHA-256."""
    hashes, sizes = [], []
    for number in range(segments):
        segment = Segment(segment_path(folder, number))
        sizes.append(len(segment))
        hashes.extend(key_hash(segment.key(row)) for row in range(len(segment)))
    hashes = np.array(hashes, dtype=np.uint64)
    numbers = np.repeat(np.arange(segments, dtype=np.uint32), sizes)
    rows = np.concatenate([np.arange(size, dtype=np.uint32) for size in [0, *sizes]])
    order = np.argsort(hashes, kind="stable")
    columns = {"hash": hashes, "segment": numbers, "row": rows}
    batch = pa.record_batch({name: pa.array(column[order]) for name, column in columns.items()})
    return _write_batch(folder / INDEX, batch)


def write_whole(path: Path, size: int, write: Callable[[Any], object]) -> str:
    """Write a file under a temporary name, bring it to the disk, and give it its name.

    Args:
        path: of the file.
        size: about how many bytes it takes, for the message about a full disk.
        write: writes into the file object that it gets.

    Returns:
        The SHA-256 of what was written.

    Raises:
        DataError: the disk is full; nothing of the file is left.
    """
    temporary = path.with_name(path.name + _TEMPORARY)
    try:
        with temporary.open("xb") as file:
            sink = _HashingFile(file)
            write(sink)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
        return sink.digest.hexdigest()
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno in _FULL:
            raise _disk_full(path, size, error) from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def clear(folder: Path, keep: int, finished: bool) -> None:
    """Delete what earlier builds left in a folder, except for its first ``keep`` segments.

    Args:
        folder: of the store.
        keep: how many segments stay.
        finished: whether these are all; then a manifest and an index that are there stay too,
            unless there are more segments.
    """
    kept = {segment_path(folder, number) for number in range(keep)}
    others = [path for path in folder.glob(SEGMENTS) if path not in kept]
    if others or not finished:
        # The manifest first: from then on nobody takes what is left for a store.
        others = [folder / MANIFEST, folder / INDEX, *others]
    for path in [*others, *folder.glob(f"*{_TEMPORARY}")]:
        path.unlink(missing_ok=True)


def foreign_files(folder: Path) -> list[str]:
    """Return the names in a folder that no build of a store writes."""
    ours = {MANIFEST, INDEX}
    return sorted(
        entry.name
        for entry in folder.iterdir()
        if (name := entry.name.removesuffix(_TEMPORARY)) not in ours
        and not Path(name).match(SEGMENTS)
    )


@contextlib.contextmanager
def only_builder(folder: Path) -> Iterator[None]:
    """Keep other processes from building in the same folder; the lock ends with the process.

    Raises:
        DataError: another process is building there.
    """
    with held(folder) as mine:
        if not mine:
            raise DataError(
                f"{folder}: another process is building an image store there. Wait for its end, or "
                "choose another folder."
            )
        yield


class _HashingFile:
    """A file to write, or none, that computes the SHA-256 of its content along the way."""

    closed = False

    def __init__(self, file: Any = None):
        self._file = file
        self.written = 0
        self.digest = hashlib.sha256()

    def write(self, data: Any) -> int:
        if self._file is not None:
            self._file.write(data)
        self.digest.update(data)
        self.written += len(data)
        return len(data)

    def tell(self) -> int:
        return self.written

    def flush(self) -> None:
        """Leave flushing to the owner of the file, who brings it to the disk."""

    def close(self) -> None:
        """Leave closing to the owner of the file."""


def _write_batch(path: Path, batch: pa.RecordBatch) -> str:
    return write_whole(path, batch.nbytes, lambda file: _write_arrow(file, batch))


def _write_arrow(file: Any, batch: pa.RecordBatch) -> None:
    with pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)


def _disk_full(path: Path, size: int, error: OSError) -> DataError:
    done = [file.stat().st_size for file in path.parent.glob(SEGMENTS)]
    kept = f"{len(done)} finished segments ({sum(done) / 2**20:,.1f} MiB)"
    free = shutil.disk_usage(path.parent).free
    return DataError(
        f"{path}: cannot be written: {error.strerror}. It takes {size / 2**20:,.1f} MiB, and "
        f"{free / 2**20:,.1f} MiB are free. {kept} are kept; this is not a whole image store yet. "
        "Make room (or choose a smaller size or quality) and run the same again: it goes on from "
        "there."
    )


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
