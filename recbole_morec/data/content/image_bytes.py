"""Where the encoded images of a dataset lie: in files of its folder, or in its image store."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from recbole_morec.data.content.decoding import BadImageError
from recbole_morec.data.content.image_store import ImageStore
from recbole_morec.errors import DataError

STORE_FOLDER = "images"


class ImageBytes(Protocol):
    """Encoded images by the value of an ``image`` field.

    Attributes:
        cure: what to do about images that cannot be read, for messages.
    """

    cure: str

    def missing(self, value: str) -> str | None:
        """Return why there is no such image, without reading it, or ``None`` if there is one."""

    def identity(self, value: str) -> str:
        """Return what changes where an image does, without reading it."""

    def read(self, value: str) -> bytes:
        """Return the bytes of an image.

        Raises:
            BadImageError: there are none, or they are damaged.
        """


def open_image_bytes(folder: str | Path) -> ImageBytes:
    """Open the images of a dataset folder: its store in ``images/`` if it has one, else its files.

    Raises:
        DataError: the store is not whole.
    """
    folder = Path(folder)
    if ImageStore.is_store(folder / STORE_FOLDER):
        return StoredImages(ImageStore.open(folder / STORE_FOLDER))
    return ImagesInFiles(folder)


class ImagesInFiles:
    """Image files; a value is a path relative to the dataset folder."""

    cure = "Replace these files"

    def __init__(self, folder: Path):
        self._folder = folder

    def missing(self, value: str) -> str | None:
        """Return why there is no such file, or ``None``."""
        path = self._folder / value
        if path.is_file():
            return None
        return "this is a folder" if path.is_dir() else "the file does not exist"

    def identity(self, value: str) -> str:
        """Size and time of the last change of a file."""
        status = (self._folder / value).stat()
        return f"{status.st_size}:{status.st_mtime_ns}"

    def read(self, value: str) -> bytes:
        """Return the bytes of a file."""
        return read_file(self._folder / value)


class StoredImages:
    """An image store; a value is a key of it."""

    cure = "Convert the images again from files that can be read"

    def __init__(self, store: ImageStore):
        self._store = store

    def missing(self, value: str) -> str | None:
        """Return why the store has no such image, or ``None``."""
        try:
            if value in self._store:
                return None
        except DataError as error:
            return str(error)
        reason = self._store.quarantined(value)
        if reason is not None:
            return f"left out when the image store was built: {reason}"
        return "the image store does not have it"

    def identity(self, value: str) -> str:
        """Checksum of a record."""
        return str(self._store.checksum(value))

    def read(self, value: str) -> bytes:
        """Return the bytes of a record, whose checksum is right."""
        try:
            return self._store.read(value)
        except KeyError:
            raise BadImageError(self.missing(value)) from None
        except DataError as error:
            raise BadImageError(str(error)) from None


def read_file(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises:
        BadImageError: there is no such file, or it cannot be opened.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise BadImageError("the file does not exist") from None
    except IsADirectoryError:
        raise BadImageError("this is a folder") from None
    except OSError as error:
        raise BadImageError(f"the file cannot be opened ({error.strerror})") from None
