"""Which parts of an item encoder train, and that the others stand still."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from torch import nn

from recbole_morec.errors import ConfigError
from recbole_morec.item_encoders import build_item_encoder, training_report
from recbole_morec.item_encoders.freezing import (
    find_units,
    freeze_unreached,
    frozen_modules,
    record_order,
    unit_of_names,
)

DATASET = SimpleNamespace(item_tokens=["[PAD]", "a", "b"], item_num=3, folder=Path("nowhere"))
IMAGES = {"image": torch.arange(2 * 3 * 64 * 64).view(2, 3, 64, 64).remainder(251).byte()}


def build(name, **settings):
    config = {"item_encoder": name, "embedding_size": 4, "pretrained": False, **settings}
    return build_item_encoder(config, DATASET)


def trained(encoder):
    return {n for n, p in encoder.backbone.named_parameters() if p.requires_grad}


def starts(names, *prefixes):
    return {name for name in names if name.startswith(prefixes)}


@pytest.mark.parametrize(
    ("name", "kind", "first", "count"),
    [
        ("test_vit", "layers", "blocks.0", 6),
        ("test_convnext", "stages", "stages.0", 4),
        ("resnet18", "stages", "layer1", 4),
        ("test_efficientnet", "stages", "blocks.0", 5),
        ("swin_tiny_patch4_window7_224", "stages", "layers.0", 4),
        ("densenet121", "stages", "features.denseblock1", 4),
        ("regnetx_002", "stages", "s1", 4),
    ],
)
def test_units_are_blocks_or_stages(name, kind, first, count):
    with torch.device("meta"):
        units = find_units(timm.create_model(name, num_classes=0))
    assert (units.kind, units.names[0], len(units.names)) == (kind, first, count)


def test_last_n_trains_the_last_blocks_and_the_final_norm():
    encoder = build("tiny_vit", train_layers="last_2")
    names = dict(encoder.backbone.named_parameters())
    assert trained(encoder) == starts(names, "blocks.4.", "blocks.5.", "norm.")
    report = training_report(encoder)
    assert report.frozen.keys() == {"backbone", "backbone.patch_embed", "backbone.blocks"}
    assert str(report).startswith(f"trained {sum(report.trained.values()):,} (backbone.blocks ")


def test_last_n_counts_stages_where_widths_change():
    encoder = build("tiny_convnext", train_layers="last_1")
    names = dict(encoder.backbone.named_parameters())
    assert trained(encoder) == starts(names, "stages.3.", "head.")


def test_a_middle_stage_alone():
    encoder = build("tiny_convnext", train_layers="stages:[2, 3]")
    names = dict(encoder.backbone.named_parameters())
    assert trained(encoder) == starts(names, "stages.1.", "stages.2.")


def test_what_runs_between_two_stages_belongs_to_the_earlier():
    densenet = timm.create_model("densenet121", num_classes=0)
    with record_order(densenet) as order, torch.no_grad():
        densenet.eval()(torch.zeros(1, 3, 32, 32))
    unit = unit_of_names(find_units(densenet), order, densenet.state_dict())
    assert unit["features.conv0.weight"] == -1
    assert unit["features.transition1.conv.weight"] == 0
    assert unit["features.norm5.weight"] == 3


def test_none_and_patterns():
    assert trained(build("tiny_vit", train_layers="none")) == set()
    assert not list(build("tiny_vit", train_layers="none").encoder_parameters())
    encoder = build("tiny_vit", train_layers=["blocks.5", "*.norm1.bias"])
    names = dict(encoder.backbone.named_parameters())
    wanted = starts(names, "blocks.5.") | {f"blocks.{i}.norm1.bias" for i in range(6)}
    assert trained(encoder) == wanted


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("last_7", r"has 6 layers \(blocks.0 .. blocks.5\); use last_1 to last_6"),
        ("stages:[3]", "has 6 layers of equal shape and no stages; use last_N"),
        ("stages:four", "stages:four' is not known"),
        (["block.5.*"], r"no parameter of tiny_vit matches 'block.5.\*'; its names look like "),
    ],
)
def test_a_choice_that_does_not_fit_names_what_does(choice, message):
    with pytest.raises(ConfigError, match=message):
        build("tiny_vit", train_layers=choice)
    with pytest.raises(ConfigError, match=r"stages 1 to 4 \(stages.0, stages.1, "):
        build("tiny_convnext", train_layers="stages:[5]")


def test_frozen_parts_stay_in_eval_mode():
    encoder = build("tiny_vit", train_layers="last_1", encoder_dropout=0.5)
    encoder.eval()
    encoder.train()
    blocks = encoder.backbone.blocks
    assert [block.training for block in blocks] == [False] * 5 + [True]
    assert not blocks[0].mlp.drop1.training
    assert not encoder.backbone.pos_drop.training  # without parameters, between frozen parts
    assert encoder.projection.training
    x = torch.linspace(-1, 1, 640).square().view(2, 5, 64)
    assert torch.equal(blocks[0](x), blocks[0](x))
    assert not torch.equal(blocks[5](x), blocks[5](x))


def test_nothing_is_remembered_for_the_frozen_prefix():
    encoder = build("tiny_vit", train_layers="last_1")
    seen = {}
    encoder.backbone.blocks[4].register_forward_hook(lambda m, i, out: seen.update(four=out))
    encoder.backbone.blocks[5].register_forward_hook(lambda m, i, out: seen.update(five=out))
    encoder(IMAGES)
    assert not seen["four"].requires_grad
    assert seen["five"].requires_grad


def test_everything_trains_by_default():
    encoder = build("tiny_vit", encoder_dropout=0.1)
    assert all(module.training for module in encoder.modules())
    assert frozen_modules(encoder.backbone) == []


def test_batch_norm_statistics_are_frozen_by_default(caplog):
    with caplog.at_level(logging.WARNING):
        encoder = build("resnet10t", image_size=64)
    assert "statistics are frozen at mean 0" in caplog.text
    before = encoder.backbone.layer1[0].bn1.running_mean.clone()
    alone = {"image": IMAGES["image"][:1]}
    torch.testing.assert_close(encoder(IMAGES)[:1], encoder(alone), rtol=1e-4, atol=1e-5)
    assert torch.equal(encoder.backbone.layer1[0].bn1.running_mean, before)
    assert encoder.backbone.layer1[0].bn1.weight.requires_grad
    assert not encoder.batch_dependent


def test_batch_norm_can_train():
    encoder = build("resnet10t", image_size=64, batch_norm="train")
    assert encoder.batch_dependent
    alone = {"image": IMAGES["image"][:1]}
    assert not torch.allclose(encoder(IMAGES)[:1], encoder(alone), rtol=1e-3)
    frozen = build("resnet10t", image_size=64, batch_norm="train", train_layers="none")
    assert not frozen.batch_dependent
    assert not build("tiny_vit", batch_norm="train").batch_dependent


def test_parameters_that_take_no_part_are_frozen():
    assert build("tiny_convnext").unused_parameters == []
    encoder = build("tiny_convnext", pooling="mean")  # past the norm of the pooling head
    assert encoder.unused_parameters == ["head.norm.weight", "head.norm.bias"]
    encoder(IMAGES).sum().backward()
    assert all(p.grad is not None for p in encoder.parameters() if p.requires_grad)


def test_unreached_parameters_are_found_by_the_graph():
    model = nn.ModuleDict({"used": nn.Linear(2, 2), "unused": nn.Linear(2, 2)})
    assert freeze_unreached(model, model["used"](torch.ones(1, 2))) == [
        "unused.weight",
        "unused.bias",
    ]
