"""``build_item_encoder``: from the settings of a run to its item encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from recbole_morec.errors import ConfigError

# Each of these registers its encoders when it is imported.
from recbole_morec.item_encoders import (  # noqa: F401
    codes,
    features,
    id,
    image,
    known_encoders,
    published_encoders,
    vision,
)
from recbole_morec.item_encoders.attention import choose_attention
from recbole_morec.item_encoders.base import ItemEncoder
from recbole_morec.item_encoders.fusion import make_fusion, member_settings, two_of_a_kind
from recbole_morec.item_encoders.registry import EncoderCard, builder_of, find_card, is_registered
from recbole_morec.item_encoders.settings import config_value, read_settings
from recbole_morec.item_encoders.transformers_models import modality_of


def build_item_encoder(
    config: Mapping[str, Any], dataset: Any, load_weights: bool = True
) -> ItemEncoder:
    """Build the item encoder that ``config["item_encoder"]`` names, or a fusion of a list of them.

    Args:
        config: the settings (see :class:`~recbole_morec.item_encoders.settings.EncoderSettings`);
            absent keys get defaults. ``item_encoder_architecture`` may hold what
            :meth:`ItemEncoder.architecture` returned, so that nothing has to be downloaded;
            ``device``, where it is going to run, decides about ``attention: auto``.
        dataset: has ``item_tokens``, ``item_num`` and ``folder``.
        load_weights: False builds the modules only, for weights that a checkpoint brings.

    Raises:
        ConfigError: an unknown name, wrong settings, or weights that cannot be had.
        DataError: stored features that do not cover the items.
    """
    names = config_value(config, "item_encoder")
    architecture = config_value(config, "item_encoder_architecture", {})
    if not names:
        raise ConfigError("item_encoder: no name given, for example item_encoder: tiny_convnext.")
    names = [names] if isinstance(names, str) else list(names)
    saved = architecture.get("members") or {architecture.get("modality"): architecture}
    method = config_value(config, "fusion", "sum")
    device = config_value(config, "device")
    members: dict[str, ItemEncoder] = {}
    for name in names:
        card = _card(name, Path(dataset.folder), saved)
        if card.modality in members:
            raise ConfigError(two_of_a_kind(members[card.modality].name, name, card.modality))
        settings = read_settings(config, card.modality, load_weights, saved.get(card.modality))
        if len(names) > 1:
            settings = member_settings(settings, method)
        member = members[card.modality] = builder_of(card)(card, settings, dataset)
        if settings.attention == "auto" and device is not None:
            choose_attention(member, device)
    if len(members) == 1:
        return next(iter(members.values()))
    settings = read_settings(config, "fusion")
    if not isinstance(config_value(config, "projection_layers"), Mapping):
        # A plain list of hidden sizes is meant for the members; the fusion's own are named.
        settings = replace(settings, projection_layers=())
    return make_fusion(members, method, settings)


def _card(name: str, folder: Path, saved: Mapping[Any, Mapping[str, Any]]) -> EncoderCard:
    """Return the card of ``name`` with its modality; a saved architecture spares the look-up."""
    for modality, architecture in saved.items():
        same = architecture.get("name") == name and "source" in architecture
        if same and not is_registered(name):
            return EncoderCard(name, modality, architecture["source"])
    return modality_of(find_card(name, folder))
