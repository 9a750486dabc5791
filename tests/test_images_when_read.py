"""Images are decoded or verified when something will read them, once, and all bad ones are told."""

from __future__ import annotations

import os
import pickle
import shutil
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import write_world
from PIL import Image
from state_store_world import ITEMS, Encoder, Numbers

from recbole_morec.config import MoRecConfig
from recbole_morec.data.content import ContentReader, UnreadableImagesError, images, state_making
from recbole_morec.data.content.state_making import stored_states
from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.models.adapter import build_adapter
from recbole_morec.run import evaluate, run

FROZEN = {"item_encoder": "image", "train_layers": "last_1"}


@pytest.fixture
def own_world(settings, tmp_path):
    """A world whose images and prepared folder are this test's alone."""
    folder = write_world(tmp_path / "data" / "colours", users=20)
    return {**settings, "data_path": str(folder.parent), "epochs": 1}, folder


@pytest.fixture
def reads(monkeypatch, tmp_path):
    """Process ids, one per image that was decoded or verified, of loader workers too."""
    log = tmp_path / "reads"
    log.touch()

    def counted(look):
        def counts(*given):
            with log.open("a") as out:
                out.write(f"{os.getpid()}\n")
            return look(*given)

        return counts

    for name in ("decode_image", "check_image"):
        monkeypatch.setattr(images, name, counted(getattr(images, name)))

    def taken():
        found = log.read_text().split()
        log.write_text("")
        return found

    return taken


def adapter_of(settings, model="PixelNet", **overrides):
    config = MoRecConfig(model, "colours", overrides={**settings, **overrides})
    config["device"] = torch.device("cpu")
    torch.manual_seed(3)
    return build_adapter(config, MultimodalDataset(config))


def damage(folder, *items):
    for item in items:
        path = folder / "images" / f"{item}.png"
        path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("PixelNet", {}),
        ("PixelNet", {"image_cache_gb": 0}),
        ("PixelNet", {"item_encoder": "image+text", "train_layers": "none"}),
        ("PixelNet", {"objective": "full_softmax", "train_layers": "none"}),
        ("GRU4Rec", {}),
    ],
)
def test_a_run_whose_states_are_all_stored_reads_no_image(own_world, reads, model, changes):
    settings, _ = own_world
    first = run(model, "colours", overrides={**settings, **FROZEN, **changes})
    assert len(reads()) >= 40
    second = run(model, "colours", overrides={**settings, **FROZEN, **changes, "resume": False})
    assert reads() == []
    assert second["test"] == first["test"]


def test_stored_states_take_the_caches_place(own_world):
    settings, _ = own_world
    for _ in ("made", "opened"):
        adapter = adapter_of(settings, **FROZEN)
        (reader,) = adapter.content.readers
        adapter.prepare()
        assert not reader.cached
        assert adapter.content.cached_bytes == 0
    # New weights: the images are read again, and no longer than that.
    state = {name: value + 0.5 for name, value in adapter.model.state_dict().items()}
    adapter.model.load_state_dict(state)
    adapter.prepare()
    assert not reader.cached
    plain = adapter_of(settings, **FROZEN, store_states=False)
    plain.prepare()
    assert plain.content.cached_bytes == 41 * 3 * 32 * 32


@pytest.mark.parametrize("model", ["PixelNet", "GRU4Rec"])
def test_without_stores_the_cache_is_filled_once(own_world, reads, model):
    settings, _ = own_world
    changes = {"store_states": False, "worker": 1, "epochs": 2}
    run(model, "colours", overrides={**settings, **FROZEN, **changes})
    assert reads() == [str(os.getpid())] * 40


@pytest.mark.parametrize("stores", ["auto", True, False])
@pytest.mark.parametrize("cache", [1, 0])
def test_bad_images_are_all_told_before_anything_is_encoded(
    own_world, monkeypatch, caplog, cache, stores
):
    settings, folder = own_world
    damage(folder, "red1", "blue2")

    def encoded(*given):
        raise AssertionError("encoded before the images were looked at")

    monkeypatch.setattr(state_making.StateSource, "_encode", encoded)
    adapter = adapter_of(settings, **FROZEN, image_cache_gb=cache, store_states=stores)
    with pytest.raises(UnreadableImagesError, match=r"(?s)2 images.*red1.*blue2"):
        adapter.prepare()
    assert "encoded in every step" not in caplog.text


def test_an_image_that_broke_since_its_states_were_stored_is_told(own_world):
    settings, folder = own_world
    adapter_of(settings, **FROZEN).prepare()
    damage(folder, "red1")
    with pytest.raises(UnreadableImagesError, match="red1"):
        adapter_of(settings, **FROZEN).prepare()


def test_states_of_grey_images_serve_those_who_allow_them(own_world, monkeypatch):
    settings, folder = own_world
    damage(folder, "red1")
    adapter_of(settings, **FROZEN, bad_images="blank").prepare()
    with pytest.raises(UnreadableImagesError, match="red1"):
        adapter_of(settings, **FROZEN).prepare()
    monkeypatch.setattr(state_making.StateSource, "_encode", None)  # nothing is encoded again
    adapter_of(settings, **FROZEN, bad_images="blank").prepare()


def test_states_of_an_image_that_only_decoding_finds_damaged_are_of_grey(own_world, monkeypatch):
    settings, folder = own_world
    path = folder / "images" / "red1.png"
    with Image.open(path) as image:
        image.convert("RGB").save(path, format="BMP")
    path.write_bytes(path.read_bytes()[:1000])  # its head is whole
    settings = {**settings, **FROZEN, "image_cache_gb": 0}
    adapter_of(settings, bad_images="blank").prepare()
    with pytest.raises(UnreadableImagesError, match="red1"):
        adapter_of(settings).prepare()
    monkeypatch.setattr(state_making.StateSource, "_encode", None)  # nothing is encoded again
    for builds in (True, False):
        adapter = adapter_of(settings, bad_images="blank")
        adapter.stored.builds = builds
        adapter.prepare()
        assert adapter.stored.by_encoder


@pytest.mark.parametrize("cache", [1, 0])
def test_an_image_that_changes_while_it_is_encoded_is_never_taken_for_the_new_one(
    own_world, monkeypatch, cache
):
    settings, folder = own_world
    settings = {**settings, **FROZEN, "image_cache_gb": cache, "states_dtype": "fp32"}
    images_of = folder / "images"
    encode, changed = state_making.StateSource._encode, []

    def changing(self, items, *rest):
        if not changed:
            changed.append(True)
            shutil.copy(images_of / "blue1.png", images_of / "red1.png")
            os.utime(images_of / "red1.png", (1, 1))
        return encode(self, items, *rest)

    monkeypatch.setattr(state_making.StateSource, "_encode", changing)
    adapter_of(settings).prepare()
    later = adapter_of(settings)
    later.prepare()
    shutil.rmtree(folder / "prepared")
    afresh = adapter_of(settings)
    afresh.prepare()
    items = np.arange(1, afresh.dataset.item_num)
    for key, value in afresh.content.fetch(items).items():
        assert torch.equal(later.content.fetch(items)[key], value), key


def test_a_reader_travels_to_another_process(own_world):
    settings, _ = own_world
    content = adapter_of(settings, **FROZEN).content
    items = np.array([3, 1])
    content.prepare()
    there = pickle.loads(pickle.dumps(content))
    assert torch.equal(there.fetch(items)["image"], content.fetch(items)["image"])
    content.release()
    assert torch.equal(there.fetch(items)["image"], content.fetch(items)["image"])


# --- evaluation alone ---------------------------------------------------------------------------


@pytest.mark.parametrize("stores", ["auto", True])
@pytest.mark.parametrize("model", ["PixelNet", "GRU4Rec"])
def test_evaluation_opens_a_store_and_makes_none(own_world, reads, tmp_path, model, stores):
    settings, folder = own_world
    trained = run(model, "colours", overrides={**settings, **FROZEN, "store_states": stores})
    (saved,) = (tmp_path / "saved" / "colours").iterdir()
    (store,) = (folder / "prepared").glob("states-*")
    reads()
    assert evaluate(saved)["test"] == trained["test"]
    assert reads() == []  # out of the store
    (store / "block-000000.json").unlink()
    for left in ("a store that lacks a block", "no store"):
        kept = sorted(folder.glob("prepared/states-*/*"))
        found = evaluate(saved)["test"]
        assert len(reads()) == 40, left
        assert sorted(folder.glob("prepared/states-*/*")) == kept, left
        for group, metrics in trained["test"].items():
            assert found[group] == pytest.approx(metrics), group
        shutil.rmtree(folder / "prepared")


def test_processes_that_evaluate_agree_on_the_store(monkeypatch, tmp_path):
    monkeypatch.setattr(state_making, "BLOCK", 16)
    content = ContentReader([Numbers()])
    here = {"device": torch.device("cpu"), "dtype": torch.float32}
    stored_states(tmp_path / "s", ITEMS, content, Encoder(), **here)
    next((tmp_path / "s").glob("block-000000.json")).unlink()
    found, left = {}, {}
    local = threading.local()
    notes = SimpleNamespace(leave=left.__setitem__, read=left.get)
    monkeypatch.setattr(state_making.parallel, "Notes", lambda subject: notes)
    monkeypatch.setattr(state_making.parallel, "world_size", lambda: 2)
    monkeypatch.setattr(state_making.parallel, "rank", lambda: local.rank)

    def process(rank):
        local.rank = rank
        made = stored_states(tmp_path / "s", ITEMS, content, Encoder(), build=False, **here)
        found[rank] = made is None

    threads = [threading.Thread(target=process, args=[rank]) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == {0: True, 1: True}  # the second has all of its share
