"""The table of docs/results.md on real posters: IDs, stored vectors and trained encoders.

``python benchmarks/posters_table.py --dataset movietweetings --data_path <folder> [--rows ...]``

Stored vectors are made first, once, by the untrained encoders that the end-to-end rows start from.
Finished runs are taken from their run folder. Prints one Markdown row per run setting with the
command that gives it; with several seeds, means and standard deviations.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import numpy as np
import torch
from sample_table import cell, finished

from recbole_morec.config import MoRecConfig
from recbole_morec.data.content import open_content
from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.item_encoders import build_item_encoder

COMMON = {"MAX_ITEM_LIST_LENGTH": 20, "stopping_step": 5}
OURS = {"embedding_size": 128, "objective": "in_batch", "window": "windows"}
GELU = {"activation": "gelu"}  # after the projection of texts, as MoRec has it
POSTER = {"item_encoder": "tf_efficientnet_lite0"}
TITLE = {"item_encoder": "all-MiniLM-L6-v2", "max_text_length": 40, "text_fields": ["title"]}
COSINE = {"mixed_precision": "bf16", "scheduler": "cosine", "epochs": 10}

# ODMT and what it is compared with: one recipe, the newest window of each user, the same SASRec.
# float32: at d = 128 bf16 is no faster on a processor that multiplies it (100 users/s against 120)
# and is emulated, 7 times slower, on one that does not.
ODMT_RECIPE = {"embedding_size": 128, "window": "last", "scheduler": "cosine", "epochs": 10}
SMALL_POSTER = {**POSTER, "image_size": 160}
ODMT = {
    **ODMT_RECIPE,
    "item_encoder": ["tf_efficientnet_lite0", "all-MiniLM-L6-v2"],
    "image_size": 160,
    "max_text_length": 40,
    "text_fields": ["title"],
    "distillation_alpha": 10,  # at full weight in the last epoch
}
APART = {**ODMT, "item_transformer": False}
# One projection of both vectors side by side is the sum of a projection of each.
EARLY = {
    **ODMT_RECIPE,
    "item_encoder": ["id", "features"],
    "stored": [TITLE, SMALL_POSTER],
    "activation": {"features": "none", "fusion": "leaky_relu"},
    "fusion_projection": True,
}

# Row -> model, settings. `stored: {...}` stands for the pooled vectors of that encoder, a list for
# those of several, one after another.
ROWS = {
    "Pop": ("Pop", {}),
    "BPR": ("BPR", {}),
    "GRU4Rec": ("GRU4Rec", {}),
    "SASRec": ("SASRec", {}),
    "IDs": ("PixelNet", {**OURS, "item_encoder": "id"}),
    "stored posters, 224 px": ("PixelNet", {**OURS, "stored": {**POSTER, "image_size": 224}}),
    "stored posters, 160 px": ("PixelNet", {**OURS, "stored": {**POSTER, "image_size": 160}}),
    "posters end to end, 160 px": (
        "PixelNet",
        {
            **OURS,
            **POSTER,
            "mixed_precision": "bf16",
            "image_size": 160,
            "train_layers": "last_1",
            "encoder_learning_rate": 3e-4,
        },
    ),
    "stored titles": ("PixelNet", {**GELU, **OURS, "stored": TITLE}),
    "stored titles and genres": (
        "PixelNet",
        {**GELU, **OURS, "stored": {**TITLE, "text_fields": ["title", "genres"]}},
    ),
    "titles end to end": (
        "PixelNet",
        {
            **GELU,
            **OURS,
            **TITLE,
            **COSINE,
            "train_layers": "last_2",
            "encoder_learning_rate": 1e-4,
        },
    ),
    "titles end to end, 20 epochs": (
        "PixelNet",
        {
            **GELU,
            **OURS,
            **TITLE,
            **COSINE,
            "epochs": 20,
            "train_layers": "last_2",
            "encoder_learning_rate": 1e-4,
        },
    ),
    # The recipe of the end-to-end rows, on the vectors that they start from.
    "stored titles, same recipe": ("PixelNet", {**GELU, **OURS, **COSINE, "stored": TITLE}),
    "stored titles, same recipe, 20 epochs": (
        "PixelNet",
        {**GELU, **OURS, **COSINE, "epochs": 20, "stored": TITLE},
    ),
    "IDs, same recipe, 20 epochs": (
        "PixelNet",
        {**OURS, **COSINE, "epochs": 20, "item_encoder": "id"},
    ),
    # What is left when the vectors say nothing but which film it is.
    "random vectors, same recipe, 20 epochs": (
        "PixelNet",
        {**GELU, **OURS, **COSINE, "epochs": 20, "stored": {"random": 384}},
    ),
    "stored posters, same recipe": (
        "PixelNet",
        {**OURS, **COSINE, "stored": {**POSTER, "image_size": 160}},
    ),
    "stored posters, same recipe, 20 epochs": (
        "PixelNet",
        {**OURS, **COSINE, "epochs": 20, "stored": {**POSTER, "image_size": 160}},
    ),
    "ODMT": ("ODMT", ODMT),
    "ODMT, no distillation": ("ODMT", {**ODMT, "distillation_alpha": 0}),
    "ODMT, no item transformer": ("ODMT", APART),
    "ODMT, late fusion": ("ODMT", {**APART, "distillation_alpha": 0}),
    "ODMT, titles alone": ("ODMT", {**APART, "branches": ["text"]}),
    "ODMT, posters alone": ("ODMT", {**APART, "branches": ["image"]}),
    "ODMT, IDs alone": ("ODMT", {**APART, "branches": ["id"]}),
    "ODMT, early fusion by sum": (
        "MoRec",
        {**EARLY, "fusion": "sum", "projection_layers": {"fusion": [128]}},
    ),
    "ODMT, early fusion by concat": (
        "MoRec",
        {**EARLY, "fusion": "concat", "projection_layers": {"features": "none", "fusion": [128]}},
    ),
    "ODMT, MoRec on titles": ("MoRec", {**ODMT_RECIPE, "stored": TITLE}),
    "ODMT, MoRec on posters": ("MoRec", {**ODMT_RECIPE, "stored": SMALL_POSTER}),
    "ODMT, SASRec on IDs": ("MoRec", {**ODMT_RECIPE, "item_encoder": "id"}),
}


def stored_vectors(model: str, dataset: str, settings: dict | list, common: dict) -> str:
    """File name of the encoder's pooled vectors in the dataset's folder; written if not there."""
    if isinstance(settings, list):
        names = [stored_vectors(model, dataset, each, common) for each in settings]
        return joined_vectors(model, dataset, names, common)
    if "random" in settings:
        return random_vectors(model, dataset, settings["random"], common)
    config = MoRecConfig(model, dataset, overrides={**common, **settings, "train_layers": "none"})
    data = MultimodalDataset(config)
    parts = [settings["item_encoder"], settings.get("image_size"), *settings.get("text_fields", [])]
    file = data.folder / ("-".join(str(part) for part in parts if part) + ".npy")
    if not file.exists():
        encoder = build_item_encoder(config, data).eval()
        content = open_content(data, encoder.needs, config)
        items = np.arange(1, data.item_num)
        with torch.no_grad():
            vectors = [
                encoder.pooled(content.fetch(part))
                for part in np.array_split(items, -(-len(items) // 64))
            ]
        save(file, torch.cat(vectors).numpy(), data)
    return file.name


def joined_vectors(model: str, dataset: str, names: list[str], common: dict) -> str:
    """File name of the vectors of several files one after another; written if not there."""
    config = MoRecConfig(model, dataset, overrides={**common, "item_encoder": "id"})
    data = MultimodalDataset(config)
    file = data.folder / ("+".join(Path(name).stem for name in names) + ".npy")
    if not file.exists():
        vectors = [np.load(data.folder / name) for name in names]  # of all items, in one order
        save(file, np.concatenate(vectors, axis=1), data)
    return file.name


def random_vectors(model: str, dataset: str, width: int, common: dict) -> str:
    """File name of vectors from N(0, 1), one per film; written if not there."""
    config = MoRecConfig(model, dataset, overrides={**common, "item_encoder": "id"})
    data = MultimodalDataset(config)
    file = data.folder / f"random-{width}.npy"
    if not file.exists():
        drawn = np.random.default_rng(0).standard_normal((data.item_num - 1, width))
        save(file, drawn.astype(np.float32), data)
    return file.name


def save(file: Path, vectors: np.ndarray, data: MultimodalDataset) -> None:
    """Write vectors ``[items, D]`` and the items' tokens beside them."""
    np.save(file, vectors)
    tokens = "\n".join(data.item_tokens[1:])
    file.with_suffix(".tokens.txt").write_text(tokens + "\n", encoding="utf-8")


def command(model: str, dataset: str, settings: dict) -> str:
    """What a user types for this row."""
    flags = " ".join(f"--{key}={str(value).replace(' ', '')}" for key, value in settings.items())
    return f"python run_recbole_morec.py --model={model} --dataset={dataset} {flags}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="movietweetings")
    parser.add_argument("--data_path", default="dataset_atomic")
    parser.add_argument("--checkpoint_dir", default="saved")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    options = parser.parse_args()
    common = {
        "data_path": options.data_path,
        "checkpoint_dir": options.checkpoint_dir,
        "show_progress": False,
    }
    metrics = ("recall@10", "recall@20", "ndcg@10")
    print(f"| row | {' | '.join(metrics)} | best epoch | seconds | command |")
    print("| --- |" + " --- |" * 6)
    for name in options.rows:
        model, row = ROWS[name]
        settings = {**COMMON, **row}
        if "stored" in settings:
            settings["features"] = stored_vectors(
                model, options.dataset, settings.pop("stored"), common
            )
            settings.setdefault("item_encoder", "features")
        results = [
            finished(model, options.dataset, {**settings, **common, "seed": seed})
            for seed in options.seeds
        ]
        cells = [cell([r["test"]["all"][metric] for r in results]) for metric in metrics]
        training = [r["training"] for r in results]
        cells.append(f"{statistics.mean(t['best_epoch'] for t in training):.0f}")
        cells.append(f"{statistics.mean(t['seconds'] for t in training):.0f}")
        cells.append(f"`{command(model, options.dataset, settings)}`")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
