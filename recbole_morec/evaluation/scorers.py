"""Scorers: how a model gives the evaluator one row of scores per user."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

MAIN = "main"


class Scorer(ABC):
    """Scores of all items for a tile of users."""

    def prepare(self) -> None:  # noqa: B027 - optional
        """Called once per evaluation, before any score is asked for."""

    @abstractmethod
    def scores(self, users: Tensor, histories: Tensor) -> Tensor | dict[str, Tensor]:
        """Return scores ``[T, N]``; of a model with branches by name, what it recommends by first.

        Args:
            users: internal user ids ``[T]``.
            histories: item ids ``[T, L]``, padded on the left with 0.
        """


class CatalogueScorer(Scorer):
    """Scores of a model of ours: the catalogue is encoded once, users on the fly.

    Args:
        model: a :class:`~recbole_morec.models.base.MultimodalRecommender`.
        encode: returns the catalogue matrix ``[N, d]`` of the model (row 0 is padding).
    """

    def __init__(self, model: Any, encode: Any):
        self._model = model
        self._encode = encode

    def prepare(self) -> None:
        self._model.set_catalogue(self._encode(self._model))

    def scores(self, users: Tensor, histories: Tensor) -> Tensor | dict[str, Tensor]:
        catalogue = self._model.catalogue
        read = self._model.encode_users(catalogue[histories], histories, users)
        return self._model.score(read, catalogue)


@torch.no_grad()
def score_tiles(scorer: Scorer, users: Tensor, histories: Tensor, tile: int) -> dict[str, Tensor]:
    """Score one tile of exactly ``tile`` users, padding it with its first user where it is short.

    A matrix product may round differently for another number of rows; with a fixed number a user's
    scores depend neither on the batch size nor on the number of processes.

    Returns:
        fp32 ``[len(users), N]`` by branch, what the model recommends by first.
    """
    count = len(users)
    if count < tile:
        fill = torch.zeros(tile - count, dtype=torch.long, device=users.device)
        index = torch.cat([torch.arange(count, device=users.device), fill])
        users, histories = users[index], histories[index]
    scores = scorer.scores(users, histories)
    if isinstance(scores, Tensor):
        scores = {MAIN: scores}
    return {name: each[:count].float() for name, each in scores.items()}
