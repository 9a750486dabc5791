"""Item vectors of text, images, features, codes and their fusions, as the published code's."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, processors
from torch import Tensor, nn

from recbole_morec.item_encoders import ItemEncoder, build_item_encoder
from recbole_morec.item_encoders.backbone import BackboneEncoder
from recbole_morec.item_encoders.fusion import make_fusion
from recbole_morec.item_encoders.settings import read_settings
from recbole_morec.transfer.published_items import item_names

from .conftest import Golden, close

# --- the tiny models of the published runs -------------------------------------------------------

HEADS = 2  # of their text models, which the goldens do not state


def bert(golden: Golden) -> dict:
    sizes = golden.sizes
    return {
        "model_type": "bert", "vocab_size": sizes["vocab"],
        "hidden_size": sizes["word_embedding_dim"], "num_hidden_layers": sizes["bert_layers"],
        "num_attention_heads": HEADS, "pad_token_id": 0,
        "intermediate_size": rows_of(golden, "intermediate.dense.weight"),
        "max_position_embeddings": rows_of(golden, "position_embeddings.weight"),
    }  # fmt: skip


def opt(golden: Golden) -> dict:
    sizes = golden.sizes
    return {
        "model_type": "opt", "vocab_size": sizes["vocab"],
        "hidden_size": sizes["word_embedding_dim"], "pad_token_id": 0, "bos_token_id": 2,
        "word_embed_proj_dim": sizes["word_embedding_dim"], "num_attention_heads": HEADS,
        "num_hidden_layers": sizes["bert_layers"], "ffn_dim": rows_of(golden, "fc1.weight"),
        "max_position_embeddings": rows_of(golden, "embed_positions.weight") - 2,
    }  # fmt: skip


def rows_of(golden: Golden, ending: str) -> int:
    return next(len(t) for name, t in golden.state({"": ""}).items() if name.endswith(ending))


def swin(golden: Golden) -> dict:
    given = golden.sizes["swin"]
    return {
        "model_type": "swin", "image_size": given["image"], "patch_size": given["patch"],
        "embed_dim": given["embed_dim"], "depths": given["depths"], "num_heads": given["heads"],
        "window_size": given["window"],
    }  # fmt: skip


def clip(golden: Golden) -> dict:
    given = golden.sizes["clip"]
    return {
        "model_type": "clip_vision_model", "hidden_size": given["hidden"],
        "num_hidden_layers": given["layers"], "num_attention_heads": given["heads"],
        "intermediate_size": given["intermediate"], "image_size": given["image"],
        "patch_size": given["patch"],
    }  # fmt: skip


def beit(golden: Golden) -> dict:
    return {**clip(golden), "model_type": "beit"}


# --- building ours -------------------------------------------------------------------------------


@dataclass
class Case:
    """A golden, our settings for its item side, and which encoders of ``transformers`` it has.

    A setting may be a function of the golden.
    """

    name: str
    encoder: str | list[str]
    settings: dict[str, Any]
    models: dict[str, Any] = field(default_factory=dict)  # modality -> config of a tiny model
    tolerance: float = 1e-9
    fields: int = 1
    own_padding: bool = True  # False: published padding has a row or a width that ours has not

    def __str__(self) -> str:
        return self.name


def write_tokenizer(folder, size: int) -> None:
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "shirt")
    words += tuple(f"w{i}" for i in range(size - len(words)))
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "[UNK]"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    (folder / "tokenizer").mkdir()
    tokenizer.save(str(folder / "tokenizer" / "tokenizer.json"))
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]"}
    special |= {"sep_token": "[SEP]", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(special))


def write_table(folder, name: str, rows: Tensor) -> str:
    """Rows of items 1 .. N as a file that is read by item token."""
    np.save(folder / f"{name}.npy", rows[1:].numpy())
    (folder / f"{name}.tokens.txt").write_text("".join(f"i{i}\n" for i in range(1, len(rows))))
    return f"{name}.npy"


def build(case: Case, golden: Golden, folder, width: int | None = None) -> ItemEncoder:
    sizes = golden.sizes
    items = len(golden.tensor("out/item_emb_all")) if "out/item_emb_all" in golden else 3
    dataset = SimpleNamespace(
        item_tokens=["[PAD]", *(f"i{i}" for i in range(1, items))],
        item_num=items,
        folder=folder,
        width=width or sizes.get("resnet_like_width") or sizes.get("standin_dim"),
    )
    config = {
        "item_encoder": case.encoder,
        "embedding_size": sizes.get("embedding_dim") or sizes["embedding_size"],
        "encoder_dropout": 0.0,
        "batch_norm": "train",
        **{key: read(golden) if callable(read) else read for key, read in case.settings.items()},
    }
    described = {}
    for modality, make in case.models.items():
        name = case.encoder
        if isinstance(name, list):
            name = next(n for n in case.encoder if n.startswith(modality))
        described[modality] = {
            "name": name, "modality": modality, "source": "transformers", "config": make(golden),
            "mean": [0.5] * 3, "std": [0.5] * 3,
        }  # fmt: skip
    if described:
        config["item_encoder_architecture"] = {"members": described}
    if "text" in described:
        write_tokenizer(folder, sizes["vocab"])
        width = golden.tensor("in/item_text").shape[1]
        config |= {"tokenizer": "tokenizer", "max_text_length": width // (2 * case.fields)}
    for key, source in (("features", "in/item_feature"), ("features", "in/v_feat")):
        if source in golden:
            config[key] = write_table(folder, key, golden.tensor(source))
    if "in/semantic_codes" in golden:
        config["codes"] = write_table(folder, "codes", golden.tensor("in/semantic_codes"))
    return build_item_encoder(config, dataset, load_weights=False).double()


def load(encoder: ItemEncoder, system: str, weights: dict[str, Tensor]) -> None:
    """Published weights by name; only what takes no part in ours may be missing or left over."""
    own = encoder.state_dict()
    state = {
        ours.removeprefix("item_encoder."): weights[theirs]
        for theirs, ours in item_names(system, weights).items()
    }
    assert own.keys() - state.keys() <= unused(encoder)
    left = state.keys() - own.keys()
    assert all("pooler" in name or "post_layernorm" in name for name in left), left
    encoder.load_state_dict({name: state.get(name, own[name]) for name in own})


def unused(encoder: ItemEncoder, start: str = "") -> set[str]:
    """Names of parameters that take no part in ours."""
    return {
        f"{start}{prefix}backbone.{name}"
        for prefix, member in parts(encoder)
        if isinstance(member, BackboneEncoder)
        for name in member.unused_parameters
    }


def parts(encoder: ItemEncoder):
    members = getattr(encoder, "members", None)
    if members is None:
        return [("", encoder)]
    return [(f"members.{name}.", member) for name, member in members.items()]


def content_of(golden: Golden, rows: Tensor, fields: int = 1) -> dict[str, Tensor]:
    content = {"items": rows}
    if "in/item_text" in golden:
        table = golden.tensor("in/item_text")[rows]
        if fields == 1:
            ids, mask = table.chunk(2, dim=1)
        else:  # title ids, title mask, abstract ids, abstract mask; the second is shorter
            words = [golden.sizes[f"num_words_{name}"] for name in ("title", "abstract")]
            ids, mask, *rest = table.split([words[0], words[0], words[1], words[1]], dim=1)
            more, more_mask = (nn.functional.pad(part, (0, words[0] - words[1])) for part in rest)
            ids, mask = torch.stack([ids, more], dim=1), torch.stack([mask, more_mask], dim=1)
        content |= {"text_ids": ids, "text_mask": mask > 0}
    if "in/images" in golden:
        content["image"] = golden.tensor("in/images")[rows]
    return content


# --- the cases -----------------------------------------------------------------------------------

GELU = {"activation": "gelu"}
TEXT = {**GELU, "pooling": "cls"}
IMAGE = {**GELU, "pooling": "pooler"}
NINEREC_FUSED = {"activation": "none", "pooling": "project_mean"}


def text(name: str, **settings) -> Case:
    return Case(name, "text", {**TEXT, **settings}, {"text": bert}, 1e-6)


def image(name: str) -> Case:
    return Case(name, "image", IMAGE, {"image": swin})


def side(golden: Golden) -> int:
    """Pixels of the images, which are square."""
    return golden.tensor("in/images").shape[-1]


def stand_in(name: str) -> Case:
    return Case(name, "parity_stand_in", {"activation": "relu", "image_size": side})


def resnet(name: str) -> Case:
    return Case(name, "parity_like_resnet", {**GELU, "image_size": side})


def hidden(golden: Golden, number: int | str) -> list[int]:
    """So many layers, or as many as a setting says, as wide as the model."""
    return [golden.sizes["embedding_dim"]] * (golden.sizes.get(number, number))


def fused(name: str, fusion: str) -> Case:
    settings = {**NINEREC_FUSED, "fusion": fusion}
    models = {"text": bert, "image": clip}
    return Case(f"ninerec/multimodal_{name}", ["text", "image"], settings, models, 1e-6)


CASES = [
    text("idvsmorec/bce_text"),
    text("idvsmorec/inbatch_text"),
    text("idvsmorec/dssm_text"),
    text("idvsmorec/cold_and_new_item_eval"),
    Case(
        "idvsmorec/bce_text_opt_mean", "text", {**GELU, "pooling": "masked_mean"}, {"text": opt},
        1e-6,
    ),
    Case(
        "idvsmorec/bce_text_two_fields", "text", {**TEXT, "text_fields_as": "averaged"},
        {"text": bert}, 1e-6, fields=2, own_padding=False,
    ),
    image("idvsmorec/bce_vision_swin"),
    image("idvsmorec/inbatch_vision_swin"),
    image("idvsmorec/dssm_vision"),
    resnet("idvsmorec/inbatch_vision_resnet"),
    Case(
        "idvsmorec/twostage_text", "features",
        {**GELU, "projection_layers": lambda g: hidden(g, "dnn_layer")}, own_padding=False,
    ),
    Case("idvsmorec/twostage_vision", "features", GELU, own_padding=False),
    Case(
        "idvsmorec/id_plus_mo_add", ["id", "text"], {**TEXT, "fusion": "sum"}, {"text": bert}, 1e-6
    ),
    Case(
        "idvsmorec/id_plus_mo_cat", ["id", "text"], {**TEXT, "fusion": "concat"}, {"text": bert},
        1e-6,
    ),
    Case(
        "idvsmorec/id_plus_mo_cat_3", ["id", "text"],
        {**TEXT, "fusion": "concat", "projection_layers": lambda g: {"fusion": hidden(g, 2)}},
        {"text": bert}, 1e-6,
    ),
    Case(
        "idvsmorec/id_plus_mo_cat_vision", ["id", "image"], {**IMAGE, "fusion": "concat"},
        {"image": swin},
    ),
    Case(
        "idvsmorec/id_plus_mo_2stage_add", ["id", "features"],
        {
            **GELU, "fusion": "sum", "fusion_projection": True,
            "projection_layers": lambda g: {
                "features": hidden(g, "mo_dnn_layers"), "fusion": hidden(g, "dnn_layers")[1:]
            },
        },
        own_padding=False,
    ),
    Case(
        "idvsmorec/id_plus_mo_2stage_cat", ["id", "features"],
        {
            **GELU, "fusion": "concat",
            "projection_layers": lambda g: {
                "features": hidden(g, "mo_dnn_layers"), "fusion": hidden(g, "dnn_layers")
            },
        },
        own_padding=False,
    ),
    text("ninerec/sasrec_text"),
    text("ninerec/gru4rec_text"),
    text("ninerec/nextitnet_text"),
    text("ninerec/s2o_text"),
    text("ninerec/bert4rec_text"),
    text("ninerec/dssm_text", activation="tanh"),
    text("ninerec/gru4rec_text_bce_dense"),
    text("ninerec/dssm_variant_text"),
    image("ninerec/sasrec_image_swin"),
    image("ninerec/gru4rec_image_swin"),
    image("ninerec/s2o_image_swin"),
    resnet("ninerec/nextitnet_image_resnet"),
    stand_in("ninerec/bert4rec_image"),
    stand_in("ninerec/bert4rec2_image"),
    stand_in("ninerec/cesasrec_image"),
    stand_in("ninerec/gru4rec_image_bpr"),
    fused("concat_sasrec", "concat"),
    fused("concat_nextitnet", "concat"),
    fused("sum_sasrec", "linear_sum"),
    fused("film_sasrec", "film"),
    fused("gated_sasrec", "gated"),
    fused("gated_gru4rec", "gated"),
    Case("ninerec/multimodal_text_only", "text", NINEREC_FUSED, {"text": bert}, 1e-6),
    Case("ninerec/multimodal_image_only", "image", NINEREC_FUSED, {"image": clip}),
    Case("pixelrec/fsasrec_frozen", "features", {}, own_padding=False),
    Case(
        "pixelrec/fsasrec_hybrid", ["features", "id"],
        {
            "fusion": "concat",
            "projection_layers": lambda g: {"features": "none", "fusion": g.sizes["dnn_layers"]},
        },
        own_padding=False,
    ),
    Case("pixelrec/fsasrec_semantic", "codes", {}),
    Case("pixelrec/mosasrec_tiny_clip_mean", "image", {"pooling": "project_mean"}, {"image": clip}),
    *(
        stand_in(f"pixelrec/{name}")
        for name in (
            "mosasrec", "mobert4rec", "modin", "modssm", "mofm", "mogru4rec", "molightsans", "momf",
            "monextitnet", "mosrgnn",
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_item_vectors_are_the_published_ones(case, golden, tmp_path):
    found = golden(case.name)
    encoder = build(case, found, tmp_path)
    load(encoder, found.facts["system"], found.state({"": ""}))
    encoder.eval()
    expected = found.tensor("out/item_emb_all")
    rows = torch.arange(1, len(expected))
    with torch.no_grad():
        ours = encoder(content_of(found, rows, case.fields))
        close(ours, expected[1:], case.tolerance, case.tolerance)
        if case.own_padding:
            padding = encoder(encoder.reserved("pad"))
            close(padding, expected[:1], case.tolerance, case.tolerance)


# --- attention over tokens -----------------------------------------------------------------------


class Given(ItemEncoder):
    """Tokens that are given."""

    def __init__(self, modality: str, dim: int):
        super().__init__(modality, dim)

    def tokens(self, content):
        return content[f"in/{self.name}"], content[f"in/{self.name}_mask"] > 0


@pytest.mark.parametrize("method", ["co_attention", "merged_attention"])
def test_attention_fuses_tokens_as_published(method, golden):
    found = golden("odmt/fusion_blocks")
    sizes = found.sizes
    layers = {"co_attention": "num_co_attn_fuse_layers", "merged_attention": "merged_att_layers"}
    settings = read_settings(
        {
            "embedding_size": sizes["embedding_dim"],
            "activation": "none",
            "fusion_blocks": sizes[layers[method]],
            "fusion_heads": sizes["num_attention_heads"],
            "fusion_inner_size": sizes["intermediate"],
        },
        "fusion",
    )
    members = {name: Given(name, sizes["embedding_dim"]) for name in ("text", "image")}
    encoder = make_fusion(members, method, settings).eval()
    # What stands apart there is what NineRec's model calls its fusion module.
    load(encoder, "ninerec", found.state({f"{method}.": "fusion_module."}))
    arrays = ("in/text", "in/image", "in/text_mask", "in/image_mask")
    with torch.no_grad():
        close(encoder({name: found.tensor(name) for name in arrays}), found.tensor(f"out/{method}"))


# --- PixelRec's wrappers around an encoder -------------------------------------------------------

CLIP, SWIN, BEIT = {"image": clip}, {"image": swin}, {"image": beit}
DEEPER = {"projection_layers": lambda g: g.sizes["dnn_layers"]}
SMALL = {"image_size": lambda g: g.tensor("in/pixels8").shape[-1]}
WRAPPERS = {
    "clip_cls": Case("clip_cls", "image", {"pooling": "cls"}, CLIP),
    "clip_mean": Case("clip_mean", "image", {"pooling": "project_mean"}, CLIP),
    "clip_pool": Case("clip_pool", "image", {"pooling": "pooler"}, CLIP),
    "clip_mean_dnn": Case(
        "clip_mean_dnn", "image",
        {"pooling": "project_mean", "activation": "tanh", **DEEPER}, CLIP,
    ),
    "swin_cls": Case("swin_cls", "image", {"pooling": "first"}, SWIN),
    "swin_pool": Case("swin_pool", "image", {"pooling": "pooler"}, SWIN),
    "beit_pool": Case("beit_pool", "image", {"pooling": "pooler"}, BEIT),
    "resnet_fc": Case("resnet_fc", "parity_like_resnet", SMALL),
    "resnet_fc_dnn": Case(
        "resnet_fc_dnn", "parity_like_resnet", {**SMALL, **DEEPER, "activation": "leaky_relu"}
    ),
    "clip_flatten": Case("clip_flatten", "parity_like_resnet", SMALL),
    "plain": Case("plain", "parity_stand_in", SMALL),
}  # fmt: skip


@pytest.mark.parametrize("name", WRAPPERS)
def test_pixelrecs_wrappers(name, golden, tmp_path):
    found = golden("pixelrec/item_encoder_wrappers")
    plain = (
        rows_of(found, "plain.item_encoder.item_encoder.lin.weight") if name == "plain" else None
    )
    width = plain or found.sizes["resnet_like"]["width"]
    encoder = build(WRAPPERS[name], found, tmp_path, width).eval()
    load(encoder, "pixelrec", found.state({f"{name}.": "visual_encoder."}))
    pixels = found.tensor("in/pixels32" if name.startswith("swin") else "in/pixels8")
    with torch.no_grad():
        close(encoder({"image": pixels}), found.tensor(f"out/{name}"))


# --- images --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pixelrec/mosasrec", "pixelrec/mosasrec_tiny_clip_mean"])
def test_paper_transform_makes_the_published_images(name, golden, tmp_path):
    found = golden(name)
    case = Case(name, "parity_stand_in", {"image_size": side, "transform": "paper"})
    encoder = build(case, found, tmp_path, width=1)
    raw = found.tensor("in/images_uint8").permute(0, 3, 1, 2)[1:]
    # Published images are float32 numbers; row 0 is padding, which was never normalised.
    close(encoder.pixels({"image": raw}), found.tensor("in/images")[1:], 1e-6, 1e-6)
    close(encoder.reserved("pad")["image"], found.tensor("in/images")[:1])
