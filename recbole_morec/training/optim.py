"""Parameter groups, optimisers and learning-rate schedules."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from recbole_morec.item_encoders import ItemEncoder
from recbole_morec.models.base import MultimodalRecommender

_OPTIMIZERS: dict[str, type[Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
}
_FUSED = ("adam", "adamw")  # one pass over a parameter and its state instead of one per operation


def parameter_groups(model: nn.Module, config: Any) -> list[dict[str, Any]]:
    """Trained parameters in groups: the item encoder's backbone with its own rate, and the rest.

    The projection goes with ``projection_group``. A stock model without an item encoder is one
    group, as in RecBole.

    Returns:
        Groups with ``name``, ``params``, ``lr`` and ``weight_decay``; empty ones are left out.
    """
    rest = {
        "name": "recommender",
        "params": [],
        "lr": config["learning_rate"],
        "weight_decay": config["weight_decay"] or 0.0,
    }
    groups = [rest]
    encoder_parameters: set[int] = set()
    item_encoder = next((m for m in model.children() if isinstance(m, ItemEncoder)), None)
    if isinstance(model, MultimodalRecommender):
        item_encoder = model.item_encoder
    if item_encoder is not None:
        encoder = {
            "name": "encoder",
            "params": [],
            "lr": config["encoder_learning_rate"],
            "weight_decay": config["encoder_weight_decay"],
        }
        groups.append(encoder)
        encoder_parameters = {id(p) for p in item_encoder.encoder_parameters()}
        if config["projection_group"] == "encoder":
            ours = isinstance(model, MultimodalRecommender)
            projection = model.projection_parameters() if ours else item_encoder.parameters()
            encoder_parameters |= {id(p) for p in projection}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups[id(parameter) in encoder_parameters]["params"].append(parameter)
    return [group for group in groups if group["params"]]


def build_optimizer(groups: list[dict[str, Any]], config: Any) -> Optimizer:
    """The optimiser that ``learner`` names, over the given groups, fused where that exists."""
    kind, rate = _OPTIMIZERS[config["learner"]], config["learning_rate"]
    if config["learner"] in _FUSED:
        with contextlib.suppress(RuntimeError):  # of a device that has no such kernels
            return kind(groups, lr=rate, fused=True)
    return kind(groups, lr=rate)


def build_scheduler(
    optimizer: Optimizer, config: Any, steps_per_epoch: int, epochs: int
) -> LambdaLR:
    """A schedule that is stepped once per optimiser step.

    ``constant`` stays at 1, ``linear`` falls to 0 and ``cosine`` follows half a cosine to 0 over
    the steps after the warm-up, ``step`` multiplies by ``scheduler_gamma`` every
    ``scheduler_step_size`` epochs. Each starts with a linear rise over ``warmup_ratio`` of the
    steps.
    """
    total = max(steps_per_epoch * epochs, 1)
    warmup = round(config["warmup_ratio"] * total)
    kind = config["scheduler"]

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done = min((step - warmup) / max(total - warmup, 1), 1.0)
        if kind == "linear":
            return 1.0 - done
        if kind == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * done))
        if kind == "step":
            drops = step // (steps_per_epoch * config["scheduler_step_size"])
            return config["scheduler_gamma"] ** drops
        return 1.0

    return LambdaLR(optimizer, factor)


def largest_norm(config: Any) -> float | None:
    """The gradient norm to clip to: a number, or RecBole's ``{max_norm: ...}``."""
    limit = config["clip_grad_norm"]
    return float(limit["max_norm"]) if isinstance(limit, dict) else limit
