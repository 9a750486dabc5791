"""PixelRec's LightGCN: edge weights, propagated vectors, scores, loss and gradients."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from recbole_morec.config import MoRecConfig
from recbole_morec.data.histories import Histories
from recbole_morec.models.lightgcn import LightGCN, training_graph
from recbole_morec.transfer.published import our_state

from .conftest import Golden, close
from .test_frozen_models import compare_gradients
from .test_models import Rows, batch_of

NAME = "pixelrec/lightgcn"


@pytest.fixture
def data(golden) -> Golden:
    return golden(NAME)


def stub(data: Golden) -> SimpleNamespace:
    """The published interactions, all of them training ones."""
    count, users = data.sizes["item_num"], data.sizes["user_num"]
    interactions = np.bincount(data.tensor("in/graph_user"), minlength=users)
    histories = Histories(
        data.tensor("in/graph_item").numpy(), np.concatenate([[0], np.cumsum(interactions)])
    )
    return SimpleNamespace(
        item_num=count, user_num=users, num=lambda name: users if name == "user_id" else count,
        histories=histories, splits=SimpleNamespace(training_mask=lambda n: np.ones(n, dtype=bool)),
        candidates=np.arange(count) > 0, folder=".", item_tokens=[""] * count,
    )  # fmt: skip


@pytest.fixture
def model(data) -> LightGCN:
    return filled(data)


def filled(data: Golden) -> LightGCN:
    """Ours with the published weights."""
    sizes = data.sizes
    config = MoRecConfig(
        "LightGCN", "golden",
        overrides={"embedding_size": sizes["embedding_size"], "n_layers": sizes["n_layers"]},
    )  # fmt: skip
    built = LightGCN(config, stub(data)).double()
    state, unknown = our_state(data.state({"": ""}), built.state_dict())
    assert unknown == []
    built.load_state_dict(state, strict=True)
    # The published weights of edges are rounded to float32; so are ours, in another order.
    exact = published_graph(data)
    ours = torch.sparse_csr_tensor(
        built.graph_rows, built.graph_columns, built.graph_weights, exact.shape,
        check_invariants=True,
    )  # fmt: skip
    close(ours.to_dense(), exact, 1e-6, 0)
    row = torch.arange(len(exact)).repeat_interleave(built.graph_rows.diff())
    built.graph_weights.copy_(exact[row, built.graph_columns.long()])
    return built


def published_graph(data: Golden) -> torch.Tensor:
    """``[U + N, U + N]``; weights of edges that repeat add up."""
    size = data.sizes["user_num"] + data.sizes["item_num"]
    start, end = data.tensor("in/edge_index")
    empty = torch.zeros(size, size)
    return empty.index_put((start, end), data.tensor("in/edge_weight"), accumulate=True)


def test_edges_have_the_published_weights(data):
    exact = published_graph(data)
    close(torch.from_numpy(training_graph(stub(data)).toarray()), exact, 1e-6, 0)
    user, item = data.tensor("in/graph_user"), data.tensor("in/graph_item")
    for one in user.unique():  # an item that a user had twice is one edge
        assert (exact[one] > 0).sum() == len(item[user == one].unique())


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_vectors_and_scores(model, data):
    close(scores(model, data), data.tensor("out/scores"))
    everyone = torch.arange(data.sizes["user_num"])
    with torch.no_grad():
        close(model.encode_users(None, None, everyone), data.tensor("out/user_emb_all"))
    close(model.catalogue, data.tensor("out/item_emb_all"))


@torch.no_grad()
def scores(model: LightGCN, data: Golden) -> torch.Tensor:
    """Ours of the published users, ``[U, N]``."""
    model.set_catalogue(model.encode_items({"items": torch.arange(data.sizes["item_num"])}))
    users = model.encode_users(None, None, data.tensor("in/eval_user"))
    return model.score(users, model.catalogue)


def test_loss_and_gradients(model, data):
    positive, negative = data.tensor("in/train_items").T[..., None]
    rows = Rows(positive, positive > 0, negative)
    batch = batch_of(data, data.sizes["item_num"], model.targets, 1, rows)
    batch["user"] = data.tensor("in/train_user")
    loss = model.train().calculate_loss(batch)
    close(loss, data.tensor("out/loss"))
    loss.backward()
    own = dict(model.named_parameters())
    assert compare_gradients(data, own) == own.keys()
