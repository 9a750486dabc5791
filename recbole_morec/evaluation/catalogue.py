"""The catalogue matrix: every item's vector, encoded once per evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from recbole_morec import parallel
from recbole_morec.data.content import ContentReader
from recbole_morec.data.loader import caught, load

TILE = 128


class _Tiles(Dataset):
    def __init__(self, content: ContentReader, item_num: int):
        self._content = content
        self._item_num = item_num

    def __len__(self) -> int:
        return -(-(self._item_num - 1) // TILE)

    def __getitem__(self, tile: int) -> tuple[int, dict[str, Tensor]]:
        return caught(self._tile, tile)

    def _tile(self, tile: int) -> tuple[int, dict[str, Tensor]]:
        first = 1 + tile * TILE
        items = np.arange(first, first + TILE)
        real = int((items < self._item_num).sum())
        items[real:] = items[0]  # tiles have one size, so that rounding does not depend on N
        return real, self._content.fetch(items)


@torch.no_grad()
def encode_catalogue(
    model: Any,
    content: ContentReader,
    item_num: int,
    *,
    device: torch.device,
    workers: int = 0,
    progress: bool = False,
) -> Tensor:
    """Encode all items in fixed tiles, shared out over the processes.

    Args:
        model: has ``encode_items(content) -> [n, ..., d]``; put into evaluation mode by the caller.
        content: reader of the content that the model needs.
        item_num: N, padding included.
        device: where the model is.
        workers: loader processes.
        progress: show a progress bar.

    Returns:
        fp32 ``[N, ..., d]`` on ``device``, row 0 zero.
    """
    tiles = _Tiles(content, item_num)
    mine = range(parallel.rank(), len(tiles), parallel.world_size())
    encoded: list[Tensor] = []
    for real, batch in tqdm(
        load(tiles, mine, workers),
        "catalogue",
        total=len(mine),
        unit="tile",
        disable=None if progress else True,
        leave=False,
    ):
        vectors = model.encode_items({key: value.to(device) for key, value in batch.items()})
        encoded.append(vectors[:real].float())
    shape = _shape(encoded)
    rows = torch.cat(encoded) if encoded else torch.zeros(0, *shape, device=device)
    everyone = parallel.gather_rows(rows)
    order = np.concatenate(
        [
            np.arange(1 + tile * TILE, min(1 + (tile + 1) * TILE, item_num))
            for process in range(parallel.world_size())
            for tile in range(process, len(tiles), parallel.world_size())
        ]
    )
    catalogue = torch.zeros(item_num, *shape, device=device)
    catalogue[torch.from_numpy(order).to(device)] = everyone
    return catalogue


def _shape(encoded: list[Tensor]) -> tuple[int, ...]:
    """Shape of an item's vector (or vectors), also in a process that has encoded none."""
    return max(parallel.gather_objects(tuple(encoded[0].shape[1:]) if encoded else ()))
