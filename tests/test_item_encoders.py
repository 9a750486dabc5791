"""What item encoders compute, and how they are set up."""

from __future__ import annotations

import json
from typing import get_args

import numpy as np
import pytest
import torch
from item_encoder_world import build, content_for, make_dataset
from torch import nn

from recbole_morec.data.content.feature_store import gather_features, open_features
from recbole_morec.errors import ConfigError, DataError
from recbole_morec.item_encoders import (
    EncoderCard,
    ImageNeed,
    ItemEncoder,
    image,
    register_item_encoder,
    registry,
)
from recbole_morec.item_encoders.pooling import POOLINGS, masked_mean
from recbole_morec.item_encoders.projection import ACTIVATIONS, Projection
from recbole_morec.item_encoders.settings import read_settings


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


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


@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
def test_images_in_chunks_are_images_at_once(dataset, monkeypatch, batch_norm):
    encoder = build(
        dataset, "timm:test_resnet", pretrained=False, image_size=64, batch_norm=batch_norm
    ).double()
    encoder.train()
    content = content_for(encoder, 8)
    sizes = []
    monkeypatch.setattr(
        encoder.backbone, "forward_features", counted(encoder.backbone.forward_features, sizes)
    )
    results = []
    for pixels in (3 * 64 * 64, 2**30):  # 8 images as 3 + 3 + 2, and at once
        monkeypatch.setattr(image, "CHUNK_PIXELS", pixels)
        encoder.zero_grad()
        vectors = encoder(content)
        (vectors**2).sum().backward()
        gradients = {n: p.grad.clone() for n, p in encoder.named_parameters()}
        results.append((vectors.detach(), gradients, list(sizes)))
        sizes.clear()
    (chunked, gradients, counts), (whole, expected, _) = results
    # Statistics over a batch need the whole batch.
    assert counts == ([3, 3, 2] if batch_norm == "frozen" else [8])
    torch.testing.assert_close(chunked, whole)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], msg=name)


def counted(forward, sizes):
    def call(pixels):
        sizes.append(len(pixels))
        return forward(pixels)

    return call


@pytest.mark.parametrize("name", ["tiny_convnext", "tiny_vit", "tiny_bert"])
def test_trial_content_lies_where_the_encoder_does(dataset, name):
    """On ``meta`` as on a GPU: an operator of two devices is an error."""
    encoder = build(dataset, name, train_layers="last_1").to("meta")
    for content in (encoder.probe_content(), encoder.sample_content()):
        assert {value.device.type for value in content.values()} == {"meta"}
    if name != "tiny_bert":  # which looks into its mask
        assert encoder.read(encoder.probe_content()).device.type == "meta"


def test_paper_transform_normalises_by_one_half(dataset):
    settings = {"pretrained": False, "image_size": 32}
    paper = build(dataset, "resnet10t", transform="paper", **settings)
    native = build(dataset, "resnet10t", transform="native", **settings)
    black_and_white = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    content = {"image": black_and_white.expand(2, 3, 32, 32)}
    assert [image.unique().tolist() for image in paper.pixels(content)] == [[-1.0], [1.0]]
    red, green, blue = native.pixels(content)[0].mean(dim=(1, 2)).tolist()  # ImageNet's mean, std
    assert [red, green, blue] == pytest.approx([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225])


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
    deep = build(dataset, ["tiny_vit", "id"], fusion="concat", projection_layers={"fusion": [8, 8]})
    assert [layer.in_features for layer in deep.projection.layers] == [16, 8, 8]
    assert len(deep.members["image"].projection.layers) == 1


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
        gather_features(open_features(path), ["[PAD]", "i2", "i5"])


def damaged_features(folder, kind):
    path = folder / f"cover.{kind.rpartition(' ')[2]}"
    (folder / "cover.tokens.txt").write_text("i2\ni5\n")
    if kind.startswith("cut"):
        write_features(folder, path.suffix, ["i2", "i5"], np.ones((2, 40), np.float32))
        path.write_bytes(path.read_bytes()[:-60])
    elif kind.startswith("noise"):
        path.write_bytes(b"hello")
    elif kind.startswith("empty"):
        path.write_bytes(b"")
    elif kind == "object npy":
        np.save(path, np.array([["a", 1], ["b", 2]], dtype=object), allow_pickle=True)
    elif kind == "string npy":
        np.save(path, np.array([["a", "b"], ["c", "d"]]))
    elif kind == "archive npy":
        with path.open("wb") as file:
            np.savez(file, x=np.ones(2))
    else:
        import polars as pl

        pl.DataFrame({"item_id": ["i2", "i5"], "vector": ["1 2", "3 4"]}).write_parquet(path)
    return path


@pytest.mark.parametrize(
    "kind",
    [
        *(f"{how} {suffix}" for how in ("cut", "noise", "empty") for suffix in ("npy", "parquet")),
        *("cut safetensors", "noise safetensors", "object npy", "string npy", "archive npy"),
        "string parquet",
    ],
)
def test_damaged_features_are_named(dataset, kind):
    path = damaged_features(dataset.folder, kind)
    with pytest.raises(DataError, match=r"needs .*numbers") as caught:
        gather_features(open_features(path), ["[PAD]", "i2", "i5"])
    assert str(path) in str(caught.value)
    assert "pickle" not in str(caught.value).lower()


@pytest.mark.parametrize("tokens", ["i2, i5", '{"i2": 0, "i5": 1}'])
def test_tokens_that_are_no_list_are_refused(dataset, tokens):
    from safetensors.numpy import save_file

    path = dataset.folder / "cover.safetensors"
    save_file({"features": np.ones((2, 2), np.float32)}, path, metadata={"tokens": tokens})
    with pytest.raises(DataError, match="no JSON list"):
        gather_features(open_features(path), ["[PAD]", "i2", "i5"])


def test_a_new_encoder_is_one_class_and_one_decorator(dataset, monkeypatch):
    for table in ("_CARDS", "_ALIASES", "_BUILDERS"):  # so that it is known in this test alone
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))

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
    wrong = {"pooling": "clss", "activation": "swish", "embedding_size": 0, "train_layers": "lorra"}
    with pytest.raises(ConfigError) as error:
        read_settings(wrong, "image")
    assert len(error.value.problems) == 4
    assert any('Did you mean "cls"' in problem for problem in error.value.problems)
    assert any("lora, ia3 or a list" in problem for problem in error.value.problems)


def test_defaults_and_limits_are_those_of_a_run():
    import yaml

    from recbole_morec.config import PROPERTIES
    from recbole_morec.settings import Activation, MultimodalSettings, Pooling

    assert set(get_args(Pooling)) == set(POOLINGS)
    assert set(get_args(Activation)) == set(ACTIVATIONS)

    run = yaml.safe_load((PROPERTIES / "multimodal.yaml").read_text(encoding="utf-8"))
    own = vars(read_settings({}, "image"))
    shared = own.keys() & MultimodalSettings.model_fields.keys()
    assert len(shared) > 10
    assert {key: list(own[key]) if own[key] == () else own[key] for key in shared} == {
        key: run[key] for key in shared
    }
    assert read_settings({"encoder_dropout": 1.0}, "image").encoder_dropout == 1.0
    assert read_settings({"projection_layers": [5]}, "image").projection_layers == (5,)
    for wrong in ({"projection_layers": 5}, {"encoder_dropout": 1.1}, {"resize": "squish"}):
        (key,) = wrong
        with pytest.raises(ConfigError, match=f"^{key}=") as caught:
            read_settings(wrong, "image")
        assert len(caught.value.problems) == 1


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
