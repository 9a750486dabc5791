"""The memory of training: a plan of it, and ``fit_memory``, which chooses chunks to keep to it.

Everything is an estimate: sizes of parameters are known, what a step keeps is measured on a few
items and rows (:mod:`recbole_morec.training.memory_probe`) and scaled.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import psutil
from accelerate import Accelerator
from torch import nn

from recbole_morec import parallel
from recbole_morec.errors import ConfigError, counted
from recbole_morec.models.adapter import ModelAdapter
from recbole_morec.sizes import read_size, write_size
from recbole_morec.training.memory_probe import ItemSide, Probe
from recbole_morec.training.micro_batches import why_not_exact

log = logging.getLogger(__name__)

# Tensors of a gradient's size that the learner keeps for each parameter.
_STATES = {"adam": 2, "adamw": 2, "adagrad": 1, "rmsprop": 1, "sgd": 0}
_WORKING = 3  # tensors as large as an encoder's largest, at work beside what is kept
_SECOND_FORWARD = 4 / 3  # forward, backward and forward again, over the first two
_FEW = 8  # items of a chunk below which a device idles


class Steps(Protocol):
    """What the plan has to know of a training step (:class:`Probe`)."""

    rows: int
    item_side: ItemSide

    def items(self, rows: int) -> int:
        """Items that a step over so many rows encodes."""

    def slots(self, rows: int) -> int:
        """Places of such a step that read an item vector."""

    def users(self, rows: int) -> float:
        """Bytes that it keeps beside the encoder."""


@dataclass(frozen=True)
class Held:
    """Bytes that are there in every step, of one process.

    Attributes:
        before: held before training: the parameters, and on a CPU all that the process holds.
        gradients: of the trained parameters (twice with several processes, which exchange them).
        states: of the learner.
        catalogue: vectors of all items, in evaluation.
        images: decoded images, a part of ``before``.
    """

    before: float
    gradients: float
    states: float
    catalogue: float = 0.0
    images: float = 0.0


@dataclass(frozen=True)
class Plan:
    """A way to run a step, and the bytes that one process needs for it.

    Attributes:
        passes: micro-batches.
        rows: of one of them.
        items: that one encodes.
        slots: places of one that read an item vector; 0 where not known.
        chunk: of the items that is encoded at a time; ``None`` = all at once.
        encoding: bytes for encoding them.
        users: bytes for the rest of the step.
        held: bytes that are there all the time.
    """

    passes: int
    rows: int
    items: int
    slots: int
    chunk: int | None
    encoding: float
    users: float
    held: Held

    @property
    def total(self) -> float:
        """Bytes at the largest."""
        held = self.held
        step = max(self.encoding + self.users, held.gradients)  # the learner works on a copy
        evaluation = held.before + held.states + 2 * held.catalogue
        return max(held.before + held.gradients + held.states + step, evaluation)

    @property
    def cost(self) -> float:
        """Items encoded in a step, a second time counted by what it costs."""
        return self.passes * self.items * (_SECOND_FORWARD if self.chunk else 1.0)


def plan_of(steps: Steps, held: Held, passes: int, chunk: int | None) -> Plan:
    """What a step takes in so many passes, with chunks of ``chunk`` items."""
    rows = -(-steps.rows // passes)
    items, side = steps.items(rows), steps.item_side
    whole = chunk is None or chunk >= items
    live = items if whole else chunk
    encoding = items * side.content + side.constant + live * (side.kept + _WORKING * side.largest)
    if not whole:
        # The chunks' vectors, and joined; a chunk's gradients beside the sum of the others'.
        encoding += 2 * items * side.vector + held.gradients
    chunk, slots = None if whole else chunk, steps.slots(rows)
    return Plan(passes, rows, items, slots, chunk, encoding, steps.users(rows), held)


def choose(
    steps: Steps, held: Held, budget: float, *, chunks: bool, most_passes: int, passes: int = 1
) -> Plan:
    """The cheapest plan that fits; where none does, the smallest.

    Chunks are powers of two, so that small differences of memory choose the same.

    Args:
        steps: the measured step.
        held: bytes that no choice changes.
        budget: bytes of a process.
        chunks: whether the encoder allows chunks.
        most_passes: whether, and how far, the batch may be cut up.
        passes: the number to start from.
    """
    plans = list(_plans(steps, held, chunks, most_passes, passes))
    fitting = [plan for plan in plans if plan.total <= budget]
    busy = [plan for plan in fitting if plan.chunk is None or plan.chunk >= _FEW]
    if busy or fitting:
        return min(busy or fitting, key=lambda plan: (plan.cost, plan.passes, -(plan.chunk or 0)))
    return min(plans, key=lambda plan: plan.total)


def _plans(steps: Steps, held: Held, chunks: bool, most_passes: int, passes: int) -> Iterator[Plan]:
    while passes <= most_passes:
        plan = plan_of(steps, held, passes, None)
        yield plan
        chunk = 1
        while chunks and chunk < plan.items:
            yield plan_of(steps, held, passes, chunk)
            chunk *= 2
        passes *= 2


def held_by(adapter: ModelAdapter, accelerator: Accelerator, config: Any) -> Held:
    """What every step holds; where processes differ, what the largest does."""
    tensors = [*adapter.model.parameters(), *adapter.model.buffers()]
    before, images = sum(tensor.nbytes for tensor in tensors), 0
    if accelerator.device.type == "cpu":
        before = psutil.Process().memory_info().rss
        images = adapter.reader.cached_bytes if adapter.reader is not None else 0
    trained = _trained(adapter.model)
    return Held(
        before=max(parallel.gather_objects(before)),
        gradients=trained * (2 if parallel.world_size() > 1 else 1),
        states=trained * _STATES[config["learner"]],
        images=max(parallel.gather_objects(images)),
    )


def plan_memory(adapter: ModelAdapter, accelerator: Accelerator, config: Any) -> Plan | None:
    """Estimate the memory of a step, say it, and with ``fit_memory`` choose how to keep to it.

    The choice is put into ``adapter.encoding`` and into ``config["micro_batch"]``. Decoded images
    are given up where nothing fits beside them and the user has not said what they may take.

    Returns:
        The plan; ``None`` where nothing is measured: without an item encoder, or without rows to
        train on, which the trainer refuses.

    Raises:
        ConfigError: nothing that leaves the loss as it is keeps to ``fit_memory``.
    """
    if not adapter.trains or len(adapter.batches().rows) == 0:
        return None
    adapter.model.to(accelerator.device)
    if adapter.encoding is None:
        _say_held(held_by(adapter, accelerator, config), config)
        return None
    steps = Probe(adapter, accelerator, config)
    # Only now: on a CPU the first pass loads libraries that stay.
    held = held_by(adapter, accelerator, config)
    held = replace(held, catalogue=adapter.dataset.item_num * steps.item_side.vector)
    _say_held(held, config)
    _say_images(adapter, accelerator, config)
    passes = config["accumulation_steps"]
    if config["micro_batch"]:
        passes = -(-steps.rows // config["micro_batch"])
    plan = plan_of(steps, held, passes, adapter.encoding.size)
    if config["fit_memory"]:
        plan = _fitting(adapter, accelerator, config, steps, held, passes)
    _say(plan, steps, config)
    return plan


def _fitting(
    adapter: ModelAdapter,
    accelerator: Accelerator,
    config: Any,
    steps: Steps,
    held: Held,
    passes: int,
) -> Plan:
    budget = read_size(config["fit_memory"])
    encoder = adapter.item_encoder
    unfit = _not_in_chunks(adapter, config)
    uncut = _not_in_passes(adapter, config)

    def chosen(held: Held) -> Plan:
        most = passes if uncut else steps.rows
        return choose(steps, held, budget, chunks=unfit is None, most_passes=most, passes=passes)

    plan = chosen(held)
    if plan.total > budget and held.images and config["image_cache_gb"] is None:
        adapter.reader.decode_on_demand()
        log.info(
            "images are decoded in each step: with all of them in memory, %s, training takes at "
            "least %s", write_size(held.images), write_size(plan.total),
        )  # fmt: skip
        held = replace(held_by(adapter, accelerator, config), catalogue=held.catalogue)
        plan = chosen(held)
    if plan.total > budget:
        problem = (
            f"fit_memory={config['fit_memory']}: training {encoder.name} takes at least "
            f"{write_size(plan.total)}: {_before(held, config)}, "
            f"{write_size(held.gradients)} gradients, {write_size(held.states)} state of "
            f"{config['learner']}, {write_size(plan.encoding)} for encoding "
            f"{counted(plan.chunk or plan.items, 'item')} at a time, {write_size(plan.users)} for "
            f"users and loss of {counted(plan.rows, 'row')}."
        )
        if unfit:
            problem += f" Items cannot be encoded in chunks: {unfit}."
        if uncut:
            problem += f" The batch cannot be cut up: {uncut}."
        cure = "image_cache_gb=0 (the same numbers), " if held.images else ""
        raise ConfigError(
            f"{problem} Allow that much, or choose another run: {cure}train_layers=last_2 or none, "
            "mixed_precision=bf16, learner=sgd, a smaller train_batch_size or image_size."
        )
    adapter.encoding.size = plan.chunk
    if plan.passes != passes:
        config["micro_batch"] = plan.rows
        config["accumulation_steps"] = 1
    return plan


def _not_in_chunks(adapter: ModelAdapter, config: Any) -> str | None:
    """Why chunks would change the vectors."""
    if not adapter.item_encoder.needs:
        return "the encoder reads no content, so that there is nothing to save"
    if adapter.item_encoder.batch_dependent:
        return "batch_norm=train makes an item's vector depend on the others"
    if config["item_tower"] and config["tower_batch_norm"]:
        return "tower_batch_norm=True makes an item's vector depend on the others"
    return None


def _not_in_passes(adapter: ModelAdapter, config: Any) -> str | None:
    """Why micro-batches would change the loss."""
    if not config.multimodal:
        return "the losses of RecBole's models need not add up over parts of it"
    if config["accumulation_steps"] != 1:
        return f"accumulation_steps={config['accumulation_steps']} decides how"
    if adapter.item_encoder.batch_dependent:
        return "batch_norm=train takes its statistics over the batch"
    return why_not_exact(config, config.model_class)


def _say_held(held: Held, config: Any) -> None:
    log.info(
        "memory: %s, gradients %s, state of %s %s",
        _before(held, config), write_size(held.gradients), config["learner"],
        write_size(held.states),
    )  # fmt: skip


def _before(held: Held, config: Any) -> str:
    """What is held before training, and what of it decoded images are."""
    said = f"{write_size(held.before)} before training"
    if not held.images:
        return said
    cache = config["image_cache_gb"]
    setting = "" if cache is None else f", image_cache_gb={cache}"
    return f"{said} (decoded images {write_size(held.images)}{setting})"


def _say_images(adapter: ModelAdapter, accelerator: Accelerator, config: Any) -> None:
    """Say it where all images are more than ``fit_memory`` has for them."""
    left = adapter.reader.uncached_bytes
    limited = config["fit_memory"] and accelerator.device.type == "cpu"
    if left and limited and config["image_cache_gb"] is None:
        log.info(
            "images are decoded in each step: all of them take %s, and at most a quarter of "
            "fit_memory=%s, and 2 GiB, are for them; image_cache_gb says otherwise",
            write_size(left), config["fit_memory"],
        )  # fmt: skip


def _say(plan: Plan, steps: Steps, config: Any) -> None:
    log.info(
        "memory of a step, estimated: %s for encoding %s (%s each at work), %s for users and loss "
        "of %s; %s in all%s",
        write_size(plan.encoding), counted(plan.items, "item"), write_size(steps.item_side.kept),
        write_size(plan.users), counted(plan.rows, "row"), write_size(plan.total),
        f" (fit_memory={config['fit_memory']})" if config["fit_memory"] else "",
    )  # fmt: skip
    if plan.chunk:
        plain = plan_of(steps, plan.held, plan.passes, None)
        log.info(
            "encoding %s at a time, recomputed on the way back: %s in place of %s",
            counted(plan.chunk, "item"), write_size(plan.total), write_size(plain.total),
        )  # fmt: skip
    if plan.passes > 1:
        log.info("a batch in %d passes of at most %s", plan.passes, counted(plan.rows, "row"))


def _trained(model: nn.Module) -> int:
    return sum(p.nbytes for p in model.parameters() if p.requires_grad)
