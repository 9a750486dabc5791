"""Published data sets in their published layouts: order, counts, texts, times, and what is broken.

All files here are invented; only their layouts are those of the data sets. Where a layout is known
from is said in the module of each source.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path

import pytest
import yaml
from PIL import Image

from recbole_morec import convert
from recbole_morec.convert import SOURCES, _pipeline, amazon, microlens, ninerec, pixelrec
from recbole_morec.convert._behaviours import BehaviourRows
from recbole_morec.convert._first_cell import FirstCellRows
from recbole_morec.convert._json_lines import JsonRows
from recbole_morec.convert._source import Counts, Options
from recbole_morec.convert.report import print_report
from recbole_morec.data import line_blocks
from recbole_morec.data.atomic import read_content
from recbole_morec.data.inter import read_inter
from recbole_morec.errors import ConfigError, DataError


def put(folder: Path, files: dict[str, str | bytes], images=()) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    for name in images:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 6), (len(str(path)) % 200, 0, 0)).save(path)
    return folder


@pytest.fixture
def run(tmp_path):
    """Convert a source of these files; return what it wrote."""

    def convert_files(kind: str, files, images=(), **options):
        raw = put(tmp_path / "raw", files, images)
        options = {"image_form": "copy"} | options
        options = Options.of(input=raw, output=tmp_path / "out" / "tiny", overwrite=True, **options)
        report = _pipeline.convert_source(kind, SOURCES[kind].find, options)
        return Converted(tmp_path / "out" / "tiny", report)

    return convert_files


class Converted:
    def __init__(self, folder: Path, report):
        self.report = report
        self.rows = read_inter(folder / "tiny.inter").rows()
        content = folder / "tiny.content"
        self.content = read_content(content) if content.exists() else None
        self.settings = yaml.safe_load((folder / "tiny.yaml").read_text())
        self.yaml = (folder / "tiny.yaml").read_text()

    @property
    def found(self) -> dict[str, str]:
        return self.report.detected

    def column(self, name: str) -> dict[str, str | None]:
        return dict(zip(self.content.tokens, self.content.columns[name], strict=True))

    def noted(self, *parts: str) -> bool:
        return any(all(part in note for part in parts) for note in self.report.notes)


def failure(run, *args, error=DataError, **kwargs) -> str:
    with pytest.raises(error) as caught:
        run(*args, **kwargs)
    return str(caught.value)


# --- PixelRec -----------------------------------------------------------------------------------

PIXEL = {
    "pixel50k_interaction.csv": (
        "item_id,user_id,timestamp\ni9,u2,1605059546\ni3,u1,1605059540\ni9,u1,1605059530\n"
    ),
    "pixel50k_item_info.csv": (
        "item_id,view_number,comment_number,thumbup_number,share_number,coin_number,"
        "favorite_number,barrage_number,title,tag,description\n"
        'i3,799668.0,1.0,2.0,3.0,4.0,5.0,6.0,"Noodles, hot",Food,"Two\nlines"\n'
        "i9,,,,,,,,烎! Film,,\n"
    ),
}


def test_pixelrec(run):
    made = run("pixelrec", PIXEL, ["cover/i3.jpg", "cover/i9.jpg"])
    assert made.rows == [
        ("u2", "i9", 1605059546),
        ("u1", "i3", 1605059540),
        ("u1", "i9", 1605059530),
    ]
    assert made.found["data set"] == "PixelRec50K"
    assert made.found["column order"] == "item,user,time (as the header says)"
    assert made.found["ids"] == "users u + number, items i + number"
    assert made.found["time column"] == "timestamp (numbers, look like Unix seconds)"
    assert made.column("title") == {"i3": "Noodles, hot", "i9": "烎! Film"}
    assert made.column("description") == {"i3": "Two\nlines", "i9": None}
    assert made.column("view_number") == {"i3": "799668.0", "i9": None}
    assert made.content.fields["view_number"] == "float"
    assert made.column("cover") == {"i3": "images/i3.jpg", "i9": "images/i9.jpg"}
    assert made.settings["text_fields"] == ["title", "tag", "description"]
    assert made.settings["protocol"] == "pixelrec"
    assert "arXiv 2309.06789" in made.yaml
    assert made.report.published["users"] == {"published": 50_000, "here": 2, "difference": -49_998}
    assert made.report.published["interactions"]["published"] == 989_494


def test_published_counts_that_agree_are_ok(run, monkeypatch, capsys):
    monkeypatch.setitem(pixelrec.PUBLISHED, "PixelRec50K", Counts(2, 2, 4))
    print_report(run("pixelrec", PIXEL).report)
    printed = capsys.readouterr().out
    assert "2: OK" in printed
    assert "4: -1 here" in printed


@pytest.mark.parametrize(
    ("inter", "info", "covers", "name"),
    [
        ("Pixel200K.csv", "information/Pixel200K.csv", "images", "Pixel200K"),
        ("dataset/Pixel1M.csv", "item_info/Pixel1M.csv", "cover", "Pixel1M"),
        ("Interaction/Pixel8M.csv", "info/Pixel8M.csv", "cover", "Pixel8M"),
        ("PixelRec.csv", "information/PixelRec.csv", "cover", "PixelRec"),
        ("interaction.csv", "item_info.csv", "cover", "(unnamed)"),
    ],
)
def test_pixelrec_in_other_folders(run, inter, info, covers, name):
    rows = "user_id,item_id,timestamp\nu1,i3,7\n"  # told by the header
    old = "item_id,title,tag\ni3,Noodles,Food\n"  # a download without descriptions
    made = run("pixelrec", {inter: rows, info: old}, [f"{covers}/i3.jpg"])
    assert made.found["data set"] == name
    assert made.rows == [("u1", "i3", 7)]
    assert made.column("cover") == {"i3": "images/i3.jpg"}
    assert made.settings["text_fields"] == ["title", "tag"]
    assert made.noted("no description")
    assert bool(made.report.published) == (name != "(unnamed)")


def test_pixelrec_without_a_header(run):
    rows = "i3,u1,1605059540\ni9,u1,1605059541\n"
    made = run("pixelrec", {"Pixel200K.csv": rows})
    assert made.rows == [("u1", "i3", 1605059540), ("u1", "i9", 1605059541)]
    assert made.found["column order"].startswith("item,user,time (column 3 looks like times;")
    assert 'ids of column 2 begin with "u"' in made.found["column order"]


def test_several_data_sets_in_one_folder(run):
    files = {**PIXEL, "Pixel200K.csv": "item_id,user_id,timestamp\ni1,u1,5\n"}
    text = failure(run, "pixelrec", files)
    assert "Pixel200K, PixelRec50K. Choose one with --variant." in text
    assert run("pixelrec", files, variant="200k").rows == [("u1", "i1", 5)]
    assert 'Did you mean "Pixel200K"' in failure(run, "pixelrec", files, variant="Pixel20K")
    made = run("pixelrec", {"interaction.csv": "item_id,user_id,timestamp\ni1,u1,5\n"},
               variant="1M", interactions="interaction.csv")  # fmt: skip
    assert made.report.published["users"]["published"] == 1_001_822


def test_a_broken_line_is_named(run):
    files = {"Pixel200K.csv": "item_id,user_id,timestamp\ni1,u1,5\ni1,u1\n"}
    assert "Pixel200K.csv line 3: 2 fields" in failure(run, "pixelrec", files)


def test_a_folder_without_the_source(run):
    for kind in SOURCES:
        text = failure(run, kind, {"notes.md": "x"})
        assert "notes.md" in text
        assert "raw" in text


# --- NineRec ------------------------------------------------------------------------------------

QB_ITEM = 'v1,"韩国料理、家常","Korean food, home"\nv2,街舞,Street dance\nv3,猫咪,"Two ""cats"""\n'
QB = {
    "QB_item.csv": QB_ITEM,
    "QB_pair.csv": "u7,v1\nu7,v2\nu8,v3\n",
    "QB_behaviour.tsv": "u7\tv2 v1\nu8\tv3\n",
}
FOOD_ITEM = "5,韩国料理,Food\n6,街舞,Dance\n9,猫咪,Cats\n"
FOOD_PAIR = "6,1,1640995205\n5,1,1640995200\n9,5,1640995201\n"


def test_ninerec_behaviours_where_pairs_have_no_times(run):
    made = run("ninerec", QB, ["QB_cover/v1.jpg", "QB_cover/v3.jpg"])
    assert made.rows == [("u7", "v2", 0), ("u7", "v1", 1), ("u8", "v3", 0)]
    assert made.noted("QB_pair.csv has no timestamps", "QB_behaviour.tsv is read")
    assert made.content.fields == {"title_zh": "text", "title_en": "text", "cover": "image"}
    assert made.column("title_en")["v3"] == 'Two "cats"'
    assert made.column("title_zh")["v1"] == "韩国料理、家常"
    assert made.column("cover") == {"v1": "images/v1.jpg", "v2": None, "v3": "images/v3.jpg"}
    assert made.settings["text_fields"] == ["title_en"]
    assert made.settings["protocol"] == "ninerec"
    assert made.found["time"] == "none; the order of the items in a line is the time"
    assert made.report.published["items"]["published"] == 6_121


def test_ninerec_languages(run):
    assert run("ninerec", QB, language="zh").settings["text_fields"] == ["title_zh"]
    text = failure(run, "ninerec", QB, language="fr", error=ConfigError)
    assert '--language: unknown language "fr"' in text
    swapped = {**QB, "QB_item.csv": "v1,Food,料理\nv2,Dance,街舞\nv3,Cats,猫咪\n"}
    assert run("ninerec", swapped).column("title_en")["v1"] == "Food"


@pytest.mark.parametrize(
    ("pair", "order"),
    [
        (FOOD_PAIR, "item,user,time"),
        ("1,6,1640995205\n1,5,1640995200\n5,9,1640995201\n", "user,item,time"),
        ("1640995205,6,1\n1640995200,5,1\n1640995201,9,5\n", "time,item,user"),
    ],
)
def test_ninerec_pairs_of_bare_numbers_in_any_order(run, pair, order):
    # User 5 is an item's number, too.
    files = {"X/Bili_Food_item.csv": FOOD_ITEM, "X/Bili_Food_pair.csv": pair}
    made = run("ninerec", files, ["X/Bili_Food_cover/5.jpg"])
    assert made.rows == [("1", "6", 1640995205), ("1", "5", 1640995200), ("5", "9", 1640995201)]
    found = made.found["column order"]
    assert found.startswith(f"{order} (")
    assert "all 3 ids of column" in found
    assert "1 of 2 ids of column" in found
    assert made.column("cover")["5"] == "images/5.jpg"


def test_ninerec_users_that_are_all_numbers_of_items(run, monkeypatch):
    item = "1,料理,Food\n2,街舞,Dance\n3,猫咪,Cats\n"
    files = {"KU_item.csv": item, "KU_pair.csv": "1,3,1640995205\n2,1,1640995200\n1,2,1640995201\n"}
    # The published counts of the set tell them apart.
    monkeypatch.setitem(ninerec.PUBLISHED, "KU", Counts(2, 3, 3))
    made = run("ninerec", files)
    assert made.rows[0] == ("1", "3", 1640995205)
    assert "3 ids of column 2 and 2 of column 1, as published" in made.found["column order"]
    # Without them it is not a guess but an error, and the flags decide.
    monkeypatch.setitem(ninerec.PUBLISHED, "KU", Counts(2, 4, 3))
    text = failure(run, "ninerec", files)
    assert "3 of 3 ids of column 2" in text
    assert "--user-field and --item-field" in text
    made = run("ninerec", files, item_field="1")
    assert made.rows[0] == ("3", "1", 1640995205)
    assert made.found["column order"].startswith("item,user,time (item as --item-field says")
    assert 'no column "4" (--item-field)' in failure(run, "ninerec", files, item_field="4")
    text = failure(run, "ninerec", files, item_field="1", user_field="1")
    assert "different columns" in text


def numbered_pairs(users: int, items: int, order: str = "item,user", each: int = 5) -> str:
    """Pairs of users and items that are bare numbers from 1; every user and item occurs."""
    rows = []
    for n in range(max(users, items) * each):
        row = {"user": n % users + 1, "item": (n * 7 + n // users) % items + 1}
        rows.append([row[role] for role in order.split(",")] + [1640995200 + n])
    return "".join(",".join(map(str, row)) + "\n" for row in rows)


def item_table(items: int) -> str:
    return "".join(f"{n},标题{n},Title {n}\n" for n in range(1, items + 1))


@pytest.mark.parametrize("order", ["item,user", "user,item"])
@pytest.mark.parametrize(
    ("users", "items", "listed"),
    [
        (90, 200, 100),  # half of the items in the table, and all users' numbers
        (100, 99, 100),  # as many users as rows in the table, one item never interacted
        (100, 45, 100),
        (100, 100, 100),
        (30, 200, 60),
        (95, 300, 96),
    ],
)
def test_numbers_that_could_be_users_or_items_are_never_guessed(run, order, users, items, listed):
    pairs = numbered_pairs(users, items, order)
    files = {"Bili_Food_item.csv": item_table(listed), "Bili_Food_pair.csv": pairs}
    text = failure(run, "ninerec", files)
    assert "--user-field and --item-field" in text
    made = run("ninerec", files, item_field=str(order.split(",").index("item") + 1))
    assert made.report.users == users


@pytest.mark.parametrize("order", ["item,user", "user,item"])
@pytest.mark.parametrize("block", [300, 1 << 20])
def test_numbers_of_a_complete_item_table_are_told_apart(run, monkeypatch, order, block):
    # As in TN and most sets of NineRec: every item in the table, many more users.
    monkeypatch.setattr(line_blocks, "BLOCK_BYTES", block)
    files = {"TN_item.csv": item_table(30), "TN_pair.csv": numbered_pairs(200, 30, order)}
    made = run("ninerec", files)
    assert (made.report.users, made.report.items) == (200, 30)
    assert "all 30 ids of column" in made.found["column order"]


def test_a_repeated_row_of_an_item_table_is_counted(run):
    made = run("ninerec", {**QB, "QB_item.csv": QB_ITEM + "v1,再,Again\n"})
    assert made.column("title_en")["v1"] == "Korean food, home"
    assert made.report.item_rows["dropped: item again (the first row was kept)"] == 1


def test_a_repeated_row_after_a_saved_index_is_counted(run):
    saved = "0,5,料理,Food\n1,6,街舞,Dance\n1,6,街舞,Dance\n2,9,猫咪,Cats\n"
    inter = {"bisc/bisc.inter": "item_id,user_id,timestamp\n6,1,0\n5,1,1\n9,5,0\n"}
    made = run("ninerec", {**inter, "text.csv": saved})
    assert made.column("title_en") == {"5": "Food", "6": "Dance", "9": "Cats"}
    assert made.report.item_rows["dropped: item again (the first row was kept)"] == 1


def test_ninerec_with_an_item_table_that_does_not_fit(run):
    files = {"Bili_Food_item.csv": "5,料理,Food\n6,街舞,Dance\n77,猫咪,Cats\n"}
    text = failure(run, "ninerec", {**files, "Bili_Food_pair.csv": FOOD_PAIR})
    assert "2 of 3 ids of column 1, 1 of 2 ids of column 2" in text
    assert "--user-field and --item-field" in text


def test_columns_of_a_long_file_are_told_by_its_beginning(run, monkeypatch):
    monkeypatch.setattr(line_blocks, "BLOCK_BYTES", 20)
    files = {"Bili_Food_item.csv": FOOD_ITEM, "Bili_Food_pair.csv": FOOD_PAIR}
    made = run("ninerec", files, user_field="2")
    assert made.rows[0] == ("1", "6", 1640995205)
    assert "by the first 2 rows" in made.found["column order"]


def test_ninerec_prefers_pairs_with_times(run):
    behaviour = {"Bili_Food_behaviour.tsv": "1\t5 6\n5\t9\n"}
    files = {"Bili_Food_item.csv": FOOD_ITEM, "Bili_Food_pair.csv": FOOD_PAIR, **behaviour}
    made = run("ninerec", files)
    assert made.rows[0] == ("1", "6", 1640995205)
    assert made.noted(
        "Bili_Food_pair.csv has timestamps and is read; Bili_Food_behaviour.tsv is not"
    )
    made = run("ninerec", files, interactions="Bili_Food_behaviour.tsv")
    assert made.rows == [("1", "5", 0), ("1", "6", 1), ("5", "9", 0)]
    assert made.found["data set"] == "Bili_Food"


def test_ninerec_times_that_are_none(run):
    pair = FOOD_PAIR.replace("1640995", "")
    files = {"Bili_Food_item.csv": FOOD_ITEM, "Bili_Food_pair.csv": pair}
    text = failure(run, "ninerec", files)
    assert "no column looks like times" in text
    assert "--time-field" in text
    assert run("ninerec", files, time_field="3").rows[1] == ("1", "5", 200)


def test_ninerec_sources_share_their_covers(run):
    files = {
        "Bili_500K/Bili_500K_item.csv": FOOD_ITEM,
        "Bili_500K/Bili_500K_pair.csv": FOOD_PAIR,
        "Bili_2M/Bili_2M_pair.csv": FOOD_PAIR,
    }
    images = ["Source_Bili_2M_cover/6.jpg", "Other_cover/6.jpg"]
    assert "Bili_500K" in failure(run, "ninerec", files, images)
    made = run("ninerec", files, images, variant="bili_500k")
    assert made.column("cover")["6"] == "images/6.jpg"
    assert made.found["images"].startswith("Source_Bili_2M_cover/")
    assert made.report.published["users"]["published"] == 500_000


@pytest.mark.parametrize(
    "text",
    [
        "0,5,韩国料理,Food\n1,6,街舞,Dance\n2,9,猫咪,Cats\n",
        "5,Food\n6,Dance\n9,Cats\n",
        "5,韩国料理,Food\n6,街舞,Dance\n9,猫咪,Cats\n",
    ],
)
def test_ninerec_texts_of_its_second_code_base(run, text):
    inter = "item_id,user_id,timestamp\n6,1,0\n5,1,1\n9,5,0\n"
    made = run("ninerec", {"bisc/bisc.inter": inter, "text.csv": text}, variant="DY")
    assert made.rows == [("1", "6", 0), ("1", "5", 1), ("5", "9", 0)]
    assert made.column("title_en") == {"5": "Food", "6": "Dance", "9": "Cats"}
    assert made.settings["text_fields"] == ["title_en"]
    assert made.found["data set"] == "DY"


def test_every_published_set_of_ninerec_is_found_by_name(run):
    assert len(ninerec.PUBLISHED) == 11
    for name in ninerec.PUBLISHED:
        made = run("ninerec", {f"{name}_item.csv": QB_ITEM, f"{name}_behaviour.tsv": "u1\tv1 v2\n"},
                   variant=name)  # fmt: skip
        assert made.found["data set"] == name


# --- behaviour files ----------------------------------------------------------------------------


def test_a_users_last_line_wins(run):
    lines = "u1\tv1 v2\nu2\tv3\n\tv1\nu1\tv3  v1\nu3\t\nu1\tv2 v3 v2\textra\n".replace(
        "\textra", ""
    )
    made = run("ninerec", {**QB, "QB_behaviour.tsv": lines})
    assert made.rows == [("u2", "v3", 0), ("u1", "v2", 0), ("u1", "v3", 1), ("u1", "v2", 2)]
    assert made.noted("2 lines belong to a user who has another line further down", "last line")
    assert made.noted("1 line names a user without any item")
    assert made.report.dropped == {"no user": 1}
    assert made.report.examples["no user"] == ["line 3"]


@pytest.mark.parametrize("block", [1, 9, 40])
def test_behaviours_read_in_blocks(tmp_path, monkeypatch, block):
    monkeypatch.setattr(line_blocks, "BLOCK_BYTES", block)
    path = tmp_path / "x.tsv"
    lines = [f"u{n % 7}\t" + " ".join(f"i{m}" for m in range(n % 4)) for n in range(20)]
    path.write_text("\n".join(lines) + "\n")
    rows = BehaviourRows(path)
    found = [row for frame in rows.blocks() for row in frame.rows()]
    last = {line.split("\t")[0]: n for n, line in enumerate(lines)}
    wanted, places = [], []
    for n, line in enumerate(lines):
        user, items = line.split("\t")
        if last[user] == n:
            for at, item in enumerate(items.split()):
                wanted.append((user, item, str(at)))
                places.append(f"line {n + 1}")
    assert found == wanted
    assert [rows.place(row) for row in range(len(found))] == places


@pytest.mark.parametrize("header", ["user\titems", "userID\tvideoIDs", "\ufeffuser_id\titem_id"])
def test_a_header_of_behaviours_is_no_line(run, header):
    made = run("ninerec", {**QB, "QB_behaviour.tsv": header + "\nu1\tv1 v2\n\tv3\nu2\tv2\n"})
    assert made.rows == [("u1", "v1", 0), ("u1", "v2", 1), ("u2", "v2", 0)]
    assert made.noted("QB_behaviour.tsv line 1", "names the columns", "not read as data")
    assert made.report.examples["no user"] == ["line 3"]
    text = failure(run, "ninerec", {**QB, "QB_behaviour.tsv": header + "\n"})
    assert "not one line" in text


@pytest.mark.parametrize("flag", ["user_field", "item_field", "time_field", "time_unit"])
def test_behaviours_have_no_columns_to_choose(run, flag):
    given = "seconds" if flag == "time_unit" else "1"
    text = failure(run, "ninerec", QB, error=ConfigError, **{flag: given})
    assert f"--{flag.replace('_', '-')}: QB_behaviour.tsv" in text


def test_broken_behaviours_are_named(run):
    assert "line 2: 1 field" in failure(run, "ninerec", {**QB, "QB_behaviour.tsv": "u\tv1\nu\n"})
    text = failure(run, "ninerec", {**QB, "QB_behaviour.tsv": "u1 v1 v2\n"})
    assert "QB_behaviour.tsv line 1" in text
    assert "no tab" in text
    assert "not one" in failure(run, "ninerec", {**QB, "QB_behaviour.tsv": "u1\t\n"})


# --- MicroLens ----------------------------------------------------------------------------------

LENS = {
    "MicroLens-50k_pairs.csv": "user,item,timestamp\n36,37,1583406900761\n36,4,1583406900000\n",
    "MicroLens-50k_pairs.tsv": "36\t4 37\n",
    "MicroLens-50k_titles.csv": 'item,title\n4,"Food, home"\n37,"Two ""cats"""\n',
    "MicroLens-50k_likes_and_views.txt": "37\t5\t100\n4\t6\t200\n",
    "MicroLens-100k_title_en.csv": "4,Other\n",
}


def test_microlens_50k(run):
    images = ["MicroLens-50k_covers/4.jpg", "MicroLens-100k_covers/4.jpg"]
    made = run("microlens", LENS, images)
    assert made.rows == [("36", "37", 1583406900761), ("36", "4", 1583406900000)]
    assert made.found["time column"] == "timestamp (numbers, look like Unix milliseconds)"
    assert made.column("title") == {"4": "Food, home", "37": 'Two "cats"'}
    assert made.column("views") == {"4": "200", "37": "100"}
    assert made.found["images"].startswith("MicroLens-50k_covers/")
    assert made.settings["text_fields"] == ["title"]
    assert made.report.published["items"]["published"] == 19_220


def test_microlens_100k_titles_have_no_header_and_bare_commas(run):
    titles = (
        '4,Food, home, "hot"\n37,"a, quoted ""one"""\n5,\n6,"A" and "B"\n7,item,title\n8,E, f\n'
    )
    files = {
        "MicroLens-100k_pairs.csv": "userID,videoID,timestamp\n36,37,1583406900761\n",
        "MicroLens-100k_title_en.csv": titles,
    }
    made = run("microlens", files)
    assert made.rows == [("36", "37", 1583406900761)]
    assert made.column("title") == {
        "4": 'Food, home, "hot"', "37": 'a, quoted "one"', "5": None, "6": '"A" and "B"',
        "7": "item,title", "8": "E, f",
    }  # fmt: skip
    assert "split at the first comma" in made.found["items"]
    assert made.report.published["users"]["published"] == 100_000


def test_microlens_lines_without_times(run):
    files = {"MicroLens-1M_pairs.tsv": "36\t4 37\n", "MicroLens-1M_title.csv": '4,An "open\n37,B\n'}
    made = run("microlens", files)
    assert made.rows == [("36", "4", 0), ("36", "37", 1)]
    assert made.noted("MicroLens-1M_pairs.tsv has no timestamps")
    assert made.column("title")["4"] == 'An "open'
    assert made.report.published["items"]["published"] == microlens.PUBLISHED["MicroLens-1M"].items


# --- IDvs.MoRec ---------------------------------------------------------------------------------


def test_morec_mind(run):
    files = {
        "MIND/mind_60w_users.tsv": "U1\tN2 N1 N2\nU2\tN1\n",
        "MIND/mind_60w_items.tsv": 'N1\tA "title\tAn abstract\nN2\tB\t\nN3\tC\tc\n',
    }
    made = run("morec", files)
    assert made.rows == [("U1", "N2", 0), ("U1", "N1", 1), ("U1", "N2", 2), ("U2", "N1", 0)]
    assert made.column("title") == {"N1": 'A "title', "N2": "B", "N3": "C"}
    assert made.column("abstract")["N2"] is None
    assert made.settings["text_fields"] == ["title"]
    assert made.settings["protocol"] == "morec"
    assert made.found["published, rounded"].startswith("630K users")
    files["MIND/mind_60w_items.tsv"] = "N1\tA\n"
    text = failure(run, "morec", files)
    assert "mind_60w_items.tsv line 1: 2 columns" in text
    assert "exactly 3" in text
    files["MIND/mind_60w_items.tsv"] = "N1\tA\ta\nN2\tB\n"
    assert "mind_60w_items.tsv line 2" in failure(run, "morec", files)


def test_morec_hm(run):
    files = {
        "hm_50w_users.tsv": "u1\tv15 v2\tignored\nu2\tv15\tignored\n",
        "hm_50w_items.tsv": "v2\nv15\nv7\n",
    }
    made = run("morec", files, ["hm_images/v2.jpg", "hm_images/v15.jpg"])
    assert made.rows == [("u1", "v15", 0), ("u1", "v2", 1), ("u2", "v15", 0)]
    assert made.content.tokens == ["v2", "v15", "v7"]
    assert made.content.fields == {"cover": "image"}
    assert made.report.published == {
        "items": {"published": 86_733, "here": 2, "difference": -86_731}
    }


def test_counts_of_one_are_singular(run):
    made = run("morec", {"hm_50w_users.tsv": "u1\tv2\nu1\tv15\n", "hm_50w_items.tsv": "v2\n"},
               ["hm_images/v15.jpg"])  # fmt: skip
    assert made.noted("1 line belongs to a user who has another line")
    assert made.noted("1 item has an image but no row in the item table; its texts are empty")


def test_morec_hm_without_images(run):
    made = run("morec", {"hm_50w_users.tsv": "u1\tv15\n", "hm_50w_items.tsv": "v15\n"})
    assert made.content is None
    assert made.noted("hm_50w_items.tsv lists 1 item without any text")


# --- the official MIND release ------------------------------------------------------------------

NEWS = "{0}\tsports\tnba\t{1}\t\thttps://x/{0}\t[]\t[]\n"
MIND = {
    "MINDsmall_train/behaviors.tsv": (
        "1\tU1\t11/11/2019 9:05:58 AM\tN1 N2\tN3-1 N4-0\n"
        "2\tU2\t11/12/2019 6:11:30 PM\tN9\tN4-1 N3-1 N1-0\n"
        "3\tU1\t11/10/2019 9:05:58 PM\tN1 N2\tN5-1\n"
        "4\tU3\t11/10/2019 12:00:00 AM\t\tN5-0 N3-1\n"
    ),
    "MINDsmall_train/news.tsv": NEWS.format("N1", 'A "title') + NEWS.format("N3", "C"),
    "MINDsmall_dev/behaviors.tsv": (
        "1\tU1\t11/15/2019 9:05:58 AM\tN1 N2 N5 N3\tN4-1\n"
        "2\tU4\t11/15/2019 9:00:00 AM\tN3 N1\tN4-0 N5-0\n"
    ),
    "MINDsmall_dev/news.tsv": NEWS.format("N3", "C again") + NEWS.format("N9", "I"),
}
NINE_PM = 1573419958  # 2019-11-10 21:05:58 UTC


def test_mind(run):
    made = run("mind", MIND)
    by_user: dict[str, list] = {}
    for user, item, time in sorted(made.rows, key=lambda row: row[2]):
        by_user.setdefault(user, []).append((item, time))
    # U1: his first impression is line 3, so its history comes first, a second apart; then clicks.
    assert by_user["U1"] == [
        ("N1", NINE_PM - 2), ("N2", NINE_PM - 1), ("N5", NINE_PM),
        ("N3", 1573463158), ("N4", 1573808758),
    ]  # fmt: skip
    assert by_user["U2"] == [("N9", 1573582289), ("N4", 1573582290), ("N3", 1573582290)]
    assert by_user["U3"] == [("N3", 1573344000)]
    assert by_user["U4"] == [("N3", 1573808398), ("N1", 1573808399)]  # a history, no click
    assert made.found["data set"] == "MINDsmall (train, dev)"
    assert made.column("title") == {"N1": 'A "title', "N3": "C", "N9": "I"}
    assert made.report.item_rows["dropped: item again (the first row was kept)"] == 1
    assert made.column("category")["N1"] == "sports"
    assert made.settings["text_fields"] == ["title"]
    assert made.report.published == {}  # published for each split, not for both


def test_mind_counts_what_stands_in_later_histories_alone(run):
    # N9 of U1 in dev is in no first history and was not clicked; N5 was clicked before, N1 is old.
    assert not run("mind", MIND).noted("later histories")
    later = MIND["MINDsmall_dev/behaviors.tsv"].replace("N1 N2 N5 N3", "N1 N2 N9 N5 N3 N9")
    made = run("mind", {**MIND, "MINDsmall_dev/behaviors.tsv": later})
    assert made.rows == run("mind", MIND).rows
    assert made.noted("later histories hold 1 news of 1 user")


def test_mind_one_split_and_no_labels(run):
    test = "1\tU1\t11/15/2019 9:05:58 AM\tN1 N3\tN4 N5\n"
    made = run("mind", {"MINDlarge_test/behaviors.tsv": test})
    assert [row[:2] for row in made.rows] == [("U1", "N1"), ("U1", "N3")]
    assert made.noted("2 news shown have no label")
    assert made.content is None
    made = run("mind", {"MINDlarge_test/behaviors.tsv": test, **MIND}, variant="small")
    assert made.report.users == 4
    assert "MINDlarge, MINDsmall. Choose one with --variant" in failure(run, "mind", {})


def test_mind_in_its_own_folder_and_published_users(run):
    files = {name.removeprefix("MINDsmall_"): text for name, text in MIND.items()}
    assert run("mind", files).found["data set"] == "MIND (train, dev)"


@pytest.mark.parametrize("block", [1, 60, 200])
def test_mind_read_in_blocks(run, monkeypatch, block):
    whole = run("mind", MIND).rows
    monkeypatch.setattr(line_blocks, "BLOCK_BYTES", block)
    assert run("mind", MIND).rows == whole


def test_mind_rows_know_their_lines(run):
    broken = {
        **MIND,
        "MINDsmall_dev/behaviors.tsv": MIND["MINDsmall_dev/behaviors.tsv"]
        + "3\t\t11/15/2019 9:05:58 AM\t\tN4-1\n",
    }
    made = run("mind", broken)
    assert made.report.examples["no user"] == ["MINDsmall_dev/behaviors.tsv line 3"]
    assert made.report.dropped == {"no user": 1}
    broken["MINDsmall_dev/behaviors.tsv"] = "1\tU1\n"
    assert "MINDsmall_dev/behaviors.tsv line 1: 2 fields" in failure(run, "mind", broken)


# --- ODMT ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behaviours", "texts", "text", "title", "name"),
    [
        ("10wu_ks_pairs.tsv", "10wu_ks_title.csv", 'a1,一, "二",三\n', '一, "二",三', "KS_10wu"),
        ("hm_pick_users_5W.tsv", "hm_pick_items_5W.tsv", "a1\tRed hat\n", "Red hat", "hm_5W"),
        ("bili_pick_users_10W.tsv", "bili_pick_items_10W.tsv", "a1\tB\n", "B", "bili_10W"),
        ("Office_Products_user_behaviours.tsv", "Office_Products_text.tsv",
         "a1\tPens\tACME\t\tblue\n", "Pens ACME  blue", "Office_Products"),
    ],
)  # fmt: skip
def test_odmt(run, behaviours, texts, text, title, name):
    made = run("odmt", {behaviours: "u1\ta2 a1\nu2\ta1\n", texts: text}, ["images/a1.jpg"])
    assert made.rows == [("u1", "a2", 0), ("u1", "a1", 1), ("u2", "a1", 0)]
    assert made.found["data set"] == name
    assert made.column("title")["a1"] == title
    assert made.column("cover")["a1"] == "images/a1.jpg"
    assert made.settings["protocol"] == "morec"
    assert made.settings["text_fields"] == ["title"]
    assert ("users" in made.report.published) == (name in ("KS_10wu", "hm_5W"))


def test_odmt_needs_its_texts(run):
    text = failure(run, "odmt", {"10wu_ks_pairs.tsv": "u1\ta2 a1\n"})
    assert "10wu_ks_title.csv: not found" in text
    assert "--items" in text
    text = failure(run, "odmt", {"hm_pick_users_5W.tsv": "u\ta\n", "hm_pick_items_5W.tsv": "a\n"},
                   variant="hm_5W")  # fmt: skip
    assert "hm_pick_items_5W.tsv line 1: 1 field" in text


# --- Amazon -------------------------------------------------------------------------------------


def lines(*objects: dict) -> str:
    return "".join(json.dumps(each) + "\n" for each in objects)


REVIEWS_2018 = lines(
    {"overall": 5.0, "reviewerID": "A1", "asin": "B01", "reviewText": 'so "good"\n', "style": {},
     "unixReviewTime": 1462060800},
    {"overall": 3.0, "reviewerID": "A2", "asin": "B02", "unixReviewTime": 1462060900},
)  # fmt: skip
META_2018 = lines(
    {"asin": "B01", "title": "Pen, blue", "brand": "ACME", "category": ["Office", "Pens"],
     "description": ["Writes.", "", "Well."], "price": "$1.99", "imageURL": ["https://x/1.jpg"]},
    {"asin": "B02", "title": "", "category": [], "description": "Plain \\ text\t烎"},
)  # fmt: skip


@pytest.mark.parametrize("zipped", [False, True])
def test_amazon_2018(run, zipped):
    pack = (lambda text: gzip.compress(text.encode())) if zipped else (lambda text: text)
    end = ".json.gz" if zipped else ".json"
    files = {f"Gift_Cards{end}": pack(REVIEWS_2018), f"meta_Gift_Cards{end}": pack(META_2018)}
    made = run("amazon", files, ["images/B01.jpg"])
    assert made.rows == [("A1", "B01", 1462060800), ("A2", "B02", 1462060900)]
    assert made.found["release"] == "2018"
    assert made.found["time column"] == "unixReviewTime (numbers, look like Unix seconds)"
    assert made.found["further columns kept"] == "rating"
    assert made.column("title") == {"B01": "Pen, blue", "B02": None}
    assert made.column("category") == {"B01": "Office, Pens", "B02": None}
    assert made.column("description") == {"B01": "Writes. Well.", "B02": "Plain \\ text\t烎"}
    assert made.column("cover")["B01"] == "images/B01.jpg"
    assert made.settings["text_fields"] == ["title", "brand", "category"]
    assert made.noted(f"Gift_Cards{end}: not taken over: reviewText, style")
    assert made.report.published == {
        "interactions": {"published": 147_194, "here": 2, "difference": -147_192}
    }


REVIEWS_2023 = lines(
    {"rating": 4.0, "title": "Nice", "asin": "B0V", "parent_asin": "B0P", "user_id": "AG",
     "timestamp": 1588687728923, "images": []},
)  # fmt: skip
META_2023 = lines(
    {"main_category": "X", "title": "Brush",
     "store": "Shop", "categories": ["A", "B"],
     "description": ["Soft"], "price": None, "images": [{"large": "https://x"}],
     "parent_asin": "B0P"},
)  # fmt: skip


def test_amazon_2023(run):
    files = {"All_Beauty.jsonl": REVIEWS_2023, "meta_All_Beauty.jsonl": META_2023}
    made = run("amazon", files)
    assert made.rows == [("AG", "B0P", 1588687728923)]
    assert made.found["release"] == "2023"
    assert made.found["ids"] == 'users such as "AG", items such as "B0P"'
    assert made.found["time column"] == "timestamp (numbers, look like Unix milliseconds)"
    assert made.column("title") == {"B0P": "Brush"}
    assert made.column("brand") == {"B0P": "Shop"}
    assert made.report.published == {}
    assert "arXiv 2403.03952" in made.yaml
    assert run("amazon", files, item_field="asin").rows == [("AG", "B0V", 1588687728923)]
    assert 'Did you mean "asin"' in failure(run, "amazon", files, item_field="asn")
    given = {"interactions": "All_Beauty.jsonl", "variant": "Books"}
    assert "Found: All_Beauty" in failure(run, "amazon", files, **given)


def test_amazon_five_core_takes_the_metadata_of_its_category(run):
    files = {"Gift_Cards_5.json": REVIEWS_2018, "meta_Gift_Cards.json": META_2018}
    made = run("amazon", files)
    assert made.found["data set"] == "Gift_Cards_5"
    assert made.column("title")["B01"] == "Pen, blue"
    assert made.report.published == {}
    files["Gift_Cards.json"] = REVIEWS_2018
    assert "Gift_Cards, Gift_Cards_5" in failure(run, "amazon", files)


@pytest.mark.parametrize(
    ("reviews", "parts"),
    [
        (REVIEWS_2018 + '{"asin": "B0', ["Gift_Cards.json line 3", "no JSON object"]),
        (REVIEWS_2018 + "[1]\n", ["line 3", "one object per line"]),
        (REVIEWS_2018 + "\n" + REVIEWS_2018, ["line 3: the line is empty"]),
        ("{'asin': 'B01'}\n", ["line 1", "single quotes", "2018"]),
        ("", ["is empty"]),
        (lines({"who": "A", "asin": "B"}), ["line 1", "reviewerID", "who, asin", "--user-field"]),
        (REVIEWS_2018.encode("utf-16"), ["the file is UTF-16", "iconv"]),
        (REVIEWS_2018.replace("\n", "\r"), ["bare carriage returns"]),
        (gzip.compress(REVIEWS_2018.encode() * 99)[:-20], ["damaged or was cut off", "again"]),
    ],
)
def test_broken_json_is_named(run, reviews, parts):
    text = failure(run, "amazon", {"Gift_Cards.json": reviews})
    for part in parts:
        assert part in text


@pytest.mark.parametrize("value", [["B01"], {"a": 1}, True])
def test_amazon_ids_are_strings_or_numbers(run, value):
    review = {"reviewerID": "A1", "asin": value, "unixReviewTime": 1462060800}
    text = failure(run, "amazon", {"Gift_Cards.json": REVIEWS_2018 + lines(review)})
    assert "Gift_Cards.json line 3" in text
    assert '"asin"' in text
    assert "neither a text nor a number" in text
    numbers = lines({"reviewerID": "true", "asin": 17, "unixReviewTime": 1462060800})
    assert run("amazon", {"Gift_Cards.json": numbers}).rows == [("true", "17", 1462060800)]
    meta = {"asin": value, "title": "Pen"}
    files = {"Gift_Cards.json": REVIEWS_2018, "meta_Gift_Cards.json": META_2018 + lines(meta)}
    assert "meta_Gift_Cards.json line 3" in failure(run, "amazon", files)


def test_halves_of_characters_are_replaced_in_texts_and_refused_in_ids(run):
    cut = lines({"asin": "B01", "title": "Pen \ud83d", "description": ["\udc00", "\U0001f600"]})
    reviews = REVIEWS_2018 + lines({"reviewerID": "A3", "asin": "B01", "unixReviewTime": 1462060801,
                                    "reviewText": "\ud800"})  # fmt: skip
    files = {"Gift_Cards.json": reviews, "meta_Gift_Cards.json": cut}
    made = run("amazon", files)
    assert made.column("title") == {"B01": "Pen \ufffd"}
    assert made.column("description") == {"B01": "\ufffd \U0001f600"}
    assert made.noted("meta_Gift_Cards.json", "2 halves of characters", "U+FFFD")
    assert len(made.rows) == 3
    for key in ("reviewerID", "asin"):
        review = {"reviewerID": "A1", "asin": "B1", "unixReviewTime": 1} | {key: "B\udc00"}
        text = failure(run, "amazon", {"Gift_Cards.json": REVIEWS_2018 + lines(review)})
        assert "Gift_Cards.json line 3" in text
        assert f'"{key}"' in text
        assert "half of a character" in text
    meta = META_2018 + lines({"asin": "B\ud800", "title": "Pen"})
    text = failure(run, "amazon", {**files, "meta_Gift_Cards.json": meta})
    assert "meta_Gift_Cards.json line 3" in text


def test_deep_json_is_one_error(run):
    deep = '{"reviewerID": "A1", "asin": "B1", "unixReviewTime": 1, "x": ' + "[" * 200_000
    deep += "]" * 200_000 + "}\n"
    for reviews in (deep, REVIEWS_2018 + deep):
        text = failure(run, "amazon", {"Gift_Cards.json": reviews})
        assert f"Gift_Cards.json line {reviews.count(chr(10))}" in text
        assert "nested too deeply" in text
    meta = META_2018 + lines({"asin": "B03", "title": json.loads("[" * 900 + "]" * 900)}) + deep
    text = failure(run, "amazon", {"Gift_Cards.json": REVIEWS_2018, "meta_Gift_Cards.json": meta})
    assert "meta_Gift_Cards.json line 4" in text


def test_json_read_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("recbole_morec.convert._json_lines._BLOCK_BYTES", 7)
    path = tmp_path / "x.json"
    path.write_text('{"a": "1"}\n{"a": 2, "b": ["x", "y"]}\n{"a": null}\n\n\n')
    rows = JsonRows(path, {"A": "a"})
    assert [row for frame in rows.blocks() for row in frame.rows()] == [("1",), ("2",), (None,)]
    rows = JsonRows(path, {"A": "a", "B": "b"}, {"B": "+"})
    assert [row for frame in rows.blocks() for row in frame.rows()] == [
        ("1", None), ("2", "x+y"), (None, None),
    ]  # fmt: skip
    path.write_text('{"a": "1"}\n\n\n{"a": 2}\n')
    with pytest.raises(DataError, match="line 2: the line is empty"):
        list(JsonRows(path, {"A": "a"}).blocks())


# --- common to all ------------------------------------------------------------------------------


def test_a_table_without_evidence_is_an_error(run):
    text = failure(run, "ninerec", {"QB_pair.csv": "1,2\n3,4\n"})
    assert "no item table to compare" in text
    assert "--item-field 1" in text
    for given in ({"user_field": "2"}, {"user_field": "2", "item_field": "1"}):
        made = run("ninerec", {"QB_pair.csv": "1,2\n3,4\n"}, **given)
        assert made.rows == [("2", "1", 0), ("4", "3", 1)]
    text = failure(run, "ninerec", {"QB_pair.csv": "who,what\n3,4\n1,2\n"})
    assert "line 1: who, what seem to be names of columns" in text
    made = run("ninerec", {"QB_pair.csv": "who,what\n3,4\n"}, user_field="who", item_field="what")
    assert made.rows == [("3", "4", 0)]


def test_what_a_conversion_wrote_below_the_source_is_not_read(tmp_path):
    raw = put(
        tmp_path / "raw", {"Gift_Cards.json": REVIEWS_2018, "meta_Gift_Cards.json": META_2018}
    )
    put(raw / ".out.images", {"manifest.json": "{}"})  # of a conversion that was killed
    options = Options(raw, raw / "out", overwrite=True)
    for _ in range(2):
        report = _pipeline.convert_source("amazon", amazon.find, options)
        assert report.rows_kept == 2


def test_separator_and_header_of_published_sets(run):
    semicolons = {name: text.replace(",", ";") for name, text in PIXEL.items()}
    semicolons["pixel50k_item_info.csv"] = "item_id;title;tag\ni3;Noodles;Food\ni9;Film;\n"
    made = run("pixelrec", semicolons, separator="semicolon")
    assert (made.report.rows_kept, made.column("title")["i3"]) == (3, "Noodles")
    assert "semicolon-separated" in made.found["interactions"]
    files = {"QB_item.csv": "v1\t料理\tFood\nv2\t街舞\tDance\n", "QB_pair.csv": "u7\tv1\n"}
    made = run("ninerec", files, separator="tab")
    assert made.rows == [("u7", "v1", 0)]
    assert made.column("title_en")["v2"] == "Dance"
    files = {"MicroLens-50k_pairs.csv": "36|37|1583406900761\n",
             "MicroLens-50k_titles.csv": "37|Two, cats\n"}  # fmt: skip
    made = run("microlens", files, separator="|", header=False, item_field="2")
    assert made.rows == [("36", "37", 1583406900761)]
    assert made.column("title") == {"37": "Two, cats"}


def test_headers_that_are_said_or_denied(run):
    pairs = {"Bili_Food_item.csv": "item,zh,en\n" + FOOD_ITEM, "Bili_Food_pair.csv": FOOD_PAIR}
    assert run("ninerec", pairs).column("title_en") == {"5": "Food", "6": "Dance", "9": "Cats"}
    named = {**pairs, "Bili_Food_pair.csv": "what,who,when\n" + FOOD_PAIR}
    given = {"user_field": "who", "item_field": "what", "time_field": "when"}
    assert run("ninerec", named, header=True, **given).rows[0] == ("1", "6", 1640995205)
    text = failure(run, "ninerec", pairs, header=True)
    assert "no column looks like the user" in text
    odd = {**pairs, "Bili_Food_item.csv": "no,zh,en\n" + FOOD_ITEM}
    assert "no column holds ids" in failure(run, "ninerec", odd)
    made = run("ninerec", {**odd, "Bili_Food_pair.csv": named["Bili_Food_pair.csv"]},
               header=True, **given)  # fmt: skip
    assert made.column("title_en") == {"5": "Food", "6": "Dance", "9": "Cats"}
    lens = {**LENS, "MicroLens-50k_titles.csv": "video,name\n4,Food\n"}
    assert run("microlens", lens, header=True).column("title") == {"4": "Food"}


def test_texts_split_at_the_first_cell(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("id,title\n1,a,b\n2\n")
    rows = FirstCellRows(path, header=True)
    assert [row for frame in rows.blocks() for row in frame.rows()] == [("1", "a,b"), ("2", None)]
    assert rows.place(1) == "line 3"


def test_published_counts_are_whole(run):
    for module in (pixelrec, ninerec, microlens):
        for counts in module.PUBLISHED.values():
            assert min(counts.users, counts.items, counts.interactions) > 0
    assert all(counts.interactions for counts in amazon.PUBLISHED.values())


def test_options_that_mean_nothing_for_a_source(tmp_path):
    parser = argparse.ArgumentParser()
    convert.add_arguments(parser)
    words = ["folder", "--input", "x", "--output", str(tmp_path / "y")]
    with pytest.raises(ConfigError) as caught:
        convert.run(parser.parse_args([*words, "--language=zh", "--variant=QB"]))
    assert len(caught.value.problems) == 2
    assert "--language: `convert folder` does not read it" in str(caught.value)
    assert "microlens, ninerec" in str(caught.value)
    assert "--variant: `convert folder` does not read it" in str(caught.value)


CHOICES = {
    **dict.fromkeys(("interactions", "items", "images", "variant"), "x"),
    **dict.fromkeys(("user_field", "item_field", "time_field"), "1"),
    "time_unit": "seconds",
    "language": "en",
    "separator": "tab",
}


@pytest.mark.parametrize("source", sorted(SOURCES))
def test_choices_that_a_source_does_not_read_are_all_reported(tmp_path, source):
    parser = argparse.ArgumentParser()
    convert.add_arguments(parser)
    words = [f"--{name.replace('_', '-')}={value}" for name, value in CHOICES.items()]
    words = [source, "--input", "x", "--output", str(tmp_path / "y"), *words, "--no-header"]
    with pytest.raises((ConfigError, DataError)) as caught:
        convert.run(parser.parse_args(words))
    unread = {*CHOICES, "header"} - {*SOURCES[source].READS}
    for name in (*CHOICES, "header"):
        flag = f"--{name.replace('_', '-')}: `convert {source}` does not read it"
        assert (flag in str(caught.value)) == (name in unread)
    expected = {"mind": 9, "morec": 7, "odmt": 7, "amazon": 3, "folder": 2, "pixelrec": 1}
    assert len(unread) == expected.get(source, 0)


def test_command_line_of_a_source(tmp_path, capsys):
    raw = put(tmp_path / "raw", {**QB, **LENS})
    parser = argparse.ArgumentParser()
    convert.add_arguments(parser)
    words = ["ninerec", "--input", str(raw), "--output", str(tmp_path / "qb"), "--variant", "QB",
             "--language", "zh", "--last-n", "1"]  # fmt: skip
    assert convert.run(parser.parse_args(words)) == 0
    assert "published users" in capsys.readouterr().out
    assert read_inter(tmp_path / "qb" / "qb.inter").rows() == [("u7", "v1", 1), ("u8", "v3", 0)]
    report = json.loads((tmp_path / "qb" / "convert_report.json").read_text())
    assert report["published"]["users"]["published"] == 17_722
    assert any("here interactions were dropped" in note for note in report["notes"])
