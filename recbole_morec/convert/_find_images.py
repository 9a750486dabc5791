"""Which folder, archive or LMDB of a source holds its images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from recbole_morec.convert._image_sources import SUFFIXES, open_images
from recbole_morec.convert._images import ImageFiles
from recbole_morec.convert._source import Options
from recbole_morec.convert.report import Report
from recbole_morec.errors import DataError, suggest

_NAME = re.compile(r"(.*[_-])?(images?|imgs?|covers?|posters?|pictures?|photos?)")
_OF_ARCHIVE = re.compile(_NAME.pattern + r"([_-].*)?")  # such as hm_image_20W.lmdb
_ARCHIVE = re.compile(r"(.+?)\.(zip|tar|tgz|tar\.(gz|bz2|xz)|lmdb|mdb)")


def find_images(
    options: Options,
    report: Report,
    folders: Sequence[Path] | None = None,
    names: Sequence[str] = (),
) -> ImageFiles | None:
    """Open the images of a source: what ``--images`` names, what has a usual name, or looks so.

    Args:
        options: what the user asked for.
        report: gets what was found.
        folders: where to look, the best first; default the folder of the source.
        names: usual names of the folder or, without its suffix, the archive, the best first.

    Raises:
        DataError: what was named is not there, or several folders or archives fit.
    """
    source, given = options.input, options.images
    path = None
    if given is not None:
        path = source / given if (source / given).exists() else Path(given)
        if not path.exists():
            there = [entry.name for entry in source.iterdir()]
            raise DataError(f"{path}: no such folder or archive (--images).{suggest(given, there)}")
    else:
        places = list(dict.fromkeys([source] if folders is None else folders))
        usual = [re.compile(re.escape(name.lower())) for name in names]
        for name in (*usual, _NAME):
            for place in places:
                fitting = [p for p in sorted(place.iterdir()) if _fits(p, name)]
                path = path or _one_of(place, fitting)
        if path is None:
            report.detected["images"] = "no folder"
            return None
    found = open_images(path, options.progress)
    files = ImageFiles(found, source)
    if not files.paths:
        report.notes.append(f"{path} holds no image ({', '.join(SUFFIXES)}).")
    what = "/" if found.kind == "folder" else f" ({found.kind})"
    report.detected["images"] = f"{name_in(path, source)}{what} ({len(files.paths):,} images)"
    return files


def name_in(path: Path, source: Path) -> str:
    """A path relative to the source where it lies there."""
    return path.relative_to(source).as_posix() if path.is_relative_to(source) else str(path)


def _fits(path: Path, names: re.Pattern[str]) -> bool:
    name = path.name.lower()
    if path.is_dir():
        return names.fullmatch(name.removesuffix(".lmdb")) is not None
    archive = _ARCHIVE.fullmatch(name)
    if archive is None:
        return False
    return (_OF_ARCHIVE if names is _NAME else names).fullmatch(archive[1]) is not None


def _one_of(source: Path, fitting: Sequence[Path]) -> Path | None:
    # Whoever unpacked an archive and kept it wants the folder, which is the same and faster.
    folders = [path for path in fitting if path.is_dir()]
    fitting = folders or fitting
    if len(fitting) > 1:
        names = ", ".join(path.name for path in fitting)
        kind = "folders" if folders else "archives"
        raise DataError(f"{source}: several {kind} fit: {names}. Choose one with --images.")
    return fitting[0] if fitting else None
