"""Runs with adapters, fusions, codes and fields apart: trained, and evaluated from their folder."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from conftest import write_world

from recbole_morec.run import evaluate, run

QUICK = {
    "use_gpu": False, "show_progress": False, "log_tensorboard": False, "topk": [5], "epochs": 1,
    "valid_metric": "NDCG@5", "embedding_size": 8, "inner_size": 8, "n_layers": 1,
    "image_size": 32, "max_text_length": 8, "image_encoder": "tiny_vit",
}  # fmt: skip
TEXT_FIRST = ["text", "image"]
KINDS = {
    "lora": {"item_encoder": "image", "train_layers": "lora", "adapter_dropout": 0.1},
    "ia3": {"item_encoder": "text", "train_layers": "ia3"},
    "film": {"item_encoder": TEXT_FIRST, "fusion": "film", "train_layers": {"text": "lora"}},
    "merged": {"item_encoder": TEXT_FIRST, "fusion": "merged_attention"},
    "codes": {"item_encoder": "codes", "codes": "codes.npy"},
    "hybrid": {
        "item_encoder": ["features", "id"], "features": "vectors.npy", "fusion": "concat",
        "projection_layers": {"features": "none", "fusion": [8]}, "projection_dropout": 0.1,
    },
    "fields": {"item_encoder": "text", "text_fields_as": "averaged", "text_fields": ["title"]},
    "clip": {"item_encoder": "tiny_clip_vit", "pooling": "project_mean"},
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_world(tmp_path_factory.mktemp("all") / "colours", users=24, items_per_colour=6)
    names = sorted(path.stem for path in (folder / "images").iterdir())
    rng = np.random.default_rng(0)
    np.save(folder / "codes.npy", rng.integers(1, 5, (len(names), 3)))
    np.save(folder / "vectors.npy", rng.normal(size=(len(names), 6)))
    for name in ("codes", "vectors"):
        (folder / f"{name}.tokens.txt").write_text("\n".join(names) + "\n")
    return folder.parent


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_evaluated_as_it_was_trained(data, tmp_path, kind, caplog):
    settings = {**QUICK, **KINDS[kind], "data_path": str(data), "checkpoint_dir": str(tmp_path)}
    with caplog.at_level(logging.INFO):
        results = run("PixelNet", "colours", overrides=settings)
    (folder,) = (tmp_path / "colours").iterdir()
    assert evaluate(folder)["test"] == results["test"]
    if kind == "lora":
        report = next(m for m in caplog.messages if m.startswith("item encoder: "))
        assert "frozen" in report
        counted = 6 * 8 * (64 + 3 * 64)  # of each of six blocks: A and B of qkv, rank 8
        assert f"backbone.blocks {counted:,}" in report.partition("frozen")[0]
