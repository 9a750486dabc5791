"""Mutated sources give a correct conversion or one clear error, and write nowhere else.

``RECBOLE_MOREC_FUZZ=2000 pytest tests/test_convert_fuzz.py -s`` tries so many and counts outcomes.
"""

from __future__ import annotations

import gzip
import io
import os
import random
import re
import shutil
import warnings
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from source_worlds import BEHAVIOURS, TABLES, WORLDS, plain_histories, write_lmdb

from recbole_morec import convert
from recbole_morec.convert._pipeline import convert_source
from recbole_morec.convert._source import Options
from recbole_morec.data.atomic import read_content
from recbole_morec.data.content import ImageStore
from recbole_morec.data.inter import read_inter
from recbole_morec.data.prepared import open_prepared
from recbole_morec.errors import ConfigError, DataError

pytest.importorskip("lmdb")

COUNT = int(os.environ.get("RECBOLE_MOREC_FUZZ", "140"))
TRICKS = [b"../../x.jpg", b"/etc/passwd", rb"..\..\x", rb"C:\x", b"[PAD]", b" ", b"", b"a/b\tc"]
TIMES = [
    b"1e400",
    b"99999999999999999999999",
    b"-1",
    b"nan",
    b"2020-13-45",
    b"0x12",
    b"1,5",
    b"9" * 19,
]


# --- mutations of text --------------------------------------------------------------------------


def cut_off(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def cut_out(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.randrange(1, 30) :]


def inserting(pieces: list[bytes]):
    def mutate(data: bytes, rng: random.Random) -> bytes:
        at = rng.randrange(len(data) + 1)
        return data[:at] + rng.choice(pieces) + data[at:]

    return mutate


def change_cell(pieces: list[bytes]):
    def mutate(data: bytes, rng: random.Random) -> bytes:
        cells = [found.span() for found in re.finditer(rb"[^,\t\n ]+", data)]
        if not cells:
            return data
        start, stop = rng.choice(cells)
        return data[:start] + rng.choice(pieces) + data[stop:]

    return mutate


def change_time(data: bytes, rng: random.Random) -> bytes:
    times = [found.span() for found in re.finditer(rb"\d{8,}", data)]
    if not times:
        return change_cell(TIMES)(data, rng)
    start, stop = rng.choice(times)
    return data[:start] + rng.choice(TIMES) + data[stop:]


def on_lines(change):
    def mutate(data: bytes, rng: random.Random) -> bytes:
        lines = data.split(b"\n")
        change(lines, rng)
        return b"\n".join(lines)

    return mutate


def json_value(pieces: list[bytes]):
    """Put something odd in the place of a value of a JSON object."""

    def mutate(data: bytes, rng: random.Random) -> bytes:
        values = [found.span(1) for found in re.finditer(rb': ("[^"]*"|[\d.]+)', data)]
        if not values:
            return inserting(pieces)(data, rng)
        start, stop = rng.choice(values)
        return data[:start] + rng.choice(pieces) + data[stop:]

    return mutate


JSON_MUTATIONS = {
    "half of a character": json_value([rb'"\ud800"', rb'"a\udc00b"', rb'"\ud83d\ud83d"']),
    "deep JSON": json_value([b"[" * n + b"]" * n for n in (600, 1500, 200_000)]),
    "other JSON value": json_value([b"[1]", b'{"a": 1}', b"true", b"null", b"1e400", b"-0.0"]),
}
MUTATIONS = {
    "cut off": cut_off,
    "cut out": cut_out,
    "quote": inserting([b'"', b'""', b"'"]),
    "NUL": inserting([b"\0"]),
    "bad UTF-8": inserting([b"\xff", b"\xc3", b"\xed\xa0\x80"]),
    "huge field": change_cell([b"x" * 200_000]),
    "absurd time": change_time,
    "path trick": change_cell(TRICKS),
    "separator": inserting([b",", b"\t", b";", b"|", b"\n", b"\r", b"\r\n", b"\\"]),
    "repeated line": on_lines(lambda lines, rng: lines.insert(0, rng.choice(lines))),
    "lost line": on_lines(lambda lines, rng: lines.pop(rng.randrange(len(lines)))),
    "shuffled lines": on_lines(lambda lines, rng: rng.shuffle(lines)),
    "Windows line ends": lambda data, rng: data.replace(b"\n", b"\r\n"),
    "UTF-16": lambda data, rng: data.decode("utf-8", "replace").encode("utf-16"),
    "empty": lambda data, rng: b"",
    "old Mac line ends": lambda data, rng: data.replace(b"\n", b"\r"),
    "flipped byte": lambda data, rng: _flip(data, rng),
}


def _flip(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return data
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def mutate(folder: Path, rng: random.Random) -> tuple[Path, str]:
    """Change one file of a source; returns which, and how."""
    path = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    mutations = dict(MUTATIONS)
    if {".json", ".jsonl"} & {*path.suffixes}:
        mutations |= JSON_MUTATIONS
    name = rng.choice(list(mutations))
    if path.suffix == ".lmdb":
        path.unlink()
        keys = [str(n) for n in range(100, 108)]
        write_lmdb(path, keys, lambda records: _mutate_records(records, name, rng))
    elif path.suffix == ".gz" and rng.random() < 0.7:
        text = mutations[name](gzip.decompress(path.read_bytes()), rng)
        path.write_bytes(gzip.compress(text, mtime=0))
    elif path.suffix == ".zip" and rng.random() < 0.5:
        name = "zip member"
        with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a name twice
            member = rng.choice(["../../x.jpg", "/x.jpg", "a/../../x.jpg", archive.namelist()[0]])
            archive.writestr(member, b"no image")
    else:
        path.write_bytes(mutations[name](path.read_bytes(), rng))
    return path, name


def _mutate_records(records: dict[bytes, bytes], name: str, rng: random.Random) -> None:
    key = rng.choice(list(records))
    records[key] = MUTATIONS[name](records[key], rng) or b"\0"


# --- what must hold -----------------------------------------------------------------------------


def check_conversion(folder: Path, name: str, report, source_text: bytes | None) -> None:
    rows = read_inter(folder / f"{name}.inter")
    assert rows.height == report.rows_kept
    assert report.rows_read - sum(report.dropped.values()) == report.rows_kept
    opened = open_prepared(folder / f"{name}.inter", "user_id", "item_id", "timestamp")
    assert len(opened.histories.items) == rows.height
    if source_text is not None:
        for token in {*rows["user"], *rows["item"]}:
            assert token.encode() in source_text, token
    content = folder / f"{name}.content"
    if content.exists():
        table = read_content(content)
        if (folder / "images").exists():
            store = ImageStore.open(folder / "images")
            store.verify()
            covers = [cover for cover in table.columns["cover"] if cover is not None]
            assert all(cover in store for cover in covers)


def histories(path: Path) -> dict[str, list[str]]:
    """User -> items by time, of equal times the row that comes first."""
    found: dict[str, list[str]] = {}
    for user, item, _ in sorted(read_inter(path).rows(), key=lambda row: row[2]):
        found.setdefault(user, []).append(item)
    return found


def run(world: str, seed: int, root: Path) -> str:
    """Try one mutated source; returns the class of what came out."""
    kind, make = WORLDS[world]
    rng = random.Random(f"{world}/{seed}")
    source, output = root / "raw", root / "data" / "tiny"
    make(source)
    changed, how = mutate(source, rng)
    text = None
    if world != "folder, parquet":
        files = [path for path in source.rglob("*") if path.is_file()]
        text = b"\n".join(
            _decompressed(path) for path in files if path.suffix not in (".jpg", ".zip", ".lmdb")
        )
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    try:
        report = convert_source(kind, convert.SOURCES[kind].find, Options(source, output))
    except (DataError, ConfigError) as error:
        message = str(error)
        named = {path.name for path in source.rglob("*")} | {"raw"}
        assert any(each in message for each in named), f"{how}: {message}"
        assert "Traceback" not in message
        assert len(message) < 2000, message[:300]
        where = "row" if re.search(r"\b(line|row)s? \d", message) else "file"
        outcome = f"error that names the {where}"
        assert not output.exists()
    else:
        escaped = text is not None and changed.suffix in (".gz", ".json", ".jsonl")
        check_conversion(output, "tiny", report, None if escaped else text)
        outcome = "converted"
        wanted = plain_histories(world, source)
        if wanted is not None:
            assert histories(output / "tiny.inter") == wanted, f"{how}: other histories"
            outcome = "converted, histories compared"
    own = [output, output.with_name(".tiny.images")]  # the latter is kept for the next try
    after = {
        path: path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not any(path.is_relative_to(each) for each in own)
    }
    assert after == before, f"{how}: wrote outside the output folder"
    return outcome


def _decompressed(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix != ".gz":
        return data
    try:
        return gzip.GzipFile(fileobj=io.BytesIO(data)).read()
    except (OSError, EOFError, ValueError):
        return data
    except Exception as error:  # zlib.error has no common base
        return repr(error).encode()


@pytest.mark.parametrize("world", list(WORLDS))
def test_every_layout_converts_as_it_is(tmp_path, world):
    kind, make = WORLDS[world]
    make(tmp_path / "raw")
    options = Options(tmp_path / "raw", tmp_path / "tiny")
    report = convert_source(kind, convert.SOURCES[kind].find, options)
    check_conversion(tmp_path / "tiny", "tiny", report, None)
    assert (report.users, report.dropped) == (6, {})
    wanted = plain_histories(world, tmp_path / "raw")
    assert (wanted is not None) == (world in TABLES or world in BEHAVIOURS)
    if wanted is not None:
        assert histories(tmp_path / "tiny" / "tiny.inter") == wanted


@pytest.mark.parametrize("world", list(WORLDS))
def test_mutated_sources(tmp_path, world):
    outcomes: Counter[str] = Counter()
    for seed in range(-(-COUNT // len(WORLDS))):
        root = tmp_path / str(seed)
        try:
            outcomes[run(world, seed, root)] += 1
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
            raise AssertionError(f"{world}, seed {seed}: {found}") from error
        shutil.rmtree(root)
    print(f"\n{world}: {dict(sorted(outcomes.items()))}")
    assert sum(outcomes.values()) == -(-COUNT // len(WORLDS))
