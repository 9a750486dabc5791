"""Times as they come: numbers, dates, units, and rows without any."""

from __future__ import annotations

import polars as pl
import pytest
from folder_world import (
    convert_folder,
    failure,
    make_source,
    write,
)

from recbole_morec.convert._times import TimeColumn
from recbole_morec.data.event_log import is_missing
from recbole_morec.data.inter import read_inter
from recbole_morec.errors import DataError


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
