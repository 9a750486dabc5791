"""Full-ranking evaluation of one phase: ranks of all targets, metrics of all groups."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from recbole.evaluator import Evaluator as RecBoleEvaluator
from recbole.evaluator.collector import DataStruct
from recbole.evaluator.register import metric_information
from torch import Tensor
from tqdm.auto import tqdm

from recbole_morec import parallel
from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.data.histories import gather_left_padded
from recbole_morec.errors import ConfigError, DataError, MoRecError
from recbole_morec.evaluation.counting import NotFinite, RankCounter
from recbole_morec.evaluation.ranking import Ranks, rank_targets, top_items
from recbole_morec.evaluation.sampled import sample_candidates
from recbole_morec.evaluation.scorers import Scorer, TileScores, score_tile
from recbole_morec.randomness import token_order

TILE_USERS = 128
ALL = "all"


@dataclass
class Report:
    """Metrics of one evaluation.

    Args:
        metrics: group -> metric name (RecBole's, e.g. ``recall@10``) -> value. Group ``all`` holds
            every user; ``warm`` and ``cold`` split them by whether the target has training
            interactions; ``new_item`` ranks cold targets against warm items only;
            ``popularity b/n`` holds warm targets by popularity, each bucket an equal share of the
            training interactions, 1 the most popular. A model with branches adds ``all``, ``warm``,
            ``cold`` and ``new_item`` of each, as ``<branch>: all``.
        users: group -> number of users.
        ranks: rank of each user's target ``[U]``, in the order of ``splits.users[phase]``.
    """

    metrics: dict[str, dict[str, float]]
    users: dict[str, int]
    ranks: np.ndarray

    def value(self, metric: str) -> float:
        """Value of one metric over all users, e.g. ``NDCG@10``."""
        return self.metrics[ALL][metric.lower()]


@dataclass
class _Ranked:
    """What one branch makes of a tile: ranks of the targets, and its best items where needed."""

    ranks: Ranks
    best: Tensor | None

    def arrays(self) -> dict[str, np.ndarray]:
        found = {
            "rank": self.ranks.rank.cpu().numpy(),
            "new_item": self.ranks.new_item.cpu().numpy(),
            "mean_rank": self.ranks.mean_rank.cpu().numpy(),
            "candidates": self.ranks.candidates.cpu().numpy(),
        }
        return found if self.best is None else {**found, "best": self.best.cpu().numpy()}


class Evaluator:
    """Ranks the targets of a phase under the dataset's protocol.

    Args:
        config: resolved settings (metrics, topk, seed).
        dataset: the dataset.
        device: where scores are computed.
    """

    def __init__(self, config: Any, dataset: MultimodalDataset, device: torch.device):
        self._config = config
        self._dataset = dataset
        self._device = device
        self._metrics = RecBoleEvaluator(config)
        self._needs = {n for m in config["metrics"] for n in metric_information[m.lower()]}
        self._order = torch.from_numpy(token_order(dataset.item_tokens, 0)).to(device)
        self._candidates = torch.from_numpy(dataset.candidates).to(device)
        self._warm = torch.from_numpy(~dataset.cold).to(device)
        self._counter = RankCounter(self._candidates, self._warm, self._order)
        largest, mode = max(config["topk"]), dataset.protocol.eval_mode
        candidates = int(dataset.candidates.sum())
        if mode != "full":
            if int(mode[3:]) >= candidates:
                raise ConfigError(
                    f"eval_mode={mode}: {mode[3:]} candidates beside the target cannot be drawn "
                    f"from {candidates} items; draw fewer, or use eval_mode=full."
                )
            candidates = int(mode[3:]) + 1
        if largest >= candidates:
            raise ConfigError(
                f"topk={config['topk']}: a list of {largest} does not fit a catalogue of "
                f"{candidates} candidates (eval_mode={mode})."
            )

    def evaluate(self, scorer: Scorer, phase: str, progress: bool = False) -> Report:
        """Rank every target of ``phase`` (``valid`` or ``test``).

        Raises:
            DataError: no user has a target in this phase.
            MoRecError: a score is not finite.
        """
        users = self._dataset.splits.users[phase]
        targets = self._dataset.splits.targets[phase]
        if len(users) == 0:
            raise DataError(
                f"No user has a {phase} target under protocol={self._dataset.protocol.name}: "
                "all histories are too short."
            )
        with torch.autocast(self._device.type, enabled=False):  # whatever the caller has on
            scorer.prepare()
            found = self._tiles(scorer, phase, users, targets, progress)
        return self._report(phase, found)

    def _tiles(
        self, scorer: Scorer, phase: str, users: np.ndarray, targets: np.ndarray, progress: bool
    ) -> list[tuple[np.ndarray, dict[str, _Ranked]]]:
        """Ranks of this process's share of the users, with their places."""
        tiles = -(-len(users) // TILE_USERS)
        mine = list(range(parallel.rank(), tiles, parallel.world_size()))
        found: list[tuple[np.ndarray, dict[str, _Ranked]]] = []
        bar = tqdm(
            total=len(mine),
            desc=phase,
            unit="tile",
            disable=None if progress else True,
            leave=False,
        )
        for tile in mine:
            rows = np.arange(tile * TILE_USERS, min((tile + 1) * TILE_USERS, len(users)))
            found.append((rows, self._tile(scorer, phase, users[rows], targets[rows])))
            bar.update()
        bar.close()
        return found

    def _tile(
        self, scorer: Scorer, phase: str, users: np.ndarray, targets: np.ndarray
    ) -> dict[str, _Ranked]:
        dataset, device = self._dataset, self._device
        items = dataset.histories.items
        length = dataset.protocol.max_length
        histories = gather_left_padded(items, dataset.splits.start[users], targets, length)
        scores = score_tile(
            scorer,
            torch.from_numpy(users).to(device),
            torch.from_numpy(histories).to(device),
            TILE_USERS,
        )
        target_items = torch.from_numpy(items[targets].astype(np.int64)).to(device)
        try:
            if dataset.protocol.eval_mode == "full":
                return self._rank(scores, users, targets, target_items)
            allowed = sample_candidates(dataset, phase, users, self._config["seed"]).to(device)
            return self._rank_among(scores, target_items, allowed)
        except NotFinite as error:
            raise MoRecError(
                f"The model gives user {dataset.user_tokens[users[error.args[0]]]!r} a score that "
                "is not finite: training has diverged (lower learning_rate, set clip_grad_norm) or "
                "the model divides by zero."
            ) from None

    def _rank(
        self, scores: TileScores, users: np.ndarray, targets: np.ndarray, target_items: Tensor
    ) -> dict[str, _Ranked]:
        """Among all items but those that the protocol bars."""
        counter = self._counter
        barred = counter.barred(*self._seen(users, targets), len(users))
        best: dict[str, Tensor] = {}
        if "rec.items" in self._needs:
            scores = scores.whole()
            allowed, most = counter.allowed(barred, len(users)), max(self._config["topk"])
            for branch, each in scores.scores.items():
                best[branch] = top_items(each, allowed, self._order, most)
        ranks = counter.count(scores, target_items, barred)
        return {branch: _Ranked(each, best.get(branch)) for branch, each in ranks.items()}

    def _rank_among(
        self, scores: TileScores, targets: Tensor, allowed: Tensor
    ) -> dict[str, _Ranked]:
        """Among the items that are allowed ``[T, N]``."""
        found = {}
        for branch, each in scores.whole().scores.items():
            bad = ~torch.isfinite(each) & allowed
            if bad.any():
                raise NotFinite(int(bad.any(1).nonzero()[0]))
            best = None
            if "rec.items" in self._needs:
                best = top_items(each, allowed, self._order, max(self._config["topk"]))
            ranks = rank_targets(each, targets, allowed, self._warm, self._order)
            found[branch] = _Ranked(ranks, best)
        return found

    def _seen(self, users: np.ndarray, targets: np.ndarray) -> tuple[Tensor, Tensor]:
        """(row, item) pairs that the protocol bars from the ranking."""
        dataset = self._dataset
        mask = dataset.protocol.history_mask
        if mask == "none":
            first = targets
        elif mask == "truncated":
            first = dataset.splits.start[users]
        else:
            first = dataset.histories.offsets[users]
        count = targets - first
        row = np.repeat(np.arange(len(users)), count)
        within = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
        seen = dataset.histories.items[np.repeat(first, count) + within].astype(np.int64)
        return torch.from_numpy(row).to(self._device), torch.from_numpy(seen).to(self._device)

    # --- from ranks to metrics -----------------------------------------------------------------

    def _report(self, phase: str, found: list[tuple[np.ndarray, dict[str, _Ranked]]]) -> Report:
        pieces = [
            (tile, {branch: ranked.arrays() for branch, ranked in branches.items()})
            for tile, branches in found
        ]
        everyone = [piece for process in parallel.gather_objects(pieces) for piece in process]
        place = np.argsort(np.concatenate([tile for tile, _ in everyone]))
        metrics: dict[str, dict[str, float]] = {}
        counts: dict[str, int] = {}
        main = None
        for branch in everyone[0][1]:
            of_branch = [arrays[branch] for _, arrays in everyone]
            joined = {k: np.concatenate([a[k] for a in of_branch])[place] for k in of_branch[0]}
            groups = self._groups_of_users(phase, joined)
            if main is None:
                main = joined["rank"]
                prefix = ""
            else:
                prefix = f"{branch}: "
                groups = (group for group in groups if not group[0].startswith("popularity"))
            for group, members, rank in groups:
                counts[prefix + group] = int(members.sum())
                if counts[prefix + group]:
                    metrics[prefix + group] = self._measure(joined, members, rank)
        return Report(metrics, counts, main)

    def _groups_of_users(
        self, phase: str, joined: dict[str, np.ndarray]
    ) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        dataset = self._dataset
        target = dataset.histories.items[dataset.splits.targets[phase]]
        cold = dataset.cold[target]
        rank = joined["rank"]
        yield ALL, np.ones(len(target), dtype=bool), rank
        yield "warm", ~cold, rank
        yield "cold", cold, rank
        yield "new_item", cold, joined["new_item"]
        buckets = self._config["popularity_buckets"]
        bucket = dataset.popularity_bucket(buckets)[target]
        for b in range(buckets):
            yield f"popularity {b + 1}/{buckets}", ~cold & (bucket == b), rank

    def _measure(
        self, joined: dict[str, np.ndarray], members: np.ndarray, rank: np.ndarray
    ) -> dict[str, float]:
        largest = max(self._config["topk"])
        hits = rank[members, None] == np.arange(1, largest + 1)[None, :]
        ones = np.ones((len(hits), 1), dtype=np.int64)
        struct = DataStruct()
        struct.set("rec.topk", torch.from_numpy(np.hstack([hits.astype(np.int64), ones])))
        if "rec.meanrank" in self._needs:
            columns = [joined["mean_rank"][members], joined["candidates"][members], ones[:, 0]]
            struct.set("rec.meanrank", torch.from_numpy(np.stack(columns, 1).astype(np.float64)))
        if "best" in joined:
            struct.set("rec.items", torch.from_numpy(joined["best"][members]))
        struct.set("data.num_items", self._dataset.item_num)
        struct.set("data.num_users", self._dataset.user_num)
        struct.set("data.count_items", self._dataset.item_counter)
        return {name: float(v) for name, v in self._metrics.evaluate(struct).items()}
