"""Makes ``transformers`` models: which class, which tower, with weights from anywhere."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from recbole_morec.errors import ConfigError
from recbole_morec.item_encoders.dropout import set_config_dropout
from recbole_morec.item_encoders.packed_patches import layout_for
from recbole_morec.item_encoders.pretrained import cached_hub_file, hub_reachable, no_weights
from recbole_morec.item_encoders.registry import EncoderCard
from recbole_morec.item_encoders.settings import EncoderSettings

logger = logging.getLogger(__name__)

_SUBCONFIGS = {"image": ("vision_config",), "text": ("text_config",)}


@dataclass(frozen=True)
class Place:
    """Where a model's files are: a folder, or a hub id with or without its cache only."""

    path: str
    cached_only: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments for ``from_pretrained``."""
        return {"local_files_only": True} if self.cached_only else {}


def locate(card: EncoderCard, config_only: bool = False) -> Place:
    """Find the files of ``card``: local folder, installed package, hub cache, network.

    Raises:
        ConfigError: none of them has it; the message names the ways out.
    """
    if card.model is None:
        raise ConfigError(f"pretrained: {card.name} has no published weights; set it to False.")
    if (Path(card.model) / "config.json").is_file():
        return Place(card.model)
    package = card.package.find() if card.package is not None else None
    if package is not None:
        return Place(str(package))
    if cached_hub_file(card.model, ("config.json",)):
        return Place(card.model, cached_only=True)
    if hub_reachable():
        return Place(card.model)
    raise no_weights(
        card.name, "no network, and not in this machine's cache", card.package, config_only
    )


def load_config(card: EncoderCard, architecture: Mapping[str, Any] | None) -> Any:
    """Return the ``transformers`` config: from a checkpoint, the card's sizes, or its files."""
    from transformers import AutoConfig

    description = (architecture or {}).get("config") or (card.arguments or None)
    if description is not None:
        description = dict(description)
        return AutoConfig.for_model(description.pop("model_type"), **description)
    place = locate(card, config_only=True)
    try:
        return AutoConfig.from_pretrained(place.path, **place.options)
    except (OSError, ValueError) as error:
        raise no_weights(card.name, _first_line(error), card.package, config_only=True) from error


def model_class(config: Any, name: str) -> type[nn.Module]:
    """Return the encoder class that ``transformers.AutoModel`` has for ``config``."""
    from transformers import MODEL_MAPPING

    if type(config) not in MODEL_MAPPING:
        raise ConfigError(
            f"item_encoder {name!r}: transformers has no AutoModel for model type "
            f"{getattr(config, 'model_type', None)!r}."
        )
    try:
        found = MODEL_MAPPING[type(config)]
        found = found[0] if isinstance(found, list | tuple) else found
        _ = found.forward  # a class whose library is not installed raises at any touch
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"item_encoder {name!r}: {_first_line(error)}") from error
    return found


def tower_config(config: Any, modality: str) -> Any:
    """Return the part of a config that describes the tower of one modality (or all of it)."""
    for name in _SUBCONFIGS[modality]:
        part = getattr(config, name, None)
        if part is not None and hasattr(part, "model_type"):
            return part
    return config


def modality_of_config(config: Any, name: str) -> str:
    """Return ``image`` or ``text``: what a model of this config reads.

    A model that reads both (CLIP) counts as an image encoder where it has a tower for images.

    Raises:
        ConfigError: it reads neither (audio, time series).
    """
    if tower_config(config, "image") is not config:
        return "image"
    inputs = input_names(model_class(config, name))
    if "input_ids" in inputs:
        return "text"
    if "pixel_values" in inputs or layout_for(config) is not None:
        return "image"
    raise ConfigError(
        f"item_encoder {name!r}: a {config.model_type} model reads neither images nor text, but "
        f"{', '.join(list(inputs)[:3])}."
    )


def modality_of(card: EncoderCard, architecture: Mapping[str, Any] | None = None) -> EncoderCard:
    """Return ``card`` with its modality, read from the model's config where it is not known."""
    if card.modality is not None:
        return card
    config = load_config(card, architecture)
    return replace(card, modality=modality_of_config(config, card.name))


@cache
def input_names(model: type[nn.Module]) -> tuple[str, ...]:
    """Return the parameter names of the model's ``forward``."""
    return tuple(inspect.signature(model.forward).parameters)[1:]


def check_inputs(model: nn.Module, given: str, name: str) -> None:
    """Refuse a model whose ``forward`` wants more than ids or pixels.

    Raises:
        ConfigError: naming what only the model's own processor makes (``grid_thw``, ``bbox``).
    """
    parameters = list(inspect.signature(type(model).forward).parameters.values())[1:]
    required = [
        p.name
        for p in parameters
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    missing = [p for p in required if p != given]
    if given not in input_names(type(model)) or missing:
        wants = ", ".join(missing) or ", ".join(p.name for p in parameters[:3])
        raise ConfigError(
            f"item_encoder {name!r}: {type(model).__name__} does not run on {given} alone; it "
            f"wants {wants} from its own processor."
        )


def make_model(card: EncoderCard, settings: EncoderSettings, config: Any) -> nn.Module:
    """Build the tower for ``card.modality``, random or with its weights.

    A pooling layer is built only where it is used: by ``pooling: pooler``, and for images by
    ``pooling: default`` where the weights have one.

    Args:
        card: has its modality.
        settings: of this encoder.
        config: the whole config, as :func:`load_config` returns it.
    """
    part = tower_config(config, card.modality)
    pooler = settings.pooling == "pooler" or (
        settings.pooling == "default" and card.modality == "image"
    )
    if settings.encoder_dropout is not None:
        set_config_dropout(config, settings.encoder_dropout)
    if hasattr(part, "mask_ratio"):
        part.mask_ratio = 0.0  # a masked autoencoder hides random patches in every forward
    if card.loads_weights(settings) and settings.load_weights:
        model = _load(card, config, part, pooler, settings.pooling == "pooler")
    else:
        pooler = (settings.architecture or {}).get("pooler", pooler)
        model = _random(card, config, part, pooler)
    if card.modality == "text" and getattr(part, "is_encoder_decoder", False):
        model = model.get_encoder()
    if settings.attention != "auto":
        _set_attention(model, settings.attention, card.name)
    return model


def _set_attention(model: nn.Module, kind: str, name: str) -> None:
    try:
        model.set_attn_implementation(kind)
    except (ValueError, ImportError) as error:
        raise ConfigError(
            f"attention: {name} has no {kind} attention ({_first_line(error)})."
        ) from error


def has_pooler(model: nn.Module) -> bool:
    """Whether the model was built with its pooling layer."""
    return getattr(model, "pooler", None) is not None


def _random(card: EncoderCard, config: Any, part: Any, pooler: bool) -> nn.Module:
    from transformers import MODEL_MAPPING

    if part is config or type(part) in MODEL_MAPPING:
        cls = model_class(part, card.name)
        return cls(part, **_pooler_option(cls, pooler))
    return _tower(model_class(config, card.name)(config), part, card)[0]


def _load(
    card: EncoderCard, config: Any, part: Any, pooler: bool, pooler_needed: bool
) -> nn.Module:
    place = locate(card)
    cls = model_class(config, card.name)
    option = _pooler_option(cls, pooler) if part is config else {}
    # float32 whatever the file holds: mixed precision is the trainer's choice.
    options = {"config": config, "dtype": torch.float32, "output_loading_info": True, **option}
    try:
        with _quiet():
            model, report = cls.from_pretrained(place.path, **options, **place.options)
    except OSError as error:
        if not place.cached_only or not hub_reachable():
            raise no_weights(card.name, _first_line(error), card.package) from error
        with _quiet():  # only its config was cached
            model, report = cls.from_pretrained(place.path, **options)
    model, prefix = (model, "") if part is config else _tower(model, part, card)
    missing = sorted(name for name in report["missing_keys"] if name.startswith(prefix))
    only_pooler = all("pooler." in name for name in missing)
    if missing and only_pooler and option.get("add_pooling_layer") and not pooler_needed:
        return _load(card, config, part, pooler=False, pooler_needed=False)
    if missing:
        raise ConfigError(
            f"item_encoder {card.name!r}: {place.path} lacks {len(missing)} of the model's "
            f"weights, for example {', '.join(missing[:3])}."
        )
    unused = [name for name in report["unexpected_keys"] if name.startswith(prefix)]
    if unused:
        logger.info(
            "%s: %d weights of %s are not used: %s",
            card.name,
            len(unused),
            place.path,
            ", ".join(unused),
        )
    return model


def _tower(model: nn.Module, part: Any, card: EncoderCard) -> tuple[nn.Module, str]:
    """Return the submodule that ``part`` describes, and its name as a prefix."""
    inputs = {"input_ids"} if card.modality == "text" else {"pixel_values"}
    if card.modality == "image" and layout_for(part) is not None:
        inputs.add("hidden_states")  # as some towers name their pixels (Qwen-VL)
    for name, module in model.named_modules():
        described = type(getattr(module, "config", None)) is type(part)
        names = set(input_names(type(module)))
        whole = names & {"return_dict", "kwargs"}  # a tower, not its embedding layer
        if name and described and whole and inputs & names:
            return module, f"{name}."
    raise ConfigError(
        f"item_encoder {card.name!r}: no {card.modality} tower was found in {type(model).__name__}."
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the library's own report and progress bar: what matters is reported here."""
    from transformers.utils import logging as hf_logging

    verbosity, bar = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bar:
            hf_logging.enable_progress_bar()


def _pooler_option(cls: type[nn.Module], pooler: bool) -> dict[str, bool]:
    takes = "add_pooling_layer" in inspect.signature(cls.__init__).parameters
    return {"add_pooling_layer": pooler} if takes else {}


def plain_config(config: Any) -> dict[str, Any]:
    """Return the config as JSON-able values from which the model can be built again."""
    return json.loads(config.to_json_string(use_diff=False))


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
