"""The parts of a model that can be loaded on their own, and the loading of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recbole_morec.errors import CheckpointError

log = logging.getLogger(__name__)

ITEM_PARTS = ("item_encoder", "projection")
PARTS = (*ITEM_PARTS, "item_table", "user_encoder", "positions")
_SHOWN = 12


def part_of(name: str, declared: Mapping[str, str]) -> str:
    """The part that a tensor of a model's state belongs to.

    ``projection`` is the item encoder's last step (of every member of a fusion, and the fusion's
    own), ``positions`` the position table of the user encoder; ``item_encoder`` and
    ``user_encoder`` are the rest of each.

    Args:
        name: of the tensor.
        declared: start of a name -> part, of what a model holds beside its two encoders
            (``MultimodalRecommender.transfer_parts``); what nobody declares goes with the user
            encoder.
    """
    first, *rest = name.split(".")
    if first == "item_encoder":
        return "projection" if "projection" in rest and "backbone" not in rest else first
    if first == "user_encoder":
        return "positions" if "positions" in rest else first
    return next(
        (part for start, part in declared.items() if f"{name}.".startswith(f"{start}.")),
        "user_encoder",
    )


@dataclass(frozen=True)
class Source:
    """The tensors that a part is loaded from.

    Args:
        path: where they come from, for messages.
        tensors: under the names of our models.
        unknown: names in the file that mean nothing to us (published code only).
        tokens: digest of the order of items and users that the run was trained on; ``None`` where
            it is not known.
    """

    path: str
    tensors: Mapping[str, Tensor]
    unknown: tuple[str, ...] = ()
    tokens: str | None = None


@dataclass(frozen=True)
class Loaded:
    """What a loading did: names of tensors.

    Args:
        loaded: part -> tensors that were copied.
        fresh: tensors of the model that no part asked for; they keep their start.
        unused: tensors of the sources that no part asked for.
    """

    loaded: dict[str, list[str]]
    fresh: list[str]
    unused: list[str]


def load_parts(
    model: nn.Module,
    sources: Mapping[str, Source],
    tokens: str,
    ids: frozenset[str],
    by_name: bool = True,
) -> Loaded:
    """Copy parts of other models into ``model``; every tensor of a part must be there and fit.

    Args:
        model: filled in place; left as it was where something does not fit.
        sources: part -> where its tensors come from.
        tokens: digest of the items and users that ``model`` is for.
        ids: names of the model's tensors that belong to items or users.
        by_name: the parts were asked for one by one, so that each must hold something.

    Raises:
        CheckpointError: a part lacks tensors, has others or other shapes, or belongs to the items
            or users of another dataset (the message lists every difference); or nothing was
            loaded.
    """
    own = model.state_dict()
    declared = getattr(model, "transfer_parts", {})
    unread = _unread(model)
    problems = [
        f"{type(model).__name__}.transfer_parts: there is no part {part}"
        for part in sorted(set(declared.values()) - set(PARTS))
    ]
    loaded: dict[str, list[str]] = {}
    for part, source in sources.items():
        wanted = {name for name in own if part_of(name, declared) == part}
        found = {name for name in source.tensors if part_of(name, declared) == part}
        if not wanted and not found:
            if by_name:
                problems.append(f"{part}: neither {source.path} nor this model has any")
            continue
        problems += _differences(part, source, own, wanted - (unread - found), found)
        if source.tokens is None:
            for name in sorted(wanted & found & ids):
                log.warning("load: rows of %s are taken in the order of %s", name, source.path)
        elif source.tokens != tokens:
            problems += [
                f"{part}: {name} belongs to the items or users of the dataset that {source.path} "
                "was trained on, and this is another one"
                for name in sorted(wanted & found & ids)
            ]
        loaded[part] = sorted(wanted & found)
    if not problems and not any(loaded.values()):
        paths = ", ".join(sorted({source.path for source in sources.values()}))
        problems.append(f"{paths}: it holds nothing that this model could take")
    if problems:
        shown = "\n".join(f"  {problem}" for problem in problems[:_SHOWN])
        more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise CheckpointError(
            f"load: what was asked for does not fit this model:\n{shown}{more}\nUse the settings "
            "of the run that is loaded (its config.yaml), or load fewer parts: load: {part: path} "
            f"with parts {', '.join(PARTS)}."
        )
    with torch.no_grad():
        for part, names in loaded.items():
            for name in names:
                own[name].copy_(sources[part].tensors[name])
    taken = {name for names in loaded.values() for name in names}
    files = {source.path: source for source in sources.values()}
    unused = [
        name
        for source in files.values()
        for name in [*(set(source.tensors) - taken), *source.unknown]
    ]
    return Loaded(loaded, sorted(set(own) - taken), sorted(unused))


def _unread(model: nn.Module) -> set[str]:
    """Tensors of backbones that no item vector depends on; published files may lack them."""
    return {
        f"{name}.backbone.{parameter}"
        for name, module in model.named_modules()
        for parameter in getattr(module, "unused_parameters", ())
    }


def _differences(
    part: str, source: Source, own: Mapping[str, Tensor], wanted: set[str], found: set[str]
) -> list[str]:
    problems = [f"{part}: {source.path} lacks {name}" for name in sorted(wanted - found)]
    problems += [
        f"{part}: {source.path} holds {name}, which this model has not"
        for name in sorted(found - wanted)
    ]
    problems += [
        f"{part}: {name} has shape {tuple(source.tensors[name].shape)} in {source.path} and "
        f"{tuple(own[name].shape)} in this model"
        for name in sorted(wanted & found)
        if source.tensors[name].shape != own[name].shape
    ]
    return problems
