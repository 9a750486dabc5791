"""The official MIND release: first history, then clicks in time order."""

from __future__ import annotations

import pytest
from source_runs import failure, runner

from recbole_morec.data import line_blocks


@pytest.fixture
def run(tmp_path):
    return runner(tmp_path)


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
