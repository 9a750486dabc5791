"""Objectives alone: published losses from the published states, scores and item vectors."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from recbole_morec.objectives import Objective, positions
from recbole_morec.objectives.bce import BCE
from recbole_morec.objectives.bpr import BPR
from recbole_morec.objectives.in_batch import InBatch
from recbole_morec.objectives.item_head import ItemHead

from .conftest import Golden, close

SIDES = [
    "bce_id", "bce_text", "bce_text_opt_mean", "bce_text_two_fields", "bce_vision_swin",
    "id_plus_mo_2stage_add", "id_plus_mo_2stage_cat", "id_plus_mo_add", "id_plus_mo_cat",
    "id_plus_mo_cat_3", "id_plus_mo_cat_vision", "twostage_text", "twostage_vision",
]  # fmt: skip
SIDES = [f"idvsmorec/{name}" for name in SIDES] + [
    f"ninerec/{name}"
    for name in (
        "bert4rec_id", "bert4rec_text", "gru4rec_id", "gru4rec_image_swin", "gru4rec_text",
        "multimodal_concat_nextitnet", "multimodal_concat_sasrec", "multimodal_film_sasrec",
        "multimodal_gated_gru4rec", "multimodal_gated_sasrec", "multimodal_image_only",
        "multimodal_sum_sasrec", "multimodal_text_only", "nextitnet_image_resnet", "nextitnet_text",
        "s2o_id", "s2o_image_swin", "s2o_text", "sasrec_image_swin", "sasrec_text",
    )
]  # fmt: skip
CELLS = [
    "idvsmorec/dssm_id", "idvsmorec/dssm_text", "idvsmorec/dssm_vision", "ninerec/dssm_id",
    "ninerec/dssm_text",
]  # fmt: skip
IN_BATCH = ["inbatch_id", "inbatch_text", "inbatch_vision_resnet", "inbatch_vision_swin"]
SLOT_BY_SLOT = [
    "pixelrec/sasrec", "pixelrec/gru4rec", "pixelrec/nextitnet", "pixelrec/nextitnet_final_layer",
    "pixelrec/fsasrec_frozen", "pixelrec/fsasrec_hybrid", "pixelrec/fsasrec_semantic",
    "pixelrec/mosasrec", "pixelrec/mogru4rec", "pixelrec/monextitnet", "pixelrec/bert4rec",
    "pixelrec/mobert4rec", "ninerec/gru4rec_image_bpr", "ninerec/bert4rec_image",
    "ninerec/bert4rec2_image",
]  # fmt: skip
PAIRS = ["pixelrec/mf", "pixelrec/momf", "pixelrec/lightgcn", "pixelrec/srgnn", "pixelrec/mosrgnn"]


def loss_of(objective: Objective, states: Tensor, vectors: Tensor, batch: dict[str, Any], offset=0):
    batch |= {"global_rows": len(states), "global_terms": int(batch["target"].sum())}
    return objective(states, positions(batch, offset), vectors, batch)


def from_scores(objective: Objective, positive: Tensor, negative: Tensor) -> Tensor:
    """The loss of scores ``[M]`` and ``[M, K]``: states are 1, an item's vector is its score."""
    count, scores = len(positive), torch.cat([positive[:, None], negative], 1)
    index = 1 + torch.arange(scores.numel()).view_as(scores)
    batch = {
        "target": torch.ones(count, 1, dtype=torch.bool),
        "item_index": index[:, :1],
        "negative_index": index[:, None, 1:],
    }
    vectors = torch.cat([torch.zeros(1, 1), scores.reshape(-1, 1)])
    return loss_of(objective, torch.ones(count, 1, 1), vectors, batch)


def bpr_of(golden: Golden) -> BPR:
    """Epsilon and its place as the golden's notes tell them; else PixelRec's."""
    notes = " ".join(golden.facts.get("notes", []))
    if "no epsilon" in notes:
        return BPR(epsilon=0.0, reduction="mean")
    found = re.search(r"epsilon is (1e-\d)|epsilon (1e-\d)\.|mean\((1e-\d) \+ log", notes)
    epsilon = float(next(filter(None, found.groups()))) if found else 1e-8
    if "outside the logarithm" in notes:
        return BPR(epsilon=epsilon, place="outside", reduction="mean")
    return BPR(epsilon=epsilon)


@pytest.mark.parametrize("name", SIDES)
def test_bce_of_positives_and_negatives_apart(golden, name):
    data = golden(name)
    positive, negative = data.tensor("out/pos_scores"), data.tensor("out/neg_scores")
    close(from_scores(BCE(), positive, negative[:, None]), data.tensor("out/loss"))


@pytest.mark.parametrize("name", CELLS)
def test_bce_over_all_cells(golden, name):
    data = golden(name)
    scores, label = data.tensor("out/train_scores"), data.tensor("in/bce_label")
    assert (label[:, 0] == 1).all()
    assert (label[:, 1:] == 0).all()
    objective = BCE(scores.shape[1] - 1, "cells")
    close(from_scores(objective, scores[:, 0], scores[:, 1:]), data.tensor("out/loss"))


@pytest.mark.parametrize("name", IN_BATCH)
@pytest.mark.parametrize("rows", ["per slot", "distinct"])
def test_in_batch(golden, name, rows):
    data = golden(f"idvsmorec/{name}")
    seq, share = data.tensor("in/train_item_seq"), data.tensor("in/pop_prob")
    target = torch.zeros_like(seq, dtype=torch.bool)
    target[:, 1:] = data.tensor("out/valid_rows")
    if rows == "per slot":  # as published
        vectors, index = data.tensor("out/item_emb_slots"), torch.arange(seq.numel()) + 1
        ids, index, count = seq.flatten(), index.view_as(seq), (seq.flatten() > 0).double()
    elif name == "inbatch_vision_resnet":
        pytest.skip("batch statistics: an item's vector depends on its batch")
    else:
        vectors, index = data.tensor("out/item_emb_all")[1:], seq
        ids = torch.arange(1, len(share))
        count = torch.bincount(seq.flatten(), minlength=len(share))[1:].double()
    batch = {
        "item_seq": seq, "target": target, "item_index": index, "content": {"items": ids},
        "slot_count": count, "log_popularity": share[ids].log(),
    }  # fmt: skip
    vectors = torch.cat([torch.zeros(1, vectors.shape[1]), vectors])
    loss = loss_of(InBatch(), data.tensor("out/seq_output"), vectors, batch, offset=1)
    close(loss, data.tensor("out/loss"))


@pytest.mark.parametrize("name", SLOT_BY_SLOT)
def test_bpr_at_every_slot(golden, name):
    data = golden(name)
    states, valid = data.tensor("out/seq_output"), data.tensor("out/valid_rows")
    masked = "bert4rec" in name
    if "in/items_modal_index" in data:
        told = data.tensor("in/items_modal_index").unflatten(1, (-1, 3 if masked else 2))
        items, negatives = told[..., -2], told[..., -1]
    else:
        items, negatives = data.tensor("in/train_items")[:, -2:].unbind(1)
    if masked:
        valid = data.tensor("in/train_mask") > 0
    else:  # states stand at the slot before
        items, negatives = items[:, 1:], negatives[:, 1:]
    batch = {"target": valid, "item_index": items, "negative_index": negatives[..., None]}
    loss = loss_of(bpr_of(data), states, data.tensor("out/item_emb_all"), batch)
    close(loss, data.tensor("out/loss"))


@pytest.mark.parametrize("name", PAIRS)
def test_bpr_of_pairs(golden, name):
    data = golden(name)
    items = data.tensor("out/item_emb_all")
    if "out/session_vector" in data:
        users = data.tensor("out/session_vector")
        if "in/train_targets" in data:
            pairs = data.tensor("in/train_targets")
        else:
            pairs = data.tensor("in/items_modal_index").view(len(users), -1)[:, -2:]
    else:
        key = "out/user_emb_all" if "out/user_emb_all" in data else "param/user_embedding.weight"
        users = data.tensor(key)[data.tensor("in/train_user")]
        images = "in/items_modal_index" in data
        pairs = data.tensor("in/items_modal_index" if images else "in/train_items")
    chosen = (users[:, None] * items[pairs]).sum(-1)  # [B, 2]
    close(from_scores(bpr_of(data), chosen[:, 0], chosen[:, 1:]), data.tensor("out/loss"))


def test_item_head(golden):
    data = golden("ninerec/cesasrec_image")
    seq, states = data.tensor("in/train_items"), data.tensor("out/seq_output")
    head = ItemHead(data.sizes["item_num"], states.shape[-1])
    head.head.load_state_dict(data.state({"pred.": ""}))
    count = data.sizes["item_num"]
    target = torch.zeros_like(seq, dtype=torch.bool)
    target[:, 1:] = data.tensor("out/valid_rows")
    batch = {"target": target, "item_index": seq, "content": {"items": torch.arange(1, count)}}
    loss = loss_of(head, states, data.tensor("out/item_emb_all"), batch, offset=1)
    close(loss, data.tensor("out/loss"))
