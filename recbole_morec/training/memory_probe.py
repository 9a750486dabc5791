"""What a training step keeps for its way back, measured on a few items and a few rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from recbole_morec import parallel
from recbole_morec.item_encoders import Content
from recbole_morec.models.adapter import ModelAdapter
from recbole_morec.objectives.chunks import CELLS_AT_ONCE
from recbole_morec.randomness import stream

_SLOTS = ("item_index", "negative_index", "shared_index")
_FETCHED = 64  # items whose texts say how long texts are
_ENCODED = 4  # of these are encoded
_ROWS = 128  # rows of the measured step, at most
_LOGITS = 16 * CELLS_AT_ONCE  # bytes that a loss in chunks takes at most


@dataclass(frozen=True)
class ItemSide:
    """Bytes of the item encoder.

    Attributes:
        kept: that an item adds to what is kept for the way back.
        constant: kept whatever the number of items (weights in another precision).
        largest: of the largest tensor of one item.
        content: of one item's content.
        vector: of one item's vector.
    """

    kept: float
    constant: float
    largest: float
    content: float
    vector: float


class Probe:
    """Measures the steps of a model that is about to be trained; the model stays as it was.

    All processes measure together, since a loss may gather from all of them.

    Args:
        adapter: the model, with an item encoder.
        accelerator: knows device and precision.
        config: resolved settings.
    """

    def __init__(self, adapter: ModelAdapter, accelerator: Accelerator, config: Any):
        self._adapter = adapter
        self._accelerator = accelerator
        self._builder = adapter.batches().without_content()
        self._every_slot = config["encode"] == "every_slot" and config.multimodal
        size = min(config["train_batch_size"], len(self._builder.rows))
        rng = np.random.default_rng(stream(config["seed"], "memory"))
        # As if every process had these: shares are equal to within a row.
        self.rows = -(-size // parallel.world_size())
        self._chosen = rng.choice(len(self._builder.rows), self.rows, replace=False)
        self._items: dict[int, int] = {}
        self._few, self._many = max(min(self.rows, _ROWS) // 2, 1), min(self.rows, _ROWS)
        with _unchanged(adapter.model):
            self.item_side, vectors = self._encode()
            self._kept_by = {rows: self._step(rows, vectors) for rows in {self._few, self._many}}

    def items(self, rows: int) -> int:
        """Items that a step over so many rows encodes in this process."""
        if rows not in self._items:
            batch = self._batch(rows)
            self._items[rows] = len(batch["content"]["items"]) if "content" in batch else 0
            if self._every_slot:
                self._items[rows] = self.slots(rows)
        return self._items[rows]

    def slots(self, rows: int) -> int:
        """Places of such a step that read an item vector, padding included; 0 where not known."""
        batch = self._batch(rows)
        return sum(batch[n].numel() for n in _SLOTS if n in batch)

    def users(self, rows: int) -> float:
        """Bytes that the rest of such a step keeps: user encoder, loss and item vectors."""
        few, many = self._kept_by[self._few], self._kept_by[self._many]
        if self._few == self._many:
            return many * rows / self._many
        model = self._adapter.model
        square = 0.0
        if getattr(model, "reads_whole_batch", False):
            # Rows against items of the batch: a part grows with the square of the rows.
            ratio = self._many / self._few
            square = max(many - few * ratio, 0.0) / (self._many * (self._many - self._few))
        linear = many / self._many - square * self._many
        return linear * rows + min(square * rows**2, _LOGITS)

    def _batch(self, rows: int) -> dict[str, Any]:
        chosen = np.sort(self._chosen[:rows])
        batch = self._builder.build(chosen, 0)
        return {
            **batch, "global_rows": rows, "global_terms": self._builder.terms(chosen, 0),
            "local_rows": rows, "epoch": 0, "step": 0, "steps": 1, "progress": 0.0,
        }  # fmt: skip

    def _encode(self) -> tuple[ItemSide, Tensor]:
        """Encode a few items and half as many."""
        adapter, device = self._adapter, self._accelerator.device
        batch = self._batch(self.rows)
        ids = batch["content"]["items"][:_FETCHED] if "content" in batch else torch.tensor([1])
        content = adapter.content_of(ids.numpy(), device)
        count = min(_ENCODED, len(content["items"]))
        half = max(count // 2, 1)
        few, _ = self._kept(lambda: adapter.encode_items(_rows(content, half)), content)
        many, vectors = self._kept(lambda: adapter.encode_items(_rows(content, count)), content)
        kept, constant = sum(many.values()) / count, 0.0
        largest = max(many.values(), default=0) / count
        if count > half:
            kept = (sum(many.values()) - sum(few.values())) / (count - half)
            constant = sum(few.values()) - kept * half
            # A tensor of the items has another size for another number of them.
            sizes = Counter(few.values())
            largest = max((b for b in many.values() if b not in sizes), default=0) / count
        side = ItemSide(
            max(kept, 0.0),
            max(constant, 0.0),
            largest,
            sum(v.nbytes / len(v) for v in content.values()),
            vectors.nbytes / count,
        )
        return side, vectors.detach()

    def _step(self, rows: int, vectors: Tensor) -> int:
        """Bytes that a step over ``rows`` rows keeps beside its item encoder."""
        model = self._adapter.model
        batch = send_to_device(self._batch(rows), self._accelerator.device)

        def stand_in(content: Content) -> Tensor:
            shape = (len(content["items"]), *vectors.shape[1:])
            return torch.full(
                shape, 0.01, dtype=vectors.dtype, device=vectors.device
            ).requires_grad_()

        encode = getattr(model, "encode", None)
        if self._every_slot:
            model.encode = "distinct"
        try:
            with self._adapter.encoding.replaced(stand_in):
                kept, _ = self._kept(lambda: self._adapter.loss(batch), batch.get("content", {}))
        finally:
            if self._every_slot:
                model.encode = encode
        return sum(kept.values())

    def _kept(self, forward: Callable[[], Any], content: Content) -> tuple[dict[int, int], Any]:
        """Sizes of what ``forward`` keeps for the way back, by storage, and what it gives."""
        model = self._adapter.model
        there = {
            tensor.untyped_storage().data_ptr()
            for tensor in chain(model.parameters(), model.buffers(), content.values())
            if tensor.layout is torch.strided
        }
        sizes: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            if tensor.layout is torch.strided:
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in there:
                    sizes[storage.data_ptr()] = storage.nbytes()
            return tensor  # held by the graph, so that no other tensor gets its address

        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with torch.enable_grad(), self._accelerator.autocast(), hooks:
            result = forward()
        return sizes, result


def _rows(content: Content, count: int) -> Content:
    return {key: value[:count] for key, value in content.items()}


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """A model in training mode whose statistics and random numbers come out as they went in."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    kept = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
    was_training = model.training
    model.train()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        model.train(was_training)
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)
