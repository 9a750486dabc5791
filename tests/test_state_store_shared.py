"""The state store where several runs, or several processes of one, want it."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time

import numpy as np
import pytest
import torch
import torch.distributed as dist
from state_store_world import CPU, ITEMS, Encoder, Interrupted, Numbers, make_world, written

from recbole_morec.data.content import ContentReader, state_making
from recbole_morec.data.content.state_making import stored_states
from recbole_morec.data.held import held


@pytest.fixture
def world(tmp_path, monkeypatch):
    return make_world(tmp_path, monkeypatch)


# --- two runs -----------------------------------------------------------------------------------


def in_thread(work):
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_second_run_waits_for_the_first(world, caplog):
    made, _, encoder, folder = world
    release, first = threading.Event(), []

    def slowly(content):
        first.extend(content["items"].tolist())
        if len(first) > 8 + 20:
            release.wait(60)
        return Encoder()(content)

    def one_run():
        stored_states(folder, ITEMS, ContentReader([Numbers()]), slowly, device=CPU)

    other = in_thread(one_run)
    until((folder / "block-000000.json").exists)
    read = []
    with caplog.at_level(logging.INFO):
        mine = in_thread(lambda: read.append(made()))
        until(lambda: "waiting for another run" in caplog.text)
    release.set()
    for thread in (other, mine):
        thread.join(60)
        assert not thread.is_alive()
    assert encoder.encoded == []  # but read
    assert len(first) == 8 + 50  # the first ones tell the size
    assert read[0].fetch(np.array([50]))[0][0, 0, 0] == 50


def test_what_another_run_made_before_this_one_was_alone_is_read(world, monkeypatch):
    made, _, encoder, folder = world
    look = state_making._unsound

    def looked(plan):
        found = look(plan)
        monkeypatch.setattr(state_making, "_unsound", look)
        stored_states(folder, ITEMS, ContentReader([Numbers()]), Encoder(), device=CPU)
        return found

    monkeypatch.setattr(state_making, "_unsound", looked)
    assert made().fetch(np.array([50]))[0][0, 0, 0] == 50
    assert encoder.encoded == []


def test_a_run_that_waits_hears_of_failures(world, monkeypatch):
    def failed(notes):
        raise Interrupted

    made, _, _, folder = world
    folder.mkdir()
    monkeypatch.setattr(state_making, "_stop_if_failed", failed)
    ended = []

    def run():
        with pytest.raises(Interrupted):
            made()
        ended.append(True)

    with held(folder / "making.lock"):
        in_thread(run).join(60)
    assert ended


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF])
def test_without_locks_it_is_made_all_the_same(world, monkeypatch, caplog, error):
    def refuse(descriptor, how):
        raise OSError(error, os.strerror(error))

    made, _, encoder, _ = world
    monkeypatch.setattr("recbole_morec.data.held.fcntl.flock", refuse)
    with caplog.at_level(logging.INFO):
        made()
    assert "cannot be locked" in caplog.text
    assert written(encoder) == list(range(1, ITEMS))


# --- two processes ------------------------------------------------------------------------------


def share(rank, case, folder, results):
    """One of two processes: what it encodes, what it reads, and what it raises."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{results}/group", rank=rank, world_size=2)
    numbers, encoder = Numbers(), Encoder()
    if case == "changed":
        numbers.numbers[20] = 99
    encode, found = encoder, {}
    if rank == 1 and case != "shared":

        def encode(content):
            time.sleep(0.3)
            with held(
                folder / "making.lock"
            ) as free:  # not by this run's first process, which is ready
                found["free"] = found.get("free", False) or free
            if case == "full" and len(encoder.encoded) > 8:
                raise OSError(28, "No space left on device")
            if case == "wrong":
                raise ZeroDivisionError("of the encoder")
            return encoder(content)

    try:
        store = stored_states(folder, ITEMS, ContentReader([numbers]), encode, device=CPU)
        found["values"] = store.fetch(np.arange(1, ITEMS))[0]
    except Exception as error:
        found["error"] = type(error).__name__, str(error)
    found["encoded"] = encoder.encoded
    torch.save(found, results / f"{rank}.pt")
    dist.barrier()  # the first one keeps what they share
    dist.destroy_process_group()


def both(case, folder, tmp_path):
    results = tmp_path / case
    results.mkdir()
    torch.multiprocessing.spawn(share, (case, folder, results), nprocs=2)
    return [torch.load(results / f"{rank}.pt") for rank in range(2)]


def test_processes_share_few_items(tmp_path):
    one, two = both("shared", tmp_path / "s", tmp_path)
    assert written_by(one) == [*range(1, 16), *range(32, 48)]
    assert two["encoded"] == [*range(16, 32), *range(48, ITEMS)]
    assert torch.equal(one["values"], two["values"])


def written_by(found):
    assert found["encoded"][:8] == list(range(1, 9))  # the trial
    return found["encoded"][8:]


@pytest.mark.parametrize("damage", ["changed", "damaged"])
def test_a_process_waits_until_the_others_blocks_are_right(world, tmp_path, damage):
    made, _, _, folder = world
    made()
    if damage == "damaged":
        file = folder / "block-000001.bin"
        file.write_bytes(bytes([255]) + file.read_bytes()[1:])
    one, two = both(damage, folder, tmp_path)
    # The only block that lacks is made by the first process, though it is the second's to check.
    assert one["encoded"] == [*range(16, 24), *range(16, 32)]
    assert two["encoded"] == []
    assert torch.equal(one["values"], two["values"])
    assert two["values"][19, 0, 0] == (99 if damage == "changed" else 20)


def test_a_slow_process_is_waited_for(world, tmp_path):
    _, _, _, folder = world
    one, two = both("slow", folder, tmp_path)
    assert torch.equal(one["values"], two["values"])
    assert two["free"] is False


@pytest.mark.parametrize("case", ["full", "wrong"])
def test_a_failure_in_one_process_ends_the_other(tmp_path, case):
    one, two = both(case, tmp_path / "s", tmp_path)
    if case == "full":
        assert one["error"] == two["error"]
        assert one["error"][0] == "DataError"
        assert "No space left on device" in one["error"][1]
    else:
        assert two["error"] == ("ZeroDivisionError", "of the encoder")
        assert one["error"][0] == "RuntimeError"
        assert "process 1" in one["error"][1]
    assert not list((tmp_path / "s").glob("*.partial"))
    if case == "full":  # and the next start goes on
        one, two = both("shared", tmp_path / "s", tmp_path)
        assert torch.equal(one["values"], two["values"])
