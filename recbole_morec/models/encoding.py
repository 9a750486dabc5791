"""Encoding the items of a training step: in bounded memory, and each in one process alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from recbole_morec import parallel
from recbole_morec.errors import ConfigError
from recbole_morec.item_encoders import Content, ItemEncoder

Encode = Callable[[Content], Tensor]


class Encoding:
    """Encodes the items of a training step, all at once or ``size`` at a time.

    A chunk keeps nothing for the way back but its content and its vectors; there it is encoded
    again, with the random numbers and the precision that it had, and adds its gradient. Memory is
    that of one chunk, whatever the batch, for the price of a second forward pass. Loss and gradient
    are those of one piece. With dropout each chunk draws masks of its own, as a batch of its size
    would, so that another ``size`` is another draw.

    All of it lies inside one forward and one backward pass, so that DistributedDataParallel sees
    nothing of it, and processes may have different numbers of chunks.

    With ``shared``, an item that several processes hold is encoded by one of them, which gets its
    gradient from all; the others get its vector.

    Args:
        size: items at a time; ``None`` = all at once.
        recompute: False keeps what a chunk needs on the way back: the plain twin, for tests.
        shared: all processes encode together; each must call as often as the others.
    """

    def __init__(self, size: int | None = None, recompute: bool = True, shared: bool = False):
        self.size = size
        self.recompute = recompute
        self.shared = shared
        self._stand_in: Encode | None = None

    def __call__(self, encode: Encode, content: Content) -> Tensor:
        """``encode(content)``, vectors ``[n, ...]`` of the n items of ``content``."""
        if self._stand_in is not None:
            return self._stand_in(content)
        if self.shared and parallel.world_size() > 1:
            return self._together(encode, content)
        return self._alone(encode, content)

    def _together(self, encode: Encode, content: Content) -> Tensor:
        held = parallel.gather_objects(content["items"].cpu().numpy())
        if not all(map(len, held)):  # a process without rows has no loss that asks for gradients
            return self._alone(encode, content)
        shares = share_out(held)
        rows = np.flatnonzero(np.isin(held[parallel.rank()], shares[parallel.rank()]))
        device = content["items"].device
        mine = torch.from_numpy(rows).to(device)
        part = {key: value[mine] for key, value in content.items()}
        vectors, _ = parallel.gather_rows_with_gradient(self._alone(encode, part))
        # In the order in which the processes hold their items, as the rows above.
        there = np.concatenate(
            [own[np.isin(own, share)] for own, share in zip(held, shares, strict=True)]
        )
        order = np.argsort(there, kind="stable")
        place = order[np.searchsorted(there, held[parallel.rank()], sorter=order)]
        return vectors[torch.from_numpy(place).to(device)]

    def _alone(self, encode: Encode, content: Content) -> Tensor:
        count = len(content["items"])
        if self.size is None or count <= self.size:
            return encode(content)
        chunks = [
            {key: value[first : first + self.size] for key, value in content.items()}
            for first in range(0, count, self.size)
        ]
        apart = partial(_apart, encode)
        if self.recompute and torch.is_grad_enabled():
            return torch.cat([checkpoint(apart, chunk, use_reentrant=False) for chunk in chunks])
        return torch.cat([apart(chunk) for chunk in chunks])

    @contextmanager
    def replaced(self, stand_in: Encode) -> Iterator[None]:
        """Within it the vectors come from ``stand_in``: a step without its encoder, to measure."""
        self._stand_in = stand_in
        try:
            yield
        finally:
            self._stand_in = None


def share_out(held: list[np.ndarray]) -> list[np.ndarray]:
    """Which of its items each process encodes, so that every item is encoded.

    An item of several processes goes to one of them, by its id: about as many to each. A process
    that would have none takes its first, so that its encoder has a part in the step.

    Args:
        held: items of each process, without repeats; none is empty.
    """
    items = np.concatenate(held)
    ranks = np.repeat(np.arange(len(held)), [len(own) for own in held])
    order = np.lexsort((ranks, items))
    distinct, first, count = np.unique(items[order], return_index=True, return_counts=True)
    chosen = ranks[order][first + distinct % count]
    shares = [distinct[chosen == rank] for rank in range(len(held))]
    return [share if len(share) else own[:1] for share, own in zip(shares, held, strict=True)]


def _apart(encode: Encode, chunk: Content) -> Tensor:
    """Encode with casts of the weights of its own.

    Autocast would share one cast between all chunks and add up their gradients in its precision:
    in bf16 ever less exact, the more chunks there are.
    """
    device = chunk["items"].device.type
    with torch.autocast(
        device,
        enabled=torch.is_autocast_enabled(device),
        dtype=torch.get_autocast_dtype(device),
        cache_enabled=False,
    ):
        return encode(chunk)


def encoding_of(encoder: ItemEncoder, config: Any, shared: bool = False) -> Encoding:
    """How a model encodes the items of a step, by ``encode_chunk`` and ``shared``.

    An encoder that reads no content (``id``, ``features``) takes all at once: there is nothing to
    save.

    Raises:
        ConfigError: the encoder's vectors depend on the other items of the batch, which
            ``encode_chunk``, ``micro_batch`` or ``share_encoding`` would cut up.
    """
    asked = [key for key in ("encode_chunk", "micro_batch") if config[key]]
    asked += ["share_encoding"] if shared else []
    if asked and encoder.batch_dependent:
        raise ConfigError(
            [
                f"{key}={config[key]}: with batch_norm=train the vectors of {encoder.name} depend "
                f"on all items of the batch, and parts of it would change them. Leave {key} at its "
                "default, or use batch_norm=frozen."
                for key in asked
            ]
        )
    if not encoder.needs:
        return Encoding()
    return Encoding(config["encode_chunk"], shared=shared)
