"""A small folder of images, good and bad, and stores built of it."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
from PIL import Image

from recbole_morec.convert._image_sources import open_images
from recbole_morec.convert._image_store_writer import build_image_store

SMALL = {"segment_images": 5}


def picture(seed: int, width: int = 60, height: int = 40) -> Image.Image:
    """Smooth noise, which compresses like a photograph."""
    rough = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC)


def saved(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def make_raw(folder: Path) -> Path:
    """Seventeen images of items i0, ..., i16, of which i3 and i11 are damaged."""
    folder.mkdir()
    for n in range(17):
        (folder / f"i{n}.jpg").write_bytes(saved(picture(n), quality=95))
    (folder / "i3.jpg").write_bytes(b"<html>404")
    (folder / "i11.jpg").write_bytes((folder / "i11.jpg").read_bytes()[:-100])
    return folder


def wanted_of(source) -> dict[str, str]:
    return {Path(name).stem: name for name in source.names()}


def build(raw: Path, folder: Path, **options):
    source = open_images(raw)
    return build_image_store(source, wanted_of(source), folder, **{"size": 16, **SMALL, **options})


def content(folder: Path) -> dict[str, str]:
    """SHA-256 of every file."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)
