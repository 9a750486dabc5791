"""DIN on IDs and on images: loss, gradients and scores as published."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from recbole_morec.config import MoRecConfig
from recbole_morec.models.din import DIN
from recbole_morec.transfer.published import our_state, published_names

from . import test_item_encoders as items
from .conftest import Golden, close
from .test_models import batch_of, case_of, history_rows

NAMES = ["pixelrec/din", "pixelrec/modin"]


class Published(DIN):
    def build_item_encoder(self, config, dataset, load_weights):
        return items.build(dataset.case, dataset.golden, dataset.folder)


def build(name: str, data: Golden, folder: Path) -> Published:
    """Ours with the published weights."""
    sizes, case = data.sizes, case_of(name)
    overrides = {
        "embedding_size": sizes["embedding_size"], "din_layers": sizes["mlp_hidden_size"],
        "hidden_dropout_prob": 0.0, "item_encoder": "tiny_vit", "target_slots": "last",
        # The ID version punishes the norm of all rows that it reads, padding's too.
        "din_penalty": 0.01 if case.encoder == "id" else 0.0, "objective": "bpr",
        "pad_vector": "encoded",
        "reduction": "mean",
    }  # fmt: skip
    config = MoRecConfig("DIN", "golden", overrides=overrides)
    config["device"] = torch.device("cpu")
    count = sizes["item_num"]
    dataset = SimpleNamespace(
        golden=data, case=case, folder=folder, item_num=count, user_num=1,
        num=lambda field: count,
    )  # fmt: skip
    model = Published(config, dataset).double()
    state, unknown = our_state(data.state({"": ""}), model.state_dict(), "pixelrec")
    assert not unknown
    model.load_state_dict(state)
    return model


@torch.no_grad()
def scores(model: Published, data: Golden) -> Tensor:
    """Ours after the published histories, ``[U, N]``."""
    model.eval()
    vectors = model.encode_items(items.content_of(data, torch.arange(1, data.sizes["item_num"])))
    model.set_catalogue(torch.cat([torch.zeros_like(vectors[:1]), vectors]))
    history = data.tensor("in/eval_item_seq")
    users = model.encode_users(model.catalogue[history], history, history[:, 0])
    return model.score(users, model.catalogue)


@pytest.mark.parametrize("name", NAMES)
def test_loss_gradients_and_scores(golden, tmp_path, name):
    data = golden(name)
    model = build(name, data, tmp_path)
    rows = history_rows(data.tensor("in/train_items"))
    loss = model.calculate_loss(batch_of(data, data.sizes["item_num"], "last", 1, rows))
    close(loss, data.tensor("out/loss"))
    loss.backward()
    ours = dict(model.named_parameters())
    names = published_names(data.facts["parameters"], "pixelrec")
    assert set(names.values()) == ours.keys()
    for theirs, norm in data.gradient_norms().items():
        assert ours[names[theirs]].grad.norm().item() == pytest.approx(norm, rel=1e-7), theirs
    close(scores(model, data)[:, 1:], data.tensor("out/scores")[:, 1:])
