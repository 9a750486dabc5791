"""Item content: pixels and tokens come out as they went in; every bad item is named."""

from __future__ import annotations

import logging
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from image_files import BLUE, GREEN, RED, close, noise_jpeg, save
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from recbole_morec.data.atomic import ContentTable
from recbole_morec.data.content import ContentReader, ImageFolderReader, TextReader, open_content
from recbole_morec.data.content.images import BadImageError, verify_image
from recbole_morec.data.content.texts import join_fields
from recbole_morec.errors import ConfigError, DataError
from recbole_morec.item_encoders.base import ImageNeed, TextNeed

# --- image reader -------------------------------------------------------------------------------


@pytest.fixture
def covers(tmp_path):
    """Folder with items 1 red, 2 green, 3 blue; item 4 has no image."""
    for name, colour in [("a", RED), ("b", GREEN), ("c", BLUE)]:
        save(Image.new("RGB", (12, 16), colour), tmp_path / "images" / f"{name}.png")
    return tmp_path


PATHS = [None, "images/a.png", "images/b.png", "images/c.png", None]
TOKENS = ["[PAD]", "a", "b", "c", "d"]


def images(folder, paths=PATHS, **options):
    return ImageFolderReader(folder, paths, 8, tokens=TOKENS, **options)


def test_fetch_follows_the_order_and_repeats(covers):
    reader = images(covers)
    pixels = reader.fetch(np.array([3, 1, 3, 0, 4]))
    assert pixels.shape == (5, 3, 8, 8)
    assert pixels.dtype == np.uint8
    colours = [BLUE, RED, BLUE, (128,) * 3, (128,) * 3]
    for picture, colour in zip(pixels, colours, strict=True):
        assert close(picture[:, 4, 4], colour)
    assert reader.fetch(np.zeros(0, dtype=np.int64)).shape == (0, 3, 8, 8)


def test_preload_gives_the_same_as_decoding_on_demand(covers):
    plain, cached = images(covers), images(covers, cache_bytes=5 * 3 * 8 * 8)
    items = np.array([2, 0, 1, 4, 2])
    assert cached.preload()
    assert cached.cached
    assert not plain.preload()
    assert not plain.cached
    np.testing.assert_array_equal(plain.fetch(items), cached.fetch(items))
    (covers / "images" / "b.png").unlink()
    cached.fetch(items)  # nothing is read any more
    with pytest.raises(DataError, match="does not exist"):
        plain.fetch(items)


def test_a_cache_one_byte_too_small_is_not_filled(covers):
    assert not images(covers, cache_bytes=5 * 3 * 8 * 8 - 1).preload()


def test_missing_files_are_counted_and_listed(covers):
    paths = [None, *[f"images/gone{n}.png" for n in range(7)], "images/a.png"]
    reader = ImageFolderReader(covers, paths, 8, tokens=["[PAD]", *[f"sku{n}" for n in range(8)]])
    with pytest.raises(DataError) as caught:
        reader.check()
    text = str(caught.value)
    assert text.startswith("7 images")
    assert '"sku0": images/gone0.png: the file does not exist' in text
    assert "sku4" in text
    assert "sku5" not in text
    assert "and 2 more" in text
    assert "bad_images: blank" in text


def test_all_bad_images_are_reported_at_once(covers, caplog):
    (covers / "images" / "a.png").write_bytes(b"")
    (covers / "images" / "c.png").write_bytes(noise_jpeg()[:700])
    reader = images(covers, cache_bytes=10**6)
    reader.check()
    with pytest.raises(DataError) as caught:
        reader.preload()
    text = str(caught.value)
    assert text.startswith("2 images")
    assert 'item "a": images/a.png: the file is empty (zero bytes)' in text
    assert 'item "c": images/c.png: truncated' in text
    with pytest.raises(DataError, match='item "a"'):
        images(covers).fetch(np.array([2, 1]))

    reader = images(covers, bad_images="blank", cache_bytes=10**6)
    reader.check()
    with caplog.at_level(logging.WARNING):
        assert reader.preload()
    assert [(bad.item, bad.path) for bad in reader.bad] == [
        ("a", "images/a.png"),
        ("c", "images/c.png"),
    ]
    assert "truncated" in reader.bad[1].reason
    pixels = reader.fetch(np.array([1, 2]))
    assert (pixels[0] == 128).all()
    assert close(pixels[1, :, 4, 4], GREEN)
    assert "2 images" in caplog.text


def test_a_blanked_image_is_reported_once(covers, caplog):
    (covers / "images" / "a.png").unlink()
    reader = images(covers, bad_images="blank")
    with caplog.at_level(logging.WARNING):
        reader.check()
        reader.preload()
        for _ in range(3):
            reader.fetch(np.array([1]))
    assert len(reader.bad) == 1
    assert caplog.text.count("became grey") == 1


def test_damage_is_found_before_reading_and_workers_do_not_repeat_it(covers, caplog, capfd):
    (covers / "images" / "b.png").write_bytes(noise_jpeg()[:700])
    dataset, need = make_dataset(covers), [ImageNeed(8)]
    with pytest.raises(DataError, match=r'item "b": images/b\.png: truncated'):
        open_content(dataset, need, make_config(image_cache_gb=0)).prepare()
    with caplog.at_level(logging.WARNING):
        content = open_content(dataset, need, make_config(image_cache_gb=0, bad_images="blank"))
        intact = content.identity(np.array([1, 2]))
        content.prepare()
        content.prepare()
    assert content.identity(np.array([1, 2])) != intact
    assert caplog.text.count("became grey") == 1
    capfd.readouterr()  # what was said, where the command line has set up logging
    logging.getLogger("recbole_morec").addHandler(handler := logging.StreamHandler(sys.__stderr__))
    try:
        for _ in range(2):
            loader = DataLoader(
                [np.array([2]), np.array([1])], batch_size=None, num_workers=1,
                collate_fn=content.fetch, multiprocessing_context="fork",
            )  # fmt: skip
            grey, red = (batch["image"][0] for batch in loader)
            assert (grey == 128).all()
            assert close(red[:, 4, 4].numpy(), RED)
    finally:
        logging.getLogger("recbole_morec").removeHandler(handler)
    assert "became grey" not in capfd.readouterr().err


def test_verifying_refuses_only_what_decoding_refuses(covers):
    path = covers / "images" / "a.png"
    data = bytearray(path.read_bytes())
    end = data.index(b"IEND") - 5  # last byte of the check sum of the pixels
    data[end] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadImageError):
        verify_image(path)
    reader = images(covers)
    reader.verify()
    assert close(reader.fetch(np.array([1]))[0, :, 4, 4], RED)


def test_a_cover_that_is_a_folder_is_called_one(covers):
    paths = [None, "images", "images/gone.png"]
    with pytest.raises(DataError) as caught:
        images(covers, paths).check()
    assert 'item "a": images: this is a folder' in str(caught.value)
    assert "images/gone.png: the file does not exist" in str(caught.value)


def test_errors_cross_loader_workers(covers):
    (covers / "images" / "b.png").write_bytes(b"no image")
    content = ContentReader([images(covers)])
    loader = DataLoader(
        [np.array([1]), np.array([2])], batch_size=None, num_workers=1, collate_fn=content.fetch,
        multiprocessing_context="fork",
    )  # fmt: skip
    with pytest.raises(DataError, match=r"images/b\.png"):
        list(loader)


def test_unknown_modes_are_config_errors(covers):
    with pytest.raises(ConfigError) as caught:
        ImageFolderReader(covers, PATHS, 8, resize="squish", bad_images="blnk")
    assert 'Did you mean "squash"?' in str(caught.value)
    assert 'Did you mean "blank"?' in str(caught.value)


# --- texts --------------------------------------------------------------------------------------


def make_tokenizer(special: bool = True, pad: bool = True) -> PreTrainedTokenizerFast:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefgh"]
    model = models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if special:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    if pad:
        names["pad_token"] = "[PAD]"
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def test_texts_are_packed_padded_cut_and_counted():
    reader = TextReader(make_tokenizer(), [None, "a b", None, "c d e f g", "", "h", "\t"], 5)
    assert (reader.truncated, reader.empty) == (1, 3)
    ids, mask = reader.fetch(np.array([3, 1, 2]))
    assert ids.dtype == np.int64
    assert mask.dtype == bool
    assert ids.tolist() == [[2, 6, 7, 8, 3], [2, 4, 5, 3, 0], [2, 3, 0, 0, 0]]
    assert mask.sum(1).tolist() == [5, 4, 2]
    ids, mask = reader.fetch(np.array([5, 5]))
    assert ids.tolist() == [[2, 11, 3]] * 2  # as wide as the widest of the batch, not of all
    assert mask.all()
    assert reader.fetch(np.array([4]))[0].tolist() == [[2, 3]]
    assert reader.fetch(np.zeros(0, dtype=np.int64))[0].shape == (0, 1)
    assert len(reader) == 7


def test_exactly_max_length_is_not_cut():
    reader = TextReader(make_tokenizer(), [None, "a b c"], 5)
    assert reader.truncated == 0
    assert reader.fetch(np.array([1]))[0].tolist() == [[2, 4, 5, 6, 3]]


def test_tokenizers_without_special_or_padding_tokens_still_give_a_token():
    reader = TextReader(make_tokenizer(special=False, pad=False), [None, "", "a b"], 5)
    assert reader.pad_id == 0
    ids, mask = reader.fetch(np.array([1, 2]))
    assert ids.tolist() == [[2, 0], [4, 5]]
    assert mask.tolist() == [[True, False], [True, True]]
    assert reader.empty == 1


def test_many_texts_equal_one_by_one():
    rng = np.random.default_rng(0)
    texts = [None] + [
        " ".join(rng.choice(list("abcdefgh"), rng.integers(0, 9))) for _ in range(3000)
    ]
    tokenizer = make_tokenizer()
    reader = TextReader(tokenizer, texts, 6)
    for item in [1, 1023, 1024, 1025, 2047, 2048, 3000]:
        alone = tokenizer(texts[item], truncation=True, max_length=6)["input_ids"]
        assert reader.fetch(np.array([item]))[0].tolist() == [alone]


def test_text_settings_that_cannot_work():
    with pytest.raises(ConfigError, match="at least 3"):
        TextReader(make_tokenizer(), [None, "a"], 2)
    with pytest.raises(ConfigError, match="not a fast tokenizer"):
        TextReader(object(), [None, "a"], 5)


def test_join_fields_skips_what_is_missing():
    titles, tags = ["a", None, "c", None, " "], ["x", "y", None, None, ""]
    assert join_fields([titles, tags], " | ") == ["a | x", "y", "c", None, None]
    assert join_fields([tags, titles]) == ["x a", "y", "c", None, None]


# --- open_content -------------------------------------------------------------------------------


def make_dataset(folder, rows=(-1, 0, 1, 2), tokens=TOKENS[:4], **changes):
    fields = {"title": "text", "brand": "token", "tags": "text", "cover": "image", "w": "float"}
    columns = {
        "title": ["a", "b", None],
        "brand": ["h", "h", "h"],
        "tags": ["c", None, None],
        "cover": PATHS[1:4],
        "w": [None, None, None],
    }
    columns.update(changes)
    table = ContentTable(fields, ["a", "b", "c"], columns)
    return SimpleNamespace(
        folder=folder,
        content=table,
        content_rows=np.array(rows),
        item_tokens=np.array(tokens, dtype=object),
    )


def make_config(**changes):
    config = {
        "image_field": None,
        "bad_images": "error",
        "image_cache_gb": 1,
        "missing_content": "error",
        "text_store": False,
        "show_progress": False,
    }
    return {**config, **changes}


def test_content_follows_internal_ids_not_file_rows(covers):
    dataset = make_dataset(covers, rows=(-1, 2, 0, 1), tokens=["[PAD]", "c", "a", "b"])
    needs = [ImageNeed(8), TextNeed(make_tokenizer(), (), 8)]
    content = open_content(dataset, needs, make_config()).fetch(np.array([2, 1]))
    assert list(content) == ["items", "image", "text_ids", "text_mask"]
    assert content["items"].tolist() == [2, 1]
    assert content["image"].dtype == torch.uint8
    assert close(content["image"][0, :, 4, 4].numpy(), RED)
    assert close(content["image"][1, :, 4, 4].numpy(), BLUE)
    assert content["text_ids"].tolist() == [[2, 4, 6, 3], [2, 3, 0, 0]]  # title, then tags
    assert content["text_mask"].dtype == torch.bool


def test_text_fields_are_read_in_the_order_asked_for(covers):
    needs = [TextNeed(make_tokenizer(), ("tags", "brand", "title"), 8)]
    content = open_content(make_dataset(covers), needs, make_config()).fetch(np.array([1]))
    assert "image" not in content
    assert content["text_ids"].tolist() == [[2, 6, 11, 4, 3]]


def test_no_needs_read_nothing():
    class Untouchable:
        def __getattr__(self, name):
            raise AssertionError(name)

    content = open_content(Untouchable(), [], {}).fetch(np.array([3, 1]))
    assert list(content) == ["items"]
    assert content["items"].tolist() == [3, 1]


def test_wrong_fields_are_all_named(covers):
    needs = [ImageNeed(8), TextNeed(make_tokenizer(), ("titel", "cover"), 8)]
    with pytest.raises(ConfigError) as caught:
        open_content(make_dataset(covers), needs, make_config(image_field="covr"))
    text = str(caught.value)
    assert 'image_field: the content file has no field "covr". Did you mean "cover"?' in text
    assert 'text_fields: the content file has no field "titel". Did you mean "title"?' in text
    assert 'text_fields: the field "cover" has the type image' in text
    assert "title:text, brand:token, tags:text, cover:image, w:float" in text


def test_content_without_the_kind_of_field(covers):
    dataset = make_dataset(covers)
    dataset.content = ContentTable({"w": "float"}, ["a", "b", "c"], {"w": [None] * 3})
    with pytest.raises(ConfigError, match="no image field"):
        open_content(dataset, [ImageNeed(8)], make_config())
    with pytest.raises(ConfigError, match="no text field"):
        open_content(dataset, [TextNeed(make_tokenizer(), (), 8)], make_config())
    dataset.content = None
    with pytest.raises(DataError, match=r"no \.content file"):
        open_content(dataset, [ImageNeed(8)], make_config())


def test_missing_content_is_listed_or_blank(covers, caplog):
    dataset = make_dataset(
        covers, rows=(-1, 0, 1, 2, -1), tokens=TOKENS, cover=["images/a.png", None, "images/c.png"]
    )
    needs = [ImageNeed(8), TextNeed(make_tokenizer(), ("title",), 8)]
    with pytest.raises(DataError) as caught:
        open_content(dataset, needs, make_config())
    text = str(caught.value)
    assert "1 of 4 items have no row in the content file (d)" in text
    assert '1 of 4 items have an empty image field "cover" (b)' in text
    assert "missing_content: blank" in text
    with caplog.at_level(logging.INFO):
        reader = open_content(dataset, needs, make_config(missing_content="blank"))
    assert "(d)" in caplog.text
    assert "0 cut at 8 tokens, 2 empty (c, d)" in caplog.text
    content = reader.fetch(np.array([2, 4, 3]))
    assert (content["image"][:2] == 128).all()
    assert close(content["image"][2, :, 4, 4].numpy(), BLUE)
    assert content["text_mask"].sum(1).tolist() == [3, 2, 2]
    # Text alone: an empty cover is no concern.
    text_only = make_dataset(covers, cover=[None] * 3)
    open_content(text_only, needs[1:], make_config())


def test_a_dataset_without_any_text_is_no_food_for_a_text_encoder(covers):
    dataset = make_dataset(covers, title=[None, " ", ""])
    dataset.content_path = covers / "shop.content"
    need = TextNeed(make_tokenizer(), ("title",), 8)
    for policy in ("error", "blank"):
        with pytest.raises(DataError, match=r'shop\.content: all 3 items .*"title"'):
            open_content(dataset, [need], make_config(missing_content=policy))
    open_content(dataset, [TextNeed(make_tokenizer(), ("title", "tags"), 8)], make_config())


def test_missing_files_stop_the_start(covers):
    os.unlink(covers / "images" / "b.png")
    with pytest.raises(DataError, match=r'item "b": images/b\.png'):
        open_content(make_dataset(covers), [ImageNeed(8)], make_config(image_cache_gb=0))


def test_equal_needs_are_one_and_unequal_ones_an_error(covers):
    dataset = make_dataset(covers)
    twice = [TextNeed(make_tokenizer(), (), 8), TextNeed(make_tokenizer(), (), 8)]
    assert (
        len(open_content(dataset, [*twice, ImageNeed(8), ImageNeed(8)], make_config()).readers) == 2
    )
    with pytest.raises(ConfigError, match="different images"):
        open_content(dataset, [ImageNeed(8), ImageNeed(9)], make_config())
    other = TextNeed(make_tokenizer(special=False), (), 8)
    with pytest.raises(ConfigError, match="different tokens"):
        open_content(dataset, [twice[0], other], make_config())
