"""ODMT's loss: in-batch cross-entropy per branch, and branches that teach each other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Columns:
    """What the branches' logits over one batch share.

    One column stands for all slots of an item, as in
    :class:`~recbole_morec.objectives.in_batch.InBatch`.

    Args:
        log_count: ``[M, n]``, log of the number of slots that a column stands for in a row, minus
            infinity where it is barred, 0 at the row's label.
        label: column of each row's target ``[M]``.
    """

    log_count: Tensor
    label: Tensor

    def cross_entropy(self, logits: Tensor) -> Tensor:
        """``-log softmax(logits)[label]`` over slots, ``[M]``."""
        label = logits.gather(1, self.label[:, None])[:, 0]
        return torch.logsumexp(logits + self.log_count, dim=1) - label

    def log_probability(self, logits: Tensor, temperature: float) -> Tensor:
        """Log-probability of one slot of every column, ``[M, n]``; finite at barred columns too."""
        scaled = logits / temperature
        return scaled - torch.logsumexp(scaled + self.log_count, dim=1, keepdim=True)


@dataclass(frozen=True)
class OnlineDistillation:
    """Mutual teaching of the branches (ODMT section 2.4).

    ``w tau^2 [ H(id, text) + H(id, image) + H(mean, id) ]`` with ``H(T, S) = - sum_j q_j(T) log
    q_j(S)``, ``q = softmax(logits / tau)`` over the slots of the batch and ``mean`` the average of
    the three branches' logits. As published it is a cross-entropy and no teacher is detached, so
    that teachers learn from their students too.

    Args:
        temperature: tau.
        alpha: the weight w if below 1 (0 = off), else the number of epochs in which
            ``w = exp(-5 (1 - e / alpha)^2)`` rises to 1.
        detach: cut the gradient of the teachers.
        divergence: ``cross_entropy`` as published, or ``kl``, which takes the teacher's entropy off
            (another gradient only where teachers are not detached).
    """

    temperature: float = 0.5
    alpha: float = 0.0
    detach: bool = False
    divergence: Literal["cross_entropy", "kl"] = "cross_entropy"

    def weight(self, epoch: float) -> float:
        """w at ``epoch``, counted from 1."""
        if self.alpha < 1:
            return self.alpha
        return math.exp(-5.0 * (1.0 - min(epoch, self.alpha) / self.alpha) ** 2)

    def terms(
        self, logits: Mapping[str, Tensor], ensemble: Tensor, columns: Columns
    ) -> dict[str, Tensor]:
        """``tau^2 H`` of every pair of teacher and student, unreduced ``[M]``.

        Args:
            logits: of the branches ``id``, ``text`` and ``image``, ``[M, n]`` each. Without ``id``,
                or with it alone, nobody teaches.
            ensemble: the branches' (weighted) mean.
            columns: what they stand for.
        """
        if not self.teaches(logits):
            return {}
        # Each once, though the ID's is a teacher's and a student's.
        log = {
            name: columns.log_probability(each, self.temperature) for name, each in logits.items()
        }
        taught_by = columns.log_probability(ensemble, self.temperature)
        pairs = {
            f"{student}_from_id": (log["id"], log[student]) for student in logits if student != "id"
        }
        pairs["id_from_ensemble"] = (taught_by, log["id"])
        return {name: self._term(*pair, columns) for name, pair in pairs.items()}

    def teaches(self, branches: Iterable[str]) -> bool:
        """Whether any of the branches has a teacher."""
        return len({*branches}) > 1 and "id" in branches

    def _term(self, log_teacher: Tensor, log_student: Tensor, columns: Columns) -> Tensor:
        log_teacher = log_teacher.detach() if self.detach else log_teacher
        share = (log_teacher + columns.log_count).exp()  # of all slots of a column
        gap = log_student if self.divergence == "cross_entropy" else log_student - log_teacher
        return -(self.temperature**2) * (share * gap).sum(1)
