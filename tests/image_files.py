"""Small pictures whose pixels are known."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from recbole_morec.data.content.decoding import decode_image
from recbole_morec.data.content.image_bytes import read_file

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def close(pixel, colour, tolerance=6) -> bool:
    return bool((np.abs(pixel.astype(int) - np.array(colour)) <= tolerance).all())


def save(image: Image.Image, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def halves(width: int, height: int) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def noise_jpeg(seed: int = 0, side: int = 64) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG")
    return out.getvalue()


def read_image(path: Path, size: int, resize: str = "squash") -> np.ndarray:
    return decode_image(read_file(path), size, resize)
