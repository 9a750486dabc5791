"""RecBole's own pipeline and ours on the same tiny files: equal where RecBole is right."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from recbole.config import Config
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.data.utils import create_dataset, data_preparation
from recbole.trainer import Trainer

from recbole_morec.config import MoRecConfig
from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.data.histories import gather_left_padded
from recbole_morec.evaluation.evaluator import Evaluator
from recbole_morec.evaluation.scorers import Scorer
from recbole_morec.models.stock import StockAdapter

CPU = torch.device("cpu")
RANKED = ["Recall", "MRR", "NDCG", "Hit", "Precision", "MAP", "GAUC"]
LISTED = ["ItemCoverage", "GiniIndex", "ShannonEntropy", "AveragePopularity", "TailPercentage"]
LENGTH = 4


def write(folder, histories, first=1000, step=1, newest_first=False):
    """An ``.inter`` file; ``histories`` maps users to their items in time order."""
    folder.mkdir(parents=True)
    lines = []
    for user, items in histories.items():
        own = [f"{user}\t{item}\t{first + step * t}" for t, item in enumerate(items)]
        lines += own[::-1] if newest_first else own
    text = "\n".join(["user_id:token\titem_id:token\ttimestamp:float", *lines])
    (folder / f"{folder.name}.inter").write_text(text + "\n", encoding="utf-8")


def random_histories(users=40, items=30, seed=3):
    """Histories of 4 to 9 distinct items (from 4 on, RecBole splits all models in one way); the
    newest items of a few users occur nowhere else."""
    rng = np.random.default_rng(seed)
    drawn = {
        f"u{u}": [f"i{i}" for i in rng.choice(items, size=rng.integers(4, 10), replace=False)]
        for u in range(users)
    }
    for u in range(5):
        drawn[f"u{u}"][-1] = f"new{u}"
    return drawn


class Both:
    """A model and dataset in RecBole's pipeline and in ours, with the same weights."""

    def __init__(self, folder, model, monkeypatch, metrics=RANKED, **ours):
        monkeypatch.setattr(sys, "argv", ["pytest"])  # RecBole's Config reads it
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # and sets this one
        monkeypatch.chdir(folder.parent)  # its Trainer writes ./log_tensorboard
        shared = {
            "data_path": str(folder.parent), "checkpoint_dir": str(folder.parent / "saved"),
            "MAX_ITEM_LIST_LENGTH": LENGTH, "metrics": metrics, "topk": [1, 3, 5],
            "valid_metric": f"{metrics[0]}@5", "metric_decimal_place": 6, "show_progress": False,
        }  # fmt: skip
        self.config = MoRecConfig(
            model, folder.name, overrides=shared | {"protocol": "recbole"} | ours
        )
        self.dataset = MultimodalDataset(self.config)
        torch.manual_seed(0)
        self.adapter = StockAdapter(self.config, self.dataset)
        self.adapter.model.eval()
        theirs = {
            "use_gpu": False, "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "eval_args": {
                "split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user",
                "mode": "full",
            },
        }  # fmt: skip
        if model == "SASRec":
            theirs["train_neg_sample_args"] = None
        self.stock_config = Config(model, folder.name, config_dict=shared | theirs)
        self.stock = create_dataset(self.stock_config)
        self.train, self.valid, self.test = data_preparation(self.stock_config, self.stock)
        model_class = self.config.model_class
        self.stock_model = model_class(self.stock_config, self.train.dataset)
        self.stock_model.load_state_dict(self.adapter.model.state_dict())

    def theirs(self, loader):
        trainer = Trainer(self.stock_config, self.stock_model)
        trainer.eval_collector.data_collect(self.train)
        return dict(trainer.evaluate(loader, load_best_model=False))

    def ours(self, phase):
        evaluator = Evaluator(self.config, self.dataset, CPU)
        return evaluator.evaluate(self.adapter.scorer(CPU), phase)


def rows_of(dataset, interaction):
    """(user, history, target) of every row, as original tokens."""
    found = []
    for user, items, target, length in zip(
        interaction["user_id"], interaction["item_id_list"], interaction["item_id"],
        interaction["item_length"], strict=True,
    ):  # fmt: skip
        assert (items > 0).tolist() == [slot < length for slot in range(LENGTH)]
        history = dataset.id2token("item_id", items[: int(length)].numpy())
        name = dataset.id2token("user_id", int(user))
        found.append((str(name), tuple(history), str(dataset.id2token("item_id", int(target)))))
    return found


def our_targets(dataset, phase):
    users, targets = dataset.splits.users[phase], dataset.splits.targets[phase]
    starts = dataset.splits.start[users]
    histories = gather_left_padded(dataset.histories.items, starts, targets, LENGTH)
    return [
        (
            str(dataset.user_tokens[user]),
            tuple(dataset.item_tokens[history[history > 0]]),
            str(dataset.item_tokens[item]),
        )
        for user, history, item in zip(
            users, histories, dataset.histories.items[targets], strict=True
        )
    ]


@pytest.fixture
def both(tmp_path, monkeypatch):
    """Returns both(model, ...) -> Both on random histories."""
    write(tmp_path / "data" / "tiny", random_histories())

    def make(model, **settings):
        return Both(tmp_path / "data" / "tiny", model, monkeypatch, **settings)

    return make


# --- equal ----------------------------------------------------------------------------------------


def test_training_rows_and_targets_are_recboles(both):
    pair = both("SASRec")
    assert pair.dataset.item_tokens.tolist() == list(pair.stock.field2id_token["item_id"])
    assert list(pair.dataset.user_tokens) == list(pair.stock.field2id_token["user_id"])
    builder = pair.adapter.batches()
    ours = builder.build(np.arange(len(builder.rows)), 0)["interaction"]
    theirs = rows_of(pair.stock, pair.train.dataset.inter_feat)
    assert sorted(rows_of(pair.dataset, ours)) == sorted(theirs)
    for phase, loader in (("valid", pair.valid), ("test", pair.test)):
        assert sorted(our_targets(pair.dataset, phase)) == sorted(
            rows_of(pair.stock, loader.dataset.inter_feat)
        )


def test_users_of_one_to_three_interactions_are_split_as_recbole_does(tmp_path, monkeypatch):
    histories = random_histories(users=6) | {"one": ["i1"], "two": ["i2", "i3"], "three": "xyz"}
    write(tmp_path / "data" / "short", histories)
    pair = Both(tmp_path / "data" / "short", "SASRec", monkeypatch)
    builder = pair.adapter.batches()
    ours = builder.build(np.arange(len(builder.rows)), 0)["interaction"]
    theirs = rows_of(pair.stock, pair.train.dataset.inter_feat)
    assert sorted(rows_of(pair.dataset, ours)) == sorted(theirs)
    for phase, loader in (("valid", pair.valid), ("test", pair.test)):
        assert sorted(our_targets(pair.dataset, phase)) == sorted(
            rows_of(pair.stock, loader.dataset.inter_feat)
        )


def test_general_models_train_on_the_same_pairs(both):
    pair = both("BPR")
    builder = pair.adapter.batches()
    batch = builder.build(np.arange(len(builder.rows)), 0)["interaction"]
    ours = zip(batch["user_id"].tolist(), batch["item_id"].tolist(), strict=True)
    feat = pair.train.dataset.inter_feat
    theirs = zip(feat["user_id"].tolist(), feat["item_id"].tolist(), strict=True)
    assert sorted(ours) == sorted(theirs)


@pytest.mark.parametrize("phase", ["valid", "test"])
@pytest.mark.parametrize("metrics", [RANKED, LISTED[:3]], ids=["ranked", "listed"])
def test_metrics_of_a_sequential_model_are_recboles(both, phase, metrics):
    pair = both("SASRec", metrics=metrics)
    assert_equal(pair.ours(phase).metrics["all"], pair.theirs(getattr(pair, phase)))


@pytest.mark.parametrize("phase", ["valid", "test"])
@pytest.mark.parametrize("metrics", [RANKED, LISTED], ids=["ranked", "listed"])
def test_metrics_of_a_general_model_are_recboles(both, phase, metrics):
    """RecBole masks the history for general models; ``history_mask=full`` does so here."""
    pair = both("BPR", metrics=metrics, history_mask="full")
    assert_equal(pair.ours(phase).metrics["all"], pair.theirs(getattr(pair, phase)))


@pytest.mark.parametrize("group", ["warm", "cold"])
def test_metrics_of_a_group_of_users_are_recboles_on_these_users(both, group):
    pair = both("SASRec")
    feat = pair.test.dataset.inter_feat
    cold = torch.from_numpy(pair.dataset.cold)[feat["item_id"]]
    rows = (cold if group == "cold" else ~cold).nonzero()[:, 0]
    assert 0 < len(rows) < len(feat)
    part = pair.test.dataset.copy(feat[rows])
    loader = FullSortEvalDataLoader(pair.stock_config, part, None, shuffle=False)
    report = pair.ours("test")
    assert report.users[group] == len(rows)
    assert_equal(report.metrics[group], pair.theirs(loader))


def assert_equal(ours, theirs):
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(float(value), abs=2e-6), name


# --- different on purpose -------------------------------------------------------------------------


def test_recbole_misorders_items_ten_seconds_apart_and_we_do_not(tmp_path, monkeypatch):
    """float32 holds Unix seconds to 128 s; ties keep the order of the file, here newest first."""
    histories = {f"u{u}": [f"{u}-{t}" for t in range(6)] for u in range(3)}
    write(tmp_path / "data" / "late", histories, first=1_600_000_000, step=10, newest_first=True)
    pair = Both(tmp_path / "data" / "late", "SASRec", monkeypatch)
    right = {(user, items[-1]) for user, items in histories.items()}
    ours = {(user, target) for user, _, target in our_targets(pair.dataset, "test")}
    theirs = {(u, target) for u, _, target in rows_of(pair.stock, pair.test.dataset.inter_feat)}
    assert ours == right
    assert not theirs & right
    assert {target for _, target in theirs} == {f"{u}-0" for u in range(3)}  # exactly reversed


class Nostalgic(Scorer):
    """Scores what the user has seen above everything else."""

    def __init__(self, item_num):
        self._item_num = item_num

    def scores(self, users, histories):
        scores = torch.zeros(len(users), self._item_num)
        return scores.scatter(1, histories, 1.0)


def test_seen_items_are_barred_unless_the_protocol_is_recboles(both):
    pair = both("SASRec")
    stub = Nostalgic(pair.dataset.item_num)
    under = {}
    for protocol in ("recbole", "pixelrec"):
        config = MoRecConfig(
            "SASRec", "tiny", overrides=pair.config._user | {
                "protocol": protocol, "data_path": str(pair.dataset.folder.parent),
            },
        )  # fmt: skip
        dataset = MultimodalDataset(config)
        under[protocol] = Evaluator(config, dataset, CPU).evaluate(stub, "test")
    # RecBole ranks the seen items too: a target stands behind those of its history.
    seen = np.array([min(len(h) - 1, LENGTH) for h in random_histories().values()])
    assert (under["recbole"].ranks > seen).all()
    assert under["recbole"].value("recall@1") == 0
    assert (under["pixelrec"].ranks <= under["recbole"].ranks - seen).all()


def test_recbole_counts_popularity_without_first_items_for_sequential_models(both):
    """Why AveragePopularity and TailPercentage of sequential models differ."""
    pair = both("SASRec")
    firsts = [items[0] for items in random_histories().values()]
    theirs = pair.train.dataset.item_counter
    for item, count in pair.dataset.item_counter.items():
        assert count - theirs.get(item, 0) == firsts.count(str(pair.dataset.item_tokens[item]))
