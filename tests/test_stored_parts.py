"""Stored states in the place of content: equal losses, gradients and ranks; kept up to date."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_world
from PIL import Image
from test_processes import launch

from recbole_morec.config import MoRecConfig
from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.data.loader import TrainLoader
from recbole_morec.errors import DataError
from recbole_morec.item_encoders import stored
from recbole_morec.models.adapter import build_adapter
from recbole_morec.run import run

SETTINGS = [
    {"item_encoder": "image", "train_layers": "last_1"},
    {"item_encoder": "image", "train_layers": "none"},
    {"item_encoder": "image", "train_layers": "none", "pooling": "project_mean"},
    {"item_encoder": "image", "train_layers": "last_1", "image_encoder": "tiny_vit"},
    {"item_encoder": "text", "train_layers": "last_1"},
    {"item_encoder": "text", "train_layers": "none"},
    {"item_encoder": "text", "train_layers": "none", "text_fields_as": "averaged"},
    {"item_encoder": "image+text", "train_layers": "last_1", "fusion": "concat"},
    {"item_encoder": "image+text", "train_layers": {"image": "none", "text": "last_1"}},
    {"item_encoder": "image+text", "train_layers": "none", "fusion": "co_attention"},
]


@pytest.fixture
def own_world(settings, tmp_path):
    """A world whose prepared folder no other test writes to."""
    folder = write_world(tmp_path / "data" / "colours")
    return {**settings, "data_path": str(folder.parent)}, folder


def adapter_of(settings, **overrides):
    config = MoRecConfig("PixelNet", "colours", overrides={**settings, **overrides})
    config["device"] = torch.device("cpu")
    torch.manual_seed(3)
    return build_adapter(config, MultimodalDataset(config))


def step_of(adapter):
    """Loss, gradients and content keys of one batch, with dropout as the seed draws it."""
    adapter.prepare()
    adapter.model.train()
    batch = next(TrainLoader(adapter.batches(), 24, seed=1).epoch(0))
    torch.manual_seed(5)
    loss = adapter.loss(batch)
    loss.backward()
    gradients = {n: p.grad for n, p in adapter.model.named_parameters() if p.grad is not None}
    return loss.item(), gradients, set(batch["content"])


def stores_of(folder: Path) -> list[Path]:
    return sorted((folder / "prepared").glob("states-*"))


@pytest.mark.parametrize("choice", SETTINGS, ids=lambda c: "-".join(map(str, c.values())))
def test_a_step_is_that_of_the_whole_encoder(own_world, choice):
    settings, folder = own_world
    plain = adapter_of(settings, **choice, store_states=False)
    stored = adapter_of(settings, **choice, store_states=True)
    loss, gradients, _ = step_of(plain)
    ours, our_gradients, content = step_of(stored)
    assert "image" not in content
    assert stores_of(folder)
    assert ours == pytest.approx(loss, rel=1e-6)
    assert our_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(our_gradients[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("layers", ["last_1", "none"])
def test_runs_are_equal(own_world, layers):
    settings, _ = own_world
    choice = {"item_encoder": "image+text", "train_layers": layers, "epochs": 2, "seed": 4}
    plain = run("PixelNet", "colours", overrides={**settings, **choice, "store_states": False})
    found = run("PixelNet", "colours", overrides={**settings, **choice})
    for group, metrics in plain["test"].items():
        assert found["test"][group] == pytest.approx(metrics), group
    assert found["training"]["best_epoch"] == plain["training"]["best_epoch"]


def test_a_second_run_computes_nothing(own_world, monkeypatch):
    settings, _ = own_world
    choice = {"item_encoder": "image", "train_layers": "last_1"}
    adapter_of(settings, **choice).prepare()
    adapter = adapter_of(settings, **choice)
    forward = adapter.item_encoder.backbone.forward_features
    seen = []
    monkeypatch.setattr(
        adapter.item_encoder.backbone,
        "forward_features",
        lambda pixels: seen.append(len(pixels)) or forward(pixels),
    )
    adapter.prepare()
    assert max(seen) <= 3  # the trial of the cut


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"transform": "paper"},
        {"image_size": 40},
        {"states_dtype": "bf16"},
        {"train_layers": "last_2"},
        {"resize": "crop"},
        {"mixed_precision": "bf16"},
    ],
    ids=lambda change: next(iter(change), "weights"),
)
def test_other_weights_transforms_and_cuts_have_stores_of_their_own(own_world, change):
    settings, folder = own_world
    choice = {"item_encoder": "image", "train_layers": "last_1"}
    adapter = adapter_of(settings, **choice)
    adapter.prepare()
    assert len(stores_of(folder)) == 1
    other = adapter_of(settings, **{**choice, **change})
    if not change:
        with torch.no_grad():
            next(other.item_encoder.backbone.parameters()).add_(1.0)
    other.prepare()
    assert len(stores_of(folder)) == 2


@pytest.mark.parametrize(
    ("changes", "choice"),
    [
        ({"pooling": ["first", "mean"]}, {"image_encoder": "tiny_vit", "train_layers": "none"}),
        # Computed in half is not the same as only kept in half.
        (
            {"mixed_precision": ["no", "bf16"]},
            {"train_layers": "last_1", "states_dtype": "bf16"},
        ),
    ],
    ids=["pooling", "precision"],
)
def test_other_pooling_and_precision_have_stores_of_their_own(own_world, changes, choice):
    settings, folder = own_world
    ((name, values),) = changes.items()
    for value in values:
        adapter_of(settings, item_encoder="image", **choice, **{name: value}).prepare()
    assert len(stores_of(folder)) == 2


def test_weights_that_are_loaded_later_are_noticed(own_world):
    settings, folder = own_world
    adapter = adapter_of(settings, item_encoder="image", train_layers="last_1")
    adapter.prepare()
    adapter.prepare()
    assert len(stores_of(folder)) == 1
    state = {name: value + 0.5 for name, value in adapter.model.state_dict().items()}
    adapter.model.load_state_dict(state)
    ours = step_of(adapter)[0]
    assert len(stores_of(folder)) == 2
    plain = adapter_of(settings, item_encoder="image", train_layers="last_1", store_states=False)
    plain.model.load_state_dict(state)
    assert ours == pytest.approx(step_of(plain)[0], rel=1e-6)


def test_statistics_that_follow_training_are_no_other_weights(own_world, monkeypatch):
    """BatchNorm behind the prefix changes in every step; the store is not read anew for it."""
    settings, _ = own_world
    choice = {"item_encoder": "image", "image_encoder": "tiny_resnet", "batch_norm": "train"}
    adapter = adapter_of(settings, **choice, train_layers="last_1", store_states=True)
    step_of(adapter)
    opened = []
    monkeypatch.setattr(stored, "open_states", lambda *a, **k: opened.append(a))
    adapter.prepare()
    assert opened == []


def test_a_changed_picture_is_encoded_again(own_world):
    settings, folder = own_world
    choice = {"item_encoder": "image", "train_layers": "last_1"}
    before = step_of(adapter_of(settings, **choice))[0]
    for picture in (folder / "images").iterdir():
        Image.fromarray(255 - np.asarray(Image.open(picture))).save(picture)
    shutil.rmtree(folder / "prepared" / "images", ignore_errors=True)
    ours = step_of(adapter_of(settings, **choice))[0]
    plain = step_of(adapter_of(settings, **choice, store_states=False))[0]
    assert ours == pytest.approx(plain, rel=1e-6)
    assert ours != pytest.approx(before, rel=1e-6)


def test_a_damaged_block_is_made_again(own_world, caplog):
    settings, folder = own_world
    choice = {"item_encoder": "image", "train_layers": "last_1"}
    before = step_of(adapter_of(settings, **choice))[0]
    block = stores_of(folder)[0] / "block-000000.bin"
    damaged = bytearray(block.read_bytes())
    damaged[100] ^= 255
    block.write_bytes(damaged)
    with caplog.at_level(logging.WARNING):
        assert step_of(adapter_of(settings, **choice))[0] == before
    assert "damaged" in caplog.text


def test_why_nothing_is_stored_is_said(own_world, caplog):
    settings, folder = own_world
    choice = {"item_encoder": "image", "train_layers": "last_1", "encode": "every_slot"}
    with caplog.at_level(logging.INFO):
        adapter_of(settings, **choice).prepare()
    assert "encode=every_slot" in caplog.text
    assert stores_of(folder) == []
    with pytest.raises(DataError, match="store_states=True"):
        adapter_of(settings, **choice, store_states=True).prepare()


def test_two_processes_share_the_work(tmp_path):
    world = write_world(tmp_path / "data" / "colours", users=61)
    flags = ["--model=PixelNet", "--item_encoder=image", "--train_layers=last_1", "--epochs=1"]
    flags += ["--learner=sgd", "--encoder_dropout=0"]
    plain = launch(1, world, tmp_path / "plain", *flags, "--store_states=False")
    two = launch(2, world, tmp_path / "two", *flags)
    assert stores_of(world)
    assert two[1] == pytest.approx(plain[1], rel=1e-5)
    assert json.dumps(two[0]["test"]["all"]) == json.dumps(plain[0]["test"]["all"])
