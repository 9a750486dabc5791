"""Images in a conversion: packed in a store, from any kind of source, with every policy."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile

import numpy as np
import pytest
import source_worlds
import yaml
from PIL import Image

from recbole_morec.config import MoRecConfig
from recbole_morec.convert import SOURCES, convert_folder
from recbole_morec.convert._pipeline import convert_source
from recbole_morec.convert._source import Options
from recbole_morec.data.atomic import read_content
from recbole_morec.data.content import ImageStore, open_content
from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.data.inter import read_inter
from recbole_morec.errors import ConfigError, DataError
from recbole_morec.item_encoders.base import ImageNeed

ITEMS = ["a", "b", "c", "d"]


def jpeg(shade: int, size=(40, 30)) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, (shade, 255 - shade, 90)).save(data, "JPEG", quality=95)
    return data.getvalue()


@pytest.fixture
def source(tmp_path):
    """Three users with three of four items each; the image of d is damaged, c has none."""
    raw = tmp_path / "raw"
    (raw / "covers").mkdir(parents=True)
    rows = [(u, i) for u, items in enumerate(["abc", "bcd", "abd", "aab"]) for i in items]
    text = "".join(f"u{u},{i},{t}\n" for t, (u, i) in enumerate(rows))
    (raw / "interactions.csv").write_text("user,item,time\n" + text)
    (raw / "items.csv").write_text("item,title\n" + "".join(f"{i},title {i}\n" for i in ITEMS))
    for shade, item in enumerate("ab"):
        (raw / "covers" / f"{item}.jpg").write_bytes(jpeg(60 * shade))
    (raw / "covers" / "d.jpg").write_bytes(jpeg(9)[:200])
    return raw


def covers(folder):
    content = read_content(folder / "tiny.content")
    return dict(zip(content.tokens, content.columns["cover"], strict=True))


def pixels(folder, **settings):
    """The images of a dataset as training reads them, by item."""
    settings = {"item_encoder": "id", "data_path": str(folder.parent), **settings}
    config = MoRecConfig("PixelNet", "tiny", overrides=settings)
    data = MultimodalDataset(config)
    items = np.arange(1, data.item_num)
    read = open_content(data, [ImageNeed(16, "squash")], config).fetch(items)["image"]
    return {data.item_tokens[item]: read[at].numpy() for at, item in enumerate(items)}


def test_images_are_packed_and_bad_ones_are_left_out(source, tmp_path):
    report = convert_folder(source, tmp_path / "tiny")
    assert covers(tmp_path / "tiny") == {"a": "a", "b": "b", "c": None, "d": None}
    store = ImageStore.open(tmp_path / "tiny" / "images")
    store.verify()
    assert store.read("a") == (source / "covers" / "a.jpg").read_bytes()  # small: kept as it is
    assert report.images["bad files"] == 1
    (bad,) = report.bad_images
    assert (bad["item"], bad["file"]) == ("d", "d.jpg")
    assert "truncated" in bad["reason"]
    assert "2 images in" in report.detected["image store"]
    assert any("2 items of the content file without a usable image" in n for n in report.notes)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw", "tiny"]
    with pytest.raises(DataError, match="missing_content: blank"):
        pixels(tmp_path / "tiny")
    read = pixels(tmp_path / "tiny", missing_content="blank")
    assert (read["c"] == 128).all()
    assert abs(int(read["b"][0].mean()) - 60) < 4


def test_mean_reads_grey_without_being_asked(source, tmp_path):
    convert_folder(source, tmp_path / "tiny", bad_images="mean")
    settings = yaml.safe_load((tmp_path / "tiny" / "tiny.yaml").read_text())
    assert settings["missing_content"] == "blank"
    assert (pixels(tmp_path / "tiny")["d"] == 128).all()


@pytest.mark.parametrize("form", ["store", "copy"])
def test_drop_leaves_only_items_with_an_image(source, tmp_path, form):
    report = convert_folder(
        source, tmp_path / "tiny", bad_images="drop", image_form=form, min_user_inter=2
    )
    assert set(covers(tmp_path / "tiny")) == {"a", "b"}
    rows = read_inter(tmp_path / "tiny" / "tiny.inter").select("user", "item").rows()
    assert rows == [("u0", "a"), ("u0", "b"), ("u2", "a"), ("u2", "b")] + [("u3", i) for i in "aab"]
    assert report.dropped == {"item without a usable image": 4, "outside the k-core": 1}
    assert report.item_rows["dropped: item without a usable image"] == 2
    assert len(pixels(tmp_path / "tiny")) == 2


def test_error_stops_and_names_the_items(source, tmp_path):
    with pytest.raises(DataError, match=r"2 items have no usable image .*c: no image; d: trunc"):
        convert_folder(source, tmp_path / "tiny", bad_images="error")
    assert not (tmp_path / "tiny").exists()


def test_drop_and_error_hold_for_items_that_the_table_does_not_list(source, tmp_path):
    (source / "items.csv").unlink()  # c has neither a row nor an image
    report = convert_folder(source, tmp_path / "tiny", bad_images="drop")
    rows = read_inter(tmp_path / "tiny" / "tiny.inter")
    assert set(rows["item"]) == {"a", "b"}
    assert report.dropped == {"item without a usable image": 4}
    with pytest.raises(DataError, match=r"2 items have no usable image .*c: no image"):
        convert_folder(source, tmp_path / "other", bad_images="error")


@pytest.mark.parametrize("images", ["none", "of other items"])
def test_drop_and_error_without_any_image(source, tmp_path, images):
    for path in (source / "covers").iterdir():
        path.unlink()
    if images == "none":
        (source / "covers").rmdir()
    else:
        (source / "covers" / "z.jpg").write_bytes(jpeg(1))
    with pytest.raises(DataError, match="4 items have no usable image"):
        convert_folder(source, tmp_path / "tiny", bad_images="error")
    with pytest.raises(DataError, match="item without a usable image: 12"):
        convert_folder(source, tmp_path / "tiny", bad_images="drop")


def test_drop_before_the_newest_are_taken_keeps_older_images(source, tmp_path):
    (source / "items.csv").unlink()
    (source / "interactions.csv").write_text("user,item,time\nu,a,1\nu,b,2\nu,d,3\n")
    convert_folder(source, tmp_path / "tiny", bad_images="drop", last_n=1)
    assert read_inter(tmp_path / "tiny" / "tiny.inter").rows() == [("u", "b", 2)]
    assert covers(tmp_path / "tiny") == {"b": "b"}
    assert "b" in ImageStore.open(tmp_path / "tiny" / "images")


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_archives_are_found_and_equal_the_folder(source, tmp_path, kind):
    convert_folder(source, tmp_path / "from_folder" / "tiny")
    archive = source / f"cover.{kind}"
    files = sorted((source / "covers").iterdir())
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as made:
            for path in files:
                made.write(path, f"cover/{path.name}")
            made.writestr("../../evil.jpg", jpeg(3))
    else:
        with tarfile.open(archive, "w:gz") as made:
            for path in files:
                made.add(path, f"cover/{path.name}")
            made.addfile(tarfile.TarInfo("../../evil.jpg"), io.BytesIO(b""))
    for path in files:
        path.unlink()
    (source / "covers").rmdir()
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    report = convert_folder(source, tmp_path / "tiny")
    assert covers(tmp_path / "tiny") == {"a": "a", "b": "b", "c": None, "d": None}
    stores = [ImageStore.open(folder / "images") for folder in
              (tmp_path / "tiny", tmp_path / "from_folder" / "tiny")]  # fmt: skip
    assert stores[0].read("a") == stores[1].read("a")
    assert f"cover.{kind}" in report.detected["images"]
    assert any("evil.jpg" in note for note in report.notes)
    new = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert all(path.is_relative_to(tmp_path / "tiny") for path in new)
    with pytest.raises(ConfigError, match="--image-form copy takes a folder"):
        convert_folder(source, tmp_path / "other", image_form="copy")


def test_an_lmdb_is_found_and_read_by_number(tmp_path):
    source_worlds.morec_hm(tmp_path / "raw")
    (tmp_path / "raw" / "hm_images.lmdb").rename(tmp_path / "raw" / "hm_image_20W.lmdb")
    options = Options.of(input=tmp_path / "raw", output=tmp_path / "tiny")
    report = convert_source("morec", SOURCES["morec"].find, options)
    store = ImageStore.open(tmp_path / "tiny" / "images")
    assert "hm_image_20W.lmdb (lmdb)" in report.detected["images"]
    assert sorted(store.keys()) == source_worlds.item_ids("v")
    with Image.open(io.BytesIO(store.read("v103"))) as opened:
        assert opened.size == (5, 4)
        assert abs(opened.convert("RGB").getpixel((2, 2))[0] - 60) < 4
    assert any("found by their number" in note for note in report.notes)


def test_a_dataset_with_a_store_converts_to_itself(source, tmp_path):
    convert_folder(source, tmp_path / "one" / "tiny")
    report = convert_folder(tmp_path / "one" / "tiny", tmp_path / "two" / "tiny")
    for file in ("tiny.inter", "tiny.content"):
        one, two = (tmp_path / name / "tiny" / file for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
    stores = [ImageStore.open(tmp_path / name / "tiny" / "images") for name in ("one", "two")]
    assert list(stores[0].keys()) == list(stores[1].keys()) == ["a", "b"]
    assert stores[0].read("b") == stores[1].read("b")
    assert "(store)" in report.detected["images"]


def test_size_and_encoding(source, tmp_path):
    convert_folder(source, tmp_path / "tiny", image_size=20, image_encoding="webp")
    with Image.open(io.BytesIO(ImageStore.open(tmp_path / "tiny/images").read("a"))) as opened:
        assert (opened.format, opened.size) == ("WEBP", (27, 20))


def test_bad_choices_are_config_errors(source, tmp_path):
    for choice in (
        {"image_form": "zip"}, {"image_encoding": "png"}, {"image_resize": "pad"},
        {"bad_images": "skip"}, {"image_size": 0}, {"image_quality": 101},
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=r"--(image|bad)-"):
            convert_folder(source, tmp_path / "tiny", **choice)


def test_a_killed_conversion_is_finished_by_the_same_command(source, tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for n in range(9000):
        rows.append(f"u{n % 100},x{n},{n}\n")
        image = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8))
        image.save(source / "covers" / f"x{n}.jpg")
    (source / "interactions.csv").write_text("user,item,time\n" + "".join(rows))
    convert_folder(source, tmp_path / "whole" / "tiny")

    words = ["convert", "folder", "--input", source, "--output", tmp_path / "tiny"]
    code = "import sys; from recbole_morec.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    partial = tmp_path / ".tiny.images"
    deadline = time.monotonic() + 60
    while not list(partial.glob("segment-*.arrow")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    left = list(partial.glob("segment-*.arrow"))
    assert left
    assert not (tmp_path / "tiny").exists()

    report = convert_folder(source, tmp_path / "tiny")
    assert report.images["taken over from an unfinished conversion"] >= 4000
    for path in (tmp_path / "whole" / "tiny" / "images").iterdir():
        assert (tmp_path / "tiny" / "images" / path.name).read_bytes() == path.read_bytes()
    assert json.loads((tmp_path / "tiny" / "convert_report.json").read_text())["rows_kept"] == 9000
    assert not partial.exists()
