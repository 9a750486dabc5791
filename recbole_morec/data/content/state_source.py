"""What a state store is made from: items that are read ahead, encoded and looked at."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recbole_morec.data.content import ContentReader
from recbole_morec.data.content.images import usable_cpus
from recbole_morec.data.content.state_files import numpy_dtype
from recbole_morec.errors import DataError, MoRecError

_TILE = 128  # items that are encoded at once
DTYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
_AHEAD = 8  # tiles that are read ahead at most, each by a thread; one of 224 px takes 19 MB

Encode = Callable[[dict[str, Tensor]], tuple[Tensor, Tensor | None]]
Tile = tuple[np.ndarray, list[int]]  # values [sum of lengths, D], and the length of each item


def tiles_of(items: np.ndarray) -> list[np.ndarray]:
    """Cut items into tiles."""
    return np.array_split(items, range(_TILE, len(items), _TILE))


class StatesError(MoRecError, ValueError):
    """An encoder whose states cannot be kept: their mask does not fit them."""


@dataclass
class StateSource:
    """Encodes items, a tile of them at a time.

    Attributes:
        item_seconds: that an item of the newest tile took; 0 before the first one.
    """

    content: ContentReader
    encode: Encode
    device: torch.device
    dtype: torch.dtype
    item_seconds: float = 0.0

    def tile(self, items: np.ndarray) -> Tile:
        """Encode a few items."""
        return self._encode(items, *self._read(items))

    def encoded(self, tiles: Iterable[np.ndarray]) -> Iterator[Tile]:
        """Encode tiles, in order; threads read the next ones meanwhile."""
        threads = min(usable_cpus(), _AHEAD)
        pool, ahead = ThreadPoolExecutor(threads), deque[tuple[np.ndarray, Future]]()
        try:
            for items in tiles:
                ahead.append((items, pool.submit(self._read, items)))
                if len(ahead) > threads:
                    yield self._next(ahead, threads)
            while ahead:
                yield self._next(ahead, threads)
        finally:
            pool.shutdown(cancel_futures=True)

    def _next(self, ahead: deque[tuple[np.ndarray, Future]], threads: int) -> Tile:
        items, reading = ahead.popleft()
        content, seconds = reading.result()
        return self._encode(items, content, seconds / threads)

    def _read(self, items: np.ndarray) -> tuple[dict[str, Tensor], float]:
        """The content of items, and the seconds that it took."""
        started = time.perf_counter()
        content = self.content.fetch(items)
        return content, time.perf_counter() - started

    @torch.no_grad()
    def _encode(self, items: np.ndarray, content: dict[str, Tensor], seconds: float) -> Tile:
        """Encode what was read in so many seconds."""
        started = time.perf_counter()
        states, mask = self.encode({k: v.to(self.device) for k, v in content.items()})
        if states.ndim != 3 or len(states) != len(items):
            raise StatesError(
                f"the encoder gives states of shape {list(states.shape)} for {len(items)} items; "
                "a store needs [items, tokens, width]. Set store_states: false."
            )
        if mask is None:
            mask = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        if mask.shape != states.shape[:2]:
            raise StatesError(
                f"the encoder gives states of shape {list(states.shape)}, and the mask of its "
                f"content has the shape {list(mask.shape)}: it pads or cuts its input itself, so "
                "its real states are not known. Set store_states: false."
            )
        kept = states[mask]
        values = kept.to(self.dtype)
        self._check_finite(kept, values, items, mask)
        values = values.cpu()
        self.item_seconds = (time.perf_counter() - started + seconds) / len(items)
        if self.dtype == torch.bfloat16:
            values = values.view(torch.int16)
        return values.numpy().view(numpy_dtype(DTYPES[self.dtype])), mask.sum(1).tolist()

    def _check_finite(self, kept: Tensor, values: Tensor, items: np.ndarray, mask: Tensor) -> None:
        if torch.isfinite(values).all():
            return
        rows = torch.arange(len(items), device=mask.device)[:, None].expand(mask.shape)[mask]
        wrong = torch.unique(rows[~torch.isfinite(values).all(1)]).tolist()
        which = f"{len(wrong)} of {len(items)} items (the first has the internal id "
        which += f"{items[wrong[0]]})"
        overflow = self.dtype == torch.float16 and torch.isfinite(kept).all()
        if overflow or kept.dtype == torch.float16:
            raise DataError(
                f"the encoder's states of {which} are not finite in float16, whose largest number "
                "is 65504. Set states_dtype: bf16 or states_dtype: fp32."
            )
        raise DataError(
            f"the encoder's states of {which} are not finite. Look at its weights and at these "
            "items' content."
        )
