"""Scores of RecBole's own models for the evaluator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from recbole.data.interaction import Interaction
from recbole.utils import ModelType
from torch import Tensor, nn

from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.data.stock_batches import other_items
from recbole_morec.data.stock_transforms import StockTransform
from recbole_morec.errors import ConfigError
from recbole_morec.evaluation.scorers import Scorer
from recbole_morec.models.stock_state import drop_caches
from recbole_morec.randomness import stream

MOST_ITEMS_ONE_BY_ONE = 20_000
_PAIRS_AT_ONCE = 1 << 15


class StockScorer(Scorer):
    """Calls ``full_sort_predict``, or ``predict`` on all pairs where a model has only that.

    Args:
        model: a stock model, put into evaluation mode by the caller.
        config: resolved settings.
        dataset: the dataset.
        transform: RecBole's batch transform of the model.
        negative_lists: the model reads a drawn item for every item of the history (DIEN).
        asks_target: the model reads a target even where it only scores (it gets item 1 for all).
        prepare: called once per evaluation (an item encoder encodes the catalogue).

    Attributes:
        one_by_one: True once the model turned out to score single pairs only.
    """

    def __init__(
        self,
        model: nn.Module,
        config: Any,
        dataset: MultimodalDataset,
        transform: StockTransform,
        *,
        negative_lists: bool = False,
        asks_target: bool = False,
        prepare: Callable[[], None] | None = None,
    ):
        self._model = model
        self._dataset = dataset
        self._transform = transform
        self._sequential = config["MODEL_TYPE"] == ModelType.SEQUENTIAL
        self._reads_features = config["MODEL_TYPE"] == ModelType.CONTEXT
        self._draws = config["MODEL_TYPE"] == ModelType.TRADITIONAL
        self._seed = config["seed"]
        self._list_field = dataset.iid_field + config["LIST_SUFFIX"]
        self._length_field = config["ITEM_LIST_LENGTH_FIELD"]
        lists = config["NEG_PREFIX"] + self._list_field
        self._negative_list_field = lists if negative_lists else ""
        self._asks_target = asks_target
        self._prepare = prepare
        self.one_by_one = False

    def prepare(self) -> None:
        drop_caches(self._model)
        if self._prepare is not None:
            self._prepare()

    def scores(self, users: Tensor, histories: Tensor) -> Tensor:
        """Return scores ``[T, N]``; see :class:`Scorer`.

        Raises:
            ConfigError: the model scores only single pairs and the catalogue is too large for it.
        """
        interaction = self._interaction(users, histories)
        if not self._draws:
            return self._all_items(interaction, len(users))
        # Random and ADMMSLIM draw when they score; a tile's draws depend on nothing but the tile.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(self._seed, "scores", int(users[0])))
            return self._all_items(interaction, len(users))

    def _interaction(self, users: Tensor, histories: Tensor) -> Interaction:
        fields = {self._dataset.uid_field: users}
        if not self._sequential:
            return Interaction(fields)
        right_padded, length = to_right_padded(histories)
        fields |= {self._list_field: right_padded, self._length_field: length}
        if self._negative_list_field:
            items = right_padded.cpu().numpy()
            drawn = other_items(self._dataset.item_num, items, items, self._seed)
            fields[self._negative_list_field] = torch.from_numpy(drawn).to(users.device)
        if self._asks_target:
            fields[self._dataset.iid_field] = torch.ones_like(users)
        return self._transform.score(Interaction(fields))

    def _all_items(self, interaction: Interaction, count: int) -> Tensor:
        if not self.one_by_one:
            try:
                scores = self._model.full_sort_predict(interaction)
            except NotImplementedError:
                self.one_by_one = True
            else:
                return scores.reshape(count, -1).to(interaction[self._dataset.uid_field].device)
        return self._pairs(interaction, count)

    def _pairs(self, interaction: Interaction, count: int) -> Tensor:
        item_num = self._dataset.item_num
        device = interaction[self._dataset.uid_field].device
        if item_num > MOST_ITEMS_ONE_BY_ONE:
            raise ConfigError(
                f"model={type(self._model).__name__} scores one user-item pair at a time and this "
                f"dataset has {item_num - 1} items; it is evaluated on at most "
                f"{MOST_ITEMS_ONE_BY_ONE - 1}. Choose another model or a smaller dataset."
            )
        pair = torch.arange(count * item_num, device=device)
        found = []
        for chunk in pair.split(_PAIRS_AT_ONCE):
            row = chunk // item_num
            fields = {key: interaction[key][row] for key in interaction}
            fields[self._dataset.iid_field] = chunk % item_num
            asked = Interaction(fields)
            if self._reads_features:
                asked = self._dataset.join(asked)
            found.append(self._model.predict(asked).reshape(-1))
        return torch.cat(found).reshape(count, item_num)


def to_right_padded(histories: Tensor) -> tuple[Tensor, Tensor]:
    """Move padding from the left to the right.

    Args:
        histories: item ids ``[T, L]``, padded on the left with 0.

    Returns:
        Ids ``[T, L]`` padded on the right, and the number of items ``[T]``.
    """
    width = histories.shape[1]
    length = (histories > 0).sum(1)
    slot = torch.arange(width, device=histories.device)[None, :]
    place = slot + (width - length)[:, None]
    moved = histories.gather(1, place.clamp_max(width - 1))
    return torch.where(slot < length[:, None], moved, 0), length
