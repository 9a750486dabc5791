"""Ranking of all items for every user: ours against argsort per user and RecBole's Collector.

``python benchmarks/evaluate.py [--users 20000] [--items 100000 400000] [--dims 64 512]``

Vectors are random; one item in a hundred has the vector of another one, so that there are ties. A
user has 20 earlier items, which are barred. All arms start from the vectors of users and items and
work on batches of 128 users:

- *ours*: ``RankCounter`` on chunks of items, as the evaluator calls it: ranks of all targets.
- *argsort*: the scores of a batch as one matrix; for one user after the other, the history is
  masked and all items are sorted, as IDvs.MoRec, NineRec and ODMT do.
- *RecBole*: the same matrix, masked, and ``Collector.eval_batch_collect`` for top-10 metrics. It
  finds the ten best, not the rank.

The arms take turns on ``--rounds`` batches (argsort on the first ``--sorted`` users of each), and
seconds are **scaled** to all users; ``--full`` ranks all of them with our arm. The time of the
score products is taken within each arm, and what is left is its time *beyond the product*. Ratios
are medians over the rounds. Ranks are compared with a stable sort of the very same scores. Memory
is what ranking one batch adds to a process of its own at its peak; a tile is the batch's scores,
128 x N x 4 bytes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from recbole_morec import compat  # noqa: F401 - before RecBole
from recbole_morec.evaluation.counting import RankCounter
from recbole_morec.evaluation.evaluator import TILE_USERS
from recbole_morec.evaluation.scorers import ChunkedScores, chunk_width

HISTORY, TOP = 20, 10
COMPARED = 32  # users of a batch whose rank is compared with a stable sort's
ARMS = ("ours", "argsort", "RecBole")


@dataclass
class World:
    """Vectors, histories and targets; item 0 is padding."""

    users: Tensor  # [U, d]
    items: Tensor  # [N, d]
    history: Tensor  # [U, 20]
    target: Tensor  # [U]
    order: Tensor  # [N]

    def batch(self, number: int) -> World:
        at = slice(number * TILE_USERS, (number + 1) * TILE_USERS)
        return World(self.users[at], self.items, self.history[at], self.target[at], self.order)


def world_of(users: int, items: int, dim: int) -> World:
    torch.manual_seed(items + dim)
    vectors = torch.randn(items + 1, dim)
    twins = torch.randint(1, items + 1, (2, items // 100))
    vectors[twins[0]] = vectors[twins[1]]
    history = torch.randint(1, items + 1, (users, HISTORY))
    target = torch.randint(1, items, (users,))
    barred = (history == target[:, None]).any(1)
    target[barred] = history[barred].amax(1) % items + 1
    return World(torch.randn(users, dim), vectors, history, target, torch.randperm(items + 1))


@dataclass
class Clock:
    """Seconds of score products and of the rest."""

    product: float = 0.0
    total: float = 0.0
    users: int = 0

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        started = time.perf_counter()
        scores = users @ items.T
        self.product += time.perf_counter() - started
        return scores

    @property
    def beyond(self) -> float:
        return (self.total - self.product) / self.users

    @property
    def whole(self) -> float:
        return self.total / self.users


def counter_of(world: World) -> RankCounter:
    real = torch.ones(len(world.items), dtype=torch.bool)
    warm = real.clone()
    real[0] = False
    return RankCounter(real, warm, world.order)


def chunks_of(world: World, clock: Clock) -> ChunkedScores:
    def score(items: slice | Tensor) -> Tensor:
        return clock.score(world.users, world.items[items])

    width = chunk_width(world.users)
    if width >= len(world.items):
        raise SystemExit(f"--items: give more than {width}, the items of one chunk.")
    return ChunkedScores(score, len(world.items), width, len(world.users))


def ours(world: World, clock: Clock, counter: RankCounter, _: int) -> Tensor:
    """Ranks ``[B]``."""
    count = len(world.users)
    row = torch.arange(count).repeat_interleave(HISTORY)
    barred = counter.barred(row, world.history.flatten(), count)
    clock.users = count
    return counter.count(chunks_of(world, clock), world.target, barred)["main"].rank


def argsort(world: World, clock: Clock, _: RankCounter, count: int) -> Tensor:
    """Ranks of the first ``count`` users."""
    scores = clock.score(world.users, world.items)
    clock.product *= count / len(world.users)  # the other users' share of the product
    clock.users = count
    ranks = []
    for user in range(count):
        row = scores[user]
        row[0] = row[world.history[user]] = float("-inf")
        best = torch.argsort(row, descending=True)
        ranks.append(int((best == world.target[user]).nonzero()) + 1)
    return torch.tensor(ranks)


def recbole(world: World, clock: Clock, _: RankCounter, __: int) -> Tensor:
    """RecBole's ``rec.topk``: hits at 1 to 10."""
    from recbole.evaluator.collector import Collector

    settings = {
        "topk": [TOP], "metrics": ["Recall", "MRR", "NDCG", "Hit", "Precision"],
        "eval_args": {"mode": "full"}, "device": torch.device("cpu"),
    }  # fmt: skip
    count = len(world.users)
    clock.users = count
    scores = clock.score(world.users, world.items)
    row = torch.arange(count)
    scores[:, 0] = float("-inf")
    scores[row.repeat_interleave(HISTORY), world.history.flatten()] = float("-inf")
    collector = Collector(settings)
    collector.eval_batch_collect(scores, None, row, world.target)
    return collector.data_struct.get("rec.topk")[:, :TOP]


CALLS: dict[str, Callable[[World, Clock, RankCounter, int], Tensor]] = {
    "ours": ours, "argsort": argsort, "RecBole": recbole,
}  # fmt: skip


def timed(arm: str, world: World, counter: RankCounter, count: int) -> tuple[Clock, Tensor]:
    clock = Clock()
    started = time.perf_counter()
    found = CALLS[arm](world, clock, counter, count)
    clock.total = time.perf_counter() - started
    if arm == "argsort":  # its clock holds the sorted users' share of the product
        clock.total -= clock.product * (len(world.users) / count - 1)
    return clock, found


def stable_ranks(world: World, count: int) -> Tensor:
    """Ranks of the first ``count`` users by a stable sort of the scores that our arm compares, ties
    in the same order."""
    scores = chunks_of(world, Clock()).whole().scores["main"]
    by_order = torch.argsort(world.order)
    ranks = []
    for user in range(count):
        row = scores[user]
        row[0] = row[world.history[user]] = float("-inf")
        best = by_order[torch.argsort(row[by_order], descending=True, stable=True)]
        ranks.append(int((best == world.target[user]).nonzero()) + 1)
    return torch.tensor(ranks)


@dataclass
class Found:
    """Clocks of all rounds, and ranks that differ."""

    clocks: dict[str, list[Clock]] = field(default_factory=lambda: {arm: [] for arm in ARMS})
    compared: int = 0
    lists: int = 0
    unequal: int = 0
    other_product: int = 0
    hits: int = 0

    def ratio(self, arm: str, of: str) -> float:
        pairs = zip(self.clocks[arm], self.clocks["ours"], strict=True)
        return statistics.median(getattr(a, of) / getattr(b, of) for a, b in pairs)

    def median(self, arm: str, of: str) -> float:
        return statistics.median(getattr(clock, of) for clock in self.clocks[arm])


def measure(world: World, rounds: int, count: int) -> Found:
    counter, found = counter_of(world), Found()
    for number in range(-1, rounds):  # the first round only warms up
        batch = world.batch(max(number, 0))
        results = {}
        for arm in ARMS if number % 2 else ARMS[::-1]:
            clock, results[arm] = timed(arm, batch, counter, count)
            if number >= 0:
                found.clocks[arm].append(clock)
        if number < 0:
            continue
        rank = results["ours"]
        found.lists += len(rank)
        found.other_product += int((results["argsort"] != rank[:count]).sum())
        hit = rank[:, None] == torch.arange(1, TOP + 1)
        found.hits += int((hit != (results["RecBole"] > 0)).any(1).sum())
        stable = stable_ranks(batch, COMPARED)
        found.compared += len(stable)
        found.unequal += int((stable != rank[:COMPARED]).sum())
    return found


def memory_of(arm: str, items: int, dim: int) -> float:
    """What one batch of an arm adds to a process's resident memory at its peak, MiB."""
    command = [sys.executable, __file__, "--items", str(items), "--dims", str(dim), "--only", arm]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def only(arm: str, items: int, dim: int) -> None:
    small = world_of(TILE_USERS, 8192, dim)
    timed(arm, small, counter_of(small), 2)  # what libraries take once
    world = world_of(TILE_USERS, items, dim)
    counter = counter_of(world)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts from here
    before = _status("VmRSS")
    timed(arm, world, counter, 2)
    print(json.dumps((_status("VmHWM") - before) / 1024))


def _status(key: str) -> int:
    """A line of Linux's /proc/self/status, KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])


def rank_all(world: World) -> None:
    counter, product = counter_of(world), 0.0
    started = time.perf_counter()
    for number in range(-(-len(world.users) // TILE_USERS)):
        clock = Clock()
        ours(world.batch(number), clock, counter, 0)
        product += clock.product
    total = time.perf_counter() - started
    print(
        f"  all {len(world.users):,} users ranked: {total:.1f} s, of which {product:.1f} s are the "
        "score product",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--items", type=int, nargs="+", default=[100_000, 400_000])
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sorted", type=int, default=8, help="users of a batch to argsort")
    parser.add_argument("--full", action="store_true", help="rank all users with our arm as well")
    parser.add_argument("--only", choices=ARMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        only(options.only, options.items[0], options.dims[0])
        return
    if options.users < options.rounds * TILE_USERS:
        parser.error(f"--users: {options.rounds} rounds need {options.rounds * TILE_USERS}")
    print(
        f"{torch.get_num_threads()} threads on a CPU; seconds for {options.users:,} users, scaled "
        f"from {options.rounds * TILE_USERS} (argsort: from {options.rounds * options.sorted})"
    )
    print(
        "| items | d | arm | product s | beyond it s | over ours | end to end s | over ours "
        "| MiB | tiles |"
    )
    print("| --- |" + " --- |" * 9)
    for items in options.items:
        for dim in options.dims:
            world = world_of(options.users, items, dim)
            found = measure(world, options.rounds, options.sorted)
            for arm in ARMS:
                beyond, whole = found.median(arm, "beyond"), found.median(arm, "whole")
                memory = memory_of(arm, items, dim)
                tile = TILE_USERS * (items + 1) * 4 / 2**20
                print(
                    f"| {items:,} | {dim} | {arm} | {(whole - beyond) * options.users:.1f} "
                    f"| {beyond * options.users:.1f} | {found.ratio(arm, 'beyond'):.1f} "
                    f"| {whole * options.users:.1f} | {found.ratio(arm, 'whole'):.1f} "
                    f"| {memory:.0f} | {memory / tile:.2f} |",
                    flush=True,
                )
            print(
                f"  {found.unequal} of {found.compared} ranks differ from a stable sort of the "
                "same scores; of the arms' own products, which may round otherwise, "
                f"{found.other_product} of {options.rounds * options.sorted} ranks of argsort and "
                f"{found.hits} of {found.lists} lists of hits of RecBole",
                flush=True,
            )
            if options.full:
                rank_all(world)


if __name__ == "__main__":
    main()
