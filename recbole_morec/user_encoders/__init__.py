"""User encoders: item vectors of a history -> states. One file each; importing registers them."""

from recbole_morec.user_encoders import gru4rec, nextitnet, sasrec
from recbole_morec.user_encoders.base import USER_ENCODERS, History, UserEncoder, training_history

__all__ = [
    "USER_ENCODERS",
    "History",
    "UserEncoder",
    "gru4rec",
    "nextitnet",
    "sasrec",
    "training_history",
]
