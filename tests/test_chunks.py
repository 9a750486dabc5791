"""Encoding items in chunks, computed again on the way back, is the same step."""

import numpy as np
import pytest
import torch
from conftest import write_world
from test_processes import launch

from recbole_morec.config import MoRecConfig
from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.data.loader import TrainLoader
from recbole_morec.errors import ConfigError
from recbole_morec.models.adapter import build_adapter
from recbole_morec.models.encoding import Encoding, share_out

STILL = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "encoder_dropout": 0.0}
SHAKEN = {"hidden_dropout_prob": 0.2, "attn_dropout_prob": 0.2, "encoder_dropout": 0.2}
MODELS = {
    "image": ("PixelNet", {"item_encoder": "tiny_vit"}),
    "text, bpr": ("PixelNet", {"item_encoder": "text", "objective": "bpr"}),
    "fusion": ("MoRec", {"item_encoder": "image+text", "fusion": "merged_attention"}),
    "frozen": ("PixelNet", {"item_encoder": "tiny_vit", "train_layers": "none"}),
    "encoded padding": ("PixelNet", {"item_encoder": "tiny_vit", "pad_vector": "encoded"}),
    "every slot": ("PixelNet", {"item_encoder": "tiny_vit", "encode": "every_slot"}),
    "tower": ("MoRec", {"item_encoder": "text", "item_tower": True, "tower_layers": [16]}),
    "catalogue": (
        "PixelNet",
        {"item_encoder": "tiny_vit", "objective": "full_softmax", "catalogue_per_step": 40},
    ),
    "ODMT": ("ODMT", {"item_encoder": "image+text", "train_layers": "all"}),
    "VBPR": ("VBPR", {"item_encoder": "tiny_vit"}),
    "stock": ("SASRec", {"item_encoder": "image", "hidden_size": 16, "n_heads": 2}),
}


def built(settings, model, **changes):
    overrides = {**settings, **changes}
    if model in ("SASRec",):
        overrides.pop("embedding_size")
    config = MoRecConfig(model, "colours", overrides=overrides)
    config["device"] = torch.device("cpu")
    torch.manual_seed(3)
    adapter = build_adapter(config, MultimodalDataset(config))
    adapter.model.double()
    return adapter


def step(adapter, size, *, recompute=True, seed=5):
    """Loss and gradients of one step, and how many items each call of the encoder saw."""
    batch = next(TrainLoader(adapter.batches(), 24, seed=1).epoch(0))
    adapter.encoding.size, adapter.encoding.recompute = size, recompute
    seen = []
    handle = adapter.item_encoder.register_forward_pre_hook(
        lambda module, inputs: seen.append(len(inputs[0]["items"]))
    )
    adapter.model.train()
    adapter.model.zero_grad()
    torch.manual_seed(seed)
    loss = adapter.loss(batch)
    loss = loss if isinstance(loss, torch.Tensor) else sum(loss.values())
    loss.backward()
    handle.remove()
    named = adapter.model.named_parameters()
    gradients = {n: p.grad.clone() for n, p in named if p.grad is not None}
    return loss.item(), gradients, seen


@pytest.mark.parametrize("case", MODELS)
def test_chunks_have_loss_and_gradients_of_the_whole(settings, case):
    model, changes = MODELS[case]
    adapter = built(settings, model, **{**changes, **STILL})
    loss, gradients, seen = step(adapter, None)
    again, others, parts = step(adapter, 7)
    assert again == pytest.approx(loss, rel=1e-6)
    assert others.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-5, atol=1e-8, msg=name)
    assert max(parts) == 7 < max(seen)
    assert sum(parts) == 2 * sum(seen) - (1 if case == "encoded padding" else 0)  # twice each


@pytest.mark.parametrize("case", ["image", "fusion", "ODMT", "stock"])
def test_dropout_is_replayed(settings, case):
    model, changes = MODELS[case]
    adapter = built(settings, model, **{**changes, **SHAKEN})
    kept, plain, once = step(adapter, 7, recompute=False)
    loss, gradients, twice = step(adapter, 7)
    assert sum(twice) == 2 * sum(once)
    assert loss == kept
    for name, gradient in gradients.items():
        assert torch.equal(gradient, plain[name]), name
    other, _, _ = step(adapter, 7, seed=6)
    assert other != loss  # there is dropout


def test_what_a_chunk_keeps_is_its_vectors():
    layer = torch.nn.Sequential(torch.nn.Linear(4, 500), torch.nn.ReLU(), torch.nn.Linear(500, 3))
    content = {"items": torch.arange(64), "x": torch.randn(64, 4)}
    kept = {}
    for size in (None, 8):
        sizes = kept[size] = []
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t
        )
        with hooks:
            Encoding(size)(lambda c: layer(c["x"]), content)
    assert max(kept[None]) >= 64 * 500
    assert sum(kept[8]) == 0


def test_gradients_of_many_chunks_in_bf16_are_as_exact_as_those_of_one():
    torch.manual_seed(0)
    layer = torch.nn.Linear(16, 16)
    content = {"items": torch.arange(512), "x": torch.randn(512, 16)}
    weight = torch.randn(512, 16)

    def gradient(size, low):
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            vectors = Encoding(size)(lambda c: layer(c["x"]), content)
            (vectors.float() * weight).sum().backward()
        return layer.weight.grad.clone()

    exact = gradient(None, low=False)
    error = {size: (gradient(size, low=True) - exact).norm() for size in (None, 2)}
    assert error[2] < 1.5 * error[None]


def test_an_encoder_without_content_takes_all_at_once(settings):
    assert built(settings, "PixelNet", encode_chunk=4).encoding.size is None
    assert built(settings, "PixelNet", encode_chunk=4, item_encoder="image").encoding.size == 4


def test_vectors_that_depend_on_the_batch_are_refused(settings):
    changes = {"item_encoder": "tiny_resnet", "batch_norm": "train", "objective": "bpr"}
    with pytest.raises(ConfigError, match=r"encode_chunk=4: with batch_norm=train"):
        built(settings, "PixelNet", encode_chunk=4, **changes)
    with pytest.raises(ConfigError, match=r"micro_batch=4: with batch_norm=train"):
        built(settings, "PixelNet", micro_batch=4, **changes)
    tower = {"item_tower": True, "tower_layers": [16], "tower_batch_norm": True}
    with pytest.raises(ConfigError, match=r"encode_chunk=4: the item tower"):
        built(settings, "PixelNet", encode_chunk=4, item_encoder="image", **tower)
    with pytest.raises(ConfigError, match=r"share_encoding=True: with batch_norm=train"):
        built(settings, "PixelNet", share_encoding=True, **changes)
    with pytest.raises(ConfigError, match=r"share_encoding=True: the item tower"):
        built(settings, "PixelNet", share_encoding=True, item_encoder="image", **tower)
    with pytest.raises(ConfigError, match=r"share_encoding=True: encode=every_slot"):
        built(settings, "PixelNet", share_encoding=True, encode="every_slot")


@pytest.mark.parametrize(
    "held",
    [
        [[1, 2, 3, 4], [3, 4, 5, 6], [4, 6, 7]],
        [[2, 4], [4, 2], [2]],  # the third is left without any
        [[9]],
    ],
)
def test_every_item_is_encoded_by_one_of_those_who_hold_it(held):
    shares = share_out([np.array(own) for own in held])
    assert all({*share.tolist()} <= {*own} for share, own in zip(shares, held, strict=True))
    assert all(len(share) for share in shares)
    everything = np.concatenate(shares)
    assert {*everything.tolist()} == {item for own in held for item in own}
    needless = sum(share.tolist() == own[:1] for share, own in zip(shares, held, strict=True))
    assert len(everything) <= len({*everything.tolist()}) + needless


def test_shared_items_are_spread_over_the_processes():
    both = np.arange(1, 101)
    shares = share_out([both, both])
    assert [len(share) for share in shares] == [50, 50]


@pytest.mark.parametrize("objective", ["in_batch", "bpr"])
def test_two_processes_with_unequal_chunks_have_the_gradient_of_one(tmp_path, objective):
    world = write_world(tmp_path / "data" / "colours", users=5)
    same = {"data_path": str(world.parent), "item_encoder": "image", "show_progress": False}
    adapter = built({**same, "embedding_size": 16}, "PixelNet", objective=objective)
    items = [
        len(next(TrainLoader(adapter.batches(), 5, seed=2020, rank=r, world_size=2).epoch(0))[
            "content"]["items"])
        for r in (0, 1)
    ]  # fmt: skip
    assert -(-items[0] // 3) != -(-items[1] // 3)
    # One plain SGD step of rate 1: what weights differ by is what gradients differ by.
    flags = ["--model=PixelNet", f"--objective={objective}", "--learner=sgd", "--epochs=1"]
    flags += ["--learning_rate=1", "--encoder_learning_rate=1", "--train_batch_size=5"]
    flags += ["--weight_decay=0", "--encoder_weight_decay=0"]
    _, loss, weights = launch(1, world, tmp_path / "one", *flags)
    _, again, others = launch(2, world, tmp_path / "two", *flags, "--encode_chunk=3")
    assert again == pytest.approx(loss, rel=1e-5)
    for name, tensor in weights.items():
        assert (others[name] - tensor).norm() <= 1e-5 * tensor.norm() + 1e-7, name
