"""Atomic files: what is written is read back; every bad line is named with its cure."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from recbole_morec.data import line_blocks
from recbole_morec.data.atomic import (
    ContentTable,
    read_content,
    read_header,
    write_content,
)
from recbole_morec.data.inter import read_inter, write_inter
from recbole_morec.errors import DataError

HEADER = "user_id:token\titem_id:token\ttimestamp:float\n"

AWKWARD_TEXTS = [
    "tab\there",
    "new\nline\r\nand return\r",
    "back\\slash \\n \\\\ \\t, not escapes",
    '"a quote at the start',
    'a "quote" inside, and, commas',
    "NA",
    "None",
    "null",
    " leading and trailing space ",
    "#comment",
    "e\u0301 \u00e9 \u2028 \x0b \x85 \ufeff",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 emoji",
    "x" * 10_000,
    None,
]


def inter_file(folder: Path, body: str | bytes, header: str = HEADER) -> Path:
    path = folder / "tiny.inter"
    path.write_bytes(header.encode() + (body if isinstance(body, bytes) else body.encode()))
    return path


def content_file(folder: Path, body: str | bytes, header: str = "item_id:token\ttitle:text\n"):
    path = folder / "tiny.content"
    path.write_bytes(header.encode() + (body if isinstance(body, bytes) else body.encode()))
    return path


def message(action, *args, **kwargs) -> str:
    with pytest.raises(DataError) as caught:
        action(*args, **kwargs)
    return str(caught.value)


# --- .inter -------------------------------------------------------------------------------------


def test_inter_keeps_row_order_and_awkward_tokens(tmp_path):
    path = inter_file(tmp_path, 'u2\t"i1\t30\nNA\tNone\t10\nu2\ti"3"\t20\n\u00fc\ti,4\t20')
    frame = read_inter(path)
    assert frame.columns == ["user", "item", "time"]
    assert frame.rows() == [
        ("u2", '"i1', 30),
        ("NA", "None", 10),
        ("u2", 'i"3"', 20),
        ("\u00fc", "i,4", 20),
    ]


@pytest.mark.parametrize(
    ("written", "dtype", "read"),
    [
        (["1362061200", "1362061201"], pl.Int64, [1362061200, 1362061201]),  # equal as float32
        (["16777217", "16777216"], pl.Int64, [16777217, 16777216]),
        (["1362061200123", "9007199254740993"], pl.Int64, [1362061200123, 9007199254740993]),
        (["1362061200.0", "1e3"], pl.Int64, [1362061200, 1000]),
        (["-5", "0"], pl.Int64, [-5, 0]),
        (["1.5", "2"], pl.Float64, [1.5, 2.0]),
        (["1e30", "2"], pl.Float64, [1e30, 2.0]),
    ],
)
def test_times_stay_exact(tmp_path, written, dtype, read):
    path = inter_file(tmp_path, "".join(f"u\ti{n}\t{t}\n" for n, t in enumerate(written)))
    time = read_inter(path)["time"]
    assert time.dtype == dtype
    assert time.to_list() == read


def test_inter_without_a_time_field_and_with_further_columns(tmp_path):
    header = "rating:float\titem_id:token\ttags:token_seq\tuser_id:token\n"
    path = inter_file(tmp_path, "5\ti1\ta b\tu1\n\ti2\t\tu1\n", header)
    assert read_inter(path, time_field=None).rows() == [("u1", "i1"), ("u1", "i2")]


def test_inter_with_windows_line_ends_bom_and_blank_tail(tmp_path):
    path = tmp_path / "tiny.inter"
    path.write_bytes(
        b"\xef\xbb\xbf" + HEADER.replace("\n", "\r\n").encode() + b"u\ti\t1\r\nu\tj\t2\r\n\r\n\n"
    )
    assert read_inter(path).rows() == [("u", "i", 1), ("u", "j", 2)]


def test_inter_round_trip_with_own_field_names_and_extra_columns(tmp_path):
    frame = pl.DataFrame(
        {
            "user": ["u1", '"u2', "NA"],
            "item": ["i1", "i2", "i,3"],
            "time": [1362061201, 2**24 + 1, 7],
            "rating": [1.5, None, 3.0],
            "device": ["phone", None, "web"],
        }
    )
    path = tmp_path / "new" / "tiny.inter"
    write_inter(path, frame, "u", "i", "t")
    assert read_header(path) == {
        "u": "token",
        "i": "token",
        "t": "float",
        "rating": "float",
        "device": "token",
    }
    assert read_inter(path, "u", "i", "t").equals(frame.select("user", "item", "time"))
    assert b"NA\ti,3\t7\t3.0\tweb\n" in path.read_bytes()


def test_line_checks_across_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(line_blocks, "BLOCK_BYTES", 8)
    good = "".join(f"us\u00e9r{n}\titem{n}\t{n}\n" for n in range(20))
    assert read_inter(inter_file(tmp_path, good)).height == 20
    assert read_inter(inter_file(tmp_path, good + "\n\n\n\n\n\n\n\n\n\n\n\n")).height == 20
    assert "line 22: 2 fields" in message(read_inter, inter_file(tmp_path, good + "u\ti\n" + good))
    bad_bytes = good.encode() + b"u\ti\xe9\t3\n" + good.encode()
    assert "line 22: byte 4 of the line (0xe9)" in message(
        read_inter, inter_file(tmp_path, bad_bytes)
    )
    assert "line 22: the line is empty" in message(
        read_inter, inter_file(tmp_path, good + "\n\n" + good)
    )


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        ("u\ti\t1\nu\tj\n", ["line 3", "2 fields", "names 3", "tab"]),
        ("u\ti\t1\t2\n", ["line 2", "4 fields", "names 3"]),
        ("u\ti\t1\n\nu\ti\t2\n", ["line 3", "empty", "Delete"]),
        ("u\ti\t1\n\ti\t2\n", ["line 3", 'user field "user_id" is empty', "delete the line"]),
        ("u\ti\t1\nu\t\t2\n", ["line 3", 'item field "item_id" is empty']),
        ("u\ti\t1\nu\ti\t2013-02-01\n", ["line 3", '"timestamp"', "'2013-02-01'", "number"]),
        ("u\ti\t1\nu\ti\t\n", ["line 3", '"timestamp"', "''"]),
        ("u\ti\tnan\n", ["line 2", "'nan'"]),
        ("u\ti\tinf\n", ["line 2", "'inf'"]),
        ("u\ti\tx\n\ti\t1\n", ["line 2", "'x'"]),
        ("", ["not one interaction"]),
        (b"u\ti\t1\nu\t\xff\t1\n", ["line 3", "0xff", "UTF-8"]),
        (b"u\ti\t1\nu\tj\0\t1\n", ["line 3", "NUL"]),
    ],
)
def test_bad_inter_lines_are_named(tmp_path, body, parts):
    path = inter_file(tmp_path, body)
    text = message(read_inter, path)
    for part in [str(path), *parts]:
        assert part in text


def test_a_line_without_end_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(line_blocks, "BLOCK_BYTES", 8)
    monkeypatch.setattr(line_blocks, "LONGEST_LINE", 50)
    path = inter_file(tmp_path, "u\ti\t1\nu\t" + "j" * 100 + "\t2\n")
    assert "line 3: the line is longer than" in message(read_inter, path)


@pytest.mark.parametrize(
    ("header", "parts"),
    [
        ("", ["line 1", "header is missing"]),
        ("user_id\titem_id\ttimestamp\n", ["line 1", '"user_id" has no type', "user_id:TYPE"]),
        ("user_id:token,item_id:token,t:float\n", ["has no tab", "convert folder"]),
        ("user_id,item_id\n", ["has no tab", "tabs, not by commas"]),
        ("user_id:tokn\titem_id:token\n", ['unknown type "tokn"', 'Did you mean "token"?']),
        ("user_id:token\titem:token\ttimestamp:float\n", ['item field "item_id"', "ITEM_ID_FIELD"]),
        ("user_id:token\titem_id:token\n", ['time field "timestamp" is missing', "TIME_FIELD"]),
        ("user_id:token\titem_id:token\ttimestamps:float\n", ['Did you mean "timestamps"?']),
        ("user_id:token\titem_id:token\ttimestamp:token\n", ['"timestamp:float"']),
        ("user_id:float\titem_id:token\ttimestamp:float\n", ['"user_id:token"']),
        ("user_id:token\tuser_id:token\ttimestamp:float\n", ["stands twice"]),
    ],
)
def test_bad_headers_are_named(tmp_path, header, parts):
    path = inter_file(tmp_path, "u\ti\t1\n" if header else "", header)
    text = message(read_inter, path)
    for part in [str(path), *parts]:
        assert part in text


def test_missing_files_say_what_is_there(tmp_path):
    inter_file(tmp_path, "u\ti\t1\n")
    text = message(read_inter, tmp_path / "tinny.inter")
    assert 'Did you mean "tiny.inter"?' in text
    assert "holds tiny.inter" in text
    assert "nor is its folder" in message(read_inter, tmp_path / "nowhere" / "x.inter")
    assert "is a folder" in message(read_inter, tmp_path)


@pytest.mark.parametrize(
    ("frame", "part"),
    [
        ({"user": ["a\tb"], "item": ["i"], "time": [1]}, "tab or a line break"),
        ({"user": ["a"], "item": ["i\n"], "time": [1]}, "tab or a line break"),
        ({"user": ["a", ""], "item": ["i", "j"], "time": [1, 2]}, '"user_id" is empty in row 2'),
        ({"user": ["a", "b"], "item": ["i", None], "time": [1, 2]}, '"item_id" is empty in row 2'),
        ({"user": ["a"], "item": ["i"], "time": [None]}, '"timestamp"'),
        ({"user": ["a"], "item": ["i"], "time": [float("nan")]}, "is not a number"),
        ({"user": ["a"], "item": ["i"]}, "without the columns time"),
    ],
)
def test_inter_that_cannot_be_written_leaves_nothing(tmp_path, frame, part):
    assert part in message(write_inter, tmp_path / "x.inter", pl.DataFrame(frame))
    assert list(tmp_path.iterdir()) == []


# --- .content -----------------------------------------------------------------------------------


def test_content_round_trip_of_awkward_texts(tmp_path):
    tokens = [f"i{n}" for n in range(len(AWKWARD_TEXTS))]
    tokens[0] = '"NA'
    images = [None if n % 2 else f"images/i{n}.jpg" for n in range(len(tokens))]
    table = ContentTable(
        fields={"title": "text", "cover": "image", "width": "float", "shop": "token"},
        tokens=tokens,
        columns={
            "title": AWKWARD_TEXTS,
            "cover": images,
            "width": ["1.5", *[None] * (len(tokens) - 1)],
            "shop": ["\\n is no escape here ", *[" s"] * (len(tokens) - 1)],
        },
    )
    path = tmp_path / "tiny.content"
    write_content(path, table)
    assert path.read_bytes().count(b"\n") == len(tokens) + 1
    back = read_content(path)
    assert back == table
    assert back.text_fields == ["title"]
    assert back.image_fields == ["cover"]
    assert len(back) == len(tokens)


def test_empty_text_reads_as_missing(tmp_path):
    table = ContentTable({"title": "text"}, ["a", "b"], {"title": ["", None]})
    write_content(tmp_path / "x.content", table)
    assert read_content(tmp_path / "x.content").columns["title"] == [None, None]


def test_content_item_column_may_stand_anywhere(tmp_path):
    path = content_file(tmp_path, "A\tsku1\r\nB\tsku2\r\n", "title:text\tsku:token\r\n")
    table = read_content(path, item_field="sku")
    assert table.tokens == ["sku1", "sku2"]
    assert table.columns == {"title": ["A", "B"]}


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        ("i1\tA\ni2\tB\ni1\tC\n", ["line 4", 'item "i1"', "line 2", "one line per item"]),
        ("i1\tA\tB\n", ["line 2", "3 fields", "names 2", "inside a text"]),
        ("i1\n", ["line 2", "1 field,"]),
        ("\tA\n", ["line 2", 'item field "item_id" is empty']),
        ("i1\tC:\\games\n", ["line 2", '"title"', "unknown escape", "\\g", "two backslashes"]),
        ("i1\tends with \\\n", ["line 2", '"title"', "two backslashes"]),
        (b"i1\tA\ni2\tcaf\xe9\n", ["line 3", "byte 7", "0xe9", "UTF-8"]),
        ("i1\tA\n\ni2\tB\n", ["line 3", "empty"]),
    ],
)
def test_bad_content_lines_are_named(tmp_path, body, parts):
    path = content_file(tmp_path, body)
    text = message(read_content, path)
    for part in [str(path), *parts]:
        assert part in text


@pytest.mark.parametrize("number", ["wide", "nan", "1_0", "1,5"])
def test_content_float_must_be_a_number(tmp_path, number):
    path = content_file(tmp_path, f"i1\t{number}\n", "item_id:token\twidth:float\n")
    text = message(read_content, path)
    assert "line 2" in text
    assert '"width"' in text
    assert f'"{number}"' in text


def test_content_header_types(tmp_path):
    path = content_file(tmp_path, "i1\tA\n", "item_id:token\tcover:img\n")
    text = message(read_content, path)
    assert 'unknown type "img"' in text
    assert "image" in text
    path = content_file(tmp_path, "i1\tA\n", "id:token\ttitle:text\n")
    text = message(read_content, path)
    assert 'item field "item_id" is missing' in text
    assert "ITEM_ID_FIELD" in text


@pytest.mark.parametrize(
    ("table", "part"),
    [
        (ContentTable({"a": "text"}, ["i", "i"], {"a": ["x", "y"]}), "stands twice"),
        (ContentTable({"a": "text"}, ["i", ""], {"a": ["x", "y"]}), "is empty"),
        (ContentTable({"a": "text"}, ["i"], {"a": ["x", "y"]}), "2 values for 1 items"),
        (ContentTable({"a": "image"}, ["i"], {"a": ["x\ty"]}), "only text fields"),
        (ContentTable({"a": "float"}, ["i"], {"a": ["x"]}), "not a finite number"),
        (ContentTable({"a": "pic"}, ["i"], {"a": ["x"]}), "unknown type"),
        (ContentTable({"a": "text"}, ["i"], {"a": ["\ud800"]}), "UTF-8"),
    ],
)
def test_content_that_cannot_be_written_leaves_nothing(tmp_path, table, part):
    assert part in message(write_content, tmp_path / "x.content", table)
    assert list(tmp_path.iterdir()) == []
