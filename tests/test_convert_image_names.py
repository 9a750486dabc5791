"""Which image belongs to which item: by path, by name, or to none."""

from __future__ import annotations

import io
import json

import pytest
import yaml
from folder_world import (
    INTERACTIONS,
    ITEMS,
    convert_folder,
    make_source,
    save_image,
    write,
)
from PIL import Image

from recbole_morec.data.atomic import (
    read_content,
)


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
