"""The content of all candidates, for losses that read every item vector in each step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from recbole_morec.data.content import ContentReader
from recbole_morec.errors import ConfigError, counted
from recbole_morec.evaluation.catalogue import encode_catalogue
from recbole_morec.item_encoders import Content, ItemEncoder
from recbole_morec.item_encoders.backbone import BackboneEncoder
from recbole_morec.item_encoders.fusion import FusionEncoder


class WholeCatalogue:
    """Fetched once and kept on the model's device, so that no batch has to carry it.

    A frozen backbone gives an item the same pooled vector in every step: those ``[n, D]`` are
    encoded once, the work shared out over the processes, and take the content's place. What a
    trained encoder reads is kept as it is, and encoded anew in each step by every process.

    Args:
        encoder: the model's item encoder.
        reader: of the content that it needs.
        dataset: has ``candidates`` and ``item_num``.
        config: the keys ``catalogue_per_step`` and ``worker``.
        because: why all items are needed, for the message of the error.
        instead: what is to be used instead, for the same.

    Raises:
        ConfigError: an encoder would have to encode more than ``catalogue_per_step`` items in each
            step.
    """

    def __init__(
        self,
        encoder: ItemEncoder,
        reader: ContentReader,
        dataset: Any,
        config: Any,
        *,
        because: str = "",
        instead: str = "an objective that reads the batch (in_batch, sampled_softmax), ",
    ):
        self._items = np.flatnonzero(dataset.candidates)
        self._item_num = dataset.item_num
        self._reader = reader
        self._workers = config["worker"]
        self._content: Content | None = None
        by_token = isinstance(encoder, FusionEncoder) and encoder.join.reads_tokens
        single = encoder.members.values() if isinstance(encoder, FusionEncoder) else [encoder]
        self._kept = [each for each in single if not by_token and _is_constant(each)]
        rest = [each.name for each in single if each.needs and each not in self._kept]
        self._reads_content = bool(rest)
        if rest and len(self._items) > config["catalogue_per_step"]:
            raise ConfigError(
                f"catalogue_per_step={config['catalogue_per_step']}: {', '.join(rest)} would have "
                f"to encode all {counted(len(self._items), 'item')} in each step{because}. Use "
                f"{instead}train_layers=none, or allow that many."
            )

    def content(self, device: torch.device) -> Content:
        """The content of the candidates in ascending order, for the model's item encoder."""
        if self._content is None:
            self._content = self._gather(device)
        return self._content

    def first(self, count: int, device: torch.device) -> Content:
        """The content of the first ``count`` of them."""
        return {key: value[:count] for key, value in self.content(device).items()}

    def _gather(self, device: torch.device) -> Content:
        items = torch.from_numpy(self._items).to(device)
        content: Content = {"items": items}
        if self._reads_content:
            fetched = self._reader.fetch(self._items)
            content = {key: value.to(device) for key, value in fetched.items()}
        for encoder in self._kept:
            with torch.random.fork_rng(devices=[]):  # a loader draws a number when it starts
                pooled = encode_catalogue(
                    SimpleNamespace(encode_items=encoder.pooled),
                    self._reader,
                    self._item_num,
                    device=device,
                    workers=self._workers,
                )
            content[encoder.pooled_key] = pooled[items]
        return content


def _is_constant(encoder: ItemEncoder) -> bool:
    """Whether its pooled vectors stay what they are in training."""
    return (
        isinstance(encoder, BackboneEncoder)
        and encoder.pooling != "project_mean"  # which projects before it pools
        and not encoder.batch_dependent
        and next(encoder.encoder_parameters(), None) is None
    )
