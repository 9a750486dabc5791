"""DIN on IDs and on images: loss, gradients and scores as published."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from recbole_morec.config import MoRecConfig
from recbole_morec.models.din import DIN
from recbole_morec.transfer.published import our_state, published_names

from . import test_item_encoders as items
from .conftest import close
from .test_models import batch_of, case_of, history_rows


class Published(DIN):
    def build_item_encoder(self, config, dataset, load_weights):
        return items.build(dataset.case, dataset.golden, dataset.folder)


@pytest.mark.parametrize("name", ["pixelrec/din", "pixelrec/modin"])
def test_loss_gradients_and_scores(golden, tmp_path, name):
    data = golden(name)
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
        golden=data, case=case, folder=tmp_path, item_num=count, user_num=1,
        num=lambda field: count,
    )  # fmt: skip
    model = Published(config, dataset).double()
    state, unknown = our_state(data.state({"": ""}), model.state_dict(), "pixelrec")
    assert not unknown
    model.load_state_dict(state)
    rows = history_rows(data.tensor("in/train_items"))
    loss = model.calculate_loss(batch_of(data, count, "last", 1, rows))
    close(loss, data.tensor("out/loss"))
    loss.backward()
    ours = dict(model.named_parameters())
    names = published_names(data.facts["parameters"], "pixelrec")
    assert set(names.values()) == ours.keys()
    for theirs, norm in data.gradient_norms().items():
        assert ours[names[theirs]].grad.norm().item() == pytest.approx(norm, rel=1e-7), theirs

    model.eval()
    with torch.no_grad():
        vectors = model.encode_items(items.content_of(data, torch.arange(1, count)))
        model.set_catalogue(torch.cat([torch.zeros_like(vectors[:1]), vectors]))
        history = data.tensor("in/eval_item_seq")
        users = model.encode_users(model.catalogue[history], history, history[:, 0])
        close(model.score(users, model.catalogue)[:, 1:], data.tensor("out/scores")[:, 1:])
