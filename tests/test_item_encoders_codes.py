"""``item_encoder: codes``: vectors of semantic codes, and the files that they are read from."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from item_encoder_world import build, make_dataset

from recbole_morec.errors import ConfigError, DataError


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path)


def write(folder, codes, tokens=("i2", "i5", "i7")):
    np.save(folder / "c.npy", np.asarray(codes))
    (folder / "c.tokens.txt").write_text("\n".join(tokens) + "\n")


def test_an_item_is_the_mean_of_its_codes(dataset):
    write(dataset.folder, [[1, 2], [3, 1], [1, 1]])  # i2, i5, i7
    encoder = build(dataset, "codes", codes="c.npy")
    table = encoder.embedding.weight
    assert table.shape == (2 * 5, 8)  # codes 0 .. 3, and one more row, per position
    i7, i2, i5 = encoder({"items": torch.tensor([1, 2, 3])})
    torch.testing.assert_close(i7, (table[1] + table[5 + 1]) / 2)
    torch.testing.assert_close(i2, (table[1] + table[5 + 2]) / 2)
    torch.testing.assert_close(i5, (table[3] + table[5 + 1]) / 2)
    assert encoder.embedding.padding_idx == 0
    assert encoder.tokens({"items": torch.tensor([1, 2])})[0].shape == (2, 2, 8)
    assert list(encoder.state_dict()) == ["embedding.weight"]


def test_codes_that_begin_at_zero_train_their_row(dataset):
    write(dataset.folder, [[0, 0], [1, 1], [0, 1]])
    encoder = build(dataset, "codes", codes="c.npy")
    encoder({"items": torch.tensor([2])}).sum().backward()
    assert encoder.embedding.weight.grad[0].abs().sum() > 0


def test_another_dataset_of_the_same_quantiser(dataset):
    write(dataset.folder, [[1, 2], [3, 1], [1, 1]])
    before = build(dataset, "codes", codes="c.npy")
    saved = json.loads(json.dumps(before.architecture()))
    write(dataset.folder, [[1, 2], [2, 1], [1, 1]])  # no item has code 3
    after = build(dataset, "codes", False, codes="c.npy", item_encoder_architecture=saved)
    after.load_state_dict(before.state_dict())
    assert torch.equal(after({"items": torch.tensor([2])}), before({"items": torch.tensor([2])}))
    write(dataset.folder, [[1, 2], [7, 1], [1, 1]])
    with pytest.raises(DataError, match="holds code 7, and the model knows codes up to 3"):
        build(dataset, "codes", False, codes="c.npy", item_encoder_architecture=saved)


def test_wrong_codes_are_refused(dataset):
    with pytest.raises(ConfigError, match="needs the key codes"):
        build(dataset, "codes")
    with pytest.raises(DataError, match=r"^codes: nowhere.npy does not exist"):
        build(dataset, "codes", codes="nowhere.npy")
    write(dataset.folder, [[1, 2], [3, 1]], ["i2", "i5"])
    with pytest.raises(DataError, match=r"^codes: .*no row for 1 of 3 items, for example i7"):
        build(dataset, "codes", codes="c.npy")
    for value in (0.5, -1):
        write(dataset.folder, [[1, 2], [value, 1], [1, 1]])
        with pytest.raises(DataError, match=rf"holds {value}.* for item 'i5'; codes are integers"):
            build(dataset, "codes", codes="c.npy")
