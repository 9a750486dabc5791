"""Ranks counted in chunks equal those of the plain comparison of whole rows."""

from types import SimpleNamespace

import pytest
import torch

from recbole_morec.errors import MoRecError
from recbole_morec.evaluation import scorers as scorers_module
from recbole_morec.evaluation.counting import NotFinite, RankCounter
from recbole_morec.evaluation.ranking import rank_targets
from recbole_morec.evaluation.scorers import (
    CatalogueScorer,
    ChunkedScores,
    WholeScores,
    score_tile,
)

USERS, ITEMS = 12, 45  # the last chunk of 14 items is short


@pytest.fixture
def world():
    """A few users, and items of which some are no candidates, some cold and many of equal score."""
    torch.manual_seed(0)
    candidates = torch.rand(ITEMS) < 0.9
    candidates[0] = False
    warm = torch.rand(ITEMS) < 0.7
    real = torch.nonzero(candidates)[:, 0]
    targets = real[torch.randint(len(real), (USERS,))]
    row = torch.randint(USERS, (60,))
    item = torch.randint(ITEMS, (60,))  # pairs repeat, and are not all candidates
    item[:2], row[:2] = targets[:2], torch.arange(2)  # two targets are barred
    counter = RankCounter(candidates, warm, torch.randperm(ITEMS))
    barred = counter.barred(row, item, USERS)
    allowed = counter.allowed(barred, USERS)
    for r, i in zip(row.tolist(), item.tolist(), strict=True):
        assert not allowed[r, i]
    return SimpleNamespace(
        counter=counter, warm=warm, targets=targets, barred=barred, allowed=allowed
    )


def in_chunks(scores, width=14):
    return ChunkedScores(lambda items: scores[:, items], ITEMS, width, USERS)


def assert_equal_ranks(world, tile, scores, branch="main"):
    expected = rank_targets(scores, world.targets, world.allowed, world.warm, world.counter._order)
    found = world.counter.count(tile, world.targets, world.barred)[branch]
    for name in ("rank", "new_item", "mean_rank", "candidates"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


@pytest.mark.parametrize("levels", [1, 3, 1000])
@pytest.mark.parametrize("kind", ["whole", "chunks"])
def test_counts_equal_the_plain_comparison(world, monkeypatch, levels, kind):
    monkeypatch.setattr(scorers_module, "_CPU_SCORES", 14 * USERS)
    scores = torch.randint(levels, (USERS, ITEMS)).float()  # one level: a constant scorer
    tile = WholeScores({"main": scores}) if kind == "whole" else in_chunks(scores)
    assert tile.width == 14
    assert_equal_ranks(world, tile, scores)


def test_without_cold_items(world):
    world.warm = torch.ones(ITEMS, dtype=torch.bool)
    world.counter = RankCounter(world.counter._candidates, world.warm, world.counter._order)
    scores = torch.randint(3, (USERS, ITEMS)).float()
    assert_equal_ranks(world, in_chunks(scores), scores)


def test_branches_have_ranks_of_their_own(world):
    left, right = torch.randn(2, USERS, ITEMS)
    tile = ChunkedScores(
        lambda items: {"a": left[:, items], "b": right[:, items]}, ITEMS, 14, USERS
    )
    assert_equal_ranks(world, tile, left, "a")
    assert_equal_ranks(world, tile, right, "b")


def test_a_target_whose_score_rounds_otherwise_in_its_chunk(world):
    scores = torch.randint(3, (USERS, ITEMS)).float()

    def score(items):
        exact = isinstance(items, slice)
        return scores[:, items] if exact else scores[:, items] + 1e-6

    assert_equal_ranks(world, ChunkedScores(score, ITEMS, 14, USERS), scores)


def test_what_is_no_candidate_may_hold_anything(world):
    scores = torch.randn(USERS, ITEMS)
    scores[~world.allowed] = float("nan")
    expected = scores.nan_to_num()  # barred targets are not compared
    assert_equal_ranks(world, in_chunks(scores), expected)
    scores[~world.allowed] = float("inf")
    assert_equal_ranks(world, in_chunks(scores), expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_candidate_whose_score_is_not_finite(world, bad):
    scores = torch.randn(USERS, ITEMS)
    item = int(torch.nonzero(world.allowed[5])[-1])
    scores[5, item] = bad
    for tile in (in_chunks(scores), WholeScores({"main": scores})):
        with pytest.raises(NotFinite) as error:
            world.counter.count(tile, world.targets, world.barred)
        assert error.value.args == (5,)


def test_finite_scores_may_have_a_sum_that_is_not(world):
    scores = torch.full((USERS, ITEMS), 3e38) - torch.rand(USERS, ITEMS) * 1e38
    assert_equal_ranks(world, in_chunks(scores), scores)


class Dot:
    """A model of dot products."""

    def __init__(self, catalogue, users):
        self.catalogue, self.users = catalogue, users

    def encode_users(self, vectors, items, user):
        return self.users[user]

    def score(self, users, items):
        return users @ items.T


@pytest.mark.parametrize("dim", [7, 64, 512])
def test_products_of_chunks_round_alike_wherever_an_item_stands(dim, monkeypatch):
    monkeypatch.setattr(scorers_module, "_CPU_SCORES", 128 * 256)
    torch.manual_seed(dim)
    users, catalogue = torch.randn(100, dim), torch.randn(1000, dim)
    catalogue[500:] = catalogue[:500]  # every item twice, 500 places apart
    scorer = CatalogueScorer(Dot(catalogue, users), None)
    everyone = torch.arange(100)
    tile = score_tile(scorer, everyone, torch.zeros(100, 3, dtype=torch.long), 128)
    assert isinstance(tile, ChunkedScores)
    whole = tile.whole().scores["main"]
    assert whole.shape == (100, 1000)
    assert torch.equal(whole[:, :500], whole[:, 500:])
    targets = torch.randint(1, 500, (100,))
    assert torch.equal(tile.of(targets)["main"], whole[everyone, targets])


def test_scores_of_low_precision_are_refused():
    users, catalogue = torch.randn(100, 8), torch.randn(1000, 8)
    scorer = CatalogueScorer(Dot(catalogue.bfloat16(), users.bfloat16()), None)
    with pytest.raises(MoRecError, match="bfloat16"):
        score_tile(scorer, torch.arange(100), torch.zeros(100, 3, dtype=torch.long), 128)
