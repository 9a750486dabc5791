"""Converting a folder: what goes in comes out, what is dropped is counted, output is whole."""

from __future__ import annotations

import argparse
import gzip
import io
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
import yaml
from PIL import Image
from rich.console import Console

from recbole_morec import convert
from recbole_morec.convert import _output, _pipeline, print_report
from recbole_morec.convert._locked import held
from recbole_morec.convert._tables import read_table
from recbole_morec.convert._times import TimeColumn
from recbole_morec.convert.report import length_histogram
from recbole_morec.data.atomic import (
    ContentTable,
    read_content,
    read_header,
    write_content,
)
from recbole_morec.data.event_log import is_missing
from recbole_morec.data.inter import read_inter, write_inter
from recbole_morec.errors import ConfigError, DataError


def convert_folder(*args, **choices):
    """Convert with images as files, which are easier to look at than a store."""
    return convert.convert_folder(*args, **{"image_form": "copy"} | choices)


INTERACTIONS = """\
user,item,timestamp,rating
u2,i1,30,5
u1,i2,10,4
u2,i3,20,3
u1,i1,10,5
u3,i9,40,1
"""
ITEMS = """\
item,title,genres,image,width,image_source
i1,"Alpha, the ""first"" one",A|B,i1.png,10,http://x/1
i2,NaN,B,i2.png,20,http://x/2
i3,"two
lines\tand a \\ ",,i3.png,,
i4,Delta,C,i4.png,40,
"""


def make_source(
    folder: Path, interactions=INTERACTIONS, items=ITEMS, images=("i1", "i2", "i3", "i4")
) -> Path:
    folder.mkdir(parents=True)
    write(folder / "interactions.csv", interactions)
    if items is not None:
        write(folder / "items.csv", items)
    for n, name in enumerate(images):
        save_image(folder / "images" / f"{name}.png", n)
    return folder


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def save_image(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 6), (shade, 0, 0)).save(path)
    return path


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path / "raw")


def failure(error, *args, **kwargs) -> str:
    with pytest.raises(error) as caught:
        convert_folder(*args, **kwargs)
    return str(caught.value)


# --- the plain case -----------------------------------------------------------------------------


def test_a_folder_becomes_a_dataset(source, tmp_path):
    out = tmp_path / "data" / "tiny"
    report = convert_folder(source, out)
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert names == {
        *("tiny.inter", "tiny.content", "tiny.yaml", "convert_report.json"),
        *(f"images/i{n}.png" for n in (1, 2, 3, 4)),
        *(
            f"prepared/histories/{file}"
            for file in ("meta.json", "users.arrow", "items.arrow", "offsets.npy", "items.npy")
        ),
    }
    assert [entry.name for entry in out.parent.iterdir()] == ["tiny"]

    assert read_inter(out / "tiny.inter").rows() == [
        ("u2", "i1", 30),
        ("u1", "i2", 10),
        ("u2", "i3", 20),
        ("u1", "i1", 10),
        ("u3", "i9", 40),
    ]
    assert (out / "tiny.inter").read_text().splitlines()[:2] == [
        "user_id:token\titem_id:token\ttimestamp:float\trating:float",
        "u2\ti1\t30\t5",
    ]
    content = read_content(out / "tiny.content")
    assert content.fields == {
        "title": "text",
        "genres": "text",
        "width": "float",
        "image_source": "text",
        "cover": "image",
    }
    assert content.tokens == ["i1", "i2", "i3", "i4"]
    assert content.columns["title"] == [
        'Alpha, the "first" one',
        None,
        "two\nlines\tand a \\ ",
        "Delta",
    ]
    assert content.columns["genres"] == ["A|B", "B", None, "C"]
    assert content.columns["width"] == ["10", "20", None, "40"]
    assert content.columns["cover"] == [f"images/i{n}.png" for n in (1, 2, 3, 4)]
    for n in (1, 2, 3, 4):
        assert (out / "images" / f"i{n}.png").read_bytes() == (
            source / "images" / f"i{n}.png"
        ).read_bytes()

    settings = yaml.safe_load((out / "tiny.yaml").read_text())
    assert settings == {
        "USER_ID_FIELD": "user_id",
        "ITEM_ID_FIELD": "item_id",
        "TIME_FIELD": "timestamp",
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "protocol": "pixelrec",
        "text_fields": ["title", "genres"],
        "image_field": "cover",
    }
    assert "user column: user" in (out / "tiny.yaml").read_text()

    assert (report.rows_read, report.rows_kept, report.users, report.items) == (5, 5, 3, 4)
    assert (report.content_rows, report.items_without_content, report.never_interacted) == (4, 1, 1)
    assert report.missing_text == {"title": 1, "genres": 1, "image_source": 2}
    assert report.images == {
        "items with one": 4,
        "items without": 0,
        "files that no item uses": 0,
        "bad files": 0,
    }
    assert (report.tied_rows, report.tied_users) == (2, 1)
    assert report.lengths == {"1": 1, "2": 2}
    assert report.dropped == {}
    assert json.loads((out / "convert_report.json").read_text()) == report.to_dict()


def test_equal_sources_give_equal_bytes(source, tmp_path):
    for name in ("one", "two"):
        convert_folder(source, tmp_path / name / "tiny")
    for file in ("tiny.inter", "tiny.content", "tiny.yaml", "images/i1.png"):
        assert (tmp_path / "one/tiny" / file).read_bytes() == (
            tmp_path / "two/tiny" / file
        ).read_bytes()


def test_a_converted_folder_converts_to_itself(source, tmp_path):
    convert_folder(source, tmp_path / "first" / "tiny")
    report = convert_folder(tmp_path / "first" / "tiny", tmp_path / "second" / "tiny")
    for file in ("tiny.inter", "images/i3.png"):
        assert (tmp_path / "first/tiny" / file).read_bytes() == (
            tmp_path / "second/tiny" / file
        ).read_bytes()
    assert read_content(tmp_path / "first/tiny/tiny.content") == read_content(
        tmp_path / "second/tiny/tiny.content"
    )
    assert report.detected["interactions"] == "tiny.inter (atomic file)"


def test_links_instead_of_copies(source, tmp_path):
    convert_folder(source, tmp_path / "tiny", image_form="link")
    link = tmp_path / "tiny" / "images" / "i1.png"
    assert link.is_symlink()
    assert link.resolve() == (source / "images" / "i1.png").resolve()


def test_the_report_can_be_printed(source, tmp_path):
    write(source / "images" / "i2.png", b"no image")
    write(source / "interactions.csv", INTERACTIONS + ",i1,50,1\n")
    report = convert_folder(source, tmp_path / "tiny")
    text = io.StringIO()
    print_report(report, Console(file=text, width=160))
    for part in ("interactions.csv (comma-separated)", "dropped: no user", "1 (line 7)"):
        assert part in text.getvalue()
    assert 'bad image of "i2"' in text.getvalue()
    assert "1 images cannot be read" in text.getvalue()


# --- dialects and columns -----------------------------------------------------------------------

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
    table = read_table(path)
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


def test_without_a_time_the_row_is_the_time(tmp_path):
    write(tmp_path / "raw" / "interactions.csv", "user,item\nu1,b\n,x\nu1,a\n")
    report = convert_folder(tmp_path / "raw", tmp_path / "tiny")
    assert read_inter(tmp_path / "tiny" / "tiny.inter").rows() == [("u1", "b", 0), ("u1", "a", 2)]
    assert any("order of the rows" in note for note in report.notes)


@pytest.mark.parametrize(
    ("written", "read", "form"),
    [
        (["1362061201", "N/A", "", "NaN"], [1362061201, None, None, None], "numbers"),
        (["9007199254740993", "5.0"], [9007199254740993, 5], "numbers"),
        (["1.5", "<NA>"], [1.5, None], "fractions"),
        (["7"] * 99 + ["inf"], [7] * 99 + [None], "numbers"),
        (["2013-02-28", "2013-02-28 17:40", "null"], [1362009600, 1362073200, None], "dates"),
        (["2013-02-28T17:40:00Z", "2013-02-28T19:40:00+02:00"], [1362073200] * 2, "dates"),
        (["2013-02-28 17:40:00.25", "2013/02/28"], [1362073200.25, 1362009600.0], "fractions"),
    ],
)
def test_times(written, read, form):
    column = TimeColumn("x.csv column t")
    times = column.read(pl.Series(written))
    assert times[~is_missing(times)].tolist() == [value for value in read if value is not None]
    assert is_missing(times).tolist() == [value is None for value in read]
    assert form in column.finish(str)


@pytest.mark.parametrize(
    ("written", "parts"),
    [
        (["1362061201"] * 6 + ["2013-02-28", "2013-03-01"] * 2,
         ["4 of 10 values", "as numbers", '"2013-02-28", "2013-03-01"', "Unix seconds"]),
        (["2013-02-28"] * 6 + ["1362061201"] * 4,
         ["4 of 10 values", "as dates", '"1362061201"', "ISO dates"]),
        (["7"] * 98 + ["soon", "late"], ["2 of 100 values", '"soon", "late"']),
        (["1357000000000", "1357000001", "0"],
         ["milliseconds (1357000000000 in 0)", "seconds (1357000001 in 1)", "one unit"]),
        (["1357000000.5", "1357000000000000"], ["microseconds (1357000000000000 in 1)"]),
    ],
)  # fmt: skip
def test_times_written_in_several_ways_are_an_error(written, parts):
    with pytest.raises(DataError) as caught:
        _read_times(written)
    for part in ("x.csv column t", *parts):
        assert part in str(caught.value)


def _read_times(written: list[str]) -> None:
    column = TimeColumn("x.csv column t")
    column.read(pl.Series(written))
    column.finish(str)


def test_ambiguous_dates_are_an_error(tmp_path):
    raw = make_source(tmp_path / "raw", "user,item,date\nu1,i1,03/04/2013\n", None, ())
    text = failure(DataError, raw, tmp_path / "tiny")
    assert "interactions.csv column date" in text
    assert '"03/04/2013"' in text


def test_american_times_are_read_only_where_they_are_known(tmp_path):
    written = pl.Series(["11/10/2019 9:05:58 PM", "1/2/2019 12:00:00 AM"])
    assert TimeColumn("x", american=True).read(written).tolist() == [1573419958, 1546387200]
    with pytest.raises(DataError, match="neither a number nor a date"):
        TimeColumn("x").read(written)
    table = "user,item,date\nu1,i1,03/04/2013 1:00:00 PM\n"
    raw = make_source(tmp_path / "raw", table, None, ())
    assert '"03/04/2013 1:00:00 PM"' in failure(DataError, raw, tmp_path / "tiny")


def test_further_numbers_that_are_not_finite_are_missing_and_counted(tmp_path):
    rows = "u,a,1600000000,inf\nu,b,1600000001,3\nu,c,1600000002,1e400\nu,d,1600000003,-inf\n"
    write(tmp_path / "raw" / "interactions.csv", "user,item,timestamp,rating\n" + rows)
    report = convert_folder(tmp_path / "raw", tmp_path / "tiny")
    written = (tmp_path / "tiny" / "tiny.inter").read_text().splitlines()
    assert [line.split("\t")[3] for line in written] == ["rating:float", "", "3", "", ""]
    assert any("rating" in note and "not finite" in note and "3" in note for note in report.notes)


# --- dropping -----------------------------------------------------------------------------------


def test_unusable_rows_are_dropped_counted_and_placed(tmp_path):
    raw = make_source(
        tmp_path / "raw",
        "user,item,timestamp\nu1,i1,1\n,i1,2\n  ,i1,2\nu1,,3\nu1,i2,soon\nu1,i2,\nu1,i3,4\n"
        + "u2,i1,5\n" * 200,
        None,
        (),
    )
    report = convert_folder(raw, tmp_path / "tiny")
    assert report.dropped == {"no user": 2, "no item": 1, "no usable time": 2}
    assert report.examples["no user"] == ["line 3", "line 4"]
    assert report.examples["no usable time"] == ["line 6", "line 7"]
    assert (report.rows_read, report.rows_kept) == (207, 202)
    assert read_inter(tmp_path / "tiny" / "tiny.inter")["item"].to_list()[:2] == ["i1", "i3"]


@pytest.mark.parametrize("cell", ["None", "null", "NULL", "N/A", "<NA>"])
def test_words_for_a_missing_value_are_missing(tmp_path, cell):
    raw = make_source(
        tmp_path / "raw", f"user,item,t\n{cell},i1,1\nu1,{cell},2\nu1,i1,{cell}\nu1,i1,4\n",
        f"item,title\n{cell},A\ni1,B\n", (),
    )  # fmt: skip
    report = convert_folder(raw, tmp_path / "tiny")
    assert report.dropped == {"no user": 1, "no item": 1, "no usable time": 1}
    assert report.item_rows["dropped: no item"] == 1
    assert read_inter(tmp_path / "tiny" / "tiny.inter").rows() == [("u1", "i1", 4)]


def test_lines_are_counted_through_quoted_line_breaks(tmp_path):
    text = 'user,item,note,t\nu1,i1,"two\nlines",1\nu1,,"",2\n"u,2",i1,x,3\n,i1,,4\n'
    raw = make_source(tmp_path / "raw", text, None, ())
    report = convert_folder(raw, tmp_path / "tiny")
    assert report.examples == {"no item": ["line 4"], "no user": ["line 6"]}
    assert read_inter(tmp_path / "tiny" / "tiny.inter").rows() == [
        ("u1", "i1", 1),
        ("u,2", "i1", 3),
    ]


def test_nothing_left_is_an_error_that_counts(tmp_path):
    raw = make_source(tmp_path / "raw", "user,item,timestamp\n,i1,1\nu1,i2,5\n", None, ())
    text = failure(DataError, raw, tmp_path / "tiny", min_user_inter=2)
    assert "no user: 1" in text
    assert "outside the k-core: 1" in text
    assert not (tmp_path / "tiny").exists()


@pytest.mark.parametrize(
    ("choice", "times"),
    [("keep", [30, 10, 20, 20, 5]), ("first", [10, 20, 5]), ("last", [30, 20, 5])],
)
def test_duplicates(tmp_path, choice, times):
    text = "user,item,timestamp\nu1,a,30\nu1,a,10\nu1,b,20\nu1,b,20\nu2,a,5\n"
    raw = make_source(tmp_path / "raw", text, None, ())
    report = convert_folder(raw, tmp_path / "tiny", duplicates=choice)
    assert read_inter(tmp_path / "tiny" / "tiny.inter")["time"].to_list() == times
    assert (report.repeated_pairs, report.repeated_rows) == (2, 1)
    assert report.dropped == ({} if choice == "keep" else {"same user and item again": 2})


def test_duplicates_as_an_error(tmp_path):
    raw = make_source(tmp_path / "raw", "user,item,t\nu1,a,1\nu1,a,2\n", None, ())
    text = failure(DataError, raw, tmp_path / "tiny", duplicates="error")
    assert "line 3" in text
    assert '"u1"' in text
    assert "--duplicates" in text


def test_the_core_is_iterated(tmp_path):
    # Dropping c (one user) leaves u3 with one item, which leaves b with one user, and so on to u4.
    rows = ["u1,a", "u1,d", "u2,a", "u2,d", "u3,b", "u3,c", "u4,b", "u4,e", "u5,e", "u5,f"]
    text = "user,item,t\n" + "".join(f"{row},{n}\n" for n, row in enumerate(rows))
    items = "item,title\n" + "".join(f"{item},{item}\n" for item in "abcdefz")
    raw = make_source(tmp_path / "raw", text, items, ())
    report = convert_folder(raw, tmp_path / "tiny", min_user_inter=2, min_item_inter=2)
    kept = read_inter(tmp_path / "tiny" / "tiny.inter")
    assert kept.select("user", "item").rows() == [tuple(row.split(",")) for row in rows[:4]]
    assert report.dropped == {"outside the k-core": 6}
    assert "3 users and 4 items dropped" in report.core
    # z never had an interaction and stays; what the core dropped goes.
    assert read_content(tmp_path / "tiny" / "tiny.content").tokens == ["a", "d", "z"]
    assert report.item_rows["dropped: outside the k-core"] == 4


def test_item_rows_that_repeat_or_are_empty(tmp_path):
    raw = make_source(
        tmp_path / "raw", items="item,title\ni1,A\n,B\ni1,C\nnan,D\n", images=(),
        interactions="user,item,t\nu,i1,1\nu,nan,2\n",
    )  # fmt: skip
    report = convert_folder(raw, tmp_path / "tiny")
    content = read_content(tmp_path / "tiny" / "tiny.content")
    assert content.tokens == ["i1", "nan"]
    assert content.columns["title"] == ["A", "D"]
    assert report.item_rows == {
        "read": 4,
        "dropped: no item": 1,
        "dropped: item again (the first row was kept)": 1,
    }


def test_item_columns_are_typed_and_named(tmp_path):
    items = (
        "item,title,code,year,cover,empty,a b:c,item_id,url\n"
        "i1,1984,007,1949,http://x/1,,p,q,http://x\ni2,2001,123,1968,http://x/2,,r,s,\n"
    )
    raw = make_source(tmp_path / "raw", items=items, images=("i1",))
    report = convert_folder(raw, tmp_path / "tiny")
    content = read_content(tmp_path / "tiny" / "tiny.content")
    assert content.fields == {
        "title": "text",
        "code": "text",
        "year": "float",
        "cover_text": "text",
        "a_b_c": "text",
        "item_id_text": "text",
        "url": "text",
        "cover": "image",
    }
    assert content.columns["cover"] == ["images/i1.png", None]
    settings = yaml.safe_load((tmp_path / "tiny" / "tiny.yaml").read_text())
    assert settings["text_fields"] == ["title", "code", "a_b_c"]
    notes = " ".join(report.notes)
    assert '"empty" is empty and was left out' in notes
    assert '"cover" is called "cover_text" now' in notes
    assert '"http://x/1") names no file that is there' in notes


# --- images -------------------------------------------------------------------------------------


def test_images_by_path_by_item_missing_bad_and_unused(tmp_path):
    items = (
        "item,picture\na,sub/one.png\nb,one\nc,\nd,gone.jpg\ne,images/bad.jpg\nf,../secret.png\n"
    )
    raw = make_source(
        tmp_path / "raw", "user,item,t\nu,a,1\nu,g,2\nu,h,3\n", items,
        ("sub/one", "c", "g", "unused"),
    )  # fmt: skip
    whole = io.BytesIO()
    Image.effect_noise((40, 40), 90).save(whole, "JPEG")
    write(raw / "images" / "bad.jpg", whole.getvalue()[:-40])
    write(raw / "images" / "readme.txt", "no image")
    save_image(raw / "secret.png")
    report = convert_folder(raw, tmp_path / "tiny")
    content = read_content(tmp_path / "tiny" / "tiny.content")
    assert dict(zip(content.tokens, content.columns["cover"], strict=True)) == {
        "a": "images/sub/one.png",
        "b": "images/sub/one.png",
        "c": "images/c.png",
        "d": None,
        "e": None,
        "f": None,
        "g": "images/g.png",
    }
    assert report.images == {
        "items with one": 5,
        "items without": 2,
        "files that no item uses": 1,
        "bad files": 1,
    }
    assert report.bad_images == [
        {"item": "e", "file": "bad.jpg", "reason": "truncated (the JPEG has no end)"}
    ]
    assert "2 items name an image file that is not there (d: gone.jpg, f: ../secret.png)." in (
        report.notes
    )
    assert report.items_without_content == 1
    out = tmp_path / "tiny"
    written = {path.relative_to(out).as_posix() for path in (out / "images").rglob("*")}
    assert written == {"images/sub", "images/sub/one.png"} | {*("images/c.png", "images/g.png")}


def test_a_name_in_two_folders_is_no_image(tmp_path):
    raw = make_source(tmp_path / "raw", images=("x/i1", "y/i1", "z/i1", "i2"))
    report = convert_folder(raw, tmp_path / "tiny")
    covers = read_content(tmp_path / "tiny" / "tiny.content").columns["cover"]
    assert covers == [None, "images/i2.png", None, None]
    assert report.images["items without"] == 3
    assert report.images["items with several files to choose from"] == 1
    note = next(note for note in report.notes if "several subfolders" in note)
    assert "1 item has no image" in note
    assert "i1: x/i1.png, y/i1.png" in note
    assert note in json.loads((tmp_path / "tiny" / "convert_report.json").read_text())["notes"]
    assert any(
        note.startswith("3 items of the content file without a usable image")
        for note in report.notes
    )


@pytest.mark.parametrize("items", [ITEMS, None])
def test_images_of_which_none_can_be_used_are_noted(tmp_path, items):
    raw = make_source(tmp_path / "a", items=items, images=("i_1", "i_2"))
    report = convert_folder(raw, tmp_path / "tiny")
    assert any(
        "none of the 2 image files belongs to an item" in note
        and "i_1.png" in note
        and "i1" in note
        and "<item>.png" in note
        for note in report.notes
    )
    assert report.images == {
        "items with one": 0, "items without": 4, "files that no item uses": 2,
    }  # fmt: skip
    text = INTERACTIONS.replace("i9", "i1").replace("i2", "i1").replace("i3", "i1")
    raw = make_source(tmp_path / "b", text, items, images=("x/i1", "y/i1"))
    report = convert_folder(raw, tmp_path / "tiny2")
    assert any("(i1: x/i1.png, y/i1.png)" in note for note in report.notes)
    assert not any("none of the" in note for note in report.notes)


def test_an_item_without_a_row_and_with_several_images_is_noted(tmp_path):
    raw = make_source(tmp_path / "raw", images=("i1", "x/i9", "y/i9"))
    report = convert_folder(raw, tmp_path / "tiny")
    assert any("(i9: x/i9.png, y/i9.png)" in note for note in report.notes)


def test_a_column_that_names_several_files(tmp_path):
    items = "item,image\na,cover.png\nb,cover\nc,x/cover.png\n"
    raw = make_source(tmp_path / "raw", items=items, images=("x/cover", "y/cover"))
    report = convert_folder(raw, tmp_path / "tiny")
    notes = " ".join(report.notes)
    assert "1 item has no image because files of its name lie in several subfolders" in notes
    assert "(b: x/cover.png, y/cover.png)" in notes
    assert "1 item names an image file that is not there (a: cover.png)" in notes


def test_items_known_only_by_an_image_are_counted(tmp_path):
    raw = make_source(tmp_path / "raw", items="item,title\ni1,A\n")
    report = convert_folder(raw, tmp_path / "tiny")
    assert report.item_rows == {"read": 1, "added: an image but no row in the item table": 2}
    assert report.missing_text == {"title": 2}
    assert any("2 items have an image but no row in the item table" in n for n in report.notes)


def test_images_without_an_item_table(tmp_path):
    raw = make_source(tmp_path / "raw", items=None, images=("i2", "i1", "other"))
    convert_folder(raw, tmp_path / "tiny")
    content = read_content(tmp_path / "tiny" / "tiny.content")
    assert content.tokens == ["i1", "i2"]  # in the order of the interactions
    assert content.fields == {"cover": "image"}
    settings = yaml.safe_load((tmp_path / "tiny" / "tiny.yaml").read_text())
    assert "text_fields" not in settings
    assert settings["image_field"] == "cover"


# --- errors -------------------------------------------------------------------------------------


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


# --- separator and header -----------------------------------------------------------------------


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


def test_missing_and_ambiguous_sources(tmp_path, source):
    out = tmp_path / "tiny"
    assert "no such folder" in failure(DataError, tmp_path / "nowhere", out)
    assert 'Did you mean "user"?' in failure(DataError, source, out, user_field="usr")
    text = failure(DataError, source, out, items="itms.csv")
    assert f'--items: the file "itms.csv" was not found in the input folder {source}' in text
    assert 'Did you mean "items.csv"? The folder holds interactions.csv, items.csv.' in text
    assert "imgs: no such folder or archive (--images)" in failure(
        DataError, source, out, images="imgs"
    )
    write(source / "ratings.csv", INTERACTIONS)
    text = failure(DataError, source, out)
    assert "interactions.csv, ratings.csv" in text
    assert "--interactions" in text
    save_image(source / "covers" / "i1.png")
    assert "--images" in failure(DataError, source, out, interactions="ratings.csv")
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty" / "notes.md", "x")
    text = failure(DataError, tmp_path / "empty", out)
    assert "no file looks like interactions" in text
    assert "notes.md" in text


def test_unknown_choices_are_config_errors(tmp_path, source):
    out = tmp_path / "tiny"
    assert 'Did you mean "first"?' in failure(ConfigError, source, out, duplicates="frist")
    assert 'Did you mean "link"?' in failure(ConfigError, source, out, image_form="lnk")
    assert "--name" in failure(ConfigError, source, out, name="a/b")
    assert "negative" in failure(ConfigError, source, out, min_user_inter=-1)


# --- the output folder --------------------------------------------------------------------------


def test_output_in_use(tmp_path, source):
    out = tmp_path / "tiny"
    write(out / "thesis.tex", "years of work")
    assert "--overwrite" in failure(DataError, source, out)
    assert "convert_report.json" in failure(DataError, source, out, overwrite=True)
    assert (out / "thesis.tex").read_text() == "years of work"
    for place in (source, source.parent):
        assert "holds the source" in failure(DataError, source, place, overwrite=True)
    for place in (out / "thesis.tex", out / "thesis.tex" / "a" / "b"):
        assert "thesis.tex is a file" in failure(DataError, source, place)


def test_overwrite_replaces_all_and_leaves_no_traces(tmp_path, source):
    out = tmp_path / "data" / "tiny"
    out.mkdir(parents=True)  # an empty folder may be used as it is
    convert_folder(source, out)
    write(source / "interactions.csv", "user,item,t\nu,i1,1\n")
    write(source / "items.csv", "item,title\ni1,New\n")
    assert "not empty" in failure(DataError, source, out)
    convert_folder(source, out, overwrite=True)
    assert read_content(out / "tiny.content").columns["title"] == ["New"]
    assert not (out / "images" / "i2.png").exists()
    assert [entry.name for entry in out.parent.iterdir()] == ["tiny"]


def test_what_a_killed_conversion_left_is_removed(tmp_path, source):
    others = {".other.4711.converting", ".tiny.mine.converting", ".tiny.2.4711.converting"}
    for name in (".tiny.4711.converting", *others):
        write(tmp_path / "data" / name / "tiny.inter", "half")
    convert_folder(source, tmp_path / "data" / "tiny")
    assert {entry.name for entry in (tmp_path / "data").iterdir()} == {"tiny", *others}
    running = tmp_path / "data" / ".tiny.4711.converting"
    write(running / "tiny.inter", "of a conversion that runs")
    with held(running):
        convert_folder(source, tmp_path / "data" / "tiny", overwrite=True)
        assert running.exists()


def test_a_dataset_that_was_being_replaced_is_put_back(tmp_path, source):
    out = tmp_path / "data" / "tiny"
    convert_folder(source, out)
    out.rename(out.with_name(".tiny.4711.replaced"))  # as a kill between two renames leaves it
    assert "not empty" in failure(DataError, source, out)
    assert (out / "tiny.inter").exists()
    write(out.with_name(".tiny.4711.replaced") / "tiny.inter", "old")  # killed after the second
    convert_folder(source, out, overwrite=True)
    assert [entry.name for entry in out.parent.iterdir()] == ["tiny"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_appears_at_the_output_meanwhile_is_kept(tmp_path, source, monkeypatch, overwrite):
    out = tmp_path / "tiny"
    if overwrite:
        convert_folder(source, out)
    real = _pipeline.write_interactions

    def meanwhile(*args):
        write(out / "notes.txt", "precious")
        real(*args)

    monkeypatch.setattr(_pipeline, "write_interactions", meanwhile)
    text = failure(DataError, source, out, overwrite=overwrite)
    assert ("notes.txt (new)" if overwrite else "not empty") in text
    assert (out / "notes.txt").read_text() == "precious"


def test_what_the_system_refuses_is_one_error(tmp_path, source):
    long = tmp_path / ("x" * 250)
    assert "File name too long" in failure(DataError, source, long)
    code = (
        "import resource, sys; from recbole_morec.cli import main;"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000)); sys.exit(main(sys.argv[1:]))"
    )
    write(source / "interactions.csv", INTERACTIONS + "u1,i1,5,5\n" * 2000)
    words = ["convert", "folder", "--input", str(source), "--output", str(tmp_path / "tiny")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Nothing was written to" in done.stderr
    assert not (tmp_path / "tiny").exists()


@pytest.mark.parametrize(
    ("file", "listed"),
    [
        ("minilm.npy", "minilm.npy (new)"),
        ("images/mine.png", "images/ (files added or removed)"),
        ("tiny.yaml", "tiny.yaml"),
        ("tiny.content", "tiny.content"),
    ],
)
def test_overwrite_stops_at_what_others_put_there(tmp_path, source, file, listed):
    out = tmp_path / "tiny"
    convert_folder(source, out)
    write(out / file, "precious")
    write(out / ".DS_Store", "of a file manager")
    text = failure(DataError, source, out, overwrite=True)
    assert f"changed since the conversion: {listed}. Move it away" in text
    assert (out / file).read_text() == "precious"
    (out / file).unlink()
    convert_folder(source, out, overwrite=True)


def test_what_was_derived_from_a_dataset_is_in_nobodys_way(tmp_path, source):
    out = tmp_path / "tiny"
    convert_folder(source, out)
    for listed in (True, False):
        write(out / "prepared" / "texts-0123" / "ids.npy", "tokens")
        write(out / "prepared" / "texts.lock", "")
        if not listed:  # the report of an earlier version
            report = json.loads((out / "convert_report.json").read_text())
            del report["files"]
            write(out / "convert_report.json", json.dumps(report))
        convert_folder(source, out, overwrite=True)
        assert [path.name for path in (out / "prepared").iterdir()] == ["histories"]
    write(out / "prepared" / "texts-0123" / "ids.npy", "tokens")
    convert_folder(out, tmp_path / "again")  # a dataset folder is a source too
    assert [path.name for path in (tmp_path / "again" / "prepared").iterdir()] == ["histories"]
    write(out / "prepared" / "notes.txt", "precious")
    assert "prepared/notes.txt (new)" in failure(DataError, source, out, overwrite=True)


def test_overwrite_with_the_report_of_an_earlier_version(tmp_path, source):
    out = tmp_path / "tiny"
    convert_folder(source, out)
    report = json.loads((out / "convert_report.json").read_text())
    del report["files"]
    write(out / "convert_report.json", json.dumps(report))
    convert_folder(source, out, overwrite=True)
    write(out / "convert_report.json", json.dumps(report))
    write(out / "minilm.npy", "precious")
    assert "minilm.npy" in failure(DataError, source, out, overwrite=True)
    write(out / "convert_report.json", "[]")
    assert "no report of a conversion" in failure(DataError, source, out, overwrite=True)


@pytest.mark.parametrize("step", ["write_interactions", "put_images", "_write_yaml"])
@pytest.mark.parametrize("stop", [OSError(28, "disk full"), KeyboardInterrupt()])
def test_a_failed_conversion_leaves_the_old_state(tmp_path, source, monkeypatch, step, stop):
    def fail(*args, **kwargs):
        raise stop

    fresh, old = tmp_path / "data" / "fresh", tmp_path / "data" / "tiny"
    convert_folder(source, old)
    before = {p: p.read_bytes() for p in old.rglob("*") if p.is_file()}
    monkeypatch.setattr(f"recbole_morec.convert._pipeline.{step}", fail)
    for out, overwrite in [(fresh, False), (old, True)]:
        with pytest.raises((DataError, KeyboardInterrupt)):
            convert_folder(source, out, overwrite=overwrite)
    assert [entry.name for entry in old.parent.iterdir()] == ["tiny"]
    assert {p: p.read_bytes() for p in old.rglob("*") if p.is_file()} == before


def test_a_failed_last_rename_puts_the_old_folder_back(tmp_path, monkeypatch):
    write(tmp_path / "tiny" / "old.txt", "old")
    real = Path.rename

    def rename(self, target):
        if self.name.endswith(".converting"):
            raise OSError("busy")
        return real(self, target)

    monkeypatch.setattr(_output.Path, "rename", rename)
    with pytest.raises(OSError, match="busy"), _output.new_folder(tmp_path / "tiny") as folder:
        write(folder / "new.txt", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["tiny"]
    assert (tmp_path / "tiny" / "old.txt").exists()


# --- command line -------------------------------------------------------------------------------


def parse(*words):
    parser = argparse.ArgumentParser()
    convert.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def test_command_line(tmp_path, source, capsys):
    out = tmp_path / "tiny"
    words = ["folder", "--input", source, "--output", out, "--min-user-inter=2", "--name=mine"]
    assert convert.run(parse(*words)) == 0
    assert read_inter(out / "mine.inter").height == 4
    printed = capsys.readouterr()
    assert "interactions kept" in printed.out
    assert printed.err == ""  # no progress bars where stderr is no terminal


def test_unknown_sources_are_config_errors(tmp_path):
    with pytest.raises(ConfigError) as caught:
        convert.run(parse("foldr", "--input", tmp_path, "--output", tmp_path / "x"))
    assert 'Did you mean "folder"?' in str(caught.value)


def test_length_histogram():
    assert length_histogram({3: 2, 7: 1, 9: 4, 60: 1}) == {
        "3": 2, "4": 0, "5-9": 5, "10-19": 0, "20-49": 0, "50-99": 1,
    }  # fmt: skip
    assert length_histogram({500: 1}) == {"200+": 1}


def test_atomic_source_with_own_field_names(tmp_path):
    raw = tmp_path / "raw"
    frame = pl.DataFrame({"user": ["u"], "item": ["i"], "time": [2**40]})
    write_inter(raw / "x.inter", frame, "uid", "sku", "ts")
    table = ContentTable({"title": "text"}, ["i"], {"title": ["a\tb"]}, "sku")
    write_content(raw / "x.content", table)
    convert_folder(raw, tmp_path / "tiny")
    assert read_header(tmp_path / "tiny" / "tiny.inter")["timestamp"] == "float"
    assert read_inter(tmp_path / "tiny" / "tiny.inter")["time"].to_list() == [2**40]
    assert read_content(tmp_path / "tiny" / "tiny.content").columns["title"] == ["a\tb"]
