"""Item images: files of a dataset folder -> uint8 arrays, decoded once or on demand."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np
from PIL import Image, ImageFile, ImageOps
from tqdm.auto import tqdm

from recbole_morec.errors import ConfigError, DataError, suggest

GREY = 128

_GONE = "the file does not exist"
_SHOWN = 5
_BLOCK = 32
_log = logging.getLogger(__name__)
Result = TypeVar("Result")


class BadImageError(Exception):
    """An image file that cannot be decoded; the message is the reason."""


@dataclass(frozen=True)
class BadImage:
    """An image that was replaced by a grey one.

    Attributes:
        item: the item's token.
        path: the file as the dataset names it.
        reason: what is wrong with it.
    """

    item: str
    path: str
    reason: str


class ImageFolderReader:
    """Reads the images of items from files.

    Args:
        folder: the dataset folder.
        paths: by internal item id, relative to ``folder``; ``None`` (as for id 0, padding) is read
            as a grey image.
        size: side of the square that every image is brought to, in pixels.
        resize: ``squash`` ignores the aspect ratio; ``crop`` brings the shorter side to ``size``
            and cuts out the centre; ``pad`` brings the longer side to ``size`` and fills with grey.
        bad_images: ``error``, or ``blank`` to read an image that cannot be decoded as grey and list
            it in :attr:`bad`.
        cache_bytes: :meth:`preload` keeps all decoded images if they fit; per process.
        tokens: item tokens by internal id, for messages; default the ids.

    Attributes:
        bad: images replaced so far in this process (loader workers log theirs).
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
        if resize not in _RESIZE:
            problems.append(_unknown("resize", resize, list(_RESIZE)))
        if bad_images not in ("error", "blank"):
            problems.append(_unknown("bad_images", bad_images, ("error", "blank")))
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
        self._cache: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def cached(self) -> bool:
        """Whether :meth:`preload` decoded the images into memory."""
        return self._cache is not None

    @property
    def full_bytes(self) -> int:
        """Memory that all decoded images take."""
        return len(self) * 3 * self.size * self.size

    def check(self) -> None:
        """Check that every path is a file, without opening any.

        Raises:
            DataError: files are missing and ``bad_images`` is ``error``.
        """
        self._handle(
            (item, "this is a folder" if (self.folder / path).is_dir() else _GONE)
            for item, path in enumerate(self.paths)
            if path is not None and not (self.folder / path).is_file()
        )

    def verify(self, progress: bool = False) -> None:
        """Read every file once and look for damage, without keeping or decoding the good ones.

        For images that :meth:`preload` cannot keep: damage is found before the training, and
        reported once instead of by every loader worker. Damage inside the compressed pixels shows
        only when they are decoded.

        Args:
            progress: show a progress bar.

        Raises:
            DataError: images are damaged and ``bad_images`` is ``error``; all are counted.
        """
        self._handle(self._scan(self._damage, progress))

    def preload(self, progress: bool = False) -> bool:
        """Decode every image once, if all of them fit into ``cache_bytes``.

        Args:
            progress: show a progress bar.

        Returns:
            Whether the images are now in memory; else :meth:`fetch` decodes on demand.

        Raises:
            DataError: images cannot be decoded and ``bad_images`` is ``error``; all are counted.
        """
        if self.full_bytes > self.cache_bytes:
            return False
        cache = np.full((len(self), 3, self.size, self.size), GREY, dtype=np.uint8)
        self._handle(self._scan(lambda item: self._decode_into(cache[item], item), progress))
        cache.flags.writeable = False
        self._cache = cache
        return True

    def fetch(self, items: np.ndarray) -> np.ndarray:
        """Return the images of items.

        Args:
            items: internal ids, int64 ``[n]``.

        Returns:
            uint8 ``[n, 3, size, size]``, RGB.

        Raises:
            DataError: an image cannot be decoded and ``bad_images`` is ``error``.
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
        """Return what is wrong with an image file, or None."""
        path = self.paths[item]
        if path is None or item in self._reported:
            return None
        try:
            verify_image(self.folder / path)
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
            target[:] = read_image(self.folder / path, self.size, self.resize)
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
            raise DataError(
                f"{count} cannot be read:{shown}\nReplace these files, or set bad_images: blank to "
                "use a grey image in their place."
            )
        _log.warning("%s cannot be read and became grey (bad_images: blank):%s", count, shown)
        self._reported.update(item for item, _ in bad)
        self.bad += [image for _, image in bad]

    def _token(self, item: int) -> str:
        return str(item if self.tokens is None else self.tokens[item])


# --- decoding -----------------------------------------------------------------------------------


def read_image(path: Path, size: int, resize: str = "squash") -> np.ndarray:
    """Decode an image file into RGB of ``size`` x ``size`` pixels.

    JPEGs are decoded at a reduced scale of at least twice ``size`` where they are larger. EXIF
    orientation is applied, transparency lies on white, the first frame stands for an animation.
    Resizing is bilinear with antialiasing.

    Returns:
        uint8 ``[3, size, size]``.

    Raises:
        BadImageError: the file is missing, empty, truncated or not an image.
    """
    # Draft only looks at the shorter side, so twice the size leaves resizing enough to average.
    image = _open(path, lambda opened: opened.draft(None, (2 * size, 2 * size)))
    pixels = np.asarray(_RESIZE[resize](image, size))
    return pixels.transpose(2, 0, 1)


def verify_image(path: Path) -> tuple[int, int]:
    """Check a file without decoding its pixels; return (width, height).

    Raises:
        BadImageError: the file is missing, empty, not an image, or visibly cut off. Damage inside
            the compressed pixels shows only when they are decoded.
    """

    def look(opened: Image.Image, data: bytes) -> tuple[int, int]:
        # A JPEG's header may hold a whole thumbnail, so the end is looked for in the second half.
        if opened.format == "JPEG" and data.rfind(b"\xff\xd9", len(data) // 2) < 0:
            raise BadImageError("truncated (the JPEG has no end)")
        size = opened.size
        opened.verify()
        return size

    return _guarded(path, look)


def _open(path: Path, prepare: Callable[[Image.Image], object]) -> Image.Image:
    def decode(opened: Image.Image, _: bytes) -> Image.Image:
        prepare(opened)
        opened.load()
        ImageOps.exif_transpose(opened, in_place=True)
        return _to_rgb(opened)

    return _guarded(path, decode)


def _guarded(path: Path, action: Callable[[Image.Image, bytes], Result]) -> Result:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadImageError(_file_reason(error)) from None
    if not data:
        raise BadImageError("the file is empty (zero bytes)")
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        # Another library can switch this on for the whole process: half a picture, no error.
        raise BadImageError(
            "not decoded, because PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on; set it to False"
        )
    try:
        with Image.open(io.BytesIO(data)) as opened:
            return action(opened, data)
    except BadImageError:
        raise
    except Image.UnidentifiedImageError:
        raise BadImageError(f"not an image that Pillow can read{_looks_like(data)}") from None
    except Exception as error:  # Pillow's decoders raise anything on damaged bytes.
        reason = str(error) or type(error).__name__
        if "truncated" in reason.lower():
            reason = f"truncated ({reason})"
        raise BadImageError(reason) from None


def _file_reason(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return _GONE
    if isinstance(error, IsADirectoryError):
        return "this is a folder"
    return f"the file cannot be opened ({error.strerror})"


def _looks_like(data: bytes) -> str:
    start = data[:512].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<svg")):
        return "; it looks like a web page or SVG"
    return ""


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB: transparency on white, 16-bit grey scaled to 8 bits."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "I" or image.mode.startswith("I;16"):
        high = np.asarray(image).astype(np.float64)
        low = np.clip(np.round(high / 257.0), 0, 255).astype(np.uint8)
        return Image.fromarray(low).convert("RGB")
    if image.mode == "F":
        raise BadImageError("pixels are 32-bit floats, which have no defined white")
    if "transparency" in image.info or image.has_transparency_data:
        layer = image.convert("RGBA")
        ground = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(ground, layer).convert("RGB")
    return image.convert("RGB")


def _squash(image: Image.Image, size: int) -> Image.Image:
    return image.resize((size, size), Image.Resampling.BILINEAR)


def _crop(image: Image.Image, size: int) -> Image.Image:
    width, height = image.size
    scale = size / min(width, height)
    wide, high = max(size, int(width * scale)), max(size, int(height * scale))
    image = image.resize((wide, high), Image.Resampling.BILINEAR)
    left, top = round((wide - size) / 2), round((high - size) / 2)
    return image.crop((left, top, left + size, top + size))


def _pad(image: Image.Image, size: int) -> Image.Image:
    width, height = image.size
    scale = size / max(width, height)
    wide, high = min(size, max(1, round(width * scale))), min(size, max(1, round(height * scale)))
    image = image.resize((wide, high), Image.Resampling.BILINEAR)
    ground = Image.new("RGB", (size, size), (GREY, GREY, GREY))
    ground.paste(image, ((size - wide) // 2, (size - high) // 2))
    return ground


_RESIZE: dict[str, Callable[[Image.Image, int], Image.Image]] = {
    "squash": _squash,
    "crop": _crop,
    "pad": _pad,
}


def _unknown(key: str, value: object, options: Sequence[str]) -> str:
    return f'{key}: unknown value "{value}".{suggest(str(value), options)} Use one of ' + (
        f"{', '.join(options)}."
    )


def usable_cpus() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
