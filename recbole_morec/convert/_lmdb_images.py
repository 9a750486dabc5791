"""Images in an LMDB: Westlake's pickled records, or encoded images as they are."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from recbole_morec.convert._image_sources import ImageSource, Payload, Unreadable
from recbole_morec.convert._westlake_records import read_listed_keys, read_record
from recbole_morec.data.content.decoding import BadImageError
from recbole_morec.errors import ConfigError, DataError

_LIST, _COUNT = b"__keys__", b"__len__"
_PICKLE = b"\x80"  # protocol 2 and later


class LmdbImages(ImageSource):
    """The images of an LMDB; names are its keys, most often item ids.

    It is opened read-only, without a lock file. A value is a pickled ``LMDB_Image`` (see
    :mod:`recbole_morec.convert._westlake_records`) or the bytes of an image file. Keys that the
    record ``__keys__`` lists and that have no record are images that failed when the LMDB was
    built; they are among the names, and reading them gives the reason.

    Args:
        path: the file, or the folder of ``data.mdb``.

    Raises:
        ConfigError: the package lmdb is not installed.
        DataError: the LMDB is damaged or cut off.
    """

    kind = "lmdb"
    by_key = True

    def __init__(self, path: Path):
        super().__init__(path)
        stored: list[str] = []
        with self._open() as transaction:
            for key in transaction.cursor().iternext(values=False):
                name = _decoded(key)
                if name is None:
                    self._skip("the key is no UTF-8 text", repr(key))
                elif key not in (_LIST, _COUNT):
                    stored.append(name)
            listed = transaction.get(_LIST)
        self._names = stored + self._lost(listed, stored)

    def _lost(self, listed: bytes | None, stored: list[str]) -> list[str]:
        if listed is None:
            return []
        try:
            keys = [_decoded(key) for key in read_listed_keys(listed)]
        except BadImageError as error:
            raise DataError(
                f"{self.path}: its list of keys (__keys__) cannot be read: {error}. No known "
                "script writes such a list; do not use this LMDB unless you know who made it."
            ) from None
        return sorted({key for key in keys if key is not None}.difference(stored))

    def names(self) -> Sequence[str]:
        """Return the keys in the order of the LMDB, then those that are listed but not there."""
        return self._names

    def fingerprint(self, name: str) -> str:
        """Return length and checksum of the record; the first call reads all records once.

        Nothing cheaper tells two LMDBs with the same keys apart.
        """
        return self._checksums.get(name.encode(), "no record")

    @cached_property
    def _checksums(self) -> dict[bytes, str]:
        with self._open(buffers=True) as transaction:
            return {
                bytes(key): f"{len(value)}:{zlib.crc32(value):08x}"
                for key, value in transaction.cursor()
            }

    def stream(self, names: Collection[str]) -> Iterator[tuple[str, Payload]]:
        """Read records in the order of the keys."""
        wanted = set(names)
        with self._open() as transaction:
            for name in self._names:
                if name in wanted:
                    yield name, _payload(transaction.get(name.encode()))

    @contextmanager
    def _open(self, buffers: bool = False) -> Iterator[Any]:
        try:
            import lmdb
        except ImportError:
            raise ConfigError(
                f"{self.path} is an LMDB; reading one takes the package lmdb: "
                'pip install "recbole-morec[lmdb]".'
            ) from None
        folder = self.path.is_dir()
        try:
            with lmdb.open(
                str(self.path), subdir=folder, readonly=True, lock=False, create=False,
                readahead=False,
            ) as environment:  # fmt: skip
                self._check_length(environment, self.path / "data.mdb" if folder else self.path)
                with environment.begin(buffers=buffers) as transaction:
                    yield transaction
        except lmdb.Error as error:
            raise DataError(f"{self.path}: the LMDB cannot be read ({error}).") from None

    def _check_length(self, environment: Any, file: Path) -> None:
        """Raise a DataError if the file is cut off: reading past its end would end the process."""
        needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
        if file.stat().st_size < needed:
            raise DataError(
                f"{file}: the LMDB is cut off: {file.stat().st_size:,} of {needed:,} bytes. "
                "Download it again; if it is whole where it was made, copy it by `mdb_copy -c`."
            )


def _decoded(key: bytes) -> str | None:
    try:
        return key.decode()
    except UnicodeDecodeError:
        return None


def _payload(value: bytes | None) -> Payload:
    if value is None:
        return Unreadable("listed in __keys__, but it has no record")
    if not value.startswith(_PICKLE):
        return value
    try:
        return read_record(value)
    except BadImageError as error:
        return Unreadable(str(error))
