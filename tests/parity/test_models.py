"""Whole models through the seams: loss, gradients, optimiser steps and scores as published.

An item encoder, a user encoder and an objective are put together by settings, filled with the
published weights under our names, and given the published batch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_morec.config import MoRecConfig
from recbole_morec.models.base import MultimodalSequential
from recbole_morec.training.optim import build_optimizer, parameter_groups
from recbole_morec.transfer.published import our_state, published_names

from . import test_item_encoders as items
from .conftest import Golden, close


@dataclass
class Model:
    """A golden and our settings for it; its item side stands in ``test_item_encoders``.

    ``first_row``: the published forward keeps the first row of its batch and drops the others. We
    compare with it on that row, and on all rows with the losses that it has row by row.
    """

    name: str
    settings: Callable[[Golden], dict[str, Any]]
    objective: str
    changes: dict[str, Any] = field(default_factory=dict)
    first_row: bool = False

    def __str__(self) -> str:
        return self.name


# --- settings out of the published sizes ---------------------------------------------------------


def pixelrec_sasrec(golden: Golden) -> dict[str, Any]:
    sizes = golden.sizes
    return {
        "user_encoder": "SASRec", "n_layers": sizes["n_layers"], "n_heads": sizes["n_heads"],
        "inner_size": sizes["inner_size"] * sizes["embedding_size"],
        "hidden_act": sizes["hidden_act"], "layer_norm_eps": sizes["layer_norm_eps"],
    }  # fmt: skip


def morec_sasrec(golden: Golden) -> dict[str, Any]:
    sizes = golden.sizes
    return {
        "user_encoder": "SASRec", "n_layers": sizes["transformer_block"],
        "n_heads": sizes["num_attention_heads"], "attention_bias": False, "hidden_act": "relu",
        "layer_norm_eps": 1e-6,
    }  # fmt: skip


def gru4rec(golden: Golden) -> dict[str, Any]:
    sizes = golden.sizes
    published = golden.facts["parameters"]
    return {
        "user_encoder": "GRU4Rec", "n_layers": sizes.get("num_layers") or sizes["block_num"],
        "hidden_multiplier": sizes.get("hidden_size", 1),
        "output_layer": "dense.weight" in published, "pad_vector": "encoded",
    }  # fmt: skip


def nextitnet(golden: Golden) -> dict[str, Any]:
    sizes = golden.sizes
    return {
        "user_encoder": "NextItNet", "kernel_size": sizes["kernel_size"],
        "block_num": sizes["block_num"], "dilations": sizes["dilations"],
        "output_layer": sizes.get("final_layer", False), "pad_vector": "encoded",
    }  # fmt: skip


def pixelrec_bert4rec(golden: Golden) -> dict[str, Any]:
    learned = "in/images" not in golden or "mask_emb" in golden.facts["parameters"]
    return {
        **pixelrec_sasrec(golden), "user_encoder": "BERT4Rec",
        "mask_vector": "learned" if learned else "encoded",
    }  # fmt: skip


def ninerec_bert4rec(golden: Golden) -> dict[str, Any]:
    kind = "encoded" if "in/item_text" in golden else "learned"
    return {
        **morec_sasrec(golden), "user_encoder": "BERT4Rec", "mask_vector": kind,
        # NineRec counts the mask's slot to the history.
        "MAX_ITEM_LIST_LENGTH": golden.sizes["max_seq_len"] - 1,
    }  # fmt: skip


def lightsans(golden: Golden) -> dict[str, Any]:
    sizes = pixelrec_sasrec(golden)
    return {
        **sizes, "user_encoder": "LightSANs", "k_interests": golden.sizes["k_interests"],
        "pad_vector": "encoded", "target_slots": "last",
    }  # fmt: skip


def dssm(golden: Golden) -> dict[str, Any]:
    layers = golden.sizes["mlp_hidden_size"][1:]
    if golden.facts["system"] == "ninerec":
        layers = [golden.sizes["embedding_size"]] * 2
    return {"user_encoder": "DSSM", "tower_layers": layers, "target_slots": "last"}


def fm(golden: Golden) -> dict[str, Any]:
    return {"user_encoder": "FM", "target_slots": "last"}


def srgnn(golden: Golden) -> dict[str, Any]:
    return {
        "user_encoder": "SRGNN", "step": golden.sizes["step"], "target_slots": "last",
        "bpr_epsilon_place": "outside", "reduction": "mean",
    }  # fmt: skip


def mf(golden: Golden) -> dict[str, Any]:
    layers = golden.sizes["mlp_hidden_size"]
    return {
        "user_encoder": "UserID", "tower_layers": layers, "tower_activation": "tanh",
        "tower_batch_norm": True, "item_tower": bool(layers), "bpr_epsilon_place": "outside",
        "reduction": "mean",
    }  # fmt: skip


def dssm_tower(golden: Golden) -> dict[str, Any]:
    """DSSM with a table of users: GELU (IDvs.MoRec), or BatchNorm and tanh (NineRec)."""
    sizes, ninerec = golden.sizes, golden.facts["system"] == "ninerec"
    return {
        "user_encoder": "UserID", "tower_layers": [sizes["embedding_dim"]] * sizes["dnn_layers"],
        "tower_activation": "tanh" if ninerec else "gelu", "tower_batch_norm": ninerec,
        "item_tower": any("id_encoder.MLP" in name for name in golden.facts["parameters"]),
        "negatives": sizes["neg_num"], "bce_average": "cells",
    }  # fmt: skip


BATCH_STATISTICS = {"encode": "every_slot", "batch_norm": "train"}
MODELS = [
    Model("pixelrec/sasrec", pixelrec_sasrec, "bpr"),
    Model("pixelrec/gru4rec", gru4rec, "bpr"),
    Model("pixelrec/nextitnet", nextitnet, "bpr"),
    Model("pixelrec/nextitnet_final_layer", nextitnet, "bpr"),
    Model("pixelrec/mosasrec", pixelrec_sasrec, "bpr"),
    Model("pixelrec/mosasrec_tiny_clip_mean", pixelrec_sasrec, "bpr"),
    Model("pixelrec/mogru4rec", gru4rec, "bpr"),
    Model("pixelrec/monextitnet", nextitnet, "bpr"),
    Model("pixelrec/fsasrec_frozen", pixelrec_sasrec, "bpr"),
    Model("pixelrec/fsasrec_hybrid", pixelrec_sasrec, "bpr"),
    Model("pixelrec/fsasrec_semantic", pixelrec_sasrec, "bpr"),
    Model("idvsmorec/bce_id", morec_sasrec, "bce"),
    Model("idvsmorec/bce_text", morec_sasrec, "bce"),
    Model("idvsmorec/bce_text_opt_mean", morec_sasrec, "bce"),
    Model("idvsmorec/bce_text_two_fields", morec_sasrec, "bce"),
    Model("idvsmorec/bce_vision_swin", morec_sasrec, "bce"),
    Model("idvsmorec/id_plus_mo_add", morec_sasrec, "bce"),
    Model("idvsmorec/id_plus_mo_cat", morec_sasrec, "bce"),
    Model("idvsmorec/id_plus_mo_cat_3", morec_sasrec, "bce"),
    Model("idvsmorec/id_plus_mo_cat_vision", morec_sasrec, "bce"),
    Model("idvsmorec/id_plus_mo_2stage_add", morec_sasrec, "bce"),
    Model("idvsmorec/id_plus_mo_2stage_cat", morec_sasrec, "bce"),
    Model("idvsmorec/twostage_text", morec_sasrec, "bce"),
    Model("idvsmorec/twostage_vision", morec_sasrec, "bce"),
    Model("idvsmorec/inbatch_id", morec_sasrec, "in_batch"),
    Model("idvsmorec/inbatch_text", morec_sasrec, "in_batch"),
    Model("idvsmorec/inbatch_vision_swin", morec_sasrec, "in_batch"),
    Model("idvsmorec/inbatch_vision_resnet", morec_sasrec, "in_batch", BATCH_STATISTICS),
    Model("pixelrec/bert4rec", pixelrec_bert4rec, "bpr"),
    Model("pixelrec/mobert4rec", pixelrec_bert4rec, "bpr"),
    Model("ninerec/bert4rec_id", ninerec_bert4rec, "bce"),
    Model("ninerec/bert4rec_text", ninerec_bert4rec, "bce"),
    Model("ninerec/bert4rec2_image", pixelrec_bert4rec, "bpr"),
    Model("pixelrec/lightsans", lightsans, "bpr"),
    Model("pixelrec/molightsans", lightsans, "bpr"),
    Model("pixelrec/dssm", dssm, "bpr", first_row=True),
    Model("pixelrec/dssm_mlp", dssm, "bpr", first_row=True),
    Model("pixelrec/modssm", dssm, "bpr"),
    Model("pixelrec/fm", fm, "bpr", first_row=True),
    Model("pixelrec/mofm", fm, "bpr"),
    Model("pixelrec/srgnn", srgnn, "bpr"),
    Model("pixelrec/mosrgnn", srgnn, "bpr"),
    Model("pixelrec/mf", mf, "bpr"),
    Model("pixelrec/mf_mlp", mf, "bpr", {"encode": "every_slot"}),
    Model("pixelrec/momf", mf, "bpr", {"bpr_epsilon": 0.0}),
    Model("idvsmorec/dssm_id", dssm_tower, "bce"),
    Model("idvsmorec/dssm_text", dssm_tower, "bce"),
    Model("idvsmorec/dssm_vision", dssm_tower, "bce"),
    Model("ninerec/dssm_id", dssm_tower, "bce", {"encode": "every_slot"}),
    Model("ninerec/dssm_text", dssm_tower, "bce"),
    Model("ninerec/dssm_variant_id", dssm, "bce", {"bce_average": "cells"}),
    Model("ninerec/dssm_variant_text", dssm, "bce", {"bce_average": "cells"}),
    Model("ninerec/bert4rec_image", pixelrec_bert4rec, "bpr", {"bpr_epsilon": 1e-6}),
    Model("ninerec/gru4rec_image_bpr", gru4rec, "bpr", {"bpr_epsilon": 1e-6}),
    Model("ninerec/cesasrec_image", pixelrec_sasrec, "item_head"),
    Model("ninerec/sasrec_text", morec_sasrec, "bce"),
    Model("ninerec/sasrec_image_swin", morec_sasrec, "bce"),
    Model("ninerec/s2o_id", morec_sasrec, "bce", {"target_slots": "last"}),
    Model("ninerec/s2o_text", morec_sasrec, "bce", {"target_slots": "last"}),
    Model("ninerec/s2o_image_swin", morec_sasrec, "bce", {"target_slots": "last"}),
    Model("ninerec/gru4rec_id", gru4rec, "bce"),
    Model("ninerec/gru4rec_text", gru4rec, "bce"),
    Model("ninerec/gru4rec_text_bce_dense", gru4rec, "bce"),
    Model("ninerec/gru4rec_image_swin", gru4rec, "bce"),
    Model("ninerec/nextitnet_text", nextitnet, "bce"),
    Model("ninerec/nextitnet_image_resnet", nextitnet, "bce", BATCH_STATISTICS),
    Model("ninerec/multimodal_text_only", morec_sasrec, "bce"),
    Model("ninerec/multimodal_image_only", morec_sasrec, "bce"),
    Model("ninerec/multimodal_concat_sasrec", morec_sasrec, "bce"),
    Model("ninerec/multimodal_sum_sasrec", morec_sasrec, "bce"),
    Model("ninerec/multimodal_film_sasrec", morec_sasrec, "bce"),
    Model("ninerec/multimodal_gated_sasrec", morec_sasrec, "bce"),
    Model("ninerec/multimodal_concat_nextitnet", nextitnet, "bce"),
    Model("ninerec/multimodal_gated_gru4rec", gru4rec, "bce"),
]


# --- model and batch -----------------------------------------------------------------------------


def case_of(name: str) -> items.Case:
    """The item side of a golden; of those that are not listed there, item ids."""
    found = next((case for case in items.CASES if case.name == name), None)
    return found or items.Case(name, "id", {})


class Published(MultimodalSequential):
    """The model of the seams, on the tiny item encoder of a golden."""

    def build_item_encoder(self, config, dataset, load_weights):
        self.golden = dataset.golden
        self.item_encoder_rows = dataset.item_num
        return items.build(dataset.case, dataset.golden, dataset.folder)

    def encode_reserved(self, kind):
        if kind == "mask" and "in/item_text" in self.golden:  # NineRec's mask is its last item
            last = torch.tensor([self.golden.sizes["item_num"]])
            return self.encode_items(items.content_of(self.golden, last))
        return super().encode_reserved(kind)


def build(model: Model, golden: Golden, folder, count: int | None = None) -> Published:
    """Ours with the published weights, for ``count`` items (as many as are scored)."""
    sizes, case = golden.sizes, case_of(model.name)
    overrides = {
        "embedding_size": sizes.get("embedding_dim") or sizes["embedding_size"],
        "MAX_ITEM_LIST_LENGTH": sizes.get("max_seq_len") or sizes["MAX_ITEM_LIST_LENGTH"],
        "item_encoder": "tiny_vit", "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0,
        "objective": model.objective, **model.settings(golden), **model.changes,
    }  # fmt: skip
    config = MoRecConfig("PixelNet", "golden", overrides=overrides)
    config["device"] = torch.device("cpu")
    count = count or golden.tensor("out/scores").shape[1]
    dataset = SimpleNamespace(
        golden=golden, case=case, folder=folder, item_num=count, num=lambda field: count,
        user_num=user_rows(golden),
    )  # fmt: skip
    built = Published(config, dataset).double()
    fill(built, golden)
    return built


def fill(model: Published, golden: Golden) -> None:
    """Load the published weights; only what takes no part in ours may be missing or left over."""
    weights, own = golden.state({"": ""}), model.state_dict()
    state, unknown = our_state(weights, own, golden.facts["system"])
    assert not unknown
    unused = items.unused(model.item_encoder, "item_encoder.")
    assert own.keys() - state.keys() <= unused
    left = state.keys() - own.keys()
    assert all("pooler" in name or "post_layernorm" in name for name in left), left
    model.load_state_dict(state, strict=False)


def mask_is_a_row(model: Published, golden: Golden) -> bool:
    """Whether the published mask, which ours keeps apart, is the last row of the item table."""
    learned = getattr(model.user_encoder, "mask_vector", None) is not None
    return learned and "mask_emb" not in golden.facts["parameters"]


def user_rows(golden: Golden) -> int:
    """Rows of the published table of users; PixelRec counts padding among the users."""
    pixelrec = golden.facts["system"] == "pixelrec"
    return golden.sizes.get("user_num", 0) + (0 if pixelrec else 1)


@dataclass
class Rows:
    """Published training rows: items ``[B, S]``, which of them are targets, and their negatives."""

    seq: Tensor
    target: Tensor
    negative: Tensor | None = None
    user: Tensor | None = None


def rows_of(golden: Golden) -> Rows:
    """The published training rows in our form, whatever their own."""
    if "in/train_item_seq" in golden:
        seq = golden.tensor("in/train_item_seq")
        return Rows(seq, after_first(seq))
    if "in/train_user" in golden:  # pairs of user and item, with negatives
        key = "in/train_items" if "in/train_items" in golden else "in/items_modal_index"
        pair = golden.tensor(key)
        user = golden.tensor("in/train_user")
        return Rows(pair[:, :1], pair[:, :1] > 0, pair[:, None, 1:], user)
    if "in/train_alias_inputs" in golden:
        return graph_rows(golden)
    if golden.facts["golden"] == "cesasrec_image":
        seq = golden.tensor("in/train_items")
        return Rows(seq, after_first(seq))
    if "in/train_mask" in golden or "in/mask_index" in golden:
        masked = golden.tensor("in/train_mask" if "in/train_mask" in golden else "in/mask_index")
        if "bert4rec" in golden.facts["golden"]:
            return masked_rows(golden, masked > 0)
    if "in/items_modal_index" in golden and "in/train_items_index" not in golden:
        both = golden.tensor("in/items_modal_index")
        if both.shape[1] == golden.sizes["MAX_ITEM_LIST_LENGTH"] + 2:
            return history_rows(both)
        return Rows(both[:, 0::2], after_first(both[:, 0::2]), both[:, 1::2])
    if "in/train_items_index" in golden:  # places in a list of the batch's images
        rows = golden.tensor("in/items_modal_index")[golden.tensor("in/train_items_index")]
    else:
        rows = golden.tensor("in/train_items")
    if rows.ndim == 2:
        return history_rows(rows)
    if rows.shape[-1] == 2:  # aligned with the input
        seq, drawn = rows.unbind(2)
        return Rows(seq, after_first(seq), drawn.roll(1, dims=1))
    seq, drawn = rows.unbind(1)
    if (seq[:, :-1] == drawn[:, :-1]).all():  # the same others, then an item and a negative
        return history_rows(torch.cat([seq, drawn[:, -1:]], 1))
    return Rows(seq, after_first(seq), drawn)


def after_first(seq: Tensor) -> Tensor:
    target = seq > 0
    target[:, 1:] &= seq[:, :-1] > 0
    target[:, 0] = False
    return target


def history_rows(rows: Tensor) -> Rows:
    """A history, its target and a negative, ``[B, L + 2]``."""
    seq = rows[:, :-1]
    target = torch.zeros_like(seq) > 0
    target[:, -1] = True
    return Rows(seq, target, rows[:, -1:] * target)


def graph_rows(golden: Golden) -> Rows:
    """Histories out of session graphs, which are padded on the right."""
    alias, mask = golden.tensor("in/train_alias_inputs"), golden.tensor("in/train_mask") > 0
    if "in/train_items" in golden:
        nodes, targets = golden.tensor("in/train_items"), golden.tensor("in/train_targets")
    else:  # images: the nodes of every graph, then target and negative
        width = golden.tensor("in/train_A").shape[1]
        nodes, targets = (
            golden.tensor("in/items_modal_index").view(len(alias), -1).split([width, 2], 1)
        )
    right = nodes.gather(1, alias) * mask
    rows = [F.pad(row[row > 0], (int((row == 0).sum()), 0)) for row in right]
    return history_rows(torch.cat([torch.stack(rows), targets], 1))


def masked_rows(golden: Golden, masked: Tensor) -> Rows:
    if "in/items_modal_index" in golden:
        shown, true, drawn = golden.tensor("in/items_modal_index").unflatten(1, (-1, 3)).unbind(2)
    else:
        rows = golden.tensor("in/train_items")
        shown, true, drawn = rows.unbind(2 if rows.shape[-1] == 3 else 1)
    if "in/log_mask" in golden:
        real = golden.tensor("in/log_mask") > 0
    elif "in/train_items" in golden:
        real = golden.tensor("in/train_items").reshape(len(shown), -1)[:, : shown.shape[1]] > 0
    else:
        real = golden.tensor("in/train_mask") != 0
    return Rows(torch.where(masked, true, shown) * real, masked, drawn * masked)


def batch_of(
    golden: Golden, count: int, targets: str, fields: int, rows: Rows | None = None
) -> dict[str, Any]:
    rows = rows or rows_of(golden)
    seq, target = rows.seq, rows.target.clone()
    if targets == "last":
        target[:, :-1] = False
    batch = {
        "user": torch.zeros(len(seq), dtype=torch.long) if rows.user is None else rows.user,
        "item_seq": seq,
        "mask": seq > 0,
        "target": target,
        "newest_only": targets == "last",
        "item_index": seq,  # every item of the catalogue is encoded, in order
        "content": items.content_of(golden, torch.arange(1, count), fields),
        "slot_count": torch.bincount(seq.flatten(), minlength=count)[1:].double(),
        "log_popularity": torch.zeros(count - 1),
        "global_rows": len(seq),
        "global_terms": int(target.sum()),
    }
    if rows.negative is not None:
        drawn = rows.negative if rows.negative.ndim == 3 else rows.negative[..., None]
        batch["negative_index"] = drawn * target[..., None]
    if "in/pop_prob" in golden:
        batch["log_popularity"] = golden.tensor("in/pop_prob")[1:].log()
    return batch


# --- what is compared ----------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_loss_gradients_and_scores(model, golden, tmp_path):
    data = golden(model.name)
    case = case_of(model.name)
    built = build(model, data, tmp_path)
    count = built.item_encoder_rows
    rows = rows_of(data)
    if model.first_row:
        one_by_one = [
            built.calculate_loss(batch_of(data, count, built.targets, case.fields, row))
            for row in alone(rows)
        ]
        close(torch.stack(one_by_one), data.tensor("out/loss_per_row"))
        rows = next(alone(rows))
    batch = batch_of(data, count, built.targets, case.fields, rows)

    # Before the training forward moves running statistics.
    tolerance = [case.tolerance] * 2
    close(scores(built, data, case)[:, 1:], data.tensor("out/scores")[:, 1:], *tolerance)
    built.train()
    loss = built.calculate_loss(batch)
    close(loss, data.tensor("out/loss"), *[case.tolerance] * 2)
    loss.backward()
    ours = dict(built.named_parameters())
    names = published_names(data.facts["parameters"], data.facts["system"])
    zero = set(data.facts.get("numerically_zero_gradients", []))
    compared = set()
    for theirs, norm in data.gradient_norms().items():
        name = names[theirs]
        precision = 1e-7 if case.tolerance < 1e-8 else 1e-4
        gradient = ours[name].grad
        if mask_is_a_row(built, data) and name.endswith("encoder.embedding.weight"):
            rows_there = data.facts["parameters"][theirs][0]
            gradient = F.pad(gradient, (0, 0, 0, rows_there - len(gradient)))
            gradient[-1] += built.user_encoder.mask_vector.grad
            compared.add("user_encoder.mask_vector")
        assert gradient.norm().item() == pytest.approx(norm, rel=precision), theirs
        compared.add(name)
    for name, parameter in ours.items():
        if parameter.requires_grad and name not in compared:
            unseen = [theirs for theirs in zero if names.get(theirs) == name]
            assert unseen or parameter.grad is None or parameter.grad.norm() < 1e-6, name
    for key in data.keys("out/after_step_buffer/"):
        theirs = key.removeprefix("out/after_step_buffer/")
        close(built.state_dict()[names[theirs]], data.tensor(key))


def alone(rows: Rows) -> Iterator[Rows]:
    """Every row as a batch of its own."""
    for row in range(len(rows.seq)):
        one = slice(row, row + 1)
        yield Rows(rows.seq[one], rows.target[one], rows.negative[one])


@torch.no_grad()
def scores(built: Published, data: Golden, case: items.Case) -> Tensor:
    """Ours after the published histories, ``[U, N]``."""
    built.eval()
    count = built.item_encoder_rows
    vectors = built.encode_items(items.content_of(data, torch.arange(1, count), case.fields))
    built.set_catalogue(torch.cat([torch.zeros_like(vectors[:1]), vectors]))
    if "out/user_vector_all" in data or "in/eval_user" in data:
        many = len(data.tensor("out/scores"))
        user = data.tensor("in/eval_user") if "in/eval_user" in data else torch.arange(many)
        history = torch.zeros(len(user), 1, dtype=torch.long)
    else:
        history = data.tensor("in/eval_item_seq")
        user = torch.zeros(len(history), dtype=torch.long)
    if "in/eval_alias_inputs" in data:  # padded on the right
        rows = [F.pad(row[row > 0], (int((row == 0).sum()), 0)) for row in history]
        history = torch.stack(rows)
    if data.facts["system"] == "ninerec" and "in/log_mask" in data and built.targets == "masked":
        history = history[:, :-1]  # NineRec's holds the mask's slot already
    if data.facts["golden"] == "bert4rec2_image":
        # As published its scores read an encoded blank image in the mask's place. Ours read the
        # mask that was trained.
        built._mask = built.encode_reserved("pad")[0]
    users = built.encode_users(built.catalogue[history], history, user)
    return built.score(users, built.catalogue)


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_losses_of_optimiser_steps(model, golden, tmp_path):
    data = golden(model.name)
    if "out/adamw_losses" not in data:
        pytest.skip("no steps were published")
    told = data.facts["outputs"]["out/adamw_losses"]["meaning"]
    rates, decays = (re.findall(rf"{word} ([\d.e-]+)", told) for word in ("lr", "decay"))
    built = build(model, data, tmp_path)
    config = {
        "learner": "adamw", "encoder_learning_rate": float(rates[0]), "learning_rate":
        float(rates[1]), "encoder_weight_decay": float(decays[0]), "weight_decay": float(decays[1]),
        # PixelRec counts the projection to the encoder, IDvs.MoRec to the rest.
        "projection_group": "encoder" if data.facts["system"] == "pixelrec" else "recommender",
    }  # fmt: skip
    optimizer = build_optimizer(parameter_groups(built, config), config)
    count = built.item_encoder_rows
    batch = batch_of(data, count, built.targets, case_of(model.name).fields)
    built.train()
    for expected in data.tensor("out/adamw_losses"):
        loss = built.calculate_loss(batch)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
