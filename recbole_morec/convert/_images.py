"""Image files of a source folder: found by path or by item, checked, copied or linked."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm.auto import tqdm

from recbole_morec.data.content.images import BadImageError, usable_cpus, verify_image

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")

_BLOCK = 64


class ImageFiles:
    """The image files below a folder.

    Args:
        root: the folder; subfolders are searched too.
        source: the folder of the whole source, for paths that are relative to it.
    """

    def __init__(self, root: Path, source: Path):
        self.root = root
        self.source = source
        self.paths: set[str] = set()
        self._by_stem: dict[str, str] = {}
        self._several: dict[str, tuple[str, str]] = {}
        for folder, folders, names in os.walk(root):
            folders.sort()
            for name in sorted(names, key=_preference):
                if Path(name).suffix.lower() in SUFFIXES:
                    self._add(Path(folder, name).relative_to(root))

    def _add(self, path: Path) -> None:
        self.paths.add(path.as_posix())
        for stem in {path.with_suffix("").as_posix(), path.stem}:
            known = self._by_stem.setdefault(stem, path.as_posix())
            if Path(known).parent != path.parent:
                # Two folders have such a file: no telling which one is meant.
                self._several.setdefault(stem, (known, path.as_posix()))

    def of_item(self, token: str) -> str | None:
        """Return the file ``<token>.jpg`` (or png, ...), relative to the root."""
        return None if token in self._several else self._by_stem.get(token)

    def several(self, name: str) -> tuple[str, str] | None:
        """Return two files in different folders that both bear this name, if there are such."""
        return self._several.get(name)

    def of_value(self, value: str) -> str | None:
        """Return the file that a table names: by path, with or without suffix or leading folder."""
        path = value.strip().replace("\\", "/").removeprefix("./")
        inside = path.removeprefix(f"{self.root.name}/")
        if self.root.is_relative_to(self.source):
            inside = inside.removeprefix(f"{self.root.relative_to(self.source).as_posix()}/")
        for candidate in (path, inside):
            if candidate in self.paths:
                return candidate
        return self.of_item(path) or self.of_item(inside)


def _hidden(progress: bool) -> bool | None:
    """The value of tqdm's ``disable``: ``None`` hides a bar where stderr is no terminal."""
    return None if progress else True


def _preference(name: str) -> tuple[int, str]:
    suffix = Path(name).suffix.lower()
    return (SUFFIXES.index(suffix) if suffix in SUFFIXES else len(SUFFIXES)), name


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
