"""Where images come from: a folder, a zip or tar archive, an LMDB. Nothing is unpacked to disk.

:func:`open_images` looks at the first bytes to tell which it is. Every source has a table of
contents, in the order in which it can be read, and reads images in that order.
"""

from __future__ import annotations

import os
import re
import stat
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np

from recbole_morec.data.content.image_store import MANIFEST
from recbole_morec.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
MOST_BYTES = 128 * 2**20  # of one image file; what claims to be larger is no picture

_SHOWN = 3
_ARCHIVE_SUFFIX = re.compile(r"(\.tar)?\.\w+$")
_LMDB_MAGIC = (0xBEEFC0DE).to_bytes(4, "little")
_COMPRESSED = {b"\x1f\x8b": "gz", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz"}


@dataclass(frozen=True)
class Unreadable:
    """What a source gives instead of an image; ``reason`` says why."""

    reason: str


Payload = bytes | np.ndarray | Unreadable
"""Bytes of an image file, raw pixels (uint8 ``[H, W, 3]``), or the reason why there are none."""


class ImageSource(ABC):
    """Images by name.

    Args:
        path: the folder or file.

    Attributes:
        kind: ``folder``, ``zip``, ``tar``, ``lmdb`` or ``store``.
        label: the name without the suffixes of an archive; tables put it before a member's name.
        skipped: members that are no images by rule (links, unsafe names, ...): reason -> names.
    """

    kind: ClassVar[str]
    by_key: ClassVar[bool] = False
    """Whether the names are items, not names of files."""

    def __init__(self, path: Path):
        self.path = path
        self.label = _ARCHIVE_SUFFIX.sub("", path.name) if path.is_file() else path.name
        self.skipped: dict[str, list[str]] = {}

    @abstractmethod
    def names(self) -> Sequence[str]:
        """Return the names of all images, in the order in which :meth:`stream` gives them.

        Of a folder or archive they are paths with ``/``, without ``..``; of an LMDB its keys.
        """

    @abstractmethod
    def fingerprint(self, name: str) -> str:
        """Return a text that changes when an image changes; cheap beside decoding the image."""

    @abstractmethod
    def stream(self, names: Collection[str]) -> Iterator[tuple[str, Payload]]:
        """Read images one after the other, in the order of :meth:`names`.

        Args:
            names: those to read; an archive passes over the others.

        Raises:
            DataError: the source has changed or is damaged, so that it cannot be read on.
        """

    def notes(self) -> list[str]:
        """Return a sentence for every kind of member that was left out."""
        return [
            f"{self.path.name}: {len(names):,} member{'s were' if len(names) > 1 else ' was'} left "
            f"out: {reason} ({', '.join(names[:_SHOWN])}{', ...' if names[_SHOWN:] else ''})."
            for reason, names in self.skipped.items()
        ]

    def _skip(self, reason: str, name: str) -> None:
        self.skipped.setdefault(reason, []).append(name)


class FolderImages(ImageSource):
    """The image files below a folder, subfolders included; linked folders are not entered."""

    kind = "folder"

    def __init__(self, path: Path):
        super().__init__(path)
        self._names = [
            Path(place, name).relative_to(path).as_posix()
            for place, _, names in os.walk(path, onerror=_cannot_list)
            for name in names
            if is_image_name(name)
        ]
        self._names.sort()

    def names(self) -> Sequence[str]:
        """Return paths relative to the folder, sorted."""
        return self._names

    def fingerprint(self, name: str) -> str:
        """Return size and time of change."""
        try:
            found = (self.path / name).stat()
        except OSError:
            return "gone"
        return f"{found.st_size}:{found.st_mtime_ns}"

    def stream(self, names: Collection[str]) -> Iterator[tuple[str, Payload]]:
        """Read files in the order of their names."""
        wanted = set(names)
        for name in self._names:
            if name in wanted:
                yield name, _read_regular(self.path / name)


def open_images(path: str | Path, progress: bool = False) -> ImageSource:
    """Open a folder, zip, tar (plain, gz, bz2, xz), LMDB (file or folder) or store of images.

    Args:
        path: the folder or file; what it is shows in its content, not in its name.
        progress: show a progress bar while a compressed tar is listed, which reads all of it.

    Raises:
        DataError: there is no such thing, it is none of these, or it is damaged or encrypted.
    """
    from recbole_morec.convert._archive_images import TarImages, ZipImages
    from recbole_morec.convert._lmdb_images import LmdbImages
    from recbole_morec.convert._store_images import StoreImages

    path = Path(path)
    if path.is_dir() and (path / MANIFEST).is_file():
        return StoreImages(path)
    if path.is_dir():
        is_lmdb = (path / "data.mdb").is_file() and _kind(path / "data.mdb") == "lmdb"
        return LmdbImages(path) if is_lmdb else FolderImages(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder of images.")
    kind = _kind(path)
    if kind == "zip":
        return ZipImages(path)
    if kind == "lmdb":
        return LmdbImages(path)
    if kind is not None:
        return TarImages(path, kind, progress)
    raise DataError(
        f"{path}: is no zip, tar, tar.gz or LMDB. Name such a file, or unpack it and name the "
        "folder of the images."
    )


def is_image_name(name: str) -> bool:
    """Whether a file is an image by its name; what macOS leaves in archives is not."""
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not path.name.startswith("._")


def safe_name(name: str) -> str | None:
    """Return an archive member's name as a relative path, or ``None`` if it leads outside."""
    name = name.replace("\\", "/")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or (parts and parts[0].endswith(":")):
        return None
    return "/".join(parts)


def _kind(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror}).") from None
    if start[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return "zip"
    if start[16:20] == _LMDB_MAGIC:
        return "lmdb"
    for magic, compression in _COMPRESSED.items():
        if start.startswith(magic):
            return compression
    if start[257:262] == b"ustar" or _old_tar(start):
        return "plain"
    return "zip" if zipfile.is_zipfile(path) else None


def _old_tar(header: bytes) -> bool:
    """Whether a block is the header of a tar from before ustar: its checksum is right."""
    try:
        claimed = int(header[148:156].strip(b"\0 ") or b"x", 8)
    except ValueError:
        return False
    return len(header) == 512 and claimed == sum(header[:148]) + 8 * 32 + sum(header[156:])


def _read_regular(path: Path) -> Payload:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # reading a pipe would wait for ever
            return Unreadable("this is a folder, a device or a pipe")
        if found.st_size > MOST_BYTES:
            return too_large(found.st_size)
        return path.read_bytes()
    except FileNotFoundError:
        return Unreadable("the file does not exist")
    except OSError as error:
        return Unreadable(f"the file cannot be opened ({error.strerror})")


def too_large(size: int) -> Unreadable:
    """Return the reason to refuse a file by its size."""
    return Unreadable(f"too large ({size:,} bytes; at most {MOST_BYTES:,} are read)")


def _cannot_list(error: OSError) -> None:
    raise DataError(f"{error.filename}: the folder cannot be listed ({error.strerror}).")
