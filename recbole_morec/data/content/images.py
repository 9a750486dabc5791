"""Item images: a dataset's files or image store -> uint8 arrays, decoded once or on demand."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from tqdm.auto import tqdm

from recbole_morec.data.content.decoding import (
    GREY,
    RESIZE,
    BadImageError,
    check_image,
    decode_image,
)
from recbole_morec.data.content.image_bytes import open_image_bytes, read_file
from recbole_morec.errors import ConfigError, DataError, unknown
from recbole_morec.sizes import write_size

_SHOWN = 5
_BLOCK = 32
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BadImage:
    """An image that was replaced by a grey one.

    Attributes:
        item: the item's token.
        path: the file, or the key in the image store, as the dataset names it.
        reason: what is wrong with it.
    """

    item: str
    path: str
    reason: str


class UnreadableImagesError(DataError):
    """Images that cannot be read where ``bad_images`` is ``error``: all of them that were found."""


class ImageFolderReader:
    """Reads the images of items from a dataset folder: from its image store, or from files.

    Args:
        folder: the dataset folder; a store lies in its ``images/``.
        paths: by internal item id, keys of the store if the folder has one, else files relative
            to ``folder``; ``None`` (as for id 0, padding) is read as a grey image.
        size: side of the square that every image is brought to, in pixels.
        resize: ``squash`` ignores the aspect ratio; ``crop`` brings the shorter side to ``size``
            and cuts out the centre; ``pad`` brings the longer side to ``size`` and fills with grey.
        bad_images: ``error``, or ``blank`` to read an image that cannot be decoded as grey and list
            it in :attr:`bad`.
        cache_bytes: :meth:`prepare` keeps all decoded images if they fit; per process.
        tokens: item tokens by internal id, for messages; default the ids.

    Attributes:
        bad: images replaced so far in this process (loader workers log theirs).

    Raises:
        ConfigError: an unknown choice.
        DataError: the folder has a store that is not whole.
    """

    keys: ClassVar[tuple[str, ...]] = ("image",)

    def __init__(
        self,
        folder: str | Path,
        paths: Sequence[str | None],
        size: int,
        resize: str = "squash",
        bad_images: str = "error",
        cache_bytes: int = 0,
        tokens: Sequence[str] | None = None,
    ):
        problems = []
        if resize not in RESIZE:
            problems.append(unknown("resize", resize, list(RESIZE)))
        if bad_images not in ("error", "blank"):
            problems.append(unknown("bad_images", bad_images, ("error", "blank")))
        if size < 1:
            problems.append(f"image_size must be at least 1, found {size}.")
        if problems:
            raise ConfigError(problems)
        self.folder = Path(folder)
        self.paths = paths
        self.size = size
        self.resize = resize
        self.bad_images = bad_images
        self.cache_bytes = cache_bytes
        self.tokens = tokens
        self.bad: list[BadImage] = []
        self._reported: set[int] = set()
        self._looked = False  # at all images
        self._cache: np.ndarray | None = None
        self._decoded: list[bytes] | None = None  # identities of the images in the cache
        self._bytes = open_image_bytes(self.folder)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def cached(self) -> bool:
        """Whether all images are in memory, decoded."""
        return self._cache is not None

    @property
    def full_bytes(self) -> int:
        """Memory that all decoded images take."""
        return len(self) * 3 * self.size * self.size

    def check(self) -> None:
        """Check that every path is a file or a key of the store, without reading any image.

        Raises:
            UnreadableImagesError: images are missing and ``bad_images`` is ``error``.
        """
        self._handle(
            (item, reason)
            for item, path in enumerate(self.paths)
            if path is not None and (reason := self._bytes.missing(path)) is not None
        )

    def prepare(self, progress: bool = False) -> None:
        """Look at all images before they are read: decoded into memory if they fit, else verified.

        Whoever is about to read many images calls it, in the process that starts the loader's
        workers, so that all bad ones are told at once and no worker decodes all for itself. Once it
        is done, it does nothing.

        Args:
            progress: show a progress bar.

        Raises:
            UnreadableImagesError: images are damaged and ``bad_images`` is ``error``.
        """
        if self.cached:
            return
        if self.preload(progress):
            _log.info("Images: %d decoded into %s.", len(self) - 1, write_size(self.full_bytes))
        elif not self._looked:
            self.verify(progress)
            _log.info(
                "Images: decoded when they are needed; all %d take %s, of which %s may be kept "
                "(image_cache_gb).",
                len(self) - 1, write_size(self.full_bytes), write_size(self.cache_bytes),
            )  # fmt: skip

    def release(self) -> None:
        """Give back the memory of the decoded images; what is read from now on is decoded anew."""
        self._cache = self._decoded = None

    def verify(self, progress: bool = False) -> None:
        """Read every image once and look for damage, without keeping or decoding the good ones.

        For images that :meth:`preload` cannot keep: damage is found before the training, and
        reported once instead of by every loader worker. Damage inside the compressed pixels shows
        only when they are decoded.

        Args:
            progress: show a progress bar.

        Raises:
            UnreadableImagesError: images are damaged and ``bad_images`` is ``error``; all are
                counted.
        """
        self._handle(self._scan(self._damage, progress))
        self._looked = True

    def preload(self, progress: bool = False) -> bool:
        """Decode every image once, if all of them fit into ``cache_bytes``.

        Args:
            progress: show a progress bar.

        Returns:
            Whether the images are now in memory; else :meth:`fetch` decodes on demand.

        Raises:
            UnreadableImagesError: images cannot be decoded and ``bad_images`` is ``error``; all are
                counted.
        """
        if self.full_bytes > self.cache_bytes:
            return False
        cache = np.full((len(self), 3, self.size, self.size), GREY, dtype=np.uint8)
        decoded: list[bytes] = [b""] * len(self)

        def decode(item: int) -> str | None:
            decoded[item] = self.identity(item)  # before it is read
            return self._decode_into(cache[item], item)

        self._handle(self._scan(decode, progress))
        cache.flags.writeable = False
        self._cache, self._decoded, self._looked = cache, decoded, True
        return True

    def identity(self, item: int) -> bytes:
        """Bytes that change where the image of an item does, without decoding it.

        Those of an image that became grey are others than before it was looked at, so that what was
        made of grey ones is not taken for what the images give. Those of an image in memory are of
        the file that was decoded.
        """
        path = self.paths[item]
        if path is None or item in self._reported:
            return b"grey"
        if self._decoded is not None:
            return self._decoded[item]
        return f"{path}\0{self._bytes.identity(path)}".encode()

    def fetch(self, items: np.ndarray) -> np.ndarray:
        """Return the images of items.

        Args:
            items: internal ids, int64 ``[n]``.

        Returns:
            uint8 ``[n, 3, size, size]``, RGB.

        Raises:
            UnreadableImagesError: an image cannot be decoded and ``bad_images`` is ``error``.
        """
        if self._cache is not None:
            return self._cache[items]
        images = np.full((len(items), 3, self.size, self.size), GREY, dtype=np.uint8)
        bad = []
        for image, item in zip(images, items.tolist(), strict=True):
            reason = self._decode_into(image, item)
            if reason is not None:
                bad.append((item, reason))
        self._handle(bad)
        return images

    def _scan(self, look: Callable[[int], str | None], progress: bool) -> list[tuple[int, str]]:
        """Call ``look`` for every item in threads; return the items with a reason to refuse."""
        blocks = [range(at, min(at + _BLOCK, len(self))) for at in range(0, len(self), _BLOCK)]

        def look_at(block: Iterable[int]) -> list[tuple[int, str]]:
            return [(item, reason) for item in block if (reason := look(item)) is not None]

        bar = tqdm(
            total=len(self),
            desc="images",
            unit="image",
            disable=None if progress else True,  # None: only on a terminal
            leave=False,
        )
        bad: list[tuple[int, str]] = []
        with bar, ThreadPoolExecutor(usable_cpus()) as pool:
            for block, found in zip(blocks, pool.map(look_at, blocks), strict=True):
                bad += found
                bar.update(len(block))
        return bad

    def _damage(self, item: int) -> str | None:
        """Return what is wrong with an image, or None."""
        path = self.paths[item]
        if path is None or item in self._reported:
            return None
        try:
            check_image(self._bytes.read(path))
        except BadImageError:
            # It is stricter than decoding, which has the last word: with and without a cache the
            # same images are bad.
            scratch = np.empty((3, self.size, self.size), dtype=np.uint8)
            return self._decode_into(scratch, item)
        return None

    def _decode_into(self, target: np.ndarray, item: int) -> str | None:
        """Fill ``target [3, size, size]``; return the reason if the image is bad.

        An image that was reported as grey stays grey.
        """
        path = self.paths[item]
        if path is None or item in self._reported:
            return None
        try:
            target[:] = decode_image(self._bytes.read(path), self.size, self.resize)
        except BadImageError as error:
            return str(error)
        return None

    def _handle(self, found: Iterable[tuple[int, str]]) -> None:
        bad = [
            (item, BadImage(self._token(item), str(self.paths[item]), reason))
            for item, reason in found
            if item not in self._reported
        ]
        if not bad:
            return
        shown = "".join(
            f'\n  item "{image.item}": {image.path}: {image.reason}' for _, image in bad[:_SHOWN]
        )
        if len(bad) > _SHOWN:
            shown += f"\n  ... and {len(bad) - _SHOWN} more"
        count = f"{len(bad)} image{'s' if len(bad) > 1 else ''} in {self.folder}"
        if self.bad_images == "error":
            raise UnreadableImagesError(
                f"{count} cannot be read:{shown}\n{self._bytes.cure}, or set bad_images: blank to "
                "use a grey image in their place."
            )
        _log.warning("%s cannot be read and became grey (bad_images: blank):%s", count, shown)
        self._reported.update(item for item, _ in bad)
        self.bad += [image for _, image in bad]

    def _token(self, item: int) -> str:
        return str(item if self.tokens is None else self.tokens[item])


def verify_image(path: Path) -> tuple[int, int]:
    """Check a file without decoding its pixels; return (width, height).

    Raises:
        BadImageError: the file is missing, empty, not an image, or visibly cut off. Damage inside
            the compressed pixels shows only when they are decoded.
    """
    return check_image(read_file(path))


def usable_cpus() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
