"""An item encoder in the place of a RecBole model's item tables."""

from __future__ import annotations

import contextlib
from collections import ChainMap
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recbole_morec.data.content import ContentReader, open_content
from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.data.stock_batches import StockBatches
from recbole_morec.data.stock_content_batches import StockContentBatches
from recbole_morec.errors import ConfigError
from recbole_morec.evaluation.catalogue import CatalogueCache, encode_catalogue
from recbole_morec.item_encoders import Content, ItemEncoder, build_item_encoder
from recbole_morec.item_encoders.stored import StoredParts
from recbole_morec.models.content_embedding import ContentEmbedding, ItemVectors
from recbole_morec.models.encoding import encoding_of
from recbole_morec.models.stock_tables import (
    ENCODER_NAMES,
    REGULARISED,
    fields_read,
    tables_of,
    whole_table,
)
from recbole_morec.models.whole_catalogue import WholeCatalogue


class StockContent:
    """Puts an item encoder into a constructed model, whose own initialisation has thus been done.

    In training the vectors are those of the batch's distinct items, or of all items where the loss
    reads the whole table; in evaluation those of the catalogue. Each item is encoded once. A model
    with several item tables shares the vectors: the further tables are linear maps of them.

    The encoder becomes ``model.item_encoder``, as in our models, so that either loads it from the
    other (``content_encoder`` in FEARec, which calls its transformer ``item_encoder``).

    Args:
        config: resolved settings with ``item_encoder``.
        dataset: the dataset.
        model: a sequential model of RecBole; changed in place.
        load_weights: False builds the encoder without its pretrained weights.

    Attributes:
        encoder: the item encoder.
        encoding: encodes the items of a training step with it, all at once or in chunks.
        reader: of the content that it needs.
        stored: what frozen parts of it gave.

    Raises:
        ConfigError: vectors of another size than the model's, or more items than may be encoded in
            each step.
    """

    def __init__(
        self, config: Any, dataset: MultimodalDataset, model: nn.Module, load_weights: bool = True
    ):
        name = type(model).__name__
        paths = tables_of(name)
        tables = [model.get_submodule(path) for path in paths]
        size = tables[0].embedding_dim
        # `transform` is RecBole's here: the change of a batch (BERT4Rec, SHAN).
        settings = ChainMap({"embedding_size": size, "transform": config.image_transform}, config)
        self.encoder: ItemEncoder = build_item_encoder(settings, dataset, load_weights)
        if self.encoder.dim != size:
            raise ConfigError(
                f"item_encoder={config['item_encoder']} gives vectors of {self.encoder.dim}, and "
                f"{name}.{paths[0]} has {size}: leave projection_layers at its default, or give "
                f"the model that size (its embedding_size or hidden_size)."
            )
        self.encoding = encoding_of(self.encoder, config)
        self._config = config
        self._item_num = dataset.item_num
        self._fields = fields_read(name, config)
        self._vectors = ItemVectors()
        self._encoded = CatalogueCache()
        reason = whole_table(name, config)
        for table in tables:
            stand_in = ContentEmbedding(
                table,
                self._vectors,
                dataset.item_num,
                linear=table is not tables[0],
                partial=name in REGULARISED,
            )
            _replace(model, table, stand_in)
        model.add_module(ENCODER_NAMES.get(name, "item_encoder"), self.encoder)
        self.reader: ContentReader = open_content(dataset, self.encoder.needs, config)
        stored = ChainMap({"encode": "distinct"}, settings)
        self.stored = StoredParts(self.encoder, self.reader, dataset, stored)
        self._whole: WholeCatalogue | None = None
        if reason is not None:
            real = np.arange(dataset.item_num) > 0
            everything = SimpleNamespace(candidates=real, item_num=dataset.item_num)
            self._whole = WholeCatalogue(
                self.encoder,
                self.reader,
                everything,
                config,
                because=f": {reason.what}",
                instead=reason.instead,
            )

    def prepare(self) -> None:
        """Make or open the stores of what the encoder's frozen parts give, and look at the images
        that are still read.

        Raises:
            UnreadableImagesError: such images are damaged (``bad_images: error``).
        """
        self.stored.prepare()
        self.reader.prepare(self._config["show_progress"])

    def batches(self, builder: StockBatches) -> StockContentBatches:
        """The batches of ``builder`` with the content of their items."""
        return StockContentBatches(
            builder, self.reader, self._fields, self._item_num, self._whole is not None
        )

    @contextlib.contextmanager
    def step(self, batch: dict[str, Any], device: torch.device) -> Iterator[None]:
        """Within it the model reads the vectors of this batch's items, with gradient."""
        if self._whole is None:
            content, items = batch["content"], batch["content"]["items"]
        else:
            content, items = self._whole.content(device), None
        encoded = self.encoding(self.encoder, content)
        self._vectors.show(torch.cat([encoded.new_zeros(1, encoded.shape[1]), encoded]), items)
        try:
            yield
        finally:
            self._vectors.clear()

    def content_of(self, items: np.ndarray, device: torch.device) -> Content:
        """What a training step gives to the encoder for items ``[n]``."""
        if self._whole is not None:
            return self._whole.first(len(items), device)
        return {key: value.to(device) for key, value in self.reader.fetch(items).items()}

    def encode_catalogue(self, device: torch.device) -> None:
        """From now on, until the next step, the model reads all items as they are encoded now."""
        catalogue: Tensor = self._encoded.get(
            [self.encoder],
            lambda: encode_catalogue(
                SimpleNamespace(encode_items=self.encoder),
                self.reader,
                self._item_num,
                device=device,
                workers=self._config["worker"],
                progress=self._config["show_progress"],
            ),
        )
        self._vectors.show(catalogue)


def _replace(model: nn.Module, table: nn.Module, stand_in: nn.Module) -> None:
    """Put ``stand_in`` wherever ``model`` refers to ``table``; some call it by two names."""
    places = [
        (parent, name)
        for parent in model.modules()
        for name, child in parent._modules.items()
        if child is table
    ]
    for parent, name in places:
        setattr(parent, name, stand_in)
