"""IDvs.MoRec (Yuan et al., SIGIR 2023): tables 2, 4, 5 and 7 of the paper, and its README's table.

Values come from the launchers (``train_*.py``) of westlake-repl/IDvs.MoRec. They loop over several,
and which of them won is not published: the first one is taken and the comment lists the others.
What a launcher has for one encoder of a data set is taken for the set's other encoders, and HM's
for Bili.
"""

from __future__ import annotations

from typing import Any

from recbole_morec.paper_recipes.recipe import Recipe, Why

NAMES = {"mind": "MIND", "hm": "HM", "bili": "Bili"}
LENGTH = {"mind": 20, "hm": 10, "bili": 10}
IS_TEXT = {"mind": True, "hm": False, "bili": False}
PAIRS = {"mind": 13.34, "hm": 11.0, "bili": 11.0}  # training items of a user, from Table 1
BOTH = "Hit@10 / NDCG@10"

# Table 2: (data set, backbone, item encoder) -> Hit@10 and NDCG@10, binary cross-entropy.
TABLE_2 = {
    ("mind", "dssm", "id"): "3.58 / 1.69",
    ("mind", "dssm", "bert-base"): "2.68 / 1.21",
    ("mind", "dssm", "roberta-base"): "3.07 / 1.35",
    ("mind", "sasrec", "id"): "17.71 / 9.52",
    ("mind", "sasrec", "bert-small"): "18.50 / 9.94",
    ("mind", "sasrec", "bert-base"): "18.23 / 9.73",
    ("mind", "sasrec", "roberta-base"): "18.68 / 10.02",
    ("hm", "dssm", "id"): "4.93 / 2.93",
    ("hm", "dssm", "resnet50"): "1.49 / 0.75",
    ("hm", "dssm", "swin-t"): "1.87 / 0.94",
    ("hm", "sasrec", "id"): "6.84 / 4.01",
    ("hm", "sasrec", "resnet50"): "6.67 / 3.56",
    ("hm", "sasrec", "swin-t"): "6.97 / 3.80",
    ("hm", "sasrec", "swin-b"): "7.24 / 3.98",
    ("bili", "dssm", "id"): "1.14 / 0.56",
    ("bili", "dssm", "resnet50"): "0.38 / 0.18",
    ("bili", "dssm", "swin-t"): "0.57 / 0.27",
    ("bili", "sasrec", "id"): "3.03 / 1.63",
    ("bili", "sasrec", "resnet50"): "2.93 / 1.45",
    ("bili", "sasrec", "swin-t"): "3.18 / 1.59",
    ("bili", "sasrec", "swin-b"): "3.28 / 1.66",
}
# README: SASRec with the in-batch loss. The middle encoder of each set stands in an older README.
IN_BATCH = {
    ("mind", "id"): "22.60 / 12.57",
    ("mind", "bert-small"): "22.96 / 12.82",
    ("mind", "bert-base"): "22.82 / 12.70",
    ("mind", "roberta-base"): "23.00 / 12.82",
    ("hm", "id"): "11.94 / 7.75",
    ("hm", "resnet50"): "11.90 / 7.46",
    ("hm", "swin-t"): "12.20 / 7.70",
    ("hm", "swin-b"): "12.26 / 7.70",
    ("bili", "id"): "4.91 / 2.71",
    ("bili", "resnet50"): "5.62 / 3.08",
    ("bili", "swin-t"): "5.55 / not known",
    ("bili", "swin-b"): "5.73 / 3.14",
}
# Table 4: random weights -> published weights of the encoder, all users; the same with 50K users.
TABLE_4 = {
    ("mind", "bert-base"): "17.78 (18.23 pretrained); 50K users 15.04 (14.35)",
    ("hm", "resnet50"): "5.82 (6.67 pretrained); 50K users 2.74 (3.26)",
    ("hm", "swin-t"): "6.27 (6.97 pretrained); 50K users 2.84 (4.47)",
    ("bili", "resnet50"): "2.67 (2.93 pretrained); 50K users 1.07 (1.20)",
    ("bili", "swin-t"): "2.83 (3.18 pretrained); 50K users 1.08 (1.46)",
}
# Table 5: a frozen encoder (TS), and with 2, 6, 8, 10 and 12 layers after it (TS-DNN).
DEPTHS = (2, 6, 8, 10, 12)
TABLE_5 = {
    ("mind", "bert-base"): ("13.93", "15.20 16.26 16.66 16.32 16.14"),
    ("hm", "resnet50"): ("4.03", "4.64 5.40 5.39 5.40 5.02"),
    ("hm", "swin-t"): ("3.45", "4.46 5.28 5.55 5.40 5.38"),
    ("bili", "resnet50"): ("0.72", "1.23 1.62 1.47 1.28 1.24"),
    ("bili", "swin-t"): ("0.79", "1.40 1.81 2.10 1.95 1.64"),
}
# Table 7: IDs and content, with a frozen encoder (TS), layers after it (TS-DNN), and end to end.
TABLE_7 = {
    ("mind", "bert-base"): {"ts": "17.66", "ts-dnn": "17.55", "e2e": "17.12"},
    ("hm", "swin-t"): {"ts": "5.75", "ts-dnn": "5.27", "e2e": "5.40"},
    ("bili", "swin-t"): {"ts": "3.02", "ts-dnn": "2.86", "e2e": "2.94"},
}

COMMON: dict[str, Any] = {
    "model": "MoRec",
    "seed": 12345,
    "protocol": "morec",
    "embedding_size": 512,
    "objective": "bce",
    "reduction": "mean",
    "bce_average": "sides",
    "negatives": 1,
    "negatives_avoid": "window",
    "window": "last",
    "target_slots": "all",
    "epochs": 150,
    "learner": "adamw",
    "mixed_precision": "fp16",
    "scheduler": "constant",
    "warmup_ratio": 0.0,
    "stopping_step": 6,
    "metrics": ["Hit", "NDCG"],
    "topk": [10],
    "valid_metric": "Hit@10",
}
SASREC: dict[str, Any] = {
    "user_encoder": "SASRec",
    "n_layers": 2,
    "n_heads": 2,
    "hidden_dropout_prob": 0.1,
    "attn_dropout_prob": 0.1,
    "hidden_act": "relu",
    "layer_norm_eps": 1e-6,
    "attention_bias": False,
    "initializer": "xavier_normal",
}

# --- item encoders -------------------------------------------------------------------------------

TEXT: dict[str, Any] = {
    "text_fields": Why(["title"], "no launcher reads the abstract"),
    "pretrained": True,
    "pooling": "cls",
    "activation": "gelu",
    "max_text_length": 30,
    "train_layers": "all",
    "projection_group": "recommender",
}
IMAGE: dict[str, Any] = {
    "pretrained": True,
    "activation": "gelu",
    "image_size": 224,
    "resize": "squash",
    "transform": Why("paper", "mean and deviation 0.5 for every encoder"),
    "train_layers": "all",
    "projection_group": "recommender",
}
BATCH_STATISTICS = {
    "batch_norm": "train",
    "encode": Why("every_slot", "BatchNorm sees padding, negatives and repeats as published"),
}
ENCODERS: dict[str, dict[str, Any]] = {
    "id": {"item_encoder": "id"},
    "bert-small": {**TEXT, "item_encoder": "bert-small"},
    "bert-base": {**TEXT, "item_encoder": "bert-base"},
    "roberta-base": {
        **TEXT,
        "item_encoder": Why("roberta-base", "reads titles as they are; published: in lower case"),
    },
    "resnet50": {**IMAGE, **BATCH_STATISTICS, "item_encoder": "resnet50-tv", "pooling": "default"},
    "swin-t": {**IMAGE, "item_encoder": "swin-t", "pooling": "pooler"},
    "swin-b": {**IMAGE, "item_encoder": "swin-b", "pooling": "pooler"},
}
RATES_TEXT: dict[str, Any] = {
    "learning_rate": Why(1e-4, "5e-5 was tried too"),
    "encoder_learning_rate": 5e-5,
    "train_batch_size": Why(64, "32 per GPU on 2 GPUs"),
}
RATES_IMAGE: dict[str, Any] = {
    "learning_rate": Why(1e-4, "5e-5 for both, and for the encoder alone, were tried too"),
    "encoder_learning_rate": 1e-4,
    "train_batch_size": Why(64, "16 per GPU on 4 GPUs"),
}
DECAY = {"weight_decay": 0.01, "encoder_weight_decay": 0.01}
RATES_ID: dict[str, Any] = {
    "learning_rate": Why(1e-4, "5e-5, 5e-4 and 1e-3 were tried too"),
    "weight_decay": 0.1,
    "train_batch_size": 128,
}
# Parameters of IDRec in Table 6: 47M on MIND and 114M on HM.
ID_SIZE = {
    "mind": Why(512, "512 to 4096 were tried; 512 has the published 47M parameters"),
    "hm": Why(1024, "512 to 4096 were tried; 1024 has the published 114M parameters"),
    "bili": Why(1024, "as on HM; 512 to 4096 were tried"),
}

# --- the tables ----------------------------------------------------------------------------------


def recipes() -> list[Recipe]:
    """Tables 2, README, 4, 5 and 7 in this order."""
    found = []
    for (data, backbone, encoder), figures in TABLE_2.items():
        settings = (_dssm if backbone == "dssm" else _end_to_end)(data, encoder)
        found.append(_recipe(data, f"{backbone}-{encoder}", BOTH, "Table 2", figures, settings))
    for (data, encoder), figures in IN_BATCH.items():
        name, settings = f"sasrec-{encoder}-in-batch", _in_batch(data, encoder)
        found.append(_recipe(data, name, BOTH, "README", figures, settings))
    for (data, encoder), figures in TABLE_4.items():
        settings = {**_end_to_end(data, encoder), "pretrained": False}
        name = f"sasrec-{encoder}-scratch"
        found.append(_recipe(data, name, "Hit@10", "Table 4", figures, settings))
    for (data, encoder), (plain, deep) in TABLE_5.items():
        found += _two_stages(data, encoder, plain, dict(zip(DEPTHS, deep.split(), strict=True)))
    for (data, encoder), kinds in TABLE_7.items():
        for kind, figure in kinds.items():
            name, settings = f"sasrec-id-{encoder}-{kind}", _id_and_content(data, encoder, kind)
            where = "Table 7, the better of sum and concat"
            found.append(_recipe(data, name, "Hit@10", where, figure, settings))
    return found


def _recipe(
    data: str, name: str, metric: str, where: str, figures: str, settings: dict[str, Any]
) -> Recipe:
    measured = f"{metric}, %, test of {NAMES[data]}; {where}"
    values = {**settings, "MAX_ITEM_LIST_LENGTH": LENGTH[data]}
    return Recipe(f"morec-{data}-{name}", data, measured, [figures], values)


def _end_to_end(data: str, encoder: str) -> dict[str, Any]:
    values = {**COMMON, **SASREC, **ENCODERS[encoder]}
    if encoder == "id":
        return {**values, **RATES_ID, "embedding_size": ID_SIZE[data]}
    values |= {**(RATES_TEXT if IS_TEXT[data] else RATES_IMAGE), **DECAY}
    if encoder == "swin-b":
        values["train_batch_size"] = Why(64, "8 GPUs")
    return values


def _dssm(data: str, encoder: str) -> dict[str, Any]:
    pairs = 1024 if encoder == "id" else 512
    values: dict[str, Any] = {
        **COMMON,
        **ENCODERS[encoder],
        **DECAY,
        "model": "DSSM",
        "user_encoder": Why("UserID", "a vector per user"),
        "tower_layers": Why([], "no hidden layer was best"),
        "bce_average": Why("cells", "one mean over positives and negatives"),
        "learning_rate": 1e-4,
        "encoder_learning_rate": Why(1e-4, "5e-5 was tried too"),
        "train_batch_size": Why(
            round(pairs / PAIRS[data]), f"{pairs} pairs, {PAIRS[data]:.3g} of a user in the mean"
        ),
        "stopping_step": 5,
    }
    if IS_TEXT[data]:
        rate = Why(5e-5, "1e-5 was tried too")
        stopping = Why(10, "of four validations per epoch; here one")
        values |= {"encoder_learning_rate": rate, "epochs": 60, "stopping_step": stopping}
    if encoder == "id":
        values["learning_rate"] = Why(1e-3, "1e-4 and 5e-4 were tried too")
        del values["encoder_learning_rate"], values["encoder_weight_decay"]
    return values


def _in_batch(data: str, encoder: str) -> dict[str, Any]:
    values = _end_to_end(data, encoder)
    for key in ("bce_average", "negatives", "negatives_avoid"):
        del values[key]
    alone = Why(False, "each GPU ranks its own users' items: as published on as many processes")
    values |= {
        "objective": "in_batch",
        "temperature": 1.0,
        "popularity_correction": 1.0,
        "mask_own_history": True,
        "gather_negatives": alone if encoder != "id" else False,
        "epochs": 50,
        "stopping_step": 10 if IS_TEXT[data] else 6,
    }
    if encoder == "id":
        values["train_batch_size"] = Why(256, "128 was tried too")
        if not IS_TEXT[data]:
            values["stopping_step"] = Why(6, "on validation; the released code asks the test part")
        return values
    values["learning_rate"] = 1e-4
    if IS_TEXT[data]:
        return {**values, "epochs": 300, "train_batch_size": Why(256, "128 per GPU on 2 GPUs")}
    size = Why(2048, "of the launcher that trains; the one that tests has 512")
    return {**values, "embedding_size": size, "train_batch_size": Why(256, "64 per GPU on 4 GPUs")}


def _two_stages(data: str, encoder: str, plain: str, deep: dict[int, str]) -> list[Recipe]:
    values = _frozen(data, encoder) | {"weight_decay": 0.1, "stopping_step": 10}
    shallow = {**values, "projection_layers": []}
    best = max(deep, key=lambda depth: float(deep[depth]))
    layers = Why([512] * best, f"{best} layers after the first")
    values |= {"projection_layers": layers, "projection_dropout": 0.1}
    figures = ", ".join(f"{figure} with {depth} layers" for depth, figure in deep.items())
    name = f"sasrec-{encoder}-ts"
    return [
        _recipe(data, name, "Hit@10", "Table 5, TS", plain, shallow),
        _recipe(data, f"{name}-dnn", "Hit@10", "Table 5, TS-DNN", figures, values),
    ]


def _frozen(data: str, encoder: str) -> dict[str, Any]:
    """A frozen encoder in place of its stored vectors: the same numbers."""
    values = {**COMMON, **SASREC, **ENCODERS[encoder], "learning_rate": 1e-4}
    for key in ("batch_norm", "encode"):
        values.pop(key, None)
    values["train_layers"] = Why("none", "in place of stored vectors, which are the same")
    values["train_batch_size"] = 64
    return values


def _id_and_content(data: str, encoder: str, kind: str) -> dict[str, Any]:
    modality = "text" if IS_TEXT[data] else "image"
    values = _end_to_end(data, encoder) if kind == "e2e" else _frozen(data, encoder)
    values |= {
        "item_encoder": ["id", encoder],
        "fusion": Why("sum", "or concat; which was better is not published"),
        "weight_decay": 0.01,
    }
    if kind != "e2e":
        frozen = Why({modality: "none"}, "in place of stored vectors, which are the same")
        values["train_layers"] = frozen
    if kind == "ts-dnn":
        depth = 4 if IS_TEXT[data] else 8
        comment = f"{depth} layers after the first; none after the fusion (2, 4 and 6 were tried)"
        values["projection_layers"] = Why({modality: [512] * depth}, comment)
        values["projection_dropout"] = 0.1
    return values
