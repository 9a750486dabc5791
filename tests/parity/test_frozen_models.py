"""PixelRec's models on frozen features: item vectors, scores, losses, gradients, optimiser steps.

The real model classes, their features read from a file by item token, filled with the published
weights through the names in the package.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_morec.config import MoRecConfig
from recbole_morec.models.base import MultimodalRecommender
from recbole_morec.models.lookup import find_model
from recbole_morec.training.optim import build_optimizer, parameter_groups
from recbole_morec.transfer.published import our_state, published_names

from .conftest import Golden, close
from .test_item_encoders import write_table
from .test_models import Rows, batch_of, history_rows, rows_of


@dataclass
class Published:
    """A golden, our model and settings for it, and its training rows in our form.

    A setting may be a function of the golden.
    """

    name: str
    model: str
    rows: Callable[[Golden], Rows]
    settings: dict[str, Any] = field(default_factory=dict)
    # What of our item vectors `out/item_emb_all` holds.
    items: Callable[[Golden, Tensor], Tensor] = lambda golden, vectors: vectors

    def __str__(self) -> str:
        return self.name


def pairs(golden: Golden) -> Rows:
    """Pairs of a positive and a negative item, ``[P, 2]``."""
    positive, negative = golden.tensor("in/train_items").T[..., None]
    return Rows(positive, positive > 0, negative)


def profiles(golden: Golden) -> Rows:
    """Profile, positive and negative; the user stands last."""
    return history_rows(golden.tensor("in/train_items")[:, :-1])


def visual(golden: Golden, vectors: Tensor) -> Tensor:
    """Of VBPR's item vectors, half of which are free, without the bias at their end."""
    size = golden.sizes["embedding_size"]
    return vectors[:, size // 2 : size]


SASREC = {
    "n_layers": lambda golden: golden.sizes["n_layers"],
    "n_heads": lambda golden: golden.sizes["n_heads"],
    "inner_size": lambda golden: golden.sizes["inner_size"] * golden.sizes["embedding_size"],
}
MODELS = [
    Published("vbpr", "VBPR", pairs, items=visual),
    Published("acf", "ACF", profiles, items=lambda golden, vectors: vectors[:, 0]),
    Published(
        "curatornet", "CuratorNet", lambda golden: history_rows(golden.tensor("in/train_items")),
        {"pad_vector": "encoded"},
    ),
    Published("fsasrec_frozen", "FSASRec", rows_of, SASREC),
    Published(
        "fsasrec_hybrid", "FSASRec", rows_of,
        {
            **SASREC, "item_encoder": ["features", "id"], "fusion": "concat",
            "projection_layers": lambda golden: {
                "features": "none", "fusion": golden.sizes["dnn_layers"]
            },
        },
    ),
    Published("fsasrec_semantic", "FSASRec", rows_of, {**SASREC, "item_encoder": "codes"}),
]  # fmt: skip


def stub(golden: Golden, folder) -> SimpleNamespace:
    count, users = golden.sizes["item_num"], golden.sizes["user_num"]
    return SimpleNamespace(
        item_num=count, user_num=users, num=lambda name: users if name == "user_id" else count,
        folder=folder, item_tokens=["[PAD]", *(f"i{i}" for i in range(1, count))],
        candidates=torch.arange(count).numpy() > 0,
    )  # fmt: skip


def build(model: str, golden: Golden, folder, **settings) -> MultimodalRecommender:
    """The model of ours, in double precision."""
    for key, name in (("in/v_feat", "features"), ("in/semantic_codes", "codes")):
        if key in golden:
            settings[name] = write_table(folder, name, golden.tensor(key))
    config = MoRecConfig(
        model, "golden",
        overrides={
            "embedding_size": golden.sizes["embedding_size"],
            "MAX_ITEM_LIST_LENGTH": golden.sizes["MAX_ITEM_LIST_LENGTH"],
            "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, **settings,
        },
    )  # fmt: skip
    config["device"] = torch.device("cpu")
    return find_model(model)(config, stub(golden, folder)).double()


def filled(published: Published, golden: Golden, folder) -> MultimodalRecommender:
    """With the published weights; every parameter of ours has one of theirs."""
    settings = {
        key: read(golden) if callable(read) else read for key, read in published.settings.items()
    }
    model = build(published.model, golden, folder, **settings)
    weights = golden.state({"": ""})
    state, unknown = our_state(weights, model.state_dict())
    model.load_state_dict(state, strict=True)
    if unknown:  # CuratorNet's features are a parameter, padding's too
        assert unknown == ["embedding.weight"]
        model.item_encoder.matrix.copy_(weights["embedding.weight"])
    return model


def batch(published: Published, golden: Golden, model: MultimodalRecommender) -> dict[str, Any]:
    rows = published.rows(golden)
    made = batch_of(golden, golden.sizes["item_num"], model.targets, 1, rows)
    made["user"] = users_of(golden, "train", len(rows.seq))
    return made


def users_of(golden: Golden, phase: str, count: int) -> Tensor:
    if f"in/{phase}_user" in golden:
        return golden.tensor(f"in/{phase}_user")
    if golden.facts["golden"] == "acf":
        return golden.tensor("in/train_items" if phase == "train" else "in/eval_item_seq")[:, -1]
    return torch.zeros(count, dtype=torch.long)


def histories_of(golden: Golden) -> Tensor:
    if golden.facts["golden"] == "visrank":
        return whole_histories(golden)
    if "in/eval_item_seq" not in golden:  # the users alone
        return golden.tensor("in/eval_target")[:, None]
    histories = golden.tensor("in/eval_item_seq")
    return histories[:, :-1] if golden.facts["golden"] == "acf" else histories


@torch.no_grad()
def scores(model: MultimodalRecommender, golden: Golden) -> tuple[Tensor, Tensor]:
    """Item vectors ``[N, ..., d]`` and scores ``[U, N]``, padding and all."""
    model.eval()
    count = golden.sizes["item_num"]
    vectors = model.encode_items({"items": torch.arange(count)})
    catalogue = vectors.clone()
    if model.pad_vector == "zero":
        catalogue[0] = 0.0
    model.set_catalogue(catalogue)
    histories = histories_of(golden)
    users = users_of(golden, "eval", len(histories))
    read = model.encode_users(model.catalogue[histories], histories, users)
    return vectors, model.score(read, model.catalogue)


@pytest.mark.parametrize("published", MODELS, ids=str)
def test_item_vectors_and_scores(published, golden, tmp_path):
    data = golden(f"pixelrec/{published.name}")
    vectors, ours = scores(filled(published, data, tmp_path), data)
    close(published.items(data, vectors)[1:], data.tensor("out/item_emb_all")[1:])
    close(ours[:, 1:], data.tensor("out/scores")[:, 1:])
    if published.name == "vbpr":
        close(vectors[1:, -1], data.tensor("out/total_visual_bias")[1:])


@pytest.mark.parametrize("published", MODELS, ids=str)
def test_loss_and_gradients(published, golden, tmp_path):
    data = golden(f"pixelrec/{published.name}")
    model = filled(published, data, tmp_path).train()
    loss = model.calculate_loss(batch(published, data, model))
    close(loss, data.tensor("out/loss"))
    loss.backward()
    own = dict(model.named_parameters())
    compared = compare_gradients(data, own)
    zero = data.facts.get("numerically_zero_gradients", [])
    unseen = set(published_names(zero).values())
    for name, parameter in own.items():
        assert name in compared or name in unseen, name
        if name in unseen:
            assert parameter.grad.norm() < 1e-12


def compare_gradients(golden: Golden, own: dict[str, torch.nn.Parameter]) -> set[str]:
    """Check norms, and full gradients where there are some; returns what was compared."""
    names = published_names(golden.facts["parameters"])
    norms = golden.gradient_norms()
    for theirs, norm in norms.items():
        assert own[names[theirs]].grad.norm().item() == pytest.approx(norm, rel=1e-9), theirs
        if f"grad/{theirs}" in golden:
            close(own[names[theirs]].grad, golden.tensor(f"grad/{theirs}"), 1e-6, 1e-7)  # float32
    return {names[theirs] for theirs in norms}


def test_losses_of_vbprs_optimiser_steps(golden, tmp_path):
    data = golden("pixelrec/vbpr")
    published = MODELS[0]
    model = filled(published, data, tmp_path).train()
    told = data.facts["outputs"]["out/adamw_losses"]["meaning"]
    rates, decays = (
        [float(number) for number in re.findall(rf"{word} ([\d.e-]+)", told)]
        for word in ("lr", "decay")
    )
    config = {  # E and b at the first rates, the rest at the second
        "learner": "adamw", "encoder_learning_rate": rates[0], "encoder_weight_decay": decays[0],
        "learning_rate": rates[1], "weight_decay": decays[1], "projection_group": "encoder",
    }  # fmt: skip
    optimizer = build_optimizer(parameter_groups(model, config), config)
    for expected in data.tensor("out/adamw_losses"):
        loss = model.calculate_loss(batch(published, data, model))
        assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def test_acfs_states_and_attention(golden, tmp_path):
    data = golden("pixelrec/acf")
    model = filled(MODELS[1], data, tmp_path)
    shares = []
    attend = model.user_encoder.alpha
    model.user_encoder.alpha = lambda *args: shares.append(attend(*args)) or shares[-1]
    rows = profiles(data).seq
    vectors = model.encode_items({"items": torch.arange(data.sizes["item_num"])})
    users = model.encode_users(vectors[rows[:, :-1]], rows[:, :-1], users_of(data, "train", 0))
    close(users, data.tensor("out/user_vector"))
    close(shares[0][:, -1], data.tensor("out/profile_attention"))


@torch.no_grad()
def test_curatornets_profile(golden, tmp_path):
    data = golden("pixelrec/curatornet")
    model = filled(MODELS[2], data, tmp_path)
    histories = data.tensor("in/train_items")[:, :-2]
    vectors = model.encode_items({"items": torch.arange(data.sizes["item_num"])})
    states = model.encode_users(vectors[histories], histories, torch.zeros(len(histories)).long())
    close(states, torch.selu(data.tensor("out/profile_output")[:, 0]))


@pytest.mark.parametrize("method", ["average_top_k", "maximum", "average"])
def test_visrank(method, golden, tmp_path):
    data = golden("pixelrec/visrank")
    top = data.sizes["top_num"]
    model = build("VisRank", data, tmp_path, visrank_method=method, visrank_top=top)
    _, ours = scores(model, data)
    close(ours[:, 1:], data.tensor(f"out/scores_{method}")[:, 1:])


def whole_histories(golden: Golden) -> Tensor:
    """What VisRank reads as published: up to 50 items, whatever the length that others read."""
    row, items = golden.tensor("in/eval_history_user"), golden.tensor("in/eval_history_item")
    longest = int(torch.bincount(row).max())
    each = [items[row == user] for user in range(len(golden.tensor("in/eval_target")))]
    return torch.stack([F.pad(one, (longest - len(one), 0)) for one in each])
