"""The state store: equal to encoding directly, resumed, mended, and made by several processes."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
import torch

from recbole_morec.data.content import ContentReader, state_store
from recbole_morec.data.content.state_store import StateStore, stored_states
from recbole_morec.errors import DataError

ITEMS = 1 + 50
CPU = torch.device("cpu")


class Numbers:
    """Content: a number per item."""

    keys = ("number",)

    def __init__(self):
        self.numbers = np.arange(ITEMS, dtype=np.float32)

    def fetch(self, items):
        return self.numbers[items]

    def identity(self, item):
        return str(self.numbers[item]).encode()


class Encoder:
    """Item i has 1 + i % 3 tokens of width 4 that hold its number; counts what it encodes."""

    def __init__(self):
        self.encoded = []

    def __call__(self, content):
        items = content["items"]
        self.encoded += items.tolist()
        states = content["number"][:, None, None] + torch.arange(3)[None, :, None] / 8
        return states.expand(-1, -1, 4), torch.arange(3)[None, :] < 1 + items[:, None] % 3


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setattr(state_store, "BLOCK", 16)
    numbers, encoder = Numbers(), Encoder()

    def made(**options):
        encoder.encoded.clear()
        content = ContentReader([numbers])
        return stored_states(tmp_path / "s", ITEMS, content, encoder, device=CPU, **options)

    return made, numbers, encoder, tmp_path / "s"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_states_are_those_of_the_encoder(world, dtype):
    made, numbers, encoder, _ = world
    store = made(dtype=dtype)
    assert encoder.encoded == list(range(1, ITEMS))
    assert (store.width, store.longest) == (4, 3)
    items = np.array([50, 1, 17, 2, 17])
    values, mask = store.fetch(items)
    number = torch.from_numpy(numbers.fetch(items))
    expected, real = Encoder()({"items": torch.from_numpy(items), "number": number})
    assert torch.equal(mask, real)
    assert torch.equal(values, (expected * real[..., None]).to(dtype))
    short, _ = store.fetch(np.array([3, 6]))
    assert short.shape == (2, 1, 4)  # no longer than the longest of them


def test_it_is_made_once(world):
    made, _, encoder, _ = world
    made()
    made()
    assert encoder.encoded == []


def test_an_interrupted_store_goes_on(world):
    made, _, encoder, folder = world
    made()
    (folder / "block-000001.json").unlink()  # written last, so this block was not complete
    made()
    assert encoder.encoded == list(range(16, 32))


@pytest.mark.parametrize("place", [0, 100, -1])
def test_a_damaged_block_is_made_again(world, place):
    made, _, encoder, folder = world
    expected = made().fetch(np.arange(1, ITEMS))[0]
    file = folder / "block-000002.bin"
    values = bytearray(file.read_bytes())
    values[place] ^= 0x40
    file.write_bytes(values)
    store = made()
    assert encoder.encoded == list(range(32, 48))
    assert torch.equal(store.fetch(np.arange(1, ITEMS))[0], expected)
    (folder / "block-000002.bin").write_bytes(bytes(values[:-8]))  # cut off
    made()
    assert encoder.encoded == list(range(32, 48))
    (folder / "block-000000.json").write_text("{", encoding="utf-8")
    made()
    assert encoder.encoded == list(range(1, 16))


def test_changed_content_is_encoded_again(world):
    made, numbers, encoder, _ = world
    made()
    numbers.numbers[20] = 99
    store = made()
    assert encoder.encoded == list(range(16, 32))
    assert store.fetch(np.array([20]))[0][0, 0, 0] == 99


def test_processes_share_the_work(world, monkeypatch):
    folder = world[3]
    own = threading.local()
    monkeypatch.setattr(state_store.parallel, "rank", lambda: own.rank)
    monkeypatch.setattr(state_store.parallel, "world_size", lambda: 2)
    found, encoders = {}, {}

    def process(rank):
        own.rank = rank
        encoders[rank] = Encoder()
        content = ContentReader([Numbers()])
        found[rank] = stored_states(folder, ITEMS, content, encoders[rank], device=CPU)

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert encoders[0].encoded == [*range(1, 16), *range(32, 48)]
    assert encoders[1].encoded == [*range(16, 32), *range(48, ITEMS)]
    items = np.arange(1, ITEMS)
    assert torch.equal(found[0].fetch(items)[0], found[1].fetch(items)[0])


def test_a_full_disk_is_told_before_much_is_written(world, monkeypatch):
    made, _, _, folder = world
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(state_store.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DataError, match="are free on this disk"):
        made()
    assert not list(folder.glob("*.bin"))


def test_a_spawned_worker_opens_it_again(world):
    import pickle

    made, _, _, _ = world
    store = made()
    again = pickle.loads(pickle.dumps(store))
    assert isinstance(again, StateStore)
    assert torch.equal(again.fetch(np.array([5]))[0], store.fetch(np.array([5]))[0])
    assert len(pickle.dumps(store)) < 500
    assert json.loads((store.folder / "block-000000.json").read_text())["lengths"][0] == 0
