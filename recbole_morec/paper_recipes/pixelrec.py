"""PixelRec (Cheng et al., SDM 2024): the two tables of its slides, and its models on features.

Values come from ``code/**/*.yaml`` of westlake-repl/PixelRec; where its README names another as the
best one, that is taken and the comment says so. ``tune_scale`` counts parameter tensors there; here
the same tensors are named.
"""

from __future__ import annotations

from typing import Any

from recbole_morec.paper_recipes.recipe import Recipe, Why

DATASET = "pixel200k"
TABLE = "Recall@10 / NDCG@10, %, test of Pixel200K; doc/pre.pdf p. 23"
BY_ENCODER = "Recall@10, %, test of Pixel200K; doc/pre.pdf p. 25"
NOWHERE = "no figure in its repository, slides or poster"

# Columns of the table, and Recall@10 and NDCG@10 of each item encoder.
COLUMNS = ("mf", "fm", "dssm", "srgnn", "gru4rec", "bert4rec", "nextitnet", "sasrec", "lightsans")
FIGURES = {
    "id": (
        "1.013 1.357 1.401 1.597 1.833 1.972 2.187 2.500 2.578",
        "0.490 0.679 0.701 0.808 0.937 0.994 1.153 1.350 1.384",
    ),
    "rn50": (
        "0.357 1.024 0.960 2.224 2.294 2.391 2.140 2.633 2.417",
        "0.169 0.501 0.475 1.132 1.138 1.199 1.073 1.321 1.226",
    ),
    "vit": (
        "0.472 1.124 1.242 2.152 2.102 2.450 2.215 2.583 2.461",
        "0.229 0.543 0.617 1.065 1.031 1.230 1.106 1.292 1.224",
    ),
}
# SASRec with the other encoders, Recall@10. (ID 2.50, RN50 2.63 and ViT 2.58 are in the table.)
SASREC = {
    "resnet50": "2.54", "swin-t": "2.56", "beit": "2.68", "rn50x64": "2.75", "rn50x4": "2.79",
    "swin-b": "2.83", "rn50x16": "2.85",
}  # fmt: skip

EVALUATION: dict[str, Any] = {
    "seed": 2020,
    "protocol": "pixelrec",
    "MAX_ITEM_LIST_LENGTH": 10,
    "metrics": ["Recall", "NDCG"],
    "topk": [5, 10],
    "valid_metric": "NDCG@10",
}
COMMON: dict[str, Any] = {
    **EVALUATION,
    "model": "PixelNet",
    "objective": "bpr",
    "reduction": Why("sum", "over the positions of a window, then the mean over windows"),
    "bpr_epsilon": 1e-8,
    "bpr_epsilon_place": "inside",
    "negatives": 1,
    "negatives_avoid": "window",
    "window": "windows",
    "window_remainder": Why("drop", "the oldest items that fill no window of 11 are never read"),
    "target_slots": "all",
    "epochs": 200,
    "train_batch_size": 64,
    "learner": "adamw",
    "mixed_precision": "no",
    "scheduler": "constant",
    "warmup_ratio": 0.0,
    "stopping_step": 30,
}

# --- item encoders -------------------------------------------------------------------------------

IMAGE: dict[str, Any] = {
    "pretrained": True,
    "activation": "relu",
    "image_size": 224,
    "resize": "squash",
    "transform": Why("paper", "mean and deviation 0.5 for every encoder"),
    "encoder_learning_rate": 1e-4,
    "encoder_weight_decay": 0.0,
    "projection_group": Why("encoder", "the projection is part of visual_encoder"),
}
RESNET: dict[str, Any] = {
    **IMAGE,
    "batch_norm": Why("train", "as published, but the layers that do not train stand still here"),
    "encode": Why("every_slot", "BatchNorm sees padding, negatives and repeats as published"),
    "encoder_weight_decay": 0.01,
}
LARGE_RN50: dict[str, Any] = {
    **RESNET,
    "pooling": Why("mean", "the attention pool of this encoder cannot read 224 pixels"),
    "train_layers": Why("stages:[4]", "layer4, hard-coded for this encoder"),
}
ENCODERS: dict[str, dict[str, Any]] = {
    "id": {"item_encoder": "id"},
    "rn50": {
        **RESNET,
        "item_encoder": "clip-rn50",
        "pooling": Why("default", "the attention pool (method: cls)"),
        "train_layers": Why(
            ["stages.2", "stages.3"], "layer3 and layer4 (tune_scale: 78), not the attention pool"
        ),
    },
    "vit": {
        **IMAGE,
        "item_encoder": "clip-vit-b32",
        "pooling": Why("project_mean", "each token is projected and activated, then the mean"),
        "train_layers": Why("last_2", "tune_scale: 165"),
    },
    "resnet50": {
        **RESNET,
        "item_encoder": "resnet50-tv",
        "pooling": "default",
        "train_layers": Why("stages:[3,4]", "no file is published for this encoder"),
    },
    "swin-t": {
        **IMAGE,
        "item_encoder": "swin-t",
        "pooling": "pooler",
        "train_layers": Why("stages:[3,4]", "tune_scale: 78"),
    },
    "swin-b": {
        **IMAGE,
        "item_encoder": "swin-b",
        "pooling": "pooler",
        "train_layers": Why("stages:[3,4]", "tune_scale: 78"),
        "train_batch_size": Why(64, "8 per GPU; the README says 64 for all encoders"),
    },
    "beit": {
        **IMAGE,
        "item_encoder": "beit-b16",
        "pooling": "pooler",
        "train_layers": Why("last_2", "tune_scale: 183"),
    },
    "rn50x4": {**LARGE_RN50, "item_encoder": "clip-rn50x4"},
    "rn50x16": {**LARGE_RN50, "item_encoder": "clip-rn50x16"},
    "rn50x64": {**LARGE_RN50, "item_encoder": "clip-rn50x64"},
}

# --- user encoders -------------------------------------------------------------------------------

LIGHT_TRANSFORMER: dict[str, Any] = {
    "embedding_size": 512,
    "n_layers": 1,
    "n_heads": 4,
    "inner_size": 1024,
    "hidden_dropout_prob": 0.1,
    "attn_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "initializer_range": 0.02,
}
TRANSFORMER: dict[str, Any] = {
    **LIGHT_TRANSFORMER,
    "n_layers": 2,
    "attention_bias": True,
    "initializer": "normal",
}
READS_PADDING = {
    "pad_vector": Why("encoded", "no padding mask: the vector of a blank item is read")
}
PREFIXES: dict[str, Any] = {
    "reduction": Why(
        "mean", "over all prefixes; published rows are prefixes, here they are windows"
    ),
    "train_batch_size": Why(56, "512 prefixes, about 9 of a window"),
}
PAIRS: dict[str, Any] = {
    "reduction": "mean",
    "negatives_avoid": Why("history", "pairs draw nothing that the user has in training"),
    "window_remainder": Why("keep", "every pair of user and item trains"),
    "train_batch_size": Why(57, "512 pairs, about 9 of a window"),
}
TWO_TOWER: dict[str, Any] = {
    "reduction": Why("mean", "over all items of the windows, each predicted from the others"),
    "embedding_size": 4096,
    "weight_decay": 0.0,
}
BACKBONES: dict[str, dict[str, Any]] = {
    "mf": {
        **PAIRS,
        "model": "MF",
        "user_encoder": "UserID",
        "tower_layers": [],
        "embedding_size": 4096,
        "bpr_epsilon_place": Why("outside", "of the logarithm: no gradient depends on it"),
        "learning_rate": 1e-4,
        "weight_decay": Why(0.0, "README"),
    },
    "fm": {
        **TWO_TOWER,
        "model": "FM",
        "user_encoder": "FM",
        "learning_rate": Why(5e-5, "README"),
    },
    "dssm": {
        **TWO_TOWER,
        "model": "DSSM",
        "user_encoder": "DSSM",
        "tower_layers": [],
        "learning_rate": 1e-4,
    },
    "srgnn": {
        **PREFIXES,
        "user_encoder": "SRGNN",
        "embedding_size": 512,
        "step": 2,
        "bpr_epsilon_place": Why("outside", "of the logarithm: no gradient depends on it"),
        "learning_rate": 1e-4,
        "weight_decay": Why(0.01, "README"),
    },
    "gru4rec": {
        **READS_PADDING,
        "user_encoder": "GRU4Rec",
        "embedding_size": 2048,
        "n_layers": 1,
        "hidden_multiplier": Why(2, "README; gru4rec.yaml has 1"),
        "output_layer": True,
        "hidden_dropout_prob": 0.0,
        "learning_rate": 1e-4,
        "weight_decay": Why(0.01, "README"),
    },
    "bert4rec": {
        **TRANSFORMER,
        "user_encoder": "BERT4Rec",
        "inner_size": 512,
        "mask_vector": Why("encoded", "an image of ones through the encoder"),
        "mask_ratio": 0.6,
        "learning_rate": 1e-4,
        "weight_decay": 0.1,
    },
    "nextitnet": {
        **READS_PADDING,
        "user_encoder": "NextItNet",
        "embedding_size": 1024,
        "kernel_size": 3,
        "block_num": 3,
        "dilations": [1, 4],
        "output_layer": False,
        "learning_rate": 1e-4,
        "weight_decay": Why(0.01, "README"),
    },
    "sasrec": {
        **TRANSFORMER,
        "user_encoder": "SASRec",
        "learning_rate": 1e-4,
        "weight_decay": 0.1,
    },
    "lightsans": {
        **LIGHT_TRANSFORMER,
        **READS_PADDING,
        **PREFIXES,
        "user_encoder": "LightSANs",
        "k_interests": 3,
        "learning_rate": 1e-4,
        "weight_decay": 0.1,
    },
}
FIRST_ROW = {
    "train_batch_size": Why(64, "the released code drops all but the first row of each batch")
}
NORMAL_TABLE = {"item_encoder": Why("id", "starts Xavier-normal here, from N(0, 0.02) in PixelRec")}
README_5E5 = {"learning_rate": Why(5e-5, "README; ID.yaml has 1e-4")}
# What differs with item IDs.
WITH_ID: dict[str, dict[str, Any]] = {
    "mf": {},
    "fm": FIRST_ROW,
    "dssm": FIRST_ROW,
    "srgnn": {
        **README_5E5,
        "item_encoder": Why(
            "id", "starts Xavier-normal here, uniform up to 1 / sqrt(d) in PixelRec"
        ),
        "train_batch_size": Why(7, "64 prefixes, about 9 of a window"),
    },
    "gru4rec": {},
    "bert4rec": {**README_5E5, **NORMAL_TABLE, "mask_vector": "learned"},
    "nextitnet": {
        "item_encoder": Why("id", "starts Xavier-normal here, uniform up to N^-1/2 in PixelRec"),
        "learning_rate": Why(5e-4, "README; ID.yaml has 1e-4"),
    },
    "sasrec": {**README_5E5, **NORMAL_TABLE},
    "lightsans": {**README_5E5, **NORMAL_TABLE},
}
# What differs with images.
WITH_IMAGES: dict[str, dict[str, Any]] = {
    "mf": {"bpr_epsilon": Why(0.0, "MOMF has none"), "bpr_epsilon_place": "inside"},
    "gru4rec": {
        "embedding_size": Why(2048, "README: as with IDs; PixelNet/gru4rec.yaml has 512"),
    },
}

# --- models on stored features -------------------------------------------------------------------

FEATURES: dict[str, Any] = {**COMMON, "item_encoder": "features"}
FROZEN_SASREC: dict[str, Any] = {
    **COMMON,
    **BACKBONES["sasrec"],
    "model": "FSASRec",
    "activation": "relu",
    "train_batch_size": 512,
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
}
ON_FEATURES: dict[str, tuple[dict[str, Any], str]] = {
    "vbpr": (
        {
            **FEATURES,
            **PAIRS,
            "model": "VBPR",
            "projection_layers": "none",
            "embedding_size": Why(4096, "half for each of the two products"),
            "learning_rate": 1e-3,
            "weight_decay": 0.0,
            "encoder_learning_rate": 1e-4,
            "encoder_weight_decay": 0.1,
            "projection_group": Why("encoder", "the map of the features and the visual bias"),
        },
        "--features=RN50.npy",
    ),
    "acf": (
        {
            **FEATURES,
            "model": "ACF",
            "activation": Why("relu", "of each region's linear map"),
            "embedding_size": Why(128, "README; acf.yaml has 512"),
            "reduction": "mean",
            "train_batch_size": Why(64, "README; acf.yaml has 512"),
            "learning_rate": 1e-4,
            "weight_decay": Why(0.1, "README; acf.yaml has 0.01"),
        },
        "--features=RN50_layer4.npy",
    ),
    "visrank": (
        {
            **EVALUATION,
            "model": "VisRank",
            "item_encoder": "features",
            "projection_layers": "none",
            "MAX_ITEM_LIST_LENGTH": Why(50, "the newest items that are compared"),
            "visrank_method": Why(
                "maximum", "README; visrank.yaml has average_top_k of 1, the same"
            ),
        },
        "--features=RN50.npy",
    ),
    "fsasrec": ({**FROZEN_SASREC, "item_encoder": "features"}, "--features=RN50.npy"),
    "fsasrec-hybrid": (
        {
            **FROZEN_SASREC,
            "item_encoder": ["features", "id"],
            "projection_layers": {"features": "none"},
            "fusion": "concat",
        },
        "--features=RN50.npy",
    ),
    "fsasrec-semantic": (
        {**FROZEN_SASREC, "item_encoder": Why("codes", "5 codes of 512 centres per item")},
        "--codes=sematic_id_len_5_size_512.npy",
    ),
}
LIGHTGCN: dict[str, Any] = {
    **COMMON,
    **PAIRS,
    "model": "LightGCN",
    "item_encoder": "id",
    "embedding_size": 256,
    "n_layers": Why(2, "README; lightgcn.yaml has 1"),
    "bpr_epsilon_place": Why("outside", "of the logarithm: no gradient depends on it"),
    "train_batch_size": Why(114, "README: 1024 pairs, about 9 of a window"),
    "learning_rate": Why(5e-4, "README"),
    "weight_decay": Why(0.01, "README"),
}


def recipes() -> list[Recipe]:
    """The table of 9 x 3, SASRec with 7 further encoders, 6 models on features, and LightGCN."""
    found = []
    for encoder, (recall, ndcg) in FIGURES.items():
        for backbone, *figures in zip(COLUMNS, recall.split(), ndcg.split(), strict=True):
            found.append(_recipe(backbone, encoder, TABLE, " / ".join(figures)))
    for encoder, figure in SASREC.items():
        found.append(_recipe("sasrec", encoder, BY_ENCODER, figure))
    for name, (settings, flags) in ON_FEATURES.items():
        found.append(Recipe(f"pixelrec-{name}", DATASET, "", [NOWHERE], settings, flags))
    found.append(Recipe("pixelrec-lightgcn", DATASET, "", [NOWHERE], LIGHTGCN))
    return found


def _recipe(backbone: str, encoder: str, measured: str, figure: str) -> Recipe:
    special = WITH_ID if encoder == "id" else WITH_IMAGES
    decay: dict[str, Any] = {}
    if "rn50" in encoder and backbone in ("sasrec", "bert4rec", "lightsans"):
        decay = {"weight_decay": Why(0.1, "README; RN50.yaml has 0.01")}
    settings = {
        **COMMON, **ENCODERS[encoder], **BACKBONES[backbone], **special.get(backbone, {}), **decay,
    }  # fmt: skip
    return Recipe(f"pixelrec-{backbone}-{encoder}", DATASET, measured, [figure], settings)
