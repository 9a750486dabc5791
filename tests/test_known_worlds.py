"""Every model solves the worlds in which it sees what decides, and stays at chance in the others.

A new model is one more line of ``MODELS``.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from known_worlds import WORLDS, World, write

from recbole_morec.config import MoRecConfig
from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.evaluation.evaluator import Evaluator
from recbole_morec.evaluation.scorers import Scorer
from recbole_morec.run import run
from recbole_morec.user_encoders.sasrec import SASRec

SOLVED = 0.7  # share of the oracle's recall

RUN = {"show_progress": False, "log_tensorboard": False, "use_gpu": False}
OURS = {
    "embedding_size": 32, "n_layers": 1, "inner_size": 64, "initializer": "xavier_normal",
    "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "encoder_dropout": 0.0,
    "objective": "in_batch", "window": "windows", "learning_rate": 3e-3,
    "encoder_learning_rate": 1e-3,
}  # fmt: skip
# Long enough for every model that sees what decides.
TRAINING = {
    "image_only": {"epochs": 3, "train_batch_size": 256},
    "text_only": {"epochs": 4, "train_batch_size": 256},
    "fusion_only": {"epochs": 7, "train_batch_size": 256},
    "id_only": {"epochs": 3, "train_batch_size": 256},
    "order_only": {"epochs": 16, "train_batch_size": 64},
    "id_taste": {"epochs": 8, "train_batch_size": 32},
    "image_taste": {"epochs": 16, "train_batch_size": 32},
}
IMAGE, TEXT, FUSION, ID, ORDER, ID_TASTE, IMAGE_TASTE = TRAINING
EVERYWHERE = (IMAGE, TEXT, FUSION, ID, ORDER)  # where what is read decides


@dataclass(frozen=True)
class Model:
    """What is trained, and what it is expected to solve.

    Args:
        name: the model, as ``--model`` takes it.
        settings: what it is told beside ``RUN`` and ``TRAINING``.
        solves: worlds in which it sees what decides.
        worlds: where it is tried; those that it does not solve leave it at chance.
    """

    name: str
    settings: dict[str, Any]
    solves: set[str]
    worlds: tuple[str, ...]


def ours(name: str, *, solves: set[str], worlds=EVERYWHERE, **settings: Any) -> Model:
    return Model(name, {**OURS, **settings}, solves, worlds)


def by_id(*, solves: set[str], worlds=EVERYWHERE, **settings: Any) -> Model:
    settings = {"item_encoder": "id", "learning_rate": 1e-2, **settings}
    return ours("PixelNet", solves=solves, worlds=worlds, **settings)


def stored(name: str, *, solves: set[str], worlds: tuple[str, ...], **settings: Any) -> Model:
    settings = {"objective": "bpr", "learning_rate": 1e-2, **settings}
    return ours(name, solves=solves, worlds=worlds, **settings)


def stock(name: str, *, solves: set[str], worlds=EVERYWHERE, **settings: Any) -> Model:
    return Model(name, settings, solves, worlds)


COLOUR, WORD = {"features": "colour.npy"}, {"features": "word.npy"}
SLOWER = {"learning_rate": 1e-3, "epochs": 8}  # attention over tokens
ODMT = {"train_layers": "all", **SLOWER}
# A projection's activation would solve that world behind a mere sum too.
FUSIONS = {
    "film": {"fusion_projection": False, "epochs": 12}, "gated": {"fusion_projection": False},
    "co_attention": {}, "merged_attention": {},
}  # fmt: skip
MODELS = {
    "image": ours("PixelNet", solves={IMAGE, ORDER}),
    "image, vit": ours(
        "PixelNet", solves={IMAGE}, worlds=(IMAGE,), image_encoder="tiny_vit"
    ),
    "image, bpr": ours("PixelNet", solves={IMAGE}, worlds=(IMAGE,), objective="bpr"),
    "text": ours("MoRec", solves={TEXT, ORDER}),
    "text, bce": ours("TransRec", solves={TEXT}, worlds=(TEXT,), objective="bce"),
    "image+text, sum": ours(
        "MoRec", solves={IMAGE, TEXT}, worlds=(IMAGE, TEXT, FUSION), item_encoder="image+text"
    ),
    "image+text, concat": ours(
        "MoRec", solves={IMAGE, TEXT, FUSION, ORDER}, item_encoder="image+text", fusion="concat"
    ),
    **{
        f"image+text, {fusion}": ours(
            "MoRec", solves={FUSION}, worlds=(FUSION,), item_encoder="image+text", fusion=fusion,
            **{**SLOWER, **settings},
        )
        for fusion, settings in FUSIONS.items()
    },
    "id": by_id(solves={ID, ORDER}),
    "id, bce": by_id(solves={ID}, worlds=(IMAGE, ID), objective="bce"),
    "id, bpr": by_id(solves={ID}, worlds=(IMAGE, ID), objective="bpr"),
    "id, GRU4Rec": by_id(solves={ID, ORDER}, user_encoder="GRU4Rec"),
    "id, NextItNet": by_id(solves={ID, ORDER}, user_encoder="NextItNet", block_num=1),
    "id, BERT4Rec": by_id(solves={ID}, worlds=(IMAGE, ID), user_encoder="BERT4Rec"),
    "id, LightSANs": by_id(solves={ID}, worlds=(IMAGE, ID), user_encoder="LightSANs"),
    "id, SRGNN": by_id(solves={ID}, worlds=(IMAGE, ID), user_encoder="SRGNN"),
    "id, DSSM": by_id(solves={ID}, worlds=(IMAGE, ID, ORDER), user_encoder="DSSM"),
    "id, FM": by_id(solves={ID}, worlds=(IMAGE, ID, ORDER), user_encoder="FM"),
    "id, users": by_id(
        solves={ID_TASTE}, worlds=(IMAGE, ORDER, ID_TASTE, IMAGE_TASTE), user_encoder="UserID"
    ),
    "id, sampled softmax": by_id(
        solves={ID}, worlds=(ID,), objective="sampled_softmax", negatives=64
    ),
    "id, gbce": by_id(solves={ID}, worlds=(ID,), objective="gbce", negatives=64, epochs=24),
    "id, full softmax": by_id(solves={ID}, worlds=(ID,), objective="full_softmax"),
    "ODMT": ours(  # targets are cold
        "ODMT", solves={FUSION}, worlds=(FUSION,), branches=["text", "image"], **ODMT
    ),
    "ODMT, branches apart": ours(
        "ODMT", solves=set(), worlds=(FUSION,), item_transformer=False, **ODMT
    ),
    "stock SASRec": stock(
        "SASRec", solves={ID, ORDER}, hidden_dropout_prob=0.0, attn_dropout_prob=0.0,
        learning_rate=5e-3, initializer_range=0.1, train_batch_size=256, inner_size=64,
    ),
    "stock BPR": stock(
        "BPR", solves={ID_TASTE}, worlds=(*EVERYWHERE, ID_TASTE, IMAGE_TASTE), learning_rate=1e-2
    ),
    "stock Pop": stock("Pop", solves=set()),
    "features": ours(
        "MoRec", solves={TEXT}, worlds=(IMAGE, TEXT), item_encoder="features", **WORD
    ),
    "codes": ours(  # the mean of something of the colour and something of the word
        "MoRec", solves={IMAGE, TEXT}, worlds=(IMAGE, TEXT, FUSION, ID), item_encoder="codes",
        codes="codes.npy", learning_rate=1e-2,
    ),
    "DIN": stored("DIN", solves={ID}, worlds=(IMAGE, ID, ORDER)),
    "DIN, features": stored(
        "DIN", solves={IMAGE}, worlds=(IMAGE, TEXT), item_encoder="features", **COLOUR
    ),
    "FSASRec": stored(
        "FSASRec", solves={IMAGE, ORDER}, worlds=(IMAGE, TEXT, ID, ORDER), **COLOUR
    ),
    "CuratorNet": stored(
        "CuratorNet", solves={IMAGE, IMAGE_TASTE}, worlds=(IMAGE, TEXT, ORDER, IMAGE_TASTE),
        **COLOUR,
    ),
    "VisRank": stored(
        "VisRank", solves={IMAGE}, worlds=(IMAGE, TEXT, ID, ORDER, ID_TASTE), **COLOUR
    ),
    "VisRank, word": stored("VisRank", solves={TEXT}, worlds=(IMAGE, TEXT), **WORD),
    # These know users, and not what they read: the taste alone.
    "VBPR": stored(
        "VBPR", solves={ID_TASTE, IMAGE_TASTE}, worlds=(IMAGE, ID_TASTE, IMAGE_TASTE), **COLOUR
    ),
    "VBPR, word": stored("VBPR", solves=set(), worlds=(IMAGE_TASTE,), **WORD),
    "LightGCN": stored(
        "LightGCN", solves={ID_TASTE}, worlds=(ID, ORDER, ID_TASTE, IMAGE_TASTE)
    ),
    "LightGCN, features": stored(
        "LightGCN", solves={IMAGE_TASTE}, worlds=(IMAGE, IMAGE_TASTE), item_encoder="features",
        **COLOUR,
    ),
    "ACF": stored(  # the score reads free vectors; features only weigh the history
        "ACF", solves={ID, ID_TASTE}, worlds=(IMAGE, ID, ORDER, ID_TASTE, IMAGE_TASTE), **COLOUR
    ),
}  # fmt: skip
CASES = [
    pytest.param(model, world, id=f"{name}-{world}")
    for name, model in MODELS.items()
    for world in model.worlds
]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """Returns worlds(name) -> the world and the data path that holds its folder."""
    data_path = tmp_path_factory.mktemp("worlds")

    @functools.cache
    def find(name: str) -> tuple[World, Path]:
        world = WORLDS[name]()
        write(world, data_path)
        return world, data_path

    return find


def recalls(model: Model, world: World, data_path: Path, saved: Path) -> dict[str, float]:
    """Train a model in a world and return Recall@k over all test targets: ``all`` of the model, and
    ``<branch>: all`` of each branch of a model that has some."""
    overrides = {
        **RUN, **TRAINING[world.name], **model.settings,
        "data_path": str(data_path), "checkpoint_dir": str(saved),
    }  # fmt: skip
    overrides["eval_step"] = overrides["epochs"]  # what is tested is the last state
    groups = run(model.name, world.name, overrides=overrides)["test"]
    return {
        name: figures[f"recall@{world.k}"]
        for name, figures in groups.items()
        if name == "all" or name.endswith(": all")
    }


@pytest.mark.parametrize(("model", "name"), CASES)
def test_a_model_solves_what_it_sees_and_nothing_else(worlds, tmp_path, model, name):
    world, data_path = worlds(name)
    found = recalls(model, world, data_path, tmp_path)
    if name in model.solves:
        assert found["all"] >= SOLVED * world.oracle
    else:
        low, high = world.chance_interval
        for who, value in found.items():
            assert low <= value <= high, who


def test_whoever_mixes_up_the_order_is_at_chance(worlds, tmp_path, monkeypatch):
    """SASRec with the mean of the items so far for its states: the order is all that it lacks."""

    def mean_so_far(self, history):
        count = history.mask.cumsum(1).clamp_min(1)
        return history.vectors.cumsum(1) / count[..., None]

    monkeypatch.setattr(SASRec, "forward", mean_so_far)
    world, data_path = worlds(ORDER)
    low, high = world.chance_interval
    assert low <= recalls(MODELS["id"], world, data_path, tmp_path)["all"] <= high


# --- the worlds themselves ------------------------------------------------------------------------


class Reader(Scorer):
    """Scores by a table ``[U, N]`` in a world's own order of users and items."""

    def __init__(self, table: np.ndarray, world: World, dataset: MultimodalDataset):
        users = [int(token[1:]) for token in dataset.user_tokens[1:]]
        items = [world.tokens.index(token) for token in dataset.item_tokens[1:]]
        self._table = np.zeros((dataset.user_num, dataset.item_num), dtype=np.float32)
        self._table[1:, 1:] = table[users][:, items]

    def scores(self, users, histories):
        return torch.from_numpy(self._table[users.numpy()])


def read(world: World, data_path: Path, table: np.ndarray) -> tuple[float, dict[str, int]]:
    """Recall@k of one who scores by ``table``, and the numbers of users by group."""
    config = MoRecConfig("Pop", world.name, overrides={"data_path": str(data_path)})
    dataset = MultimodalDataset(config)
    report = Evaluator(config, dataset, torch.device("cpu")).evaluate(
        Reader(table, world, dataset), "test"
    )
    return report.value(f"Recall@{world.k}"), report.users


@pytest.mark.parametrize("name", WORLDS)
def test_who_knows_what_is_possible_gets_the_figure_of_the_oracle(worlds, name):
    world, data_path = worlds(name)
    found, _ = read(world, data_path, world.possible)
    assert found == world.oracle == 1.0


@pytest.mark.parametrize("name", [IMAGE, TEXT, FUSION])
def test_targets_of_the_worlds_of_content_are_cold(worlds, name):
    world, data_path = worlds(name)
    _, users = read(world, data_path, world.possible)
    assert users["cold"] == users["all"] == len(world.histories)


def blind_readings(world: World) -> dict[str, np.ndarray]:
    """Scores ``[U, N]`` of those who do not see what decides, but may see all else."""
    rng = np.random.default_rng(1)
    read, (users, items) = world.histories[:, -2], world.possible.shape
    found = {
        "nothing": np.zeros((users, items)),
        "one order for all": np.broadcast_to(rng.random(items), (users, items)),
    }
    if world.name not in (ID, ID_TASTE):
        found["an order for each item read"] = rng.random((items, items))[read]
    for what, seen in (("colour", world.colour), ("word", world.word)):
        if world.name not in {"colour": (IMAGE, IMAGE_TASTE), "word": (TEXT,)}[what]:
            alike = seen[read, None] == seen
            found |= {f"like {what}": alike, f"unlike {what}": ~alike}
    return found


@pytest.mark.parametrize("name", WORLDS)
def test_who_does_not_see_what_decides_is_at_chance(worlds, name):
    world, data_path = worlds(name)
    low, high = world.chance_interval
    for what, table in blind_readings(world).items():
        found, _ = read(world, data_path, table)
        assert low <= found <= high, what


@pytest.mark.parametrize("maker", WORLDS.values(), ids=WORLDS)
def test_one_order_for_all_leaves_the_interval_as_rarely_as_it_says(maker):
    """Where few users draw from few items, hits hang together and spread more than a binomial."""
    rng, outside = np.random.default_rng(0), []
    for world in (maker(seed=seed) for seed in range(25)):
        low, high = world.chance_interval
        for score in rng.random((20, len(world.colour))):
            above = world.candidates & (score > score[world.histories[:, -1], None])
            outside.append(not low <= (above.sum(axis=1) < world.k).mean() <= high)
    assert np.mean(outside) <= 0.02


@pytest.mark.parametrize("maker", WORLDS.values(), ids=WORLDS)
def test_another_seed_gives_another_world_of_equal_figures(maker):
    one, other = maker(seed=1), maker(seed=2)
    assert (one.histories != other.histories).any()
    assert one.oracle == other.oracle
    assert one.chance == other.chance
