"""The encoders of PixelRec, IDvs.MoRec, NineRec and ODMT, under short names.

``pooling: default`` is the published one. What PixelRec trains of an encoder stands in
``properties/item_encoder/<name>.yaml``. The hub id or timm name of the same model works too; it has
the defaults of the model itself.
"""

from __future__ import annotations

from recbole_morec.item_encoders.registry import EncoderCard, register_card

_APACHE, _MIT, _BSD = "Apache-2.0", "MIT", "BSD-3-Clause"
_OPT = "OPT-175B licence (research, non-commercial)"


def _tiny(name: str, modality: str, counts: str, **arguments: object) -> None:
    register_card(
        EncoderCard(
            name, modality, "transformers", arguments=arguments, pretrained=False, counts=counts
        )
    )


def _text(
    name: str,
    model: str,
    licence: str = _APACHE,
    pooling: str = "cls",
    stand_in: str = "tiny_bert",
    aliases: tuple[str, ...] = (),
) -> None:
    register_card(
        EncoderCard(
            name, "text", "transformers", model, pooling=pooling, licence=licence,
            stand_in=stand_in, aliases=aliases, counts="layers",
        )
    )  # fmt: skip


def _image(
    name: str,
    source: str,
    model: str,
    licence: str,
    pooling: str | None,
    stand_in: str,
    counts: str,
    **arguments: object,
) -> None:
    register_card(
        EncoderCard(
            name, "image", source, model, arguments=arguments, pooling=pooling, licence=licence,
            stand_in=stand_in, counts=counts,
        )
    )  # fmt: skip


# --- tiny models of the same kinds, for tests in their place --------------------------------------

_VIT = {
    "image_size": 64, "patch_size": 16, "hidden_size": 64, "num_hidden_layers": 3,
    "num_attention_heads": 2, "intermediate_size": 128,
}  # fmt: skip
_WORDS = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 2}

_tiny("tiny_beit", "image", "layers", model_type="beit", **_VIT)
_tiny("tiny_clip_vit", "image", "layers", model_type="clip_vision_model", **_VIT)
_tiny("tiny_mae", "image", "layers", model_type="vit_mae", **_VIT)
_tiny(
    "tiny_swin", "image", "stages", model_type="swin", image_size=64, patch_size=2, embed_dim=16,
    depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 4], window_size=4,
)  # fmt: skip
_tiny("tiny_opt", "text", "layers", model_type="opt", word_embed_proj_dim=64, ffn_dim=128, **_WORDS)
_tiny("tiny_roberta", "text", "layers", model_type="roberta", intermediate_size=128, **_WORDS)
register_card(
    EncoderCard(
        "tiny_resnet", "image", "timm", "test_resnet", input_size=64, pretrained=False,
        counts="stages",
    )
)  # fmt: skip

# --- images --------------------------------------------------------------------------------------

for size in (18, 34, 50):  # torchvision's weights
    model = f"resnet{size}.tv_in1k"
    _image(f"resnet{size}-tv", "timm", model, _BSD, None, "tiny_resnet", "stages")
for size, width in (("50", 1024), ("50x4", 640), ("50x16", 768), ("50x64", 1024)):
    _image(
        f"clip-rn{size}", "timm", f"resnet{size}_clip.openai", _MIT, None, "tiny_resnet", "stages",
        num_classes=width,  # what the attention pool gives
    )  # fmt: skip
_image(
    "clip-vit-b32", "transformers", "openai/clip-vit-base-patch32", _MIT, "project_mean",
    "tiny_clip_vit", "layers",
)  # fmt: skip
for short, size in (("t", "tiny"), ("b", "base")):
    model = f"microsoft/swin-{size}-patch4-window7-224"
    _image(f"swin-{short}", "transformers", model, _APACHE, "pooler", "tiny_swin", "stages")
_image(
    "beit-b16", "transformers", "microsoft/beit-base-patch16-224", _APACHE, "pooler", "tiny_beit",
    "layers",
)  # fmt: skip
_image("mae-b16", "transformers", "facebook/vit-mae-base", _APACHE, "cls", "tiny_mae", "layers")

# --- texts ---------------------------------------------------------------------------------------

_text("bert-tiny", "google/bert_uncased_L-2_H-128_A-2")
_text("bert-mini", "google/bert_uncased_L-4_H-256_A-4")
_text("bert-small", "google/bert_uncased_L-4_H-512_A-8")
_text("bert-medium", "google/bert_uncased_L-8_H-512_A-8")
_text("bert-base", "google-bert/bert-base-uncased", aliases=("bert_base_uncased",))
_text("bert-large", "google-bert/bert-large-uncased")
_text("roberta-base", "FacebookAI/roberta-base", _MIT, stand_in="tiny_roberta")
_text("roberta-large", "FacebookAI/roberta-large", _MIT, stand_in="tiny_roberta")
_text("opt-125m", "facebook/opt-125m", _OPT, "masked_mean", "tiny_opt", ("opt_125m",))
_text("chinese-bert-wwm-ext", "hfl/chinese-bert-wwm-ext", aliases=("chinese_bert_wwm",))
_text("chinese-roberta-wwm-ext", "hfl/chinese-roberta-wwm-ext")
