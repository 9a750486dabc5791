"""IDvs.MoRec's evaluation of cold and of new items: our scores and ranks give its figures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from recbole_morec.evaluation.evaluator import Report

from . import test_item_encoders as items
from .conftest import Golden, close
from .evaluations import Evaluation
from .test_models import Model, build, morec_sasrec

NAME = "idvsmorec/cold_and_new_item_eval"
BEST = 10  # the published K, which is fixed


class Scored:
    """Our model with the published weights, and what it makes of the published items."""

    def __init__(self, data: Golden, folder: Path):
        self.known = len(data.tensor("out/item_emb_all"))  # padding included
        self.model = build(Model(NAME, morec_sasrec, "in_batch"), data, folder, self.known).eval()
        known = self.encode(items.content_of(data, torch.arange(1, self.known)))
        # A row of the new items is the words' ids and then their mask.
        ids, mask = data.tensor("in/new_item_text").chunk(2, dim=1)
        content = {"items": torch.arange(len(ids)), "text_ids": ids, "text_mask": mask > 0}
        new = self.encode({key: value[1:] for key, value in content.items()})
        self.catalogue = torch.cat([torch.zeros_like(known[:1]), known, new])

    @torch.no_grad()
    def encode(self, content: dict[str, Tensor]) -> Tensor:
        return self.model.encode_items(content)

    @torch.no_grad()
    def scores(self, history: Tensor, stop: int) -> Tensor:
        """Of the first items of the catalogue, after histories padded on the left."""
        catalogue = self.catalogue[:stop]
        users = self.model.encode_users(catalogue[history], history, history[:, 0])
        return self.model.score(users, catalogue)


@pytest.fixture
def scored(golden, tmp_path):
    data = golden(NAME)
    return data, Scored(data, tmp_path)


def evaluated(folder: Path, scores: Tensor, history: Tensor, target: Tensor, known: int) -> Report:
    """The report of our evaluator; of the items, the known ones have training interactions."""
    settings = {"metrics": ["Hit", "NDCG"], "topk": [BEST], "valid_metric": f"NDCG@{BEST}"}
    return Evaluation(
        folder / "scored", scores, history, target, range(1, known), protocol="morec", **settings
    ).report()


def check(metrics: dict[str, float], published: Tensor) -> None:
    """Figures were logged in percent with five digits after the point."""
    ours = torch.tensor([metrics[f"hit@{BEST}"], metrics[f"ndcg@{BEST}"]])
    close(100 * ours, published, 0, 1e-5)


def test_vectors_of_known_and_new_items(scored):
    data, ours = scored
    known, new = ours.catalogue[1 : ours.known], ours.catalogue[ours.known :]
    close(known, data.tensor("out/item_emb_all")[1:], 1e-6, 1e-6)
    close(new, data.tensor("out/new_item_emb")[1:], 1e-6, 1e-6)


def test_cold_items(scored, tmp_path):
    """A target among all known items; what was read is not ranked."""
    data, ours = scored
    sequence = data.tensor("in/cold_seq")
    history, target = sequence[:, :-1], sequence[:, -1]
    scores = ours.scores(history, ours.known)
    report = evaluated(tmp_path, scores, history, target, ours.known)
    check(report.metrics["all"], data.tensor("out/cold_hr10_ndcg10_percent"))


@pytest.mark.parametrize("best", [False, True])
def test_new_items(scored, tmp_path, best):
    """Each user's own new item against all known ones: our group ``new_item``. The others' new
    items are no rivals there, not even with the best of scores; in our group ``cold`` they are."""
    data, ours = scored
    history, target = data.tensor("in/new_seq"), ours.known - 1 + data.tensor("in/new_target")
    scores = ours.scores(history, len(ours.catalogue))
    if best:
        others = torch.arange(len(ours.catalogue)) >= ours.known
        others = others.expand_as(scores).clone()
        others[torch.arange(len(target)), target] = False
        scores[others] = scores.max() + 1
    report = evaluated(tmp_path, scores, history, target, ours.known)
    assert report.users["new_item"] == report.users["all"] == len(target)
    check(report.metrics["new_item"], data.tensor("out/new_hr10_ndcg10_percent"))
    if best:
        assert report.ranks.min() >= len(target.unique())
