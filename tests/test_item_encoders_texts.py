"""Several text fields of an item, each encoded on its own: from the content file to the vector."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from item_encoder_world import build, make_dataset

from recbole_morec.data.atomic import ContentTable
from recbole_morec.data.content import open_content
from recbole_morec.errors import ConfigError
from recbole_morec.models.every_slot import one_row_per_slot

CONFIG = {
    "image_field": None,
    "missing_content": "error",
    "show_progress": False,
    "text_store": True,
}


@pytest.fixture
def shop(tmp_path):
    """Three items with a title and a colour; item 2 has no colour, item 3 has neither."""
    dataset = make_dataset(tmp_path)
    columns = {"title": ["a shirt", "a dress shoe", None], "colour": ["red", None, " "]}
    fields = {"title": "text", "colour": "text"}
    dataset.content = ContentTable(fields, ["i7", "i2", "i5"], columns)
    dataset.content_rows = np.array([-1, 0, 1, 2])
    return dataset


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def encoder_of(shop, **settings):
    return build(shop, "tiny_bert", text_fields_as="averaged", **settings).eval()


def test_fields_are_tokenised_apart(shop, caplog):
    encoder = encoder_of(shop)
    with caplog.at_level(logging.INFO):
        reader = open_content(shop, encoder.needs, CONFIG)
    assert "(title, colour, each on its own): 3 items, 0 cut at 30 tokens, 1 empty (i5)" in (
        caplog.text
    )
    content = reader.fetch(np.array([2, 1]))
    assert content["text_ids"].tolist() == [
        [[2, 4, 9, 10, 3], [2, 3, 0, 0, 0]],  # [CLS] a dress shoe [SEP]; [CLS] [SEP]
        [[2, 4, 8, 3, 0], [2, 5, 3, 0, 0]],
    ]
    assert content["text_mask"].sum(2).tolist() == [[5, 2], [4, 3]]
    assert reader.identity(np.array([1])) != reader.identity(np.array([2]))
    again = open_content(shop, encoder.needs, CONFIG).fetch(np.array([2, 1]))
    assert torch.equal(again["text_ids"], content["text_ids"])
    stores = list((shop.folder / "prepared").glob("texts-*/"))
    assert len(stores) == 1  # one store for all fields


def test_texts_in_memory_are_those_of_the_store(shop):
    encoder = encoder_of(shop, text_fields=["colour", "title"])
    read = [
        open_content(shop, encoder.needs, {**CONFIG, "text_store": store}).fetch(np.array([1, 3]))
        for store in (True, False)
    ]
    assert read[0]["text_ids"].tolist() == [
        [[2, 5, 3, 0], [2, 4, 8, 3]],
        [[2, 3, 0, 0], [2, 3, 0, 0]],
    ]
    assert all(torch.equal(read[0][key], read[1][key]) for key in read[0])


@pytest.mark.parametrize("pooling", ["cls", "masked_mean", "project_mean"])
def test_an_item_is_the_mean_of_its_fields(shop, pooling):
    encoder = encoder_of(shop, pooling=pooling, activation="gelu")
    content = open_content(shop, encoder.needs, CONFIG).fetch(np.array([1, 2]))
    ids, mask = content["text_ids"], content["text_mask"]
    fields = [
        encoder({"text_ids": ids[:, f], "text_mask": mask[:, f]}) for f in range(ids.shape[1])
    ]
    torch.testing.assert_close(encoder(content), (fields[0] + fields[1]) / 2)
    joined = build(shop, "tiny_bert", pooling=pooling, activation="gelu").eval()
    joined.load_state_dict(encoder.state_dict())
    text = open_content(shop, joined.needs, CONFIG).fetch(np.array([1, 2]))
    assert text["text_ids"].tolist() == [[2, 4, 8, 5, 3], [2, 4, 9, 10, 3]]
    assert not torch.allclose(joined(text), encoder(content))


def test_tokens_of_all_fields(shop):
    encoder = encoder_of(shop)
    content = open_content(shop, encoder.needs, CONFIG).fetch(np.array([1, 2]))
    states, mask = encoder.tokens(content)
    assert states.shape == (2, 10, 128)
    assert mask.tolist() == content["text_mask"].flatten(1).tolist()
    first = encoder.tokens({k: content[k][:, 0] for k in ("text_ids", "text_mask")})[0]
    torch.testing.assert_close(states[:, :5], first)


def test_one_row_of_padding_stands_for_every_field(shop):
    encoder = encoder_of(shop)
    content = open_content(shop, encoder.needs, CONFIG).fetch(np.array([1, 2]))
    batch = {
        "content": content,
        "item_index": torch.tensor([[0, 2, 1]]),
        "mask": torch.tensor([[False, True, True]]),
        "log_popularity": torch.zeros(2),
        "slot_count": torch.ones(2),
    }
    made = one_row_per_slot(batch, encoder)["content"]
    assert made["text_ids"].shape == (3, 2, 30)  # a row of padding has max_text_length tokens
    vectors = encoder({key: made[key] for key in ("text_ids", "text_mask")})
    expected = encoder(content)
    torch.testing.assert_close(vectors[1], expected[1])
    torch.testing.assert_close(vectors[2], expected[0])
    assert made["text_mask"][0].sum() == 0


def test_members_must_agree_on_it(shop):
    needs = [build(shop, "tiny_bert").needs[0], encoder_of(shop).needs[0]]
    with pytest.raises(ConfigError, match=r"different tokens.*text_fields_as"):
        open_content(SimpleNamespace(**vars(shop)), needs, CONFIG)
