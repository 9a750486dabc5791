"""User encoders: item vectors of a history -> states. One file each; importing registers them."""

from recbole_morec.user_encoders import (
    bert4rec,
    dssm,
    fm,
    gru4rec,
    lightsans,
    nextitnet,
    sasrec,
    srgnn,
    user_id,
)
from recbole_morec.user_encoders.base import USER_ENCODERS, History, UserEncoder, training_history

__all__ = [
    "USER_ENCODERS",
    "History",
    "UserEncoder",
    "bert4rec",
    "dssm",
    "fm",
    "gru4rec",
    "lightsans",
    "nextitnet",
    "sasrec",
    "srgnn",
    "training_history",
    "user_id",
]
