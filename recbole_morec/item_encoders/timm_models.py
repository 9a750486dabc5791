"""Makes timm models: by name or folder, at another image size, with weights from anywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from recbole_morec.errors import ConfigError
from recbole_morec.item_encoders.pretrained import (
    WEIGHT_FILES,
    cached_hub_file,
    hub_reachable,
    load_in_order,
    no_weights,
    read_weights_file,
)
from recbole_morec.item_encoders.registry import EncoderCard
from recbole_morec.item_encoders.settings import EncoderSettings

_LOCAL = "local-dir:"


@dataclass(frozen=True)
class MadeModel:
    """A timm model without classifier, and how to make it again.

    ``size`` is the image size it is to be given.
    """

    model: nn.Module
    name: str
    arguments: Mapping[str, Any]
    size: int


def make_timm_model(card: EncoderCard, settings: EncoderSettings) -> MadeModel:
    """Create the model of ``card`` without its classifier.

    Raises:
        ConfigError: weights that cannot be had, do not exist or do not fit; an image size that
            the model refuses.
    """
    load = card.loads_weights(settings) and settings.load_weights
    saved = settings.architecture or {}
    name = saved.get("model", card.model)
    arguments = dict(saved.get("arguments", card.arguments))
    plain_name = name
    if name.startswith(_LOCAL):
        plain_name, own = _described(Path(name[len(_LOCAL) :]))
        arguments = {**own, **arguments}
    size = settings.image_size or saved.get("image_size") or card.input_size
    if size is None and "img_size" in arguments:
        given = arguments["img_size"]
        size = given if isinstance(given, int) else given[0]
    package = card.package.find() if load and card.package is not None else None
    if package is not None:
        model, arguments = _create(card, name, {**arguments, "num_classes": 1000}, size)
        load_in_order(model, read_weights_file(package), str(package))
        model.reset_classifier(0)
        del arguments["num_classes"]
    elif load:
        overlay = None if name.startswith(_LOCAL) else _find_weights(card, name)
        model, arguments = _create(card, name, arguments, size, overlay or {})
    else:
        model, arguments = _create(card, name, arguments, size)
    own_size = tuple(model.pretrained_cfg.get("input_size") or (3, 224, 224))[-1]
    return MadeModel(model, plain_name, arguments, size or own_size)


def _create(
    card: EncoderCard,
    name: str,
    arguments: Mapping[str, Any],
    size: int | None,
    overlay: Mapping[str, Any] | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Call ``timm.create_model``, with ``img_size`` where the model takes one.

    ``overlay`` other than None loads weights, from where it says.
    Returns the model and the arguments that it took.
    """
    import timm  # here, since it takes seconds that runs without images need not spend

    options: dict[str, Any] = {"num_classes": 0, "pretrained": overlay is not None}
    if overlay:
        options["pretrained_cfg_overlay"] = dict(overlay)
    taken = dict(arguments)
    if size is not None:
        taken["img_size"] = size
    try:
        try:
            return timm.create_model(name, **{**options, **taken}), taken
        except TypeError as error:
            if "img_size" not in str(error):
                raise
            taken = dict(arguments)  # a network that takes any size
            return timm.create_model(name, **{**options, **taken}), taken
    except (OSError, RuntimeError, AssertionError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
        if overlay is not None:
            raise no_weights(card.name, why, card.package) from error
        raise ConfigError(
            f"image_size: {card.name} cannot be made for {size} x {size} pixels ({why}). Leave "
            "image_size empty for the size that the model was made for."
        ) from error


def _find_weights(card: EncoderCard, name: str) -> Mapping[str, Any]:
    """Return the changes to timm's ``pretrained_cfg`` under which its weights can be loaded."""
    import timm

    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise ConfigError(
            f"pretrained: timm has no pretrained weights for {name}; set pretrained: False."
        )
    if config.hf_hub_id:
        names = (config.hf_hub_filename,) if config.hf_hub_filename else WEIGHT_FILES
        file = cached_hub_file(config.hf_hub_id, names)
        if file is not None:
            return {"file": file}
    if hub_reachable(None if config.hf_hub_id else config.url):
        return {}
    raise no_weights(card.name, "no network, and not in this machine's cache", card.package)


def _described(folder: Path) -> tuple[str, dict[str, Any]]:
    """Return the timm name and arguments of a local folder, so that it is not needed again."""
    description = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    arguments = dict(description.get("model_args") or {})
    arguments.pop("num_classes", None)
    return description["architecture"], arguments
