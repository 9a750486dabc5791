"""Covers of the colour world: one main object on a busy, muted background.

What taste reads is the object's colour class and shape class. Position, size, turn, shade, picture
format, background, texture, noise and small distractors vary at random. The background is tinted
so that the mean colour of the whole cover is random and independent of the object: whoever sees
the mean colour only sees nothing, whoever finds the object sees everything.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from recbole_morec.sample.world import COLOURS, SHAPES

# Class colours, linear in nothing: plain sRGB in 0..1.
PALETTE = {
    "red": (0.86, 0.10, 0.10),
    "orange": (0.96, 0.50, 0.04),
    "yellow": (0.96, 0.88, 0.12),
    "green": (0.12, 0.66, 0.18),
    "cyan": (0.10, 0.78, 0.82),
    "blue": (0.12, 0.22, 0.88),
    "purple": (0.48, 0.12, 0.72),
    "pink": (0.97, 0.42, 0.72),
}

# (width, height): phone, poster, square and film formats; the shorter side has 64 to 112 pixels.
FORMATS = (
    (72, 96),
    (80, 120),
    (84, 128),
    (96, 128),
    (80, 80),
    (96, 96),
    (112, 112),
    (112, 84),
    (132, 88),
    (136, 96),
    (100, 64),
)


def _disc(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.hypot(x, y) - 0.86


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(np.hypot(x, y) - 0.72) - 0.25


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    slope = np.sqrt(3.0) / 2
    return np.maximum(y - 0.62, slope * np.abs(x) - 0.5 * y - 0.52)


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(x - 0.30, y - 0.95), np.maximum(x - 0.95, y - 0.30))


def _bars(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    nearest = np.abs(y - np.clip(np.round(y / 0.7), -1, 1) * 0.7) - 0.2
    return np.maximum(nearest, np.abs(x) - 0.9)


# Signed distance to the edge of a shape of radius about 1, negative inside.
OUTLINES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "disc": _disc,
    "ring": _ring,
    "triangle": _triangle,
    "cross": _cross,
    "bars": _bars,
}


def draw_cover(rng: np.random.Generator, colour: int, shape: int) -> np.ndarray:
    """Draw one cover.

    Args:
        rng: decides everything that is not the classes.
        colour: index into `COLOURS`.
        shape: index into `SHAPES`.

    Returns:
        uint8 `[height, width, 3]`, sRGB.
    """
    width, height = FORMATS[rng.integers(len(FORMATS))]
    short = min(width, height)
    rows, columns = np.mgrid[0:height, 0:width] + 0.5

    picture = _background(rng, rows / height, columns / width)
    for _ in range(rng.integers(1, 4)):
        _distractor(rng, picture, rows, columns, short)

    radius = short * rng.uniform(0.38, 0.45)
    turn = rng.uniform(-0.2, 0.2)
    centre_x = width / 2 + rng.uniform(-0.7, 0.7) * (width / 2 - 0.9 * radius)
    centre_y = height / 2 + rng.uniform(-0.7, 0.7) * (height / 2 - 0.9 * radius)
    right, down = (columns - centre_x) / radius, (rows - centre_y) / radius
    x = np.cos(turn) * right + np.sin(turn) * down
    y = np.cos(turn) * down - np.sin(turn) * right
    edge = OUTLINES[SHAPES[shape]](x, y) * radius  # pixels to the edge, negative inside
    inside = np.clip(0.5 - edge, 0, 1)[..., None]
    rim = max(1.5, 0.10 * radius)
    outlined = np.clip(rim + 0.5 - edge, 0, 1)[..., None]

    fill = np.clip(np.array(PALETTE[COLOURS[colour]]) + rng.normal(0, 0.03, 3), 0, 1)
    shading = 1.0 + 0.12 * (right * rng.uniform(-1, 1) + down * rng.uniform(-1, 1))
    paint = np.full(3, rng.uniform(0.03, 0.10)) * (1 - inside) + fill * shading[..., None] * inside
    noise = rng.normal(0, rng.uniform(0.01, 0.035), (height, width, 1))

    wanted = 0.47 + rng.normal(0, 0.05) + rng.normal(0, 0.035, 3)  # mean colour, whatever the class
    tint = np.zeros(3)
    for _ in range(4):  # clipping moves the mean a little, hence more than one turn
        behind = np.clip(picture + tint, 0.02, 0.98)
        mixed = np.clip(behind * (1 - outlined) + paint * outlined + noise, 0, 1)
        tint += (wanted - mixed.mean((0, 1))) / (1 - outlined.mean())
    return np.round(mixed * 255).astype(np.uint8)


def encode_jpeg(picture: np.ndarray, quality: int) -> bytes:
    """JPEG bytes of a uint8 `[height, width, 3]` picture."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="JPEG", quality=quality)
    return stream.getvalue()


def _background(rng: np.random.Generator, down: np.ndarray, right: np.ndarray) -> np.ndarray:
    """A muted ground, float64 `[height, width, 3]`: slope, texture and blotches, no strong hue."""
    angle = rng.uniform(0, 2 * np.pi)
    along = np.cos(angle) * right + np.sin(angle) * down
    slope = rng.normal(0, 0.14) + rng.normal(0, 0.05, 3)
    picture = 0.5 + along[..., None] * slope
    kind = rng.integers(4)
    if kind == 1:  # fine stripes
        wave = np.sin(2 * np.pi * (along * rng.uniform(5, 14) + rng.random()))
        picture = picture + rng.uniform(0.02, 0.06) * wave[..., None]
    elif kind == 2:  # a check
        squares = np.sign(np.sin(right * rng.uniform(12, 30)) * np.sin(down * rng.uniform(12, 30)))
        picture = picture + rng.uniform(0.02, 0.05) * squares[..., None]
    elif kind == 3:  # soft blotches
        for _ in range(4):
            away = np.hypot(right - rng.random(), down - rng.random()) / rng.uniform(0.1, 0.35)
            colour = rng.normal(0, 0.10) + rng.normal(0, 0.03, 3)
            picture = picture + np.exp(-(away**2))[..., None] * colour
    return picture


def _distractor(
    rng: np.random.Generator,
    picture: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    short: int,
) -> None:
    """Paint one small blob of any hue into `picture`, in place."""
    height, width = rows.shape
    radius = short * rng.uniform(0.03, 0.06)
    away = np.hypot(columns - rng.uniform(0, width), rows - rng.uniform(0, height))
    inside = np.clip(radius - away + 0.5, 0, 1)[..., None]
    colour = np.array(PALETTE[COLOURS[rng.integers(len(COLOURS))]])
    picture += (0.35 + 0.65 * colour - picture) * inside * 0.8
