"""Ranks by counting: known answers, ties, barred targets."""

import numpy as np
import torch

from recbole_morec.evaluation.ranking import rank_targets, top_items
from recbole_morec.randomness import token_order


def ranked(scores, targets, allowed=None, warm=None, order=None):
    scores = torch.tensor(scores)
    n = scores.shape[1]
    allowed = torch.ones_like(scores, dtype=torch.bool) if allowed is None else allowed
    warm = torch.ones(n, dtype=torch.bool) if warm is None else warm
    order = torch.arange(n) if order is None else order
    return rank_targets(scores, torch.tensor(targets), allowed, warm, order)


def test_rank_is_one_plus_items_above():
    ranks = ranked([[0.1, 0.9, 0.5, 0.7]] * 3, [1, 2, 0])
    assert ranks.rank.tolist() == [1, 3, 4]
    assert ranks.mean_rank.tolist() == [1, 3, 4]


def test_ties_stand_in_the_given_order():
    order = torch.tensor([2, 0, 1])
    assert ranked([[1.0, 1.0, 1.0]] * 3, [0, 1, 2], order=order).rank.tolist() == [3, 1, 2]
    assert ranked([[1.0, 1.0, 1.0]], [1], order=order).mean_rank.tolist() == [2]


def test_barred_items_do_not_count_and_a_barred_target_is_never_reached():
    allowed = torch.tensor([[True, False, True], [True, False, True]])
    ranks = ranked([[0.1, 0.9, 0.5]] * 2, [0, 1], allowed)
    assert ranks.rank.tolist() == [2, 3]
    assert ranks.candidates.tolist() == [2, 2]


def test_new_items_are_ranked_against_warm_ones_only():
    warm = torch.tensor([True, False, True, False])
    ranks = ranked([[0.6, 0.9, 0.8, 0.5]], [3], warm=warm)
    assert ranks.rank.tolist() == [4]
    assert ranks.new_item.tolist() == [3]


def test_top_items_follow_the_same_order_as_ranks():
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(rng.integers(0, 4, (50, 12)).astype(np.float32))  # many ties
    allowed = torch.from_numpy(rng.random((50, 12)) < 0.8)
    order = torch.from_numpy(rng.permutation(12))
    best = top_items(scores, allowed, order, 12)
    for row in range(50):
        for place in range(int(allowed[row].sum())):
            item = int(best[row, place])
            ranks = ranked(
                scores[row : row + 1].tolist(), [item], allowed[row : row + 1], order=order
            )
            assert ranks.rank.item() == place + 1


def test_a_constant_scorer_gets_chance():
    tokens = np.array([f"i{i}" for i in range(1000)])
    order = torch.from_numpy(token_order(tokens, 0))
    ranks = ranked(
        np.zeros((1000, 1000), dtype=np.float32).tolist(), list(range(1000)), order=order
    )
    assert sorted(ranks.rank.tolist()) == list(range(1, 1001))
    first = ranks.rank[:500].float().mean()  # low ids are not favoured
    assert 450 < first < 550
