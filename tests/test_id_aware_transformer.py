"""ODMT's item transformer: its short cuts change nothing, and v1 keeps the ID to itself."""

from __future__ import annotations

import pytest
import torch

from recbole_morec.item_encoders.id_aware_transformer import BRANCHES, IdAwareTransformer

N, WORDS, PATCHES = 37, 9, 5
WIDTHS = {"id": 3, "text": 6, "image": 7}


def transformer(**options) -> IdAwareTransformer:
    torch.manual_seed(0)
    return IdAwareTransformer(8, WIDTHS, **options).double()


@pytest.fixture
def tokens():
    torch.manual_seed(1)
    length = torch.randint(1, WORDS + 1, (N, 1))
    return {
        "ids": torch.randn(N, 3).double(),
        "text": torch.randn(N, WORDS, 6).double(),
        "text_mask": torch.arange(WORDS)[None, :] < length,
        "image": torch.randn(N, PATCHES, 7).double(),
    }


@pytest.mark.parametrize("version", ["v1", "full"])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_short_cuts_equal_every_token_of_every_block(tokens, version, layers):
    model = transformer(version=version, layers=layers, dropout=0.0)
    weights = torch.randn(N, 3, 8).double()
    found = []
    for plain in (True, False):
        model.plain = plain
        model.zero_grad()
        read = model(**tokens)
        (read * weights).sum().backward()
        found.append((read, [p.grad.clone() for p in model.parameters()]))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-10, atol=1e-10)
    for ours, theirs in zip(found[1][1], found[0][1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_text_and_image_do_not_read_the_id_under_v1(tokens):
    other = {**tokens, "ids": torch.randn(N, 3).double()}
    for version, blind in (("v1", True), ("full", False)):
        model = transformer(version=version).eval()
        changed = (model(**tokens) - model(**other)).abs().amax((0, 2))  # by branch
        assert changed[0] > 1e-3
        assert (bool((changed[1:] == 0).all())) == blind


def test_every_real_token_is_read_and_padding_is_not(tokens):
    model = transformer().eval()
    before = model(**tokens)
    padded = ~tokens["text_mask"]
    text = tokens["text"] + padded[..., None] * 5.0
    torch.testing.assert_close(model(**{**tokens, "text": text}), before)
    for key, place in (("text", 0), ("image", PATCHES - 1)):
        moved = tokens[key].clone()
        moved[:, place] += 1.0
        assert ((model(**{**tokens, key: moved}) - before).abs().amax(2) > 1e-6).all()


def test_branches_choose_what_is_given(tokens):
    full, some = transformer(), transformer(branches=("id", "image"))
    some.load_state_dict(full.state_dict())
    torch.testing.assert_close(some.eval()(**tokens), full.eval()(**tokens)[:, [0, 2]])
    assert BRANCHES == ("id", "text", "image")


def test_no_items_give_no_vectors(tokens):
    empty = {key: value[:0] for key, value in tokens.items()}
    assert transformer()(**empty).shape == (0, 3, 8)
