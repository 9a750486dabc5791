"""The training loop, on Accelerate: one process on a CPU is the plain case of the same code."""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor, nn
from tqdm.auto import tqdm

from recbole_morec import parallel
from recbole_morec.data.loader import TrainLoader
from recbole_morec.errors import CheckpointError, DataError, MoRecError
from recbole_morec.evaluation.evaluator import Evaluator, Report
from recbole_morec.models.adapter import ModelAdapter
from recbole_morec.randomness import stream
from recbole_morec.training.checkpoint import load_checkpoint, save_checkpoint
from recbole_morec.training.micro_batches import micro_batches
from recbole_morec.training.optim import (
    build_optimizer,
    build_scheduler,
    largest_norm,
    parameter_groups,
)
from recbole_morec.training.run_folder import RunFolder
from recbole_morec.training.trackers import Trackers

log = logging.getLogger(__name__)

_LONG_WAIT = 0.1  # share of the time spent waiting for batches that is worth a word


@dataclass
class TrainState:
    """Where training stands; saved with every checkpoint.

    Args:
        epoch: epochs done.
        step: optimiser steps done.
        best_value: best validation value so far, ``None`` before the first evaluation.
        best_epoch: epoch of ``best_value``.
        evaluations_without_gain: evaluations since.
        seconds: time spent training, without evaluation.
        rows, items: training rows and distinct items encoded so far, in this process.
        data_wait: seconds of ``seconds`` spent waiting for batches.
        stopped_early: whether early stopping ended the run.
        data, tokens: digests of the interactions and of the order of ids that were trained on.
        scaler: state of the loss scale (``mixed_precision=fp16``).
    """

    epoch: int = 0
    step: int = 0
    best_value: float | None = None
    best_epoch: int = 0
    evaluations_without_gain: int = 0
    seconds: float = 0.0
    rows: int = 0
    items: int = 0
    data_wait: float = 0.0
    stopped_early: bool = False
    data: str = ""
    tokens: str = ""
    scaler: dict[str, Any] | None = None


def state_from(values: dict[str, Any], folder: Path) -> TrainState:
    """The state that a checkpoint holds.

    Raises:
        CheckpointError: it holds other fields.
    """
    try:
        return TrainState(**values)
    except TypeError as error:
        raise CheckpointError(
            f"{folder} was written by another version ({error}); train without --resume."
        ) from error


class _LossModule(nn.Module):
    """Calls the model's loss from ``forward``, so that DistributedDataParallel sees it."""

    def __init__(self, adapter: ModelAdapter):
        super().__init__()
        self.model = adapter.model
        self._adapter = adapter

    def forward(self, batch: Any) -> Tensor | dict[str, Tensor]:
        return self._adapter.loss(batch)


class Trainer:
    """Trains a model, evaluates it, keeps its best and last state.

    It joins parameter groups, loader, evaluator, checkpoints and trackers.

    Args:
        config: resolved settings.
        adapter: the model with its batches and scorer.
        evaluator: ranks the validation and test targets.
        accelerator: places and synchronises.
        folder: the run folder.
    """

    def __init__(
        self,
        config: Any,
        adapter: ModelAdapter,
        evaluator: Evaluator,
        accelerator: Accelerator,
        folder: RunFolder,
    ):
        self.config = config
        self.adapter = adapter
        self.evaluator = evaluator
        self.accelerator = accelerator
        self.folder = folder
        self.state = TrainState(
            data=adapter.dataset.digest(), tokens=adapter.dataset.token_digest()
        )
        self.loader = TrainLoader(
            adapter.batches(),
            config["train_batch_size"],
            seed=config["seed"],
            workers=config["worker"],
            accumulation=micro_batches(config, parallel.world_size()),
            shuffle=bool(config["shuffle"]),
            rank=parallel.rank(),
            world_size=parallel.world_size(),
        )
        if len(self.loader) == 0:
            raise DataError(
                f"{adapter.dataset.inter_path} gives no training row under "
                f"protocol={adapter.dataset.protocol.name}: after the validation and test items "
                "are left out, no user has two interactions to learn from."
            )
        self.epochs = config["epochs"] if adapter.trains else 1
        self._users_per_row = adapter.dataset.splits.trained_users / len(self.loader.builder.rows)
        self.bigger_is_better = bool(config["valid_metric_bigger"])
        adapter.model.to(accelerator.device)
        if adapter.trains:
            self.optimizer = build_optimizer(parameter_groups(adapter.model, config), config)
            self.scheduler = build_scheduler(self.optimizer, config, len(self.loader), self.epochs)
            self.loss_module, self.optimizer = accelerator.prepare(
                _LossModule(adapter), self.optimizer
            )

    def fit(self) -> TrainState:
        """Train until the last epoch or until validation stops gaining; return the final state."""
        self.trackers = Trackers(self.config, self.folder)
        if self.config["resume"]:
            self._resume()
        self.adapter.prepare()
        if self.epochs == 0:
            self._validate()  # nothing to learn: the model as it is, for zero-shot figures
        while self.state.epoch < self.epochs and not self.state.stopped_early:
            if self.adapter.trains:
                self._train_epoch()
            else:
                self._count_epoch()
            self.state.epoch += 1
            last = self.state.epoch == self.epochs
            if self.state.epoch % self.config["eval_step"] == 0 or last:
                self._validate()
            self._save(self.folder.last, with_optimizer=self.adapter.trains)
        self.trackers.close()
        return self.state

    def load_best(self) -> None:
        """Fill the model with the state that validated best."""
        parallel.barrier()
        _, extra = load_checkpoint(self.folder.best, model=self.adapter.model)
        self.adapter.load_extra_state(extra)

    def evaluate(self, phase: str) -> Report:
        """Evaluate the model as it is, in float32 whatever the precision of training."""
        self.adapter.model.eval()
        return self.evaluator.evaluate(
            self.adapter.scorer(self.accelerator.device), phase, progress=self._shows_progress()
        )

    # --- one epoch ------------------------------------------------------------------------------

    def _train_epoch(self) -> None:
        self.adapter.model.train()
        steps = len(self.loader)
        bar = tqdm(
            total=steps,
            desc=f"epoch {self.state.epoch + 1}/{self.epochs}",
            unit="step",
            disable=None if self._shows_progress() else True,  # None: only on a terminal
            leave=False,
        )
        meter = _Meter()
        sums: Counter[str] = Counter()  # of the loss and its named parts
        batches = self.loader.epoch(self.state.epoch)
        for _ in range(steps):
            losses = self._step(batches, meter)
            sums.update(losses)
            self.state.step += 1
            bar.update()
            bar.set_postfix(
                loss=f"{losses['loss']:.4f}",
                lr=f"{self._rate():.2g}",
                **meter.rates(parallel.world_size(), self._users_per_row),
            )
            if self.state.step % self.config["log_interval"] == 0:
                self._log_train(losses, meter)
        bar.close()
        self.state.seconds += meter.seconds
        self.state.rows += meter.rows
        self.state.items += meter.items
        self.state.data_wait += meter.wait
        record = {
            **{name: total / max(steps, 1) for name, total in sums.items()},
            "lr": self._rate(),
            **{
                k: float(v)
                for k, v in meter.rates(parallel.world_size(), self._users_per_row).items()
            },
            "data_wait": meter.wait / max(meter.seconds, 1e-9),
        }
        self._record("train", record)
        log.info(
            "epoch %d  loss %.4f  lr %.2g  %.0f users/s  %.0f items/s  data wait %.0f %%",
            self.state.epoch + 1, record["loss"], record["lr"], record["users/s"],
            record["items/s"], 100 * record["data_wait"],
        )  # fmt: skip
        if self.config["worker"] == 0 and record["data_wait"] > _LONG_WAIT:
            log.info("--worker=2 builds batches beside training: loader processes of their own")

    def _step(self, batches: Any, meter: _Meter) -> dict[str, float]:
        """One optimiser step over all micro-batches; returns the loss of the whole batch, and its
        named parts where the model has some."""
        started = time.perf_counter()
        totals: dict[str, Tensor] = {}
        accumulation = self.loader.accumulation
        for micro in range(accumulation):
            waiting = time.perf_counter()
            batch = next(batches)
            meter.wait += time.perf_counter() - waiting
            meter.count(batch)
            batch["progress"] = self.state.step / max(len(self.loader) * self.epochs, 1)
            batch = send_to_device(batch, self.accelerator.device)
            # Dropout is a function of (seed, step, process): equal again after a resume.
            torch.manual_seed(
                stream(self.config["seed"], "dropout", self.state.step, micro, parallel.rank())
            )
            synchronise = micro == accumulation - 1 or parallel.world_size() == 1
            with self._maybe_no_sync(synchronise), self.accelerator.autocast():
                parts = self.loss_module(batch)
                parts = {"loss": parts} if isinstance(parts, Tensor) else parts
                loss = sum(parts.values())
                # DDP averages gradients over processes; the shares of the loss add up.
                self.accelerator.backward(loss * parallel.world_size())
            for name, part in {**parts, "loss": loss}.items():
                totals[name] = totals.get(name, 0.0) + part.detach()
        self._check_finite(totals["loss"])
        limit = largest_norm(self.config)
        if limit:
            self.accelerator.clip_grad_norm_(self.loss_module.parameters(), limit)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.scheduler.step()
        values = self.accelerator.reduce(torch.stack(list(totals.values())), "sum").tolist()
        meter.seconds += time.perf_counter() - started
        return dict(zip(totals, values, strict=True))

    def _maybe_no_sync(self, synchronise: bool) -> Any:
        if synchronise:
            return torch.enable_grad()
        return self.accelerator.no_sync(self.loss_module)

    def _check_finite(self, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            raise MoRecError(
                f"The loss is {loss.item()} at step {self.state.step} (epoch "
                f"{self.state.epoch + 1}): training has diverged. Lower learning_rate or "
                "encoder_learning_rate, or set clip_grad_norm."
            )

    def _count_epoch(self) -> None:
        """One pass of a model that counts instead of descending a gradient."""
        started = time.perf_counter()
        for batch in self.loader.epoch(0):
            self.state.rows += batch["local_rows"]
            self.adapter.loss(send_to_device(batch, self.accelerator.device))
        self.state.seconds += time.perf_counter() - started

    # --- validation and checkpoints ---------------------------------------------------------------

    def _validate(self) -> None:
        report = self.evaluate("valid")
        value = report.value(self.config["valid_metric"])
        self._record("valid", {"groups": report.metrics})
        best = self.state.best_value
        # A tie counts as a gain, as in RecBole and PixelRec.
        better = best is None or (value >= best if self.bigger_is_better else value <= best)
        log.info(
            "epoch %d  valid %s = %.4f%s",
            self.state.epoch, self.config["valid_metric"], value, "  (best)" if better else "",
        )  # fmt: skip
        if better:
            self.state.best_value = value
            self.state.best_epoch = self.state.epoch
            self.state.evaluations_without_gain = 0
            self._save(self.folder.best, with_optimizer=False)
        else:
            self.state.evaluations_without_gain += 1
            if self.state.evaluations_without_gain > self.config["stopping_step"]:
                self.state.stopped_early = True
                log.info(
                    "no gain in %d evaluations: stopping; best epoch %d",
                    self.state.evaluations_without_gain, self.state.best_epoch,
                )  # fmt: skip

    def _save(self, path: Any, *, with_optimizer: bool) -> None:
        if self.accelerator.scaler is not None:
            self.state.scaler = self.accelerator.scaler.state_dict()
        if self.folder.writes:
            save_checkpoint(
                path,
                model=self.adapter.model,
                extra=self.adapter.extra_state(),
                state=asdict(self.state),
                optimizer=self.optimizer if with_optimizer else None,
            )

    def _resume(self) -> None:
        state, extra = load_checkpoint(
            self.folder.last,
            model=self.adapter.model,
            optimizer=self.optimizer if self.adapter.trains else None,
        )
        self.adapter.load_extra_state(extra)
        if state.get("data") != self.state.data:
            raise CheckpointError(
                f"{self.folder.last} was trained on other interactions than "
                f"{self.adapter.dataset.inter_path} holds now; train without --resume."
            )
        self.state = state_from(state, self.folder.last)
        self.folder.drop_metrics_after(self.state.step)
        if self.accelerator.scaler is not None and self.state.scaler is not None:
            self.accelerator.scaler.load_state_dict(self.state.scaler)
        if self.adapter.trains:
            self.scheduler.last_epoch = self.state.step
            for group, rate in zip(
                self.optimizer.param_groups, self._rates_at(self.state.step), strict=True
            ):
                group["lr"] = rate
        log.info("resumed after epoch %d (step %d)", self.state.epoch, self.state.step)

    def _rates_at(self, step: int) -> list[float]:
        lambdas = self.scheduler.lr_lambdas
        return [b * f(step) for b, f in zip(self.scheduler.base_lrs, lambdas, strict=True)]

    def _shows_progress(self) -> bool:
        return bool(self.config["show_progress"] and self.accelerator.is_main_process)

    # --- records ----------------------------------------------------------------------------------

    def _rate(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def _log_train(self, losses: dict[str, float], meter: _Meter) -> None:
        rates = {
            k: float(v) for k, v in meter.rates(parallel.world_size(), self._users_per_row).items()
        }
        self._record("step", {**losses, "lr": self._rate(), **rates})

    def _record(self, kind: str, values: dict[str, Any]) -> None:
        epoch = self.state.epoch + (kind != "valid")
        record = {"kind": kind, "epoch": epoch, "step": self.state.step, **values}
        self.folder.log_metrics(record)
        self.trackers.log(record)


@dataclass
class _Meter:
    """Time and amounts of one epoch, in this process."""

    seconds: float = 0.0
    wait: float = 0.0
    rows: int = 0
    items: int = 0

    def count(self, batch: dict[str, Any]) -> None:
        self.rows += batch["local_rows"]
        if "content" in batch:
            self.items += len(batch["content"]["items"])

    def rates(self, processes: int, users_per_row: float) -> dict[str, str]:
        """Users and items per second over all processes (shares are equal to within one row).

        A user has one row or many (windows, prefixes, pairs); users are what models share.
        """
        seconds = max(self.seconds, 1e-9)
        return {
            "users/s": f"{self.rows * users_per_row * processes / seconds:.0f}",
            "items/s": f"{self.items * processes / seconds:.0f}",
        }
