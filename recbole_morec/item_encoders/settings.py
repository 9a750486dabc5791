"""The settings of one item encoder, as they are for its modality.

Their types stand in :mod:`recbole_morec.settings`, which checks the settings of a whole run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from recbole_morec.errors import ConfigError, suggest
from recbole_morec.settings import MultimodalSettings, RunSettings, sentences

MODALITIES = ("image", "text", "id", "features", "codes", "fusion")
ADAPTERS = ("lora", "ia3")
TRAIN_LAYERS = re.compile(r"^(all|none|last_\d+|stages:.*|lora|ia3)$")
_TRAINED = {
    "pretrained", "pooling", "train_layers", "adapter_rank", "adapter_alpha", "adapter_dropout",
    "adapter_targets", "batch_norm", "encoder_dropout",
}  # fmt: skip
_PROJECTED = {"activation", "projection_layers", "projection_dropout"}
# Modality -> settings that concern it.
SETTINGS_OF: dict[str, set[str]] = {
    "image": {*_TRAINED, *_PROJECTED, "image_size", "resize"},
    "text": {
        *_TRAINED, *_PROJECTED, "tokenizer", "max_text_length", "text_fields_as", "text_buckets",
    },
    "id": set(),
    "features": {*_PROJECTED, "features"},
    "codes": {"codes"},
    "fusion": {
        *_PROJECTED, "fusion", "fusion_projection", "fusion_blocks", "fusion_heads",
        "fusion_inner_size",
    },
}  # fmt: skip

_DEFAULTS: dict[str, Any] = {
    "embedding_size": 64,
    "pretrained": None,
    "attention": "auto",
    "pooling": "default",
    "activation": "relu",
    "projection_layers": [],
    "projection_dropout": 0.0,
    "train_layers": "all",
    "adapter_rank": 8,
    "adapter_alpha": 16.0,
    "adapter_dropout": 0.0,
    "adapter_targets": None,
    "image_size": None,
    "resize": "squash",
    "transform": "native",
    "tokenizer": None,
    "text_fields": None,
    "text_fields_as": "joined",
    "max_text_length": 30,
    "text_buckets": "auto",
    "features": None,
    "codes": None,
    "missing_content": "error",
    "encoder_dropout": None,
    "batch_norm": "frozen",
    "fusion_projection": None,
    "fusion_blocks": 1,
    "fusion_heads": 2,
    "fusion_inner_size": None,
}


def _schema() -> type[BaseModel]:
    types = {
        **get_type_hints(RunSettings, include_extras=True),
        **get_type_hints(MultimodalSettings, include_extras=True),
    }
    fields: dict[str, Any] = {key: (types[key], default) for key, default in _DEFAULTS.items()}
    return create_model("_Values", __config__=ConfigDict(protected_namespaces=()), **fields)


_Values = _schema()


@dataclass(frozen=True)
class EncoderSettings:
    """What one item encoder (one member of a fusion) is told. Names are those of the config keys.

    ``pretrained`` None and ``image_size`` None mean: as the encoder's card or model says;
    ``projection_layers`` None means no projection at all (``none``).
    ``load_weights`` False builds the architecture only, for loading a checkpoint into it;
    ``architecture`` is then what :meth:`ItemEncoder.architecture` returned when it was saved.
    """

    embedding_size: int
    pretrained: bool | None
    attention: str
    pooling: str
    activation: str
    projection_layers: tuple[int, ...] | None
    projection_dropout: float
    train_layers: str | list[str]
    adapter_rank: int
    adapter_alpha: float
    adapter_dropout: float
    adapter_targets: list[str] | None
    image_size: int | None
    resize: str
    transform: str
    tokenizer: str | None
    text_fields: tuple[str, ...] | None
    text_fields_as: str
    max_text_length: int
    text_buckets: bool | str
    features: str | None
    codes: str | None
    missing_content: str
    encoder_dropout: float | None
    batch_norm: str
    fusion_projection: bool | None
    fusion_blocks: int
    fusion_heads: int
    fusion_inner_size: int | None
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
    problems += _check_train_layers(values["train_layers"])
    try:
        values = _Values.model_validate(values).model_dump()
    except ValidationError as error:
        problems += sentences(error, values, told={"train_layers"})
    if problems:
        raise ConfigError(problems)
    hidden = values["projection_layers"]
    values["projection_layers"] = None if hidden == "none" else tuple(hidden)
    if values["text_fields"] is not None:
        values["text_fields"] = tuple(values["text_fields"])
    return EncoderSettings(**values, load_weights=load_weights, architecture=architecture)


def _check_train_layers(value: Any) -> list[str]:
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return []
    if isinstance(value, str) and TRAIN_LAYERS.match(value):
        return []
    return [
        f"train_layers: {value!r} is not known; use all, none, last_N (last_2), stages:[3,4], "
        "lora, ia3 or a list of name patterns."
    ]
