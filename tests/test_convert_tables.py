"""Tables as they come: dialects, headers, flags, and what is said of broken ones."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime

import polars as pl
import pytest
from folder_world import (
    INTERACTIONS,
    convert_folder,
    failure,
    make_source,
    save_image,
    write,
)

from recbole_morec.convert._rows import open_rows
from recbole_morec.convert._tables import table_of
from recbole_morec.data.atomic import (
    read_content,
)
from recbole_morec.data.inter import read_inter
from recbole_morec.errors import ConfigError, DataError


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path / "raw")


PLAIN = [("u1", "i1", 5), ("u1", "i2", 6)]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("interactions.csv", "user,item,timestamp\nu1,i1,5\nu1,i2,6\n"),
        ("interactions.csv", "\ufeffuser,item,timestamp\r\nu1,i1,5\r\nu1,i2,6"),
        ("interactions.csv", '"user","item","timestamp"\n"u1","i1","5"\n"u1","i2","6"\n'),
        ("x_interactions.csv", "timestamp;item_id;user_id\n5;i1;u1\n6;i2;u1\n"),
        ("ratings.tsv", "userId\tmovieId\ttimestamp\nu1\ti1\t5\nu1\ti2\t6\n"),
        ("pairs.txt", "uid|iid|ts\nu1|i1|5\nu1|i2|6\n"),
        ("interactions.csv", ",User ID,Item-ID,TIME\n0,u1,i1,5.0\n1,u1,i2,6.0\n"),
        ("any.inter", "user_id:token\titem_id:token\ttimestamp:float\nu1\ti1\t5\nu1\ti2\t6\n"),
    ],
)
def test_dialects_of_interactions(tmp_path, file, text):
    write(tmp_path / "raw" / file, text)
    report = convert_folder(tmp_path / "raw", tmp_path / "tiny")
    assert read_inter(tmp_path / "tiny" / "tiny.inter").rows() == PLAIN
    assert report.detected["interactions"].startswith(file)
    assert not (tmp_path / "tiny" / "tiny.content").exists()
    assert any("no .content file" in note for note in report.notes)


def test_parquet_with_numeric_ids_dates_and_lists(tmp_path):
    (tmp_path / "raw").mkdir()
    times = [datetime(2013, 2, 28, 12, tzinfo=UTC), datetime(2013, 2, 28, 13, tzinfo=UTC)]
    pl.DataFrame({"user_id": [1.0, 2.0], "item_id": [7, 8], "timestamp": times}).write_parquet(
        tmp_path / "raw" / "interactions.parquet"
    )
    pl.DataFrame(
        {
            "item_id": [8, 7],
            "title": ["B", None],
            "tags": [["x", "y"], []],
            "blob": [b"1", b"2"],
            "price": [1.5, float("nan")],
        }
    ).write_parquet(tmp_path / "raw" / "items.parquet")
    report = convert_folder(tmp_path / "raw", tmp_path / "tiny")
    assert read_inter(tmp_path / "tiny" / "tiny.inter").rows() == [
        ("1", "7", 1362052800),
        ("2", "8", 1362056400),
    ]
    content = read_content(tmp_path / "tiny" / "tiny.content")
    assert content.columns == {"title": ["B", None], "tags": ["x|y", None], "price": ["1.5", None]}
    assert any('"blob" has the type Binary' in note for note in report.notes)


def test_quotation_marks_that_are_text(tmp_path):
    text = 'item\ttitle\ni1\t"Heroes\ni2\tan 8" disk\ni3\t"So" what\n'
    path = write(tmp_path / "items.tsv", text)
    table = table_of(open_rows(path))
    assert table.frame["title"].to_list() == ['"Heroes', 'an 8" disk', '"So" what']
    assert "quotation marks are text" in table.form


def test_flags_override_names(tmp_path):
    raw = tmp_path / "raw"
    write(raw / "log.csv", "user,item,who,what,when\nx,y,u1,i1,5\nx,y,u1,i2,6\n")
    write(raw / "interactions.csv", INTERACTIONS)
    write(raw / "things.csv", "item,title\ni1,A\n")
    save_image(raw / "faces" / "i2.png")
    report = convert_folder(
        raw, tmp_path / "out", name="mine", interactions="log.csv", items="things.csv",
        images="faces", user_field="who", item_field="what", time_field="when",
    )  # fmt: skip
    assert read_inter(tmp_path / "out" / "mine.inter").rows() == PLAIN
    content = read_content(tmp_path / "out" / "mine.content")
    assert content.tokens == ["i1", "i2"]  # i2 has a picture only
    assert content.columns == {"title": ["A", None], "cover": [None, "images/i2.png"]}
    assert "Columns of the interactions left out: user, item." in report.notes


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("user,item,timestamp\nu,i,1\nu,i\n", ["interactions.csv line 3", "2 fields", '"," or']),
        ('user,item\n"u",i\n\n"v",i,3\n', ["line 3", "0 fields"]),
        ('user,item\n"u",i\n"v,i\nw,j\n', ["interactions.csv line", "quotation mark"]),
        (b"user,item\nu,caf\xe9\n", ["line 2", "UTF-8"]),
        (b'user,item\n"u",i\n"u",caf\xe9\n', ["line 3", "UTF-8"]),
        ("user,item\n", ["not one row"]),
        ("user\nu\n", ["line 1", "no separator"]),
        ("", ["interactions.csv: the file is empty", "names the columns"]),
        ("\nuser,item\nu,i\n", ["interactions.csv: line 1 is empty"]),
        ('user,item\nu,i\nu,"a\tb"\n', ["raw/interactions.csv line 3", '"item"', r"'a\tb'"]),
        ('user,item\n"u\nv",i\n', ["raw/interactions.csv line 2", '"user"', r"'u\nv'"]),
        ("user,item,user\nu,i,v\n", ['"user" stands twice']),
        ("who,item\nu,i\n", ["looks like the user", "who, item", "--user-field"]),
        ("196,242,3\n186,302,3\n", ["looks like the user", "line with the names"]),
    ],
)
def test_bad_tables_are_named(tmp_path, text, parts):
    raw = make_source(tmp_path / "raw", text, None, ())
    message = failure(DataError, raw, tmp_path / "tiny")
    for part in parts:
        assert part in message
    assert not (tmp_path / "tiny").exists()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (b"user,item\ru,i\rv,j\r", ["bare carriage returns", "tr '\\r' '\\n'"]),
        (b'user,item\r"u",i\r', ["bare carriage returns"]),
        ("user,item\nu,i\n".encode("utf-16"), ["UTF-16", "iconv -f UTF-16 -t UTF-8"]),
        ("user,item\nu,i\n".encode("utf-16-le"), ["UTF-16", "iconv -f UTF-16LE"]),
        ("user,item\nu,i\n".encode("utf-16-be"), ["UTF-16", "iconv -f UTF-16BE"]),
    ],
)
def test_other_line_ends_and_encodings_are_said_to_be_what_they_are(tmp_path, text, parts):
    raw = make_source(tmp_path / "raw", text, None, ())
    message = failure(DataError, raw, tmp_path / "tiny")
    for part in ("interactions.csv", *parts):
        assert part in message
    assert "latin1" not in message


def test_a_folder_is_no_table(tmp_path, source):
    (source / "rows.csv").mkdir()
    for flag in ("interactions", "items"):
        text = failure(DataError, source, tmp_path / "tiny", **{flag: "rows.csv"})
        assert f"--{flag}: {source / 'rows.csv'} is a folder" in text


@pytest.mark.parametrize("separator", ["bar", "|"])
def test_the_separator_that_is_given_counts(tmp_path, separator):
    # The commas would win where the first line is counted.
    items = "item|title, or, name, more\na|A, b\n"
    rows = "user|item|timestamp|a,b,c,d\nu|a|1600000000|\n"
    make_source(tmp_path / "raw", rows, items, ())
    report = convert_folder(tmp_path / "raw", tmp_path / "tiny", separator=separator)
    assert read_inter(tmp_path / "tiny" / "tiny.inter").rows() == [("u", "a", 1600000000)]
    assert report.detected["interactions"] == "interactions.csv (bar-separated)"
    assert read_content(tmp_path / "tiny" / "tiny.content").tokens == ["a"]


def test_an_unknown_separator_is_a_config_error(tmp_path, source):
    text = failure(ConfigError, source, tmp_path / "tiny", separator="bra")
    assert '--separator: unknown "bra"' in text
    assert "comma, tab, semicolon, bar" in text
    write(tmp_path / "raw2" / "interactions.csv", "user;item\nu;i\n")
    text = failure(DataError, tmp_path / "raw2", tmp_path / "tiny", separator="tab")
    assert "interactions.csv line 1" in text
    assert "has no tab" in text
    assert "--separator" in text


def test_a_folder_without_headers(tmp_path):
    rows = "1,10,5,978300760\n1,11,3,978302109\n2,10,4,978301968\n"
    raw = tmp_path / "raw"
    write(raw / "ratings.csv", rows)
    write(raw / "movies.csv", "10,Toys\n11,Jumanji\n")
    given = {"header": False, "user_field": "1", "item_field": "2"}
    report = convert_folder(raw, tmp_path / "a", **given)
    wanted = [("1", "10", 978300760), ("1", "11", 978302109), ("2", "10", 978301968)]
    assert read_inter(tmp_path / "a" / "a.inter").rows() == wanted
    assert "column 4 looks like times" in report.detected["column order"]
    content = read_content(tmp_path / "a" / "a.content")
    assert content.tokens == ["10", "11"]
    assert content.columns["column_2"] == ["Toys", "Jumanji"]
    assert "column 1, the first" in report.detected["item column (items)"]
    convert_folder(raw, tmp_path / "b", **given, time_field="4")
    assert read_inter(tmp_path / "b" / "b.inter").rows() == wanted
    write(raw / "ratings.csv", "1,10,5\n1,11,3\n")
    write(raw / "movies.csv", "title,movie\nToys,10\nJumanji,11\n")  # has a header after all
    report = convert_folder(raw, tmp_path / "c", **given)
    assert read_inter(tmp_path / "c" / "c.inter").rows() == [("1", "10", 0), ("1", "11", 1)]
    assert any("order of the rows" in note for note in report.notes)
    assert read_content(tmp_path / "c" / "c.content").tokens == ["10", "11"]
    text = failure(DataError, raw, tmp_path / "d", user_field="1", item_field="10")
    assert "add --no-header" in text
    convert_folder(raw, tmp_path / "d", user_field="1", item_field="10", header=True)
    assert read_inter(tmp_path / "d" / "d.inter").rows() == [("1", "11", 0)]
    text = failure(DataError, raw, tmp_path / "e", header=False)
    assert "no column looks like times" in text
    assert "--user-field and --item-field" in text
    assert 'no column "9"' in failure(DataError, raw, tmp_path / "e", **given, time_field="9")


def test_a_first_line_is_what_the_flag_says(tmp_path):
    write(tmp_path / "raw" / "interactions.csv", "user,item\nu,i\n")
    given = {"header": False, "user_field": "1", "item_field": "2"}
    convert_folder(tmp_path / "raw", tmp_path / "tiny", **given)
    rows = read_inter(tmp_path / "tiny" / "tiny.inter").rows()
    assert rows == [("user", "item", 0), ("u", "i", 1)]


def test_files_that_name_their_own_columns_have_no_such_flags(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    pl.DataFrame({"user": ["u"], "item": ["i"]}).write_parquet(raw / "interactions.parquet")
    for given in ({"header": False}, {"separator": "tab"}):
        text = failure(DataError, raw, tmp_path / "tiny", **given)
        assert "interactions.parquet names its columns itself" in text


def test_an_item_with_a_tab_is_named_in_its_table(tmp_path):
    raw = make_source(tmp_path / "raw", items='item,title\ni1,A\n"a\tb",B\n', images=())
    text = failure(DataError, raw, tmp_path / "tiny")
    assert f"{raw / 'items.csv'} line 3" in text
    assert r"'a\tb'" in text


def test_a_broken_parquet_file(tmp_path):
    write(tmp_path / "raw" / "interactions.parquet", gzip.compress(b"x"))
    assert "not a readable parquet" in failure(DataError, tmp_path / "raw", tmp_path / "tiny")
