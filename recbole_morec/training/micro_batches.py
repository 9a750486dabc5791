"""A batch in several passes: when their losses add up to the batch's, and how many there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def why_not_exact(values: Mapping[str, Any], model: type) -> str | None:
    """Why micro-batches would change the loss of one of our models; ``None`` where they add up.

    BatchNorm in an item encoder is not known before it is built
    (:func:`recbole_morec.models.encoding.encoding_of`).

    Args:
        values: the settings.
        model: the model's class.
    """
    from recbole_morec.objectives import OBJECTIVES

    whole = model.reads_whole_batch
    who = f"model={model.__name__}"
    if "objective" in model.chooses and OBJECTIVES.problem(values["objective"]) is None:
        whole = OBJECTIVES.get(values["objective"]).reads_whole_batch
        who = f"objective={values['objective']}"
    if whole:
        return f"{who} takes its negatives from the whole batch"
    if values["din_penalty"] and model.__name__ == "DIN":
        return "din_penalty is a norm over the whole batch"
    if values["tower_batch_norm"]:
        return "tower_batch_norm=True takes its statistics over the batch"
    return None


def micro_batches(config: Any, processes: int) -> int:
    """Micro-batches of an optimiser step: ``accumulation_steps``, or as ``micro_batch`` asks."""
    if not config["micro_batch"]:
        return config["accumulation_steps"]
    return -(-config["train_batch_size"] // (config["micro_batch"] * processes))
