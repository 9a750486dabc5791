"""The catalogue matrix: every item's vector, encoded once per evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
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


class CatalogueCache:
    """The catalogue matrix that was encoded last, and the digest of the weights it came from.

    It belongs to one model and one reader of content; validating and testing the same weights
    encodes once.
    """

    def __init__(self) -> None:
        self._digest = ""
        self._catalogue: Tensor | None = None

    def get(self, modules: Iterable[nn.Module], encode: Callable[[], Tensor]) -> Tensor:
        """The matrix that these weights give, encoded anew if any of them has changed.

        Args:
            modules: all that ``encode`` reads.
            encode: takes part in collectives, so that all processes call it or none.
        """
        digest = weights_digest(modules)
        if not all(parallel.gather_objects(digest == self._digest)):
            self._digest, self._catalogue = "", None
            self._catalogue = encode()
            self._digest = digest
        return self._catalogue


def weights_digest(modules: Iterable[nn.Module]) -> str:
    """SHA-256 of all parameters and buffers, and of what is in training mode."""
    digest = hashlib.sha256()
    for module in modules:
        modes = [each.training for each in module.modules()]
        digest.update(bytes(modes))
        for name, tensor in chain(module.named_parameters(), module.named_buffers()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {tensor.device}".encode())
            plain = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(plain.view(torch.uint8).numpy())
    return digest.hexdigest()


def _shape(encoded: list[Tensor]) -> tuple[int, ...]:
    """Shape of an item's vector (or vectors), also in a process that has encoded none."""
    return max(parallel.gather_objects(tuple(encoded[0].shape[1:]) if encoded else ()))
