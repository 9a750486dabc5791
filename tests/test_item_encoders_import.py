"""Names of the item side in published checkpoints: which part of ours each belongs to."""

from __future__ import annotations

import doctest

import pytest
import timm
import torch
from safetensors.torch import load_file

from recbole_morec.transfer import published_items
from recbole_morec.transfer.published_items import item_names

SIZE = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "image_size": 16, "patch_size": 8,
}  # fmt: skip
SWIN = {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]}


def tiny(kind: str) -> torch.nn.Module:
    import transformers as hf

    text = {key: SIZE[key] for key in list(SIZE)[:4]}
    configs = {
        "mae": hf.ViTMAEConfig(**SIZE),
        "beit": hf.BeitConfig(**SIZE, use_relative_position_bias=True),
        "beit_shared": hf.BeitConfig(**SIZE, use_shared_relative_position_bias=True),
        "clip": hf.CLIPVisionConfig(**SIZE),
        "swin": hf.SwinConfig(**SWIN, window_size=4),
        "bert": hf.BertConfig(**text, vocab_size=20),
    }
    return hf.AutoModel.from_config(configs[kind])


@pytest.mark.parametrize("kind", ["mae", "beit", "beit_shared", "clip", "swin", "bert"])
@pytest.mark.parametrize(
    ("system", "before"),
    [("idvsmorec", "cv_encoder.image_net."), ("pixelrec", "visual_encoder.item_encoder.")],
)
def test_names_of_older_releases(tmp_path, kind, system, before):
    """transformers still writes its files under the older names, which tells them to us."""
    model = tiny(kind)
    model.save_pretrained(tmp_path)
    written = load_file(tmp_path / "model.safetensors")
    if kind in ("swin", "beit", "mae"):
        assert not written.keys() <= model.state_dict().keys()
    names = item_names(system, [before + name for name in written])
    ours = {
        new.removeprefix("item_encoder.backbone."): written[old.removeprefix(before)]
        for old, new in names.items()
    }
    own = model.state_dict()
    assert ours.keys() == own.keys()
    assert all(torch.equal(ours[name], own[name]) for name in own)


def test_clips_inner_level_and_old_buffers():
    names = [
        "visual_encoder.item_encoder.vision_model.embeddings.class_embedding",
        "visual_encoder.item_encoder.vision_model.embeddings.position_ids",
        "visual_encoder.rec_fc.0.weight",
        "position_embedding.weight",
    ]
    assert item_names("pixelrec", names) == {
        names[0]: "item_encoder.backbone.embeddings.class_embedding",
        names[2]: "item_encoder.projection.layers.0.weight",
    }


@pytest.mark.parametrize("wrapper", ["visual_encoder.", "visual_encoder.item_encoder."])
def test_clips_resnet_as_timm_translates_it(wrapper):
    """timm reads OpenAI's files: what it makes of their names must be what we make of them."""
    from timm.models.byobnet import checkpoint_filter_fn

    with torch.device("meta"):
        model = timm.create_model("resnet50_clip", num_classes=1024)
    published = [
        *(f"{part}{k}.weight" for k in (1, 2, 3) for part in ("conv", "bn")),
        *("bn1.running_mean", "bn3.num_batches_tracked"),
        *(f"layer{i}.{j}.conv{k}.weight" for i in (1, 4) for j in (0, 2) for k in (1, 2, 3)),
        *("layer2.3.bn3.bias", "layer2.0.downsample.0.weight", "layer3.0.downsample.1.running_var"),
        "attnpool.positional_embedding",
        *(f"attnpool.{p}_proj.{end}" for p in "qkvc" for end in ("weight", "bias")),
    ]
    theirs = checkpoint_filter_fn({f"visual.{name}": name for name in published}, model)
    expected = {name: f"item_encoder.backbone.{ours}" for ours, name in theirs.items()}
    assert set(theirs) <= set(model.state_dict())
    before = f"{wrapper}item_encoder."
    names = item_names("pixelrec", [f"{before}{name}" for name in published])
    assert {old.removeprefix(before): new for old, new in names.items()} == expected


def test_other_resnets_keep_their_names():
    names = ["conv1.weight", "layer1.0.bn2.weight", "layer2.0.downsample.0.weight"]
    ours = item_names("idvsmorec", [f"cv_encoder.image_net.{name}" for name in names])
    assert list(ours.values()) == [f"item_encoder.backbone.{name}" for name in names]
    with torch.device("meta"):
        assert set(names) <= set(timm.create_model("resnet50", num_classes=0).state_dict())


def test_swins_of_a_classifier():
    layer = "cv_encoder.image_net.swin.encoder.layers.0.blocks.1"
    ours = "item_encoder.backbone.encoder.layers.0.blocks.1"
    assert item_names(
        "ninerec",
        [
            f"{layer}.attention.self.query.weight",
            f"{layer}.attention.self.relative_position_index",
            f"{layer}.output.dense.bias",
            "cv_encoder.image_net.classifier.bias",
            "user_encoder.transformer_encoder.layer_norm.bias",
        ],
    ) == {
        f"{layer}.attention.self.query.weight": f"{ours}.attention.q_proj.weight",
        f"{layer}.output.dense.bias": f"{ours}.mlp.fc2.bias",
        "cv_encoder.image_net.classifier.bias": "item_encoder.projection.layers.0.bias",
    }


def test_what_stands_alone_and_what_is_a_member():
    text = "bert_encoder.text_encoders.title.fc.weight"
    alone = item_names("idvsmorec", [text])
    assert alone[text] == "item_encoder.projection.layers.0.weight"
    joined = item_names("idvsmorec", [text, "id_embedding.weight", "fc.mlp_layers.4.bias"])
    assert joined == {
        text: "item_encoder.members.text.projection.layers.0.weight",
        "id_embedding.weight": "item_encoder.members.id.embedding.weight",
        "fc.mlp_layers.4.bias": "item_encoder.projection.layers.1.bias",
    }


def test_an_unknown_system_is_refused():
    with pytest.raises(ValueError, match="none of pixelrec, idvsmorec, ninerec"):
        item_names("recbole", [])


def test_the_example_runs():
    result = doctest.testmod(published_items)
    assert (result.attempted, result.failed) == (1, 0)
