"""The dataset interface that RecBole's models, metrics and tools read.

Everything here describes the *training* part of the histories, as RecBole passes
``train_data.dataset`` to its models; only ids and their numbers cover the whole dataset.
"""

from __future__ import annotations

import copy
import functools
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch
from recbole.data.interaction import Interaction
from recbole.utils import FeatureSource, FeatureType
from torch import Tensor

from recbole_morec.data.histories import Histories
from recbole_morec.data.item_features import ItemFeatures, read_item_features
from recbole_morec.data.splits import Splits
from recbole_morec.data.tokens import TokenTable
from recbole_morec.errors import DataError
from recbole_morec.randomness import permutation, stream


class RecBoleInterface:
    """Mixin: RecBole's dataset attributes on top of histories and token tables."""

    config: Any
    folder: Path
    user_tokens: TokenTable
    item_tokens: np.ndarray
    histories: Histories
    splits: Splits
    train_counts: np.ndarray
    uid_field: str
    iid_field: str
    time_field: str | None
    user_feat: Interaction | None = None

    # --- sizes ----------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Number of training interactions."""
        return self.inter_num

    @property
    def user_num(self) -> int:
        """Number of users, padding included."""
        return len(self.user_tokens)

    @property
    def item_num(self) -> int:
        """Number of items, padding included."""
        return len(self.item_tokens)

    @property
    def inter_num(self) -> int:
        """Number of training interactions."""
        return int(self.train_counts.sum())

    def num(self, field: str) -> int:
        """Number of distinct tokens of a field, padding included; 1 for a number."""
        if field in (self.uid_field, self.iid_field):
            return self.user_num if field == self.uid_field else self.item_num
        self._require(field, self.field2type)
        if self.field2type[field] in (FeatureType.FLOAT, FeatureType.FLOAT_SEQ):
            return 1
        return len(self.field2id_token[field])

    @property
    def avg_actions_of_users(self) -> float:
        """Mean number of training interactions of a user who has any."""
        return self.inter_num / max(len(self.user_counter), 1)

    @property
    def avg_actions_of_items(self) -> float:
        """Mean number of training interactions of an item that has any."""
        return self.inter_num / max(len(self.item_counter), 1)

    @property
    def sparsity(self) -> float:
        """Share of user-item pairs without a training interaction."""
        return 1 - self.inter_num / max((self.user_num - 1) * (self.item_num - 1), 1)

    # --- fields and tokens ----------------------------------------------------------------------

    @property
    def field2type(self) -> dict[str, FeatureType]:
        """Type of every field."""
        types = {self.uid_field: FeatureType.TOKEN, self.iid_field: FeatureType.TOKEN}
        if self.time_field:
            types[self.time_field] = FeatureType.FLOAT
        return types | self._item_features.types

    @property
    def field2source(self) -> dict[str, FeatureSource]:
        """Where every field comes from."""
        sources = {self.uid_field: FeatureSource.USER_ID, self.iid_field: FeatureSource.ITEM_ID}
        if self.time_field:
            sources[self.time_field] = FeatureSource.INTERACTION
        return sources | dict.fromkeys(self._item_features.types, FeatureSource.ITEM)

    @property
    def field2seqlen(self) -> dict[str, int]:
        """Length of every field; those of sequential batches included."""
        columns = self._item_features.columns
        return {
            **dict.fromkeys(self.field2type, 1),
            **{name: column.shape[1] for name, column in columns.items() if column.ndim == 2},
            self.iid_field + self.config["LIST_SUFFIX"]: self.config["MAX_ITEM_LIST_LENGTH"],
            self.config["ITEM_LIST_LENGTH_FIELD"]: 1,
        }

    def fields(
        self,
        ftype: FeatureType | Iterable[FeatureType] | None = None,
        source: FeatureSource | Iterable[FeatureSource] | None = None,
    ) -> list[str]:
        """Names of the fields of the given types and sources (``None`` = any)."""
        types = _as_set(ftype, FeatureType)
        sources = _as_set(source, FeatureSource)
        return [
            field
            for field, kind in self.field2type.items()
            if kind in types and self.field2source[field] in sources
        ]

    @property
    def field2id_token(self) -> dict[str, np.ndarray | TokenTable]:
        """Original tokens by internal id, of users, items and item features."""
        ids = {self.uid_field: self.user_tokens, self.iid_field: self.item_tokens}
        return ids | self._item_features.tokens

    @functools.cached_property
    def field2token_id(self) -> dict[str, Mapping[str, int]]:
        """Internal id by original token, of users, items and item features."""
        ids: dict[str, Mapping[str, int]] = {
            field: {token: number for number, token in enumerate(tokens)}
            for field, tokens in self.field2id_token.items()
            if field != self.uid_field
        }
        return {self.uid_field: self.user_tokens.ids, **ids}

    def token2id(self, field: str, tokens: str | Iterable[str]) -> int | np.ndarray:
        """Internal id(s) of one token or of several.

        Raises:
            DataError: the field or a token is unknown.
        """
        self._require(field, self.field2id_token)
        ids = self.field2token_id[field]
        if isinstance(tokens, str):
            if tokens not in ids:
                raise DataError(f"{field}: there is no token {tokens!r} in {self.folder}.")
            return ids[tokens]
        return np.array([self.token2id(field, token) for token in tokens], dtype=np.int64)

    def id2token(self, field: str, ids: int | np.ndarray | Tensor) -> Any:
        """Original token(s) of one internal id or of an array of them.

        Raises:
            DataError: the field or an id is unknown.
        """
        self._require(field, self.field2id_token)
        try:
            return self.field2id_token[field][ids]
        except IndexError as error:
            raise DataError(f"{field}: there is no internal id {ids}.") from error

    # --- interactions ---------------------------------------------------------------------------

    @functools.cached_property
    def inter_feat(self) -> Interaction:
        """The training interactions as pairs, user by user in time order.

        The time field holds the place in the user's history: the order is exact and survives
        RecBole's float32.
        """
        count = self.splits.train_stop - self.splits.start
        users = np.repeat(np.arange(self.user_num), count)
        mask = self.splits.training_mask(len(self.histories.items))
        columns = {
            self.uid_field: torch.from_numpy(users),
            self.iid_field: torch.from_numpy(self.histories.items[mask].astype(np.int64)),
        }
        if self.time_field:
            first = np.repeat(np.cumsum(count) - count, count)
            columns[self.time_field] = torch.from_numpy(np.arange(len(users)) - first).float()
        return Interaction(columns)

    def copy(self, new_inter_feat: Interaction) -> RecBoleInterface:
        """This dataset with other interactions in ``inter_feat``."""
        other = copy.copy(self)
        other.__dict__["inter_feat"] = new_inter_feat
        return other

    @functools.cached_property
    def item_counter(self) -> Counter:
        """Training interactions by internal item id."""
        return Counter({i: int(n) for i, n in enumerate(self.train_counts) if n})

    @functools.cached_property
    def user_counter(self) -> Counter:
        """Training interactions by internal user id."""
        count = self.splits.train_stop - self.splits.start
        return Counter({u: int(n) for u, n in enumerate(count) if n})

    def counter(self, field: str) -> Counter:
        """Training interactions by internal id of the user or the item field."""
        self._require(field, (self.uid_field, self.iid_field))
        return self.user_counter if field == self.uid_field else self.item_counter

    def inter_matrix(
        self, form: str = "coo", value_field: str | None = None
    ) -> scipy.sparse.coo_matrix | scipy.sparse.csr_matrix:
        """Training interactions as a sparse matrix ``[users, items]``.

        Args:
            form: ``coo`` (a pair that occurs twice stands twice) or ``csr`` (its values add up).
            value_field: field whose values the matrix holds; ``None`` = ones.
        """
        if form not in ("coo", "csr"):
            raise NotImplementedError(f"Sparse matrix format [{form}] is not implemented.")
        users, items = self.inter_feat[self.uid_field], self.inter_feat[self.iid_field]
        matrix = scipy.sparse.coo_matrix(
            (self._values(value_field), (users.numpy(), items.numpy())),
            shape=(self.user_num, self.item_num),
        )
        return matrix if form == "coo" else matrix.tocsr()

    def history_item_matrix(
        self, value_field: str | None = None, max_history_len: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Training items of every user.

        Args:
            value_field: field whose values the second result holds; ``None`` = ones.
            max_history_len: keep this many of a user's items, chosen at random.

        Returns:
            ids int64 ``[users, H]`` padded with 0, values fp32 ``[users, H]``, lengths ``[users]``.
        """
        return self._history_matrix(self.uid_field, self.iid_field, value_field, max_history_len)

    def history_user_matrix(
        self, value_field: str | None = None, max_history_len: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Training users of every item; see :meth:`history_item_matrix`."""
        return self._history_matrix(self.iid_field, self.uid_field, value_field, max_history_len)

    # --- features -------------------------------------------------------------------------------

    def get_user_feature(self) -> Interaction:
        """Features of the users by internal id: the id itself."""
        return Interaction({self.uid_field: torch.arange(self.user_num)})

    @property
    def item_feat(self) -> Interaction | None:
        """Features of the items by internal id, or ``None`` where ``.item`` has none."""
        return self.get_item_feature() if self._item_features.columns else None

    def get_item_feature(self) -> Interaction:
        """Features of the items by internal id: the id itself and the categories of ``.item``."""
        number = torch.arange(self.item_num)
        return Interaction({self.iid_field: number, **self._item_features.columns})

    def join(self, interaction: Interaction) -> Interaction:
        """Add the features of the items that stand in the item field."""
        items = interaction[self.iid_field]
        for name, column in self._item_features.columns.items():
            interaction[name] = column.to(items.device)[items]
        return interaction

    @property
    def dataset_path(self) -> str:
        """The dataset's folder."""
        return str(self.folder)

    # --- inner ----------------------------------------------------------------------------------

    @functools.cached_property
    def _item_features(self) -> ItemFeatures:
        path = self.folder / f"{self.config['dataset']}.item"
        return read_item_features(path, self.iid_field, self.item_tokens)

    def _require(self, field: str, known: Iterable[str]) -> None:
        if field not in known:
            raise DataError(
                f"Dataset {self.folder} has no field {field!r}; it has {', '.join(known)}."
            )

    def _values(self, value_field: str | None) -> np.ndarray:
        if value_field is None:
            return np.ones(self.inter_num)
        self._require(value_field, self.inter_feat.columns)
        return self.inter_feat[value_field].numpy()

    def _history_matrix(
        self, row_field: str, column_field: str, value_field: str | None, max_len: int | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        # RecBole shuffles first, so that a maximum length keeps a random part of a history.
        order = permutation(stream(self.config["seed"], "history matrix"), self.inter_num)
        row = self.inter_feat[row_field].numpy()[order]
        order = order[np.argsort(row, kind="stable")]
        row = self.inter_feat[row_field].numpy()[order]
        count = np.bincount(row, minlength=len(self.field2id_token[row_field]))
        place = np.arange(len(row)) - (np.cumsum(count) - count)[row]
        width = int(count.max(initial=0))
        width = width if max_len is None else min(width, max_len)
        kept = place < width
        ids = np.zeros((len(count), width), dtype=np.int64)
        values = np.zeros((len(count), width), dtype=np.float32)
        ids[row[kept], place[kept]] = self.inter_feat[column_field].numpy()[order][kept]
        values[row[kept], place[kept]] = self._values(value_field)[order][kept]
        lengths = np.minimum(count, width).astype(np.int64)
        return torch.from_numpy(ids), torch.from_numpy(values), torch.from_numpy(lengths)


def _as_set(value: Any, everything: type) -> set:
    if value is None:
        return set(everything)
    return set(value) if isinstance(value, Iterable) else {value}
