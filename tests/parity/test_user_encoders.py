"""User encoders of whole models: states, session graphs and gradients as published.

The models, their weights and their batches are those of ``test_models``; here it is what stands
between items and loss that is compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_morec.transfer.published import published_names
from recbole_morec.user_encoders.srgnn import adjacency, session_nodes

from . import test_item_encoders as items
from .conftest import Golden, close
from .test_models import (
    MODELS,
    Model,
    Published,
    alone,
    batch_of,
    build,
    case_of,
    graph_rows,
    rows_of,
)

Pair = tuple[Tensor, Tensor]
BY_NAME = {model.name: model for model in MODELS}
# They have no parameters, and nothing between items and scores was published of them alone.
NOTHING = {"pixelrec/modssm", "pixelrec/fm", "pixelrec/mofm"}


def batch(model: Model, golden: Golden, built: Published) -> dict[str, Any]:
    rows = rows_of(golden)
    if model.first_row:
        rows = next(alone(rows))
    fields = case_of(model.name).fields
    return batch_of(golden, built.item_encoder_rows, built.targets, fields, rows)


def trained_states(built: Published, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """States of a training batch, and its loss."""
    seen = []
    hook = built.user_encoder.register_forward_hook(lambda module, read, out: seen.append(out))
    built.train()
    loss = built.calculate_loss(batch)
    hook.remove()
    return seen[0], loss


def training_states(golden: Golden, states: Tensor) -> Iterator[Pair]:
    """Those of the states ``[B, S, d]`` that were published, and the published ones."""
    if "out/valid_rows" in golden:
        valid = golden.tensor("out/valid_rows").bool()
        yield states[valid], golden.tensor("out/seq_output")[valid]
    elif "out/seq_output" in golden:  # one state per history
        yield states[:, -1], golden.tensor("out/seq_output")[:, -1]
    for key in ("out/session_vector", "out/user_vector"):
        if key in golden:
            yield states[:, -1], golden.tensor(key)


@torch.no_grad()
def scoring_states(built: Published, golden: Golden, fields: int) -> Iterator[Pair]:
    """States that items are scored with, and the published ones."""
    if "out/eval_user_vector" in golden:
        theirs, history = golden.tensor("out/eval_user_vector"), golden.tensor("in/eval_item_seq")
        user = torch.zeros(len(history), dtype=torch.long)
        if built.targets == "masked":
            history = history[:, :-1]  # NineRec's holds the mask's slot already
    elif "out/user_vector_all" in golden:  # a table of users
        theirs = golden.tensor("out/user_vector_all")
        user = torch.arange(len(theirs))
        history = torch.zeros(len(user), 1, dtype=torch.long)
    else:
        return
    catalogue_of(built, golden, fields)
    yield built.encode_users(built.catalogue[history], history, user), theirs


def user_gradients(built: Published, golden: Golden) -> Iterator[Pair]:
    """Gradients of all that is not the item encoder's, and the published ones that were kept."""
    own = dict(built.named_parameters())
    names = published_names(golden.facts["parameters"], golden.facts["system"])
    for theirs, ours in names.items():
        user_side = ours in own and not ours.startswith("item_encoder.")
        if user_side and f"grad/{theirs}" in golden:
            yield own[ours].grad, golden.tensor(f"grad/{theirs}")


@torch.no_grad()
def catalogue_of(built: Published, golden: Golden, fields: int) -> None:
    built.eval()
    content = items.content_of(golden, torch.arange(1, built.item_encoder_rows), fields)
    vectors = built.encode_items(content)
    built.set_catalogue(torch.cat([torch.zeros_like(vectors[:1]), vectors]))


@pytest.mark.parametrize("model", [m for m in MODELS if m.name not in NOTHING], ids=str)
def test_states_and_gradients(model, golden, tmp_path):
    data, case = golden(model.name), case_of(model.name)
    built = build(model, data, tmp_path)
    pairs = list(scoring_states(built, data, case.fields))
    states, loss = trained_states(built, batch(model, data, built))
    pairs += training_states(data, states)
    for ours, theirs in pairs:
        close(ours, theirs, *[case.tolerance] * 2)
    loss.backward()
    precision = [1e-6, 1e-7] if case.tolerance < 1e-8 else [1e-4, 1e-6]  # kept as float32
    gradients = list(user_gradients(built, data))
    for ours, theirs in gradients:
        close(ours, theirs, *precision)
    assert pairs or gradients


@pytest.mark.parametrize("name", ["pixelrec/fm", "pixelrec/mofm"])
def test_fm_compares_candidates_as_the_score_of_all_pairs_does(golden, tmp_path, name):
    data, model = golden(name), BY_NAME[name]
    built = build(model, data, tmp_path)
    chosen = batch(model, data, built)
    states, _ = trained_states(built, chosen)
    _, vectors = built.encode_batch(chosen)
    positive = vectors[chosen["item_index"][:, -1]]
    negative = vectors[chosen["negative_index"][:, -1, 0]]
    theirs = data.tensor("out/fm_score").view(-1, 2)
    close((states[:, -1] * (positive - negative)).sum(1), theirs[:, 0] - theirs[:, 1])


@pytest.mark.parametrize("name", ["pixelrec/srgnn", "pixelrec/mosrgnn"])
def test_session_graphs_and_their_nodes(golden, tmp_path, name):
    data, model = golden(name), BY_NAME[name]
    histories, theirs = graph_rows(data).seq[:, :-1], data.tensor("in/train_A")
    node, first = session_nodes(histories)
    edges = adjacency(node, histories > 0)
    built = build(model, data, tmp_path)
    seen = []
    built.user_encoder.gnn.register_forward_hook(lambda module, read, out: seen.append(out))
    built.calculate_loss(batch(model, data, built))
    for row, items_of in enumerate(published_nodes(data)):
        place = (items_of > 0).nonzero()[:, 0]
        ours = histories[row, first[row]]  # the item of every node; 0 is padding's
        mine = torch.stack([(ours == item).nonzero()[0, 0] for item in items_of[place]])
        close(seen[0][row, mine], data.tensor("out/node_output")[row, place])
        for way, published in zip(edges[row].chunk(2, 1), theirs[row].chunk(2, 1), strict=True):
            close(way[mine][:, mine].double(), published[place][:, place])


def published_nodes(golden: Golden) -> Tensor:
    """Items of the nodes of every graph, padded with 0."""
    if "in/train_items" in golden:
        return golden.tensor("in/train_items")
    flat = golden.tensor("in/items_modal_index")  # then target and negative
    return flat.view(len(golden.tensor("in/train_A")), -1)[:, :-2]


def test_bert4rec_scores_with_the_mask_that_was_trained(golden, tmp_path):
    """MOBERT4Rec2, as published, scores with an encoded image; ours with its learned vector."""
    name = "ninerec/bert4rec2_image"
    data = golden(name)
    built = build(BY_NAME[name], data, tmp_path)
    catalogue_of(built, data, case_of(name).fields)
    history = data.tensor("in/eval_item_seq")
    read = built.catalogue[history]
    with torch.no_grad():
        users = built.encode_users(read, history, history[:, 0])
        # The published blocks, as training runs them, on the history and the learned mask.
        mask = built.user_encoder.mask_vector.expand(len(history), 1, -1)
        keys = F.pad(history > 0, (0, 1), value=True)
        states = built.user_encoder.encode(torch.cat([read, mask], 1), keys[:, None, None])
    close(users, states[:, -1])
    corrected = built.score(users, built.catalogue)
    assert not torch.allclose(corrected[:, 1:], data.tensor("out/scores")[:, 1:], atol=1e-3)
