"""Amazon Reviews 2018 and 2023: JSON lines, plain or gzipped, and what is broken in them."""

from __future__ import annotations

import gzip
import json

import pytest
from source_runs import META_2018, REVIEWS_2018, failure, lines, runner

from recbole_morec.convert._json_lines import JsonRows
from recbole_morec.errors import DataError


@pytest.fixture
def run(tmp_path):
    return runner(tmp_path)


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
