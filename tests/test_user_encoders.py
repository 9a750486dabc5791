"""What holds for every registered user encoder that predicts the next item."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from recbole_morec.config import MoRecConfig
from recbole_morec.user_encoders import USER_ENCODERS, History

D, LENGTH = 16, 6


CAUSAL = [name for name in USER_ENCODERS.names() if USER_ENCODERS.get(name).targets == "next"]


@pytest.fixture(params=CAUSAL)
def encoder(request):
    overrides = {"user_encoder": request.param, "embedding_size": D, "item_encoder": "id"}
    config = MoRecConfig("PixelNet", "pixelrec", overrides=overrides)
    config["MAX_ITEM_LIST_LENGTH"] = LENGTH
    torch.manual_seed(0)
    dataset = SimpleNamespace(user_num=5, item_num=LENGTH + 1)
    return USER_ENCODERS.get(request.param).from_config(config, dataset).eval()


def history(vectors, real):
    items = torch.arange(1, LENGTH + 1).repeat(len(vectors), 1) * real
    return History(vectors * real[..., None], items, real, torch.arange(len(vectors)), "predict")


def test_a_state_reads_no_later_item(encoder):
    vectors = torch.randn(2, LENGTH, D)
    real = torch.ones(2, LENGTH, dtype=torch.bool)
    real[1, :3] = False
    states = encoder(history(vectors, real))
    assert states.shape == (2, LENGTH, D)
    for slot in range(3, LENGTH):
        changed = vectors.clone()
        changed[:, slot] = torch.randn(2, D)
        others = encoder(history(changed, real))
        torch.testing.assert_close(others[:, 3:slot], states[:, 3:slot])
        assert not torch.allclose(others[:, slot], states[:, slot])


def test_earlier_items_matter(encoder):
    vectors = torch.randn(1, LENGTH, D)
    real = torch.ones(1, LENGTH, dtype=torch.bool)
    state = encoder(history(vectors, real))[:, -1]
    for slot in range(LENGTH - 1):
        changed = vectors.clone()
        changed[:, slot] = torch.randn(D)
        assert not torch.allclose(encoder(history(changed, real))[:, -1], state), slot
