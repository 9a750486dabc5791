"""Images of a source: found by path or by item; files checked, copied or linked."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from tqdm.auto import tqdm

from recbole_morec.convert._image_sources import SUFFIXES, ImageSource
from recbole_morec.data.content.images import BadImageError, usable_cpus, verify_image
from recbole_morec.errors import counted

_BLOCK = 64
_NUMBERED = re.compile(r"v0*(\d+)")


class ImageFiles:
    """Finds the images of a source by item or by what a table says.

    Args:
        images: where they are, opened by :func:`~recbole_morec.convert._image_sources.open_images`.
        source: the folder of the whole source, for paths that are relative to it.

    Attributes:
        root: the folder or file of the images.
        paths: the names of all images; of a folder, paths relative to it.
        by_number: item -> key, where an LMDB has an image of item ``v123`` under ``123`` (the
            layout of IDvs.MoRec and ODMT); filled by :meth:`of_item`.
    """

    def __init__(self, images: ImageSource, source: Path):
        self.images = images
        self.root = images.path
        self.source = source
        self.paths: set[str] = set(images.names())
        self.by_number: dict[str, str] = {}
        self._by_stem: dict[str, str] = {}
        self._several: dict[str, tuple[str, str]] = {}
        if images.by_key:
            self._by_stem = {name: name for name in self.paths}
            return
        for path in sorted(map(PurePosixPath, self.paths), key=_preference):
            self._add(path)

    def _add(self, path: PurePosixPath) -> None:
        for stem in {path.with_suffix("").as_posix(), path.stem}:
            known = self._by_stem.setdefault(stem, path.as_posix())
            if PurePosixPath(known).parent != path.parent:
                # Two folders have such a file: no telling which one is meant.
                self._several.setdefault(stem, (known, path.as_posix()))

    def of_item(self, token: str) -> str | None:
        """Return the name of the image of an item: ``<token>.jpg`` (or png, ...), or its key."""
        if token in self._several:
            return None
        found = self._by_stem.get(token)
        if found is None and self.images.kind == "lmdb" and (match := _NUMBERED.fullmatch(token)):
            found = self._by_stem.get(match[1])
            if found is not None:
                self.by_number[token] = found
        return found

    def several(self, name: str) -> tuple[str, str] | None:
        """Return two files in different folders that both bear this name, if there are such."""
        return self._several.get(name)

    def of_value(self, value: str) -> str | None:
        """Return the image that a table names by path, with or without suffix or outer folder."""
        path = value.strip().replace("\\", "/").removeprefix("./")
        inside = path.removeprefix(f"{self.images.label}/")
        if self.root.is_relative_to(self.source):
            inside = inside.removeprefix(f"{self.root.relative_to(self.source).as_posix()}/")
        for candidate in (path, inside):
            if candidate in self.paths:
                return candidate
        return self.of_item(path) or self.of_item(inside)

    def notes(self) -> list[str]:
        """Return sentences about members that were left out and items found by their number."""
        notes = self.images.notes()
        if self.by_number:
            token, key = next(iter(self.by_number.items()))
            shared = len(self.by_number) - len(set(self.by_number.values()))
            notes.append(
                f"{self.root.name}: {counted(len(self.by_number), 'item was', 'items were')} found "
                "by their number "
                f'("{token}" under the key "{key}")'
                + (f"; {shared} of them share a key with another item." if shared else ".")
            )
        return notes


def _hidden(progress: bool) -> bool | None:
    """The value of tqdm's ``disable``: ``None`` hides a bar where stderr is no terminal."""
    return None if progress else True


def _preference(path: PurePosixPath) -> tuple[tuple[str, ...], int, str]:
    """Order by folder, outer ones first; of files with one stem the preferred kind comes first."""
    return path.parent.parts, SUFFIXES.index(path.suffix.lower()), path.name


def verify_images(root: Path, files: Iterable[str], progress: bool) -> dict[str, str]:
    """Look at every file's header; return file -> reason for the bad ones."""
    files = list(files)
    blocks = [files[at : at + _BLOCK] for at in range(0, len(files), _BLOCK)]

    def look(block: list[str]) -> dict[str, str]:
        bad = {}
        for file in block:
            try:
                verify_image(root / file)
            except BadImageError as error:
                bad[file] = str(error)
        return bad

    bad: dict[str, str] = {}
    bar = tqdm(total=len(files), desc="checking images", disable=_hidden(progress), leave=False)
    with bar, ThreadPoolExecutor(usable_cpus()) as pool:
        for block, found in zip(blocks, pool.map(look, blocks), strict=True):
            bad |= found
            bar.update(len(block))
    return bad


def place_images(files: Mapping[str, Path], folder: Path, link: bool, progress: bool) -> None:
    """Copy (or link) image files.

    Args:
        files: path below ``folder`` -> file to take.
        folder: where to write.
        link: make symbolic links to the files instead of copies.
        progress: show a progress bar.
    """
    label = "linking images" if link else "copying images"
    bar = tqdm(files.items(), label, unit="image", disable=_hidden(progress), leave=False)
    for name, source in bar:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if link:
            target.symlink_to(source.resolve())
        else:
            shutil.copyfile(source, target)
