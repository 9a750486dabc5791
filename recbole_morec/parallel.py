"""The few collectives that the package needs, each the identity in a single process; and notes."""

from __future__ import annotations

import collections
import functools
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of processes of this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Index of this process, 0..world_size - 1."""
    return dist.get_rank() if world_size() > 1 else 0


def barrier() -> None:
    """Wait for all processes."""
    if world_size() > 1:
        dist.barrier()


def gather_objects(value: Any) -> list[Any]:
    """The picklable ``value`` of every process, in rank order, on every process."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def gather_rows(rows: Tensor, sizes: list[int] | None = None) -> Tensor:
    """Concatenate ``rows [n_r, ...]`` of all processes in rank order, without gradient.

    Args:
        rows: this process's rows; their number may differ between processes.
        sizes: number of rows of each process, where known.
    """
    if world_size() == 1:
        return rows
    sizes = sizes or gather_objects(len(rows))
    padded = _pad(rows.detach(), max(sizes))
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded.contiguous())
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def gather_rows_with_gradient(rows: Tensor) -> tuple[Tensor, list[int]]:
    """Like :func:`gather_rows`, and the gradient of all processes' losses flows back to each row.

    Returns:
        The rows of all processes, and the number of rows of each process.
    """
    if world_size() == 1:
        return rows, [len(rows)]
    sizes = gather_objects(len(rows))
    _gradient_group()  # all processes make it at the same place
    return _GatherRows.apply(rows, sizes), sizes


class Notes:
    """Short texts that the processes of a run leave for one another; no process waits in it.

    For work that may take hours, longer than a collective waits, or fail in one process only.
    Every process must open the notes on a subject equally often; each time they are empty.

    Args:
        subject: what they are on.
    """

    _opened: ClassVar[collections.Counter[str]] = collections.Counter()

    def __init__(self, subject: str):
        self._prefix = f"recbole_morec/{subject}/{self._opened[subject]}"
        self._opened[subject] += 1
        self._own: dict[str, str] = {}
        # What init_process_group made: its host's end is an error of every call in the others.
        several = world_size() > 1
        self._shared = dist.distributed_c10d._get_default_store() if several else None

    def leave(self, key: str, text: str) -> None:
        """Leave a text under ``key``, in place of the one that is there."""
        if self._shared is None:
            self._own[key] = text
        else:
            self._shared.set(f"{self._prefix}/{key}", text)

    def read(self, key: str) -> str | None:
        """The text that a process left under ``key``; ``None`` if there is none yet."""
        if self._shared is None:
            return self._own.get(key)
        key = f"{self._prefix}/{key}"
        return self._shared.get(key).decode() if self._shared.check([key]) else None


@functools.cache
def _gradient_group() -> dist.ProcessGroup:
    """A group of its own: DDP's reductions run meanwhile, in an order that may differ between
    processes of which one has no rows."""
    return dist.new_group()


class _GatherRows(torch.autograd.Function):
    """Concatenation over processes; backward adds up what every process's loss asks of a row."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes
        return gather_rows(rows, sizes)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient, group=_gradient_group())
        first = sum(ctx.sizes[: rank()])
        return gradient[first : first + ctx.sizes[rank()]], None


def _pad(rows: Tensor, size: int) -> Tensor:
    missing = size - len(rows)
    return torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])]) if missing else rows
