"""Objectives against plain twins written slot by slot, as published."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from recbole_morec.objectives import positions
from recbole_morec.objectives.bce import BCE
from recbole_morec.objectives.bpr import BPR
from recbole_morec.objectives.in_batch import InBatch

D = 5


@pytest.fixture
def batch():
    """Three windows of up to four items; item 3 stands in two of them, item 1 twice in one."""
    item_seq = torch.tensor([[0, 1, 3, 1], [2, 3, 4, 5], [0, 0, 6, 2]])
    items = torch.arange(1, 7)
    share = torch.tensor([0.3, 0.1, 0.25, 0.05, 0.1, 0.2])
    return {
        "item_seq": item_seq,
        "mask": item_seq > 0,
        "item_index": item_seq,
        "content": {"items": items},
        "slot_count": torch.bincount(item_seq.flatten(), minlength=7)[1:].float(),
        "log_popularity": share.log(),
        "target": torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 0, 1]]) > 0,
        "negative_index": torch.tensor(
            [[[0], [0], [4], [5]], [[0], [1], [1], [6]], [[0], [0], [0], [3]]]
        ),
        "global_rows": 3,
        "global_terms": 6,
    }


@pytest.fixture
def states():
    return torch.randn(3, 3, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def vectors():
    rows = torch.randn(7, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    rows[0] = 0
    return rows


def published_in_batch(states, vectors, batch, mask_own=True):
    """One column per slot, as the authors' loop builds it."""
    seq = batch["item_seq"]
    slots = seq.flatten().tolist()
    columns = vectors[seq.flatten()]
    log_p = torch.tensor([0.0, *batch["log_popularity"].tolist()], dtype=torch.float64)
    losses = []
    for b in range(len(seq)):
        for t in range(seq.shape[1] - 1):
            if seq[b, t] == 0:
                continue
            label = b * seq.shape[1] + t + 1
            logits = columns @ states[b, t] - log_p[seq.flatten()]
            for column, item in enumerate(slots):
                own = mask_own and item in seq[b].tolist() and column != label
                if item == 0 or own:
                    logits[column] = -math.inf
            losses.append(F.cross_entropy(logits[None], torch.tensor([label])))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("mask_own", [True, False])
def test_in_batch_equals_one_column_per_slot(states, vectors, batch, mask_own):
    objective = InBatch(mask_own_history=mask_own)
    ours, theirs = [
        torch.autograd.functional.vjp(loss, (states, vectors))
        for loss in (
            lambda s, v: objective(s, positions(batch, 1), v, batch),
            lambda s, v: published_in_batch(s, v, batch, mask_own),
        )
    ]
    assert ours[0].item() == pytest.approx(theirs[0].item(), rel=1e-6)
    for gradient, expected in zip(ours[1], theirs[1], strict=True):
        torch.testing.assert_close(gradient[1:], expected[1:], rtol=1e-5, atol=1e-8)


def test_popularity_correction_is_an_exponent(states, vectors, batch):
    none = InBatch(popularity_correction=0.0)(states, positions(batch, 1), vectors, batch)
    flat = dict(batch, log_popularity=torch.zeros(6))
    assert none.item() == pytest.approx(InBatch()(states, positions(flat, 1), vectors, flat).item())
    assert none.item() != pytest.approx(
        InBatch()(states, positions(batch, 1), vectors, batch).item()
    )


def test_items_outside_all_slots_are_no_negatives(states, vectors, batch):
    extra = torch.cat([vectors, torch.full((1, D), 50.0, dtype=torch.float64)])
    wider = dict(batch)
    wider["content"] = {"items": torch.arange(1, 8)}
    wider["slot_count"] = torch.cat([batch["slot_count"], torch.zeros(1)])
    wider["log_popularity"] = torch.cat([batch["log_popularity"], torch.zeros(1)])
    with_extra = InBatch()(states, positions(wider, 1), extra, wider)
    assert with_extra.item() == pytest.approx(
        InBatch()(states, positions(batch, 1), vectors, batch).item()
    )


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_bpr_by_hand(states, vectors, batch, reduction):
    total, count = 0.0, 0
    seq, negative = batch["item_seq"], batch["negative_index"]
    for b, t in np.ndindex(3, 3):
        if seq[b, t] > 0:
            h = states[b, t]
            margin = h @ vectors[seq[b, t + 1]] - h @ vectors[negative[b, t + 1, 0]]
            total -= math.log(torch.sigmoid(margin).item() + 1e-8)
            count += 1
    expected = total / (3 if reduction == "sum" else count)
    assert BPR(reduction=reduction)(
        states, positions(batch, 1), vectors, batch
    ).item() == pytest.approx(expected)


def test_published_reductions():
    assert BPR().reduction == "sum"
    assert InBatch().reduction == "mean"


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_bce_adds_the_means_of_positives_and_negatives(batch, states, vectors, reduction):
    seq, negatives = batch["item_seq"], batch["negative_index"]
    terms = []
    for b in range(3):
        for t in range(3):
            if seq[b, t] == 0:
                continue
            positive = states[b, t] @ vectors[seq[b, t + 1]]
            negative = states[b, t] @ vectors[negatives[b, t + 1, 0]]
            terms.append(F.softplus(-positive) + F.softplus(negative))
    expected = sum(terms) / (3 if reduction == "sum" else 6)
    loss = BCE(reduction=reduction)(states, positions(batch, 1), vectors, batch)
    assert loss.item() == pytest.approx(expected.item())
    assert BCE().reduction == "mean"
