"""NineRec (Zhang et al., TPAMI 2024): pre-training on Bili_2M and its nine targets.

Values come from the ``train.py`` and yaml files under ``Baseline/`` of westlake-repl/NineRec, which
are those of pre-training. None are published for the targets, and its code takes the source's
learning rates along with the optimiser, so both recipes have the same. Two code bases made the
table: GRU4Rec on texts and BERT4Rec on images come from a fork of PixelRec's, with another patience
and metric of validation than the rest, and BERT4Rec on images with another objective.
"""

from __future__ import annotations

from typing import Any

from recbole_morec.paper_recipes.recipe import Recipe, Why

SOURCE = "bili_2m"
TARGET = "bili_food"
FIGURE = "Hit@10, %, test; assets/NineRec_figure3.png"

# Hit@10 of IDRec, NoPT and HasPT with texts, and of NoPT and HasPT with images, per backbone.
TARGETS = (
    "Bili_Food",
    "Bili_Dance",
    "Bili_Movie",
    "Bili_Cartoon",
    "Bili_Music",
    "KU",
    "QB",
    "TN",
    "DY",
)
FIGURES: dict[tuple[str, str], str] = {
    ("sasrec", "id"): "18.09 23.46 11.40 11.63 19.16 28.36 33.92 15.74 15.92",
    ("bert4rec", "id"): "17.07 21.92 10.75 11.54 17.73 24.18 32.80 15.77 13.43",
    ("nextitnet", "id"): "11.75 17.52 7.95 8.17 14.69 22.22 31.77 12.86 12.06",
    ("gru4rec", "id"): "11.49 17.38 6.85 8.73 15.52 20.40 30.75 14.16 10.45",
    ("sasrec", "text"): "18.03/19.59 23.49/25.41 11.64/12.63 11.94/13.75 19.42/20.65 30.77/31.36"
    " 34.27/34.60 15.11/16.85 14.35/14.49",
    ("bert4rec", "text"): "16.70/20.00 22.14/26.84 11.12/13.47 12.14/14.01 17.44/20.95 24.13/29.30"
    " 32.28/33.40 15.14/16.86 9.72/13.60",
    ("nextitnet", "text"): "15.80/17.26 21.11/23.33 10.34/11.57 11.07/11.85 17.84/19.29 27.38/27.92"
    " 30.28/29.98 12.79/11.96 10.78/9.51",
    ("gru4rec", "text"): "16.12/17.21 21.25/22.47 9.67/11.70 11.04/12.69 16.19/17.79 28.61/29.60"
    " 32.82/33.24 15.73/14.01 16.24/16.34",
    ("sasrec", "image"): "17.20/18.72 21.63/22.16 10.30/11.50 11.09/11.78 17.17/17.56 33.08/33.03"
    " 32.39/33.57 14.12/14.44 14.08/14.68",
    ("bert4rec", "image"): "2.15/19.01 16.65/20.90 1.64/10.11 10.54/11.82 11.92/15.42 23.75/25.42"
    " 25.96/22.33 13.59/12.98 10.83/9.40",
    ("nextitnet", "image"): "14.52/17.89 17.12/21.92 8.21/10.73 9.00/10.92 15.58/16.76 27.23/32.64"
    " 29.91/31.75 11.40/12.15 11.60/12.49",
    ("gru4rec", "image"): "16.33/17.74 19.56/21.84 8.99/10.44 8.95/10.48 15.20/16.04 31.36/30.18"
    " 32.53/33.04 14.27/13.81 13.26/13.93",
}  # fmt: skip

COMMON: dict[str, Any] = {
    "model": "TransRec",
    "seed": 123456,
    "protocol": "ninerec",
    "MAX_ITEM_LIST_LENGTH": 20,
    "embedding_size": 1024,
    "objective": "bce",
    "reduction": "mean",
    "bce_average": "sides",
    "negatives": 1,
    "negatives_avoid": "window",
    "window": "last",
    "target_slots": "all",
    "epochs": 120,
    "train_batch_size": Why(64, "32 per GPU on 2 GPUs"),
    "learner": "adamw",
    "mixed_precision": "no",
    "scheduler": "constant",
    "warmup_ratio": 0.0,
    "stopping_step": 30,
    "metrics": ["Hit", "NDCG"],
    "topk": [10],
    "valid_metric": "Hit@10",
}
PIXELREC_FORK: dict[str, Any] = {
    "seed": 2020,
    "epochs": 220,
    "stopping_step": 20,
    "metrics": ["Hit", "NDCG"],
    "topk": [5, 10],
    "valid_metric": Why("NDCG@10", "Hit@10 in the other code base"),
}

# --- item encoders -------------------------------------------------------------------------------

IN_ENCODER = {"projection_group": Why("encoder", "all but user_encoder trains at fine_tune_lr")}
MODALITIES: dict[str, dict[str, Any]] = {
    "id": {"item_encoder": "id", "learning_rate": 5e-5, "weight_decay": 0.1},
    "text": {
        **IN_ENCODER,
        "item_encoder": "chinese-bert-wwm-ext",
        "pretrained": True,
        "pooling": "cls",
        "activation": "gelu",
        "max_text_length": 30,
        "train_layers": Why("last_6", "freeze_paras_before: 100"),
        "learning_rate": 5e-5,
        "weight_decay": 0.1,
        "encoder_learning_rate": 1e-5,
        "encoder_weight_decay": 0.0,
    },
    "image": {
        **IN_ENCODER,
        "item_encoder": Why("swin-b", "as the figure says; train.py has resnet50"),
        "pretrained": True,
        "pooling": "pooler",
        "activation": "gelu",
        "image_size": 224,
        "resize": "squash",
        "transform": Why("paper", "mean and deviation 0.5 for every encoder"),
        "train_layers": "all",
        "learning_rate": 1e-4,
        "weight_decay": 0.1,
        "encoder_learning_rate": 1e-5,
        "encoder_weight_decay": 0.0,
        "train_batch_size": Why(64, "8 per GPU on 8 GPUs"),
        "mixed_precision": "fp16",
    },
}

# --- user encoders -------------------------------------------------------------------------------

TRANSFORMER: dict[str, Any] = {
    "n_layers": 2,
    "n_heads": 2,
    "hidden_dropout_prob": 0.1,
    "attn_dropout_prob": 0.1,
    "hidden_act": "relu",
    "layer_norm_eps": 1e-6,
    "attention_bias": False,
    "initializer": "xavier_normal",
}
READS_PADDING = {
    "pad_vector": Why("encoded", "no padding mask: the vector of blank content is read")
}
BACKBONES: dict[str, dict[str, Any]] = {
    "sasrec": {**TRANSFORMER, "user_encoder": "SASRec", "inner_size": 4096},
    "nextitnet": {
        **READS_PADDING,
        "user_encoder": "NextItNet",
        "kernel_size": 3,
        "block_num": 2,
        "dilations": [1, 4],
        "output_layer": False,
    },
    "gru4rec": {
        **READS_PADDING,
        "user_encoder": "GRU4Rec",
        "n_layers": 2,
        "hidden_multiplier": 1,
        "output_layer": False,
        "hidden_dropout_prob": 0.1,
    },
    "bert4rec": {
        **TRANSFORMER,
        "user_encoder": "BERT4Rec",
        "MAX_ITEM_LIST_LENGTH": Why(20, "max_seq_len: 21 counts the mask"),
        "embedding_size": 256,
        "inner_size": 1024,
        "mask_vector": Why("learned", "no item here: published it is ranked and drawn like one"),
        "mask_ratio": 0.4,
        "learning_rate": 1e-4,
        "train_batch_size": Why(10, "on 1 GPU"),
        "stopping_step": 500,
    },
}
# What differs by backbone and modality.
SPECIAL: dict[tuple[str, str], dict[str, Any]] = {
    ("bert4rec", "text"): {
        "mask_vector": Why("encoded", "a sentence; published it is ranked and drawn like an item"),
        "train_layers": "all",
        "encoder_weight_decay": Why(0.1, "one l2_weight for both"),
    },
    ("bert4rec", "image"): {
        **PIXELREC_FORK,
        "embedding_size": 1024,
        "inner_size": 1024,
        "n_heads": 4,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "attention_bias": True,
        "initializer": "normal",
        "initializer_range": 0.02,
        "MAX_ITEM_LIST_LENGTH": 20,
        "item_encoder": "swin-b",
        "activation": "relu",
        "mask_vector": Why("encoded", "an image of ones through the encoder"),
        "mask_ratio": 0.6,
        "objective": Why("bpr", "bce everywhere else in the table"),
        "bpr_epsilon": Why(1e-6, "1e-8 in PixelRec"),
        "bpr_epsilon_place": "inside",
        "reduction": Why("sum", "over masked items, then the mean over users"),
        "encoder_learning_rate": 1e-4,
        "train_batch_size": Why(48, "6 per GPU on 8 GPUs"),
    },
    ("gru4rec", "text"): {
        **PIXELREC_FORK,
        "item_encoder": Why("hfl/chinese-bert-wwm", "without -ext"),
        "train_layers": "all",
        "output_layer": True,
        "hidden_dropout_prob": 0.0,
        "learning_rate": 1e-4,
        "encoder_learning_rate": 5e-5,
        "train_batch_size": Why(64, "8 per GPU on 8 GPUs"),
    },
}
SCRAMBLED = (
    "of histories whose positions were sorted as text (0, 1, 10, 11, .., 2, ..); here they are not"
)


def recipes() -> list[Recipe]:
    """4 backbones, each with texts and images on source and target, with IDs on the target."""
    found = []
    for backbone in BACKBONES:
        for modality in MODALITIES:
            settings = _settings(backbone, modality)
            name = f"ninerec-{backbone}-{modality}"
            measured = f"{FIGURE}; IDRec"
            if modality != "id":
                given = f"no figure for the source; {name}-target loads its run"
                found.append(Recipe(f"{name}-source", SOURCE, "", [given], settings))
                measured = f"{FIGURE}; NoPT / HasPT, which adds --load=<run of {name}-source>"
            figures = _figures(backbone, modality)
            found.append(Recipe(f"{name}-target", TARGET, measured, figures, settings))
    return found


def _settings(backbone: str, modality: str) -> dict[str, Any]:
    values = {**COMMON, **MODALITIES[modality], **BACKBONES[backbone]}
    values |= SPECIAL.get((backbone, modality), {})
    if values["objective"] != "bce":
        del values["bce_average"]
    return values


def _figures(backbone: str, modality: str) -> list[str]:
    figures = zip(TARGETS, FIGURES[backbone, modality].split(), strict=True)
    numbers = [f"{target} {figure.replace('/', ' / ')}" for target, figure in figures]
    lines = [", ".join(numbers[:4]) + ",", ", ".join(numbers[4:])]
    return [*lines, SCRAMBLED] if (backbone, modality) == ("gru4rec", "text") else lines
