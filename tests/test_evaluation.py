"""The evaluator on the tiny world: batch size, masks, ties, scores that are not finite."""

import shutil

import numpy as np
import pytest
import torch

from recbole_morec.config import MoRecConfig
from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.errors import ConfigError, MoRecError
from recbole_morec.evaluation import evaluator as evaluator_module
from recbole_morec.evaluation.evaluator import Evaluator
from recbole_morec.evaluation.scorers import Scorer
from recbole_morec.models.adapter import build_adapter

CPU = torch.device("cpu")


class Fixed(Scorer):
    """The same scores for every user."""

    def __init__(self, row):
        self.row = row

    def scores(self, users, histories):
        return self.row.expand(len(users), -1)


class Hashed(Scorer):
    """Scores that depend on user and item alone, with many ties."""

    def __init__(self, item_num):
        self.items = torch.arange(item_num)

    def scores(self, users, histories):
        return ((users[:, None] * 7 + self.items * 13) % 11).float()


def build(settings, **overrides):
    config = MoRecConfig("PixelNet", "colours", overrides={**settings, **overrides})
    dataset = MultimodalDataset(config)
    return dataset, Evaluator(config, dataset, CPU)


def test_metrics_do_not_depend_on_the_batch_size(settings, monkeypatch):
    dataset, evaluator = build(settings)
    whole = evaluator.evaluate(Hashed(dataset.item_num), "test")
    for tile in (1, 7, 16, 1000):  # eval_batch_size itself is not read
        monkeypatch.setattr(evaluator_module, "TILE_USERS", tile)
        dataset, evaluator = build(settings)
        report = evaluator.evaluate(Hashed(dataset.item_num), "test")
        assert (report.ranks == whole.ranks).all()
        assert report.metrics == whole.metrics


def test_ranks_equal_a_plain_sort(settings):
    dataset, evaluator = build(settings)
    report = evaluator.evaluate(Hashed(dataset.item_num), "test")
    users = dataset.splits.users["test"]
    scores = Hashed(dataset.item_num).scores(torch.from_numpy(users), None).numpy()
    order = evaluator._order.numpy()
    for row, user in enumerate(users):
        history = dataset.histories.of(user)
        candidates = np.setdiff1d(np.flatnonzero(dataset.candidates), history[:-1])
        ranked = candidates[np.lexsort((order[candidates], -scores[row, candidates]))]
        assert report.ranks[row] == 1 + np.flatnonzero(ranked == history[-1])[0]


def test_a_constant_scorer_gets_chance(settings):
    dataset, evaluator = build(settings)
    report = evaluator.evaluate(Fixed(torch.zeros(1, dataset.item_num)), "test")
    candidates = dataset.candidates.sum() - 7  # a history of seven is barred
    mean = report.ranks.mean()
    assert abs(mean - (candidates + 1) / 2) < 4 * candidates / np.sqrt(12 * len(report.ranks))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_an_error(settings, bad):
    dataset, evaluator = build(settings)
    row = torch.zeros(1, dataset.item_num)
    row[0, 5] = bad
    with pytest.raises(MoRecError, match="not finite"):
        evaluator.evaluate(Fixed(row), "test")


def test_padding_may_hold_anything(settings):
    dataset, evaluator = build(settings)
    row = torch.zeros(1, dataset.item_num)
    row[0, 0] = float("nan")
    evaluator.evaluate(Fixed(row), "test")


def test_history_is_barred_except_under_recboles_protocol(settings):
    popular_first = torch.arange(41, 0, -1).float()[None]
    dataset, evaluator = build(settings)
    masked = evaluator.evaluate(Fixed(popular_first[:, : dataset.item_num]), "test")
    dataset, evaluator = build(settings, protocol="recbole")
    unmasked = evaluator.evaluate(Fixed(popular_first[:, : dataset.item_num]), "test")
    assert (masked.ranks <= unmasked.ranks).all()
    assert (masked.ranks < unmasked.ranks).any()


def test_items_that_are_all_alike_are_told(settings, caplog):
    config = MoRecConfig("PixelNet", "colours", overrides=settings)
    config["device"] = CPU
    adapter = build_adapter(config, MultimodalDataset(config))
    with torch.no_grad():
        adapter.model.item_encoder.embedding.weight.zero_()
    scorer = adapter.scorer(CPU)
    scorer.prepare()
    assert "All items have the same vector" in caplog.text
    caplog.clear()
    with torch.no_grad():
        adapter.model.item_encoder.embedding.weight[3] = 1.0
    scorer.prepare()
    assert "same vector" not in caplog.text


def test_groups_of_users(settings):
    dataset, evaluator = build(settings)
    report = evaluator.evaluate(Hashed(dataset.item_num), "test")
    assert report.users["all"] == report.users["warm"] + report.users["cold"] == 60
    assert report.users["cold"] == report.users["new_item"] == 20
    assert sum(n for g, n in report.users.items() if g.startswith("popularity")) == 40
    # Against warm items alone a cold target has fewer rivals.
    assert report.metrics["new_item"]["recall@5"] >= report.metrics["cold"]["recall@5"]


def test_sampled_candidates_hold_the_target_and_n_others(settings):
    from recbole_morec.evaluation.sampled import sample_candidates

    dataset, _ = build(settings, protocol="recbole", eval_mode="uni10")
    users = dataset.splits.users["test"]
    allowed = sample_candidates(dataset, "test", users, seed=1)
    targets = dataset.histories.items[dataset.splits.targets["test"]]
    assert allowed.sum(1).eq(11).all()
    assert allowed[torch.arange(len(users)), torch.from_numpy(targets).long()].all()
    alone = sample_candidates(dataset, "test", users[3:4], seed=1)
    assert torch.equal(alone[0], allowed[3])


def test_a_list_longer_than_the_catalogue(settings):
    with pytest.raises(ConfigError, match="does not fit a catalogue of 40"):
        build(settings, topk=[5, 50])


def test_barred_targets_are_counted_and_have_no_area_under_the_curve(settings, world, tmp_path):
    folder = shutil.copytree(world, tmp_path / "data" / "colours")
    inter = folder / "colours.inter"
    lines = inter.read_text().splitlines()
    first = next(line for line in lines if line.startswith("u0\t")).split("\t")
    again = f"u0\t{first[1]}\t1700000000"  # u0's newest interaction is with its oldest item
    inter.write_text("\n".join([*lines, again]) + "\n")
    changes = {"data_path": str(folder.parent), "metrics": ["NDCG", "GAUC"]}
    dataset, evaluator = build(settings, **changes)
    assert dataset.summary()["test targets seen before (always a miss)"] == 1
    report = evaluator.evaluate(Fixed(torch.zeros(1, dataset.item_num)), "test")
    users = report.users["all"]
    # Ties everywhere: one half for every user but the one that cannot be hit.
    assert report.metrics["all"]["gauc"] == pytest.approx(0.5 * (users - 1) / users)
    open_dataset, _ = build(settings, **changes, history_mask="none")
    assert open_dataset.summary()["test targets seen before (always a miss)"] == 0


def test_sampled_candidates_that_cannot_be_drawn(settings):
    with pytest.raises(ConfigError, match="uni1000"):
        build(settings, protocol="recbole", eval_mode="uni1000")
