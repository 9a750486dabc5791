"""Ranks and metrics of the four published evaluations on one score matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from recbole_morec.config import MoRecConfig
from recbole_morec.evaluation.evaluator import Evaluator
from recbole_morec.evaluation.ranking import Ranks, rank_targets

from .conftest import Golden

NAME = "metrics/ranking_metrics"


class Measures(Evaluator):
    """The evaluator's metrics without a dataset: ranks are handed to it."""

    def __init__(self, config, items: int):
        from recbole.evaluator import Evaluator as RecBoleEvaluator
        from recbole.evaluator.register import metric_information

        self._config = config
        self._metrics = RecBoleEvaluator(config)
        self._needs = {n for m in config["metrics"] for n in metric_information[m.lower()]}
        self._dataset = type("D", (), {"item_num": items, "user_num": 1, "item_counter": {}})


def ranks_of(data: Golden) -> tuple[Ranks, Tensor]:
    scores, history = data.tensor("in/scores"), data.tensor("in/history")
    allowed = torch.ones_like(scores) > 0
    allowed[:, 0] = False
    allowed[torch.arange(len(history))[:, None], history] = False
    order = torch.arange(scores.shape[1])
    warm = torch.ones(scores.shape[1]) > 0
    return rank_targets(scores, data.tensor("in/target"), allowed, warm, order), allowed


def measured(data: Golden, metrics: list[str], topk: list[int]) -> dict[str, float]:
    overrides = {"metrics": metrics, "topk": topk, "metric_decimal_place": 12}
    overrides["valid_metric"] = f"{metrics[0]}@{topk[0]}" if metrics[0] != "GAUC" else "GAUC"
    config = MoRecConfig("Pop", "metrics", overrides=overrides)
    ranks, _ = ranks_of(data)
    joined = {
        "rank": ranks.rank.numpy(),
        "mean_rank": ranks.mean_rank.numpy(),
        "candidates": ranks.candidates.numpy(),
    }
    everyone = np.ones(len(ranks.rank), dtype=bool)
    measures = Measures(config, data.tensor("in/scores").shape[1])
    return measures._measure(joined, everyone, joined["rank"])


def test_scores_are_masked_alike(golden):
    data = golden(NAME)
    _, allowed = ranks_of(data)
    assert torch.equal(allowed, torch.isfinite(data.tensor("out/masked_scores")))


@pytest.mark.parametrize("system", ["idvsmorec", "ninerec", "ninerec_multimodal", "odmt"])
def test_ranks_hits_and_ndcg_of_every_user(golden, system):
    data = golden(NAME)
    published = data.tensor(f"out/{system}_rank_hr10_ndcg10")
    ranks, _ = ranks_of(data)
    barred = published[:, 0] < 0  # the target stands in the history: a certain miss
    assert torch.equal(ranks.rank[~barred].double(), published[~barred, 0])
    assert (ranks.rank[barred] > data.sizes["K"]).all()
    hit = (ranks.rank <= data.sizes["K"]).double()
    torch.testing.assert_close(hit, published[:, 1])
    torch.testing.assert_close(hit / torch.log2(ranks.rank + 1.0), published[:, 2])
    ours = measured(data, ["Hit", "NDCG"], [data.sizes["K"]])
    mean = data.tensor(f"out/{system}_mean_percent") / 100
    assert list(ours.values()) == pytest.approx(mean.tolist(), abs=1e-9)


def test_pixelrecs_metrics(golden):
    data = golden(NAME)
    names = [str(name) for name in data.array("out/pixelrec_names")]
    values = dict(zip(names, data.tensor("out/pixelrec_values").tolist(), strict=True))
    kinds = sorted({name.split("@")[0] for name in values})
    ours = measured(data, kinds, data.sizes["topk"])
    assert {name.lower() for name in values} == ours.keys()
    for name, value in values.items():
        assert ours[name.lower()] == pytest.approx(value, abs=1e-6), name
    ranks, _ = ranks_of(data)
    largest = max(data.sizes["topk"])
    hits = ranks.rank[:, None] == torch.arange(1, largest + 1)
    published = data.tensor("out/pixelrec_topk_hits")
    assert torch.equal(hits.long(), published[:, :-1].long())


def test_pixelrecs_area_under_the_curve_by_user(golden):
    data = golden(NAME)
    ranks, allowed = ranks_of(data)
    ours = measured(data, ["GAUC"], data.sizes["topk"])["gauc"]
    barred = ~allowed[torch.arange(len(allowed)), data.tensor("in/target")]
    # A target in the history stands below every candidate: its area is 0. PixelRec ranks it among
    # the minus infinities behind them, which gives it a negative one.
    gap = (ours - data.tensor("out/pixelrec_gauc").item()) * len(allowed)
    if barred.sum() != 1:
        assert barred.sum() == 0
        assert gap == pytest.approx(0, abs=1e-6)
        return
    candidates = int(ranks.candidates[barred])
    places = gap * (candidates - 1)  # behind the last candidate
    assert places == pytest.approx(round(places), abs=1e-3)
    assert 1 <= round(places) <= allowed.shape[1] - candidates
