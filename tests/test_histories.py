"""Histories, splits and windows on twelve interactions that can be checked by eye."""

import numpy as np
import pytest

from recbole_morec.data.histories import Histories, gather_left_padded
from recbole_morec.data.splits import Splits
from recbole_morec.data.windows import Pairs, Prefixes, Windows
from recbole_morec.evaluation.protocol import Protocol


def protocol(**changes):
    facts = {
        "name": "pixelrec", "max_length": 2, "min_user_inter": 0, "truncate": 0,
        "history_mask": "full", "catalogue": "interactions",
    }  # fmt: skip
    return Protocol(**{**facts, **changes})


def of_lengths(*lengths):
    """User u has items 1..length in order."""
    items = np.concatenate([np.arange(1, n + 1) for n in lengths]).astype(np.int32)
    return Histories(items, np.cumsum([0, 0, *lengths]))


def test_leave_one_out_of_every_length():
    splits = Splits.build(of_lengths(1, 2, 3, 5), protocol())
    assert splits.users["test"].tolist() == [3, 4]
    assert splits.users["valid"].tolist() == [3, 4]
    assert splits.targets["test"].tolist() == [5, 10]
    assert splits.targets["valid"].tolist() == [4, 9]
    assert (splits.train_stop - splits.start).tolist() == [0, 1, 2, 1, 3]
    assert splits.train_only == 2


def test_recbole_gives_a_user_of_three_interactions_no_validation_target():
    splits = Splits.build(of_lengths(1, 2, 3, 4), protocol(name="recbole", valid_needs=4))
    assert splits.users["test"].tolist() == [3, 4]
    assert splits.users["valid"].tolist() == [4]
    assert (splits.train_stop - splits.start).tolist() == [0, 1, 2, 2, 2]


def test_minimum_and_truncation():
    splits = Splits.build(of_lengths(4, 9), protocol(min_user_inter=5, truncate=5))
    assert splits.left_out == 1
    assert splits.users["test"].tolist() == [2]
    assert splits.start[2] == 4 + 9 - 5
    assert splits.training_mask(13).tolist() == [False] * 8 + [True] * 3 + [False] * 2


@pytest.mark.parametrize(
    ("remainder", "last", "expected"),
    [
        # max_length 2 -> windows of 3; training parts of 2, 3 and 8 items
        ("keep", False, [[1, 2], [1, 2, 3], [6, 7, 8], [3, 4, 5], [1, 2]]),
        ("drop", False, [[1, 2], [1, 2, 3], [6, 7, 8], [3, 4, 5]]),
        ("keep", True, [[1, 2], [1, 2, 3], [6, 7, 8]]),
    ],
)
def test_windows_are_cut_from_the_newest_end(remainder, last, expected):
    histories = of_lengths(4, 5, 10)
    rows = Windows(Splits.build(histories, protocol()), 2, remainder, last=last)
    _, start, stop = rows.ranges(np.arange(len(rows)))
    cut = [histories.items[a:b].tolist() for a, b in zip(start, stop, strict=True)]
    assert cut == expected


def test_a_remainder_of_one_item_is_no_row():
    rows = Windows(Splits.build(of_lengths(6), protocol()), 2, "keep")
    assert len(rows) == 1  # four training items: a window of three, one item without a context


def test_prefixes_are_recboles_augmentation():
    histories = of_lengths(6, 3)
    rows = Prefixes(Splits.build(histories, protocol()), 2)
    user, start, stop = rows.ranges(np.arange(len(rows)))
    cut = [histories.items[a:b].tolist() for a, b in zip(start, stop, strict=True)]
    assert user.tolist() == [1, 1, 1]
    assert cut == [[1, 2], [1, 2, 3], [2, 3, 4]]


def test_pairs_are_all_training_interactions():
    histories = of_lengths(4, 3)
    rows = Pairs(Splits.build(histories, protocol()))
    user, start, _ = rows.ranges(np.arange(len(rows)))
    assert list(zip(user.tolist(), histories.items[start].tolist(), strict=True)) == [
        (1, 1), (1, 2), (2, 1),
    ]  # fmt: skip


def test_left_padding_keeps_the_newest():
    matrix = gather_left_padded(np.array([9, 8, 7, 6]), np.array([0, 2]), np.array([4, 3]), 3)
    assert matrix.tolist() == [[8, 7, 6], [0, 0, 7]]
