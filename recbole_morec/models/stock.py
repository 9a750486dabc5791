"""RecBole's own models on our datasets, splits, trainer and evaluator: the baselines."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from recbole.model.abstract_recommender import AutoEncoderMixin
from recbole.utils import ModelType
from torch import Tensor

from recbole_morec import parallel
from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.data.loader import BatchBuilder
from recbole_morec.data.stock_batches import (
    PairBatches,
    PrefixBatches,
    StockBatches,
    UserBatches,
    WholeBatches,
)
from recbole_morec.data.stock_negatives import StockNegatives
from recbole_morec.data.stock_transforms import StockTransform, seeded
from recbole_morec.errors import ConfigError, MoRecError
from recbole_morec.evaluation.stock_scorer import StockScorer
from recbole_morec.item_encoders import Content
from recbole_morec.item_encoders.id import IdEncoder
from recbole_morec.models.adapter import ModelAdapter
from recbole_morec.models.stock_content import StockContent
from recbole_morec.models.stock_limits import refuse
from recbole_morec.models.stock_state import drop_caches, read_state, write_state
from recbole_morec.randomness import stream

# Auto-encoders by behaviour that do not inherit RecBole's mixin.
_USER_ROWS = {"ENMF", "DiffRec", "LDiffRec"}
_NEGATIVE_LISTS = {"DIEN"}
# Models whose full_sort_predict computes the loss as well and throws it away.
_ASKS_TARGET = {"GRU4RecCPR", "SASRecCPR"}


def _construct(config: Any, dataset: Any) -> torch.nn.Module:
    """RecBole's model; whatever it raises on settings that it does not check names the model."""
    try:
        return config.model_class(config, dataset)
    except MoRecError:
        raise
    except Exception as error:  # RecBole and torch raise anything on senseless sizes
        raise ConfigError(
            f"RecBole's {config.model_class.__name__} cannot be built with these settings: "
            f"{type(error).__name__}: {error}. Its settings stand in RecBole's "
            f"properties/model/{config.model_class.__name__}.yaml."
        ) from error


class StockAdapter(ModelAdapter):
    """A model of RecBole: its own class, parameters and loss; our data, training and evaluation.

    RecBole's losses are means over rows (with a few parts that are not, see
    ``docs/recbole-models.md``): a process's share is its own mean times its share of the rows.

    Args:
        config: resolved settings. ``config["device"]`` is where the model is going to be, since
            some models put tensors there at once.
        dataset: the dataset.
        load_weights: False builds an item encoder without its pretrained weights; the stock models
            themselves have none.

    Attributes:
        model: the RecBole model.
        content: the item encoder in the place of its item tables; ``None`` without one.
        trains: False for models that only count (Pop, ItemKNN, ...): call :meth:`loss` once on the
            single batch, with no optimiser.

    Raises:
        ConfigError: the model cannot run here, with its reason.
    """

    def __init__(self, config: Any, dataset: MultimodalDataset, load_weights: bool = True):
        refuse(config, dataset)
        self.config = config
        self.dataset = dataset
        self.trains = config["MODEL_TYPE"] != ModelType.TRADITIONAL
        self._name = config.model_class.__name__
        self._transform = StockTransform(config, dataset)
        view = dataset
        if self._name == "FEARec":
            prefixes = PrefixBatches(config, dataset, None, self._transform)
            view = dataset.copy(prefixes.all_prefixes())
        with seeded(stream(config["seed"], "stock model")):
            self.model = _construct(config, view)
        self.content: StockContent | None = None
        if config.reads_content:
            self.content = StockContent(config, dataset, self.model, load_weights)
            self.item_encoder, self.encoding = self.content.encoder, self.content.encoding
            self.reader, self.stored = self.content.reader, self.content.stored
        self._epoch: int | None = None

    def prepare(self) -> None:
        if self.content is not None:
            self.content.prepare()

    def rows_by_id(self) -> frozenset[str]:
        return frozenset(
            f"{name}.embedding.weight"
            for name, module in self.model.named_modules()
            if isinstance(module, IdEncoder)
        )

    def batches(self) -> BatchBuilder:
        builder = self._batches()
        return builder if self.content is None else self.content.batches(builder)

    def _batches(self) -> StockBatches:
        config, dataset = self.config, self.dataset
        if not self.trains:
            return WholeBatches(dataset)
        if isinstance(self.model, AutoEncoderMixin) or self._name in _USER_ROWS:
            return UserBatches(dataset)
        if config["MODEL_TYPE"] == ModelType.SEQUENTIAL:
            return PrefixBatches(
                config, dataset, self._negatives(), self._transform, self._name in _NEGATIVE_LISTS
            )
        return PairBatches(config, dataset, self._negatives())

    def loss(self, batch: dict[str, Any]) -> Tensor:
        if not self.trains:
            return self._count(batch)
        if not batch["has_terms"]:
            return self._zero()
        # Some losses draw from Python's or numpy's global generator (FEARec, S3Rec, DGCF).
        place = (batch["epoch"], batch["step"], parallel.rank())
        with seeded(stream(self.config["seed"], "stock loss", *place)):
            self._start_epoch(batch["epoch"])
            losses = self._losses(batch)
        if isinstance(losses, tuple):
            if self._name == "NCL" and batch["epoch"] < self.config["warm_up_step"]:
                losses = losses[:-1]
            losses = sum(losses)
        loss = losses.sum() * (batch["local_rows"] / batch["global_rows"])
        # Several processes wait for a gradient of every parameter, used or not.
        return loss + self._zero() if parallel.world_size() > 1 else loss

    def _losses(self, batch: dict[str, Any]) -> Any:
        interaction = batch["interaction"]
        if self.content is None:
            return self.model.calculate_loss(interaction)
        with self.content.step(batch, interaction[self.dataset.uid_field].device):
            return self.model.calculate_loss(interaction)

    def encode_items(self, content: Content) -> Tensor:
        return self.content.encoder(content)

    def content_of(self, items: np.ndarray, device: torch.device) -> Content:
        return self.content.content_of(items, device)

    def scorer(self, device: torch.device) -> StockScorer:
        self.prepare()
        content = self.content
        return StockScorer(
            self.model,
            self.config,
            self.dataset,
            self._transform,
            negative_lists=self._name in _NEGATIVE_LISTS,
            asks_target=self._name in _ASKS_TARGET,
            prepare=None if content is None else lambda: content.encode_catalogue(device),
        )

    def extra_state(self) -> dict[str, Any]:
        return read_state(self.model)

    def load_extra_state(self, state: dict[str, Any]) -> None:
        write_state(self.model, state)
        drop_caches(self.model)

    def _negatives(self) -> StockNegatives | None:
        args = dict(self.config["train_neg_sample_args"])
        if args["distribution"] == "none":
            if self.config["MODEL_TYPE"] != ModelType.CONTEXT:
                return None
            # RecBole's context models read labels from the data; histories hold positives alone.
            args |= {"distribution": "uniform", "sample_num": 1, "alpha": 1.0}
        sequential = self.config["MODEL_TYPE"] == ModelType.SEQUENTIAL
        return StockNegatives(self.dataset, args, self.config["seed"], repeatable=sequential)

    def _count(self, batch: dict[str, Any]) -> Tensor:
        """The single step of a model without a gradient."""
        loss = self.model.calculate_loss(batch["interaction"]).sum()
        if self._name == "Pop":
            # RecBole's Pop adds 1 to an item per batch, however often it occurs in it.
            counts = torch.from_numpy(self.dataset.train_counts)
            self.model.item_cnt = counts[:, None].to(self.model.item_cnt)
            self.model.max_cnt = self.model.item_cnt.max(dim=0)[0]
        return loss

    def _start_epoch(self, epoch: int) -> None:
        """What two models do before an epoch: NCL clusters its embeddings, SGL draws its graphs."""
        if epoch == self._epoch:
            return
        if self._name == "NCL" and (epoch % self.config["m_step"] == 0 or self._epoch is None):
            self.model.e_step()
        if self._name == "SGL":
            with seeded(stream(self.config["seed"], "graphs", epoch)):
                self.model.graph_construction()
        self._epoch = epoch

    def _zero(self) -> Tensor:
        """Zero with a (zero) gradient for every parameter."""
        return sum(p.sum() * 0.0 for p in self.model.parameters() if p.requires_grad)
