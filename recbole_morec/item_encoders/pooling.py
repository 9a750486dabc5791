"""From the tokens of an encoder, ``[n, T, D]``, to one vector per item, ``[n, D]``."""

from __future__ import annotations

import torch
from torch import Tensor

POOLINGS = ("default", "cls", "first", "mean", "masked_mean", "pooler", "project_mean")
"""What the ``pooling`` key accepts.

``default``       what the encoder's authors use (its card, its own pooling head, its class token).
``cls``           the first token, where the encoder has a class token.
``first``         the first token, whatever it stands for (PixelRec's ``cls`` on Swin: a patch).
``mean``          the average of all real tokens, the class token included, then the projection.
``masked_mean``   the same under the name that text encoders are used to.
``pooler``        the encoder's own pooling head (BERT's dense layer, timm's ``forward_head``).
``project_mean``  PixelRec's mean: every token is projected and activated, then averaged.
"""


def masked_mean(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Average the tokens that ``mask`` keeps: ``[n, T, D]``, ``[n, T]`` bool -> ``[n, D]``.

    The sum runs in float32 also under mixed precision. An item without any real token gives zeros,
    whatever its masked states are (a model that gets no token at all may give NaN).
    """
    wide = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
    if mask is None:
        return wide.mean(dim=1).to(tokens.dtype)
    mask = mask.unsqueeze(-1)  # [n, T, 1]
    total = wide.masked_fill(~mask, 0.0).sum(dim=1)
    return (total / mask.sum(dim=1).clamp(min=1)).to(tokens.dtype)
