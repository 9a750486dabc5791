"""Whole models through the seams: loss, gradients, optimiser steps and scores as published.

An item encoder, a user encoder and an objective are put together by settings, filled with the
published weights under our names, and given the published batch.
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

from recbole_morec.config import MoRecConfig
from recbole_morec.models.base import MultimodalSequential
from recbole_morec.training.optim import build_optimizer, parameter_groups
from recbole_morec.transfer.published_items import item_names

from . import test_item_encoders as items
from .conftest import Golden, close
from .test_causal_user_encoders import morec_names


@dataclass
class Model:
    """A golden and our settings for it; its item side stands in ``test_item_encoders``."""

    name: str
    settings: Callable[[Golden], dict[str, Any]]
    objective: str
    changes: dict[str, Any] = field(default_factory=dict)

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


def user_names(golden: Golden) -> dict[str, str]:
    """Prefixes of published names of the user side and ours."""
    return {
        **morec_names(golden.sizes.get("transformer_block", 0)),
        "position_embedding.": "positions.", "LayerNorm.": "norm.", "trm_encoder.": "layers.",
        "gru_layers.": "gru.", "user_encoder.gru_layers.": "gru.", "dense.": "output.",
        "residual_blocks.": "blocks.", "user_encoder.residual_blocks.": "blocks.",
        "final_layer.": "output.",
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
        return items.build(dataset.case, dataset.golden, dataset.folder)


def build(model: Model, golden: Golden, folder) -> Published:
    sizes, case = golden.sizes, case_of(model.name)
    overrides = {
        "embedding_size": sizes.get("embedding_dim") or sizes["embedding_size"],
        "MAX_ITEM_LIST_LENGTH": sizes.get("max_seq_len") or sizes["MAX_ITEM_LIST_LENGTH"],
        "item_encoder": "id", "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0,
        "objective": model.objective, **model.settings(golden), **model.changes,
    }  # fmt: skip
    config = MoRecConfig("PixelNet", "golden", overrides=overrides)
    config["device"] = torch.device("cpu")
    count = len(golden.tensor("out/item_emb_all"))
    dataset = SimpleNamespace(
        golden=golden, case=case, folder=folder, item_num=count, num=lambda field: count,
        user_num=sizes.get("user_num", 0) + 1,
    )  # fmt: skip
    built = Published(config, dataset).double()
    fill(built, golden)
    return built


def fill(model: Published, golden: Golden) -> None:
    """Load the published weights; only what takes no part in ours may be missing or left over."""
    items.load(model.item_encoder, golden.facts["system"], golden.state({"": ""}))
    model.user_encoder.load_state_dict(golden.state(user_names(golden)), strict=True)


def our_name(golden: Golden, theirs: str, names: dict[str, str]) -> str:
    if theirs in names:
        return names[theirs]
    users = user_names(golden)
    prefix = next(each for each in users if theirs.startswith(each))
    return f"user_encoder.{users[prefix]}{theirs.removeprefix(prefix)}"


def rows_of(golden: Golden) -> tuple[Tensor, Tensor | None]:
    """The published training rows ``[B, L+1]``, and a negative for each slot as a target."""
    if "in/train_item_seq" in golden:
        return golden.tensor("in/train_item_seq"), None
    if "in/items_modal_index" in golden:
        both = golden.tensor("in/items_modal_index")
        return both[:, 0::2], both[:, 1::2]
    rows = golden.tensor("in/train_items")
    if rows.shape[-1] == 2:  # aligned with the input
        seq, drawn = rows.unbind(2)
        return seq, drawn.roll(1, dims=1)
    return rows[:, 0], rows[:, 1]


def batch_of(golden: Golden, count: int, targets: str, fields: int) -> dict[str, Any]:
    seq, negative = rows_of(golden)
    target = seq > 0
    target[:, 1:] &= seq[:, :-1] > 0
    target[:, 0] = False
    if targets == "last":
        target[:, :-1] = False
    batch = {
        "user": torch.zeros(len(seq), dtype=torch.long),
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
    if negative is not None:
        batch["negative_index"] = negative[..., None] * target[..., None]
    if "in/pop_prob" in golden:
        batch["log_popularity"] = golden.tensor("in/pop_prob")[1:].log()
    return batch


# --- what is compared ----------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_loss_gradients_and_scores(model, golden, tmp_path):
    data = golden(model.name)
    case = case_of(model.name)
    built = build(model, data, tmp_path)
    count = len(data.tensor("out/item_emb_all"))
    batch = batch_of(data, count, built.targets, case.fields)

    scores(built, data, case)  # before the training forward moves running statistics
    built.train()
    loss = built.calculate_loss(batch)
    close(loss, data.tensor("out/loss"), *[case.tolerance] * 2)
    loss.backward()
    ours = dict(built.named_parameters())
    names = item_names(data.facts["system"], data.state({"": ""}))
    zero = set(data.facts.get("numerically_zero_gradients", []))
    compared = set()
    for theirs, norm in data.gradient_norms().items():
        name = our_name(data, theirs, names)
        precision = 1e-7 if case.tolerance < 1e-8 else 1e-4
        assert ours[name].grad.norm().item() == pytest.approx(norm, rel=precision), theirs
        compared.add(name)
    for name, parameter in ours.items():
        if parameter.requires_grad and name not in compared:
            unseen = [theirs for theirs in zero if our_name(data, theirs, names) == name]
            assert unseen or parameter.grad is None or parameter.grad.norm() < 1e-6, name
    for key in data.keys("out/after_step_buffer/"):
        theirs = key.removeprefix("out/after_step_buffer/")
        close(built.state_dict()[our_name(data, theirs, names)], data.tensor(key))


@torch.no_grad()
def scores(built: Published, data: Golden, case: items.Case) -> None:
    built.eval()
    count = len(data.tensor("out/item_emb_all"))
    vectors = built.encode_items(items.content_of(data, torch.arange(1, count), case.fields))
    built.set_catalogue(torch.cat([torch.zeros_like(vectors[:1]), vectors]))
    history = data.tensor("in/eval_item_seq")
    users = built.encode_users(built.catalogue[history], history, torch.zeros(len(history)).long())
    tolerance = [case.tolerance] * 2
    close(built.score(users, built.catalogue)[:, 1:], data.tensor("out/scores")[:, 1:], *tolerance)


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
    count = len(data.tensor("out/item_emb_all"))
    batch = batch_of(data, count, built.targets, case_of(model.name).fields)
    built.train()
    for expected in data.tensor("out/adamw_losses"):
        loss = built.calculate_loss(batch)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
