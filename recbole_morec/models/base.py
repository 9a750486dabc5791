"""The model that joins an item encoder, a user encoder and an objective."""

from __future__ import annotations

from typing import Any

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor

from recbole_morec.errors import ConfigError, MoRecError
from recbole_morec.item_encoders import build_item_encoder
from recbole_morec.objectives import OBJECTIVES
from recbole_morec.user_encoders import USER_ENCODERS, History


class MultimodalSequential(SequentialRecommender):
    """A sequential recommender whose item vectors come from item content.

    Args:
        config: resolved settings.
        dataset: the dataset; only its item tokens and folder are read.
        load_weights: False builds the item encoder without its pretrained weights (they come from
            a checkpoint).

    Attributes:
        item_encoder, user_encoder, objective: the three parts.
        catalogue: item vectors ``[N, d]`` set by the evaluator for RecBole's ``predict`` methods.
    """

    input_type = InputType.POINTWISE

    def __init__(self, config: Any, dataset: Any, load_weights: bool = True):
        super().__init__(config, dataset)
        self.item_encoder = build_item_encoder(config, dataset, load_weights=load_weights)
        self.user_encoder = USER_ENCODERS.get(config["user_encoder"]).from_config(config)
        self.objective = OBJECTIVES.get(config["objective"]).from_config(config)
        self.catalogue: Tensor | None = None
        if self.item_encoder.dim != config["embedding_size"]:
            raise ConfigError(
                f"The item encoder gives vectors of {self.item_encoder.dim}, but "
                f"embedding_size={config['embedding_size']}."
            )

    def encode_items(self, content: dict[str, Tensor]) -> Tensor:
        """Item vectors ``[n, d]`` of a batch of item content."""
        return self.item_encoder(content)

    def encode_users(self, vectors: Tensor, items: Tensor, user: Tensor) -> Tensor:
        """States ``[B, d]`` after histories padded on the left.

        Args:
            vectors: item vectors ``[B, L, d]``.
            items: item ids ``[B, L]``, 0 = padding.
            user: user ids ``[B]``.
        """
        history = History(vectors, items, items > 0, user, "predict")
        return self.user_encoder(history)[:, -1]

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores ``[B, n]`` of user states ``[B, d]`` and item vectors ``[n, d]``."""
        return users @ items.T

    def calculate_loss(self, batch: dict[str, Any]) -> Tensor:
        """This process's share of the loss of a batch of :class:`MultimodalBatches`."""
        encoded = self.encode_items(batch["content"])  # [n, d]
        vectors = torch.cat([encoded.new_zeros(1, encoded.shape[1]), encoded])
        item_seq = batch["item_seq"]
        history = History(
            vectors=vectors[batch["item_index"][:, :-1]],  # [B, L, d]
            items=item_seq[:, :-1],
            mask=batch["mask"][:, :-1],
            user=batch["user"],
            mode="train",
        )
        positions = self.user_encoder.predicts(batch)
        if len(item_seq) == 0:
            # A process without rows still takes part in every collective, with zero gradients.
            nothing = sum(p.sum() * 0.0 for p in self.parameters() if p.requires_grad)
            return self.objective(history.vectors, positions, vectors, batch) + nothing
        return self.objective(self.user_encoder(history), positions, vectors, batch)

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """RecBole's scores of all items, flattened ``[B * N]`` (histories padded on the right)."""
        users = self._users(interaction)
        return self.score(users, self._catalogue()).reshape(-1)

    def predict(self, interaction: Any) -> Tensor:
        """RecBole's scores ``[B]`` of one item per row."""
        items = self._catalogue()[interaction[self.ITEM_ID]]  # [B, d]
        return self.score(self._users(interaction), items).diagonal()

    def _users(self, interaction: Any) -> Tensor:
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
                "recbole_morec.evaluation.catalogue.encode_catalogue first."
            )
        return self.catalogue
