"""Ranks counted chunk by chunk, so that the scores of a tile need not exist all at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recbole_morec.evaluation.ranking import Ranks
from recbole_morec.evaluation.scorers import TileScores, WholeScores


class NotFinite(Exception):
    """A candidate's score is not finite; ``args[0]`` is the row of the tile."""


class _Moved(Exception):
    """A target's score was rounded otherwise than in its chunk."""


@dataclass(frozen=True)
class Barred:
    """Distinct candidates that a row's ranking leaves out, in the order of items.

    Args:
        row: rows ``[P]`` of the tile.
        item: item ids ``[P]``.
    """

    row: Tensor
    item: Tensor

    def between(self, first: int, last: int) -> slice:
        """Where the pairs with items ``first`` to ``last - 1`` stand."""
        edges = torch.tensor([first, last], device=self.item.device)
        return slice(*torch.searchsorted(self.item, edges).tolist())


class RankCounter:
    """Gives what :func:`~recbole_morec.evaluation.ranking.rank_targets` gives.

    A chunk's scores are compared with the targets' right after their product. Comparisons count
    every item; what barred items added is taken off again, and the order of ties is looked at only
    in rows that have some. A target's own score comes first, out of a product of the same shape as
    the chunks'; where it differs from the score in its chunk, the tile is scored as a whole.

    Args:
        candidates: ``[N]`` bool, items that are ranked.
        warm: ``[N]`` bool, items with training interactions.
        order: ``[N]`` position of each item in the order that breaks ties.
    """

    def __init__(self, candidates: Tensor, warm: Tensor, order: Tensor):
        self._candidates, self._warm, self._order = candidates, warm, order
        self._outside = torch.nonzero(~candidates)[:, 0]
        # As the comparisons are kept: comparing into bool takes six times as long on a CPU.
        self._warm_weight = None if bool(warm[candidates].all()) else warm.float()

    def barred(self, row: Tensor, item: Tensor, count: int) -> Barred:
        """Pairs, of ``count`` rows, that may repeat or be no candidates."""
        key = torch.unique(item * count + row)
        row, item = key % count, key // count
        real = self._candidates[item]
        return Barred(row[real], item[real])

    def allowed(self, barred: Barred, count: int) -> Tensor:
        """``[T, N]`` bool, the candidates of each of ``count`` rows."""
        allowed = self._candidates.repeat(count, 1)
        allowed[barred.row, barred.item] = False
        return allowed

    def count(self, scores: TileScores, targets: Tensor, barred: Barred) -> dict[str, Ranks]:
        """Ranks of the targets ``[T]`` by branch.

        Raises:
            NotFinite: a candidate's score is not finite.
        """
        try:
            return self._count(scores, targets, barred)
        except _Moved:
            return self._count(scores.whole(), targets, barred)

    def _count(self, scores: TileScores, targets: Tensor, barred: Barred) -> dict[str, Ranks]:
        tallies = {
            name: _Tally(self, targets, score, barred) for name, score in scores.of(targets).items()
        }
        may_move = not isinstance(scores, WholeScores)
        shape = (len(targets), scores.width)
        buffer = torch.empty(shape, dtype=torch.float32, device=targets.device)
        for first in range(0, scores.item_num, scores.width):
            last = min(first + scores.width, scores.item_num)
            chunk = _Chunk(self, first, last, targets, barred, buffer[:, : last - first])
            for name, each in scores.chunk(first, last).items():
                tallies[name].add(each, chunk, may_move)
        return {name: tally.ranks() for name, tally in tallies.items()}


class _Chunk:
    """Items ``first`` to ``last - 1``: what there is to know of them whatever their scores."""

    def __init__(
        self,
        counter: RankCounter,
        first: int,
        last: int,
        targets: Tensor,
        barred: Barred,
        buffer: Tensor,
    ):
        items = slice(first, last)
        self.buffer = buffer
        self.candidates, self.order = counter._candidates[items], counter._order[items]
        self.warm, weight = counter._warm[items], counter._warm_weight
        self.warm_weight = None if weight is None else weight[items]
        edges = torch.tensor([first, last], device=targets.device)
        outside = slice(*torch.searchsorted(counter._outside, edges).tolist())
        self.outside = counter._outside[outside] - first
        pairs = barred.between(first, last)
        self.row, self.column = barred.row[pairs], barred.item[pairs] - first
        self.pair_warm = self.warm[self.column]
        self.here = torch.nonzero((targets >= first) & (targets < last))[:, 0]
        self.target_column = targets[self.here] - first

    def allowed(self, rows: Tensor) -> Tensor:
        """Candidates ``[R, n]`` of some rows."""
        allowed = self.candidates.repeat(len(self.buffer), 1)
        allowed[self.row, self.column] = False
        return allowed[rows]


class _Tally:
    """Counts of one branch, over the chunks so far."""

    def __init__(self, counter: RankCounter, targets: Tensor, score: Tensor, barred: Barred):
        self._counter, self._targets, self._barred = counter, targets, barred
        self._score = score[:, None].contiguous()  # [T, 1]
        zero = torch.zeros(len(targets), dtype=torch.long, device=targets.device)
        self._at_least, self._tied_ahead = zero.clone(), zero.clone()
        self._above_warm, self._tied_ahead_warm = zero.clone(), zero.clone()
        self._above = zero.clone()

    def add(self, scores: Tensor, chunk: _Chunk, may_move: bool) -> None:
        """Count a chunk's scores ``[T, n]``."""
        own = self._score
        there = scores[chunk.here, chunk.target_column]
        if may_move and not torch.equal(there, own[chunk.here, 0]):
            raise _Moved
        if not scores.sum().isfinite():
            _check(scores, chunk)
        pairs = scores[chunk.row, chunk.column], own[chunk.row, 0]
        outside = scores[:, chunk.outside] if len(chunk.outside) else None

        above = torch.gt(scores, own, out=chunk.buffer)  # of 0 and 1: sums are exact
        count = above.sum(1).long()
        beyond = pairs[0] > pairs[1]
        count.index_add_(0, chunk.row, beyond.long(), alpha=-1)
        if chunk.warm_weight is not None:
            warm = (above @ chunk.warm_weight).long()
            warm.index_add_(0, chunk.row, (beyond & chunk.pair_warm).long(), alpha=-1)
        at_least = torch.ge(scores, own, out=chunk.buffer).sum(1).long()
        at_least.index_add_(0, chunk.row, (pairs[0] >= pairs[1]).long(), alpha=-1)
        if outside is not None:
            out_above = outside > own
            count -= out_above.sum(1)
            at_least -= (outside >= own).sum(1)
            if chunk.warm_weight is not None:
                warm -= (out_above & chunk.warm[chunk.outside]).sum(1)
        self._above += count
        self._at_least += at_least
        if chunk.warm_weight is not None:
            self._above_warm += warm
        others = at_least - count
        others[chunk.here] -= 1
        if bool((others > 0).any()):
            self._order_ties(scores, chunk, torch.nonzero(others > 0)[:, 0])

    def _order_ties(self, scores: Tensor, chunk: _Chunk, rows: Tensor) -> None:
        tied = (scores[rows] == self._score[rows]) & chunk.allowed(rows)
        before = chunk.order < self._counter._order[self._targets[rows]][:, None]
        ahead = tied & before
        self._tied_ahead[rows] += ahead.sum(1)
        if chunk.warm_weight is not None:
            self._tied_ahead_warm[rows] += (ahead & chunk.warm).sum(1)

    def ranks(self) -> Ranks:
        counter, targets, barred = self._counter, self._targets, self._barred
        rank = 1 + self._above + self._tied_ahead
        new_item = rank
        if counter._warm_weight is not None:
            new_item = 1 + self._above_warm + self._tied_ahead_warm
        tied = self._at_least - self._above
        mean_rank = self._above + (tied.double() + 1) / 2
        left_out = torch.bincount(barred.row, minlength=len(targets))
        candidates = counter._candidates.sum() - left_out
        never = ~counter._candidates[targets]
        never[barred.row[barred.item == targets[barred.row]]] = True
        items = len(counter._candidates)
        return Ranks(
            rank=rank.masked_fill(never, items),
            new_item=new_item.masked_fill(never, items),
            # Below all of its candidates: the area under the curve is 0.
            mean_rank=torch.where(never, candidates.double(), mean_rank),
            candidates=candidates,
        )


def _check(scores: Tensor, chunk: _Chunk) -> None:
    """Look at each score: a sum may overflow, and what is no candidate may hold anything."""
    bad = ~torch.isfinite(scores)
    bad[:, chunk.outside] = False
    bad[chunk.row, chunk.column] = False
    if bad.any():
        raise NotFinite(int(bad.any(1).nonzero()[0]))
