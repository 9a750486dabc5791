"""Where RecBole's sequential models hold and read their item vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_JOINT = "embedding_layer.token_embedding_table.item.embedding"  # item ids first, then features
# The tables that an item encoder stands in for, where it is not `item_embedding` alone.
_TABLES = {
    "DIEN": (_JOINT,),
    "DIN": (_JOINT,),
    "FPMC": ("LI_emb", "IL_emb", "IU_emb"),
    "HGN": ("item_embedding", "item_embedding_for_prediction"),
    "RepeatNet": ("item_matrix",),
}
# Losses that score pairs (FPMC, TransRec, DIN, DIEN), or an output layer by id (RepeatNet).
_READ_ROWS = {"DIEN", "DIN", "FPMC", "RepeatNet", "TransRec"}
# What the loss reads is drawn while it is computed, after the batch has been built.
_DRAW = {
    "FEARec": "it compares a history with others that it draws",
    "S3Rec": "it draws the items and segments that it compares",
}
# They add the norm of the whole table to either loss, times `reg_weight`.
REGULARISED = {"Caser", "GCSAN", "NextItNet"}
# A name for the item encoder where a model has a submodule `item_encoder` of its own.
ENCODER_NAMES = {"FEARec": "content_encoder"}
_NO_BPR = {"CORE", "GRU4RecCPR", "SASRecCPR"}


@dataclass(frozen=True)
class WholeTable:
    """Why a model reads all item vectors in each step.

    Args:
        what: who does, and why: the beginning of a sentence.
        instead: settings under which it does not, with a comma behind each; empty if there are
            none.
    """

    what: str
    instead: str = ""


def tables_of(name: str) -> tuple[str, ...]:
    """Names of the submodules of a model that hold its item vectors, the history's first."""
    return _TABLES.get(name, ("item_embedding",))


def whole_table(name: str, settings: Mapping[str, Any]) -> WholeTable | None:
    """Why a model's loss reads its whole table under the settings, or ``None``.

    Args:
        name: of a sequential model of RecBole.
        settings: ``loss_type`` and ``reg_weight`` are read, where the model has them.
    """
    if name in _READ_ROWS:
        return None
    if name in _DRAW:
        return WholeTable(f"{name} may read any item in each step, since {_DRAW[name]}")
    instead = "loss_type=BPR, "
    if name in REGULARISED:
        instead = "loss_type=BPR with reg_weight=0, "
    loss = settings["loss_type"]
    if loss != "BPR":
        what = f"the loss of {name} (loss_type={loss}) scores all items"
        return WholeTable(what, "" if name in _NO_BPR else instead)
    if name in REGULARISED and settings["reg_weight"] != 0:
        return WholeTable(
            f"{name} adds the norm of the whole table to its loss (reg_weight="
            f"{settings['reg_weight']})",
            "reg_weight=0, ",
        )
    return None


def fields_read(name: str, config: Mapping[str, Any]) -> list[str]:
    """Fields of a batch whose items a model looks up in training; some may not be there."""
    if name == "BERT4Rec":  # masked items and those beyond the longest masked part are not read
        return [config[key] for key in ("MASK_ITEM_SEQ", "POS_ITEMS", "NEG_ITEMS")]
    item = config["ITEM_ID_FIELD"]
    history = item + config["LIST_SUFFIX"]
    if name == "RepeatNet":
        return [history]
    negative = config["NEG_PREFIX"]
    return [history, negative + history, item, negative + item]
