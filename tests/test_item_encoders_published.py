"""The published encoders: each is known by a short name, with what its authors did with it."""

from __future__ import annotations

import pytest
import timm
import torch
import yaml
from item_encoder_world import build, content_for, make_dataset

from recbole_morec.config import PROPERTIES, MoRecConfig
from recbole_morec.errors import ConfigError
from recbole_morec.item_encoders import cards, find_card
from recbole_morec.item_encoders.freezing import find_units
from recbole_morec.item_encoders.registry import encoder_names

YAML = {path.stem: path for path in (PROPERTIES / "item_encoder").glob("*.yaml")}
PUBLISHED = [
    card
    for card in cards()
    if card.stand_in is not None and card.package is None and card.model is not None
]
NAMES = [card.name for card in PUBLISHED]


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path)


@pytest.fixture
def offline(monkeypatch):
    for module in ("timm_models", "transformers_models"):
        target = f"recbole_morec.item_encoders.{module}"
        monkeypatch.setattr(f"{target}.hub_reachable", lambda url=None: False)
        monkeypatch.setattr(f"{target}.cached_hub_file", lambda repo, names: None)


def test_all_encoders_of_the_papers_are_there():
    wanted = {
        "resnet18-tv", "resnet34-tv", "resnet50-tv", "clip-rn50", "clip-rn50x4", "clip-rn50x16",
        "clip-rn50x64", "clip-vit-b32", "swin-t", "swin-b", "beit-b16", "mae-b16", "bert-tiny",
        "bert-mini", "bert-small", "bert-medium", "bert-base", "bert-large", "roberta-base",
        "roberta-large", "opt-125m", "chinese-bert-wwm-ext", "chinese-roberta-wwm-ext",
    }  # fmt: skip
    assert wanted <= set(NAMES)
    assert YAML.keys() <= set(encoder_names())  # a yaml of a name that nobody can give has no use


@pytest.mark.parametrize("card", PUBLISHED, ids=NAMES)
def test_a_card_says_where_it_is_from(card):
    for name in (card.name, *card.aliases):
        assert find_card(name) is card
    assert card.licence
    assert card.counts in ("layers", "stages")
    if card.source == "timm":
        assert timm.is_model_pretrained(card.model)
        assert timm.get_pretrained_cfg(card.model).license.lower() == card.licence.lower()
        with torch.device("meta"):
            units = find_units(timm.create_model(card.model, num_classes=0))
        assert units.kind == card.counts
    else:
        assert card.model.count("/") == 1


def test_published_settings_come_with_the_short_name_and_give_way_to_the_users():
    def train_layers(**settings):
        return MoRecConfig("PixelNet", "pixelrec", overrides=settings)["train_layers"]

    assert train_layers(item_encoder="swin-t") == {"image": "stages:[3,4]"}
    assert train_layers(item_encoder=["clip-vit-b32", "bert-base"]) == {"image": "last_2"}
    assert train_layers(item_encoder="swin-t", train_layers="all") == "all"
    assert train_layers(item_encoder="microsoft/swin-tiny-patch4-window7-224") == "all"


@pytest.mark.parametrize("card", PUBLISHED, ids=NAMES)
def test_its_stand_in_does_what_it_is_told_to(dataset, card):
    settings = yaml.safe_load(YAML[card.name].read_text()) if card.name in YAML else {}
    if card.pooling is not None:
        settings["pooling"] = card.pooling
    encoder = build(dataset, card.stand_in, **settings)
    assert find_units(encoder.backbone).kind == card.counts
    assert encoder(content_for(encoder)).shape == (2, 8)
    frozen = [p for p in encoder.backbone.parameters() if not p.requires_grad]
    assert bool(frozen) >= (card.name in YAML)


def test_clips_resnet_gives_what_its_attention_pool_gives(dataset):
    settings = {"pretrained": False, "batch_norm": "frozen", "train_layers": "stages:[4]"}
    encoder = build(dataset, "clip-rn50", **settings).eval()
    assert encoder.projection.layers[0].in_features == 1024
    assert encoder.needs[0].size == 224
    saved = encoder.architecture()
    assert saved["arguments"]["num_classes"] == 1024
    again = build(dataset, "clip-rn50", False, item_encoder_architecture=saved, **settings)
    assert again.state_dict().keys() == encoder.state_dict().keys()
    pixels = {"image": torch.rand(1, 3, 224, 224)}
    expected = encoder.projection(encoder.backbone(pixels["image"]))
    torch.testing.assert_close(encoder(pixels), expected)


@pytest.mark.parametrize("card", PUBLISHED, ids=NAMES)
def test_without_network_the_ways_out_are_named(dataset, offline, card):
    with pytest.raises(ConfigError, match=rf"{card.name}'.*cannot be had.*a local folder"):
        build(dataset, card.name)


@pytest.mark.parametrize("name", [card.name for card in cards() if card.name.startswith("tiny")])
def test_every_tiny_encoder_trains_and_is_rebuilt(dataset, name):
    torch.manual_seed(0)
    encoder = build(dataset, name, train_layers="last_1")
    content = content_for(encoder)
    encoder(content).sum().backward()
    assert all(p.grad is not None for p in encoder.parameters() if p.requires_grad)
    again = build(dataset, name, False, item_encoder_architecture=encoder.architecture())
    again.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(again.eval()(content), encoder.eval()(content))
