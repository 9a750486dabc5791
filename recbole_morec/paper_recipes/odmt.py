"""ODMT (Ji et al., MM 2023): the four data sets of the paper.

Values come from the scripts (``run_*.sh``) of xyliugo/ODMT and the defaults of its ``main.py``. The
paper's tables are not at hand, so the files have no figures.
"""

from __future__ import annotations

from typing import Any

from recbole_morec.paper_recipes.recipe import Recipe, Why

COMMON: dict[str, Any] = {
    "model": "ODMT",
    "seed": 1,
    "protocol": "morec",
    "MAX_ITEM_LIST_LENGTH": 12,
    "text_fields": ["title"],
    "pretrained": True,
    "train_layers": "none",
    "max_text_length": 30,
    "image_size": 224,
    "resize": "squash",
    "transform": Why("paper", "mean and deviation 0.5, also for CLIP"),
    "embedding_size": 768,
    "user_encoder": "SASRec",
    "n_layers": 2,
    "n_heads": 2,
    "hidden_dropout_prob": 0.1,
    "attn_dropout_prob": 0.1,
    "hidden_act": "relu",
    "layer_norm_eps": 1e-6,
    "attention_bias": False,
    "initializer": "xavier_normal",
    "popularity_correction": 1.0,
    "mask_own_history": True,
    "gather_negatives": Why(False, "each GPU has its own; 2 processes for the published 128 users"),
    "window": "last",
    "target_slots": "all",
    "item_transformer_layers": 2,
    "item_transformer_heads": Why(2, "published as the number of layers"),
    "item_transformer_mask": "v1",
    "id_embedding_size": 768,
    "states_dtype": Why("fp32", "bf16 takes half the disk"),
    "train_batch_size": Why(256, "128 per GPU on 2 GPUs"),
    "learner": "adamw",
    "learning_rate": 1e-4,
    "weight_decay": Why(0.1, "on everything, norms and the ID table too"),
    "mixed_precision": "fp16",
    "scheduler": "constant",
    "warmup_ratio": 0.0,
    "clip_grad_norm": 5.0,
    "stopping_step": Why(100, "it never stops early"),
    "metrics": ["Hit", "NDCG"],
    "topk": [10],
    "valid_metric": Why("Hit@10", "of the ensemble"),
}
ENGLISH = ["clip-vit-b32", "bert-base"]
# Data set -> what differs. The ramp of distillation_alpha is longer than the training of most.
DATA_SETS: dict[str, dict[str, Any]] = {
    "stream": {
        "item_encoder": ["clip-vit-b32", "chinese-roberta-wwm-ext"],
        "id_init": "text",
        "tie_cls_feature": Why(True, "the published table is a view of the first token"),
        "distillation_temperature": 0.5,
        "distillation_alpha": 50,
        "epochs": 40,
    },
    "arts": {
        "item_encoder": ENGLISH,
        "id_init": "mean",
        "distillation_temperature": 0.3,
        "distillation_alpha": 20,
        "epochs": Why(31, "published code never evaluates its last epoch"),
    },
    "office": {
        "item_encoder": ENGLISH,
        "id_init": Why("mean", "random was tried too"),
        "distillation_temperature": 0.4,
        "distillation_alpha": Why(40, "0 is its ablation without distillation"),
        "epochs": 30,
    },
    "hm": {
        "item_encoder": ENGLISH,
        "id_init": Why("mean", "random was tried too"),
        "distillation_temperature": 0.5,
        "distillation_alpha": 60,
        "epochs": 30,
    },
}


def recipes() -> list[Recipe]:
    """One for each data set."""
    given = "no figure: the tables of the paper are not at hand"
    return [
        Recipe(f"odmt_{data}", data, "", [given], COMMON | values)
        for data, values in DATA_SETS.items()
    ]
