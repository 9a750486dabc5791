"""What trainer and evaluator ask of a model, the same for ours and for RecBole's own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recbole_morec import parallel
from recbole_morec.data.batches import MultimodalBatches
from recbole_morec.data.content import ContentReader, open_content
from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.data.loader import BatchBuilder
from recbole_morec.data.negatives import NegativeSampler
from recbole_morec.data.targets import Targets
from recbole_morec.data.windows import Prefixes, Rows, Windows
from recbole_morec.evaluation.catalogue import CatalogueCache, encode_catalogue
from recbole_morec.evaluation.scorers import CatalogueScorer, Scorer
from recbole_morec.item_encoders import Content, ItemEncoder
from recbole_morec.item_encoders.stored import StoredParts
from recbole_morec.models.base import MultimodalRecommender
from recbole_morec.models.encoding import Encoding
from recbole_morec.models.whole_catalogue import WholeCatalogue


class ModelAdapter(ABC):
    """A model together with its way of reading the dataset.

    Args:
        config: resolved settings.
        dataset: the dataset.
        load_weights: False when a checkpoint will fill the model.

    Attributes:
        model: the RecBole model (an ``nn.Module``).
        dataset: the dataset.
        item_encoder: what its item vectors come from; ``None`` for a model on ids.
        encoding: how a training step encodes its items; ``None`` for a model on ids.
        reader: of the content that it needs; ``None`` for a model on ids.
        stored: what frozen parts of the item encoder gave, see :meth:`prepare`.
        trains: False for models without a gradient step (Pop): one pass over the data.
        bound_to_ids: True if parameters belong to internal ids, so that the model is of use with
            the same users and items in the same order only.
    """

    model: nn.Module
    dataset: MultimodalDataset
    item_encoder: ItemEncoder | None = None
    encoding: Encoding | None = None
    reader: ContentReader | None = None
    stored: StoredParts | None = None
    trains: bool = True
    bound_to_ids: bool = True

    @abstractmethod
    def __init__(self, config: Any, dataset: MultimodalDataset, load_weights: bool = True): ...

    @abstractmethod
    def batches(self) -> BatchBuilder:
        """The builder of training batches."""

    @abstractmethod
    def loss(self, batch: dict[str, Any]) -> Tensor | dict[str, Tensor]:
        """This process's share of the loss: summed over processes and micro-batches it is the
        loss of the whole batch. Named parts add up to it."""

    def encode_items(self, content: Content) -> Tensor:
        """The vectors ``[n, ...]`` that a training step makes of item content."""
        raise NotImplementedError

    def content_of(self, items: np.ndarray, device: torch.device) -> Content:
        """What a training step gives to :meth:`encode_items` for items ``[n]``."""
        raise NotImplementedError

    @abstractmethod
    def scorer(self, device: torch.device) -> Scorer:
        """Scores for the evaluator."""

    def prepare(self) -> None:  # noqa: B027 - optional
        """Compute what stays the same for as long as frozen weights do, and look at the images that
        are still read; called when the weights are in place, on the device of the run, before
        batches are built or items scored.

        Raises:
            UnreadableImagesError: images that will be read are damaged (``bad_images: error``).
        """

    def rows_by_id(self) -> frozenset[str]:
        """Names of tensors that a transfer may take from the same items and users only."""
        return frozenset()

    def extra_state(self) -> dict[str, Any]:
        """Tensors and scalars of the model that its ``state_dict`` does not hold."""
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:  # noqa: B027 - optional
        """Take back what :meth:`extra_state` gave."""


class _Nothing:
    """The single empty batch of a model that learns nothing."""

    rows = range(1)

    def terms(self, rows: Any, epoch: int) -> int:
        return 0

    def build(self, rows: Any, epoch: int, step: int = 0) -> dict[str, Any]:
        return {}


class MultimodalAdapter(ModelAdapter):
    """Our models: windows with content, scores against an encoded catalogue."""

    def __init__(self, config: Any, dataset: MultimodalDataset, load_weights: bool = True):
        self.config = config
        self.dataset = dataset
        self.model: MultimodalRecommender = config.model_class(config, dataset, load_weights)
        self.trains = self.model.trains
        self.bound_to_ids = not self.model.transferable
        encoder = self.item_encoder = self.model.item_encoder
        self.encoding = self.model.encoding
        self.content: ContentReader = open_content(dataset, encoder.needs, config)
        self.reader = self.content
        self.stored = StoredParts(encoder, self.content, dataset, config)
        self._encoded = CatalogueCache()
        self._whole: WholeCatalogue | None = None
        if self.model.encodes == "catalogue":
            self._whole = WholeCatalogue(encoder, self.content, dataset, config)

    def prepare(self) -> None:
        self.stored.prepare()
        self.content.prepare(self.config["show_progress"])

    def rows_by_id(self) -> frozenset[str]:
        return self.model.rows_by_id()

    def batches(self) -> BatchBuilder:
        config, model = self.config, self.model
        if not model.trains:
            return _Nothing()
        width = self.dataset.protocol.max_length + 1
        targets = Targets(model.targets, width, config["mask_ratio"], config["seed"])
        negatives, share = None, (0, 1)
        if model.negatives:
            negatives = NegativeSampler.from_config(
                config, self.dataset, model.negatives, shared=model.shares_negatives
            )
            if config["gather_negatives"]:
                share = (parallel.rank(), parallel.world_size())
        whole = self._whole is not None
        return MultimodalBatches(
            self.dataset, self.content, self._rows(), targets, negatives, share, whole
        )

    def _rows(self) -> Rows:
        splits, length = self.dataset.splits, self.dataset.protocol.max_length
        if self.config["window"] == "prefixes":
            return Prefixes(splits, length)
        last = self.config["window"] == "last"
        return Windows(
            splits, length, self.config["window_remainder"], last, self.model.shortest_row
        )

    def loss(self, batch: dict[str, Any]) -> Tensor | dict[str, Tensor]:
        if self._whole is not None:
            batch = {**batch, "content": self._whole.content(batch["item_seq"].device)}
        return self.model.calculate_loss(batch)

    def encode_items(self, content: Content) -> Tensor:
        return self.model.encode_items(content)

    def content_of(self, items: np.ndarray, device: torch.device) -> Content:
        if self._whole is not None:
            return self._whole.first(len(items), device)
        return {key: value.to(device) for key, value in self.content.fetch(items).items()}

    def scorer(self, device: torch.device) -> Scorer:
        self.prepare()

        def encode(model: MultimodalRecommender) -> Tensor:
            return self._encoded.get(
                model.encoding_modules(),
                lambda: encode_catalogue(
                    model,
                    self.content,
                    self.dataset.item_num,
                    device=device,
                    workers=self.config["worker"],
                    progress=self.config["show_progress"],
                ),
            )

        return CatalogueScorer(self.model, encode)


def build_adapter(
    config: Any, dataset: MultimodalDataset, load_weights: bool = True
) -> ModelAdapter:
    """The adapter of the model that the settings name."""
    if config.multimodal:
        return MultimodalAdapter(config, dataset, load_weights)
    from recbole_morec.models.stock import StockAdapter

    return StockAdapter(config, dataset, load_weights)
