"""The settings of one item encoder, read and checked in one place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recbole_morec.errors import ConfigError, suggest
from recbole_morec.item_encoders.pooling import POOLINGS
from recbole_morec.item_encoders.projection import ACTIVATIONS

MODALITIES = ("image", "text", "id", "features", "fusion")
RESIZES = ("squash", "crop", "pad")
TRANSFORMS = ("native", "paper")
BATCH_NORMS = ("frozen", "train")
TRAIN_LAYERS = re.compile(r"^(all|none|last_\d+|stages:.*)$")

_CHOICES = {
    "pooling": POOLINGS,
    "activation": tuple(ACTIVATIONS),
    "resize": RESIZES,
    "transform": TRANSFORMS,
    "batch_norm": BATCH_NORMS,
}
_DEFAULTS: dict[str, Any] = {
    "embedding_size": 64,
    "pretrained": None,
    "pooling": "default",
    "activation": "relu",
    "projection_layers": [],
    "train_layers": "all",
    "image_size": None,
    "resize": "squash",
    "transform": "native",
    "tokenizer": None,
    "text_fields": None,
    "max_text_length": 32,
    "features": None,
    "encoder_dropout": None,
    "batch_norm": "frozen",
}


@dataclass(frozen=True)
class EncoderSettings:
    """What one item encoder (one member of a fusion) is told. Names are those of the config keys.

    ``pretrained`` None and ``image_size`` None mean: as the encoder's card or model says.
    ``load_weights`` False builds the architecture only, for loading a checkpoint into it;
    ``architecture`` is then what :meth:`ItemEncoder.architecture` returned when it was saved.
    """

    embedding_size: int
    pretrained: bool | None
    pooling: str
    activation: str
    projection_layers: tuple[int, ...]
    train_layers: str | list[str]
    image_size: int | None
    resize: str
    transform: str
    tokenizer: str | None
    text_fields: tuple[str, ...] | None
    max_text_length: int
    features: str | None
    encoder_dropout: float | None
    batch_norm: str
    load_weights: bool = True
    architecture: Mapping[str, Any] | None = None


def config_value(config: Mapping[str, Any], key: str, default: Any = None) -> Any:
    """Return ``config[key]``, or ``default`` where the key is absent or empty."""
    if key not in config or config[key] is None:
        return default
    return config[key]


def read_settings(
    config: Mapping[str, Any],
    modality: str,
    load_weights: bool = True,
    architecture: Mapping[str, Any] | None = None,
) -> EncoderSettings:
    """Read the settings of the encoder of one modality; every problem is reported at once.

    Any key may hold a mapping by modality, ``{image: .., text: ..}``; a modality that it does not
    name gets the default.

    Raises:
        ConfigError: with one sentence per wrong value.
    """
    values: dict[str, Any] = {}
    problems: list[str] = []
    for key, default in _DEFAULTS.items():
        value = config_value(config, key, default)
        if isinstance(value, Mapping):
            unknown = [name for name in value if name not in MODALITIES]
            problems += [
                f"{key}: {name!r} is no modality ({', '.join(MODALITIES)})."
                + suggest(name, MODALITIES)
                for name in map(str, unknown)
            ]
            value = value.get(modality)
            value = default if value is None else value
        values[key] = value
    for key, options in _CHOICES.items():
        if values[key] not in options:
            problems.append(
                f"{key}: {values[key]!r} is not one of {', '.join(options)}."
                + suggest(str(values[key]), options)
            )
    for key in ("embedding_size", "max_text_length"):
        problems += _check_size(key, values[key])
    if values["image_size"] is not None:
        problems += _check_size("image_size", values["image_size"])
    if values["pretrained"] not in (None, True, False):
        problems.append(f"pretrained: {values['pretrained']!r} is neither True nor False.")
    problems += _check_train_layers(values["train_layers"])
    values["projection_layers"], found = _read_sizes(values["projection_layers"])
    problems += found
    rate = values["encoder_dropout"]
    if rate is not None and not (isinstance(rate, int | float) and 0 <= rate < 1):
        problems.append(f"encoder_dropout: {rate!r} is not a rate from 0 to below 1.")
    if values["text_fields"] is not None:
        fields = values["text_fields"]
        values["text_fields"] = (fields,) if isinstance(fields, str) else tuple(fields)
    if problems:
        raise ConfigError(problems)
    return EncoderSettings(**values, load_weights=load_weights, architecture=architecture)


def _check_size(key: str, value: Any) -> list[str]:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        return [f"{key}: {value!r} is not a whole number above 0."]
    return []


def _read_sizes(value: Any) -> tuple[tuple[int, ...], list[str]]:
    sizes = (value,) if isinstance(value, int) else tuple(value)
    problems = [p for size in sizes for p in _check_size("projection_layers", size)]
    return sizes, problems


def _check_train_layers(value: Any) -> list[str]:
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return []
    if value == "lora":
        return ["train_layers: lora is not available yet; use last_N, stages:[..] or patterns."]
    if isinstance(value, str) and TRAIN_LAYERS.match(value):
        return []
    return [
        f"train_layers: {value!r} is not known; use all, none, last_N (last_2), stages:[3,4] or a "
        "list of name patterns."
    ]
