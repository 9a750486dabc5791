"""Ranks by counting, with a rule for ties that favours no item."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """Ranks of one target per user.

    Args:
        rank: 1 + number of candidates ranked above the target ``[T]``. A target that is itself
            barred (it stands in the masked history) gets the number of items, which no list of
            recommendations reaches.
        new_item: the same against warm candidates only (IDvs.MoRec's new-item protocol) ``[T]``.
        mean_rank: average rank over all orders of tied candidates ``[T]`` float64.
        candidates: number of candidates of each user ``[T]``.
    """

    rank: Tensor
    new_item: Tensor
    mean_rank: Tensor
    candidates: Tensor


def rank_targets(
    scores: Tensor, targets: Tensor, allowed: Tensor, warm: Tensor, order: Tensor
) -> Ranks:
    """Rank each row's target among its allowed items.

    ``rank = 1 + #(score > s) + #(score == s and order < order of the target)``: tied items stand in
    the order of a seeded hash of their tokens, so a constant scorer gets chance.

    Args:
        scores: ``[T, N]`` finite.
        targets: ``[T]`` item ids.
        allowed: ``[T, N]`` bool, candidates of each user.
        warm: ``[N]`` bool, items with training interactions.
        order: ``[N]`` position of each item in the order that breaks ties.
    """
    row = torch.arange(len(targets), device=scores.device)
    target_score = scores[row, targets][:, None]
    above = scores > target_score
    tied = scores == target_score
    ahead = (above | (tied & (order[None, :] < order[targets][:, None]))) & allowed
    rank = 1 + ahead.sum(1)
    new_item = 1 + (ahead & warm[None, :]).sum(1)
    mean_rank = (above & allowed).sum(1) + ((tied & allowed).sum(1).double() + 1) / 2
    barred = ~allowed[row, targets]
    count = scores.shape[1]
    return Ranks(
        rank=rank.masked_fill(barred, count),
        new_item=new_item.masked_fill(barred, count),
        # Below all of its candidates: the area under the curve is 0.
        mean_rank=torch.where(barred, allowed.sum(1).double(), mean_rank),
        candidates=allowed.sum(1),
    )


def top_items(scores: Tensor, allowed: Tensor, order: Tensor, k: int) -> Tensor:
    """The k best allowed items of each row ``[T, k]``, ties in ``order``."""
    by_order = torch.argsort(order)
    masked = scores.masked_fill(~allowed, float("-inf"))[:, by_order]
    best = torch.sort(masked, dim=1, descending=True, stable=True).indices[:, :k]
    return by_order[best]
