"""Scorers: how a model gives the evaluator the scores of a tile of users."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from recbole_morec.errors import MoRecError

log = logging.getLogger(__name__)

MAIN = "main"
Named = dict[str, Tensor]
# Scores of a chunk: on a CPU they and the comparison with them stay in the caches.
_CPU_SCORES, _DEVICE_SCORES = 1 << 19, 1 << 25


class Scorer(ABC):
    """Scores of all items for a tile of users."""

    def prepare(self) -> None:  # noqa: B027 - optional
        """Called once per evaluation, before any score is asked for."""

    @abstractmethod
    def scores(self, users: Tensor, histories: Tensor) -> Tensor | Named:
        """Return scores ``[T, N]``; of a model with branches by name, what it recommends by first.

        Args:
            users: internal user ids ``[T]``.
            histories: item ids ``[T, L]``, padded on the left with 0.
        """

    def tile(self, users: Tensor, histories: Tensor, count: int) -> TileScores:
        """The scores of the first ``count`` of these users, see :meth:`scores`."""
        return WholeScores(_named(self.scores(users, histories), count))


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
        catalogue = self._encode(self._model)
        items = catalogue[1:]
        if len(items) > 1 and bool((items == items[:1]).all()):
            log.warning(
                "All items have the same vector, so that their order says nothing: training has "
                "collapsed. Try a lower encoder_learning_rate or learning_rate, or another "
                "activation (activation=gelu)."
            )
        self._model.set_catalogue(catalogue)

    def scores(self, users: Tensor, histories: Tensor) -> Tensor | Named:
        return self._model.score(self._read(users, histories), self._model.catalogue)

    def tile(self, users: Tensor, histories: Tensor, count: int) -> TileScores:
        catalogue, width = self._model.catalogue, chunk_width(users)
        if len(catalogue) <= width:
            return super().tile(users, histories, count)
        read = self._read(users, histories)

        def score(items: slice | Tensor) -> Tensor | Named:
            return self._model.score(read, catalogue[items])

        return ChunkedScores(score, len(catalogue), width, count)

    def _read(self, users: Tensor, histories: Tensor) -> Any:
        return self._model.encode_users(self._model.catalogue[histories], histories, users)


class TileScores(ABC):
    """fp32 scores of a tile of users, by branch, what the model recommends by first.

    Attributes:
        item_num: N, padding included.
        width: items of a chunk.
    """

    item_num: int
    width: int

    @abstractmethod
    def chunk(self, first: int, last: int) -> Named:
        """Scores ``[T, last - first]`` of at most ``width`` neighbouring items; not to be written
        to."""

    @abstractmethod
    def of(self, items: Tensor) -> Named:
        """Scores ``[T]`` of one item per user, as :meth:`chunk` gives them unless it rounds
        otherwise."""

    @abstractmethod
    def whole(self) -> WholeScores:
        """The same scores, all at once."""


class WholeScores(TileScores):
    """Scores ``[T, N]`` that are there already."""

    def __init__(self, scores: Named):
        self.scores = scores
        first = next(iter(scores.values()))
        self.item_num = first.shape[1]
        self.width = min(chunk_width(first), self.item_num)

    def chunk(self, first: int, last: int) -> Named:
        return {name: each[:, first:last] for name, each in self.scores.items()}

    def of(self, items: Tensor) -> Named:
        return {name: each.gather(1, items[:, None])[:, 0] for name, each in self.scores.items()}

    def whole(self) -> WholeScores:
        return self


class ChunkedScores(TileScores):
    """Scores that are computed for a chunk of items when they are asked for.

    Every product has the same shape, also for the last chunk and for one item per user: a library
    then sums in the same order, and rounds a score alike wherever its item stands.

    Args:
        score: items (a slice, or ids ``[n]``) -> scores ``[T, n]``.
        item_num: N, more than ``width``.
        width: items of a chunk.
        count: the first rows that are users; the others fill up the tile.
    """

    def __init__(
        self,
        score: Callable[[slice | Tensor], Tensor | Named],
        item_num: int,
        width: int,
        count: int,
    ):
        self._score = score
        self.item_num, self.width = item_num, width
        self._count = count

    @torch.no_grad()
    def chunk(self, first: int, last: int) -> Named:
        start = max(0, last - self.width)
        end = start + self.width
        scores = _named(self._score(slice(start, end)), self._count)
        return {name: each[:, first - start : last - start] for name, each in scores.items()}

    @torch.no_grad()
    def of(self, items: Tensor) -> Named:
        filled = items.repeat(-(-self.width // len(items)))[: self.width]
        scores = _named(self._score(filled), self._count)
        return {name: each.diagonal()[: len(items)] for name, each in scores.items()}

    def whole(self) -> WholeScores:
        starts = range(0, self.item_num, self.width)
        chunks = [self.chunk(at, min(at + self.width, self.item_num)) for at in starts]
        return WholeScores({name: torch.cat([c[name] for c in chunks], 1) for name in chunks[0]})


def chunk_width(tile: Tensor) -> int:
    """Items of a chunk for a tile of ``len(tile)`` users: a function of those and the device."""
    most = _CPU_SCORES if tile.device.type == "cpu" else _DEVICE_SCORES
    return max(most // len(tile), len(tile))


@torch.no_grad()
def score_tile(scorer: Scorer, users: Tensor, histories: Tensor, tile: int) -> TileScores:
    """Score one tile of exactly ``tile`` users, padding it with its first user where it is short.

    A matrix product may round differently for another number of rows; with a fixed number a user's
    scores depend neither on the batch size nor on the number of processes.

    Returns:
        The scores of ``users``.

    Raises:
        MoRecError: the scores are of a lower precision than fp32.
    """
    count = len(users)
    if count < tile:
        fill = torch.zeros(tile - count, dtype=torch.long, device=users.device)
        index = torch.cat([torch.arange(count, device=users.device), fill])
        users, histories = users[index], histories[index]
    return scorer.tile(users, histories, count)


def _named(scores: Tensor | Named, count: int) -> Named:
    if isinstance(scores, Tensor):
        scores = {MAIN: scores}
    for each in scores.values():
        if each.is_floating_point() and each.element_size() < 4:
            raise MoRecError(
                f"The model scores in {each.dtype}; ranks are taken in float32 only, since lower "
                "precision makes ties. Evaluate it with float32 weights, outside of any autocast."
            )
    return {name: each[:count].float() for name, each in scores.items()}
