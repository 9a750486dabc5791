"""An image of a source -> the bytes that the image store keeps."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image, __version__, features

from recbole_morec.data.content.decoding import RESIZE, BadImageError, decode_rgb
from recbole_morec.errors import ConfigError, unknown

ENCODINGS = ("jpeg", "webp", "as_is")
RESIZINGS = ("shorter", "squash", "crop")

_KEPT_FORMATS = ("JPEG", "PNG", "WEBP")


@dataclass(frozen=True)
class Encoding:
    """How images are stored.

    Attributes:
        encoding: ``jpeg`` or ``webp``; ``as_is`` keeps every file's bytes, whatever its format.
        size: in pixels; ``None`` keeps every image's size.
        resize: ``shorter`` brings the shorter side down to ``size`` and keeps the aspect ratio,
            smaller images stay as they are; ``squash`` gives ``size`` x ``size`` without regard to
            the aspect ratio; ``crop`` cuts a square out of the centre.
        quality: of JPEG and WebP, 1 to 100.

    Raises:
        ConfigError: an unknown choice.
    """

    encoding: str = "jpeg"
    size: int | None = 256
    resize: str = "shorter"
    quality: int = 90

    def __post_init__(self):
        problems = [
            unknown(key, value, options)
            for key, value, options in (
                ("encoding", self.encoding, ENCODINGS),
                ("resize", self.resize, RESIZINGS),
            )
            if value not in options
        ]
        if self.size is not None and self.size < 1:
            problems.append(f"size must be at least 1, found {self.size}.")
        if not 1 <= self.quality <= 100:
            problems.append(f"quality must be 1 to 100, found {self.quality}.")
        if problems:
            raise ConfigError(problems)

    def to_dict(self) -> dict[str, str | int | None]:
        """Return what the stored bytes depend on, the libraries that make them included."""
        if self.encoding == "as_is":
            return {"encoding": "as_is", "encoder": f"Pillow {__version__}"}
        codec = {"jpeg": "libjpeg_turbo", "webp": "webp"}[self.encoding]
        version = features.version(codec) or "of unknown version"
        return asdict(self) | {"encoder": f"Pillow {__version__}, {codec} {version}"}


@dataclass(frozen=True)
class Encoded:
    """An image as it is stored.

    Attributes:
        data: the bytes.
        kept: whether they are those of the source.
        raw_bytes: what the stored image would take as uint8 RGB.
    """

    data: bytes
    kept: bool
    raw_bytes: int


def encode_image(payload: bytes | np.ndarray, how: Encoding) -> Encoded:
    """Bring one image into the form in which it is stored.

    The bytes of a JPEG, PNG or WebP file that needs no resizing are kept, once they were decoded
    and found whole; an animation is not kept but becomes its first frame. Everything else is
    decoded as for training (upright, transparency on white, RGB) and encoded.

    Args:
        payload: bytes of an image file, or raw pixels, uint8 ``[H, W, 3]``.
        how: the choices. With ``as_is`` raw pixels, which have no bytes of a file, become PNG.

    Raises:
        BadImageError: the image cannot be decoded, or the encoder refuses it (JPEG has at most
            65,535 pixels a side, WebP 16,383).
    """
    if isinstance(payload, np.ndarray):
        return _encode_pixels(Image.fromarray(payload), how)
    seen: dict[str, object] = {}

    def prepare(opened: Image.Image) -> None:
        seen["size"] = opened.size
        seen["kept"] = how.encoding == "as_is" or (
            opened.format in _KEPT_FORMATS
            and getattr(opened, "n_frames", 1) == 1
            and _fits(opened.size, how)
        )
        if seen["kept"]:
            # All compressed bytes are read at any scale, and the pixels are not needed.
            opened.draft(None, (1, 1))
        elif how.size is not None:
            opened.draft(None, (2 * how.size, 2 * how.size))

    image = decode_rgb(payload, prepare)
    if seen["kept"]:
        width, height = seen["size"]
        return Encoded(payload, True, 3 * width * height)
    return _encode_pixels(image, how)


def _fits(size: tuple[int, int], how: Encoding) -> bool:
    """Whether an image needs no resizing."""
    if how.size is None:
        return True
    return min(size) <= how.size if how.resize == "shorter" else size == (how.size, how.size)


def _encode_pixels(image: Image.Image, how: Encoding) -> Encoded:
    if how.encoding != "as_is" and not _fits(image.size, how):
        image = (
            _shorter(image, how.size)
            if how.resize == "shorter"
            else (RESIZE[how.resize](image, how.size))
        )
    image.info = {}  # comments, colour profiles and EXIF would be written again
    out = io.BytesIO()
    try:
        if how.encoding == "jpeg":
            image.save(out, "JPEG", quality=how.quality)
        elif how.encoding == "webp":
            image.save(out, "WEBP", quality=how.quality)
        else:
            image.save(out, "PNG")
    except Exception as error:  # Pillow's encoders raise anything.
        raise BadImageError(
            f"{image.width} x {image.height} pixels cannot be encoded ({error})"
        ) from None
    return Encoded(out.getvalue(), False, 3 * image.width * image.height)


def _shorter(image: Image.Image, size: int) -> Image.Image:
    width, height = image.size
    scale = size / min(width, height)
    new = (max(size, round(width * scale)), max(size, round(height * scale)))
    return image.resize(new, Image.Resampling.BILINEAR)
