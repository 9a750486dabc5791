"""Images in zip and tar archives, read in place."""

from __future__ import annotations

import bz2
import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from tqdm.auto import tqdm

from recbole_morec.convert._image_sources import (
    MOST_BYTES,
    ImageSource,
    Payload,
    Unreadable,
    is_image_name,
    safe_name,
    too_large,
)
from recbole_morec.errors import DataError

OUTSIDE = "the name leads outside the archive"
NO_FILE = "a link or device, not a file"
REPEATED = "an earlier version of a member that follows again"

# What zipfile, tarfile and the decompressors raise for damaged, encrypted or unknown members.
_DAMAGE = (
    *(OSError, EOFError, RuntimeError, ValueError, NotImplementedError, zipfile.BadZipFile),
    *(zlib.error, lzma.LZMAError, tarfile.TarError),
)
_MOST_HEADER = 2**20  # bytes of an extended tar header: a name, not a memory bomb


class ZipImages(ImageSource):
    """The images of a zip archive.

    Raises:
        DataError: the archive is damaged, or images in it are encrypted.
    """

    kind = "zip"

    def __init__(self, path: Path):
        super().__init__(path)
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
        except _DAMAGE as error:
            raise _damaged(path, error) from None
        self._members: dict[str, zipfile.ZipInfo] = {}
        for info in members:
            name = info.filename
            if info.is_dir() or not is_image_name(name):
                continue
            mode = info.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                self._skip(NO_FILE, name)
            elif (safe := safe_name(name)) is None:
                self._skip(OUTSIDE, name)
            elif info.flag_bits & 1:
                raise DataError(
                    f"{path}: {name} is encrypted. Unpack the archive with its password and name "
                    "the folder."
                )
            else:
                if safe in self._members:
                    self._skip(REPEATED, name)
                self._members[safe] = info
        self._names = sorted(self._members, key=lambda name: self._members[name].header_offset)

    def names(self) -> Sequence[str]:
        """Return the names of the images in the order of the archive."""
        return self._names

    def fingerprint(self, name: str) -> str:
        """Return the checksum and size that the archive lists."""
        info = self._members[name]
        return f"{info.CRC:08x}:{info.file_size}"

    def stream(self, names: Collection[str]) -> Iterator[tuple[str, Payload]]:
        """Read members in the order of the archive."""
        wanted = set(names)
        try:
            archive = zipfile.ZipFile(self.path)
        except _DAMAGE as error:
            raise _damaged(self.path, error) from None
        with archive:
            for name in self._names:
                if name in wanted:
                    yield name, _read_member(archive, self._members[name])


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Payload:
    if info.file_size > MOST_BYTES:
        return too_large(info.file_size)
    try:
        with archive.open(info) as file:
            return file.read()  # no more than the size that the archive lists
    except _DAMAGE as error:
        return Unreadable(f"cannot be unpacked ({_text(error)})")


class _TarMember(NamedTuple):
    number: int  # among all members
    offset: int  # of the data, where the tar is not compressed
    size: int
    time: float


class TarImages(ImageSource):
    """The images of a tar archive.

    A compressed one is read through once for its table of contents and its checksum, and once more
    by every :meth:`stream`.

    Args:
        path: the archive.
        compression: ``plain``, ``gz``, ``bz2`` or ``xz``.
        progress: show a progress bar while a compressed archive is listed.

    Raises:
        DataError: the archive is damaged or cut off.
    """

    kind = "tar"

    def __init__(self, path: Path, compression: str, progress: bool = False):
        super().__init__(path)
        self._compression = compression
        self._members: dict[str, _TarMember] = {}
        with self._open(progress, to_end=True) as archive:
            for number, member in enumerate(_members(archive)):
                self._list(number, member)
            self._ended = archive.tarinfo.ended
        self._names = sorted(self._members, key=lambda name: self._members[name].number)

    def _list(self, number: int, member: tarfile.TarInfo) -> None:
        name = member.name
        if member.isdir() or not is_image_name(name):
            return
        if not member.isreg() or member.issparse():
            self._skip(NO_FILE, name)
        elif (safe := safe_name(name)) is None:
            self._skip(OUTSIDE, name)
        else:
            if safe in self._members:
                self._skip(REPEATED, name)
            self._members[safe] = _TarMember(number, member.offset_data, member.size, member.mtime)

    def notes(self) -> list[str]:
        """Return a sentence for every kind of member that was left out, and on a missing end."""
        notes = super().notes()
        if not self._ended:
            notes.append(f"{self.path.name}: has no end mark, so it may be cut off after a member.")
        return notes

    def names(self) -> Sequence[str]:
        """Return the names of the images in the order of the archive."""
        return self._names

    def fingerprint(self, name: str) -> str:
        """Return place, size and time of a member."""
        return ":".join(map(str, self._members[name]))

    def stream(self, names: Collection[str]) -> Iterator[tuple[str, Payload]]:
        """Read members in the order of the archive."""
        asked = set(names)
        wanted = {name: self._members[name] for name in self._names if name in asked}
        return self._by_offset(wanted) if self._compression == "plain" else self._by_order(wanted)

    def _by_offset(self, wanted: dict[str, _TarMember]) -> Iterator[tuple[str, Payload]]:
        with self.path.open("rb") as file:
            for name, member in wanted.items():
                if member.size > MOST_BYTES:
                    yield name, too_large(member.size)
                    continue
                file.seek(member.offset)
                data = file.read(member.size)
                if len(data) < member.size:
                    raise _damaged(self.path, EOFError("cut off since it was listed"))
                yield name, data

    def _by_order(self, wanted: dict[str, _TarMember]) -> Iterator[tuple[str, Payload]]:
        by_number = {member.number: name for name, member in wanted.items()}
        last = max(by_number, default=-1)
        with self._open() as archive:
            for number, member in enumerate(_members(archive)):
                if number > last:
                    return
                name = by_number.get(number)
                if name is None:
                    continue
                if member.size != wanted[name].size:
                    raise _damaged(self.path, ValueError("it has changed since it was listed"))
                if member.size > MOST_BYTES:
                    yield name, too_large(member.size)
                else:
                    yield name, archive.extractfile(member).read()

    @contextmanager
    def _open(self, progress: bool = False, to_end: bool = False) -> Iterator[tarfile.TarFile]:
        bar = tqdm(
            total=self.path.stat().st_size, desc=f"listing {self.path.name}", unit="B",
            unit_scale=True, leave=False, disable=None if progress else True,
        )  # fmt: skip
        kind = type("Member", (_Member,), {"ended": False})
        try:
            with bar, self.path.open("rb") as file:
                if self._compression == "plain":
                    with tarfile.open(fileobj=file, mode="r:", tarinfo=kind) as archive:
                        yield archive
                    return
                opener = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}[self._compression]
                with (
                    opener(_Watched(file, bar)) as unpacked,
                    tarfile.open(
                        fileobj=unpacked, mode="r|", bufsize=2**18, tarinfo=kind
                    ) as archive,
                ):
                    yield archive
                    while to_end and unpacked.read(2**20):  # the checksum stands there
                        pass
        except _DAMAGE as error:
            raise _damaged(self.path, error) from None


class _Member(tarfile.TarInfo):
    """A member whose damaged header is an error; the library takes one for the archive's end.

    ``ended``, of a class made for one archive, tells whether the archive's end mark was seen.
    """

    ended: ClassVar[bool]

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> tarfile.TarInfo:
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:
            cls.ended = True
            raise
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:
            raise tarfile.SubsequentHeaderError(str(error)) from None

    def _proc_member(self, tarfile_: tarfile.TarFile) -> tarfile.TarInfo:
        extended = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
        long_name = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
        if self.type in (*extended, *long_name) and self.size > _MOST_HEADER:
            raise tarfile.SubsequentHeaderError(f"a header of {self.size:,} bytes")
        return super()._proc_member(tarfile_)


class _Watched:
    """A file whose reading moves a progress bar."""

    def __init__(self, file: Any, bar: tqdm):
        self._file = file
        self._bar = bar

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._bar.update(len(data))
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Iterate without the list of all members that the library would keep."""
    while (member := archive.next()) is not None:
        archive.members.clear()
        yield member


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path}: the archive is damaged or cut off ({_text(error)}). Download or pack it again."
    )


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__
