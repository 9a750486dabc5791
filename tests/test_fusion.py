"""Fusions: what each computes from the vectors or tokens of its members, and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from item_encoder_world import build, content_for, make_dataset, tiny_transformers

from recbole_morec.errors import ConfigError
from recbole_morec.item_encoders.fusion import FusionEncoder
from recbole_morec.item_encoders.joins import JOINS
from recbole_morec.item_encoders.token_attention import Attention

PAIR = ["tiny_bert", "tiny_vit"]  # text first, as NineRec has them
NINEREC = {"activation": "none", "pooling": {"text": "project_mean", "image": "project_mean"}}


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def parts(encoder, content):
    return [member(content) for member in encoder.members.values()]


def affine(x, linear):
    return x @ linear.weight.T + linear.bias


def test_film_lets_the_first_condition_the_second(dataset):
    encoder = build(dataset, PAIR, fusion="film", **NINEREC).eval()
    content = content_for(encoder)
    text, image = parts(encoder, content)
    gamma, beta = affine(text, encoder.join.condition).split(8, dim=1)
    expected = affine(gamma * image + beta, encoder.projection.layers[0])
    torch.testing.assert_close(encoder(content), expected)


def test_gated_lets_the_first_gate_the_second(dataset):
    encoder = build(dataset, PAIR, fusion="gated", **NINEREC).eval()
    content = content_for(encoder)
    text, image = parts(encoder, content)
    gate, value = encoder.join.gate, encoder.join.value
    joined = torch.sigmoid(affine(text, gate)) * affine(image, value)
    torch.testing.assert_close(encoder(content), affine(joined, encoder.projection.layers[0]))


def test_linear_sum_gives_each_member_a_map(dataset):
    encoder = build(dataset, [*PAIR, "id"], fusion="linear_sum").eval()
    content = content_for(encoder)
    maps = encoder.join.maps
    assert list(maps) == ["text", "image", "id"]
    mapped = map(affine, parts(encoder, content), maps.values())
    torch.testing.assert_close(encoder(content), sum(mapped))


@pytest.mark.parametrize("method", ["co_attention", "merged_attention"])
def test_attention_sees_every_real_token_and_no_other(dataset, method):
    encoder = build(dataset, PAIR, fusion=method, fusion_blocks=2).eval()
    content = content_for(encoder)  # the second text is shorter than the first
    vectors = encoder(content)
    assert vectors.shape == (2, 8)
    hidden = {**content, "text_ids": content["text_ids"].masked_fill(~content["text_mask"], 5)}
    torch.testing.assert_close(encoder(hidden), vectors)
    last = {**content, "text_ids": content["text_ids"].clone()}
    last["text_ids"][0, -2] = 7  # a real token, far from the class token
    assert not torch.allclose(encoder(last)[0], vectors[0])
    other = {**content, "image": content["image"].clone()}
    other["image"][0, :, -8:, -8:] = 255
    assert not torch.allclose(encoder(other)[0], vectors[0])
    tokens, mask = encoder.tokens(content)
    assert tokens.shape == (2, 5 + 17, 8)  # [CLS] a red shirt [SEP]; class token and 16 patches
    assert mask.sum(1).tolist() == [22, 20]


def test_attention_of_a_text_without_any_token_is_finite(dataset):
    encoder = build(dataset, PAIR, fusion="co_attention")
    content = content_for(encoder)
    content["text_mask"] = torch.zeros_like(content["text_mask"])
    vectors = encoder(content)
    vectors.sum().backward()
    assert vectors.isfinite().all()
    assert all(p.grad.isfinite().all() for p in encoder.parameters() if p.grad is not None)


def test_attention_is_the_plain_formula():
    attention = Attention(6, 2).double()
    x, context = torch.randn(2, 3, 6).double(), torch.randn(2, 4, 6).double()
    mask = torch.tensor([[True, True, False, True], [True, False, False, False]])
    heads = [
        affine(t, layer).view(2, -1, 2, 3).transpose(1, 2)
        for t, layer in ((x, attention.query), (context, attention.key), (context, attention.value))
    ]
    weights = heads[0] @ heads[1].transpose(2, 3) / 3**0.5
    weights = weights.masked_fill(~mask[:, None, None], -torch.inf).softmax(-1)
    read = (weights @ heads[2]).transpose(1, 2).reshape(2, 3, 6)
    expected = torch.nn.functional.layer_norm(x + affine(read, attention.output), (6,), eps=1e-12)
    torch.testing.assert_close(attention(x, context, mask), expected)


@pytest.mark.parametrize("method", JOINS)
def test_every_parameter_of_a_fusion_learns(dataset, method):
    encoder = build(dataset, PAIR, fusion=method)
    (encoder(content_for(encoder)) ** 2).sum().backward()
    own = [p for n, p in encoder.named_parameters() if not n.startswith("members.")]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in own)
    backbones = {id(p) for p in encoder.encoder_parameters()}
    assert not backbones & {id(p) for p in own}  # a fusion trains at the recommender's rate


@pytest.mark.parametrize("method", ["co_attention", "merged_attention"])
def test_attention_leaves_no_parameter_of_a_pooler_in_training(dataset, tmp_path, method):
    tiny_transformers(tmp_path / "vit", "vit")
    pair = ["tiny_convnext", "tiny_bert"], ["vit", "tiny_bert"]
    for names in pair:  # both image encoders have what only their own pooling reads
        encoder = build(dataset, names, fusion=method, tokenizer="tokenizer")
        encoder(content_for(encoder)).sum().backward()
        assert all(p.grad is not None for p in encoder.parameters() if p.requires_grad)
    with pytest.raises(ConfigError, match=f"pooling: fusion {method} reads all tokens"):
        build(dataset, PAIR, fusion=method, pooling={"text": "cls"})


# --- id beside content ---------------------------------------------------------------------------


def write_features(folder, width):
    matrix = np.arange(3 * width, dtype=np.float32).reshape(3, width) / 10
    np.save(folder / "f.npy", matrix)
    (folder / "f.tokens.txt").write_text("i7\ni2\ni5\n")
    return torch.from_numpy(matrix)


def test_pixelrecs_hybrid_joins_the_feature_itself(dataset):
    matrix = write_features(dataset.folder, 5)
    encoder = build(
        dataset, ["features", "id"], fusion="concat", features="f.npy",
        projection_layers={"features": "none", "fusion": [7]},
    )  # fmt: skip
    assert [layer.in_features for layer in encoder.projection.layers] == [5 + 8, 7]
    joined = torch.cat([matrix, encoder.members["id"].embedding.weight[1:]], dim=1)
    hidden = torch.relu(affine(joined, encoder.projection.layers[0]))
    expected = torch.relu(affine(hidden, encoder.projection.layers[1]))
    torch.testing.assert_close(encoder({"items": torch.arange(1, 4)}), expected)


def test_layers_before_and_after_a_sum(dataset):
    write_features(dataset.folder, 5)
    encoder = build(
        dataset, ["id", "features"], features="f.npy", activation="gelu", fusion="sum",
        fusion_projection=True, projection_layers={"features": [8, 8]},
    )  # fmt: skip
    content = {"items": torch.arange(1, 4)}
    assert [layer.in_features for layer in encoder.members["features"].projection.layers] == [
        *(5, 8, 8)
    ]
    total = sum(parts(encoder, content))
    (after,) = encoder.projection.layers
    expected = torch.nn.functional.gelu(affine(total, after))
    torch.testing.assert_close(encoder(content), expected)


def test_dropout_stands_before_further_layers_and_before_what_a_fusion_joins(dataset):
    matrix = write_features(dataset.folder, 5)
    settings = {"features": "f.npy", "activation": "none", "projection_dropout": 1.0}
    content = {"items": torch.arange(1, 4)}
    one = build(dataset, "features", **settings)
    torch.testing.assert_close(one(content), affine(matrix, one.projection.layers[0]))
    two = build(dataset, "features", **settings, projection_layers=[6]).train()
    torch.nn.init.ones_(two.projection.layers[1].bias)
    assert torch.equal(two(content), torch.ones(3, 8))  # all of the hidden vector was dropped
    assert not torch.allclose(two.eval()(content), torch.ones(3, 8))
    fused = build(dataset, ["id", "features"], **settings, fusion="concat").train()
    assert torch.equal(fused(content), torch.zeros(3, 8))
    settings["projection_dropout"] = {"features": 1.0}
    apart = build(dataset, ["id", "features"], **settings, fusion="concat").train()
    assert apart(content).abs().sum() > 0


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fusion": "filmm"}, 'not one of sum, .*Did you mean "film"'),
        ({"fusion": "gated"}, r"gated joins two encoders, and item_encoder names 3"),
        ({"fusion": "co_attention"}, r"co_attention joins two encoders"),
        ({"fusion": "merged_attention", "fusion_heads": 3}, "fusion_heads: 3 heads do not divide"),
        ({"fusion": "concat", "fusion_projection": False}, "gives vectors of 24"),
        (
            {"fusion": "sum", "projection_layers": {"image": "none"}},
            "sum joins vectors of one size, and the encoders give text 8, image 64, id 8",
        ),
    ],
)
def test_what_cannot_be_joined_is_refused(dataset, settings, message):
    with pytest.raises(ConfigError, match=message):
        build(dataset, [*PAIR, "id"], **settings)


def test_a_fusion_is_rebuilt_from_its_architecture(dataset):
    settings = {"fusion": "co_attention", "fusion_blocks": 2, "fusion_inner_size": 12}
    before = build(dataset, PAIR, **settings).eval()
    architecture = json.loads(json.dumps(before.architecture()))
    after = build(dataset, PAIR, False, **settings, item_encoder_architecture=architecture).eval()
    assert isinstance(after, FusionEncoder)
    after.load_state_dict(before.state_dict())
    content = content_for(before)
    assert torch.equal(after(content), before(content))
