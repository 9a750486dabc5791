"""The state store: what a frozen encoder gives for every item, kept on disk and memory-mapped."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_morec.data.content.state_files import (
    numpy_dtype,
    read_block_size,
    read_description,
    values_file,
)


@dataclass(frozen=True)
class _Block:
    """A block of the store: values ``[sum of lengths, D]`` and the length of every item."""

    values: np.ndarray
    ends: np.ndarray


class StateStore:
    """Token states of every item, ``[T_i, D]`` each.

    Args:
        folder: of the store.
        item_num: N, padding included.

    Attributes:
        width: D.
        longest: the most tokens of an item.
    """

    def __init__(self, folder: Path, item_num: int):
        self.folder = folder
        self.item_num = item_num
        self._block = read_block_size(folder)
        count = math.ceil(item_num / self._block)
        blocks = [read_description(folder, number) for number in range(count)]
        self.width = blocks[0]["width"]
        lengths = {length for block in blocks for length in block["lengths"]}
        self.longest = max(lengths)
        self._alike = len(lengths - {0}) == 1 and 0 not in blocks[0]["lengths"][1:]
        self._dtype = blocks[0]["dtype"]
        self._blocks = [self._open(number, block) for number, block in enumerate(blocks)]

    def _open(self, number: int, description: dict[str, Any]) -> _Block:
        values = np.memmap(values_file(self.folder, number), numpy_dtype(self._dtype), "r")
        return _Block(values.reshape(-1, self.width), np.cumsum([0, *description["lengths"]]))

    def __reduce__(self) -> tuple:
        return StateStore, (self.folder, self.item_num)  # a spawned worker maps the files itself

    def fetch(self, items: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return the states of items, padded on the right to the longest of them.

        Args:
            items: internal ids ``[n]``.

        Returns:
            ``[n, T, D]`` in the store's dtype, zero where padded, and bool ``[n, T]``.
        """
        if self._alike and len(items) and items.min() > 0:
            return self._fetch_alike(items)
        places = [divmod(int(item), self._block) for item in items]
        ends = [self._blocks[b].ends[row : row + 2] for b, row in places]
        lengths = np.array([end[1] - end[0] for end in ends], dtype=np.int64)
        width = max(1, int(lengths.max(initial=0)))
        found = np.zeros((len(items), width, self.width), dtype=numpy_dtype(self._dtype))
        for row, ((b, _), (start, stop)) in enumerate(zip(places, ends, strict=True)):
            found[row, : stop - start] = self._blocks[b].values[start:stop]
        return self._tensor(found), torch.from_numpy(np.arange(width) < lengths[:, None])

    def _fetch_alike(self, items: np.ndarray) -> tuple[Tensor, Tensor]:
        """The same where all items have equally many states."""
        shape = (len(items), self.longest, self.width)
        found = np.empty(shape, dtype=numpy_dtype(self._dtype))
        block_of, rows = np.divmod(items, self._block)
        starts = np.append(np.flatnonzero(np.diff(block_of, prepend=-1)), len(items))
        for start, stop in itertools.pairwise(starts):  # runs of items of one block
            number = block_of[start]
            states = self._blocks[number].values.reshape(-1, *shape[1:])
            places = rows[start:stop] - (number == 0)  # item 0 has none
            # Straight into place: with any mode but this one numpy copies once more.
            np.take(states, places, axis=0, out=found[start:stop], mode="clip")
        return self._tensor(found), torch.ones(shape[:2], dtype=torch.bool)

    def _tensor(self, values: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(values)
        return tensor.view(torch.bfloat16) if self._dtype == "bf16" else tensor
