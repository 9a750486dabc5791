"""One line that says what a run does to be fast, and how much less it computes for that."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer

from recbole_morec import parallel
from recbole_morec.errors import counted
from recbole_morec.item_encoders.attention import attention_of
from recbole_morec.item_encoders.backbone import BackboneEncoder
from recbole_morec.item_encoders.freezing import find_units
from recbole_morec.item_encoders.fusion import FusionEncoder
from recbole_morec.item_encoders.stored import Stored, backbones_of
from recbole_morec.item_encoders.text import TextEncoder
from recbole_morec.models.adapter import ModelAdapter
from recbole_morec.training.memory import Plan

_BACKWARD = 3  # passes of a block that trains: forward, and the gradients of inputs and weights


def savings(
    adapter: ModelAdapter,
    plan: Plan | None,
    optimizer: Optimizer,
    config: Any,
    keeps_memory: bool = False,
) -> str:
    """What is on, in words.

    The count is of block passes (a frozen block costs one, a trained one three): those of every
    slot through the whole encoder over those of the distinct items through what is not stored.

    Args:
        adapter: the model, prepared.
        plan: of a step; ``None`` for a model on ids.
        optimizer: as it was built.
        config: resolved settings.
        keeps_memory: whether the process keeps the memory that it frees.
    """
    encoder = adapter.item_encoder
    reads = plan is not None and bool(encoder.needs)
    said = _encoding(adapter, plan, config) if reads else []
    said.append({"no": "fp32"}.get(config["mixed_precision"], config["mixed_precision"]))
    members = [] if encoder is None else backbones_of(encoder)
    kinds = [attention_of(member.backbone) for member in members]
    said += dict.fromkeys(f"{kind} attention" for kind in kinds if kind)
    if any(_channels_last(member) for member in members):
        said.append("channels last")
    if optimizer.defaults.get("fused"):
        said.append(f"{config['learner']} fused")
    if keeps_memory:
        said.append("freed memory kept")
    workers = config["worker"]
    beside = f"beside it by {counted(workers, 'worker')}" if workers else "in the training thread"
    return ", ".join([*said, f"batches built {beside}"])


def _encoding(adapter: ModelAdapter, plan: Plan, config: Any) -> list[str]:
    said = [f"{counted(plan.items, 'item')} encoded a step"]
    distinct = config["encode"] == "distinct" or not config.multimodal
    if distinct and plan.slots > plan.items:
        said = [f"{counted(plan.items, 'distinct item')} encoded in place of {plan.slots} slots"]
    if adapter.encoding.shared and parallel.world_size() > 1:
        said.append("those of several processes once")
    if plan.chunk:
        said.append(f"{plan.chunk} at a time and again on the way back")
    stored = adapter.stored.by_encoder if adapter.stored else {}
    said += [f"{encoder.name}: {each.what} are read" for encoder, each in stored.items()]
    encoder = adapter.item_encoder
    members = backbones_of(encoder)
    by_token = isinstance(encoder, FusionEncoder) and encoder.join.reads_tokens
    if any(_by_length(member, stored.get(member)) for member in members) and not by_token:
        said.append("texts of like length together")
    passes = [_passes(member, stored.get(member)) for member in members]
    if passes and all(passes):
        slots = max(plan.slots, plan.items)
        whole = slots * sum(whole for whole, _ in passes)
        left = plan.items * sum(left for _, left in passes)
        if left == 0:
            said.append("no block computed")
        elif whole > left:
            said.append(f"{whole / left:.1f} times fewer block passes")
    return said


def _by_length(encoder: BackboneEncoder, stored: Stored | None) -> bool:
    """Whether it computes texts in each step, in buckets."""
    computes = stored is None or stored.prefix is not None
    return computes and isinstance(encoder, TextEncoder) and encoder.by_length


def _passes(encoder: BackboneEncoder, stored: Stored | None) -> tuple[int, int] | None:
    """Block passes of one item in a step: of the whole encoder, and of what is computed."""
    units = find_units(encoder.backbone)
    if units is None:
        return None
    trained = [
        any(p.requires_grad for p in encoder.backbone.get_submodule(name).parameters())
        for name in units.names
    ]
    first = trained.index(True) if any(trained) else len(trained)
    whole = first + _BACKWARD * (len(trained) - first)
    if stored is None:
        return whole, whole
    return whole, whole - first


def _channels_last(encoder: BackboneEncoder) -> bool:
    return any(
        p.ndim == 4 and p.is_contiguous(memory_format=torch.channels_last) and min(p.shape[1:]) > 1
        for p in encoder.backbone.parameters()
    )
