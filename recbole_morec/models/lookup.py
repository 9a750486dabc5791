"""From a model's name to its class: ours first, then RecBole's."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import pkgutil
from pathlib import Path

from recbole.model.abstract_recommender import AbstractRecommender

from recbole_morec.errors import ConfigError, suggest

_OURS = {
    "PixelNet": "recbole_morec.models.pixelnet",
    "MoRec": "recbole_morec.models.morec",
    "TransRec": "recbole_morec.models.transrec",
    "ODMT": "recbole_morec.models.odmt",
    "MF": "recbole_morec.models.mf",
    "FM": "recbole_morec.models.fm",
    "DSSM": "recbole_morec.models.dssm",
    "DIN": "recbole_morec.models.din",
    "VBPR": "recbole_morec.models.vbpr",
    "ACF": "recbole_morec.models.acf",
    "VisRank": "recbole_morec.models.visrank",
    "CuratorNet": "recbole_morec.models.curatornet",
    "FSASRec": "recbole_morec.models.fsasrec",
    "LightGCN": "recbole_morec.models.lightgcn",
}
_FAMILIES = ("general", "context_aware", "sequential", "knowledge_aware", "exlib")


def our_models() -> list[str]:
    """Names of the models of this package."""
    return sorted(_OURS)


@functools.cache
def stock_models() -> dict[str, str]:
    """RecBole's models: class name -> module, found without importing them all."""
    found = {}
    for family in _FAMILIES:
        package = importlib.util.find_spec(f"recbole.model.{family}_recommender")
        if package is None:
            continue
        for module in pkgutil.iter_modules(package.submodule_search_locations):
            path = f"recbole.model.{family}_recommender.{module.name}"
            # Read as text: find_spec(path) would import the package, and exlib needs extras.
            source = Path(module.module_finder.path, f"{module.name}.py").read_text("utf-8")
            for line in source.splitlines():
                if line.startswith("class ") and line[6:].split("(")[0].lower() == module.name:
                    found[line[6:].split("(")[0].rstrip(":")] = path
    return found


def is_ours(model_class: type) -> bool:
    """True for a model of this package."""
    return model_class.__module__.startswith("recbole_morec.")


def find_model(name: str) -> type[AbstractRecommender]:
    """Return the class called ``name``; letter case does not matter.

    ``recbole:NAME`` skips our models where both packages have one of that name.

    Raises:
        ConfigError: no such model (the message suggests the closest), or a stock model whose
            optional dependency is not installed.
    """
    forced, _, bare = name.rpartition(":")
    if forced not in ("", "recbole"):
        raise ConfigError(f"model={name!r}: the only prefix is `recbole:`.")
    stock = {known.lower(): known for known in stock_models()}
    ours = {} if forced else {known.lower(): known for known in _OURS}
    if bare.lower() in ours:
        found = ours[bare.lower()]
        if bare.lower() in stock:
            logging.getLogger(__name__).info(
                "%s is ours; RecBole's own is --model=recbole:%s", found, found
            )
        return getattr(importlib.import_module(_OURS[found]), found)
    if bare.lower() not in stock:
        known = [*_OURS, *stock_models()]
        raise ConfigError(
            f"model={name!r}: there is no such model.{suggest(bare, known)} "
            "`recbole-morec --help` lists them all."
        )
    from recbole_morec.models.stock_limits import why_not  # reads this module's table

    found = stock[bare.lower()]
    reason = why_not(found)
    if reason:
        raise ConfigError(f"model={name}: this model of RecBole cannot run here: {reason}.")
    try:
        return getattr(importlib.import_module(stock_models()[found]), found)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"model={name!r} needs the package {error.name!r}: pip install {error.name}."
        ) from error
