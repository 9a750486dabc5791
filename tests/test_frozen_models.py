"""VBPR, ACF, VisRank, CuratorNet, FSASRec, LightGCN: runs on the tiny world, known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import COLOURS, write_world
from recbole.data.interaction import Interaction

from recbole_morec.cli import main
from recbole_morec.config import MoRecConfig
from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.data.loader import TrainLoader
from recbole_morec.errors import ConfigError
from recbole_morec.models import visrank
from recbole_morec.models.adapter import build_adapter
from recbole_morec.models.curatornet import _Profile
from recbole_morec.models.lightgcn import training_graph
from recbole_morec.run import evaluate, run
from recbole_morec.training import trainer
from recbole_morec.user_encoders import History

MODELS = {
    "VBPR": {"features": "vectors.npy"},
    "ACF": {"features": "maps.npy"},
    "VisRank": {"features": "vectors.npy"},
    "CuratorNet": {"features": "vectors.npy"},
    "FSASRec": {"features": "vectors.npy"},
    "LightGCN": {},
}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """The colour world; stored vectors tell an item's colour, stored maps show it in one corner."""
    folder = write_world(tmp_path_factory.mktemp("data") / "colours")
    tokens = "".join(f"{colour}{n}\n" for colour in COLOURS for n in range(10))
    vectors = np.repeat(np.eye(4, dtype=np.float32), 10, axis=0)
    maps = np.zeros((40, 2, 3, 4), dtype=np.float32)
    maps[np.arange(40), np.arange(40) % 2, np.arange(40) % 3] = vectors
    for name, values in {"vectors": vectors, "maps": maps}.items():
        np.save(folder / f"{name}.npy", values)
        (folder / f"{name}.tokens.txt").write_text(tokens)
    return folder


@pytest.mark.parametrize("encoder", ["features", "id"])
@pytest.mark.parametrize("projection", ["none", []])
@pytest.mark.parametrize("tower", [True, False])
@pytest.mark.parametrize("model", ["VBPR", "CuratorNet", "DIN", "VisRank", "PixelNet"])
def test_vectors_of_any_size_are_read_with_and_without_a_tower(
    quick, model, tower, projection, encoder
):
    """Stored vectors have 4 numbers, a tower 16."""
    settings = {
        **quick, "features": "vectors.npy", "item_encoder": encoder, "epochs": 1,
        "projection_layers": projection, "item_tower": tower, "tower_layers": [8, 16],
    }  # fmt: skip
    if model == "PixelNet" and encoder == "features" and projection == "none":
        with pytest.raises(ConfigError, match="vectors of 4"):
            run(model, "colours", overrides=settings)
    else:
        run(model, "colours", overrides=settings)


@pytest.fixture
def quick(shop, tmp_path):
    return {
        "data_path": str(shop.parent), "checkpoint_dir": str(tmp_path / "saved"), "use_gpu": False,
        "show_progress": False, "log_tensorboard": False, "topk": [1, 5], "embedding_size": 16,
        "valid_metric": "NDCG@5", "epochs": 2, "train_batch_size": 16,
    }  # fmt: skip


def adapter_of(shop, model, **overrides):
    chosen = {"data_path": str(shop.parent), "embedding_size": 16, **MODELS[model], **overrides}
    config = MoRecConfig(model, "colours", overrides=chosen)
    config["device"] = CPU
    torch.manual_seed(0)
    return config, build_adapter(config, MultimodalDataset(config))


# --- runs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_a_run_is_resumed_and_evaluated_from_its_folder(quick, tmp_path, monkeypatch, model):
    chosen = {**quick, **MODELS[model]}
    whole = run(model, "colours", overrides=chosen)
    (folder,) = (tmp_path / "saved" / "colours").iterdir()
    assert evaluate(folder)["test"] == whole["test"]

    train_epoch = trainer.Trainer._train_epoch

    def broken(self):
        train_epoch(self)
        if self.state.epoch == 1:
            raise KeyboardInterrupt

    parts = {**chosen, "checkpoint_dir": str(tmp_path / "parts")}
    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_train_epoch", broken)
        if model == "VisRank":  # one pass, nothing to break
            run(model, "colours", overrides=parts)
        else:
            with pytest.raises(KeyboardInterrupt):
                run(model, "colours", overrides=parts)
    resumed = run(model, "colours", overrides={**parts, "resume": True})
    assert resumed["test"] == whole["test"]
    assert resumed["training"]["epochs"] == whole["training"]["epochs"]


def test_the_command_line_lists_and_runs_them(shop, tmp_path, capsys):
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(model in said for model in MODELS)
    flags = [
        "--dataset=colours", f"--data_path={shop.parent}", f"--checkpoint_dir={tmp_path}",
        "--use_gpu=False", "--show_progress=False", "--log_tensorboard=False", "--topk=[5]",
        "--valid_metric=NDCG@5", "--epochs=1",
    ]  # fmt: skip
    assert main(["--model=lightgcn", *flags]) == 0
    assert "recbole:LightGCN" in capsys.readouterr().err
    assert main(["--model=VBPR", "--features=vectors.npy", "--user_encoder=GRU4Rec", *flags]) == 0
    said = capsys.readouterr()
    assert "user_encoder has no effect on VBPR" in said.err
    assert "GRU4Rec" not in said.out


@pytest.mark.parametrize("model", MODELS)
def test_only_models_without_rows_of_users_and_items_move_to_other_data(shop, model):
    _, adapter = adapter_of(shop, model)
    assert adapter.bound_to_ids == (model in ("VBPR", "ACF", "LightGCN"))


@pytest.mark.parametrize("model", ["CuratorNet", "FSASRec", "LightGCN", "VBPR", "ACF"])
def test_they_learn_the_colours(quick, model):
    chosen = {"epochs": 12, "learning_rate": 0.02, "negatives_avoid": "window"}
    if model == "LightGCN":
        chosen["item_encoder"] = "id"
    metrics = run(model, "colours", overrides={**quick, **MODELS[model], **chosen})["test"]
    # 9 of the warm items have the user's colour, 7 of them are barred as seen; cold targets (every
    # third) have no free vector that learned, and are ranked by content alone or by chance.
    assert metrics["warm"]["recall@5"] > 0.8
    if model in ("CuratorNet", "FSASRec"):
        assert metrics["cold"]["recall@5"] > 0.8


@pytest.mark.parametrize("model", MODELS)
def test_recboles_calls_give_the_evaluators_scores(shop, model):
    _, adapter = adapter_of(shop, model)
    network, dataset = adapter.model.eval(), adapter.dataset
    scorer = adapter.scorer(CPU)
    scorer.prepare()
    histories = [dataset.histories.of(user)[:-1][-5:].tolist() for user in (1, 2, 7)]
    users, left = torch.tensor([1, 2, 7]), torch.tensor(histories)
    left[0, :2] = 0
    right = torch.stack([torch.cat([row[row > 0], row[row == 0]]) for row in left])
    items = torch.tensor([3, 1, 2])
    interaction = Interaction(
        {
            "user_id": users, "item_id": items, "item_id_list": right,
            "item_length": (left > 0).sum(1),
        }
    )  # fmt: skip
    with torch.no_grad():
        expected = scorer.scores(users, left)
        full = network.full_sort_predict(interaction).view(3, -1)
        torch.testing.assert_close(full, expected)
        torch.testing.assert_close(network.predict(interaction), expected[range(3), items])


# --- VBPR ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["VBPR", "LightGCN"])
def test_every_training_interaction_is_a_target_once(shop, model):
    # 6 training items in windows of 4 + 1: one item is left over, and is a window of its own.
    _, adapter = adapter_of(shop, model, MAX_ITEM_LIST_LENGTH=4)
    loader = TrainLoader(adapter.batches(), 7, seed=1)
    seen = []
    for batch in loader.epoch(0):
        row, slot = batch["target"].nonzero(as_tuple=True)
        pairs = torch.stack([batch["user"][row], batch["item_seq"][row, slot]], 1)
        seen += map(tuple, pairs.tolist())
    dataset = adapter.dataset
    wanted = [
        (user, item)
        for user in range(dataset.user_num)
        for item in dataset.histories.items[
            dataset.splits.start[user] : dataset.splits.train_stop[user]
        ].tolist()
    ]
    assert sorted(seen) == sorted(wanted)


def test_vbprs_parts_and_their_rates(shop):
    _, adapter = adapter_of(shop, "VBPR")
    model = adapter.model
    rates = {"learning_rate": 1, "weight_decay": 0, "encoder_learning_rate": 2}
    config = {**rates, "encoder_weight_decay": 0.1, "projection_group": "encoder"}
    recommender, encoder = trainer.parameter_groups(model, config)
    assert {id(p) for p in encoder["params"]} == {
        id(model.visual.weight),
        id(model.visual_bias.weight),
    }
    assert len(recommender["params"]) == 3
    with pytest.raises(ConfigError, match="even number"):
        adapter_of(shop, "VBPR", embedding_size=15)
    with pytest.raises(ConfigError, match="reads no item vector"):
        adapter_of(shop, "VBPR", objective="item_head")


# --- ACF -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ["features", "tiny_convnext", "id"])
def test_acf_reads_regions_of_maps_and_images_and_trains_all_of_it(shop, encoder):
    _, adapter = adapter_of(shop, "ACF", item_encoder=encoder, pretrained=False, image_size=32)
    batch = next(TrainLoader(adapter.batches(), 8, seed=1).epoch(0))
    items = adapter.model.encode_items(batch["content"])
    assert items.shape[2] == 16
    assert items.shape[1] == {"features": 7, "tiny_convnext": 2, "id": 2}[encoder]
    adapter.loss(batch).backward()
    for name, parameter in adapter.model.named_parameters():
        assert parameter.grad is not None or not parameter.requires_grad, name


def test_acf_takes_nothing_without_regions(shop):
    with pytest.raises(ConfigError, match="a text has none"):
        adapter_of(shop, "ACF", item_encoder="tiny_bert")
    with pytest.raises(ConfigError, match="regions of one encoder"):
        adapter_of(shop, "ACF", item_encoder=["features", "id"])
    with pytest.raises(ConfigError, match="item_tower"):
        adapter_of(shop, "ACF", item_tower=True)


def test_regions_are_averaged_where_a_model_wants_vectors(shop):
    _, maps = adapter_of(shop, "VisRank", features="maps.npy")
    _, vectors = adapter_of(shop, "VisRank")
    items = {"items": torch.arange(1, 41)}
    found = maps.model.item_encoder(items)
    torch.testing.assert_close(6 * found, vectors.model.item_encoder(items))


# --- CuratorNet ----------------------------------------------------------------------------------


@pytest.mark.parametrize("reads_padding", [False, True])
@pytest.mark.parametrize("mode", ["train", "predict"])
def test_curatornets_pooling_against_slot_by_slot(mode, reads_padding):
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(3, 5, 4, generator=generator).round(decimals=1)
    vectors[1, 3] = vectors[1, 4]  # the largest twice
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 1, 1]]).bool()
    vectors[~mask] = 9.0
    history = History(vectors, mask.long(), mask, torch.zeros(3).long(), mode)
    found = _Profile(4, 8, reads_padding).pooled(history)
    for row, slot in mask.nonzero().tolist():
        read = mask[row].clone() if not reads_padding else torch.ones(5).bool()
        if mode == "train":
            read[slot] = False
        others = vectors[row, read]
        expected = torch.cat([others.amax(0), others.mean(0)])
        torch.testing.assert_close(found[row, slot], expected)


# --- VisRank -------------------------------------------------------------------------------------


def test_visrank_knows_the_colour_without_training(quick):
    result = run("VisRank", "colours", overrides={**quick, **MODELS["VisRank"]})
    assert result["parameters"] == {"trained": 0, "frozen": 0}
    assert result["training"]["epochs"] == 1
    # 3 items of the colour are left: the target is among the first 5.
    assert result["test"]["all"]["recall@5"] == 1.0


def test_visrank_in_chunks_scores_as_in_one(shop, monkeypatch):
    _, adapter = adapter_of(shop, "VisRank")
    vectors = torch.randn(4, 6, 8)
    real = torch.tensor([[0] * 5 + [1], [0] * 3 + [1] * 3, [1] * 6, [0] * 2 + [1] * 4]).bool()
    items = torch.randn(50, 8)
    whole = adapter.model.score((vectors, real), items)
    monkeypatch.setattr(visrank, "_MOST_PAIRS", 7 * real.numel())
    torch.testing.assert_close(adapter.model.score((vectors, real), items), whole)
    one = (vectors[0, 5] * items).sum(1)  # a history of one: all means are of that one
    torch.testing.assert_close(whole[0], one)


# --- LightGCN ------------------------------------------------------------------------------------


def test_the_graph_holds_training_interactions_and_nothing_held_out(shop):
    _, adapter = adapter_of(shop, "LightGCN")
    dataset = adapter.dataset
    graph = training_graph(dataset).toarray()
    assert (graph == graph.T).all()
    assert not graph[: dataset.user_num, : dataset.user_num].any()
    degree = dataset.train_counts
    for user in range(1, dataset.user_num):
        trained = dataset.histories.of(user)[:-2]
        expected = np.zeros(dataset.item_num)
        np.add.at(expected, trained, 1 / np.sqrt(len(trained) * degree[trained]))
        np.testing.assert_allclose(graph[user, dataset.user_num :], expected)


def test_propagation_and_its_gradient_against_dense_matrices(shop):
    _, adapter = adapter_of(shop, "LightGCN", n_layers=3)
    model, dataset = adapter.model.double(), adapter.dataset
    items = torch.randn(dataset.item_num, 16, dtype=torch.double, requires_grad=True)
    users, vectors = model.propagate(items)
    weight = torch.randn_like(torch.cat([users, vectors]))
    (torch.cat([users, vectors]) * weight).sum().backward()

    own = model.user_encoder.embedding.weight
    x = torch.cat([own, items]).detach().requires_grad_()
    graph = torch.from_numpy(training_graph(dataset).toarray())
    layers = [x]
    for _ in range(3):
        layers.append(graph @ layers[-1])
    expected = torch.stack(layers).mean(0)
    (expected * weight).sum().backward()
    # The model's weights of edges are float32.
    torch.testing.assert_close(torch.cat([users, vectors]), expected, rtol=1e-6, atol=1e-6)
    got = torch.cat([own.grad, items.grad])
    torch.testing.assert_close(got, x.grad, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "chosen",
    [
        {"item_encoder": "features", "features": "vectors.npy"},
        {"item_encoder": "tiny_convnext", "train_layers": "none"},
        {"item_encoder": "tiny_convnext", "catalogue_per_step": 40},
        {"objective": "full_softmax"},
        {"objective": "in_batch"},
    ],
    ids=str,
)
def test_lightgcn_on_encoders_of_the_whole_catalogue(shop, chosen):
    _, adapter = adapter_of(shop, "LightGCN", pretrained=False, image_size=32, **chosen)
    adapter.model.train()
    batch = next(TrainLoader(adapter.batches(), 8, seed=1).epoch(0))
    loss = adapter.loss(batch)
    loss.backward()
    for name, parameter in adapter.model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name
    no_rows = adapter.batches().build(np.zeros(0, dtype=np.int64), 0)
    no_rows |= {"global_rows": 8, "global_terms": 40}
    assert adapter.loss(no_rows).item() == 0.0


def test_lightgcn_refuses_to_encode_all_items_in_every_step(shop):
    with pytest.raises(ConfigError) as error:
        adapter_of(shop, "LightGCN", item_encoder="tiny_convnext")
    said = str(error.value)
    assert "model=LightGCN needs the vectors of all items in each step" in said
    assert "objective" not in said
    with pytest.raises(ConfigError, match="encode=every_slot"):
        adapter_of(shop, "LightGCN", encode="every_slot")


def test_checkpoints_hold_no_graph(shop):
    _, adapter = adapter_of(shop, "LightGCN")
    names = adapter.model.state_dict()
    assert names.keys() == {"user_encoder.embedding.weight", "item_encoder.embedding.weight"}
