"""Encoded image bytes -> pixels: one rule for what is an image, and how it becomes RGB."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from PIL import Image, ImageFile, ImageOps

GREY = 128

Result = TypeVar("Result")


class BadImageError(Exception):
    """An image that cannot be decoded; the message is the reason."""


def decode_image(data: bytes, size: int, resize: str = "squash") -> np.ndarray:
    """Decode an image into RGB of ``size`` x ``size`` pixels.

    JPEGs are decoded at a reduced scale of at least twice ``size`` where they are larger. EXIF
    orientation is applied, transparency lies on white, the first frame stands for an animation.
    Resizing is bilinear with antialiasing.

    Args:
        data: the bytes of an image file.
        size: side of the square, in pixels.
        resize: one of :data:`RESIZE`.

    Returns:
        uint8 ``[3, size, size]``.

    Raises:
        BadImageError: the bytes are empty, truncated or not an image.
    """
    # Draft only looks at the shorter side, so twice the size leaves resizing enough to average.
    image = decode_rgb(data, lambda opened: opened.draft(None, (2 * size, 2 * size)))
    pixels = np.asarray(RESIZE[resize](image, size))
    return pixels.transpose(2, 0, 1)


def decode_rgb(data: bytes, prepare: Callable[[Image.Image], object]) -> Image.Image:
    """Decode an image into RGB, upright, at its own size.

    Args:
        data: the bytes of an image file.
        prepare: called with the opened image before its pixels are decoded.

    Raises:
        BadImageError: the bytes are empty, truncated or not an image.
    """

    def decode(opened: Image.Image) -> Image.Image:
        prepare(opened)
        opened.load()
        ImageOps.exif_transpose(opened, in_place=True)
        return _to_rgb(opened)

    return with_image(data, decode)


def check_image(data: bytes) -> tuple[int, int]:
    """Check image bytes without decoding the pixels; return (width, height).

    Raises:
        BadImageError: the bytes are empty, not an image, or visibly cut off. Damage inside the
            compressed pixels shows only when they are decoded.
    """

    def look(opened: Image.Image) -> tuple[int, int]:
        # A JPEG's header may hold a whole thumbnail, so the end is looked for in the second half.
        if opened.format == "JPEG" and data.rfind(b"\xff\xd9", len(data) // 2) < 0:
            raise BadImageError("truncated (the JPEG has no end)")
        size = opened.size
        opened.verify()
        return size

    return with_image(data, look)


def with_image(data: bytes, action: Callable[[Image.Image], Result]) -> Result:
    """Open image bytes and call ``action`` with the image; every failure becomes a reason.

    Raises:
        BadImageError: the bytes cannot be opened, or ``action`` failed.
    """
    if not data:
        raise BadImageError("the file is empty (zero bytes)")
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        # Another library can switch this on for the whole process: half a picture, no error.
        raise BadImageError(
            "not decoded, because PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on; set it to False"
        )
    try:
        with Image.open(io.BytesIO(data)) as opened:
            return action(opened)
    except BadImageError:
        raise
    except Image.UnidentifiedImageError:
        raise BadImageError(f"not an image that Pillow can read{_looks_like(data)}") from None
    except Exception as error:  # Pillow's decoders raise anything on damaged bytes.
        reason = str(error) or type(error).__name__
        if "truncated" in reason.lower():
            reason = f"truncated ({reason})"
        raise BadImageError(reason) from None


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


RESIZE: dict[str, Callable[[Image.Image, int], Image.Image]] = {
    "squash": _squash,
    "crop": _crop,
    "pad": _pad,
}
