"""Published data sets in their published layouts: order, counts, texts, times, and what is broken.

All files here are invented; only their layouts are those of the data sets. Where a layout is known
from is said in the module of each source.
"""

from __future__ import annotations

import argparse
import json

import pytest
from source_runs import FOOD_ITEM, FOOD_PAIR, META_2018, QB, REVIEWS_2018, failure, put, runner

from recbole_morec import convert
from recbole_morec.convert import SOURCES, _pipeline, amazon, microlens, ninerec, pixelrec
from recbole_morec.convert._behaviours import BehaviourRows
from recbole_morec.convert._first_cell import FirstCellRows
from recbole_morec.convert._source import Counts, Options
from recbole_morec.convert.report import print_report
from recbole_morec.data import line_blocks
from recbole_morec.data.inter import read_inter
from recbole_morec.errors import ConfigError, DataError


@pytest.fixture
def run(tmp_path):
    return runner(tmp_path)


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
