"""The line that says what a run does to be fast."""

import pytest
import torch
from accelerate import Accelerator

from recbole_morec.config import MoRecConfig
from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.models.adapter import build_adapter
from recbole_morec.training.memory import plan_memory
from recbole_morec.training.optim import build_optimizer, parameter_groups
from recbole_morec.training.savings import savings


def line(settings, model="PixelNet", keeps_memory=False, **changes):
    config = MoRecConfig(model, "colours", overrides={**settings, **changes})
    config["device"] = torch.device("cpu")
    adapter = build_adapter(config, MultimodalDataset(config))
    adapter.prepare()
    plan = plan_memory(adapter, Accelerator(cpu=True), config)
    optimizer = build_optimizer(parameter_groups(adapter.model, config), config)
    return savings(adapter, plan, optimizer, config, keeps_memory)


# 60 windows of 5 + 1 places and as many negatives, of 40 items.
CASES = {
    "trained": (
        {"item_encoder": "image", "objective": "bpr", "train_batch_size": 60},
        ["40 distinct items encoded in place of 720 slots", "18.0 times fewer block passes", "fp32",
         "adamw fused", "batches built in the training thread"],
    ),
    "every slot": (
        {"item_encoder": "image", "objective": "bpr", "train_batch_size": 60,
         "encode": "every_slot"},
        ["720 items encoded a step"],
    ),
    # 720 slots x (5 frozen blocks + 3 x 1 trained) against 40 items x 3.
    "partly stored": (
        {"item_encoder": "tiny_vit", "objective": "bpr", "train_batch_size": 60,
         "train_layers": "last_1"},
        ["tiny_vit: the states after 5 of its 6 blocks are read", "48.0 times fewer block passes"],
    ),
    "frozen": (
        {"item_encoder": "tiny_vit", "train_layers": "none"},
        ["tiny_vit: its vectors are read", "no block computed"],
    ),
    "text": (
        {"item_encoder": "text", "worker": 2, "learner": "sgd"},
        ["eager attention", "batches built beside it by 2 workers",
         "texts of like length together"],
    ),
    "chunks": (
        {"item_encoder": "image", "encode_chunk": 16},
        ["16 at a time and again on the way back"],
    ),
    "convolutions": ({"item_encoder": "tiny_resnet"}, ["channels last"]),
    "ids": ({"item_encoder": "id"}, ["fp32, adamw fused"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_on_is_said(settings, case):
    changes, told = CASES[case]
    said = line(settings, **changes)
    for part in told:
        assert part in said, said
    assert ("fused" in said) == (changes.get("learner") != "sgd")


def test_what_is_not_on_is_not_said(settings):
    assert "freed memory kept" in line(settings, keeps_memory=True)
    assert "freed memory kept" not in line(settings)
    assert "at a time" not in line(settings, item_encoder="image", encode_chunk=64)  # of 40 items
    for changes in ({"text_buckets": False}, {"train_layers": "none"}):
        assert "like length" not in line(settings, item_encoder="text", **changes)
    for fusion, buckets in (("concat", True), ("co_attention", False), ("merged_attention", False)):
        said = line(settings, item_encoder="image+text", fusion=fusion)
        assert ("like length" in said) == buckets


def test_a_stock_model_with_content_counts_its_items(settings):
    said = line(settings, "GRU4Rec", item_encoder="image", loss_type="BPR", hidden_size=16)
    assert said.startswith("40 items encoded a step, fp32"), said
