"""Which slots of a row are predicted, and that masks are a function of (seed, epoch, row)."""

import numpy as np

from recbole_morec.data.targets import Targets

LENGTHS = np.array([2, 4, 3])
ROWS = np.array([0, 1, 2])


def slots(kind):
    return Targets(kind, 4).mark(LENGTHS, ROWS, 0).astype(int).tolist()


def test_kinds():
    assert slots("next") == [[0, 0, 0, 1], [0, 1, 1, 1], [0, 0, 1, 1]]
    assert slots("last") == [[0, 0, 0, 1]] * 3
    assert slots("each") == [[0, 0, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]]


def test_masks_hit_their_share_of_real_items_only():
    rows = np.arange(4000)
    lengths = 2 + rows % 9
    marked = Targets("masked", 10, 0.6, seed=5).mark(lengths, rows, 0)
    assert not marked[np.arange(10)[None, :] < 10 - lengths[:, None]].any()
    assert abs(marked.sum() / lengths.sum() - 0.6) < 0.01


def test_masks_are_a_function_of_seed_epoch_and_row():
    rows, lengths = np.arange(50), np.full(50, 10)
    masks = Targets("masked", 10, 0.5, seed=5)
    assert (masks.mark(lengths[7:9], rows[7:9], 3) == masks.mark(lengths, rows, 3)[7:9]).all()
    assert (masks.mark(lengths, rows, 3) != masks.mark(lengths, rows, 4)).any()
    other = Targets("masked", 10, 0.5, seed=6)
    assert (masks.mark(lengths, rows, 3) != other.mark(lengths, rows, 3)).any()
