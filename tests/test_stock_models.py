"""RecBole's own models: batches, losses, scores and state on our histories."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from recbole_morec.config import MoRecConfig
from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.data.loader import TrainLoader
from recbole_morec.data.stock_batches import PrefixBatches
from recbole_morec.data.stock_transforms import StockTransform
from recbole_morec.errors import CheckpointError, ConfigError, DataError
from recbole_morec.evaluation import stock_scorer
from recbole_morec.evaluation.evaluator import Evaluator
from recbole_morec.evaluation.stock_scorer import to_right_padded
from recbole_morec.models import stock_limits
from recbole_morec.models.lookup import our_models, stock_models
from recbole_morec.models.stock import StockAdapter
from recbole_morec.models.stock_state import write_state
from recbole_morec.models.stock_table import Row, render, try_model, write_tiny

REQUIRED = ["Pop", "BPR", "SASRec", "GRU4Rec", "BERT4Rec", "LightGCN"]
CPU = torch.device("cpu")

# Histories in time order; the files hold them newest first.
HISTORIES = {"a": "1234567", "b": "2345", "c": "765", "d": "1357246"}


def write_histories(folder, histories=HISTORIES):
    """A dataset folder whose items are single letters."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user, items in histories.items():
        stamped = [(1_600_000_000 + 10 * t, item) for t, item in enumerate(items)]
        lines += [f"{user}\t{item}\t{time}" for time, item in reversed(stamped)]
    (folder / f"{folder.name}.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def build(tmp_path):
    """Returns build(model, **settings) -> (config, dataset, adapter) on the letters dataset."""
    write_histories(tmp_path / "letters")

    def make(model, **settings):
        overrides = {
            "data_path": str(tmp_path), "topk": [1, 2], "valid_metric": "NDCG@2",
            "train_batch_size": 4, "MAX_ITEM_LIST_LENGTH": 5, "show_progress": False, **settings,
        }  # fmt: skip
        name = f"recbole:{model}" if model in our_models() else model
        config = MoRecConfig(name, "letters", overrides=overrides)
        dataset = MultimodalDataset(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return config, dataset, StockAdapter(config, dataset)

    return make


def tokens(dataset, values):
    return [str(dataset.item_tokens[v]) for v in np.asarray(values) if v]


# --- required models ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*REQUIRED, "ItemKNN", "MultiVAE", "NeuMF", "DIEN", "SHAN"])
def test_trains_evaluates_and_restores(build, name):
    config, dataset, adapter = build(name)
    optimizer = None
    if adapter.trains:
        optimizer = torch.optim.Adam(adapter.model.parameters(), lr=0.01)
    adapter.model.train()
    for batch in TrainLoader(adapter.batches(), 4, seed=1).epoch(0):
        loss = adapter.loss(batch)
        assert loss.ndim == 0
        assert torch.isfinite(loss)
        if optimizer:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    adapter.model.eval()
    users, histories = torch.tensor([1, 4]), torch.tensor([[0, 0, 0, 1, 2], [1, 2, 3, 4, 5]])
    scores = score(adapter, users, histories)
    assert scores.shape == (2, dataset.item_num)
    report = Evaluator(config, dataset, CPU).evaluate(adapter.scorer(CPU), "test")
    assert 0 <= report.value("ndcg@2") <= 1

    _, _, other = build(name)
    other.model.load_state_dict(adapter.model.state_dict())
    other.load_extra_state(adapter.extra_state())
    other.model.eval()
    assert torch.equal(score(other, users, histories), scores)


def score(adapter, users, histories):
    scorer = adapter.scorer(CPU)
    scorer.prepare()
    with torch.no_grad():
        return scorer.scores(users, histories)


@pytest.mark.parametrize("name", ["BPR", "SASRec", "LightGCN", "ItemKNN", "EASE"])
def test_learns_which_colour_a_user_likes(world, settings, name):
    """Users of the colour world like one colour: its items must stand above the others."""
    overrides = {k: v for k, v in settings.items() if k != "item_encoder"}
    overrides |= {"train_batch_size": 64, "history_mask": "none", "MAX_ITEM_LIST_LENGTH": 5}
    config = MoRecConfig(f"recbole:{name}", world.name, overrides=overrides)
    dataset = MultimodalDataset(config)
    torch.manual_seed(0)
    adapter = StockAdapter(config, dataset)
    if adapter.trains:
        optimizer = torch.optim.Adam(adapter.model.parameters(), lr=0.02)
        for epoch in range(8):
            for batch in TrainLoader(adapter.batches(), 64, seed=1).epoch(epoch):
                optimizer.zero_grad()
                adapter.loss(batch).backward()
                optimizer.step()
    else:
        for batch in TrainLoader(adapter.batches(), 64, seed=1).epoch(0):
            adapter.loss(batch)
    adapter.model.eval()
    users = dataset.splits.users["test"][:20]
    histories = np.stack([dataset.histories.of(u)[-6:-1] for u in users]).astype(np.int64)
    scores = score(adapter, torch.from_numpy(users), torch.from_numpy(histories))
    warm = torch.from_numpy(~dataset.cold)
    best = scores.masked_fill(~warm, -1e9).topk(5).indices
    colour = np.array([str(t).rstrip("0123456789") for t in dataset.item_tokens])
    liked = colour[histories[:, -1]]
    assert (colour[best.numpy()] == liked[:, None]).mean() > 0.9


def test_pop_counts_every_interaction_and_recbole_counts_one_per_batch(build):
    _, dataset, adapter = build("Pop")
    (batch,) = TrainLoader(adapter.batches(), 4, seed=1).epoch(0)
    adapter.model.calculate_loss(batch["interaction"])
    assert adapter.model.item_cnt.max() == 1  # the stock class alone
    adapter.loss(batch)
    assert adapter.model.item_cnt[:, 0].tolist() == dataset.train_counts.tolist()
    scores = score(adapter, torch.tensor([1]), torch.zeros(1, 5, dtype=torch.long))[0]
    assert torch.equal(scores, torch.from_numpy(dataset.train_counts / dataset.train_counts.max()))


def test_models_without_a_gradient_get_everything_in_every_process(build):
    _, dataset, adapter = build("Pop")
    for rank in (0, 1):
        loader = TrainLoader(adapter.batches(), 4, seed=1, rank=rank, world_size=2)
        (batch,) = loader.epoch(0)
        assert len(batch["interaction"]) == dataset.inter_num


# --- batches --------------------------------------------------------------------------------------


def test_sequential_rows_are_recboles_augmentation(build):
    _, dataset, adapter = build("SASRec", MAX_ITEM_LIST_LENGTH=3)
    rows = adapter.batches()
    batch = rows.build(np.arange(len(rows.rows)), 0)["interaction"]
    found = {
        ("".join(tokens(dataset, items)), str(dataset.item_tokens[target]), int(length))
        for items, target, length in zip(
            batch["item_id_list"], batch["item_id"], batch["item_length"], strict=True
        )
    }
    # a trains on 12345, b on 23, c on 7, d on 13572
    assert found == {
        ("1", "2", 1), ("12", "3", 2), ("123", "4", 3), ("234", "5", 3),
        ("2", "3", 1),
        ("1", "3", 1), ("13", "5", 2), ("135", "7", 3), ("357", "2", 3),
    }  # fmt: skip
    padding = torch.arange(3)[None, :] >= batch["item_length"][:, None]
    assert torch.equal(batch["item_id_list"] == 0, padding)


def test_pairs_are_the_training_part_and_negatives_are_unknown_to_the_user(build):
    _, dataset, adapter = build("BPR", train_neg_sample_args={"sample_num": 3})
    builder = adapter.batches()
    rows = np.arange(len(builder.rows))
    batch = builder.build(rows, 0)["interaction"]
    pairs = list(zip(batch["user_id"].tolist(), batch["item_id"].tolist(), strict=True))
    training = {
        (user, int(item))
        for user in range(1, dataset.user_num)
        for item in dataset.histories.of(user)[:-2]
    }
    assert set(pairs) == training
    assert len(pairs) == 3 * len(training)
    negatives = set()
    for epoch in range(20):
        batch = builder.build(rows, epoch)["interaction"]
        negatives |= set(zip(batch["user_id"].tolist(), batch["neg_item_id"].tolist(), strict=True))
    assert negatives == {(u, i) for u in range(1, 5) for i in range(1, 8)} - training


def test_draws_depend_on_the_row_and_the_epoch_alone(build):
    _, _, adapter = build("BPR")
    builder = adapter.batches()
    whole = builder.build(np.arange(10), 0)["interaction"]["neg_item_id"]
    alone = [builder.build(np.array([r]), 0)["interaction"]["neg_item_id"] for r in range(10)]
    assert torch.equal(whole, torch.cat(alone))
    again = builder.build(np.arange(10), 1)["interaction"]["neg_item_id"]
    assert not torch.equal(whole, again)


def test_pointwise_rows_carry_labels(build):
    _, _, adapter = build("NeuMF")
    batch = adapter.batches().build(np.arange(4), 0)["interaction"]
    assert batch["label"].tolist() == [1.0] * 4 + [0.0] * 4
    assert torch.equal(batch["user_id"][:4], batch["user_id"][4:])
    assert not (batch["item_id"][:4] == batch["item_id"][4:]).any()


def test_sequential_negatives_exclude_the_target_only(build):
    _, _, adapter = build("FPMC")
    builder = adapter.batches()
    seen_in_history = False
    for epoch in range(20):
        batch = builder.build(np.arange(len(builder.rows)), epoch)["interaction"]
        negative = batch["neg_item_id"]
        assert not (negative == batch["item_id"]).any()
        seen_in_history |= bool((batch["item_id_list"] == negative[:, None]).any())
    assert seen_in_history


def test_popularity_negatives_follow_the_training_counts(build):
    args = {"distribution": "popularity", "alpha": 1.0}
    _, dataset, adapter = build("FPMC", train_neg_sample_args=args)
    negatives = adapter._negatives()
    rows = np.arange(20_000)
    nothing = np.zeros(len(rows), dtype=np.int64)
    drawn = negatives.draw(nothing, nothing, rows, epoch=0)[:, 0]
    share = np.bincount(drawn, minlength=dataset.item_num) / len(rows)
    assert np.allclose(share, dataset.popularity, atol=0.02)


def test_dynamic_negatives_are_refused(build):
    _, _, adapter = build("BPR", train_neg_sample_args={"dynamic": True, "candidate_num": 2})
    with pytest.raises(ConfigError, match=r"train_neg_sample_args\.dynamic"):
        adapter.batches()


def test_a_user_with_every_item_is_an_error(tmp_path):
    folder = write_histories(tmp_path / "full", {"a": "1234567", "b": "123456712"})
    config = MoRecConfig(
        "BPR", "full", overrides={"data_path": str(tmp_path), "topk": [1], "valid_metric": "NDCG@1"}
    )
    builder = StockAdapter(config, MultimodalDataset(config)).batches()
    with pytest.raises(DataError, match=str(folder)):
        builder.build(np.arange(len(builder.rows)), 0)


def test_masking_keeps_the_contract_of_recboles_transform(build):
    _, dataset, adapter = build("BERT4Rec", mask_ratio=0.5)
    builder = adapter.batches()
    rows = np.arange(len(builder.rows))
    state = random.getstate()
    masked_slots = real_slots = 0
    for epoch in range(40):
        batch = builder.build(rows, epoch)["interaction"]
        items, changed = batch["item_id_list"], batch["Mask_item_id_list"]
        masked = changed == dataset.item_num
        assert torch.equal(torch.where(masked, 0, changed), torch.where(masked, 0, items))
        assert not (masked & (items == 0)).any()
        for row in range(len(rows)):
            where = masked[row].nonzero()[:, 0][-2:]  # int(0.5 * 5) slots have a loss
            pad = torch.zeros(2 - len(where), dtype=torch.long)
            assert batch["MASK_INDEX"][row].tolist() == torch.cat([pad, where]).tolist()
            positives = torch.cat([pad, items[row, where]])
            assert batch["Pos_item_id"][row].tolist() == positives.tolist()
            negatives = batch["Neg_item_id"][row]
            assert ((negatives > 0) == (positives > 0)).all()
            assert not np.isin(negatives[negatives > 0], items[row]).any()
        masked_slots += int(masked.sum())
        real_slots += int((items > 0).sum())
    # half of the rows mask half of their items, the others their last item (ft_ratio = 0.5)
    lengths = batch["item_length"].float()
    expected = (0.5 * 0.5 * lengths + 0.5).sum() / lengths.sum()
    assert masked_slots / real_slots == pytest.approx(float(expected), abs=0.04)
    assert random.getstate() == state


def test_masks_do_not_depend_on_how_rows_are_dealt_out(build):
    _, _, adapter = build("BERT4Rec")
    builder = adapter.batches()
    whole = builder.build(np.arange(8), 3)["interaction"]
    halves = [builder.build(np.arange(8)[s], 3)["interaction"] for s in np.s_[:3, 3:]]
    for key in whole:
        assert torch.equal(whole[key], torch.cat([half[key] for half in halves]))


def test_other_transforms_run_row_by_row_and_leave_the_generator_alone(build):
    config, dataset, _ = build("SASRec")
    config["transform"], config["eta"] = "crop_itemseq", 0.6
    builder = PrefixBatches(config, dataset, None, StockTransform(config, dataset))
    state = random.getstate()
    whole = builder.build(np.arange(6), 0)["interaction"]["Crop_item_id_list"]
    alone = builder.build(np.array([4]), 0)["interaction"]["Crop_item_id_list"]
    assert torch.equal(whole[4:5], alone)
    assert random.getstate() == state


def test_a_batch_in_which_nothing_was_masked_has_a_zero_loss(build):
    _, _, adapter = build("BERT4Rec", mask_ratio=0.2, ft_ratio=0.0)
    builder = adapter.batches()
    found = False
    for epoch in range(12):
        batch = builder.build(np.array([0]), epoch)
        batch |= {"local_rows": 1, "global_rows": 1, "epoch": epoch, "step": 0}
        loss = adapter.loss(batch)
        assert torch.isfinite(loss)
        found |= not batch["has_terms"] and float(loss.detach()) == 0
    assert found


# --- losses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["BPR", "SASRec", "MultiVAE", "NeuMF"])
def test_shares_of_processes_and_micro_batches_add_up(build, name):
    _, _, adapter = build(name)
    adapter.model.eval()  # no dropout

    def total(**split):
        if hasattr(adapter.model, "update"):
            adapter.model.update = 10**9  # MultiVAE's annealing counts calls
        adapter.model.zero_grad()
        losses = 0.0
        for rank in range(split.get("world_size", 1)):
            loader = TrainLoader(adapter.batches(), 7, seed=1, rank=rank, **split)
            for batch in loader.epoch(0):
                if batch["step"] == 0:
                    loss = adapter.loss(batch)
                    loss.backward()
                    losses += float(loss.detach())
        return losses, [p.grad.clone() for p in adapter.model.parameters() if p.grad is not None]

    loss, gradients = total()
    for split in ({"world_size": 2}, {"accumulation": 3}):
        other, others = total(**split)
        assert other == pytest.approx(loss, abs=1e-5)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(gradients, others, strict=True))


@pytest.mark.parametrize("name", ["FEARec", "SGL", "LINE"])
def test_losses_that_draw_follow_the_step_and_leave_the_generators_alone(build, name):
    losses = []
    for noise in range(2):
        _, _, adapter = build(name)
        adapter.model.eval()
        random.seed(noise)
        np.random.seed(noise)
        batches = list(TrainLoader(adapter.batches(), 4, seed=1).epoch(0))
        before = random.getstate(), np.random.get_state()[1].tolist()
        losses.append([float(adapter.loss(batch)) for batch in batches])
        assert before == (random.getstate(), np.random.get_state()[1].tolist())
    assert losses[0] == losses[1]


def test_a_process_without_rows_gives_zero_gradients(build):
    _, _, adapter = build("SASRec")
    batch = adapter.batches().build(np.array([], dtype=np.int64), 0)
    adapter.loss(batch | {"local_rows": 0, "global_rows": 3}).backward()
    assert all((p.grad == 0).all() for p in adapter.model.parameters())


def test_loader_workers_do_not_change_a_batch(build):
    _, _, adapter = build("BERT4Rec")
    plain = TrainLoader(adapter.batches(), 4, seed=1).epoch(0)
    forked = TrainLoader(adapter.batches(), 4, seed=1, workers=1).epoch(0)
    for a, b in zip(plain, forked, strict=True):
        for key in a["interaction"]:
            assert torch.equal(a["interaction"][key], b["interaction"][key])


# --- scores ---------------------------------------------------------------------------------------


def test_right_padding():
    moved, length = to_right_padded(torch.tensor([[0, 0, 7, 8], [1, 2, 3, 4], [0, 0, 0, 0]]))
    assert moved.tolist() == [[7, 8, 0, 0], [1, 2, 3, 4], [0, 0, 0, 0]]
    assert length.tolist() == [2, 4, 0]


def test_scores_follow_the_weights_and_not_a_cache(build):
    """LightGCN keeps its propagated vectors; after loading other weights they must be made anew."""
    _, _, adapter = build("LightGCN")
    adapter.model.eval()
    users, histories = torch.tensor([1]), torch.tensor([[0, 0, 0, 1, 2]])
    before = score(adapter, users, histories)
    changed = {k: v + torch.randn_like(v) for k, v in adapter.model.state_dict().items()}
    adapter.model.load_state_dict(changed)
    assert not torch.allclose(score(adapter, users, histories), before)


@pytest.mark.parametrize("name", ["SASRec", "BPR", "DMF"])
def test_pair_by_pair_equals_all_at_once(build, name):
    _, _, adapter = build(name)
    adapter.model.eval()
    users, histories = torch.tensor([1, 2]), torch.tensor([[0, 0, 0, 1, 2], [1, 2, 3, 4, 5]])
    expected = score(adapter, users, histories)
    scorer = adapter.scorer(CPU)
    scorer.prepare()
    scorer.one_by_one = True
    with torch.no_grad():
        found = scorer.scores(users, histories)
    assert torch.allclose(found, expected, atol=1e-6)


def test_pair_by_pair_is_refused_on_large_catalogues(build, monkeypatch):
    _, _, adapter = build("NeuMF")
    monkeypatch.setattr(stock_scorer, "MOST_ITEMS_ONE_BY_ONE", 3)
    with pytest.raises(ConfigError, match="NeuMF scores one user-item pair at a time"):
        score(adapter, torch.tensor([1]), torch.tensor([[0, 0, 0, 1, 2]]))


def test_shan_reads_the_same_padding_when_scoring_as_in_training(build):
    _, _, adapter = build("SHAN")
    seen = []
    full_sort = adapter.model.full_sort_predict
    adapter.model.full_sort_predict = lambda i: seen.append(i["item_id_list"]) or full_sort(i)
    score(adapter, torch.tensor([1]), torch.tensor([[0, 0, 0, 1, 2]]))
    assert seen[0].tolist() == [[0, 0, 0, 1, 2]]


def test_random_scores_depend_on_the_tile_and_the_seed_alone(build):
    _, _, adapter = build("Random")
    users, histories = torch.tensor([1, 2]), torch.zeros(2, 5, dtype=torch.long)
    first = score(adapter, users, histories)
    torch.rand(3)
    assert torch.equal(score(adapter, users, histories), first)


# --- what models read of the dataset --------------------------------------------------------------


def test_the_interface_describes_the_training_part(build):
    _, dataset, _ = build("BPR")
    number = {str(token): i for i, token in enumerate(dataset.item_tokens)}
    assert len(dataset) == dataset.inter_num == 5 + 2 + 1 + 5
    matrix = dataset.inter_matrix(form="csr").toarray()
    a = dataset.token2id("user_id", "a")
    assert sorted(tokens(dataset, matrix[a].nonzero()[0])) == list("12345")
    ids, values, lengths = dataset.history_item_matrix()
    assert lengths.tolist() == [0, 5, 2, 1, 5]
    assert ids.shape == (5, 5)
    assert sorted(tokens(dataset, ids[a])) == list("12345")
    assert torch.equal(values > 0, ids > 0)
    users, _, count = dataset.history_user_matrix(max_history_len=1)
    assert users.shape == (dataset.item_num, 1)
    assert count.max() == 1
    assert dataset.user_counter[a] == 5
    assert dataset.item_counter[number["6"]] == 0
    assert dataset.field2seqlen["item_id_list"] == 5
    assert dataset.num("item_id") == dataset.item_num == 8
    assert dataset.id2token("item_id", np.array([number["3"], 0])).tolist() == ["3", "[PAD]"]
    assert list(dataset.token2id("item_id", ["3", "5"])) == [number["3"], number["5"]]
    with pytest.raises(DataError, match="no token 'x'"):
        dataset.token2id("item_id", "x")
    with pytest.raises(DataError, match="no field 'price'"):
        dataset.num("price")


def test_item_features_come_from_the_item_file(build, tmp_path):
    (tmp_path / "letters" / "letters.item").write_text(
        "item_id:token\tclass:token_seq\tbrand:token\tprice:float\n"
        "3\tred old\tx\t1.5\n1\told\t\t2.0\n99\tblue\ty\t3.0\n",
        encoding="utf-8",
    )
    _, dataset, adapter = build("SASRecF")
    three, one = dataset.token2id("item_id", ["3", "1"])
    feature = dataset.get_item_feature()
    assert feature["class"][[three, one]].tolist() == [[1, 2], [2, 0]]
    assert feature["brand"][[three, one]].tolist() == [1, 0]
    assert dataset.num("class") == 3
    assert "price" not in feature
    assert torch.isfinite(score(adapter, torch.tensor([1]), torch.tensor([[0, 0, 0, 1, 2]]))).all()


def test_a_model_that_needs_item_features_names_the_file(build):
    with pytest.raises(ConfigError, match=r"letters\.item gives none"):
        build("SASRecF")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("CKE", "knowledge graph"), ("RecVAE", "two optimisers"), ("KSR", "entity embeddings")],
)
def test_models_that_cannot_run_say_why(build, name, reason):
    with pytest.raises(ConfigError, match=f"model={name}: .*{reason}"):
        build(name)


def test_later_training_stages_are_refused(build):
    with pytest.raises(ConfigError, match="train_stage=finetune"):
        build("RaCT", train_stage="finetune")


def test_a_missing_part_of_the_state_is_an_error(build):
    _, _, adapter = build("ItemKNN")
    state = adapter.extra_state()
    del state["w.data"]
    with pytest.raises(CheckpointError, match=r"w\.data"):
        write_state(adapter.model, state)


# --- the table ------------------------------------------------------------------------------------


def test_the_table_lists_every_model(request):
    page = (request.config.rootpath / "docs" / "recbole-models.md").read_text(encoding="utf-8")
    table = page.partition("## With an item encoder")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    listed = {line.split("|")[1].strip(): line.split("|")[3].strip() for line in lines[1:]}
    assert set(listed) == set(stock_models())
    assert all(listed[name] == "yes" for name in REQUIRED)


@pytest.mark.parametrize("name", ["Pop", "LightGCN", "NARM", "FM", "ENMF", "GRU4RecF", "CFKG"])
def test_rows_of_the_table_are_true(request, tmp_path, name):
    page = (request.config.rootpath / "docs" / "recbole-models.md").read_text(encoding="utf-8")
    row = try_model(name, write_tiny(tmp_path / "data", users=20, items=30))
    assert render([row]).splitlines()[-1] in page.splitlines()


def test_a_failing_model_is_shown_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.setitem(stock_limits._BY_NAME, "BPR", "it is broken")
    row = try_model("BPR", tmp_path)
    assert row == Row("BPR", "general", False, "it is broken")
