"""What goes together: one step, evaluation, save and load of item encoders, user encoders,
objectives and models, and how often items are encoded.

Every kind of item encoder meets every user encoder and objective; what is a variant of a kind
(fusions, adapters, frozen parts) meets a few that between them read all that there is to read.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import write_world

from recbole_morec.config import MoRecConfig
from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.data.loader import TrainLoader
from recbole_morec.errors import ConfigError
from recbole_morec.evaluation.catalogue import TILE
from recbole_morec.evaluation.evaluator import Evaluator
from recbole_morec.item_encoders.joins import JOINS
from recbole_morec.models.acf import ACF
from recbole_morec.models.adapter import build_adapter
from recbole_morec.models.combinations import ONE_WITH_REGIONS, REFUSED, page
from recbole_morec.models.lookup import find_model, our_models
from recbole_morec.objectives import OBJECTIVES
from recbole_morec.training.checkpoint import load_checkpoint, save_checkpoint
from recbole_morec.user_encoders import USER_ENCODERS

ITEM_ENCODERS = {
    "id": {"item_encoder": "id"},
    "features": {"item_encoder": "features", "features": "vectors.npy"},
    "image": {"item_encoder": "tiny_convnext"},
    "text": {"item_encoder": "tiny_bert"},
    "fusion": {"item_encoder": ["tiny_convnext", "tiny_bert"], "fusion": "concat"},
}
BOTH = {"item_encoder": ["tiny_convnext", "tiny_bert"]}
VARIANTS = {
    "codes": {"item_encoder": "codes", "codes": "codes.npy"},
    "id + image": {"item_encoder": ["id", "tiny_convnext"], "fusion": "sum"},
    "id + codes + features": {
        "item_encoder": ["id", "codes", "features"], "codes": "codes.npy",
        "features": "vectors.npy", "fusion": "concat",
    },
    **{fusion: {**BOTH, "fusion": fusion} for fusion in JOINS},
    "lora": {"item_encoder": "tiny_bert", "train_layers": "lora"},
    "ia3": {"item_encoder": "tiny_bert", "train_layers": "ia3"},
    "frozen": {"item_encoder": "tiny_convnext", "train_layers": "none"},
    "frozen fusion": {**BOTH, "fusion": "gated", "train_layers": "none"},
    "last layer": {"item_encoder": "tiny_vit", "train_layers": "last_1"},
}  # fmt: skip
# Batch and catalogue; states of every slot, of masks, of the last one, of users; every kind of
# negative.
SPAN = [
    ("SASRec", "in_batch"), ("BERT4Rec", "bce"), ("SRGNN", "full_softmax"),
    ("UserID", "sampled_softmax"),
]  # fmt: skip
SMALL = {
    "embedding_size": 8, "inner_size": 8, "n_layers": 1, "use_gpu": False, "show_progress": False,
    "topk": [5], "valid_metric": "NDCG@5", "image_size": 32, "max_text_length": 8,
    "negatives": 3, "catalogue_per_step": 100,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The tiny world with stored vectors; datasets and item encoders are opened once."""
    folder = write_world(tmp_path_factory.mktemp("all") / "colours", users=24, items_per_colour=8)
    config = MoRecConfig("PixelNet", "colours", overrides={"data_path": str(folder.parent)})
    dataset = MultimodalDataset(config)
    vectors = np.random.default_rng(0).normal(size=(dataset.item_num - 1, 6)).astype(np.float32)
    maps = np.repeat(vectors[:, None], 2, axis=1)
    codes = np.arange(2 * len(vectors)).reshape(-1, 2) % 5
    for name, rows in {"vectors": vectors, "maps": maps, "codes": codes}.items():
        np.save(folder / f"{name}.npy", rows)
        (folder / f"{name}.tokens.txt").write_text("\n".join(dataset.item_tokens[1:]) + "\n")
    return folder.parent


def adapter_of(data, model="PixelNet", **overrides):
    config = MoRecConfig(model, "colours", overrides={**SMALL, "data_path": str(data), **overrides})
    config["device"] = torch.device("cpu")
    torch.manual_seed(0)
    return config, build_adapter(config, MultimodalDataset(config))


@pytest.mark.parametrize("objective", OBJECTIVES.names())
@pytest.mark.parametrize("user_encoder", USER_ENCODERS.names())
@pytest.mark.parametrize("item_encoder", ITEM_ENCODERS)
def test_item_encoders_user_encoders_and_objectives(
    data, tmp_path, item_encoder, user_encoder, objective
):
    chosen = {**ITEM_ENCODERS[item_encoder], "user_encoder": user_encoder, "objective": objective}
    if (user_encoder, objective) in REFUSED:
        with pytest.raises(ConfigError, match=REFUSED[user_encoder, objective]):
            adapter_of(data, **chosen)
    else:
        step_evaluation_save_and_load(data, tmp_path, **chosen)


@pytest.mark.parametrize(("user_encoder", "objective"), SPAN)
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_of_item_encoders(data, tmp_path, variant, user_encoder, objective):
    if variant in ("lora", "ia3"):
        pytest.importorskip("peft")
    chosen = {**VARIANTS[variant], "user_encoder": user_encoder, "objective": objective}
    step_evaluation_save_and_load(data, tmp_path, **chosen)


OF_MODELS = {"codes": "codes.npy", "image_encoder": "tiny_convnext", "text_encoder": "tiny_bert"}
CHOOSING = [name for name in our_models() if "objective" in find_model(name).chooses]


@pytest.mark.parametrize("objective", OBJECTIVES.names())
@pytest.mark.parametrize("model", CHOOSING)
def test_models_and_objectives(data, tmp_path, model, objective):
    chosen = {"model": model, "objective": objective, "features": "vectors.npy", **OF_MODELS}
    if (model, objective) in REFUSED:
        with pytest.raises(ConfigError, match=REFUSED[model, objective]):
            adapter_of(data, **chosen)
    else:
        step_evaluation_save_and_load(data, tmp_path, **chosen)


@pytest.mark.parametrize("item_encoder", [*ITEM_ENCODERS, "codes", "frozen"])
@pytest.mark.parametrize("model", ["DIN", "LightGCN", "VBPR", "CuratorNet", "ACF"])
def test_models_of_their_own_and_item_encoders(data, tmp_path, model, item_encoder):
    settings = {**ITEM_ENCODERS, **VARIANTS}[item_encoder]
    chosen = {"model": model, **settings}
    several = not isinstance(settings["item_encoder"], str)
    if model in ONE_WITH_REGIONS and (several or item_encoder == "text"):
        with pytest.raises(ConfigError, match="ACF reads"):
            adapter_of(data, **chosen)
    else:
        step_evaluation_save_and_load(data, tmp_path, **chosen)


@pytest.mark.parametrize("settings", [{}, {"branches": ["id", "text"]}])
def test_odmt(data, tmp_path, settings):
    step_evaluation_save_and_load(
        data, tmp_path, model="ODMT", item_encoder="image+text", **settings
    )


def test_the_page_is_of_this_table(request):
    path = request.config.rootpath / "docs" / "combinations.md"
    assert path.read_text(encoding="utf-8") == page()


def step_evaluation_save_and_load(data, tmp_path, **chosen):
    config, adapter = adapter_of(data, **chosen)
    batch = next(TrainLoader(adapter.batches(), 16, seed=1).epoch(0))
    adapter.model.train()
    loss = adapter.loss(batch)
    loss = sum(loss.values()) if isinstance(loss, dict) else loss
    assert torch.isfinite(loss)
    loss.backward()
    for name, parameter in adapter.model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name} takes no part"
    optimizer = torch.optim.SGD(adapter.model.parameters(), lr=0.1)
    optimizer.step()

    adapter.model.eval()
    cpu = torch.device("cpu")
    evaluator = Evaluator(config, adapter.dataset, cpu)
    before = evaluator.evaluate(adapter.scorer(cpu), "test")
    save_checkpoint(tmp_path / "best", model=adapter.model, extra={}, state={})
    _, other = adapter_of(data, **chosen)
    load_checkpoint(tmp_path / "best", model=other.model)
    other.model.eval()
    after = evaluator.evaluate(other.scorer(cpu), "test")
    assert (after.ranks == before.ranks).all()


COUNTED = [
    *(("PixelNet", "bpr", user_encoder) for user_encoder in USER_ENCODERS.names()),
    *(("PixelNet", objective, "SASRec") for objective in OBJECTIVES.names()),
    *((model, "bpr", None) for model in ("DIN", "ACF", "VBPR", "CuratorNet")),
]


@pytest.mark.parametrize("pad_vector", ["zero", "encoded"])
@pytest.mark.parametrize(("model", "objective", "user_encoder"), COUNTED)
def test_no_item_is_encoded_twice_and_padding_at_most_once(
    data, model, objective, user_encoder, pad_vector
):
    chosen = {"objective": objective, "user_encoder": user_encoder}
    if model != "PixelNet":
        chosen = {}
    _, adapter = adapter_of(
        data, model, item_encoder="tiny_convnext", pad_vector=pad_vector, **chosen
    )
    seen = record(adapter)
    batch = next(TrainLoader(adapter.batches(), 16, seed=1).epoch(0))
    adapter.loss(batch)
    ids = torch.cat(seen)
    real = ids[ids > 0]
    assert len(real.unique()) == len(real)
    assert len(ids) - len(real) == (pad_vector == "encoded")
    needed = set(batch["item_seq"][batch["mask"]].tolist())
    for name in ("negative_index", "shared_index"):
        if name in batch:
            drawn = batch[name][batch[name] > 0]
            needed |= set(batch["content"]["items"][drawn - 1].tolist())
    if adapter.model.encodes == "catalogue":
        needed = set(range(1, adapter.dataset.item_num))
    assert set(real.tolist()) == needed


@pytest.mark.parametrize("pad_vector", ["zero", "encoded"])
@pytest.mark.parametrize("model", ["PixelNet", "DIN", "ACF", "VBPR", "CuratorNet", "LightGCN"])
def test_an_evaluation_encodes_the_catalogue_once(data, model, pad_vector):
    config, adapter = adapter_of(data, model, item_encoder="tiny_convnext", pad_vector=pad_vector)
    adapter.model.eval()
    adapter.prepare()  # tries frozen parts before it stores what they give
    seen = record(adapter)
    cpu = torch.device("cpu")
    Evaluator(config, adapter.dataset, cpu).evaluate(adapter.scorer(cpu), "test")
    tiles, padding = [ids for ids in seen if ids.any()], [ids for ids in seen if not ids.any()]
    assert [len(ids) for ids in tiles] == [TILE] * -(-(adapter.dataset.item_num - 1) // TILE)
    assert set(tiles[0].tolist()) == set(range(1, adapter.dataset.item_num))
    assert [len(ids) for ids in padding] == [1] * (pad_vector == "encoded")


def record(adapter):
    """Item ids of every call of the item encoder; ACF reads its regions."""
    seen = []
    encoder = adapter.model.item_encoder
    name = "tokens" if isinstance(adapter.model, ACF) else "forward"
    call = getattr(encoder, name)
    setattr(encoder, name, lambda content: seen.append(content["items"]) or call(content))
    return seen
