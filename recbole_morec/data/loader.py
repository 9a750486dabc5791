"""Training batches in a fixed order: the same for any number of workers and processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from recbole_morec.errors import MoRecError
from recbole_morec.randomness import permutation, stream


class BatchBuilder(Protocol):
    """What the loader needs of a builder (ours or a stock model's)."""

    rows: Any

    def terms(self, rows: np.ndarray, epoch: int) -> int:
        """Number of loss terms of the given rows."""

    def build(self, rows: np.ndarray, epoch: int, step: int = 0) -> Any:
        """The batch of the given rows; all micro-batches and processes share ``(epoch, step)``."""


class _Batches(Dataset):
    """Maps ``(epoch, step, micro)`` to this process's share of that (micro-)batch."""

    def __init__(self, plan: TrainLoader):
        self.plan = plan
        self._shuffled: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.plan) * self.plan.accumulation

    def __getitem__(self, place: tuple[int, int, int]) -> Any:
        return caught(self._batch, place)

    def _batch(self, place: tuple[int, int, int]) -> Any:
        epoch, step, micro = place
        plan = self.plan
        whole = self._order(epoch)[step * plan.batch_size : (step + 1) * plan.batch_size]
        micro_batch = np.array_split(whole, plan.accumulation)[micro]
        rows = np.array_split(micro_batch, plan.world_size)[plan.rank]
        batch = plan.builder.build(rows, epoch, step)
        batch["global_rows"] = len(whole)
        batch["global_terms"] = plan.builder.terms(whole, epoch)
        batch["local_rows"] = len(rows)
        batch["epoch"], batch["step"], batch["steps"] = epoch, step, len(plan)
        return batch

    def _order(self, epoch: int) -> np.ndarray:
        if self._shuffled is None or self._shuffled[0] != epoch:
            rows = len(self.plan.builder.rows)
            order = np.arange(rows)
            if self.plan.shuffle:
                order = permutation(stream(self.plan.seed, "order", epoch), rows)
            self._shuffled = (epoch, order)
        return self._shuffled[1]


class TrainLoader:
    """Iterates over the batches of an epoch.

    The order of rows is a function of (seed, epoch); the batch of a step is cut into micro-batches
    and then into contiguous shares of the processes.

    Args:
        builder: builds a batch from row numbers.
        batch_size: rows per optimiser step, over all processes and micro-batches.
        seed: of the order.
        workers: loader processes; 0 = build in this process.
        accumulation: micro-batches per step.
        shuffle: False keeps the order of the rows.
        rank, world_size: this process and their number.
    """

    def __init__(
        self,
        builder: BatchBuilder,
        batch_size: int,
        *,
        seed: int,
        workers: int = 0,
        accumulation: int = 1,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.builder = builder
        self.batch_size = batch_size
        self.seed = seed
        self.workers = workers
        self.accumulation = accumulation
        self.shuffle = shuffle
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        """Optimiser steps per epoch."""
        return -(-len(self.builder.rows) // self.batch_size)

    def epoch(self, epoch: int) -> Iterator[Any]:
        """Yield the (micro-)batches of one epoch in order."""
        places = [
            (epoch, step, micro) for step in range(len(self)) for micro in range(self.accumulation)
        ]
        return load(_Batches(self), places, self.workers)


def load(dataset: Dataset, places: Sequence[Any], workers: int) -> Iterator[Any]:
    """Yield ``dataset[place]`` for every place in order, built by ``workers`` processes.

    An error meant for a person, wrapped by :func:`caught`, is raised as it was: by itself torch
    would put a worker's traceback into its message.
    """
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=places,
        num_workers=workers,
        # Forked workers share the decoded images; elsewhere torch's own way has to do.
        multiprocessing_context="fork" if workers and hasattr(os, "fork") else None,
        worker_init_fn=_one_thread,
    )
    for made in loader:
        if isinstance(made, _Failure):
            raise made.error
        yield made


@dataclass(frozen=True)
class _Failure:
    error: MoRecError


def caught(build: Callable[[Any], Any], place: Any) -> Any:
    """``build(place)``, or its error for a person as a value that :func:`load` raises."""
    try:
        return build(place)
    except MoRecError as error:
        return _Failure(error)


def _one_thread(worker: int) -> None:
    """Loader workers share the cores with the model; torch must not start a pool in each."""
    torch.set_num_threads(1)
