"""NineRec as it is published: pairs of any order, behaviours, two languages."""

from __future__ import annotations

import pytest
from source_runs import FOOD_ITEM, FOOD_PAIR, QB, QB_ITEM, failure, runner

from recbole_morec.convert import ninerec
from recbole_morec.convert._source import Counts
from recbole_morec.data import line_blocks
from recbole_morec.errors import ConfigError


@pytest.fixture
def run(tmp_path):
    return runner(tmp_path)


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
