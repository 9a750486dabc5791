"""LoRA and (IA)3: a backbone that stands still, and small parts of it that learn."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from item_encoder_world import build, content_for, make_dataset, tiny_transformers

from recbole_morec.errors import ConfigError
from recbole_morec.item_encoders import training_report

pytest.importorskip("peft", reason="pip install 'recbole-morec[peft]'")

KINDS = ("lora", "ia3")


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def trained(encoder):
    return {name for name, p in encoder.backbone.named_parameters() if p.requires_grad}


def layers_of(encoder):
    """Names of the layers that were adapted."""
    return {name.split(".lora_")[0].split(".ia3_")[0] for name in trained(encoder)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["tiny_bert", "tiny_vit", "vit", "clip", "gpt2"])
def test_adapters_begin_as_the_backbone_and_alone_learn(dataset, tmp_path, name, kind):
    if not name.startswith("tiny"):
        tiny_transformers(tmp_path / name, name)
    settings = {"tokenizer": "tokenizer", "pretrained": None}
    torch.manual_seed(1)
    plain = build(dataset, name, **settings).eval()
    torch.manual_seed(1)
    encoder = build(dataset, name, train_layers=kind, **settings).eval()
    encoder.projection.load_state_dict(plain.projection.state_dict())
    content = content_for(plain)
    torch.testing.assert_close(encoder(content), plain(content))
    assert trained(encoder)
    assert all("lora_" in parameter or "ia3_" in parameter for parameter in trained(encoder))
    before = {n: p.detach().clone() for n, p in encoder.backbone.named_parameters()}
    optimizer = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=1.0)
    encoder.train()
    for _ in range(2):  # LoRA's B begins at zero, so that A learns from the second step on
        optimizer.zero_grad()
        (encoder(content) ** 2).sum().backward()
        assert all(p.grad is not None for p in encoder.parameters() if p.requires_grad)
        optimizer.step()
    changed = {n for n, p in encoder.backbone.named_parameters() if not torch.equal(p, before[n])}
    assert changed
    assert changed <= trained(encoder)
    assert {id(p) for p in encoder.encoder_parameters()} == {
        id(p) for p in encoder.backbone.parameters() if p.requires_grad
    }


@pytest.mark.parametrize(
    ("name", "kind", "last_parts"),
    [
        ("tiny_bert", "lora", {"query", "value"}),
        ("tiny_vit", "lora", {"qkv"}),
        ("clip", "lora", {"q_proj", "v_proj"}),
        ("tiny_bert", "ia3", {"key", "value", "dense"}),
        ("tiny_vit", "ia3", {"qkv", "fc2"}),
    ],
)
def test_attention_projections_are_found_by_name(dataset, tmp_path, name, kind, last_parts):
    if name == "clip":
        tiny_transformers(tmp_path / name, name)
    found = layers_of(build(dataset, name, train_layers=kind))
    assert {layer.rpartition(".")[2] for layer in found} == last_parts
    assert not any("attention.output" in layer for layer in found)


def test_swin_is_adapted_in_every_block(dataset):
    encoder = build(
        dataset, "swin_tiny_patch4_window7_224", pretrained=False, train_layers="lora",
        adapter_rank=2, image_size=224,
    )  # fmt: skip
    assert len(layers_of(encoder)) == 12
    report = training_report(encoder)
    assert report.trained["backbone.layers"] == sum(
        2 * (layer.in_features + layer.out_features)
        for name, layer in encoder.backbone.named_modules()
        if name.endswith(".qkv")
    )
    assert report.frozen["backbone.layers"] > 100 * report.trained["backbone.layers"]


def test_layers_can_be_named(dataset):
    encoder = build(dataset, "tiny_vit", train_layers="lora", adapter_targets=["attn.proj"])
    assert layers_of(encoder) == {f"blocks.{i}.attn.proj" for i in range(6)}
    encoder = build(
        dataset, "tiny_convnext", train_layers="lora", adapter_targets=["stages.3.*fc1"]
    )
    assert all(layer.startswith("stages.3.") for layer in layers_of(encoder))
    with pytest.raises(ConfigError, match=r"tiny_vit is called 'atn'.*called proj, qkv"):
        build(dataset, "tiny_vit", train_layers="lora", adapter_targets=["atn"])
    with pytest.raises(ConfigError, match="tiny_convnext has no attention projections"):
        build(dataset, "tiny_convnext", train_layers="lora")


def test_the_backbone_is_in_eval_mode_but_for_the_dropout_of_its_adapters(dataset):
    def varies(**settings):
        encoder = build(dataset, "tiny_bert", train_layers="lora", **settings)
        for name, parameter in encoder.backbone.named_parameters():
            if "lora_B" in name:  # else dropout would act on nothing
                torch.nn.init.ones_(parameter)
        encoder.eval()
        encoder.train()
        content = content_for(encoder)
        return not torch.equal(encoder(content), encoder(content))

    assert not varies()  # BERT's own rates are 0.1
    assert varies(adapter_dropout=0.5)


def test_batch_norm_stands_still(dataset):
    encoder = build(
        dataset, "resnet10t", pretrained=False, image_size=64, batch_norm="train",
        train_layers="lora", adapter_targets=["conv1"],
    )  # fmt: skip
    before = encoder.backbone.layer1[0].bn1.running_mean.clone()
    encoder(content_for(encoder))
    assert torch.equal(encoder.backbone.layer1[0].bn1.running_mean, before)
    assert not encoder.batch_dependent


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_are_saved_and_rebuilt(dataset, tmp_path, kind):
    tiny_transformers(tmp_path / "bert", "bert")
    settings = {"tokenizer": "tokenizer", "train_layers": kind, "adapter_rank": 3}
    before = build(dataset, "bert", **settings).eval()
    with torch.no_grad():
        for parameter in before.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    saved = json.loads(json.dumps(before.architecture()))
    after = build(dataset, "bert", False, item_encoder_architecture=saved, **settings).eval()
    after.load_state_dict(before.state_dict())
    content = content_for(before)
    assert torch.equal(after(content), before(content))
    name = "backbone.encoder.layer.0.attention.self.value"
    assert f"{name}.base_layer.weight" in after.state_dict()


def test_without_peft_the_error_names_the_extra(dataset, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"pip install 'recbole-morec\[peft\]'"):
        build(dataset, "tiny_bert", train_layers="lora")
