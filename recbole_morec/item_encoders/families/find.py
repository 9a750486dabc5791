"""Lists the families of timm and transformers and finds a small member of each that runs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch

from recbole_morec.errors import MoRecError
from recbole_morec.item_encoders.families.reasons import REASONS
from recbole_morec.item_encoders.families.tiny_configs import tiny_config
from recbole_morec.item_encoders.families.trial import Member, describe, try_member
from recbole_morec.item_encoders.transformers_models import (
    modality_of_config,
    model_class,
    tower_config,
)

TIMM_SIZES = (64, 84, 96, 128, None)  # 84: patches of 14 in groups of 3
TRANSFORMERS_SIZES = (32, 48, 64, 224)  # 48: patches of 8 in groups of 3
HEAVY = 40e6  # parameters of a timm model that is tried at depth 2 where it can be


def find_timm(
    known: dict[str, str], folder: Path, families: Sequence[str] = ()
) -> Iterator[Member]:
    """Yield a member per timm module.

    Args:
        known: names of members that need not be searched, by family.
        folder: has a tokenizer.
        families: only these; empty means all.
    """
    for family in families or timm.list_modules():
        name = known.get(family)
        if name is None or not timm.is_model(name):
            name = smallest_timm_model(family)
        tries = [Member("timm", family, "image", name, size) for size in TIMM_SIZES]
        if timm_parameters(name) > HEAVY:
            shallow = [replace(member, changes={"depth": 2}) for member in tries]
            tries = [*shallow, *tries]
        yield first_that_runs(tries, folder)


def smallest_timm_model(family: str) -> str:
    """Return the name of the module's model with fewest parameters."""
    return min(timm.list_models(module=family), key=timm_parameters)


def timm_parameters(name: str) -> float:
    """Return the number of parameters of a timm model without its classifier."""
    try:
        with torch.device("meta"):
            model = timm.create_model(name, num_classes=0)
    except (NotImplementedError, RuntimeError):  # it computes on its weights while being built
        return float("inf")
    return sum(p.numel() for p in model.parameters())


def find_transformers(folder: Path, families: Sequence[str] = ()) -> Iterator[Member]:
    """Yield a member per model type and thing it reads; of those that read neither, one."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    for family in families or MODEL_MAPPING_NAMES:
        config = _config_with_towers(CONFIG_MAPPING[family])
        try:
            first = modality_of_config(config, family)
            name = model_class(config, family).__name__
        except MoRecError as error:
            reads = "" if "reads neither" in str(error) else "text"
            yield Member("transformers", family, reads, problem=describe(error))
            continue
        reads = [first]
        if first == "image" and tower_config(config, "text") is not config:
            reads.append("text")
        for modality in reads:
            sizes = TRANSFORMERS_SIZES if modality == "image" else (None,)
            member = Member("transformers", family, modality, name)
            found = first_that_runs([replace(member, size=size) for size in sizes], folder)
            reason = REASONS.get((family, modality))
            yield replace(found, problem=reason) if found.problem and reason else found


def _config_with_towers(config_class: type) -> Any:
    """Return the default config; a tiny one where the default leaves the image tower out."""
    config = config_class()
    if "vision_config" in config_class.sub_configs and config.vision_config is None:
        return tiny_config(config_class)  # Gemma 4
    return config


def first_that_runs(tries: list[Member], folder: Path) -> Member:
    """Return the first member without a problem, or the last problem."""
    for member in tries:
        start = time.perf_counter()
        problem, note = try_member(member, folder)
        seconds = round(time.perf_counter() - start, 1)
        if not problem:
            return replace(member, note=note, seconds=seconds)
    return replace(member, size=None, changes={}, problem=problem)
