"""The image store of a dataset as a source of images."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from recbole_morec.convert._image_sources import ImageSource, Payload
from recbole_morec.data.content.image_store import ImageStore


class StoreImages(ImageSource):
    """The images of a store; the names are its keys.

    Raises:
        DataError: it is no whole store.
    """

    kind = "store"
    by_key = True

    def __init__(self, path: Path):
        super().__init__(path)
        self._store = ImageStore.open(path)
        self._names = list(self._store.keys())

    def names(self) -> Sequence[str]:
        """Return the keys, in the order of the store."""
        return self._names

    def fingerprint(self, name: str) -> str:
        """Return a checksum of the image."""
        return f"{zlib.crc32(self._store.read(name)):08x}"

    def stream(self, names: Collection[str]) -> Iterator[tuple[str, Payload]]:
        """Read images in the order of the store."""
        wanted = set(names)
        for name in self._names:
            if name in wanted:
                yield name, self._store.read(name)
