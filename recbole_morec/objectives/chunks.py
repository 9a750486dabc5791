"""Losses over more logits than should be held at once: a few positions at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CELLS_AT_ONCE = 1 << 25  # numbers of the largest intermediate; 128 MiB in float32


def in_chunks(terms: Callable[..., Tensor], rows: Sequence[Tensor], width: int) -> Tensor:
    """``terms(*rows)``, for a few rows at a time where all of them together would not fit.

    A chunk keeps nothing for the backward pass but its rows; it is computed again there. Values and
    gradients are those of one piece, for the price of the second computation, and memory is bounded
    by one chunk whatever the number of rows. Where one chunk is enough nothing is computed twice.

    Args:
        terms: maps a chunk of every tensor of ``rows`` to ``[m, ...]``; draws no random number.
        rows: tensors of equal length M.
        width: numbers that ``terms`` holds for one row (such as the number of logits).
    """
    size = max(CELLS_AT_ONCE // max(width, 1), 1)
    if len(rows[0]) <= size:
        return terms(*rows)
    chunks = zip(*(each.split(size) for each in rows), strict=True)
    return torch.cat(
        [
            checkpoint(terms, *chunk, use_reentrant=False, preserve_rng_state=False)
            for chunk in chunks
        ]
    )


def scores(h: Tensor, vectors: Tensor, index: Tensor) -> Tensor:
    """Dot products ``[M, K]`` of every state with the vectors that its row of ``index`` names.

    Gathered vectors ``[M, K, d]`` are the largest tensor of a loss with negatives of every
    position, so they are bounded as in :func:`in_chunks`.

    Args:
        h: states ``[M, d]``.
        vectors: ``[n, d]``.
        index: rows of ``vectors`` ``[M, K]``.
    """

    def products(h: Tensor, index: Tensor) -> Tensor:
        return torch.einsum("md,mkd->mk", h, vectors[index])

    return in_chunks(products, (h, index), index.shape[1] * h.shape[1])


def log_loss(logits: Tensor, own: Tensor) -> Tensor:
    """``-log softmax`` of the targets ``[M]``, in float32 at least.

    Args:
        logits: of what each target competes with ``[M, n]``; minus infinity bars a column.
        own: of the targets ``[M]``.
    """
    joined = torch.cat([own[:, None], logits.to(own.dtype)], dim=1)
    joined = joined.to(torch.promote_types(joined.dtype, torch.float32))
    return torch.logsumexp(joined, dim=1) - joined[:, 0]
