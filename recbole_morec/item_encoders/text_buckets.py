"""Texts of like length encoded together, so that little of what is encoded is padding."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

STEP = 8  # widths of buckets are multiples of it
FEWEST = 16  # texts of a bucket; fewer join those of the next width
_WORTH = 0.1  # share of the tokens that buckets must save


def length_buckets(mask: Tensor) -> list[tuple[Tensor, int]]:
    """Cut texts into buckets by where their last real token stands.

    Args:
        mask: of real tokens, ``[n, T]``.

    Returns:
        Rows and width of each bucket, narrow ones first; a single one where buckets save little.
    """
    count, width = mask.shape
    places = torch.arange(1, width + 1, device=mask.device)
    ends = (mask * places).amax(dim=1).clamp_min(1)
    order = ends.argsort(stable=True)
    sorted_ends = ends[order].tolist()
    cuts, first = [], 0
    for row in range(1, count):
        wider = -(-sorted_ends[row] // STEP) > -(-sorted_ends[row - 1] // STEP)
        if wider and row - first >= FEWEST:
            cuts.append(row)
            first = row
    edges = [0, *cuts, count]
    buckets = [(order[start:stop], sorted_ends[stop - 1]) for start, stop in pairwise(edges)]
    tokens = sum(len(rows) * end for rows, end in buckets)
    if tokens > (1 - _WORTH) * count * width:
        return [(torch.arange(count, device=mask.device), width)]
    return buckets
