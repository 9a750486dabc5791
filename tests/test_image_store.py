"""The image store: what was put in comes out, whole or not at all, and damage has a name."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import logging
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from lmdb_world import pickled, pixels, write_lmdb
from PIL import Image
from torch.utils.data import DataLoader

from recbole_morec.convert import _store_files
from recbole_morec.convert._encode_image import Encoding, encode_image
from recbole_morec.convert._image_sources import FolderImages, open_images
from recbole_morec.convert._image_store_writer import build_image_store
from recbole_morec.data.content import ContentReader, ImageFolderReader, image_store
from recbole_morec.data.content.decoding import BadImageError, decode_image
from recbole_morec.data.content.image_store import ImageStore, manifest_sha256
from recbole_morec.errors import ConfigError, DataError

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


@pytest.fixture
def raw(tmp_path) -> Path:
    """Seventeen images of items i0, ..., i16, of which i3 and i11 are damaged."""
    folder = tmp_path / "raw"
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


# --- storing and reading ------------------------------------------------------------------------


def test_what_was_put_in_comes_out(raw, tmp_path):
    summary = build(raw, tmp_path / "images", encoding="as_is")
    store = ImageStore.open(tmp_path / "images")
    good = [f"i{n}" for n in range(17) if n not in (3, 11)]
    assert len(store) == len(good) == summary.images == summary.kept
    assert sorted(store.keys()) == sorted(good)
    for key in good:
        assert key in store
        assert store.read(key) == (raw / f"{key}.jpg").read_bytes()
    for key in ("i3", "i17", "", "i0.jpg", "\ud800", 7, None):
        assert key not in store
    with pytest.raises(KeyError):
        store.read("i3")
    assert summary.raw_bytes == len(good) * 60 * 40 * 3
    assert summary.bytes == sum(
        path.stat().st_size for path in (tmp_path / "images").glob("*.arrow")
    )
    assert "left out" in str(summary)
    store.verify()


def test_bad_images_are_listed_with_reasons(raw, tmp_path):
    summary = build(raw, tmp_path / "images")
    assert [(bad["item"], bad["file"]) for bad in summary.quarantine] == [
        ("i11", "i11.jpg"),
        ("i3", "i3.jpg"),
    ]
    assert "truncated" in summary.quarantine[0]["reason"]
    assert "web page" in summary.quarantine[1]["reason"]
    store = ImageStore.open(tmp_path / "images")
    assert store.manifest["quarantine"] == summary.quarantine
    assert "web page" in store.quarantined("i3")
    assert store.quarantined("i4") is None


def test_bad_images_may_be_an_error_that_keeps_the_work(raw, tmp_path):
    folder = tmp_path / "images"
    with pytest.raises(DataError) as caught:
        build(raw, folder, on_bad="error")
    assert "2 images cannot be stored" in str(caught.value)
    assert 'item "i3": i3.jpg: not an image' in str(caught.value)
    assert "leave_out" in str(caught.value)
    with pytest.raises(DataError, match="not a whole image store"):
        ImageStore.open(folder)
    assert build(raw, folder, on_bad="leave_out").taken_over == 15
    (raw / "i11.jpg").write_bytes(saved(picture(11)))
    (raw / "i3.jpg").write_bytes(saved(picture(3)))
    assert build(raw, folder, on_bad="error").images == 17


def test_items_may_share_an_image_and_name_one_that_is_not_there(raw, tmp_path):
    source = open_images(raw)
    wanted = {"z": "i1.jpg", "../../x.jpg": "i0.jpg", "a": "i1.jpg", "ü\t": "i2.jpg", "b": "gone"}
    build_image_store(source, wanted, tmp_path / "images", encoding="as_is")
    store = ImageStore.open(tmp_path / "images")
    assert list(store.keys()) == ["../../x.jpg", "a", "z", "ü\t"]
    assert store.read("a") == store.read("z") == (raw / "i1.jpg").read_bytes()
    assert store.read("../../x.jpg") == (raw / "i0.jpg").read_bytes()
    assert store.quarantined("b") == "the source does not have it"
    assert {path.name for path in tmp_path.iterdir()} == {"raw", "images"}
    assert not (tmp_path.parent / "x.jpg").exists()


def test_an_empty_store_is_a_store(raw, tmp_path):
    build_image_store(open_images(raw), {}, tmp_path / "a")
    assert list(ImageStore.open(tmp_path / "a").keys()) == []
    assert "x" not in ImageStore.open(tmp_path / "a")
    build_image_store(open_images(raw), {"x": "i3.jpg"}, tmp_path / "b")
    store = ImageStore.open(tmp_path / "b")
    store.verify()
    assert len(store) == 0
    assert store.quarantined("x")


def test_keys_with_one_hash_are_told_apart(raw, tmp_path, monkeypatch):
    for module in (image_store, _store_files):
        monkeypatch.setattr(module, "key_hash", lambda key: len(key))
    build(raw, tmp_path / "images", encoding="as_is")
    store = ImageStore.open(tmp_path / "images")
    for key in store.keys():  # noqa: SIM118
        assert store.read(key) == (raw / f"{key}.jpg").read_bytes()
    assert "i3" not in store
    assert "zz" not in store


def test_unknown_choices_are_config_errors(raw, tmp_path):
    with pytest.raises(ConfigError) as caught:
        build(raw, tmp_path / "x", encoding="jpg", resize="cropp", quality=101, size=0)
    for text in ('"jpeg"', '"crop"', "quality must be", "size must be"):
        assert text in str(caught.value)
    with pytest.raises(ConfigError, match="leave_out, error"):
        build(raw, tmp_path / "x", on_bad="ignore")
    with pytest.raises(ConfigError, match="at least 1"):
        build(raw, tmp_path / "x", workers=0)
    assert not (tmp_path / "x").exists()


def test_a_folder_with_other_files_is_left_alone(raw, tmp_path):
    before = content(raw)
    with pytest.raises(DataError, match=r'"i0\.jpg" and 16 more'):
        build(raw, raw)
    assert content(raw) == before


# --- encoding -----------------------------------------------------------------------------------


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
        pytest.importorskip("lmdb")
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


# --- same bytes, whatever happens ---------------------------------------------------------------


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


# --- full disks ---------------------------------------------------------------------------------


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
    assert "segment-00001.arrow: cannot be written after" in text
    assert "MiB are free" in text
    assert "1 finished segments" in text
    assert "run the same command again" in text
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


def test_other_errors_of_the_disk_stay_what_they_are(raw, tmp_path, monkeypatch):
    def fsync(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(_store_files.os, "fsync", fsync)
    with pytest.raises(OSError, match="Input/output"):
        build(raw, tmp_path / "images")
    assert list((tmp_path / "images").iterdir()) == []


# --- damage -------------------------------------------------------------------------------------


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def test_a_flipped_byte_in_an_image_names_the_image_and_the_file(raw, tmp_path):
    folder = tmp_path / "images"
    build(raw, folder, encoding="as_is")
    image = (raw / "i16.jpg").read_bytes()
    segment = next(path for path in folder.glob("*.arrow") if image in path.read_bytes())
    flip(segment, segment.read_bytes().index(image) + len(image) // 2)
    store = ImageStore.open(folder)  # only reading finds it
    with pytest.raises(DataError, match=rf'{segment.name}: the image "i16" is damaged'):
        store.read("i16")
    assert store.read("i15") == (raw / "i15.jpg").read_bytes()
    with pytest.raises(DataError) as caught:
        store.verify()
    assert f"{segment.name}: its bytes have changed" in str(caught.value)
    assert 'damaged images: "i16"' in str(caught.value)


def damage_found(folder: Path, images: dict[str, bytes]) -> list[str]:
    """Open, read and verify a damaged store; return the errors. What can be read must be right."""
    found = []
    try:
        store = ImageStore.open(folder)
    except DataError as error:
        return [str(error)]
    for key, image in images.items():
        try:
            assert store.read(key) == image
        except DataError as error:
            found.append(str(error))
    with pytest.raises(DataError) as caught:
        store.verify()
    return [*found, str(caught.value)]


def test_a_flipped_byte_anywhere_is_found(raw, tmp_path):
    folder = tmp_path / "images"
    build(raw, folder, size=4, segment_images=9)
    whole = ImageStore.open(folder)
    images = {key: whole.read(key) for key in whole.keys()}  # noqa: SIM118
    rng = np.random.default_rng(0)
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        for at in rng.choice(len(data), 60, replace=False).tolist():
            flip(path, at)
            damage = damage_found(folder, images)
            assert damage
            assert all(path.name in text for text in damage)
            path.write_bytes(data)
    ImageStore.open(folder).verify()


def test_missing_and_cut_off_files_are_found_at_opening(raw, tmp_path):
    folder = tmp_path / "images"
    build(raw, folder)
    segment = folder / "segment-00002.arrow"
    data = segment.read_bytes()
    segment.write_bytes(data[:-1])
    with pytest.raises(DataError, match=rf"segment-00002\.arrow: has .* wrote {len(data):,}"):
        ImageStore.open(folder)
    segment.unlink()
    with pytest.raises(DataError, match=r"segment-00002\.arrow: is missing"):
        ImageStore.open(folder)
    segment.write_bytes(data)
    (folder / "index.arrow").write_bytes(data)
    with pytest.raises(DataError, match=r"index\.arrow"):
        ImageStore.open(folder)


def test_a_manifest_that_is_not_ours_or_of_a_later_version(raw, tmp_path):
    folder = tmp_path / "images"
    with pytest.raises(DataError, match="there is no image store"):
        ImageStore.open(folder)
    build(raw, folder)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for text in ("", "[]", "{}", "null", '{"format": "x"}'):
        path.write_text(text)
        with pytest.raises(DataError, match=r"manifest\.json: is damaged"):
            ImageStore.open(folder)
    manifest.pop("sha256")
    manifest["version"] = 2
    path.write_text(json.dumps(manifest | {"sha256": manifest_sha256(manifest)}))
    with pytest.raises(DataError, match="version 2; this recbole_morec reads up to 1"):
        ImageStore.open(folder)


# --- the reader ---------------------------------------------------------------------------------

KEYS = [None, "i0", "i1", "i2", None]


@pytest.fixture
def dataset(raw, tmp_path) -> Path:
    """A dataset folder with a store."""
    build(raw, tmp_path / "data" / "images", encoding="as_is")
    return tmp_path / "data"


def test_the_store_gives_the_pixels_of_the_files(raw, dataset):
    files = ImageFolderReader(raw, [key and f"{key}.jpg" for key in KEYS], 8)
    stored = ImageFolderReader(dataset, KEYS, 8)
    cached = ImageFolderReader(dataset, KEYS, 8, cache_bytes=10**6)
    for reader in (stored, cached):
        reader.check()
        reader.verify()
    assert cached.preload()
    items = np.array([3, 0, 1, 1, 4, 2])
    expected = files.fetch(items)
    np.testing.assert_array_equal(stored.fetch(items), expected)
    np.testing.assert_array_equal(cached.fetch(items), expected)


def test_keys_that_are_not_in_the_store_are_listed_with_the_reason(dataset, caplog):
    keys = [None, "i0", "i3", "nobody"]
    with pytest.raises(DataError) as caught:
        ImageFolderReader(dataset, keys, 8, tokens=["", "A", "B", "C"]).check()
    text = str(caught.value)
    assert text.startswith("2 images")
    assert 'item "B": i3: left out when the image store was built: not an image' in text
    assert 'item "C": nobody: the image store does not have it' in text
    assert "Convert the images again" in text
    reader = ImageFolderReader(dataset, keys, 8, bad_images="blank")
    with caplog.at_level(logging.WARNING):
        reader.check()
    assert [bad.path for bad in reader.bad] == ["i3", "nobody"]
    assert (reader.fetch(np.array([2, 3])) == 128).all()
    with pytest.raises(DataError, match="nobody"):
        ImageFolderReader(dataset, keys, 8).fetch(np.array([3]))


def test_damage_in_the_store_is_a_bad_image_like_any_other(raw, dataset):
    image = (raw / "i1.jpg").read_bytes()
    for path in (dataset / "images").glob("*.arrow"):
        if image in path.read_bytes():
            flip(path, path.read_bytes().index(image) + 300)
            damaged = path.name
    for action in ("verify", "preload"):
        reader = ImageFolderReader(dataset, KEYS, 8, cache_bytes=10**6)
        reader.check()
        with pytest.raises(DataError, match=rf'item "2": i1: .*{damaged}: the image "i1"'):
            getattr(reader, action)()
    reader = ImageFolderReader(dataset, KEYS, 8, bad_images="blank")
    reader.verify()
    assert (reader.fetch(np.array([2])) == 128).all()
    assert not (reader.fetch(np.array([1])) == 128).all()


def test_a_store_that_is_not_whole_stops_the_start(dataset):
    (dataset / "images" / "manifest.json").unlink()
    with pytest.raises(DataError, match="not a whole image store"):
        ImageFolderReader(dataset, KEYS, 8)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_loader_workers_read_the_store(raw, dataset, start):
    content = ContentReader([ImageFolderReader(dataset, KEYS, 8)])
    content.fetch(np.array([1]))  # opened before the workers start
    loader = DataLoader(
        [np.array([1, 2]), np.array([3])], batch_size=None, num_workers=2,
        collate_fn=content.fetch, multiprocessing_context=start,
    )  # fmt: skip
    batches = [batch["image"].numpy() for batch in loader]
    for key, image in zip(KEYS[1:4], [*batches[0], *batches[1]], strict=True):
        expected = decode_image((raw / f"{key}.jpg").read_bytes(), 8)
        np.testing.assert_array_equal(image, expected)


def test_a_pickled_store_carries_no_images(dataset):
    store = ImageStore.open(dataset / "images")
    store.read("i0")
    data = pickle.dumps(store)
    assert len(data) < 5000
    assert pickle.loads(data).read("i0") == store.read("i0")


def test_a_store_with_many_segments_holds_few_files_open(raw, tmp_path, monkeypatch):
    monkeypatch.setattr(image_store, "_MOST_OPEN", 2)
    build(raw, tmp_path / "images", segment_images=1, encoding="as_is")
    store = ImageStore.open(tmp_path / "images")
    for _ in range(2):
        for key in store.keys():  # noqa: SIM118
            assert store.read(key) == (raw / f"{key}.jpg").read_bytes()
            assert len(store._segments) <= 2


def test_records_are_checked_by_the_usual_crc():
    assert image_store.record_crc(b"key", b"image") == zlib.crc32(b"keyimage")


def test_folder_images_are_the_default_kind(raw):
    assert isinstance(open_images(raw), FolderImages)
