"""Image files -> RGB pixels: formats, sizes, orientation, transparency, and what is damaged."""

from __future__ import annotations

import numpy as np
import pytest
from image_files import BLUE, GREEN, RED, WHITE, close, halves, noise_jpeg, read_image, save
from PIL import Image, ImageFile

from recbole_morec.data.content.images import BadImageError, verify_image


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp"])
def test_formats_give_rgb_channels_first(tmp_path, suffix):
    path = save(Image.new("RGB", (10, 20), (200, 100, 50)), tmp_path / f"x.{suffix}")
    pixels = read_image(path, 8)
    assert pixels.shape == (3, 8, 8)
    assert pixels.dtype == np.uint8
    assert close(pixels[:, 4, 4], (200, 100, 50))


def test_squash_keeps_everything_and_crop_cuts_the_sides(tmp_path):
    stripes = Image.new("RGB", (90, 30), GREEN)
    stripes.paste(RED, (0, 0, 30, 30))
    stripes.paste(BLUE, (60, 0, 90, 30))
    path = save(stripes, tmp_path / "x.png")
    squashed = read_image(path, 30, "squash")
    assert close(squashed[:, 15, 2], RED)
    assert close(squashed[:, 15, 27], BLUE)
    cropped = read_image(path, 30, "crop")
    assert close(cropped.transpose(1, 2, 0), GREEN)


def test_pad_centres_on_grey(tmp_path):
    wide = read_image(save(Image.new("RGB", (40, 20), RED), tmp_path / "x.png"), 20, "pad")
    assert close(wide[:, :5].reshape(3, -1).T, (128, 128, 128), 0)
    assert close(wide[:, 5:15].reshape(3, -1).T, RED)
    assert close(wide[:, 15:].reshape(3, -1).T, (128, 128, 128), 0)
    line = read_image(save(Image.new("RGB", (500, 1), RED), tmp_path / "y.png"), 20, "pad")
    assert (line[0] == 255).any()


def test_resize_averages_instead_of_picking(tmp_path):
    checkers = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    path = save(Image.fromarray(checkers), tmp_path / "x.png")
    assert np.abs(read_image(path, 8).astype(int) - 128).max() < 20


def test_draft_decoding_equals_whole_decoding(tmp_path):
    x, y = np.meshgrid(np.linspace(0, 1, 320), np.linspace(0, 1, 200))
    waves = np.stack([255 * x, 255 * y, 127 + 127 * np.sin(60 * (x + y))], -1).astype(np.uint8)
    image = Image.fromarray(waves)
    small = read_image(save(image, tmp_path / "x.jpg", quality=100, subsampling=0), 40)
    plain = np.asarray(image.resize((40, 40), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.abs(small.astype(int) - plain.astype(int)).max() <= 6


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise: left becomes top
    path = save(halves(64, 32), tmp_path / "x.jpg", exif=exif, quality=95)
    pixels = read_image(path, 16)
    assert close(pixels[:, 2, 8], RED, 30)
    assert close(pixels[:, 13, 8], BLUE, 30)


def test_transparency_lies_on_white(tmp_path):
    rgba = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    rgba.paste((0, 0, 255, 255), (4, 0, 8, 8))
    palette = rgba.quantize(4)
    key = Image.new("RGB", (8, 8), RED)
    key.paste(BLUE, (4, 0, 8, 8))
    for name, image, options in [
        ("rgba", rgba, {}),
        ("palette", palette, {}),
        ("key", key, {"transparency": RED}),
    ]:
        pixels = read_image(save(image, tmp_path / f"{name}.png", **options), 8)
        assert close(pixels[:, 4, 1], WHITE), name
        assert close(pixels[:, 4, 6], BLUE), name
    half = read_image(save(Image.new("LA", (8, 8), (0, 128)), tmp_path / "la.png"), 8)
    assert close(half[:, 4, 4], (127, 127, 127))


def test_grey_palette_cmyk_bilevel_and_16_bit(tmp_path):
    cases = {
        "grey.png": (Image.new("L", (8, 8), 77), (77, 77, 77)),
        "bit.png": (Image.new("1", (8, 8), 1), WHITE),
        "palette.gif": (Image.new("RGB", (8, 8), BLUE).quantize(2), BLUE),
        "cmyk.jpg": (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), RED),
        "deep.png": (Image.fromarray(np.full((8, 8), 0x8080, dtype=np.uint16)), (128,) * 3),
    }
    for name, (image, colour) in cases.items():
        pixels = read_image(save(image, tmp_path / name), 8)
        assert close(pixels[:, 4, 4], colour), name


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "zero bytes"),
        (b"hello" * 50, "not an image"),
        (b"<!DOCTYPE html><html>404", "web page"),
        (noise_jpeg()[:-2], "truncated"),
        (noise_jpeg()[: len(noise_jpeg()) // 2], "truncated"),
        (noise_jpeg()[:30], "truncated"),
    ],
)
def test_damaged_files_have_a_reason(tmp_path, data, reason):
    path = tmp_path / "x.jpg"
    path.write_bytes(data)
    with pytest.raises(BadImageError, match=reason):
        read_image(path, 8)
    with pytest.raises(BadImageError, match=reason):
        verify_image(path)


def test_a_good_file_verifies(tmp_path):
    assert verify_image(save(halves(12, 7), tmp_path / "x.jpg")) == (12, 7)


def test_pillow_told_to_load_truncated_files_is_no_way_around(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    path = tmp_path / "x.jpg"
    path.write_bytes(noise_jpeg()[:1000])
    with pytest.raises(BadImageError, match="LOAD_TRUNCATED_IMAGES"):
        read_image(path, 8)
