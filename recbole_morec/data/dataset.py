"""MultimodalDataset: atomic files -> ids, histories, split, candidates and popularity."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from recbole_morec.data.atomic import ContentTable, read_content
from recbole_morec.data.prepared import open_prepared
from recbole_morec.data.recbole_interface import RecBoleInterface
from recbole_morec.data.splits import Splits, ranges_mask
from recbole_morec.data.tokens import TokenTable
from recbole_morec.errors import DataError, suggest
from recbole_morec.evaluation.protocol import Protocol, build_protocol

_USERS_AT_ONCE = 1 << 19


class MultimodalDataset(RecBoleInterface):
    """A dataset folder seen under a protocol.

    Internal ids count from 1 in the order of first appearance in ``<name>.inter``; items that only
    ``<name>.content`` lists follow. Id 0 is padding.

    Args:
        config: resolved settings (:class:`recbole_morec.config.MoRecConfig`).

    Attributes:
        folder: the dataset's folder.
        user_tokens, item_tokens: original ids by internal id, ``[PAD]`` first.
        histories: items of every user in time order.
        protocol, splits: the view on them.
        candidates: ``[N]`` bool, items that a target is ranked against.
        train_counts: ``[N]`` training interactions per item.

    Raises:
        DataError: the folder or a file is missing or malformed, or no user can be evaluated.
    """

    def __init__(self, config: Any):
        self.config = config
        self.dataset_name = config["dataset"]
        self.folder = find_dataset_folder(config)
        self.protocol: Protocol = build_protocol(config)
        self.uid_field = config["USER_ID_FIELD"]
        self.iid_field = config["ITEM_ID_FIELD"]
        self.time_field = config["TIME_FIELD"]
        self._read_interactions()
        self.splits = Splits.build(self.histories, self.protocol)
        for phase, shortest in (("test", 3), ("valid", self.protocol.valid_needs)):
            if len(self.splits.users[phase]) == 0:
                raise DataError(
                    f"{self.inter_path} has no user with a {phase} target: protocol="
                    f"{self.protocol.name} needs users with at least "
                    f"{max(shortest, self.protocol.min_user_inter)} interactions, the longest "
                    f"history has {int(self.histories.lengths.max(initial=0))}."
                )
        self._count()

    @property
    def inter_path(self) -> Path:
        """The interactions file."""
        return self.folder / f"{self.dataset_name}.inter"

    @property
    def content_path(self) -> Path:
        """The content file (may be absent where no model reads content)."""
        return self.folder / f"{self.dataset_name}.content"

    @functools.cached_property
    def content(self) -> ContentTable | None:
        """Text and image fields of the items, or ``None`` if there is no content file."""
        if not self.content_path.exists():
            return None
        return read_content(self.content_path, self.iid_field)

    @functools.cached_property
    def content_rows(self) -> np.ndarray:
        """Row in :attr:`content` by internal item id ``[N]``, -1 where an item has none."""
        rows = np.full(self.item_num, -1, dtype=np.int64)
        if self.content is not None:
            where = {token: row for row, token in enumerate(self.content.tokens)}
            for item, token in enumerate(self.item_tokens[1:], start=1):
                rows[item] = where.get(token, -1)
        return rows

    @functools.cached_property
    def popularity(self) -> np.ndarray:
        """Share of the training interactions by item ``[N]`` float64; 0 for cold items."""
        return self.train_counts / max(int(self.train_counts.sum()), 1)

    @functools.cached_property
    def cold(self) -> np.ndarray:
        """``[N]`` bool: items without a training interaction."""
        return self.train_counts == 0

    def popularity_bucket(self, buckets: int) -> np.ndarray:
        """Bucket by item ``[N]``, 0 = most popular; each holds an equal share of the training
        interactions (so the last holds most items)."""
        order = np.argsort(-self.train_counts, kind="stable")
        share = np.cumsum(self.popularity[order]) - self.popularity[order]
        bucket = np.empty(self.item_num, dtype=np.int64)
        bucket[order] = np.minimum(share * buckets, max(buckets - 1, 0)).astype(np.int64)
        return bucket

    def fingerprint(self) -> str:
        """A hash of the protocol, the candidates and the targets: equal = comparable numbers."""
        digest = hashlib.sha256(self.protocol.fingerprint().encode())
        digest.update("\n".join(self.item_tokens[self.candidates]).encode())
        for phase in ("valid", "test"):
            _update_tokens(digest, self.user_tokens, self.splits.users[phase])
            targets = self.histories.items[self.splits.targets[phase]]
            _update_tokens(digest, self._prepared.items, targets)
        return digest.hexdigest()[:12]

    def token_digest(self) -> str:
        """A hash of users and items in the order of their internal ids."""
        digest = hashlib.sha256(self._prepared.tokens_digest.encode())
        digest.update("\n".join(self.item_tokens[len(self._prepared.items) :]).encode())
        return digest.hexdigest()[:12]

    def digest(self) -> str:
        """A hash of all interactions and of the content file: equal = the same training data in
        the same order."""
        digest = hashlib.sha256(self.token_digest().encode())
        digest.update(self._prepared.histories_digest.encode())
        if self.content_path.exists():
            digest.update(self.content_path.read_bytes())
        return digest.hexdigest()[:12]

    def summary(self) -> dict[str, Any]:
        """Counts for the log, in reading order."""
        return {
            "users": self.user_num - 1,
            "items": self.item_num - 1,
            "interactions": len(self.histories.items),
            "training interactions": int(self.train_counts.sum()),
            "candidates": int(self.candidates.sum()),
            "test users": len(self.splits.users["test"]),
            "cold test targets": int(
                self.cold[self.histories.items[self.splits.targets["test"]]].sum()
            ),
            "users left out (too short)": self.splits.left_out,
            "users that only train": self.splits.train_only,
            "repeated user-item pairs": self._prepared.repeats,
            "test targets seen before (always a miss)": self.barred_targets("test"),
        }

    def barred_targets(self, phase: str) -> int:
        """Number of a phase's targets that the protocol bars, since the user has had them."""
        if self.protocol.history_mask == "none" or self._prepared.repeats == 0:
            return 0
        return sum(self._barred(users, phase) for users in self._user_blocks())

    def _read_interactions(self) -> None:
        prepared = open_prepared(self.inter_path, self.uid_field, self.iid_field, self.time_field)
        self._prepared = prepared
        items = list(prepared.items)
        if self.protocol.catalogue == "content":
            if self.content is None:
                raise DataError(
                    f"catalogue=content: {self.content_path} does not exist; convert the dataset "
                    "with its items, or use catalogue=interactions."
                )
            known = set(items)
            items += [token for token in self.content.tokens if token not in known]
        self.user_tokens = prepared.users
        self.item_tokens = np.array(items, dtype=object)
        self.histories = prepared.histories

    def _count(self) -> None:
        self.train_counts = np.zeros(self.item_num, dtype=np.int64)
        self.candidates = np.zeros(self.item_num, dtype=bool)
        if self.protocol.catalogue == "content":
            self.candidates |= self.content_rows >= 0
        shortest = max(self.protocol.min_user_inter, 1)
        for users in self._user_blocks():
            first, items = self._interactions_of(users)
            start = self.splits.start[users] - first
            train_stop = self.splits.train_stop[users] - first
            trained = items[ranges_mask(start, train_stop, len(items))]
            self.train_counts += np.bincount(trained, minlength=self.item_num)
            offsets = self.histories.offsets[users.start : users.stop + 1]
            stop = np.where(np.diff(offsets) >= shortest, offsets[1:] - first, start)
            self.candidates[items[ranges_mask(start, stop, len(items))]] = True

    def _barred(self, users: slice, phase: str) -> int:
        first, items = self._interactions_of(users)
        offsets = self.histories.offsets[users.start : users.stop + 1] - first
        user = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        pairs = user * self.item_num + items
        if self.protocol.history_mask == "truncated":
            cut_away = np.arange(len(pairs)) < self.splits.start[users][user] - first
            pairs[cut_away] = -1 - np.arange(cut_away.sum())
        _, earliest, where = np.unique(pairs, return_index=True, return_inverse=True)
        at = np.searchsorted(self.splits.users[phase], [users.start, users.stop])
        targets = self.splits.targets[phase][at[0] : at[1]] - first
        return int((earliest[where[targets]] < targets).sum())

    def _user_blocks(self) -> list[slice]:
        """Ranges of users whose interactions are looked at together, so that memory is bounded."""
        return [
            slice(start, min(start + _USERS_AT_ONCE, self.user_num))
            for start in range(0, self.user_num, _USERS_AT_ONCE)
        ]

    def _interactions_of(self, users: slice) -> tuple[int, np.ndarray]:
        """Where the interactions of consecutive users begin, and their items."""
        first, stop = self.histories.offsets[[users.start, users.stop]]
        return int(first), self.histories.items[first:stop]


def _update_tokens(digest: Any, tokens: TokenTable, ids: np.ndarray) -> None:
    """Feed the tokens of ids ``[n]``, one per line, to a hash."""
    for start in range(0, len(ids), _USERS_AT_ONCE):
        if start:
            digest.update(b"\n")
        digest.update(tokens.lines(ids[start : start + _USERS_AT_ONCE]))


def find_dataset_folder(config: Any) -> Path:
    """The dataset's folder.

    Raises:
        DataError: there is none, or it holds no interactions; the message lists what is there.
    """
    folder, name = Path(config["data_path"]), config["dataset"]
    if (folder / f"{name}.inter").exists():
        return folder
    root = folder.parent
    known = sorted(p.name for p in root.glob("*/") if (p / f"{p.name}.inter").exists())
    if folder.is_dir():
        raise DataError(
            f"Dataset folder {folder} holds no {name}.inter. Write one with "
            f"`recbole-morec convert folder --input <folder> --output {folder}`."
        )
    there = f"{root} holds: {', '.join(known)}." if known else f"{root} holds no dataset."
    raise DataError(
        f"There is no dataset {name!r}: {folder} does not exist.{suggest(name, known)} {there} "
        f"Make one with `recbole-morec convert folder --input <folder> --output {folder}`, "
        f"make the bundled sample with `recbole-morec sample --output {root / 'pixelrec'}`, or "
        "point --data_path at the folder that holds your datasets."
    )
