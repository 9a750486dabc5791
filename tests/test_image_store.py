"""The image store: what was put in comes out, and damage has a name."""

from __future__ import annotations

import json
import logging
import pickle
import zlib
from pathlib import Path

import numpy as np
import pytest
from image_store_world import build, content, flip, make_raw, picture, saved
from torch.utils.data import DataLoader

from recbole_morec.convert import _store_files
from recbole_morec.convert._image_sources import FolderImages, open_images
from recbole_morec.convert._image_store_writer import build_image_store
from recbole_morec.data.content import ContentReader, ImageFolderReader, image_store
from recbole_morec.data.content.decoding import decode_image
from recbole_morec.data.content.image_store import ImageStore, manifest_sha256
from recbole_morec.errors import ConfigError, DataError


@pytest.fixture
def raw(tmp_path) -> Path:
    return make_raw(tmp_path / "raw")


# --- storing and reading --------------------------------------------------------------------------


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


# --- damage ---------------------------------------------------------------------------------------


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


# --- the reader -----------------------------------------------------------------------------------

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
