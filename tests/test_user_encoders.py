"""What holds for every registered user encoder, by what its states may read."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from recbole_morec.config import MoRecConfig
from recbole_morec.errors import ConfigError
from recbole_morec.user_encoders import USER_ENCODERS, History
from recbole_morec.user_encoders.gru4rec import GRU4Rec
from recbole_morec.user_encoders.srgnn import adjacency, session_nodes

D, LENGTH = 16, 6
BY_TARGETS = {
    kind: [n for n in USER_ENCODERS.names() if USER_ENCODERS.get(n).targets == kind]
    for kind in ("next", "each", "masked")
}
ORDER_BLIND = {"DSSM", "FM", "UserID"}


def build(name, users=5, items=LENGTH + 1, **overrides):
    overrides = {"user_encoder": name, "embedding_size": D, "item_encoder": "id", **overrides}
    config = MoRecConfig("PixelNet", "pixelrec", overrides=overrides)
    config["MAX_ITEM_LIST_LENGTH"] = LENGTH
    torch.manual_seed(0)
    dataset = SimpleNamespace(user_num=users, item_num=items)
    return USER_ENCODERS.get(name).from_config(config, dataset).eval()


def history(vectors, real, mode="train", hidden=None):
    length = vectors.shape[1]
    items = torch.arange(1, length + 1).repeat(len(vectors), 1) * real
    vectors = vectors * real[..., None]
    if hidden is not None:
        vectors = vectors * ~hidden[..., None]
        items = items * ~hidden
    user = torch.arange(len(vectors)) + 1
    newest = mode == "predict"
    return History(vectors, items, real, user, mode, newest_only=newest, hidden=hidden)


def rows(length=LENGTH):
    """Two rows, the second with three slots of padding."""
    real = torch.ones(2, length, dtype=torch.bool)
    real[1, :3] = False
    return torch.randn(2, length, D), real


@pytest.mark.parametrize("name", BY_TARGETS["next"])
def test_next_reads_no_later_item_but_every_earlier_one(name):
    encoder = build(name)
    vectors, real = rows()
    states = encoder(history(vectors, real))
    assert states.shape == (2, LENGTH, D)
    for slot in range(3, LENGTH):
        changed = vectors.clone()
        changed[:, slot] = torch.randn(2, D)
        others = encoder(history(changed, real))
        torch.testing.assert_close(others[:, 3:slot], states[:, 3:slot])
        assert not torch.allclose(others[:, slot], states[:, slot])
    for slot in range(LENGTH - 1):
        changed = vectors.clone()
        changed[:, slot] = torch.randn(2, D)
        assert not torch.allclose(encoder(history(changed, real))[0, -1], states[0, -1]), slot


@pytest.mark.parametrize("name", BY_TARGETS["each"])
def test_each_does_not_read_the_item_that_it_predicts(name):
    encoder = build(name, tower_layers=[D])
    vectors, real = rows(LENGTH + 1)
    states = encoder(history(vectors, real))
    assert states.shape == (2, LENGTH + 1, D)
    for slot in range(3, LENGTH + 1):
        changed = vectors.clone()
        changed[:, slot] = torch.randn(2, D)
        others = encoder(history(changed, real))
        torch.testing.assert_close(others[:, slot], states[:, slot])
        rest = [other for other in range(3, LENGTH + 1) if other != slot]
        reads = not torch.allclose(others[:, rest], states[:, rest])
        assert reads == (name != "UserID")


@pytest.mark.parametrize("name", BY_TARGETS["masked"])
def test_masked_reads_both_sides_and_no_hidden_item(name):
    encoder = build(name)
    vectors, real = rows(LENGTH + 1)
    hidden = torch.zeros_like(real)
    hidden[:, 4] = True
    states = encoder(history(vectors, real, hidden=hidden))
    changed = vectors.clone()
    changed[:, 4] = torch.randn(2, D)
    torch.testing.assert_close(encoder(history(changed, real, hidden=hidden)), states)
    for slot in (3, 5):
        changed = vectors.clone()
        changed[:, slot] = torch.randn(2, D)
        others = encoder(history(changed, real, hidden=hidden))
        assert not torch.allclose(others[:, 4], states[:, 4])


@pytest.mark.parametrize("name", USER_ENCODERS.names())
def test_the_state_that_scores_is_the_one_that_was_trained(name):
    """With the newest item of a row as its only target, training reads what predicting reads."""
    encoder = build(name, tower_layers=[D])
    vectors, real = rows(LENGTH + 1)
    real[0, 0] = real[1, 3] = True
    scored = encoder(history(vectors[:, :-1], real[:, :-1], "predict"))[:, -1]
    if encoder.targets == "next":
        row = history(vectors[:, :-1], real[:, :-1])
    else:
        newest = torch.zeros_like(real)
        newest[:, -1] = encoder.targets == "masked"
        row = history(vectors, real, hidden=newest if encoder.targets == "masked" else None)
        row.newest_only = True
    torch.testing.assert_close(encoder(row)[:, -1], scored)


@pytest.mark.parametrize("name", USER_ENCODERS.names())
def test_order_counts_where_it_should(name):
    encoder = build(name)
    vectors, real = rows()
    real[:] = True
    row = history(vectors, real, "predict")
    turned = history(vectors.flip(1), real, "predict")
    turned.items = turned.items.flip(1)
    same = torch.allclose(encoder(row)[:, -1], encoder(turned)[:, -1], atol=1e-6)
    assert same == (name in ORDER_BLIND)


@pytest.mark.parametrize("name", USER_ENCODERS.names())
def test_only_what_is_transferable_fits_any_dataset(name):
    small, large = build(name), build(name, users=50, items=80)
    shapes = [{n: p.shape for n, p in each.state_dict().items()} for each in (small, large)]
    assert (shapes[0] == shapes[1]) == small.transferable


@pytest.mark.parametrize("mode", ["train", "predict"])
@pytest.mark.parametrize("name", USER_ENCODERS.names())
def test_a_row_of_padding_is_finite_and_changes_no_other(name, mode):
    encoder = build(name, tower_layers=[D])
    vectors, real = rows()
    vectors.requires_grad_()
    real[0], real[1] = True, False
    hidden = real & (torch.arange(LENGTH) == 3) if encoder.targets == "masked" else None
    both = encoder(history(vectors, real, mode, hidden))
    both.square().sum().backward()
    assert torch.isfinite(both).all()
    read = [p.grad for p in (*encoder.parameters(), vectors) if p.grad is not None]
    assert all(torch.isfinite(grad).all() for grad in read)
    first = None if hidden is None else hidden[:1]
    alone = encoder(history(vectors[:1], real[:1], mode, first))
    torch.testing.assert_close(alone[0, -1], both[0, -1])


def test_batch_statistics_of_a_tower_see_real_slots_only():
    """The mean of the others of each of n items: n rows of the tower, however wide the batch is."""
    encoder = build("DSSM", tower_layers=[D], tower_batch_norm=True, hidden_dropout_prob=0.0)
    encoder.train()
    vectors, real = torch.randn(2, 4, D), torch.ones(2, 4, dtype=torch.bool)
    narrow = encoder(history(vectors, real))
    wide = encoder(history(F.pad(vectors, (0, 0, 3, 0)), F.pad(real, (3, 0))))
    torch.testing.assert_close(wide[:, 3:], narrow)
    means = (vectors.sum(1, keepdim=True) - vectors) / 3
    read = encoder.tower[0][1](means).flatten(0, 1)  # [8, D]
    scaled = (read - read.mean(0)) / (read.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(narrow.flatten(0, 1), scaled.relu())


def test_a_batch_of_one_user_has_no_statistics_of_its_own():
    encoder = build("UserID", tower_layers=[D], tower_batch_norm=True, hidden_dropout_prob=0.0)
    encoder.train()
    vectors, real = rows()
    encoder(history(vectors, real))
    moved = [buffer.clone() for buffer in encoder.buffers()]
    row = history(vectors[:1], real[:1])
    trained = encoder(row)
    assert all(torch.equal(*pair) for pair in zip(moved, encoder.buffers(), strict=True))
    torch.testing.assert_close(trained, encoder.eval()(row))


@pytest.mark.parametrize("name", ["LightSANs", "SRGNN"])
def test_prefixes_of_a_row_equal_histories_of_their_own(name):
    encoder = build(name)
    vectors, real = rows()
    row = history(vectors, real)
    row.items = torch.tensor([[3, 1, 3, 2, 1, 4], [0, 0, 0, 5, 6, 5]])
    row.vectors = torch.randn(7, D)[row.items] * real[..., None]
    row.padding = torch.zeros(D)
    states = encoder(row)
    for b, first in enumerate((0, 3)):
        for slot in range(first, LENGTH):
            shift = LENGTH - 1 - slot
            alone = History(
                F.pad(row.vectors[b, : slot + 1], (0, 0, shift, 0))[None],
                F.pad(row.items[b, : slot + 1], (shift, 0))[None],
                F.pad(row.mask[b, : slot + 1], (shift, 0))[None],
                row.user[b : b + 1], "predict", newest_only=True,
            )  # fmt: skip
            torch.testing.assert_close(encoder(alone)[0, -1], states[b, slot])


def test_session_graphs_equal_the_plain_construction():
    items = torch.tensor([[3, 1, 3, 1, 2, 3], [0, 0, 7, 7, 5, 7], [0, 0, 0, 0, 0, 4]])
    node, first = session_nodes(items)
    edges = adjacency(node, items > 0)
    for row, sequence in enumerate(items.tolist()):
        nodes = sorted(set(sequence))
        assert [nodes[n] for n in node[row].tolist()] == sequence
        assert [sequence[s] for s in first[row, : len(nodes)].tolist()] == nodes
        plain = torch.zeros(LENGTH, LENGTH)
        for one, following in pairwise(sequence):
            if one and following:
                plain[nodes.index(one), nodes.index(following)] = 1
        incoming = (plain / plain.sum(0).clamp_min(1)).T
        outgoing = plain / plain.sum(1, keepdim=True).clamp_min(1)
        torch.testing.assert_close(edges[row], torch.cat([incoming, outgoing], 1))


def test_wide_units_need_their_output_layer():
    with pytest.raises(ConfigError, match="output_layer=False: GRU4Rec's units"):
        GRU4Rec(8, hidden_multiplier=2, output_layer=False)
