"""Negatives: what may be drawn, how often, and that draws depend on (seed, epoch, row, slot)."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from recbole_morec.data.batches import MultimodalBatches
from recbole_morec.data.content import ContentReader
from recbole_morec.data.histories import Histories
from recbole_morec.data.loader import TrainLoader
from recbole_morec.data.negatives import ItemDistribution, NegativeSampler, TrainedItems
from recbole_morec.data.splits import Splits
from recbole_morec.data.targets import Targets
from recbole_morec.data.windows import Windows
from recbole_morec.errors import DataError
from recbole_morec.evaluation.protocol import Protocol

WINDOWS = np.array([[0, 1, 2], [3, 4, 5], [0, 0, 6]])
USERS = np.array([1, 2, 3])
ROWS = np.array([10, 20, 30])


def sampler(items=None, count=2, seed=1, **options):
    items = np.arange(1, 8) if items is None else items
    distribution = items if isinstance(items, ItemDistribution) else ItemDistribution(items)
    return NegativeSampler(distribution, count, seed=seed, item_num=8, **options)


# --- of every target ------------------------------------------------------------------------------


def test_uniform_draws_outside_the_window_are_what_they_always_were():
    drawn = sampler().per_target(WINDOWS, USERS, ROWS, WINDOWS > 0, 3)
    assert drawn.tolist() == [
        [[0, 0], [3, 7], [6, 6]],
        [[2, 6], [7, 6], [7, 2]],
        [[0, 0], [0, 0], [4, 4]],
    ]


def test_draws_are_outside_the_window_and_depend_on_the_row_alone():
    wanted = np.ones((3, 50), dtype=bool)
    drawn = sampler().per_target(WINDOWS, USERS, ROWS, wanted, 3)
    for b, window in enumerate(WINDOWS):
        assert set(drawn[b].ravel()) == set(range(1, 8)) - set(window)  # all others are drawn
    one = slice(1, 2)
    alone = sampler().per_target(WINDOWS[one], USERS[one], ROWS[one], wanted[:1], 3)
    assert (alone[0] == drawn[1]).all()
    wanted[:, ::2] = False
    some = sampler().per_target(WINDOWS, USERS, ROWS, wanted, 3)
    assert (some[:, ::2] == 0).all()
    assert (some[:, 1::2] == drawn[:, 1::2]).all()
    other = sampler().per_target(WINDOWS, USERS, ROWS, wanted, 4)
    assert (other != drawn).any()


def test_popular_items_are_drawn_by_their_counts_and_cold_ones_never():
    counts = np.array([0, 1, 4, 9, 16, 0])
    items = ItemDistribution.by_popularity(np.arange(1, 7), counts, 0.5)
    wanted = np.ones((1, 20_000), dtype=bool)
    drawn = sampler(items, count=1).per_target(
        np.zeros((1, 3), int), USERS[:1], ROWS[:1], wanted, 0
    )
    share = np.bincount(drawn.ravel(), minlength=7) / drawn.size
    np.testing.assert_allclose(share[1:], np.array([0, 1, 2, 3, 4, 0]) / 10, atol=0.015)
    assert share[1] == share[6] == 0


def world():
    """Three users with histories of 6, 1 and 4 items; items 1..9."""
    items = np.array([1, 2, 3, 4, 5, 6, 7, 1, 9, 8, 2], dtype=np.int32)
    histories = Histories(items, np.array([0, 0, 6, 7, 11]))
    protocol = Protocol("morec", 2, 0, 0, "none", "interactions")
    splits = Splits.build(histories, protocol)
    counts = np.bincount(items, minlength=10)
    candidates = np.arange(10) > 0
    return SimpleNamespace(
        histories=histories, splits=splits, item_num=10, candidates=candidates,
        train_counts=counts, popularity=counts / counts.sum(), protocol=protocol,
    )  # fmt: skip


def test_a_users_training_items_are_found_in_the_histories():
    dataset = world()
    barred = TrainedItems(dataset).of(np.array([3, 1, 3, 0]))
    found = barred.holds(np.arange(4)[:, None], np.arange(10)[None, :])
    # The two newest items are held out.
    assert [set(np.flatnonzero(row)) for row in found] == [{1, 9}, {1, 2, 3, 4}, {1, 9}, set()]
    assert TrainedItems(dataset).of(np.array([], int)).holds(np.array([]), np.array([])).size == 0


def test_negatives_outside_the_history_may_not_be_older_items_either():
    dataset = world()
    draw = sampler(np.arange(1, 10), trained=TrainedItems(dataset)).per_target
    wanted = np.ones((1, 60), dtype=bool)
    drawn = draw(np.array([[0, 3, 4]]), np.array([1]), ROWS[:1], wanted, 0)
    assert set(drawn.ravel()) == {5, 6, 7, 8, 9}


def test_no_negative_left_is_an_error_with_a_way_out():
    one = np.array([1])
    none = sampler(one).per_target
    with pytest.raises(DataError, match="MAX_ITEM_LIST_LENGTH"):
        none(one[None], one, one, one[None] > 0, 0)
    none = sampler(one, trained=TrainedItems(world())).per_target
    with pytest.raises(DataError, match="negatives_avoid=window"):
        none(one[None], one, one, one[None] > 0, 0)


# --- shared ---------------------------------------------------------------------------------------


def batches(share=(0, 1), count=11, trained=False):
    dataset = world()
    draws = NegativeSampler(
        ItemDistribution(np.arange(1, 10)), count, seed=4, item_num=10, shared=True,
        trained=TrainedItems(dataset) if trained else None,
    )  # fmt: skip
    rows = Windows(dataset.splits, 2, "keep")
    return MultimodalBatches(dataset, ContentReader(), rows, Targets("next", 3), draws, share=share)


def drawn_of(batch):
    return batch["content"]["items"][batch["shared_index"] - 1].tolist()


def test_shared_negatives_are_a_function_of_seed_epoch_and_step():
    build = batches().build
    rows, one = np.arange(2), np.array([1])
    draws = drawn_of(build(rows, 0, 3))
    assert draws == drawn_of(build(one, 0, 3)) == drawn_of(build(rows[:0], 0, 3))
    assert draws != drawn_of(build(rows, 0, 4))
    assert draws != drawn_of(build(rows, 1, 3))
    assert set(drawn_of(batches(count=200).build(rows, 0, 0))) == set(range(1, 10))


def test_processes_share_out_the_negatives():
    whole = batches().build(np.arange(2), 0, 0)
    parts = [batches((rank, 3)).build(np.arange(2), 0, 0) for rank in range(3)]
    assert [item for part in parts for item in drawn_of(part)] == drawn_of(whole)
    for part in parts:
        for key in ("shared_items", "shared_barred", "shared_log_share"):
            assert torch.equal(part[key], whole[key])


@pytest.mark.parametrize("trained", [False, True])
def test_shared_negatives_that_a_row_may_not_have_are_marked(trained):
    batch = batches(trained=trained, count=60).build(np.arange(2), 0, 0)
    assert batch["user"].tolist() == [1, 3]
    assert batch["item_seq"].tolist() == [[2, 3, 4], [0, 1, 9]]
    first = {1, 2, 3, 4} if trained else {2, 3, 4}  # the history is longer than the window
    expected = [[item in own for item in drawn_of(batch)] for own in (first, {1, 9})]
    assert batch["shared_barred"].tolist() == expected


def test_micro_batches_of_a_step_share_them_and_steps_do_not():
    loader = TrainLoader(batches(), 2, seed=0, accumulation=2)
    first, second = loader.epoch(0)
    assert drawn_of(first) == drawn_of(second)
    later = next(loader.epoch(1))
    assert drawn_of(later) != drawn_of(first)
