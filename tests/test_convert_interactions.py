"""What conversion drops and counts, on blocks so small that every user spans several."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_morec.convert import convert_folder
from recbole_morec.data import by_user, event_log, line_blocks
from recbole_morec.data.inter import read_inter
from recbole_morec.data.prepared import open_prepared
from recbole_morec.errors import ConfigError


@pytest.fixture(params=[False, True], ids=["one block", "small blocks"])
def blocks(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(line_blocks, "BLOCK_BYTES", 64)
        monkeypatch.setattr(event_log, "CHUNK", 7)
        monkeypatch.setattr(by_user, "BLOCK_ROWS", 10)


def raw_folder(folder, rows):
    folder.mkdir(parents=True)
    text = "".join(f"{item},{user},{time}\n" for item, user, time in rows)
    (folder / "interactions.csv").write_text("item_id,user_id,timestamp\n" + text)
    return folder


def random_rows(count=200, seed=0):
    rng = np.random.default_rng(seed)
    columns = (rng.integers(0, 30, count), rng.integers(0, 20, count), rng.integers(0, 40, count))
    return [(f"i{i}", f"u{u}", int(t)) for i, u, t in zip(*columns, strict=True)]


def written(folder):
    return [(item, user, time) for user, item, time in read_inter(folder / "tiny.inter").rows()]


@pytest.mark.usefixtures("blocks")
def test_the_prepared_form_is_that_of_the_text(tmp_path):
    rows = random_rows()
    convert_folder(raw_folder(tmp_path / "raw", rows), tmp_path / "tiny", min_user_inter=8)
    folder = tmp_path / "tiny" / "prepared" / "histories"
    converted = {path.name: path.read_bytes() for path in folder.iterdir()}
    for path in folder.iterdir():
        path.unlink()
    open_prepared(tmp_path / "tiny" / "tiny.inter", "user_id", "item_id", "timestamp")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == converted


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("choice", ["keep", "first", "last"])
def test_duplicates(tmp_path, choice):
    rows = random_rows()
    report = convert_folder(
        raw_folder(tmp_path / "raw", rows), tmp_path / "tiny", duplicates=choice
    )
    in_time = sorted(enumerate(rows), key=lambda each: each[1][2])
    chosen = {}
    for at, (item, user, _) in in_time if choice == "last" else reversed(in_time):
        chosen[item, user] = at
    expected = [rows[at] for at in sorted(chosen.values())] if choice != "keep" else rows
    assert written(tmp_path / "tiny") == expected
    assert report.repeated_pairs == len(rows) - len({row[:2] for row in rows}) > 0
    assert report.repeated_rows == len(rows) - len(set(rows)) > 0


@pytest.mark.usefixtures("blocks")
def test_the_core_is_iterated_and_the_newest_are_taken_after_it(tmp_path):
    rows = random_rows()
    kept = rows
    while True:
        users, items = [row[1] for row in kept], [row[0] for row in kept]
        left = [r for r in kept if users.count(r[1]) >= 7 and items.count(r[0]) >= 5]
        if len(left) == len(kept):
            break
        kept = left
    assert 0 < len(kept) < len(rows)
    newest = set()
    for user in {row[1] for row in kept}:
        own = [at for at, row in enumerate(kept) if row[1] == user]
        newest |= set(sorted(own, key=lambda at: (kept[at][2], at))[-4:])
    report = convert_folder(
        raw_folder(tmp_path / "raw", rows), tmp_path / "tiny",
        min_user_inter=7, min_item_inter=5, last_n=4,
    )  # fmt: skip
    assert written(tmp_path / "tiny") == [kept[at] for at in sorted(newest)]
    assert report.dropped == {
        "outside the k-core": len(rows) - len(kept),
        "older than the user's newest 4": len(kept) - len(newest),
    }
    assert report.longest == 4


@pytest.mark.usefixtures("blocks")
def test_counts(tmp_path):
    rows = random_rows()
    report = convert_folder(raw_folder(tmp_path / "raw", rows), tmp_path / "tiny")
    stamps = [row[1:] for row in rows]
    tied = [stamp for stamp in stamps if stamps.count(stamp) > 1]
    users = [row[1] for row in rows]
    assert (report.tied_rows, report.tied_users) == (len(tied), len({user for user, _ in tied}))
    assert report.rows_kept == len(rows)
    assert report.users == len(set(users))
    assert report.longest == max(users.count(user) for user in users)
    assert report.mean_length == len(rows) / len(set(users))
    assert sum(report.lengths.values()) == len(set(users))


@pytest.mark.usefixtures("blocks")
def test_ids_with_blanks_become_one(tmp_path):
    rows = [("i1", "u1", 1), (" i1", "u2", 2), ("i2", " u1 ", 3), ("i2", "NULL", 4)] * 5
    report = convert_folder(raw_folder(tmp_path / "raw", rows), tmp_path / "tiny")
    assert (report.users, report.items, report.dropped) == (2, 2, {"no user": 5})
    assert written(tmp_path / "tiny")[:3] == [("i1", "u1", 1), ("i1", "u2", 2), ("i2", "u1", 3)]


def test_whole_times_and_fractions_in_different_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(line_blocks, "BLOCK_BYTES", 32)
    rows = [("i1", "u1", 5), ("i2", "u1", 7), ("i3", "u1", ""), ("i4", "u1", 6.5), ("i5", "u1", 4)]
    convert_folder(raw_folder(tmp_path / "raw", rows), tmp_path / "tiny")
    assert [row[2] for row in written(tmp_path / "tiny")] == [5.0, 7.0, 6.5, 4.0]


def test_bad_numbers_are_config_errors(tmp_path):
    with pytest.raises(ConfigError, match="--last-n cannot be negative"):
        convert_folder(tmp_path, tmp_path / "x", last_n=-1)
