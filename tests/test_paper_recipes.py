"""The papers' recipes: written from their tables, understood to the last key, and able to run."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import write_world

from recbole_morec.cli import _settings as read_flags
from recbole_morec.config import PROPERTIES, MoRecConfig
from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.item_encoders import find_card
from recbole_morec.item_encoders.registry import is_registered
from recbole_morec.paper_recipes import all_recipes
from recbole_morec.paper_recipes.page import page
from recbole_morec.run import run

FOLDER = PROPERTIES / "paper"
RECIPES = {recipe.name: recipe for recipe in all_recipes()}
TINY = {
    "epochs": 1, "train_batch_size": 32, "max_text_length": 8, "image_size": 64,
    "mixed_precision": "no", "use_gpu": False, "show_progress": False, "log_tensorboard": False,
    "pretrained": False, "topk": [5, 10],
}  # fmt: skip
SMALLER = {
    "embedding_size": 8, "inner_size": 16, "n_heads": 2, "hidden_multiplier": 1,
    "MAX_ITEM_LIST_LENGTH": 5, "id_embedding_size": 64,
}  # fmt: skip
# With the transfers below every model with every user encoder and objective of it.
RUN = [
    "pixelrec-mf-id", "pixelrec-fm-rn50", "pixelrec-dssm-vit", "pixelrec-srgnn-id",
    "pixelrec-gru4rec-rn50", "pixelrec-bert4rec-vit", "pixelrec-nextitnet-id",
    "pixelrec-sasrec-beit", "pixelrec-sasrec-rn50x4", "pixelrec-lightsans-vit", "pixelrec-vbpr",
    "pixelrec-acf", "pixelrec-lightgcn", "pixelrec-visrank", "pixelrec-fsasrec-hybrid",
    "pixelrec-fsasrec-semantic", "ninerec-bert4rec-image-source", "ninerec-nextitnet-image-target",
    "ninerec-gru4rec-text-source", "morec-mind-dssm-bert-base", "morec-hm-sasrec-resnet50",
    "morec-mind-sasrec-roberta-base-in-batch", "morec-mind-sasrec-id-bert-base-ts-dnn",
    "odmt_stream", "odmt_office",
]  # fmt: skip
TRANSFERRED = ["sasrec-text", "bert4rec-text"]


def test_files_are_those_of_the_tables():
    written = {path.stem: path.read_text("utf-8") for path in FOLDER.glob("*.yaml")}
    assert written == {name: recipe.text() for name, recipe in RECIPES.items()}


def test_no_two_recipes_share_a_name():
    assert len(RECIPES) == len(all_recipes())


def test_the_page_is_that_of_the_tables():
    file = Path(__file__).parent.parent / "docs" / "paper.md"
    assert file.read_text("utf-8") == page(list(RECIPES.values()))


@pytest.mark.parametrize("name", RECIPES)
def test_every_setting_is_understood_and_kept(name, tmp_path):
    file = FOLDER / f"{name}.yaml"
    config = MoRecConfig(
        dataset="absent", config_files=[file], overrides={"data_path": str(tmp_path)}
    )
    assert config.warnings == []
    assert yaml.safe_load(file.read_text("utf-8")).keys() == RECIPES[name].settings.keys()
    for key, value in RECIPES[name].values().items():
        assert config[key] == value, key
    listed = config["item_encoder"]
    for encoder in [listed] if isinstance(listed, str) else listed:
        assert is_registered(encoder) or encoder == "hfl/chinese-bert-wwm"


@pytest.mark.parametrize("name", RECIPES)
def test_a_file_opens_with_its_command_and_the_published_number(name):
    first, second, *_ = (FOLDER / f"{name}.yaml").read_text("utf-8").splitlines()
    interpreter, script, *flags = shlex.split(first.removeprefix("# "))
    assert (interpreter, script) == ("python", "run_recbole_morec.py")
    given = read_flags(flags)
    assert given.pop("config_files") == [f"properties/paper/{name}.yaml"]
    assert set(given) - {"features", "codes"} == {"dataset"}
    assert second.startswith("# Published")


def test_every_part_is_run():
    def parts(names):
        values = [RECIPES[name].values() for name in names]
        return {(v["model"], v.get("user_encoder"), v.get("objective")) for v in values}

    transferred = [f"ninerec-{kind}-source" for kind in TRANSFERRED]
    assert parts(RECIPES) == parts([*RUN, *transferred])


# --- a tiny world ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The tiny world with stored vectors, maps and codes."""
    folder = write_world(tmp_path_factory.mktemp("data") / "colours")
    (folder / "colours.yaml").unlink()  # a recipe needs nothing of it
    config = MoRecConfig("PixelNet", "colours", overrides={"data_path": str(folder.parent)})
    tokens = MultimodalDataset(config).item_tokens[1:]
    rng = np.random.default_rng(0)
    stored = {
        "vectors": rng.normal(size=(len(tokens), 6)).astype(np.float32),
        "maps": rng.normal(size=(len(tokens), 4, 6)).astype(np.float32),
        "codes": rng.integers(1, 4, size=(len(tokens), 3)),
    }
    for name, array in stored.items():
        np.save(folder / f"{name}.npy", array)
        (folder / f"{name}.tokens.txt").write_text("\n".join(tokens) + "\n")
    return folder


def tiny(name, world, tmp_path):
    """Overrides that keep what a recipe says and make it small."""
    values = RECIPES[name].values()
    encoder = values["item_encoder"]
    listed = [encoder] if isinstance(encoder, str) else encoder
    stand_ins = [
        find_card(each).stand_in or (each if is_registered(each) else "tiny_bert")
        for each in listed
    ]
    if values["model"] == "ODMT":  # an ID that starts from tokens is as wide as those of both
        stand_ins = ["tiny_clip_vit", "tiny_roberta"]
    layers = values.get("train_layers")
    if layers in (["stages.2", "stages.3"], "last_6"):  # of another model, or more than it has
        layers = {"last_6": "last_1"}.get(str(layers), "stages:[3,4]")
    made = {
        **TINY,
        **{key: value for key, value in SMALLER.items() if key in values},
        "data_path": str(world.parent),
        "checkpoint_dir": str(tmp_path),
        "tokenizer": "tokenizer",
        "item_encoder": stand_ins if len(stand_ins) > 1 else stand_ins[0],
        "features": "maps.npy" if values["model"] == "ACF" else "vectors.npy",
        "codes": "codes.npy",
    }
    if layers is not None:
        made["train_layers"] = layers
    if isinstance(values.get("projection_layers"), dict):
        made["projection_layers"] = {
            modality: sizes if sizes == "none" else [8] * len(sizes)
            for modality, sizes in values["projection_layers"].items()
        }
    return made


def run_tiny(name, world, tmp_path, **changes):
    overrides = {**tiny(name, world, tmp_path), **changes}
    return run(dataset="colours", config_files=[FOLDER / f"{name}.yaml"], overrides=overrides)


@pytest.mark.parametrize("name", RUN)
def test_it_runs_with_a_tiny_encoder_in_the_place_of_its_own(name, world, tmp_path):
    results = run_tiny(name, world, tmp_path)
    assert results["training"]["epochs"] == 1
    metric = "hit@10" if "Hit" in RECIPES[name].values()["metrics"] else "recall@10"
    assert 0 <= results["test"]["all"][metric] <= 1


@pytest.mark.parametrize("kind", TRANSFERRED)
def test_a_target_of_ninerec_loads_its_source(kind, world, tmp_path):
    trained = run_tiny(f"ninerec-{kind}-source", world, tmp_path / "source", learning_rate=1e-2)
    (source,) = (tmp_path / "source" / "colours").iterdir()
    target = f"ninerec-{kind}-target"
    alone = run_tiny(target, world, tmp_path / "nopt", epochs=0, seed=1)
    after = run_tiny(target, world, tmp_path / "haspt", epochs=0, seed=1, load=str(source))
    assert after["test"]["all"] == trained["test"]["all"] != alone["test"]["all"]
