"""The papers' recipes: written from their tables, understood to the last key, and able to run."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml
from conftest import write_world

from recbole_morec.config import PROPERTIES, MoRecConfig
from recbole_morec.item_encoders import find_card
from recbole_morec.paper_recipes import all_recipes
from recbole_morec.paper_recipes.page import page
from recbole_morec.run import run

FOLDER = PROPERTIES / "paper"
RECIPES = {recipe.name: recipe for recipe in all_recipes()}
TINY = {
    "embedding_size": 8, "n_heads": 2, "inner_size": 16, "epochs": 1, "train_batch_size": 64,
    "image_size": 32, "max_text_length": 8, "mixed_precision": "no", "use_gpu": False,
    "show_progress": False, "log_tensorboard": False, "train_layers": "all", "pretrained": False,
    "tokenizer": None, "topk": [5], "valid_metric": "NDCG@5", "metrics": ["Recall", "NDCG"],
    "MAX_ITEM_LIST_LENGTH": 5, "pooling": "default",
}  # fmt: skip
RUN = [
    "pixelrec-sasrec-vit", "pixelrec-gru4rec-rn50", "pixelrec-bert4rec-vit", "pixelrec-srgnn-vit",
    "pixelrec-mf-id", "pixelrec-lightgcn", "pixelrec-fm-id", "ninerec-bert4rec-text-source",
    "ninerec-nextitnet-image-target", "morec-mind-dssm-bert-base",
    "morec-mind-sasrec-roberta-base-in-batch", "morec-hm-sasrec-id-swin-t-e2e",
]  # fmt: skip


def test_files_are_those_of_the_tables():
    written = {path.stem: path.read_text("utf-8") for path in FOLDER.glob("*.yaml")}
    assert written == {name: recipe.text() for name, recipe in RECIPES.items()}


def test_the_page_is_that_of_the_tables():
    file = Path(__file__).parent.parent / "docs" / "paper.md"
    assert file.read_text("utf-8") == page(list(RECIPES.values()))


@pytest.mark.parametrize("name", RECIPES)
def test_every_setting_is_understood(name, tmp_path):
    file = FOLDER / f"{name}.yaml"
    config = MoRecConfig(
        dataset="absent", config_files=[file], overrides={"data_path": str(tmp_path)}
    )
    assert config.warnings == []
    for key, value in yaml.safe_load(file.read_text("utf-8")).items():
        if key not in ("model", "item_encoder"):
            assert config[key] is not None or value is None, key


@pytest.mark.parametrize("name", RECIPES)
def test_a_file_opens_with_its_command_and_the_published_number(name):
    first, second, *_ = (FOLDER / f"{name}.yaml").read_text("utf-8").splitlines()
    words = shlex.split(first.removeprefix("# "))
    assert words[:4] == [
        "python", "run_recbole_morec.py", "--config_files", f"properties/paper/{name}.yaml",
    ]  # fmt: skip
    assert words[4].startswith("--dataset=")
    assert second.startswith("# Published")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("data") / "colours")


@pytest.mark.parametrize("name", RUN)
def test_it_runs_with_a_tiny_encoder_in_the_place_of_its_own(world, tmp_path, name):
    values = RECIPES[name].values()
    encoder = values["item_encoder"]
    listed = [encoder] if isinstance(encoder, str) else encoder
    tiny = [
        {"image": "tiny_vit", "text": "tiny_bert"}.get(find_card(each).modality, each)
        for each in listed
    ]
    layers = {"tower_layers": [8] * len(values.get("tower_layers", []))}
    overrides = {
        **TINY, **layers, "item_encoder": tiny if len(tiny) > 1 else tiny[0],
        "data_path": str(world.parent), "checkpoint_dir": str(tmp_path),
    }  # fmt: skip
    results = run(dataset="colours", config_files=[FOLDER / f"{name}.yaml"], overrides=overrides)
    assert results["training"]["epochs"] == 1
    assert 0 <= results["test"]["all"]["recall@5"] <= 1
