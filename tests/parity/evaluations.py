"""Our evaluator on given scores, and a look at what it ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from recbole_morec.config import MoRecConfig
from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.evaluation.counting import RankCounter
from recbole_morec.evaluation.evaluator import Evaluator, Report
from recbole_morec.evaluation.scorers import Scorer


@contextmanager
def ranked_candidates(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Collect the targets ``[T]`` of every tile and the candidates ``[T, N]`` that it ranks."""
    seen: list[tuple[Tensor, Tensor]] = []
    real = RankCounter.count

    def count(self, scores, targets, barred):
        seen.append((targets, self.allowed(barred, len(targets))))
        return real(self, scores, targets, barred)

    with monkeypatch.context() as patch:
        patch.setattr(RankCounter, "count", count)
        yield seen


class Given(Scorer):
    """Scores that are there already, one row per user."""

    def __init__(self, scores: Tensor, columns: list[int]):
        self._scores, self._columns = scores, columns

    def scores(self, users: Tensor, histories: Tensor) -> Tensor:
        return self._scores[users - 1][:, self._columns]


class Evaluation:
    """Row u of the scores is a user whose history and target are given; other users, of two
    interactions each, give every warm item a training interaction and are not evaluated.

    Args:
        folder: to write a dataset into.
        scores: ``[U, N]``, column 0 = padding.
        history: item ids ``[U, n]``, 0 = none, at least one per row. Items are repeated where a
            history is too short to be split; that bars nothing more.
        target: item ids ``[U]``.
        warm: item ids.
        settings: the protocol, metrics, ...
    """

    def __init__(
        self, folder: Path, scores: Tensor, history: Tensor, target: Tensor, warm: range,
        **settings: Any,
    ):  # fmt: skip
        users = []
        for row, newest in zip(history.tolist(), target.tolist(), strict=True):
            past = [item for item in row if item]
            users.append([past[0]] * (2 - len(past)) + [*past, newest])
        users += [[item, item] for item in warm]
        lines = [
            f"{user}\t{item}\t{time}" for user, items in enumerate(users, start=1)
            for time, item in enumerate(items)
        ]  # fmt: skip
        folder.mkdir()
        header = "user_id:token\titem_id:token\ttimestamp:float"
        text = "\n".join([header, *lines]) + "\n"
        (folder / f"{folder.name}.inter").write_text(text, encoding="utf-8")
        overrides = {
            "data_path": str(folder.parent), "item_encoder": "id", "use_gpu": False,
            "min_user_inter": 0, "MAX_ITEM_LIST_LENGTH": history.shape[1] + 2,
            "metric_decimal_place": 12, **settings,
        }  # fmt: skip
        self._config = MoRecConfig("PixelNet", folder.name, overrides=overrides)
        self.dataset = MultimodalDataset(self._config)
        self._columns = [0, *map(int, self.dataset.item_tokens[1:])]
        self._scores = scores

    def report(self) -> Report:
        evaluator = Evaluator(self._config, self.dataset, torch.device("cpu"))
        return evaluator.evaluate(Given(self._scores, self._columns), "test")

    def candidates(self, monkeypatch: pytest.MonkeyPatch) -> Tensor:
        """``[U, N]`` bool, in the columns of the scores."""
        with ranked_candidates(monkeypatch) as seen:
            self.report()
        allowed = torch.zeros_like(self._scores) > 0
        allowed[:, self._columns] = torch.cat([each for _, each in seen])
        return allowed

    def order(self) -> Tensor:
        """``[N]`` the order of ties, in the columns of the scores."""
        order = torch.zeros(self._scores.shape[1], dtype=torch.long)
        evaluator = Evaluator(self._config, self.dataset, torch.device("cpu"))
        order[self._columns] = evaluator._order
        return order
