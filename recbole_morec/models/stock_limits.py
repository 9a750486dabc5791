"""Which of RecBole's models cannot run here, and why."""

from __future__ import annotations

import importlib.util
from typing import Any

from recbole.utils import FeatureSource

from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.errors import ConfigError
from recbole_morec.models.lookup import stock_models

_GRAPH = "it reads a knowledge graph (.kg and .link files), and datasets here have none"
_ENTITIES = "it reads pretrained entity embeddings (.ent file), and datasets here have none"
_TREE = "it is a set of decision trees, which its own library fits to labelled rows"
_BY_FAMILY = {"knowledge_aware_recommender": _GRAPH, "exlib_recommender": _TREE}
_BY_NAME = {
    "GRU4RecKG": _ENTITIES,
    "KSR": _ENTITIES,
    "RecVAE": "it trains encoder and decoder in turns with two optimisers, and training here has "
    "one; use MultiVAE",
    "LDiffRec": "it clusters item embeddings from a file item_emb.npy of an earlier model; use "
    "DiffRec",
}
# Models whose later training stages start from a pickled checkpoint of RecBole's own trainer.
FIRST_STAGE = {
    "S3Rec": ("train_stage", "pretrain"),
    "RaCT": ("train_stage", "actor_pretrain"),
    "KD_DAGFM": ("phase", "teacher_training"),
}
# Models that read item features, and the setting that names them.
FEATURE_SETTINGS = {
    "FDSA": "selected_features",
    "GRU4RecF": "selected_features",
    "SASRecF": "selected_features",
    "S3Rec": "item_attribute",
}
_EXTRAS = {"NCL": ("faiss", "faiss-cpu")}


def why_not(name: str) -> str | None:
    """The reason why a stock model cannot run here, or ``None``; imports nothing."""
    family = stock_models()[name].split(".")[2]
    if name in _BY_NAME or family in _BY_FAMILY:
        return _BY_NAME.get(name) or _BY_FAMILY[family]
    if name in _EXTRAS and importlib.util.find_spec(_EXTRAS[name][0]) is None:
        return f"it needs the package {_EXTRAS[name][0]}: pip install {_EXTRAS[name][1]}"
    return None


def refuse(config: Any, dataset: MultimodalDataset) -> None:
    """Raise for a model that cannot run with these settings on this dataset.

    Raises:
        ConfigError: the reason, and what to do.
    """
    name = config.model_class.__name__
    reason = why_not(name)
    if reason is not None:
        raise ConfigError(f"model={name}: this model of RecBole cannot run here: {reason}.")
    if name in FIRST_STAGE:
        key, first = FIRST_STAGE[name]
        if config[key] != first:
            raise ConfigError(
                f"model={name}: {key}={config[key]} starts from a pickled checkpoint of RecBole's "
                f"trainer, which is never loaded here; only {key}={first} runs."
            )
    if name in FEATURE_SETTINGS:
        _check_features(config, dataset, name)


def _check_features(config: Any, dataset: MultimodalDataset, name: str) -> None:
    key = FEATURE_SETTINGS[name]
    asked = [config[key]] if isinstance(config[key], str) else list(config[key] or [])
    file = dataset.folder / f"{config['dataset']}.item"
    features = dataset.fields(source=FeatureSource.ITEM)
    missing = [field for field in asked if field not in features]
    if missing or not asked:
        there = f"has {', '.join(features)}" if features else "gives none"
        raise ConfigError(
            f"model={name} reads item features: {key}={config[key]}, but {file} {there}. Write the "
            "categories of the items there (header `item_id:token<TAB>NAME:token` or "
            f"`NAME:token_seq`) and name them in {key}."
        )
