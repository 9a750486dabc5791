"""The models that read item content: what all of them share, and the sequential one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, ClassVar, Literal

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_morec.data.targets import TargetKind
from recbole_morec.errors import ConfigError, MoRecError
from recbole_morec.item_encoders import ItemEncoder, build_item_encoder
from recbole_morec.item_encoders.base import Reserved
from recbole_morec.item_encoders.id import IdEncoder
from recbole_morec.models.encoding import encoding_of
from recbole_morec.models.every_slot import one_row_per_slot
from recbole_morec.objectives import OBJECTIVES, positions
from recbole_morec.user_encoders import USER_ENCODERS, History, UserEncoder, training_history
from recbole_morec.user_encoders.tower import tower_of, tower_size


class MultimodalRecommender(SequentialRecommender):
    """A recommender whose item vectors come from item content.

    Subclasses write :meth:`calculate_loss` and :meth:`encode_users`, and :meth:`score` where a
    score is not a dot product.

    Args:
        config: resolved settings.
        dataset: the dataset; item tokens, folder and numbers of users and items are read.
        load_weights: False builds the item encoder without its pretrained weights (they come from
            a checkpoint).

    Attributes:
        item_encoder: content -> item vectors.
        item_tower: layers after it (``item_tower``), or ``None``.
        encoding: encodes the items of a training step, all at once or in chunks.
        targets: which slots of a training row the loss reads.
        negatives: drawn negatives that a batch must carry, of every target.
        shares_negatives: they are one set for the whole batch instead.
        trains: False for a model without anything to learn.
        chooses: the settings that choose a part of it, of ``user_encoder`` and ``objective``.
        shortest_row: items that a training row needs; 1 where an item is predicted from the user.
        fuses: several item encoders are joined as ``fusion`` says.
        reads_whole_batch: a term of the loss depends on the other rows of the batch, so that
            micro-batches do not add up to it.
        encodes: ``batch``, or ``catalogue`` where every step needs the vectors of all candidates.
        transfer_parts: start of a tensor's name -> the part of ``load`` (docs/transfer.md) that it
            belongs to, where that is not plain from the name; the rest goes with the user encoder.
        catalogue: item vectors ``[N, d]`` of an evaluation, see :meth:`set_catalogue`.
    """

    input_type = InputType.POINTWISE
    targets: TargetKind = "next"
    negatives: int = 0
    shares_negatives: bool = False
    encodes: Literal["batch", "catalogue"] = "batch"
    trains: bool = True
    chooses: tuple[str, ...] = ("user_encoder", "objective")
    shortest_row: int = 2
    transfer_parts: ClassVar[dict[str, str]] = {
        "item_tower": "projection",
        "objective.head": "item_table",
    }
    reads_whole_batch: bool = False
    fuses: bool = True

    def __init__(self, config: Any, dataset: Any, load_weights: bool = True):
        super().__init__(config, dataset)
        self.item_encoder = self.build_item_encoder(config, dataset, load_weights)
        dim = self.item_encoder.dim
        self.item_tower = tower_of(config, dim) if config["item_tower"] else None
        self._item_size = tower_size(config, dim) if config["item_tower"] else dim
        self.pad_vector = config["pad_vector"]
        self.encode = config["encode"]
        self.encoding = encoding_of(self.item_encoder, config, shared=config["share_encoding"])
        self.catalogue: Tensor | None = None

    @classmethod
    def unfit_settings(cls, values: Mapping[str, Any]) -> list[str]:
        """Problems of settings that this model alone has, one sentence each; told before data is
        read."""
        return []

    def build_item_encoder(self, config: Any, dataset: Any, load_weights: bool) -> ItemEncoder:
        """The item encoder that the settings name."""
        return build_item_encoder(config, dataset, load_weights)

    @property
    def item_size(self) -> int:
        """Size of the vectors that the item encoder gives, after the tower where there is one."""
        return self._item_size

    @property
    def transferable(self) -> bool:
        """True if no parameter belongs to a user or an item."""
        return not self.rows_by_id()

    def rows_by_id(self) -> frozenset[str]:
        """Names of parameters that belong to items or users: of use with the same ids only."""
        return frozenset(
            f"{name}.embedding.weight"
            for name, module in self.named_modules()
            if isinstance(module, IdEncoder)
        )

    def projection_parameters(self) -> Iterator[nn.Parameter]:
        """What ``projection_group`` decides about."""
        yield from self.item_encoder.parameters()

    @abstractmethod
    def calculate_loss(self, batch: dict[str, Any]) -> Tensor | dict[str, Tensor]:
        """This process's share of the loss of a batch (``recbole_morec.data.batches``), or the
        named parts that it is the sum of."""

    @abstractmethod
    def encode_users(self, vectors: Tensor, items: Tensor, user: Tensor) -> Any:
        """What :meth:`score` compares items with, after histories padded on the left.

        Args:
            vectors: item vectors ``[B, L, d]``.
            items: item ids ``[B, L]``, 0 = padding.
            user: user ids ``[B]``.

        Returns:
            States ``[B, d]``, or what a model's own :meth:`score` reads.
        """

    def score(self, users: Any, items: Tensor) -> Tensor | dict[str, Tensor]:
        """Scores ``[B, n]`` of user states ``[B, d]`` and item vectors ``[n, d]``.

        A model with branches gives them by name, what it recommends by first.
        """
        return users @ items.T

    # --- item vectors -------------------------------------------------------------------------

    def encode_items(self, content: dict[str, Tensor]) -> Tensor:
        """Item vectors ``[n, d]`` of a batch of item content."""
        vectors = self.item_encoder(content)
        return vectors if self.item_tower is None else self.item_tower(vectors)

    def encoding_modules(self) -> list[nn.Module]:
        """The modules whose weights decide :meth:`encode_items`: all, where a class has its own."""
        if type(self).encode_items is not MultimodalRecommender.encode_items:
            return [self]
        modules = [self.item_encoder, self.item_tower]
        return [module for module in modules if module is not None]

    def encode_reserved(self, kind: Reserved) -> Tensor:
        """The vector ``[1, d]`` of padding or of a mask, encoded like an item's."""
        # A model without parameters has its features.
        device = next(chain(self.parameters(), self.buffers())).device
        content = {key: value.to(device) for key, value in self.item_encoder.reserved(kind).items()}
        return self.encoding(self.encode_items, content)

    def encode_batch(self, batch: dict[str, Any]) -> tuple[dict[str, Any], Tensor]:
        """Encode the items of a batch, each once or (``encode: every_slot``) once per slot.

        Returns:
            The batch, whose indices fit the vectors, and ``[1 + n, d]``: padding, then the items.
        """
        every_slot = self.encode == "every_slot" and len(batch["item_seq"]) > 0
        if every_slot:
            batch = one_row_per_slot(batch, self.item_encoder)
        encoded = self.encoding(self.encode_items, batch["content"])
        if every_slot and self.pad_vector == "zero":
            # Padding was encoded for the statistics; it is read as zero all the same.
            encoded = encoded.index_fill(0, batch["item_index"][~batch["mask"]] - 1, 0.0)
        if not every_slot and self.pad_vector == "encoded":
            return batch, torch.cat([self.encode_reserved("pad"), encoded])
        return batch, torch.cat([encoded.new_zeros(1, *encoded.shape[1:]), encoded])

    @torch.no_grad()
    def set_catalogue(self, catalogue: Tensor) -> None:
        """Take the item vectors ``[N, d]`` that users are scored against; row 0 is padding."""
        if self.pad_vector == "encoded":
            catalogue[:1] = self.encode_reserved("pad")
        self.catalogue = catalogue

    def nothing(self) -> Tensor:
        """Zero with a gradient for every parameter: the loss of a process without rows, which
        still takes part in every collective."""
        return sum(p.sum() * 0.0 for p in self.parameters() if p.requires_grad)

    # --- RecBole's own calls --------------------------------------------------------------------

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """RecBole's scores of all items, flattened ``[B * N]`` (histories padded on the right)."""
        users = self._users(interaction)
        return _main(self.score(users, self._catalogue())).reshape(-1)

    def predict(self, interaction: Any) -> Tensor:
        """RecBole's scores ``[B]`` of one item per row."""
        items = self._catalogue()[interaction[self.ITEM_ID]]  # [B, d]
        return _main(self.score(self._users(interaction), items)).diagonal()

    def _users(self, interaction: Any) -> Any:
        right_padded = interaction[self.ITEM_SEQ]  # [B, L]
        length = right_padded.shape[1]
        shift = length - interaction[self.ITEM_SEQ_LEN][:, None]
        slot = torch.arange(length, device=right_padded.device)[None, :] - shift
        items = torch.where(slot >= 0, right_padded.gather(1, slot.clamp_min(0)), 0)
        return self.encode_users(self._catalogue()[items], items, interaction[self.USER_ID])

    def _catalogue(self) -> Tensor:
        if self.catalogue is None:
            raise MoRecError(
                "The catalogue matrix is not set; call "
                "recbole_morec.evaluation.catalogue.encode_catalogue first and give its result to "
                "the model's set_catalogue."
            )
        return self.catalogue


def _main(scores: Tensor | dict[str, Tensor]) -> Tensor:
    return scores if isinstance(scores, Tensor) else next(iter(scores.values()))


def target_kind(config: Any, encoder: UserEncoder) -> TargetKind:
    """The slots that a user encoder learns from under the settings."""
    newest = config["window"] == "prefixes" or config["target_slots"] == "last"
    return "last" if newest else encoder.targets


class MultimodalSequential(MultimodalRecommender):
    """An item encoder, a user encoder and an objective, in any combination.

    Attributes:
        user_encoder, objective: the other two parts.
    """

    def __init__(self, config: Any, dataset: Any, load_weights: bool = True):
        super().__init__(config, dataset, load_weights)
        self.user_encoder = self.build_user_encoder(config, dataset)
        self.objective = OBJECTIVES.get(config["objective"]).from_config(config, dataset)
        self.negatives = self.objective.negatives
        self.shares_negatives = self.objective.shares_negatives
        self.reads_whole_batch = self.objective.reads_whole_batch
        self.encodes = self.objective.encodes
        self.targets = target_kind(config, self.user_encoder)
        self.shortest_row = 2 if self.user_encoder.reads_history else 1
        masks = self.user_encoder.targets == "masked"
        self._encodes_mask = masks and config["mask_vector"] == "encoded"
        self._mask: Tensor | None = None

    def build_user_encoder(self, config: Any, dataset: Any) -> UserEncoder:
        """The user encoder that the settings name.

        Raises:
            ConfigError: the item encoder gives vectors of another size.
        """
        if self.item_encoder.dim != config["embedding_size"]:
            raise ConfigError(
                f"The item encoder gives vectors of {self.item_encoder.dim}, but "
                f"embedding_size={config['embedding_size']}."
            )
        return USER_ENCODERS.get(config["user_encoder"]).from_config(config, dataset)

    def rows_by_id(self) -> frozenset[str]:
        names = super().rows_by_id()
        for part in ("user_encoder", "objective"):
            module = getattr(self, part)
            if not module.transferable:
                names |= {f"{part}.{name}" for name, _ in module.named_parameters()}
        return names

    def encode_users(self, vectors: Tensor, items: Tensor, user: Tensor) -> Tensor:
        history = History(
            vectors, items, items > 0, user, "predict", newest_only=True, mask_vector=self._mask
        )
        return self.user_encoder(history)[:, -1]

    def set_catalogue(self, catalogue: Tensor) -> None:
        super().set_catalogue(catalogue)
        if self._encodes_mask:
            with torch.no_grad():
                self._mask = self.encode_reserved("mask")[0]

    def calculate_loss(self, batch: dict[str, Any]) -> Tensor:
        batch, vectors = self.encode_batch(batch)
        mask = self.encode_reserved("mask")[0] if self._encodes_mask else None
        history = training_history(batch, vectors, self.user_encoder, mask)
        predicted = positions(batch, self.user_encoder.offset)
        if len(batch["item_seq"]) == 0:
            return self.objective(history.vectors, predicted, vectors, batch) + self.nothing()
        return self.objective(self.user_encoder(history), predicted, vectors, batch)
