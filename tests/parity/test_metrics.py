"""Ranks and metrics of the four published evaluations on one score matrix.

The scores go through our whole evaluator, under the protocol of each system: its mask of the
history, its ranks, RecBole's metrics. All four bar a target that stands in the user's history.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from .conftest import Golden
from .evaluations import Evaluation

NAME = "metrics/ranking_metrics"
PROTOCOLS = {
    "idvsmorec": "morec", "ninerec": "ninerec", "ninerec_multimodal": "ninerec", "odmt": "morec",
    "pixelrec": "pixelrec",
}  # fmt: skip


def evaluation(data: Golden, folder: Path, system: str, **settings: Any) -> Evaluation:
    metrics = settings.setdefault("metrics", ["Hit", "NDCG"])
    settings.setdefault("topk", [data.sizes["K"]])
    at = "" if metrics[0] == "GAUC" else f"@{settings['topk'][0]}"
    scores = settings.pop("scores", data.tensor("in/scores"))
    return Evaluation(
        folder / "scored", scores, data.tensor("in/history"), data.tensor("in/target"),
        range(1, scores.shape[1]), protocol=PROTOCOLS[system], valid_metric=metrics[0] + at,
        **settings,
    )  # fmt: skip


@pytest.mark.parametrize("system", PROTOCOLS)
def test_scores_are_masked_alike(golden, system, tmp_path, monkeypatch):
    data = golden(NAME)
    allowed = evaluation(data, tmp_path, system).candidates(monkeypatch)
    assert torch.equal(allowed, torch.isfinite(data.tensor("out/masked_scores")))


@pytest.mark.parametrize("system", [system for system in PROTOCOLS if system != "pixelrec"])
def test_ranks_hits_and_ndcg_of_every_user(golden, system, tmp_path):
    data = golden(NAME)
    published = data.tensor(f"out/{system}_rank_hr10_ndcg10")
    report = evaluation(data, tmp_path, system).report()
    rank = torch.from_numpy(report.ranks)
    barred = published[:, 0] < 0  # the target stands in the history: a certain miss
    assert torch.equal(rank[~barred].double(), published[~barred, 0])
    assert (rank[barred] > data.sizes["K"]).all()
    hit = (rank <= data.sizes["K"]).double()
    torch.testing.assert_close(hit, published[:, 1])
    torch.testing.assert_close(hit / torch.log2(rank + 1.0), published[:, 2])
    mean = data.tensor(f"out/{system}_mean_percent") / 100
    assert list(report.metrics["all"].values()) == pytest.approx(mean.tolist(), abs=1e-9)


def test_pixelrecs_metrics(golden, tmp_path):
    data = golden(NAME)
    names = [name.lower() for name in map(str, data.array("out/pixelrec_names"))]
    published = dict(zip(names, data.tensor("out/pixelrec_values").tolist(), strict=True))
    kinds = {"ndcg": "NDCG", "mrr": "MRR", "map": "MAP"}
    metrics = sorted({kinds.get(kind, kind.title()) for kind in (n.split("@")[0] for n in names)})
    topk = data.sizes["topk"]
    report = evaluation(data, tmp_path, "pixelrec", metrics=metrics, topk=topk).report()
    assert report.metrics["all"] == pytest.approx(published, abs=1e-9)
    hits = torch.from_numpy(report.ranks)[:, None] == torch.arange(1, max(topk) + 1)
    assert torch.equal(hits.long(), data.tensor("out/pixelrec_topk_hits")[:, :-1].long())


def test_pixelrecs_area_under_the_curve_by_user(golden, tmp_path, monkeypatch):
    """A target in the history stands below every candidate: its area is 0. PixelRec ranks it among
    the minus infinities behind them, which gives it a negative one, -p / (n - 1) at place p behind
    n candidates; where among them its sort leaves open."""
    data = golden(NAME)
    whole = evaluation(data, tmp_path, "pixelrec", metrics=["GAUC"], topk=data.sizes["topk"])
    allowed = whole.candidates(monkeypatch)
    barred = ~allowed[torch.arange(len(allowed)), data.tensor("in/target")]
    candidates = allowed.sum(1)[barred]
    behind = allowed.shape[1] - candidates
    ours = whole.report().metrics["all"]["gauc"]
    missing = (ours - data.tensor("out/pixelrec_gauc").item()) * len(allowed)
    slack = 1e-6 * len(allowed)  # published in float32
    assert missing >= (1 / (candidates - 1)).sum() - slack
    assert missing <= (behind / (candidates - 1)).sum() + slack


@pytest.mark.parametrize("system", PROTOCOLS)
@pytest.mark.parametrize("levels", [1, 3])
def test_ties(golden, system, levels, tmp_path, monkeypatch):
    """The published code leaves ties to a sort that is not stable (argsort, in PixelRec topk): a
    tied target gets any of the places of its score, by chance of the sort, and a scorer that has
    collapsed may look good. Ours orders ties by a hash of the item: one of these places too, always
    the same one, and without ties there is no difference."""
    data = golden(NAME)
    scores = data.tensor("in/scores")
    steps = torch.quantile(scores.flatten(), torch.arange(1, levels) / levels)
    scores = torch.bucketize(scores, steps).double()
    ours = evaluation(data, tmp_path, system, scores=scores)
    allowed, order = ours.candidates(monkeypatch), ours.order()
    ranks = ours.report().ranks
    masked = scores.masked_fill(~allowed, float("-inf"))
    by_topk = masked.topk(masked.shape[1]).indices
    by_argsort = torch.from_numpy(np.argsort(-masked.numpy(), axis=1))
    tied_somewhere = False
    for user, target in enumerate(data.tensor("in/target").tolist()):
        if not allowed[user, target]:
            assert ranks[user] > data.sizes["K"]
            continue
        row, own = masked[user], masked[user, target]
        first, last = 1 + int((row > own).sum()), int((row >= own).sum())
        tied_somewhere |= last > first
        for published in (by_topk[user], by_argsort[user]):
            assert first <= 1 + (published == target).nonzero().item() <= last
        equal = (row == own).nonzero()[:, 0]
        assert ranks[user] == first + int((order[equal] < order[target]).sum())
    assert tied_somewhere
