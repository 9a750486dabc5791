"""The prepared form of interactions: equal to a plain sort, made once, made again when stale."""

from __future__ import annotations

import json
import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recbole_morec.data import by_user as by_user_module
from recbole_morec.data import event_log, line_blocks, prepared, tokens
from recbole_morec.data.by_user import Numbering, by_user
from recbole_morec.data.event_log import EventLog
from recbole_morec.data.inter import write_inter
from recbole_morec.data.prepared import open_prepared
from recbole_morec.data.tokens import TokenNumbers, TokenTable, write_tokens
from recbole_morec.errors import DataError

FIELDS = ("user_id", "item_id", "timestamp")


def random_frame(rows: int = 500, seed: int = 0, times: str = "int") -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    time = rng.integers(0, 30, rows)  # many ties
    return pl.DataFrame(
        {
            "user": [f"u{n}" for n in rng.integers(0, 40, rows)],
            "item": [f"i{n}" for n in rng.integers(0, 25, rows)],
            "time": time if times == "int" else time / 4 + 0.125,
        }
    )


def plain_histories(frame: pl.DataFrame) -> dict[str, list[str]]:
    """Items of every user, sorted stably by time: what the prepared form must hold."""
    rows = sorted(frame.rows(), key=lambda row: row[2])
    histories: dict[str, list[str]] = {user: [] for user in frame["user"].unique()}
    for user, item, _ in rows:
        histories[user].append(item)
    return histories


def opened(path: Path, fields=FIELDS) -> dict[str, list[str]]:
    found = open_prepared(path, *fields)
    return {
        found.users[user]: found.items[found.histories.of(user)].tolist()
        for user in range(1, len(found.users))
    }


@pytest.fixture
def inter(tmp_path):
    path = tmp_path / "tiny" / "tiny.inter"
    write_inter(path, random_frame())
    return path


# --- the sort -----------------------------------------------------------------------------------


@pytest.mark.parametrize("times", ["int", "float"])
@pytest.mark.parametrize("block_rows", [1 << 22, 64, 7])
def test_histories_equal_a_plain_sort(tmp_path, monkeypatch, times, block_rows):
    monkeypatch.setattr(line_blocks, "BLOCK_BYTES", 200)
    monkeypatch.setattr(event_log, "CHUNK", 50)
    monkeypatch.setattr(by_user_module, "BLOCK_ROWS", block_rows)
    frame = random_frame(times=times)
    path = tmp_path / "tiny.inter"
    write_inter(path, frame)
    found = open_prepared(path, *FIELDS)
    assert opened(path) == plain_histories(frame)
    assert list(found.users)[1:] == frame["user"].unique(maintain_order=True).to_list()
    assert list(found.items)[1:] == frame["item"].unique(maintain_order=True).to_list()
    assert found.repeats == frame.height - frame.select("user", "item").unique().height


def test_times_that_float32_cannot_tell_apart_are_sorted_exactly(tmp_path):
    start = 1_600_000_000
    frame = pl.DataFrame(
        {
            "user": ["a", "b", "a", "a", "b", "a"],
            "item": ["5", "1", "6", "7", "2", "8"],
            "time": [start + 20, start, start + 10, start, start, start + 20],
        }
    )
    path = tmp_path / "tiny.inter"
    write_inter(path, frame)
    assert opened(path) == {"a": ["7", "6", "5", "8"], "b": ["1", "2"]}


def test_times_beyond_one_key_are_sorted_too(tmp_path):
    frame = pl.DataFrame(
        {
            "user": ["a", "b", "a", "b", "a"],
            "item": ["1", "2", "3", "4", "5"],
            "time": [2**62, 5, -(2**62), 4, 2**62 - 1],
        }
    )
    path = tmp_path / "tiny.inter"
    write_inter(path, frame)
    assert opened(path) == {"a": ["3", "5", "1"], "b": ["4", "2"]}


def test_without_a_time_the_rows_are_in_order(inter):
    frame = random_frame()
    rows = frame.with_columns(time=pl.int_range(frame.height))
    assert opened(inter, ("user_id", "item_id", None)) == plain_histories(rows)


def test_kept_rows_are_numbered_by_their_own_first_appearance(tmp_path, monkeypatch):
    monkeypatch.setattr(event_log, "CHUNK", 50)
    monkeypatch.setattr(by_user_module, "BLOCK_ROWS", 20)
    frame = random_frame()
    log = EventLog(tmp_path / "log")
    for part in frame.iter_slices(64):
        log.append(part["user"], part["item"], part["time"].to_numpy())
    keep = np.random.default_rng(1).random(frame.height) < 0.3
    numbering = Numbering.of(log, keep)
    kept = frame.filter(pl.Series(keep))
    users = log.users.tokens(numbering.user_numbers).to_list()
    items = log.items.tokens(numbering.item_numbers).to_list()
    assert users == kept["user"].unique(maintain_order=True).to_list()
    assert items == kept["item"].unique(maintain_order=True).to_list()
    rows = np.concatenate([block.row for block in by_user(log, numbering, tmp_path / "s")])
    assert sorted(rows) == np.flatnonzero(keep).tolist()
    assert not list((tmp_path / "s").iterdir())


# --- tokens -------------------------------------------------------------------------------------


def test_tokens_are_numbered_by_first_appearance():
    numbers = TokenNumbers()
    assert numbers.number(pl.Series(["b", None, "a", "b"])).tolist() == [0, tokens.NONE, 1, 0]
    assert numbers.number(pl.Series(["c", "a", "\u00fc"])).tolist() == [2, 1, 3]
    assert len(numbers) == 4
    assert numbers.tokens(np.array([3, 0])).to_list() == ["\u00fc", "b"]
    assert TokenNumbers().number(pl.Series(["z"])).tolist() == [0]  # a table of its own


def test_numbers_that_skip_are_an_error():
    assert tokens._new(np.array([0, 1, 0, 2], dtype=np.uint32), 0) == 3
    with pytest.raises(RuntimeError, match="first appearance"):
        tokens._new(np.array([0, 2, 1], dtype=np.uint32), 0)


def test_a_token_table_reads_like_an_array(tmp_path, monkeypatch):
    monkeypatch.setattr(tokens, "_BATCH", 4)
    import hashlib

    names = ["u10", "u9", "\u00e9", "a b", "u1", "Z", "", "u\U0001f600", "u99"]
    write_tokens(tmp_path / "t.arrow", pl.Series(names), hashlib.sha256())
    table = TokenTable(tmp_path / "t.arrow")
    assert len(table) == 10
    assert list(table) == ["[PAD]", *names]
    assert table[3] == "\u00e9"
    assert table[-1] == "u99"
    assert table[np.array([[1, 0], [9, 4]])].tolist() == [["u10", "[PAD]"], ["u99", "a b"]]
    assert table[1:3].tolist() == ["u10", "u9"]
    assert table[np.arange(10) == 5].tolist() == ["u1"]
    assert table[np.array([], dtype=int)].tolist() == []
    with pytest.raises(IndexError):
        table[10]
    assert table.lines(np.array([4, 1, 7])).decode() == "a b\nu10\n"
    assert table.lines(np.array([1, 4, 7, 9])).decode() == "u10\na b\n\nu99"
    ids = table.ids
    assert [ids[name] for name in ["[PAD]", *names]] == list(range(10))
    for unknown in ("u", "zz", "u100", 5):
        assert unknown not in ids


def test_the_padding_token_is_reserved(tmp_path):
    path = tmp_path / "tiny.inter"
    write_inter(path, pl.DataFrame({"user": ["a"], "item": ["[PAD]"], "time": [1]}))
    with pytest.raises(DataError, match=r"\[PAD\]"):
        open_prepared(path, *FIELDS)


# --- made once, made again when stale -----------------------------------------------------------


@pytest.fixture
def made(monkeypatch):
    """How often an .inter file was read."""
    calls = []
    real = prepared.read_inter_log
    monkeypatch.setattr(prepared, "read_inter_log", lambda *args: calls.append(args) or real(*args))
    return calls


def test_the_text_is_read_once(inter, made):
    first, again = opened(inter), opened(inter)
    assert first == again
    assert len(made) == 1
    files = {path.name for path in (inter.parent / "prepared" / "histories").iterdir()}
    assert files == {"meta.json", "users.arrow", "items.arrow", "offsets.npy", "items.npy"}
    assert not [p for p in (inter.parent / "prepared").iterdir() if p.name.startswith(".")]


def test_other_bytes_make_it_stale(inter, made):
    opened(inter)
    text = inter.read_text()
    last = text.splitlines()[-1].split("\t")[1]
    changed = text[: text.rindex(last)] + "x" * len(last) + text[text.rindex(last) + len(last) :]
    assert len(changed) == len(text)
    inter.write_text(changed)
    os.utime(inter, ns=(1, 1))
    assert "x" * len(last) in {item for items in opened(inter).values() for item in items}
    assert len(made) == 2


def test_a_new_time_of_the_file_alone_does_not(inter, made):
    opened(inter)
    os.utime(inter, ns=(1, 1))
    opened(inter)
    assert len(made) == 1
    meta = json.loads((inter.parent / "prepared" / "histories" / "meta.json").read_text())
    assert meta["inter"]["mtime_ns"] == 1  # so the next start need not hash the file


def test_other_fields_make_it_stale(inter, made):
    opened(inter)
    opened(inter, ("user_id", "item_id", None))
    opened(inter)
    assert len(made) == 3


def test_other_bytes_of_the_same_size_and_time_make_it_stale(inter, made):
    opened(inter)
    before = inter.stat()
    user, rest = inter.read_text().split("\n", 2)[1].split("\t", 1)
    changed = inter.read_text().replace(f"\n{user}\t{rest}", f"\n{'x' * len(user)}\t{rest}", 1)
    inter.write_text(changed)
    os.utime(inter, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert inter.stat().st_size == before.st_size
    assert "x" * len(user) in opened(inter)
    assert len(made) == 2


def test_a_file_that_changes_while_it_is_read_is_read_again(inter, monkeypatch):
    real, times = prepared.read_inter_log, []

    def reading(path, *args):
        log = real(path, *args)
        times.append(1)
        if len(times) == 1 or times[0] == "always":
            path.write_text(path.read_text() + f"late{len(times)}\ti1\t5\n")
        return log

    monkeypatch.setattr(prepared, "read_inter_log", reading)
    assert "late1" in opened(inter)
    (inter.parent / "prepared" / "histories" / "meta.json").unlink()
    times[:] = ["always"]
    with pytest.raises(DataError, match="changed while it was read"):
        opened(inter)


DAMAGES = ["short", "flipped", "zeros", "no meta", "bad meta", "meta: []", "meta: {}", "missing"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_form_is_made_again(inter, made, damage):
    right = opened(inter)
    folder = inter.parent / "prepared" / "histories"
    if damage == "short":
        os.truncate(folder / "items.npy", 200)
    elif damage == "flipped":
        data = bytearray((folder / "items.npy").read_bytes())
        data[-2] ^= 255
        (folder / "items.npy").write_bytes(data)
    elif damage == "zeros":
        (folder / "users.arrow").write_bytes(bytes((folder / "users.arrow").stat().st_size))
    elif damage.startswith("meta: "):
        (folder / "meta.json").write_text(damage.removeprefix("meta: "))
    elif damage == "missing":
        (folder / "users.arrow").unlink()
    elif damage == "no meta":
        (folder / "meta.json").unlink()
    else:
        (folder / "meta.json").write_text('{"format": ')
    assert opened(inter) == right
    assert len(made) == 2


def test_a_folder_that_cannot_be_written_to(inter, monkeypatch, caplog):
    right = opened(inter)
    folder = inter.parent / "prepared"
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    folder.rmdir()
    folder.write_text("a file stands where the folder would be")
    with caplog.at_level(logging.WARNING):
        assert opened(inter) == right
    assert "cannot be written to" in caplog.text
    assert folder.read_text().startswith("a file")


@pytest.mark.parametrize("gone", [False, True])
def test_it_can_be_sent_to_a_worker(inter, gone):
    found = open_prepared(inter, *FIELDS)
    if gone:  # as in a folder that cannot be written to
        for path in (inter.parent / "prepared" / "histories").iterdir():
            path.unlink()
    users, histories = pickle.loads(pickle.dumps((found.users, found.histories)))
    assert list(users) == list(found.users)
    assert (histories.items == found.histories.items).all()
    assert (histories.offsets == found.histories.offsets).all()
    assert isinstance(histories.items, np.memmap) != gone


def test_a_malformed_file_leaves_nothing_behind(tmp_path):
    path = tmp_path / "tiny.inter"
    path.write_text("user_id:token\titem_id:token\ttimestamp:float\nu\ti\t1\nu\ti\n")
    with pytest.raises(DataError, match="line 3"):
        open_prepared(path, *FIELDS)
    assert [p.name for p in (tmp_path / "prepared").iterdir()] == ["histories.lock"]


def test_processes_that_start_at_once_agree(inter):
    code = (
        "import sys; from pathlib import Path;"
        "from recbole_morec.data.prepared import open_prepared;"
        f"found = open_prepared(Path(sys.argv[1]), *{FIELDS!r});"
        "print(found.histories.items.sum(), found.histories_digest)"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(inter)], stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    printed = {process.communicate()[0] for process in running}
    assert all(process.returncode == 0 for process in running)
    assert len(printed) == 1
