"""Building an image store: the same bytes whatever happens, whole or not at all."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from image_store_world import build, content, flip, make_raw, opened, picture, saved
from lmdb_world import pickled, pixels, write_lmdb
from PIL import Image

from recbole_morec.convert import _store_files
from recbole_morec.convert._encode_image import Encoding, encode_image
from recbole_morec.convert._image_sources import open_images
from recbole_morec.convert._image_store_writer import build_image_store
from recbole_morec.data.content.decoding import BadImageError, decode_image
from recbole_morec.data.content.image_store import ImageStore
from recbole_morec.errors import DataError


@pytest.fixture
def raw(tmp_path) -> Path:
    return make_raw(tmp_path / "raw")


# --- encoding -------------------------------------------------------------------------------------


def encoded(data, **how):
    return encode_image(data, Encoding(**how))


def test_the_shorter_side_comes_down_and_is_never_enlarged():
    image = encoded(saved(picture(1, 90, 60)), size=30)
    assert opened(image.data).size == (45, 30)
    assert (image.kept, image.raw_bytes) == (False, 45 * 30 * 3)
    tall = encoded(saved(picture(1, 10, 500), "BMP"), size=30)
    assert opened(tall.data).size == (10, 500)  # a BMP is encoded, but not enlarged
    assert opened(tall.data).format == "JPEG"
    assert opened(encoded(saved(picture(1, 90, 60)), size=None, encoding="webp").data).size == (
        (90, 60)
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_images_that_need_no_resizing_keep_their_bytes(kind):
    data = saved(picture(1), kind)
    for how in ({"size": 40}, {"size": 41}, {"size": None}, {"size": 40, "encoding": "webp"}):
        image = encoded(data, **how)
        assert image.data == data
        assert image.kept
        assert image.raw_bytes == 60 * 40 * 3
    assert not encoded(data, size=39).kept
    assert not encoded(data, size=60, resize="squash").kept
    square = saved(picture(1, 40, 40), kind)
    assert encoded(square, size=40, resize="crop").data == square


def test_bytes_that_are_kept_were_decoded():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = saved(Image.fromarray(noise))
    for how in ({"encoding": "as_is"}, {"size": 64}):
        with pytest.raises(BadImageError, match="truncated"):
            encoded(data[: len(data) // 2], **how)


def test_squash_and_crop_are_the_readers():
    data = saved(picture(2, 180, 120), "PNG")
    for resize in ("squash", "crop"):
        image = encoded(data, size=80, resize=resize, quality=100)
        expected = decode_image(data, 80, resize)
        found = np.asarray(opened(image.data)).transpose(2, 0, 1)
        assert np.abs(found.astype(int) - expected.astype(int)).mean() < 6


def test_webp_and_quality():
    data = saved(picture(2, 200, 200), "PNG")
    sizes = {
        (encoding, quality): len(encoded(data, encoding=encoding, size=100, quality=quality).data)
        for encoding in ("jpeg", "webp")
        for quality in (50, 95)
    }
    assert sizes["jpeg", 50] < sizes["jpeg", 95]
    assert sizes["webp", 50] < sizes["webp", 95]
    assert opened(encoded(data, encoding="webp", size=100).data).format == "WEBP"


def test_orientation_transparency_and_animations_become_plain_pictures():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(saved(picture(1, 90, 60), exif=exif, comment=b"x" * 500), size=30)
    assert opened(turned.data).size == (30, 45)
    assert not opened(turned.data).getexif()
    assert b"xxxx" not in turned.data
    glass = Image.new("RGBA", (60, 60), (255, 0, 0, 0))
    assert np.asarray(opened(encoded(saved(glass, "PNG"), size=30).data)).min() > 250
    frames = [picture(1), picture(2)]
    moving = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    still = encoded(moving, size=40)
    assert not still.kept
    assert opened(still.data).format == "JPEG"


def test_what_the_format_cannot_hold_has_a_reason():
    for how, side in (("webp", 20_000), ("jpeg", 70_000)):
        with pytest.raises(BadImageError, match=f"{side} x 1 pixels cannot be encoded"):
            encode_image(np.zeros((1, side, 3), np.uint8), Encoding(how))


def test_raw_pixels_are_encoded_and_as_is_means_without_loss():
    image = pixels(4, (30, 20, 3))
    exact = encode_image(image, Encoding("as_is"))
    np.testing.assert_array_equal(np.asarray(opened(exact.data)), image)
    assert opened(exact.data).format == "PNG"
    assert not exact.kept
    assert opened(encode_image(image, Encoding("jpeg", 10)).data).size == (10, 15)


@pytest.mark.parametrize("kind", ["folder", "zip", "tar.gz", "lmdb"])
def test_a_store_can_be_built_from_every_source(raw, tmp_path, kind):
    path, names = tmp_path / "source", sorted(raw.iterdir())
    if kind == "folder":
        path = raw
    elif kind == "lmdb":
        write_lmdb(path, {f"i{n}": pickled(pixels(n), n) for n in range(3)}, ["i0", "i9"])
    else:
        form = {"zip": "zip", "tar.gz": "gztar"}[kind]
        path = Path(shutil.make_archive(str(path), form, raw))
    source = open_images(path)
    wanted = {Path(name).stem: name for name in source.names()}
    summary = build_image_store(source, wanted, tmp_path / "images", encoding="as_is")
    store = ImageStore.open(tmp_path / "images")
    if kind == "lmdb":
        np.testing.assert_array_equal(np.asarray(opened(store.read("i2"))), pixels(2))
        assert store.quarantined("i9") == "listed in __keys__, but it has no record"
        return
    assert summary.images == 15
    for file in names:
        if file.stem in store:
            assert store.read(file.stem) == file.read_bytes()


# --- same bytes, whatever happens -----------------------------------------------------------------


def test_the_number_of_threads_does_not_change_a_byte(raw, tmp_path):
    for workers in (1, 2, 7):
        build(raw, tmp_path / str(workers), workers=workers)
    assert content(tmp_path / "1") == content(tmp_path / "2") == content(tmp_path / "7")
    assert len(content(tmp_path / "1")) == 4 + 2


def in_child(action) -> int:
    """Run ``action`` in a forked process; return its exit code."""

    def run():
        logging.disable()
        try:
            action()
        except BaseException:
            os._exit(1)
        os._exit(0)

    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    child.join(60)
    return child.exitcode


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_at_any_file_leaves_no_trace_in_the_result(raw, tmp_path, when):
    build(raw, tmp_path / "undisturbed")
    real = os.replace
    expected = content(tmp_path / "undisturbed")
    for step in range(len(expected)):
        folder = tmp_path / f"{when}{step}"

        def killed(folder=folder, step=step):
            calls = []

            def replace(source, target):
                calls.append(target)
                if when == "after":
                    real(source, target)
                if len(calls) == step + 1:
                    os.kill(os.getpid(), signal.SIGKILL)
                if when == "before":
                    real(source, target)

            _store_files.os.replace = replace
            build(raw, folder, workers=1)

        assert in_child(killed) == -signal.SIGKILL
        whole = when == "after" and step == len(expected) - 1
        if not whole:
            with pytest.raises(DataError, match=r"not a whole|no image store"):
                ImageStore.open(folder)
            assert not (folder / "manifest.json").exists()
        summary = build(raw, folder)
        finished = min(step + (when == "after"), 4)
        assert summary.taken_over == [0, 4, 9, 13, 15][finished]
        assert content(folder) == expected


SCRIPT = """
import sys
from pathlib import Path
from recbole_morec.convert._image_sources import open_images
from recbole_morec.convert._image_store_writer import build_image_store
source = open_images(sys.argv[1])
wanted = {Path(name).stem: name for name in source.names()}
build_image_store(source, wanted, sys.argv[2], size=100, workers=2, segment_images=10)
"""


def test_kill_nine_and_the_same_command_again(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    big = saved(picture(0, 1500, 1200))
    for n in range(120):
        (raw / f"i{n}.jpg").write_bytes(big + bytes([n]))
    archive = shutil.make_archive(str(tmp_path / "raw"), "gztar", raw)

    def command(folder: str) -> list[str]:
        return [sys.executable, "-c", SCRIPT, archive, str(tmp_path / folder)]

    subprocess.run(command("undisturbed"), check=True)
    for seen in (1, 5):
        folder = tmp_path / "killed"
        process = subprocess.Popen(command("killed"))
        try:
            while len(list(folder.glob("segment-*.arrow"))) < seen:
                assert process.poll() is None, "it was over before it could be killed"
                time.sleep(0.002)
        finally:
            process.kill()
            process.wait()
        with pytest.raises(DataError, match="run the same conversion again"):
            ImageStore.open(folder)
    first = (folder / "segment-00000.arrow").stat()
    subprocess.run(command("killed"), check=True)
    assert (folder / "segment-00000.arrow").stat().st_mtime_ns == first.st_mtime_ns  # taken over
    assert content(folder) == content(tmp_path / "undisturbed")
    ImageStore.open(folder).verify()


def test_a_changed_source_or_choice_is_built_anew(raw, tmp_path):
    folder = tmp_path / "images"
    build(raw, folder)
    before = content(folder)
    assert build(raw, folder).taken_over == 15
    assert content(folder) == before
    assert build(raw, folder, quality=80).taken_over == 0
    assert build(raw, folder, segment_images=4).taken_over == 0
    build(raw, folder)
    (raw / "i16.jpg").write_bytes(saved(picture(99)))  # the eighth: sorted, i16 follows i15
    assert build(raw, folder).taken_over == 4
    build(raw, tmp_path / "fresh")
    assert content(folder) == content(tmp_path / "fresh")
    for name in ("z1.jpg", "z2.jpg"):  # the last segment was not full, so it is built again
        (raw / name).write_bytes(saved(picture(5)))
    assert build(raw, folder).taken_over == 13
    shutil.rmtree(tmp_path / "fresh")
    build(raw, tmp_path / "fresh")
    assert content(folder) == content(tmp_path / "fresh")
    (raw / "z2.jpg").unlink()
    (raw / "z1.jpg").unlink()
    (raw / "i9.jpg").unlink()
    (raw / "i8.jpg").unlink()
    build(raw, folder)  # fewer segments than before
    shutil.rmtree(tmp_path / "fresh")
    build(raw, tmp_path / "fresh")
    assert content(folder) == content(tmp_path / "fresh")


def test_an_lmdb_with_the_same_keys_and_other_pixels_is_built_anew(tmp_path):
    for name, shade in (("red", 10), ("blue", 200)):
        records = {f"i{n}": pickled(pixels(shade + n), n) for n in range(4)}
        write_lmdb(tmp_path / f"{name}.lmdb", records, [*records])
    wanted = {f"i{n}": f"i{n}" for n in range(4)}

    def built(name: str, folder: str):
        source = open_images(tmp_path / f"{name}.lmdb")
        return build_image_store(source, wanted, tmp_path / folder, segment_images=2)

    built("red", "images")
    (tmp_path / "images" / "manifest.json").unlink()  # as a kill before the end leaves it
    assert built("blue", "images").taken_over == 0
    (tmp_path / "images" / "manifest.json").unlink()
    assert built("blue", "images").taken_over == 4
    built("blue", "fresh")
    assert content(tmp_path / "images") == content(tmp_path / "fresh")


def test_a_damaged_segment_is_not_taken_over(raw, tmp_path):
    folder = tmp_path / "images"
    build(raw, folder)
    expected = content(folder)
    for at in (7, 200, 900, 1500, -300, -20):
        flip(folder / "segment-00001.arrow", at)
        (folder / "manifest.json").unlink()
        build(raw, folder)
        assert content(folder) == expected


def test_one_folder_has_one_builder(raw, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    with _store_files.only_builder(folder), pytest.raises(DataError, match="another process"):
        build(raw, folder)
    assert list(folder.iterdir()) == []
    assert build(raw, folder).images == 15


def test_a_temporary_name_that_is_a_link_is_not_followed(raw, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    outside = tmp_path / "outside"
    outside.write_text("mine")
    for name in ("segment-00000.arrow.tmp", "segment-00001.arrow", "manifest.json.tmp"):
        (folder / name).symlink_to(outside)
    build(raw, folder)
    assert outside.read_text() == "mine"
    assert not any(path.is_symlink() for path in folder.iterdir())


# --- full disks -----------------------------------------------------------------------------------


def test_a_full_disk_is_a_clear_error_and_leaves_nothing_that_looks_whole(raw, tmp_path):
    build(raw, tmp_path / "undisturbed")
    expected = content(tmp_path / "undisturbed")
    sizes = [(tmp_path / "undisturbed" / f"segment-0000{n}.arrow").stat().st_size for n in (0, 1)]
    assert sizes[0] < sizes[1]
    folder, told = tmp_path / "images", tmp_path / "told"

    def cramped():
        resource.setrlimit(resource.RLIMIT_FSIZE, (sizes[0], sizes[0]))
        try:
            build(raw, folder)
        except DataError as error:
            told.write_text(str(error))
            raise

    assert in_child(cramped) == 1
    text = told.read_text()
    assert "segment-00001.arrow: cannot be written: File too large. It takes 0.0 MiB, and" in text
    assert "MiB are free" in text
    assert "1 finished segments" in text
    assert "run the same again" in text
    assert [path.name for path in folder.iterdir()] == ["segment-00000.arrow"]
    with pytest.raises(DataError, match="not a whole"):
        ImageStore.open(folder)
    assert build(raw, folder).taken_over == 4
    assert content(folder) == expected


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_at_any_file(raw, tmp_path, monkeypatch, code):
    build(raw, tmp_path / "undisturbed")
    expected = content(tmp_path / "undisturbed")
    real = os.fsync
    for step in range(2 * len(expected)):
        folder = tmp_path / str(step)
        calls = []

        def fsync(descriptor, calls=calls, step=step):
            calls.append(descriptor)
            if len(calls) == step + 1:
                raise OSError(code, os.strerror(code))
            real(descriptor)

        monkeypatch.setattr(_store_files.os, "fsync", fsync)
        with pytest.raises(DataError, match="cannot be written"):
            build(raw, folder)
        assert not list(folder.glob("*.tmp"))
        monkeypatch.setattr(_store_files.os, "fsync", real)
        build(raw, folder)
        assert content(folder) == expected


def test_a_whole_store_that_is_built_anew_is_whole_no_longer(raw, tmp_path, monkeypatch):
    folder = tmp_path / "images"
    build(raw, folder)

    def fsync(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_store_files.os, "fsync", fsync)
    with pytest.raises(DataError, match="No space left"):
        build(raw, folder, quality=80)
    with pytest.raises(DataError, match=r"no image store|not a whole"):
        ImageStore.open(folder)


def test_other_errors_of_the_disk_stay_what_they_are(raw, tmp_path, monkeypatch):
    def fsync(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(_store_files.os, "fsync", fsync)
    with pytest.raises(OSError, match="Input/output"):
        build(raw, tmp_path / "images")
    assert list((tmp_path / "images").iterdir()) == []
