"""Converting a folder: what goes in comes out, what is dropped is counted, output is whole."""

from __future__ import annotations

import argparse
import io
import json

import polars as pl
import pytest
import yaml
from folder_world import (
    INTERACTIONS,
    convert_folder,
    failure,
    make_source,
    save_image,
    write,
)
from rich.console import Console

from recbole_morec import convert
from recbole_morec.convert import print_report
from recbole_morec.convert.report import length_histogram
from recbole_morec.data.atomic import (
    ContentTable,
    read_content,
    read_header,
    write_content,
)
from recbole_morec.data.inter import read_inter, write_inter
from recbole_morec.errors import ConfigError, DataError


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path / "raw")


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


# --- errors -------------------------------------------------------------------------------------


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


# --- the time column ----------------------------------------------------------------------------

DATED = """\
user,item,{header},order_no
u1,i1,2024-05-12 10:00:00,1500000003
u1,i2,2024-05-11 10:00:00,1500000002
u2,i3,2024-05-13 10:00:00,1500000001
"""


def test_the_only_column_of_dates_is_the_time_whatever_its_name(tmp_path):
    source = make_source(tmp_path / "raw", DATED.format(header="bought_on"))
    out = tmp_path / "data" / "tiny"
    report = convert_folder(source, out)
    assert "bought_on (dates" in report.detected["time column"]
    assert [row[:2] for row in read_inter(out / "tiny.inter").rows()][:2] == [
        ("u1", "i1"),
        ("u1", "i2"),
    ]
    times = [row[2] for row in read_inter(out / "tiny.inter").rows()]
    assert times[0] - times[1] == 86_400


def test_two_columns_of_dates_are_asked_about(tmp_path):
    two = DATED.format(header="bought_on").replace("order_no", "paid_on")
    two = two.replace("1500000003", "2024-06-01").replace("1500000002", "2024-06-02")
    source = make_source(tmp_path / "raw", two.replace("1500000001", "2024-06-03"))
    said = failure(DataError, source, tmp_path / "data" / "tiny")
    assert "bought_on and paid_on hold dates" in said
    assert "--time-field" in said
    convert_folder(source, tmp_path / "data" / "tiny", time_field="paid_on")


def test_large_numbers_are_no_times_without_such_a_name(tmp_path):
    source = make_source(tmp_path / "raw", DATED.format(header="note").replace("2024-05-1", "x"))
    report = convert_folder(source, tmp_path / "data" / "tiny")
    assert report.detected["time"].startswith("none")
