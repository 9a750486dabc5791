"""``encode: every_slot``: the item encoder sees a batch as the published code feeds it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_morec.item_encoders import Content, ItemEncoder

_INDICES = ("item_index", "negative_index", "shared_index")


def one_row_per_slot(batch: dict[str, Any], encoder: ItemEncoder) -> dict[str, Any]:
    """Give every slot of a batch a content row of its own.

    Items that stand in several slots are encoded as often, and padding is encoded too; a batch with
    K negatives per target holds ``B (L + 1) (1 + K)`` rows. It changes the vectors only of an
    encoder whose BatchNorm statistics follow the batch (ResNet with ``batch_norm: train``): it is
    there for those.

    Args:
        batch: see ``recbole_morec.data.batches``, on the encoder's device, with at least one row.
        encoder: tells what padding is.

    Returns:
        A batch of the same form.
    """
    indices = {name: batch[name] for name in _INDICES if name in batch}
    slots = torch.cat([index.flatten() for index in indices.values()])  # [m], 0 = padding
    device = slots.device
    padding = {key: value.to(device) for key, value in encoder.reserved("pad").items()}
    content = _joined(padding, encoder.normalised(batch["content"]))
    made = {**batch, "content": {key: value[slots] for key, value in content.items()}}
    first = 1  # row 0 stays what padding reads
    for name, index in indices.items():
        rows = torch.arange(first, first + index.numel(), device=device)
        made[name] = rows.view_as(index)
        first += index.numel()
    made["log_popularity"] = F.pad(batch["log_popularity"], (1, 0))[slots]
    # A column of in_batch for every item slot; drawn negatives and padding stand in none.
    count = batch["slot_count"].new_zeros(len(slots))
    count[: batch["mask"].numel()] = batch["mask"].flatten().to(count.dtype)
    made["slot_count"] = count
    return made


def _joined(first: Content, rest: Content) -> Content:
    """The rows of both, texts widened to one length."""
    return {key: _cat(first[key], rest[key]) for key in rest}


def _cat(first: Tensor, rest: Tensor) -> Tensor:
    if first.ndim == 2:
        width = max(first.shape[-1], rest.shape[-1])
        first, rest = (F.pad(part, (0, width - part.shape[-1])) for part in (first, rest))
        if rest.ndim == 3:  # one row stands for every field of a text
            first = first[:, None].expand(-1, rest.shape[1], -1)
    return torch.cat([first.to(rest.dtype), rest])
