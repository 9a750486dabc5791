"""The state store: equal to encoding directly, resumed and mended."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from state_store_world import CPU, ITEMS, Encoder, Interrupted, Numbers, make_world, written

from recbole_morec.data.content import ContentReader, state_files, state_making, state_source
from recbole_morec.data.content.state_making import StatesError, stored_states
from recbole_morec.data.content.state_store import StateStore
from recbole_morec.errors import DataError


@pytest.fixture
def world(tmp_path, monkeypatch):
    return make_world(tmp_path, monkeypatch)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_states_are_those_of_the_encoder(world, dtype):
    made, numbers, encoder, _ = world
    store = made(dtype=dtype)
    assert written(encoder) == list(range(1, ITEMS))
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
    assert written(encoder) == list(range(16, 32))


@pytest.mark.parametrize("place", [0, 100, -1])
def test_a_damaged_block_is_made_again(world, place):
    made, _, encoder, folder = world
    expected = made().fetch(np.arange(1, ITEMS))[0]
    file = folder / "block-000002.bin"
    values = bytearray(file.read_bytes())
    values[place] ^= 0x40
    file.write_bytes(values)
    store = made()
    assert written(encoder) == list(range(32, 48))
    assert torch.equal(store.fetch(np.arange(1, ITEMS))[0], expected)
    (folder / "block-000002.bin").write_bytes(bytes(values[:-8]))  # cut off
    made()
    assert written(encoder) == list(range(32, 48))
    (folder / "block-000000.json").write_text("{", encoding="utf-8")
    made()
    assert written(encoder) == list(range(1, 16))


def test_another_dtype_is_never_read_as_this_one(world):
    made, _, encoder, _ = world
    made()
    assert made(dtype=torch.float32).fetch(np.array([22]))[0][0, 0, 0] == 22
    assert written(encoder) == list(range(1, ITEMS))


def test_changed_content_is_encoded_again(world):
    made, numbers, encoder, _ = world
    made()
    numbers.numbers[20] = 99
    store = made()
    assert written(encoder) == list(range(16, 32))
    assert store.fetch(np.array([20]))[0][0, 0, 0] == 99


def test_what_it_takes_is_said_before_a_block_is_written(world, caplog, monkeypatch):
    made, _, _, folder = world
    seen = []
    monkeypatch.setattr(
        state_making._log, "info",
        lambda text, *values: seen.append((text % values, list(folder.glob("block-*")))),
    )  # fmt: skip
    made(dtype=torch.float32)
    ((said, blocks),) = seen
    assert blocks == []
    assert said.startswith("states of 50 items: 0.00 GiB, computed once in about 0 s, into ")
    assert str(folder) in said


def test_the_time_is_that_of_all_items(world, caplog, monkeypatch):
    _, numbers, _, folder = world
    clock = threading.local()  # of each thread, so that what runs at the same time adds nothing

    def tell():
        return getattr(clock, "now", 0.0)

    def fetch(items):
        clock.now = tell() + 8
        return Numbers().fetch(items)

    def encode(content):
        clock.now = tell() + 2
        return Encoder()(content)

    monkeypatch.setattr(state_source, "usable_cpus", lambda: 4)
    monkeypatch.setattr(state_source, "time", SimpleNamespace(perf_counter=tell))
    monkeypatch.setattr(numbers, "fetch", fetch)
    with caplog.at_level(logging.INFO):
        stored_states(folder, ITEMS, ContentReader([numbers]), encode, device=CPU)
    # 10 tiles, each read in 8 s by one of four threads and encoded in 2 s.
    assert "in about 40 s" in caplog.text


def test_content_that_changes_while_it_is_encoded_is_encoded_again(world):
    made, numbers, encoder, folder = world
    encode = Encoder.__call__

    def changing(content):
        if 22 in content["items"] and numbers.numbers[20] == 20:
            numbers.numbers[20] = 99  # read already
        return encode(encoder, content)

    content = ContentReader([numbers])
    store = stored_states(folder, ITEMS, content, changing, device=CPU, dtype=torch.float32)
    assert store.fetch(np.array([20]))[0][0, 0, 0] == 99
    assert encoder.encoded[8:] == [*range(1, 32), *range(16, ITEMS)]
    encoder.encoded.clear()
    made(dtype=torch.float32)
    assert encoder.encoded == []


def test_content_that_keeps_changing_is_an_error(world, caplog):
    _, numbers, encoder, folder = world

    def changing(content):
        numbers.numbers[20] += 1
        return encoder(content)

    with pytest.raises(DataError, match=r"block-000001.*keeps changing"):
        stored_states(folder, ITEMS, ContentReader([numbers]), changing, device=CPU)
    assert caplog.text.count("its items changed meanwhile") == 3


@pytest.mark.parametrize(
    ("item_num", "size", "block"),
    [
        (10**6, 2 * 1024, 1024),  # vectors
        (10**6, 2**20, 48),
        (10**6, 2**27, 16),  # never fewer, but a tile is what is held
        (41, 4, 16),  # few items are shared by several processes too
        (10_000, 4, 313),
    ],
)
def test_the_size_of_blocks_follows_the_bytes(tmp_path, item_num, size, block):
    def encode(content):
        return torch.zeros(len(content["items"]), 1, 1).expand(-1, 1, size // 4), None

    source = state_source.StateSource(ContentReader([]), encode, CPU, torch.float32)
    plan = state_making._Plan(tmp_path, item_num, source, None, False)
    source.tile = lambda items: (np.empty((len(items), size), np.int8), [1] * len(items))
    assert state_making._block_size(plan) == block
    source.tile = None  # from now on it is read
    assert state_making._block_size(plan) == block


def test_a_block_is_written_and_checked_piece_by_piece(world, monkeypatch):
    made, _, _, folder = world
    crc32, sizes = state_making.zlib.crc32, []

    def watched(data, value=0):
        sizes.append(memoryview(data).nbytes)
        return crc32(data, value)

    monkeypatch.setattr(state_making.zlib, "crc32", watched)
    monkeypatch.setattr(state_files, "_PIECE", 64)
    made(dtype=torch.float32)
    written = max(sizes)
    assert written <= 5 * 3 * 4 * 4  # a tile
    sizes.clear()
    made(dtype=torch.float32)
    assert max(sizes) == 64
    assert sum(sizes) >= sum(file.stat().st_size for file in folder.glob("*.bin"))


def test_the_bar_counts_items(world, monkeypatch):
    made, _, _, _ = world
    bars = []

    class Bar(state_making.tqdm):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            bars.append((self, options))

        def update(self, n=1):
            steps.append(n)
            return super().update(n)

    steps = []
    monkeypatch.setattr(state_making, "tqdm", Bar)
    made(progress=True)
    ((bar, options),) = bars
    assert (bar.total, options["unit"], sum(steps)) == (50, "item", 50)
    assert max(steps) == 5


def test_a_store_of_an_earlier_version_is_made_anew(world):
    made, _, encoder, folder = world
    store = made(dtype=torch.float32)
    expected = store.fetch(np.arange(1, ITEMS))[0]
    lengths, values = [], b""
    identity = ContentReader([Numbers()]).identity(np.arange(1, ITEMS))
    for number in range(4):
        file = folder / f"block-{number:06d}"
        description = json.loads(file.with_suffix(".json").read_text())
        lengths += description["lengths"]
        values += file.with_suffix(".bin").read_bytes()
        if number:
            file.with_suffix(".json").unlink()
            file.with_suffix(".bin").unlink()
    (folder / "store.json").unlink()  # one block of 1,024 items it was
    (folder / "block-000000.bin").write_bytes(values)
    description |= {
        "content": identity,
        "lengths": lengths,
        "crc32": state_making.zlib.crc32(values),
    }
    (folder / "block-000000.json").write_text(json.dumps(description))
    assert torch.equal(made(dtype=torch.float32).fetch(np.arange(1, ITEMS))[0], expected)
    assert written(encoder) == list(range(1, ITEMS))


def test_the_next_tiles_are_read_while_one_is_encoded(world, monkeypatch):
    _, numbers, _, folder = world
    fetch, read = numbers.fetch, threading.Event()

    def watched(items):
        if items[0] == 6:
            read.set()
        return fetch(items)

    def encode(content):
        if content["items"].tolist() == [1, 2, 3, 4, 5]:
            assert read.wait(20)
        return Encoder()(content)

    monkeypatch.setattr(numbers, "fetch", watched)
    content = ContentReader([numbers])
    store = stored_states(folder, ITEMS, content, encode, device=CPU, dtype=torch.float32)
    assert read.is_set()
    values = store.fetch(np.arange(1, ITEMS))[0]
    assert torch.equal(values[:, 0, 0], torch.arange(1.0, ITEMS))


def test_a_spawned_worker_opens_it_again(world):
    import pickle

    made, _, _, _ = world
    store = made()
    again = pickle.loads(pickle.dumps(store))
    assert isinstance(again, StateStore)
    assert torch.equal(again.fetch(np.array([5]))[0], store.fetch(np.array([5]))[0])
    assert len(pickle.dumps(store)) < 500
    assert json.loads((store.folder / "block-000000.json").read_text())["lengths"][0] == 0


# --- what goes wrong ----------------------------------------------------------------------------


def usage_of(free):
    return lambda path: type("Usage", (), {"free": free})


def test_a_full_disk_is_told_before_much_is_written(world, monkeypatch):
    made, _, _, folder = world
    monkeypatch.setattr(state_making.shutil, "disk_usage", usage_of(10))
    with pytest.raises(DataError, match=r"of 50 items take .* are free on this disk"):
        made()
    assert not list(folder.glob("block-*"))


def test_room_is_left_for_checkpoints(world, monkeypatch):
    made, _, _, _ = world
    size = 200 * 2**20
    monkeypatch.setattr(state_making.shutil, "disk_usage", usage_of(size))
    with pytest.raises(DataError, match=r"Free 0.05 GiB more"):
        made()
    monkeypatch.setattr(state_making.shutil, "disk_usage", usage_of(size + 57 * 2**20))
    made()


@pytest.mark.parametrize("error", [Interrupted(), OSError(28, "No space left on device")])
def test_a_crash_while_a_block_is_written_loses_that_block_only(world, monkeypatch, error):
    made, _, encoder, folder = world
    encode = Encoder.__call__

    def crashing(self, content):
        if 22 in content["items"]:
            raise error
        return encode(self, content)

    monkeypatch.setattr(Encoder, "__call__", crashing)
    with pytest.raises(DataError if isinstance(error, OSError) else Interrupted) as raised:
        made()
    assert str(error.strerror if isinstance(error, OSError) else "") in str(raised.value)
    left = {file.name for file in folder.iterdir()} - {"making.lock"}
    assert left == {"store.json", "block-000000.bin", "block-000000.json"}
    monkeypatch.setattr(Encoder, "__call__", encode)
    store = made()
    assert written(encoder) == list(range(16, ITEMS))
    assert store.fetch(np.array([22]))[0][0, 0, 0] == 22


def test_what_a_killed_process_left_is_removed(world):
    made, _, _, folder = world
    code = (
        "import os, pathlib; from recbole_morec.data.content import state_files\n"
        f"folder = pathlib.Path({str(folder)!r})\n"
        "with state_files.replacing(folder / 'block-000002.bin') as file:\n"
        "    file.write_bytes(b'half')\n"
        "    os._exit(9)"
    )
    folder.mkdir()
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 9
    (left,) = folder.iterdir()
    other_host = folder / "block-000001.bin.0123abcd-1.partial"
    own = folder / f"block-000001.bin.{state_files._host()}-{os.getpid()}.partial"
    old = folder / "block-000003.4711.partial"
    for file in (other_host, own, old):
        file.write_bytes(b"half")
    os.utime(old, (time.time() - 10**6,) * 2)
    made()
    assert not left.exists()
    assert not old.exists()
    assert other_host.exists()  # may still be written
    own.unlink(missing_ok=True)


@pytest.mark.parametrize("scale", [1e4, float("inf"), float("nan")])
def test_states_that_are_not_finite_are_an_error(tmp_path, scale):
    def encode(content):
        states = content["number"][:, None, None].expand(-1, 1, 4)
        return torch.where(states == 30, states * scale, states), None

    options = {"content": ContentReader([Numbers()]), "encode": encode, "device": CPU}
    advice = "Set states_dtype: bf16" if scale == 1e4 else "are not finite. Look at"
    with pytest.raises(DataError, match=f"1 of .* internal id 30.*{advice}"):
        stored_states(tmp_path / "s", ITEMS, **options, dtype=torch.float16)
    if scale == 1e4:
        store = stored_states(tmp_path / "t", ITEMS, **options, dtype=torch.float32)
        assert store.fetch(np.array([30]))[0].max() == 30 * scale


def test_an_encoder_that_overflows_in_float16_is_told_so(tmp_path):
    def encode(content):
        return (content["number"][:, None, None] * 1e4).expand(-1, 1, 4).half(), None

    with pytest.raises(DataError, match="Set states_dtype: bf16 or states_dtype: fp32"):
        stored_states(
            tmp_path / "s", ITEMS, ContentReader([Numbers()]), encode, device=CPU,
            dtype=torch.float16,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "mask", "said"),
    [
        ((8, 4, 2), (8, 3), r"mask of its content has the shape \[8, 3\]"),
        ((8, 2), None, r"shape \[8, 2\] for 8 items"),
        ((2, 4, 2), None, r"shape \[2, 4, 2\] for 8 items"),
    ],
)
def test_a_mask_that_does_not_fit_is_told(tmp_path, shape, mask, said):
    def encode(content):
        return torch.zeros(shape), None if mask is None else torch.ones(mask, dtype=torch.bool)

    content = ContentReader([Numbers()])
    with pytest.raises(StatesError, match=said):
        stored_states(tmp_path / "s", ITEMS, content, encode, device=CPU)
