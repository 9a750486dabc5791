"""Texts of like length are encoded together: the same vectors and gradients, fewer tokens."""

import pytest
import torch
from item_encoder_world import build, make_dataset
from transformers import FNetConfig, LongformerConfig

from recbole_morec.item_encoders.text_buckets import FEWEST, length_buckets

LENGTHS = [3] * 20 + [4, 9, 30] * 7 + [8] * 4


def mask_of(lengths):
    width = max(lengths)
    return torch.arange(width) < torch.tensor(lengths)[:, None]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def shop(tmp_path):
    return make_dataset(tmp_path)


def texts(encoder, lengths=LENGTHS):
    mask = mask_of(lengths)
    ids = torch.randint(5, len(encoder.needs[0].tokenizer), mask.shape)
    ids[:, 0] = encoder.needs[0].tokenizer.cls_token_id
    return {"text_ids": ids * mask, "text_mask": mask}


def test_buckets_hold_every_text_once_and_little_padding():
    buckets = length_buckets(mask_of(LENGTHS))
    rows = torch.cat([rows for rows, _ in buckets])
    assert sorted(rows.tolist()) == list(range(len(LENGTHS)))
    assert [width for _, width in buckets] == [8, 30]  # up to 8 tokens; the few of 9 join the 30
    assert all(LENGTHS[row] <= width for rows, width in buckets for row in rows.tolist())
    assert all(len(rows) >= FEWEST - 2 for rows, _ in buckets)


@pytest.mark.parametrize("lengths", [[12] * 40, [3] * 15 + [30] * 3, [30] * 100 + [3] * 3])
def test_texts_are_not_cut_up_for_little(lengths):
    assert len(length_buckets(mask_of(lengths))) == 1


def test_an_empty_text_and_padding_on_the_left_keep_their_tokens():
    empty = torch.zeros(60, 20, dtype=torch.bool)
    empty[:20] = True
    assert [width for _, width in length_buckets(empty)] == [1, 20]
    left = mask_of([2] * 30 + [20] * 30).flip(1)
    assert len(length_buckets(left)) == 1


@pytest.mark.parametrize("pooling", ["cls", "masked_mean", "project_mean"])
def test_vectors_and_gradients_are_those_of_padded_texts(shop, pooling):
    results = []
    for buckets in (True, False):
        torch.manual_seed(0)
        encoder = build(
            shop, "tiny_bert", pooling=pooling, encoder_dropout=0.0, text_buckets=buckets
        ).double()
        seen = []
        encoder.backbone.register_forward_pre_hook(
            lambda module, args, kwargs, seen=seen: seen.append(kwargs["input_ids"].numel()),
            with_kwargs=True,
        )
        content = texts(encoder)
        vectors = encoder(content)
        vectors.square().sum().backward()
        gradients = {n: p.grad for n, p in encoder.named_parameters() if p.grad is not None}
        results.append((vectors, gradients, sum(seen), len(seen)))
    (vectors, gradients, tokens, calls), (plain, others, all_tokens, _) = results
    torch.testing.assert_close(vectors, plain)
    assert gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, others[name], msg=name)
    assert calls == 2
    assert tokens < 0.6 * all_tokens


def test_a_model_that_reads_its_padding_is_left_alone(shop, tmp_path):
    """FNet mixes all places of a text, padding too: its vectors depend on the width."""
    FNetConfig(
        hidden_size=16, num_hidden_layers=1, intermediate_size=16, vocab_size=200
    ).save_pretrained(tmp_path / "fnet")
    tokenizer = build(shop, "tiny_bert").needs[0].tokenizer
    tokenizer.save_pretrained(tmp_path / "fnet")
    encoder = build(shop, str(tmp_path / "fnet"), pretrained=False, max_text_length=30).eval()
    content = texts(encoder)
    assert len(length_buckets(content["text_mask"])) == 2
    whole = encoder(content)
    encoder._by_length = False
    assert torch.equal(whole, encoder(content))
    forced = build(
        shop, str(tmp_path / "fnet"), pretrained=False, max_text_length=30, text_buckets=True
    ).eval()
    forced.load_state_dict(encoder.state_dict())
    assert not torch.allclose(forced(content), whole, atol=1e-3)


def test_nothing_is_stored_of_it(shop, tmp_path):
    """Its states would be those of the tile of texts with which they were made."""
    from recbole_morec.item_encoders.prefix import NoPrefix
    from recbole_morec.item_encoders.stored import plan

    FNetConfig(
        hidden_size=16, num_hidden_layers=2, intermediate_size=16, vocab_size=200
    ).save_pretrained(tmp_path / "fnet")
    build(shop, "tiny_bert").needs[0].tokenizer.save_pretrained(tmp_path / "fnet")
    for layers in ("last_1", "none"):
        encoder = build(shop, str(tmp_path / "fnet"), pretrained=False, train_layers=layers)
        with pytest.raises(NoPrefix, match="padded"):
            plan(encoder)


def test_nothing_is_stored_of_a_model_that_lengthens_its_texts(shop, tmp_path):
    """Longformer fills texts up to whole windows: its states are not those of the tokens."""
    from recbole_morec.item_encoders.prefix import NoPrefix
    from recbole_morec.item_encoders.stored import plan

    LongformerConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        attention_window=8, vocab_size=200, max_position_embeddings=64,
    ).save_pretrained(tmp_path / "longformer")  # fmt: skip
    build(shop, "tiny_bert").needs[0].tokenizer.save_pretrained(tmp_path / "longformer")
    encoder = build(shop, str(tmp_path / "longformer"), pretrained=False, train_layers="last_1")
    with pytest.raises(NoPrefix, match="lengthens"):
        plan(encoder)


def test_stored_states_are_cut_with_their_texts(shop):
    encoder = build(shop, "tiny_bert", train_layers="last_1", encoder_dropout=0.0).eval()
    from recbole_morec.item_encoders.prefix import Prefix

    encoder.prefix = Prefix(encoder)
    content = texts(encoder)
    with torch.no_grad():
        states = encoder.prefix.states(content)
        vectors = encoder({**content, encoder.states_key: states})
        encoder._by_length = False
        torch.testing.assert_close(vectors, encoder(content))
