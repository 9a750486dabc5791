"""An item encoder as it can be known before data and weights are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from recbole_morec.errors import ConfigError
from recbole_morec.item_encoders.freezing import units_to_train
from recbole_morec.item_encoders.registry import EncoderCard
from recbole_morec.item_encoders.settings import EncoderSettings, read_settings


def outline_problems(config: Mapping[str, Any], card: EncoderCard) -> list[str]:
    """What is wrong with the settings of one encoder, as far as can be told without its weights.

    A model of the hub that is not on this machine is not asked for: the rest of its settings is
    checked when it is built.

    Args:
        config: the settings, see :func:`~recbole_morec.item_encoders.settings.read_settings`.
        card: of the encoder, with its modality.
    """
    try:
        settings = read_settings(config, card.modality)
        choice = settings.train_layers
        counts = isinstance(choice, str) and choice.startswith(("last_", "stages"))
        backbone = _without_weights(card, settings) if counts else None
        if backbone is not None:
            units_to_train(backbone, choice, card.name)
    except ConfigError as error:
        return error.problems
    return []


def known_here(card: EncoderCard) -> bool:
    """Whether the description of a ``transformers`` model is on this machine."""
    if card.arguments:
        return True
    if card.model is not None and (Path(card.model) / "config.json").is_file():
        return True
    return card.package is not None and card.package.find() is not None


def _without_weights(card: EncoderCard, settings: EncoderSettings) -> nn.Module | None:
    """The backbone on the meta device, which holds no numbers; ``None`` where it takes more."""
    settings = replace(settings, load_weights=False)
    try:
        with torch.device("meta"):
            if card.source == "timm":
                from recbole_morec.item_encoders.timm_models import make_timm_model

                return make_timm_model(card, settings).model
            if card.source == "transformers" and known_here(card):
                from recbole_morec.item_encoders.transformers_models import load_config, make_model

                return make_model(card, settings, load_config(card, None))
    except (RuntimeError, NotImplementedError, ValueError, TypeError):
        return None  # some read their first weights while they are built
    return None
