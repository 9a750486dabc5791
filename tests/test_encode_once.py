"""Encoding each distinct item of a batch once gives the loss and gradients of every slot's own."""

import copy

import pytest
import torch

from recbole_morec.config import MoRecConfig
from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.data.loader import TrainLoader
from recbole_morec.models.adapter import build_adapter


def every_slot(adapter, batch):
    """The same batch with an item per slot: nothing is shared, padding aside."""
    plain = copy.copy(batch)
    indices = {"item_index": batch["item_index"]}
    if "negative_index" in batch:
        indices["negative_index"] = batch["negative_index"]
    flat = torch.cat([index.flatten() for index in indices.values()])
    distinct = batch["content"]["items"]
    used = flat[flat > 0] - 1  # row of each real slot among the distinct items
    plain["content"] = adapter.content.fetch(distinct[used].numpy())
    plain["log_popularity"] = batch["log_popularity"][used]
    own = torch.zeros_like(flat)
    own[flat > 0] = torch.arange(1, len(used) + 1)
    start = 0
    for name, index in indices.items():
        plain[name] = own[start : start + index.numel()].view_as(index)
        start += index.numel()
    # As many columns as slots, each counted once; drawn negatives stand in no slot.
    plain["slot_count"] = torch.zeros(len(used))
    plain["slot_count"][plain["item_index"][batch["mask"]] - 1] = 1
    return plain


@pytest.mark.parametrize("encoder", ["image", "text", "image+text", "id"])
@pytest.mark.parametrize("objective", ["in_batch", "bpr"])
def test_distinct_items_equal_every_slot(settings, encoder, objective):
    overrides = {**settings, "item_encoder": encoder, "objective": objective}
    overrides |= {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "encoder_dropout": 0.0}
    config = MoRecConfig("PixelNet", "colours", overrides=overrides)
    config["device"] = torch.device("cpu")
    torch.manual_seed(3)
    adapter = build_adapter(config, MultimodalDataset(config))
    adapter.model.double()  # sums over hundreds of slots; pooling sums in float32
    batch = next(TrainLoader(adapter.batches(), 24, seed=1).epoch(0))
    plain = every_slot(adapter, batch)
    assert len(plain["content"]["items"]) > 2 * len(batch["content"]["items"])

    found = []
    for each in (batch, plain):
        adapter.model.zero_grad()
        loss = adapter.loss(each)
        loss.backward()
        gradients = {n: p.grad.clone() for n, p in adapter.model.named_parameters()}
        found.append((loss, gradients))
    (once, gradients), (slots, expected) = found
    assert once.item() == pytest.approx(slots.item(), rel=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-7, msg=name)


@pytest.mark.parametrize("pad_vector", ["zero", "encoded"])
@pytest.mark.parametrize("objective", ["in_batch", "bpr"])
def test_every_slot_is_the_same_without_batch_statistics(settings, objective, pad_vector):
    # GRU4Rec reads padding, so its vector has to be right in both.
    overrides = {**settings, "item_encoder": "image", "objective": objective}
    overrides |= {"user_encoder": "GRU4Rec", "pad_vector": pad_vector, "hidden_dropout_prob": 0.0}
    overrides |= {"MAX_ITEM_LIST_LENGTH": 9}  # longer than any history
    found = []
    for encode in ("distinct", "every_slot"):
        config = MoRecConfig("PixelNet", "colours", overrides={**overrides, "encode": encode})
        config["device"] = torch.device("cpu")
        torch.manual_seed(3)
        adapter = build_adapter(config, MultimodalDataset(config))
        adapter.model.double()
        seen = []
        forward = adapter.model.item_encoder.forward
        adapter.model.item_encoder.forward = lambda c, f=forward, s=seen: s.append(c) or f(c)
        batch = next(TrainLoader(adapter.batches(), 24, seed=1).epoch(0))
        loss = adapter.loss(batch)
        loss.backward()
        gradients = {n: p.grad for n, p in adapter.model.named_parameters()}
        slots = batch["item_index"].numel() + batch.get("negative_index", torch.zeros(0)).numel()
        found.append((loss, gradients, len(seen[0]["items"]), slots))
    (once, gradients, _, _), (slotwise, expected, rows, slots) = found
    assert rows == slots  # padding included
    assert once.item() == pytest.approx(slotwise.item(), rel=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-7, msg=name)
