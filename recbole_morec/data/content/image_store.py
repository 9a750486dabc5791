"""The image store of a dataset: encoded images by key, packed, memory-mapped, checksummed.

A store is a folder of Arrow IPC files, ``segment-00000.arrow``, ... (columns ``key``, ``image``,
``crc32``), an ``index.arrow`` that finds a key, and ``manifest.json``, which is written last:
without it there is no store. :mod:`recbole_morec.convert._image_store_writer` writes one.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from recbole_morec.errors import DataError

FORMAT = "recbole_morec image store"
VERSION = 1
MANIFEST = "manifest.json"
INDEX = "index.arrow"
SEGMENTS = "segment-*.arrow"
AGAIN = "Convert the images again, or copy the store again if this is a copy."

COLUMN_TYPES = (pa.string(), pa.large_binary(), pa.uint32())  # of key, image, crc32

_MOST_OPEN = 256  # segments; each holds a file descriptor


class ImageStore:
    """Encoded images by key. Open one with :meth:`open`.

    Reading needs no more memory than the pages it touches: an index of 16 bytes per image is
    searched where it lies in its file. A store may be pickled to worker processes, which open the
    files again at their first read, and used by forked ones and by threads.

    ``key in store`` and ``len(store)`` are what they say.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]):
        self.folder = folder
        self.manifest = manifest
        self._segments: dict[int, Segment] = {}

    @staticmethod
    def is_store(folder: str | Path) -> bool:
        """Whether a folder holds a store, or the beginnings of one."""
        folder = Path(folder)
        return (folder / MANIFEST).is_file() or next(folder.glob(SEGMENTS), None) is not None

    @classmethod
    def open(cls, folder: str | Path) -> ImageStore:
        """Open a store.

        Looks at the sizes of all files and at the checksums of the manifest and the index; images
        are checked as they are read, and all at once by :meth:`verify`.

        Args:
            folder: of the store itself, ``images/`` in a dataset folder.

        Raises:
            DataError: there is no store, it is not whole, or it is of a later version.
        """
        folder = Path(folder)
        store = cls(folder, read_manifest(folder))
        for entry in [*store.manifest["segments"], store.manifest["index"]]:
            path = folder / entry["file"]
            found = path.stat().st_size if path.is_file() else None
            if found != entry["bytes"]:
                raise DataError(
                    f"{path}: {'is missing' if found is None else f'has {found:,} bytes'}; the "
                    f"image store wrote {entry['bytes']:,}. {AGAIN}"
                )
        store._index  # noqa: B018 - opened now, so that damage shows now
        return store

    def __len__(self) -> int:
        return self.manifest["images"]

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._find(key) is not None

    def keys(self) -> Iterator[str]:
        """Iterate over the keys in the order of the files."""
        for number in range(len(self.manifest["segments"])):
            segment = self._segment(number)
            yield from (segment.key(row).decode() for row in range(len(segment)))

    def read(self, key: str) -> bytes:
        """Return the encoded bytes of an image.

        Raises:
            KeyError: there is no such key.
            DataError: the record is damaged; the key and the file are named.
        """
        place = self._find(key)
        if place is None:
            raise KeyError(key)
        segment, row = place
        return segment.image(row)

    def checksum(self, key: str) -> int:
        """Return the CRC-32 that was stored with an image.

        Raises:
            KeyError: there is no such key.
        """
        place = self._find(key)
        if place is None:
            raise KeyError(key)
        segment, row = place
        return segment.crc(row)

    def quarantined(self, key: str) -> str | None:
        """Return why the image of an item was left out when the store was built, or ``None``."""
        return self._quarantine.get(key)

    def verify(self, progress: bool = False) -> None:
        """Check every byte of the store: the SHA-256 of all files and the checksum of each record.

        Args:
            progress: show a progress bar.

        Raises:
            DataError: with all damaged files and images named (of each file the first few images).
        """
        read_manifest(self.folder)
        problems = []
        entries = [*self.manifest["segments"], self.manifest["index"]]
        total = sum(entry["bytes"] for entry in entries)
        bar = tqdm(
            total=total, desc="verifying", unit="B", unit_scale=True, leave=False,
            disable=None if progress else True,  # None: only on a terminal
        )  # fmt: skip
        with bar:
            for number, entry in enumerate(entries):
                path = self.folder / entry["file"]
                if file_sha256(path, bar.update) == entry["sha256"]:
                    continue
                named = self._damaged_keys(number) if entry is not entries[-1] else ""
                problems.append(f"{path}: its bytes have changed (SHA-256){named}")
        if problems:
            raise DataError(
                "The image store is damaged.\n  " + "\n  ".join(problems) + f"\n{AGAIN}"
            )

    def _damaged_keys(self, number: int) -> str:
        try:
            segment = self._segment(number)
        except DataError as error:
            return f"; {error}"
        bad = [segment.key(row) for row in range(len(segment)) if not segment.sound(row)]
        shown = ", ".join(f'"{key.decode(errors="replace")}"' for key in bad[:5])
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        return f"; damaged images: {shown}{more}" if bad else "; no image is touched"

    def _find(self, key: str) -> tuple[Segment, int] | None:
        hashes, segments, rows = self._index
        code = key.encode("utf-8", "surrogatepass")
        wanted = np.uint64(key_hash(code))  # an int would turn all of the hashes into floats
        place = int(hashes.searchsorted(wanted))
        while place < len(hashes) and hashes[place] == wanted:
            segment, row = self._segment(int(segments[place])), int(rows[place])
            if segment.key(row) == code:
                return segment, row
            segment.check(row, key)  # another key with this hash, unless the key is damaged
            place += 1
        return None

    @cached_property
    def _index(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        path, entry = self.folder / INDEX, self.manifest["index"]
        if file_sha256(path) != entry["sha256"]:
            raise DataError(f"{path}: the index of the image store is damaged (SHA-256). {AGAIN}")
        batch = open_batch(path)
        if batch.num_rows != len(self):
            raise DataError(f"{path}: does not belong to {MANIFEST} beside it. {AGAIN}")
        return tuple(
            np.frombuffer(batch.column(name).buffers()[1], kind, len(self))
            for name, kind in (("hash", np.uint64), ("segment", np.uint32), ("row", np.uint32))
        )

    @cached_property
    def _quarantine(self) -> dict[str, str]:
        return {bad["item"]: bad["reason"] for bad in self.manifest["quarantine"]}

    def _segment(self, number: int) -> Segment:
        found = self._segments.get(number)
        if found is None:
            entry = self.manifest["segments"][number]
            found = self._segments[number] = Segment(self.folder / entry["file"])
            for old in list(self._segments)[:-_MOST_OPEN]:
                self._segments.pop(old, None)
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "manifest": self.manifest, "_segments": {}}


class Segment:
    """One file of a store, memory-mapped.

    Attributes:
        metadata: the texts of the file's schema, which its writer leaves for itself.

    Raises:
        DataError: the file is no segment, or its frame is damaged.
    """

    def __init__(self, path: Path):
        self.path = path
        batch = open_batch(path)
        self._rows = batch.num_rows
        self.metadata: dict[bytes, bytes] = batch.schema.metadata or {}
        try:
            key, image, crc = (batch.column(name) for name in ("key", "image", "crc32"))
            if (key.type, image.type, crc.type) != COLUMN_TYPES:
                raise TypeError
            self._keys, self._key_ends = _column(key, np.int32)
            self._images, self._image_ends = _column(image, np.int64)
            self._crcs = np.frombuffer(crc.buffers()[1] or b"", np.uint32)[: self._rows]
            if not len(self._key_ends) == len(self._image_ends) == len(self._crcs) + 1:
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise DataError(f"{path}: is no segment of an image store. {AGAIN}") from None

    def __len__(self) -> int:
        return self._rows

    def key(self, row: int) -> bytes:
        """Return a key in UTF-8."""
        return _slice(self._keys, self._key_ends, row)

    def image(self, row: int) -> bytes:
        """Return the bytes of an image.

        Raises:
            DataError: the record is damaged.
        """
        image = _slice(self._images, self._image_ends, row)
        key = self.key(row)
        if record_crc(key, image) != self._crcs[row]:
            raise DataError(
                f'{self.path}: the image "{key.decode(errors="replace")}" is damaged (CRC-32). '
                f"{AGAIN}"
            )
        return image

    def crc(self, row: int) -> int:
        """Return the stored CRC-32 of a record."""
        return int(self._crcs[row])

    def sound(self, row: int) -> bool:
        """Whether a record is as it was written."""
        return (
            record_crc(self.key(row), _slice(self._images, self._image_ends, row))
            == (self._crcs[row])
        )

    def check(self, row: int, sought: str) -> None:
        """Raise a DataError if a record that should be ``sought`` is damaged."""
        if not self.sound(row):
            raise DataError(
                f'{self.path}: record {row}, which may be the image "{sought}", is damaged '
                f"(CRC-32). {AGAIN}"
            )


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a store.

    Raises:
        DataError: there is none, or it is damaged or of a later version.
    """
    path = folder / MANIFEST
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if ImageStore.is_store(folder):
            raise DataError(
                f"{folder}: this is not a whole image store: {MANIFEST}, which is written last, is "
                "missing. Building it was interrupted: run the same conversion again, which goes "
                "on where it stopped."
            ) from None
        raise DataError(f"{folder}: there is no image store ({MANIFEST}).") from None
    try:
        manifest = json.loads(text)
        claimed = manifest.pop("sha256")
        known = manifest["format"] == FORMAT
        version = manifest["version"]
        whole = known and claimed == manifest_sha256(manifest)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise DataError(f"{path}: is damaged. {AGAIN}") from None
    if known and isinstance(version, int) and version > VERSION:
        raise DataError(
            f"{path}: the image store is of version {version}; this recbole_morec reads up to "
            f"{VERSION}. Install a newer one."
        )
    if not whole:
        raise DataError(f"{path}: is damaged (SHA-256). {AGAIN}")
    return manifest


def manifest_sha256(manifest: dict[str, Any]) -> str:
    """Return the checksum of a manifest that does not hold it yet."""
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def open_batch(path: Path) -> pa.RecordBatch:
    """Memory-map an Arrow file of one record batch; nothing is copied.

    Raises:
        DataError: the file cannot be read, or its frame is damaged.
    """
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        if reader.num_record_batches != 1:
            raise pa.ArrowInvalid(f"{reader.num_record_batches} record batches")
        return reader.get_batch(0)
    except (pa.ArrowException, OSError, ValueError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: cannot be read as an Arrow file ({first}). {AGAIN}") from None


def key_hash(key: bytes) -> int:
    """Return the 64-bit hash under which the index lists a key (UTF-8)."""
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")


def record_crc(key: bytes, image: bytes) -> int:
    """Return the CRC-32 of a record: the key, then the image."""
    return zlib.crc32(image, zlib.crc32(key))


def file_sha256(path: Path, advance: Any = lambda count: None) -> str:
    """Return the SHA-256 of a file; ``advance`` is told of the bytes as they are read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


def _column(column: pa.Array, kind: type) -> tuple[memoryview, np.ndarray]:
    """Return the bytes of a column's values and the ``rows + 1`` places where they end."""
    _, ends, data = column.buffers()
    if len(column) == 0:
        return memoryview(b""), np.zeros(1, kind)
    return memoryview(data or b""), np.frombuffer(ends, kind, len(column) + 1)


def _slice(data: memoryview, ends: np.ndarray, row: int) -> bytes:
    """Return one value of a column; of damaged offsets, bytes whose checksum will be wrong."""
    start, end = int(ends[row]), int(ends[row + 1])
    return bytes(data[start:end]) if 0 <= start <= end <= len(data) else b""
