"""Tiny sources of every layout that `recbole-morec convert` reads, written by hand."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import re
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

USERS = 6
ITEMS = 8
START = 1_600_000_000


def events(user: str, item: str) -> list[tuple[str, str, int]]:
    """Seven or so interactions of every user, in the order of time, ids with these prefixes."""
    return [
        (f"{user}{u + 1}", f"{item}{(3 * u + 2 * n * n + n) % ITEMS + 100}", START + 60 * n + u)
        for u in range(USERS)
        for n in range(6 + u % 3)
    ]


def item_ids(item: str) -> list[str]:
    return [f"{item}{n + 100}" for n in range(ITEMS)]


def jpeg(shade: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (12, 9), (20 * shade % 256, 90, 200)).save(data, "JPEG")
    return data.getvalue()


def write(path: Path, text: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def write_covers(folder: Path, items: list[str]) -> None:
    for n, item in enumerate(items[1:]):
        write(folder / f"{item}.jpg", jpeg(n))


def lines(rows: list, separator: str = ",") -> str:
    return "".join(separator.join(map(str, row)) + "\n" for row in rows)


def histories(rows: list[tuple[str, str, int]]) -> str:
    by_user: dict[str, list[str]] = {}
    for user, item, _ in rows:
        by_user.setdefault(user, []).append(item)
    return "".join(f"{user}\t{' '.join(items)}\n" for user, items in by_user.items())


# --- one function per layout --------------------------------------------------------------------


def pixelrec(folder: Path) -> None:
    rows = events("u", "i")[::-1]
    write(
        folder / "Pixel200K.csv",
        "item_id,user_id,timestamp\n" + lines([(item, user, time) for user, item, time in rows]),
    )
    header = (
        "item_id,view_number,comment_number,thumbup_number,share_number,coin_number,"
        "favorite_number,barrage_number,title,tag,description\n"
    )
    info = [
        (item, "5.0", "", "1.0", "", "", "2.0", "", f'"A title, number {n}"', "Cats", "")
        for n, item in enumerate(item_ids("i"))
    ]
    write(folder / "information" / "Pixel200K.csv", header + lines(info))
    write_covers(folder / "cover", item_ids("i"))


def ninerec_pairs(folder: Path) -> None:
    rows = [(item, user, time) for user, item, time in events("9", "7")]
    write(folder / "Bili_Food_pair.csv", lines(rows))
    texts = [(item, f"\u732b {n}", f'"Cats, {n}"') for n, item in enumerate(item_ids("7"))]
    write(folder / "Bili_Food_item.csv", lines(texts))
    write_covers(folder / "Bili_Food_cover", item_ids("7"))


def ninerec_behaviours(folder: Path) -> None:
    write(folder / "QB_behaviour.tsv", histories(events("u", "v")))
    texts = [(item, f"\u732b {n}", f"Cats {n}") for n, item in enumerate(item_ids("v"))]
    write(folder / "QB_item.csv", lines(texts))
    write_covers(folder / "QB_cover", item_ids("v"))


def microlens(folder: Path) -> None:
    rows = [(user, item, 1000 * time) for user, item, time in events("5", "")]
    write(folder / "MicroLens-50k_pairs.csv", "user,item,timestamp\n" + lines(rows))
    titles = [(item, f'"Rice, in {n} ""minutes"""') for n, item in enumerate(item_ids(""))]
    write(folder / "MicroLens-50k_titles.csv", "item,title\n" + lines(titles))
    with zipfile.ZipFile(folder / "MicroLens-50k_covers.zip", "w") as archive:
        for n, item in enumerate(item_ids("")):
            archive.writestr(f"MicroLens-50k_covers/{item}.jpg", jpeg(n))


def microlens_lines(folder: Path) -> None:
    write(folder / "MicroLens-100k_pairs.tsv", histories(events("5", "")))
    titles = [(item, f'two, "cats", {n}') for n, item in enumerate(item_ids(""))]
    write(folder / "MicroLens-100k_title_en.csv", lines(titles))


def morec_mind(folder: Path) -> None:
    write(folder / "mind_60w_users.tsv", histories(events("U", "N")))
    texts = [(item, f"Title {n}", f"An abstract {n}") for n, item in enumerate(item_ids("N"))]
    write(folder / "mind_60w_items.tsv", lines(texts, "\t"))


def morec_hm(folder: Path) -> None:
    write(folder / "hm_50w_users.tsv", histories(events("u", "v")))
    write(folder / "hm_50w_items.tsv", lines([(item,) for item in item_ids("v")]))
    write_lmdb(folder / "hm_images.lmdb", [item[1:] for item in item_ids("v")])


def mind(folder: Path) -> None:
    rows = []
    for n, (user, item, time) in enumerate(events("U", "N")):
        minute, second = divmod(time - START, 60)
        clock = f"11/{11 + n % 3}/2019 9:{minute:02}:{second:02} AM"
        rows.append((n + 1, user, clock, "N100 N101", f"{item}-1 N104-0"))
    write(folder / "MINDsmall_train" / "behaviors.tsv", lines(rows, "\t"))
    news = [
        (item, "sports", "golf", f"Title {n}", f'He said "{n}', "https://x/y", "[]", "[]")
        for n, item in enumerate(item_ids("N"))
    ]
    write(folder / "MINDsmall_train" / "news.tsv", lines(news, "\t"))


def odmt_stream(folder: Path) -> None:
    write(folder / "10wu_ks_pairs.tsv", histories(events("4", "3")))
    texts = [(item, f"\u732b, \u72d7 {n}") for n, item in enumerate(item_ids("3"))]
    write(folder / "10wu_ks_title.csv", lines(texts))


def odmt_amazon(folder: Path) -> None:
    write(folder / "Office_Products_user_behaviours.tsv", histories(events("A", "B00")))
    texts = [(item, f"Pen {n}", "blue", "office") for n, item in enumerate(item_ids("B00"))]
    write(folder / "Office_Products_text.tsv", lines(texts, "\t"))


def amazon_2018(folder: Path) -> None:
    reviews = [
        {"reviewerID": user, "asin": item, "overall": 4.0, "unixReviewTime": time}
        for user, item, time in events("A", "B00")
    ]
    meta = [
        {"asin": item, "title": f"Pen {n}", "brand": "X", "description": ["blue"], "category": []}
        for n, item in enumerate(item_ids("B00"))
    ]
    for name, rows in (("Office_Products_5", reviews), ("meta_Office_Products", meta)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        write(folder / f"{name}.json.gz", gzip.compress(text.encode(), mtime=0))


def amazon_2023(folder: Path) -> None:
    reviews = [
        {"user_id": u, "asin": i, "parent_asin": i, "rating": 5.0, "timestamp": 1000 * t}
        for u, i, t in events("A", "B00")
    ]
    meta = [
        {"parent_asin": item, "title": f"Pen {n}", "description": ["blue", "ink"], "store": None}
        for n, item in enumerate(item_ids("B00"))
    ]
    for name, rows in (("Office_Products", reviews), ("meta_Office_Products", meta)):
        write(folder / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write_covers(folder / "images", item_ids("B00"))


def folder_csv(folder: Path) -> None:
    rows = [(user, item, time, 3) for user, item, time in events("u", "x")]
    write(folder / "ratings.csv", "user,item,timestamp,rating\n" + lines(rows))
    texts = [(item, f'"Film {n}, part ""one"""', 1990 + n) for n, item in enumerate(item_ids("x"))]
    write(folder / "items.csv", "item,title,year\n" + lines(texts))
    write_covers(folder / "posters", item_ids("x"))


def folder_parquet(folder: Path) -> None:
    folder.mkdir(parents=True)
    frame = pl.DataFrame(events("u", "x"), schema=["user", "item", "time"], orient="row")
    frame.write_parquet(folder / "interactions.parquet")
    titles = {"item": item_ids("x"), "title": [f"Film {n}" for n in range(ITEMS)]}
    pl.DataFrame(titles).write_parquet(folder / "items.parquet")


WORLDS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "pixelrec": ("pixelrec", pixelrec),
    "ninerec, pairs": ("ninerec", ninerec_pairs),
    "ninerec, behaviours": ("ninerec", ninerec_behaviours),
    "microlens": ("microlens", microlens),
    "microlens, lines": ("microlens", microlens_lines),
    "morec, mind": ("morec", morec_mind),
    "morec, hm": ("morec", morec_hm),
    "mind": ("mind", mind),
    "odmt, stream": ("odmt", odmt_stream),
    "odmt, amazon": ("odmt", odmt_amazon),
    "amazon 2018": ("amazon", amazon_2018),
    "amazon 2023": ("amazon", amazon_2023),
    "folder, csv": ("folder", folder_csv),
    "folder, parquet": ("folder", folder_parquet),
}


# --- a second reading ---------------------------------------------------------------------------

# Where a layout keeps its interactions: file, header, separator, columns of user, item and time; of
# a behaviour file the name alone. Read here without any code of the package.
TABLES = {
    "pixelrec": ("Pixel200K.csv", ["item_id", "user_id", "timestamp"], (1, 0, 2)),
    "ninerec, pairs": ("Bili_Food_pair.csv", None, (1, 0, 2)),
    "microlens": ("MicroLens-50k_pairs.csv", ["user", "item", "timestamp"], (0, 1, 2)),
    "folder, csv": ("ratings.csv", ["user", "item", "timestamp", "rating"], (0, 1, 2)),
}
BEHAVIOURS = {
    "ninerec, behaviours": "QB_behaviour.tsv",
    "microlens, lines": "MicroLens-100k_pairs.tsv",
    "morec, mind": "mind_60w_users.tsv",
    "morec, hm": "hm_50w_users.tsv",
    "odmt, stream": "10wu_ks_pairs.tsv",
    "odmt, amazon": "Office_Products_user_behaviours.tsv",
}
_ID = re.compile(r"[\w./-]+", re.ASCII)


def plain_histories(world: str, folder: Path) -> dict[str, list[str]] | None:
    """User -> items in the order of time; ``None`` where a layout is none of these, or not plain.

    Plain is a file of ASCII lines, each with as many cells as the layout has, of simple ids and
    whole times: what any reader would read alike.
    """
    name = BEHAVIOURS.get(world) or TABLES.get(world, [None])[0]
    if name is None:
        return None
    text = (folder / name).read_bytes().decode("latin1").replace("\r\n", "\n")
    rows = text.removesuffix("\n").split("\n")
    if world in BEHAVIOURS:
        return _plain_behaviours([row.split("\t") for row in rows])
    _, header, columns = TABLES[world]
    if header is not None and rows.pop(0).split(",") != header:
        return None
    return _plain_table([row.split(",") for row in rows], len(header or columns), columns)


def _plain_behaviours(rows: list[list[str]]) -> dict[str, list[str]] | None:
    histories: dict[str, list[str]] = {}
    for row in rows:
        if len(row) != 2 or not _ID.fullmatch(row[0]):
            return None
        items = row[1].split(" ")
        if not all(map(_ID.fullmatch, items)):
            return None
        histories[row[0]] = items  # the last line of a user counts
    return histories


def _plain_table(
    rows: list[list[str]], width: int, columns: tuple[int, int, int]
) -> dict[str, list[str]] | None:
    timed: dict[str, list[tuple[int, str]]] = {}
    for row in rows:
        if len(row) != width or not all(map(_ID.fullmatch, row)):
            return None
        user, item, time = (row[at] for at in columns)
        if not re.fullmatch(r"\d{1,18}", time):
            return None
        timed.setdefault(user, []).append((int(time), item))
    # Of equal times the row that comes first.
    return {
        user: [item for _, item in sorted(row, key=lambda pair: pair[0])]
        for user, row in timed.items()
    }


# --- LMDB ---------------------------------------------------------------------------------------


def lmdb_records(keys: list[str]) -> dict[bytes, bytes]:
    """Records as the published scripts write them: pickles of a class of their ``__main__``."""
    script = types.ModuleType("a_script")
    record_class = type("LMDB_Image", (), {"__module__": "a_script"})
    script.LMDB_Image = record_class
    sys.modules["a_script"] = script
    try:
        records = {}
        for n, key in enumerate(keys):
            record = record_class()
            record.channels, record.size = 3, (4, 5)
            record.image = np.full((4, 5, 3), 20 * n, np.uint8).tobytes()
            record.id = n
            records[key.encode()] = pickle.dumps(record)
    finally:
        del sys.modules["a_script"]
    records[b"__keys__"] = pickle.dumps([key.encode() for key in keys])
    records[b"__len__"] = pickle.dumps(len(keys))
    return records


def write_lmdb(path: Path, keys: list[str], change: Callable | None = None) -> None:
    """Write an LMDB in one file; ``change`` gets the records before."""
    import lmdb

    path.parent.mkdir(parents=True, exist_ok=True)
    records = lmdb_records(keys)
    if change is not None:
        change(records)
    with (
        lmdb.open(str(path), subdir=False, map_size=1 << 22, lock=False) as environment,
        environment.begin(write=True) as transaction,
    ):
        for key, value in records.items():
            transaction.put(key, value)
