"""Item encoders: from the content of items to their vectors."""

from recbole_morec.item_encoders.base import Content, ImageNeed, ItemEncoder, TextNeed
from recbole_morec.item_encoders.build import build_item_encoder
from recbole_morec.item_encoders.freezing import TrainingReport, training_report
from recbole_morec.item_encoders.registry import (
    EncoderCard,
    cards,
    find_card,
    register_card,
    register_item_encoder,
)

__all__ = [
    "Content",
    "EncoderCard",
    "ImageNeed",
    "ItemEncoder",
    "TextNeed",
    "TrainingReport",
    "build_item_encoder",
    "cards",
    "find_card",
    "register_card",
    "register_item_encoder",
    "training_report",
]
