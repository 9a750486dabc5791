"""DIN: what a score reads, against its formula written candidate by candidate."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from recbole_morec.config import MoRecConfig
from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.data.loader import TrainLoader
from recbole_morec.models import din
from recbole_morec.models.adapter import build_adapter
from recbole_morec.run import run


@pytest.fixture
def adapter(settings):
    overrides = {**settings, "din_layers": [6, 4], "hidden_dropout_prob": 0.0, "negatives": 2}
    config = MoRecConfig("DIN", "colours", overrides=overrides)
    config["device"] = torch.device("cpu")
    torch.manual_seed(0)
    return build_adapter(config, MultimodalDataset(config))


def plain(model: din.DIN, candidate: Tensor, history: Tensor) -> Tensor:
    """The score of one candidate ``[d]`` after the real items of a history ``[n, d]``."""
    interest = torch.zeros_like(candidate)
    for item in history:
        x = torch.cat([candidate, item, candidate - item, candidate * item])
        for layer in model.attention:
            x = torch.sigmoid(layer[1].weight @ x + layer[1].bias)
        interest = interest + model.weight(x)[0] / math.sqrt(len(item)) * item
    return interest @ candidate


@pytest.mark.parametrize("most", [1, 3000, 1 << 26])
def test_scores_in_chunks_equal_the_formula(adapter, monkeypatch, most):
    monkeypatch.setattr(din, "_MOST_NUMBERS", most)
    model = adapter.model
    history = torch.tensor([[0, 0, 3, 5, 3], [0, 0, 0, 0, 7]])
    catalogue = torch.randn(12, model.item_encoder.dim)
    users = model.encode_users(catalogue[history], history, torch.tensor([1, 2]))
    with torch.no_grad():
        scores = model.score(users, catalogue)
        for row, real in ((0, [3, 5, 3]), (1, [7])):
            for item in range(12):
                expected = plain(model, catalogue[item], catalogue[real])
                torch.testing.assert_close(scores[row, item], expected)


@pytest.mark.parametrize("penalty", [0.0, 0.3])
def test_loss_is_that_of_every_item_after_those_before_it(adapter, penalty):
    model = adapter.model
    model.penalty = penalty
    batch = next(TrainLoader(adapter.batches(), 5, seed=1).epoch(0))
    table = torch.cat(
        [torch.zeros(1, model.item_encoder.dim), model.encode_items(batch["content"])]
    )
    terms, read = [], []
    for row, slot in batch["target"].nonzero().tolist():
        index = batch["item_index"][row]
        before = table[index[:slot]][batch["mask"][row, :slot]]
        target, negatives = table[index[slot]], table[batch["negative_index"][row, slot]]
        ahead = [plain(model, target, before) - plain(model, n, before) for n in negatives]
        terms.append(torch.stack([-(torch.sigmoid(x) + 1e-8).log() for x in ahead]).mean())
        read += [table[index[:-1]], target[None], negatives]
    expected = torch.stack(terms).mean() + penalty * torch.cat(read).norm() / 5
    torch.testing.assert_close(model.calculate_loss(batch), expected)


def test_content_finds_cold_items(settings):
    learning = {
        **settings, "item_encoder": "image", "epochs": 15, "train_batch_size": 16,
        "learning_rate": 3e-3, "encoder_learning_rate": 1e-3, "topk": [3], "valid_metric": "NDCG@3",
    }  # fmt: skip
    results = run("DIN", "colours", overrides=learning)
    assert results["test"]["cold"]["recall@3"] > 0.8  # chance is 3 in 33
