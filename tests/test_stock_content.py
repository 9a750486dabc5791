"""Item encoders in RecBole's sequential models: the stand-in for their item tables."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import write_world
from safetensors.torch import load_file
from torch import nn

from recbole_morec.config import MoRecConfig
from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.data.loader import TrainLoader
from recbole_morec.errors import CheckpointError, ConfigError, MoRecError
from recbole_morec.evaluation.catalogue import TILE
from recbole_morec.evaluation.evaluator import Evaluator
from recbole_morec.item_encoders import build_item_encoder
from recbole_morec.models.content_embedding import ContentEmbedding, ItemVectors
from recbole_morec.models.stock import StockAdapter
from recbole_morec.models.stock_content_trial import add_images, sequential_models, try_content
from recbole_morec.models.stock_limits import why_not
from recbole_morec.models.stock_table import write_tiny
from recbole_morec.models.stock_tables import REGULARISED, fields_read, tables_of, whole_table
from recbole_morec.run import evaluate, run
from recbole_morec.training import trainer
from recbole_morec.training.optim import parameter_groups

CPU = torch.device("cpu")
WORKING = [name for name in sequential_models() if why_not(name) is None]
IMAGES = {"item_encoder": "tiny_convnext", "pretrained": False, "image_size": 32}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Data path of a dataset ``tiny`` with item features and images."""
    path = write_tiny(tmp_path_factory.mktemp("tiny") / "data", users=20, items=30)
    add_images(path / "tiny", 30)
    return path


def build(path, name, dataset="tiny", load_weights=True, **settings):
    overrides = {
        "data_path": str(path), "topk": [5], "valid_metric": "NDCG@5", "train_batch_size": 24,
        "show_progress": False, "reranker_CAN_NUM": "5", "MAX_ITEM_LIST_LENGTH": 6, **settings,
    }  # fmt: skip
    config = MoRecConfig(f"recbole:{name}", dataset, overrides=overrides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return config, StockAdapter(config, MultimodalDataset(config), load_weights)


def first_batch(adapter, size=24):
    return next(TrainLoader(adapter.batches(), size, seed=1).epoch(0))


def table_at(adapter, path):
    return adapter.model.get_submodule(path)


def bpr_of(name):
    """Settings under which a model's loss reads the rows of the batch alone."""
    return {"loss_type": "BPR", "reg_weight": 0} if name in REGULARISED else {"loss_type": "BPR"}


def ways():
    """Every model with its own loss, and with BPR where that reads less."""
    for name in WORKING:
        reason = whole_table(name, {"loss_type": "CE", "reg_weight": 1e-4})
        yield pytest.param(name, {}, id=name)
        if reason is not None and reason.instead:
            yield pytest.param(name, bpr_of(name), id=f"{name}-BPR")


# --- the table of the docs ------------------------------------------------------------------------


@pytest.mark.parametrize("name", sequential_models())
def test_the_table_is_true(request, tiny, name):
    page = (request.config.rootpath / "docs" / "recbole-models.md").read_text(encoding="utf-8")
    assert try_content(name, tiny, "tiny").line() in page.splitlines()


def test_the_table_has_a_line_per_model(request):
    page = (request.config.rootpath / "docs" / "recbole-models.md").read_text(encoding="utf-8")
    section = page.partition("## With an item encoder")[2]
    listed = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| ")]
    assert listed == ["model", *sequential_models()]


# --- equal to the table that it replaces ----------------------------------------------------------


@pytest.mark.parametrize(("name", "settings"), ways())
def test_ids_behind_the_stand_in_equal_the_models_own_table(tiny, name, settings):
    _, plain = build(tiny, name, **settings)
    _, ours = build(tiny, name, item_encoder="id", **settings)
    rows = plain.dataset.item_num
    paths = tables_of(name)
    table = table_at(plain, paths[0]).weight
    with torch.no_grad():
        for path in paths:
            table_at(plain, path).weight[:rows] = table[:rows]
            table_at(plain, path).weight[0] = 0
        ours.item_encoder.embedding.weight.copy_(table[:rows])
    losses = []
    for adapter in (plain, ours):
        adapter.model.eval()  # no dropout
        loss = adapter.loss(first_batch(adapter))
        loss.backward()
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    gradients = {n: p.grad for n, p in ours.model.named_parameters() if p.grad is not None}
    of_tables = [table_at(plain, path).weight.grad for path in paths]
    expected = sum(gradient for gradient in of_tables if gradient is not None)
    close = {"rtol": 1e-4, "atol": 1e-6}
    encoder = next(n for n in gradients if n.endswith("_encoder.embedding.weight"))
    # Padding is no parameter here.
    torch.testing.assert_close(gradients.pop(encoder)[1:], expected[1:rows], **close)
    rest = gradients.pop(f"{paths[0]}.rest", None)  # a mask token, other features
    if rest is not None:
        torch.testing.assert_close(rest, expected[rows:], **close)
    own = dict(plain.model.named_parameters())
    for n, gradient in gradients.items():
        if n.partition(".map.")[0] not in paths:
            torch.testing.assert_close(gradient, own[n].grad, msg=n, **close)


@pytest.mark.parametrize("name", ["NARM", "BERT4Rec", "DIN", "GRU4RecCPR", "RepeatNet"])
def test_scores_equal_the_models_own_table(tiny, name):
    users, histories = torch.tensor([1, 2]), torch.tensor([[0, 0, 0, 0, 1, 2], [1, 2, 3, 4, 5, 6]])
    _, plain = build(tiny, name)
    _, ours = build(tiny, name, item_encoder="id")
    table = table_at(plain, tables_of(name)[0]).weight
    with torch.no_grad():
        table[0] = 0
        ours.item_encoder.embedding.weight.copy_(table[: plain.dataset.item_num])
    found = []
    for adapter in (plain, ours):
        adapter.model.eval()
        scorer = adapter.scorer(CPU)
        scorer.prepare()
        with torch.no_grad():
            found.append(scorer.scores(users, histories))
    torch.testing.assert_close(found[1], found[0])


# --- what is encoded ------------------------------------------------------------------------------


def record(encoder):
    """The ids of every call of the encoder from now on."""
    seen, forward = [], encoder.forward
    encoder.forward = lambda content: seen.append(content["items"].tolist()) or forward(content)
    return seen


@pytest.mark.parametrize(("name", "settings"), ways())
def test_every_item_that_is_read_is_encoded_once_and_padding_never(tiny, name, settings):
    config, adapter = build(tiny, name, **IMAGES, **settings)
    seen = record(adapter.item_encoder)
    batch = first_batch(adapter)
    read = batch["interaction"]
    fields = [field for field in fields_read(name, config) if field in read]
    expected = set(torch.cat([read[field].flatten() for field in fields]).tolist())
    expected -= {0, adapter.dataset.item_num}  # padding and BERT4Rec's mask
    if whole_table(name, config) is not None:
        expected = set(range(1, adapter.dataset.item_num))
    adapter.loss(batch)
    (items,) = seen
    assert 0 not in items
    assert len(items) == len(set(items))
    assert set(items) == expected


def test_an_item_that_is_masked_and_not_predicted_is_not_encoded(tiny):
    _, adapter = build(tiny, "BERT4Rec", **IMAGES, loss_type="BPR")
    found = False
    for epoch in range(5):
        for batch in TrainLoader(adapter.batches(), 4, seed=1).epoch(epoch):
            every = {*batch["interaction"]["item_id_list"].flatten().tolist()} - {0}
            found |= batch["has_terms"] and not every <= {*batch["content"]["items"].tolist()}
    assert found


def test_an_evaluation_encodes_the_catalogue_once(tiny):
    config, adapter = build(tiny, "NARM", **IMAGES)
    adapter.model.eval()
    seen = record(adapter.item_encoder)
    Evaluator(config, adapter.dataset, CPU).evaluate(adapter.scorer(CPU), "test")
    assert [len(items) for items in seen] == [TILE] * -(-(adapter.dataset.item_num - 1) // TILE)
    assert set(seen[0]) == set(range(1, adapter.dataset.item_num))


def test_a_frozen_backbone_encodes_the_whole_catalogue_once_per_run(tiny):
    _, adapter = build(tiny, "NARM", **IMAGES, train_layers="none", catalogue_per_step=0)
    calls = []
    pooled, kept = adapter.item_encoder.pooled, adapter.item_encoder.pooled_key

    def counted(content):
        if kept not in content:  # else they are read, not encoded
            calls.append(len(content["items"]))
        return pooled(content)

    adapter.item_encoder.pooled = counted
    for batch in TrainLoader(adapter.batches(), 24, seed=1).epoch(0):
        adapter.loss(batch).backward()
    assert calls == [TILE]
    assert all(p.grad.abs().sum() > 0 for p in adapter.item_encoder.projection.parameters())


# --- shares and workers ---------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"loss_type": "BPR"}], ids=["CE", "BPR"])
def test_shares_of_processes_and_micro_batches_add_up(tiny, settings):
    _, adapter = build(tiny, "SASRec", **IMAGES, **settings)
    adapter.model.eval()  # no dropout

    def total(**split):
        adapter.model.zero_grad()
        losses = 0.0
        for rank in range(split.get("world_size", 1)):
            loader = TrainLoader(adapter.batches(), 24, seed=1, rank=rank, **split)
            for batch in loader.epoch(0):
                if batch["step"] == 0:
                    loss = adapter.loss(batch)
                    loss.backward()
                    losses += float(loss.detach())
        return losses, {n: p.grad.clone() for n, p in adapter.model.named_parameters()}

    loss, gradients = total()
    for split in ({"world_size": 2}, {"accumulation": 3}):
        other, others = total(**split)
        assert other == pytest.approx(loss, rel=1e-5)
        for name, gradient in gradients.items():
            torch.testing.assert_close(others[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


def test_a_process_without_rows_encodes_nothing(tiny):
    _, adapter = build(tiny, "SASRec", **IMAGES, loss_type="BPR")
    batch = adapter.batches().build(np.array([], dtype=np.int64), 0)
    seen = record(adapter.item_encoder)
    adapter.loss(batch | {"local_rows": 0, "global_rows": 3}).backward()
    assert not seen
    assert all((p.grad == 0).all() for p in adapter.model.parameters())


def test_loader_workers_fetch_the_same_content(tiny):
    _, adapter = build(tiny, "GRU4Rec", **IMAGES, loss_type="BPR")
    plain = TrainLoader(adapter.batches(), 24, seed=1).epoch(0)
    forked = TrainLoader(adapter.batches(), 24, seed=1, workers=2).epoch(0)
    for a, b in zip(plain, forked, strict=True):
        assert torch.equal(a["content"]["image"], b["content"]["image"])
        assert torch.equal(a["content"]["items"], b["content"]["items"])


# --- runs -----------------------------------------------------------------------------------------


@pytest.fixture
def quick(settings):
    kept = {k: v for k, v in settings.items() if k not in ("embedding_size", "item_encoder")}
    return {**kept, "epochs": 2, "train_batch_size": 64, "item_encoder": "image"}


def only_run(folder):
    (found,) = (folder / "colours").iterdir()
    return found


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("NARM", {}),
        ("SASRec", {"item_encoder": "text", "loss_type": "BPR"}),
        ("BERT4Rec", {"item_encoder": ["text", "image"], "fusion": "concat", "n_layers": 1}),
        ("recbole:DIN", {}),
        ("recbole:TransRec", {"worker": 1, "accumulation_steps": 2}),
    ],
)
def test_a_run_is_evaluated_from_its_folder(quick, tmp_path, model, changes):
    results = run(model, "colours", overrides={**quick, **changes})
    folder = only_run(tmp_path / "saved")
    assert evaluate(folder)["test"] == results["test"]
    assert results["training"]["items_per_second"] > 0
    assert results["item_encoder"] != "id"
    assert json.loads((folder / "encoder.json").read_text())["name"]
    assert (folder / "tokenizer").exists() == ("text" in str(changes.get("item_encoder")))


def test_a_stock_model_that_shares_our_models_name_is_evaluated_as_itself(quick, tmp_path):
    results = run("recbole:FM", "colours", overrides={**quick, "item_encoder": None})
    assert evaluate(only_run(tmp_path / "saved"))["test"] == results["test"]


def test_a_resumed_run_ends_where_an_unbroken_one_does(quick, tmp_path, monkeypatch):
    common = {**quick, "loss_type": "BPR", "scheduler": "cosine"}
    whole = {**common, "checkpoint_dir": str(tmp_path / "whole")}
    parts = {**common, "checkpoint_dir": str(tmp_path / "parts")}
    unbroken = run("GRU4Rec", "colours", overrides=whole)
    original = trainer.Trainer._train_epoch

    def crash_in_second_epoch(self):
        original(self)
        if self.state.epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer.Trainer, "_train_epoch", crash_in_second_epoch)
    with pytest.raises(KeyboardInterrupt):
        run("GRU4Rec", "colours", overrides=parts)
    monkeypatch.setattr(trainer.Trainer, "_train_epoch", original)
    resumed = run("GRU4Rec", "colours", overrides={**parts, "resume": True})
    assert resumed["test"] == unbroken["test"]
    states = [
        load_file(only_run(tmp_path / kind) / "last" / "model.safetensors")
        for kind in ("whole", "parts")
    ]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_cold_items_are_ranked_by_what_they_look_like(quick):
    """Users like a colour; the id of an item that nobody has trained on says nothing of its own."""
    seen = run("NARM", "colours", overrides={**quick, "epochs": 3})
    blind = run("NARM", "colours", overrides={**quick, "epochs": 3, "item_encoder": None})
    assert seen["test"]["cold"]["recall@5"] > 0.7
    assert blind["test"]["cold"]["recall@5"] < 0.2


def test_no_initialisation_touches_the_encoders_weights(tiny):
    """BERT4Rec draws new weights for every linear layer and table at the end of its own."""
    config, adapter = build(tiny, "BERT4Rec", **IMAGES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config.model_class(config, adapter.dataset)  # the same draws before the encoder's
        encoder = build_item_encoder({**IMAGES, "embedding_size": 64}, adapter.dataset)
    theirs = adapter.item_encoder.state_dict()
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(theirs[name], tensor), name


def test_an_encoder_moves_between_our_models_and_recboles(quick, tmp_path):
    common = {**quick, "epochs": 1, "embedding_size": 16}
    run("PixelNet", "colours", overrides={**common, "checkpoint_dir": str(tmp_path / "ours")})
    ours = only_run(tmp_path / "ours")
    stock = {**common, "checkpoint_dir": str(tmp_path / "stock"), "load": str(ours), "epochs": 0}
    run("NARM", "colours", overrides=stock)
    theirs = only_run(tmp_path / "stock")
    source = load_file(ours / "best" / "model.safetensors")
    taken = load_file(theirs / "best" / "model.safetensors")
    names = [name for name in source if name.startswith("model.item_encoder.")]
    assert len(names) > 10
    assert all(torch.equal(source[name], taken[name]) for name in names)
    back = {"load": {"item_encoder": str(theirs), "projection": str(theirs)}, "epochs": 0}
    run("PixelNet", "colours", overrides={**common, **back})
    with pytest.raises(CheckpointError, match="does not fit"):
        run("NARM", "colours", overrides={**stock, "embedding_size": 8})


def test_the_encoder_learns_at_its_own_rate(tiny):
    config, adapter = build(tiny, "NARM", **IMAGES, encoder_learning_rate=3e-5)
    groups = {group["name"]: group for group in parameter_groups(adapter.model, config)}
    backbone = {id(p) for p in adapter.item_encoder.backbone.parameters()}
    assert {id(p) for p in groups["encoder"]["params"]} == backbone
    assert (groups["encoder"]["lr"], groups["encoder"]["weight_decay"]) == (3e-5, 0.0)
    every = {id(p) for p in adapter.model.parameters()}
    assert {id(p) for p in groups["recommender"]["params"]} == every - backbone
    config["projection_group"] = "encoder"
    groups = {group["name"]: group for group in parameter_groups(adapter.model, config)}
    whole = {id(p) for p in adapter.item_encoder.parameters()}
    assert {id(p) for p in groups["encoder"]["params"]} == whole


# --- settings and errors --------------------------------------------------------------------------


def configure(world, model="NARM", **overrides):
    return MoRecConfig(model, "colours", overrides={"data_path": str(world.parent), **overrides})


def test_settings_of_the_item_encoder_come_with_it(world):
    config = configure(world, item_encoder="image")
    assert config["item_encoder"] == "tiny_convnext"
    assert (config["pooling"], config["encoder_learning_rate"]) == ("default", 1e-4)
    assert (config["learner"], config["train_batch_size"]) == ("adam", 2048)
    assert (config["catalogue_per_step"], config["encoder_weight_decay"]) == (2048, 0.0)
    assert "user_encoder" not in config
    with pytest.raises(ConfigError) as caught:
        configure(world, item_encoder="tiny_convnxt", pooling="max")
    assert 'Did you mean "tiny_convnext"' in str(caught.value)
    assert "pooling='max'" in str(caught.value)


@pytest.mark.parametrize("model", ["NARM", "recbole:BERT4Rec"])
def test_a_transform_of_images_is_the_encoders_and_rows_stay_the_models(quick, tmp_path, model):
    settings = {**quick, "transform": "paper", "epochs": 1}
    config = MoRecConfig(model, "colours", overrides=settings)
    plain = MoRecConfig(model, "colours", overrides=quick)
    assert config["transform"] == plain["transform"]  # RecBole's
    digest = config.digest()
    assert digest != plain.digest()
    adapter = StockAdapter(config, MultimodalDataset(config))
    assert (adapter.item_encoder.mean == 0.5).all()
    run(model, "colours", overrides=settings)
    folder = only_run(tmp_path / "saved")
    again = MoRecConfig(config_files=[folder / "config.yaml"])
    assert again.image_transform == "paper"
    assert again.digest() == digest
    evaluate(folder)


@pytest.mark.parametrize("item_encoder", ["id", None])
def test_a_transform_that_no_one_knows_is_an_error(world, item_encoder):
    with pytest.raises(ConfigError, match="transform=papers: NARM is RecBole's, which knows mask_"):
        configure(world, item_encoder=item_encoder, transform="papers")
    if item_encoder is None:
        with pytest.raises(ConfigError, match="native and paper are for images"):
            configure(world, transform="paper")


def test_no_item_encoder_is_the_models_own_table(world):
    plain, empty = configure(world), configure(world, item_encoder=None)
    assert not plain.reads_content
    assert plain.digest() == empty.digest() != configure(world, item_encoder="id").digest()
    assert plain.warnings == empty.warnings == []
    assert any("pooling has no effect" in w for w in configure(world, pooling="cls").warnings)


def test_what_a_dataset_says_of_item_encoders_holds_for_stock_models_too(tmp_path):
    folder = tmp_path / "data" / "colours"
    folder.mkdir(parents=True)
    (folder / "colours.yaml").write_text(
        "item_encoder: tiny_vit\nmultimodal: {image_size: 48, epochs: 3, learning_rate: 5e-3}\n"
    )
    config = configure(folder, item_encoder="image")
    assert (config["item_encoder"], config["image_size"]) == ("tiny_convnext", 48)
    assert (config["epochs"], config["learning_rate"]) == (300, 1e-3)
    assert "item_encoder" not in configure(folder).plain()


@pytest.mark.parametrize("model", ["recbole:LightGCN", "BPR", "recbole:FM", "Pop"])
def test_only_sequential_models_take_an_item_encoder(world, model):
    with pytest.raises(ConfigError, match="only sequential ones take one") as caught:
        configure(world, model, item_encoder="image")
    assert len(caught.value.problems) == 1
    configure(world, model, item_encoder=None)


@pytest.mark.parametrize(
    ("model", "settings", "cure"),
    [
        ("NARM", {}, "Use loss_type=BPR, train_layers=none"),
        ("NextItNet", {}, "Use loss_type=BPR with reg_weight=0, train_layers=none"),
        ("NextItNet", {"loss_type": "BPR"}, "Use reg_weight=0, train_layers=none"),
        ("CORE", {}, "Use train_layers=none"),
        ("S3Rec", {}, "Use train_layers=none"),
    ],
)
def test_a_loss_over_too_many_items_says_what_to_use(tiny, model, settings, cure):
    with pytest.raises(ConfigError, match=f"^catalogue_per_step=0: .*{cure}"):
        build(tiny, model, **IMAGES, catalogue_per_step=0, **settings)
    with pytest.raises(ConfigError, match=f"^catalogue_per_step=28: .*all 29 items.*{cure}"):
        build(tiny, model, **IMAGES, catalogue_per_step=28, **settings)
    build(tiny, model, **IMAGES, catalogue_per_step=29, **settings)
    build(tiny, model, item_encoder="id", catalogue_per_step=0, **settings)


def test_vectors_of_another_size_name_the_table(tiny):
    with pytest.raises(ConfigError, match=r"vectors of \d+, and NARM\.item_embedding has 32"):
        build(tiny, "NARM", **IMAGES, projection_layers="none", embedding_size=32)


def test_a_stock_model_loads_the_item_side_alone(world):
    with pytest.raises(ConfigError, match="takes the parts item_encoder and projection only"):
        configure(world, item_encoder="image", load={"user_encoder": "saved/x"})
    with pytest.raises(ConfigError, match="load: FEARec"):
        configure(world, "FEARec", item_encoder="image", load="saved/x")


def test_a_dataset_without_content_says_so(tmp_path):
    folder = write_world(tmp_path / "data" / "colours", users=8, items_per_colour=4)
    (folder / "colours.content").unlink()
    with pytest.raises(MoRecError, match=r"no \.content file"):
        build(folder.parent, "NARM", dataset="colours", item_encoder="image")


# --- the stand-in itself --------------------------------------------------------------------------


def stand_in(vectors, rows=6, items=5, **kind):
    torch.manual_seed(0)
    return ContentEmbedding(nn.Embedding(rows, 3, padding_idx=0), vectors, items, **kind)


def test_look_ups_and_the_table():
    vectors = ItemVectors()
    table = stand_in(vectors)
    mask = table.rest.detach()[0]
    assert (table.num_embeddings, table.embedding_dim, table.padding_idx) == (6, 3, 0)
    batch = torch.arange(1.0, 7.0).reshape(2, 3)  # items 4 and 2
    vectors.show(torch.cat([torch.zeros(1, 3), batch]), torch.tensor([4, 2]))
    ids = torch.tensor([[0, 4], [2, 5]])
    expected = torch.stack([torch.zeros(3), batch[0], batch[1], mask]).view(2, 2, 3)
    assert torch.equal(table(ids), expected)
    with pytest.raises(IndexError):
        table(torch.tensor([3]))
    with pytest.raises(MoRecError, match="only those of the batch are encoded"):
        _ = table.weight
    catalogue = torch.arange(15.0).reshape(5, 3)
    vectors.show(catalogue)
    assert torch.equal(table.weight, torch.cat([catalogue, mask[None]]))
    assert table.weight is table.weight
    vectors.clear()
    with pytest.raises(MoRecError, match="have not been encoded"):
        table(ids)


def test_a_table_that_is_multiplied_by_zero_is_zero_where_nothing_is_encoded():
    vectors = ItemVectors()
    table = stand_in(vectors, partial=True)
    vectors.show(torch.cat([torch.zeros(1, 3), torch.ones(1, 3)]), torch.tensor([3]))
    assert table.weight.shape == (6, 3)
    assert table.weight[:5].sum(1).tolist() == [0, 0, 0, 3, 0]


def test_a_further_table_has_a_space_of_its_own_and_keeps_padding_at_zero():
    vectors = ItemVectors()
    table = stand_in(vectors, rows=5, linear=True)
    rows = torch.cat([torch.zeros(1, 3), torch.ones(4, 3)])
    vectors.show(rows)
    assert torch.equal(table.weight, rows)
    with torch.no_grad():
        table.map.weight.mul_(2)
    vectors.show(rows)
    assert table.weight.sum(1).tolist() == [0, 6, 6, 6, 6]


def test_several_tables_share_the_encoder_and_the_further_ones_learn_a_map(tiny):
    _, adapter = build(tiny, "FPMC", **IMAGES)
    first, *further = [table_at(adapter, path) for path in tables_of("FPMC")]
    seen = record(adapter.item_encoder)
    adapter.loss(first_batch(adapter)).backward()
    assert len(seen) == 1
    assert first.map is None
    assert [table.map.weight.grad.abs().sum() > 0 for table in further] == [True, True]


def test_a_table_called_by_two_names_is_replaced_at_both(tiny):
    _, adapter = build(tiny, "GRU4RecCPR", item_encoder="id")
    assert isinstance(adapter.model.item_embedding, ContentEmbedding)
    assert adapter.model.out_item_embedding is adapter.model.item_embedding


def test_half_precision_of_the_encoder_ends_at_the_table():
    vectors = ItemVectors()
    vectors.show(torch.zeros(5, 3, dtype=torch.bfloat16))
    assert vectors.rows.dtype == torch.float32
    vectors.show(torch.zeros(5, 3, dtype=torch.float64))
    assert vectors.rows.dtype == torch.float64
