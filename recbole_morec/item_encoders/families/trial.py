"""Builds and runs one small member of a family, forward and backward, as training would."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch import Tensor

from recbole_morec.errors import MoRecError
from recbole_morec.item_encoders.base import ImageNeed, ItemEncoder
from recbole_morec.item_encoders.build import build_item_encoder
from recbole_morec.item_encoders.families.tiny_configs import tiny_values
from recbole_morec.item_encoders.registry import EncoderCard, builder_of
from recbole_morec.item_encoders.settings import read_settings
from recbole_morec.item_encoders.transformers_models import (
    load_config,
    model_class,
    tower_config,
)

DIM = 4
PADDING_NOTE = "padding changes its vectors: they depend on the longest text of a batch"
LARGEST = 3e7  # parameters; a trial is meant for a small machine
TEXTS = ("a red shirt", "blue")
_OWNER = re.compile(r"^item_encoder '[^']*': ")
_LIBRARY = re.compile(r"requires the (\S+) library but it was not found")
_MODULE = re.compile(r"<module '([\w.]+)' from '[^']*'>")
WORDS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "red", "blue", "green", "shirt", "dress")


@dataclass(frozen=True)
class Member:
    """One family and the small member that stands for it.

    Attributes:
        library: ``timm`` or ``transformers``.
        family: timm's module, or transformers' model type.
        reads: ``image``, ``text``, or empty for neither.
        name: timm's model name, or transformers' class of the part that is used.
        size: image size of the trial, None for text and for the model's own.
        changes: arguments of the timm model, or changes to the tiny config.
        problem: why it does not run; empty if it does.
        note: what to know where it runs.
        seconds: how long the trial took.
    """

    library: str
    family: str
    reads: str = ""
    name: str = ""
    size: int | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    problem: str = ""
    note: str = ""
    seconds: float = 0.0

    @property
    def encoder(self) -> str:
        """The name of its item encoder."""
        return f"{self.library}:{self.family}"


def try_member(member: Member, folder: Path) -> tuple[str, str]:
    """Return the problem of a family, empty if it runs, and a note.

    Args:
        member: what to try.
        folder: a folder with a ``tokenizer`` (see :func:`write_tokenizer`).
    """
    try:
        encoder = run_member(member, folder)
        return "", PADDING_NOTE if padding_matters(encoder) else ""
    except Exception as error:
        # Whatever a model of a foreign library raises is what the table is to say.
        return describe(error), ""


def describe(error: Exception) -> str:
    """Return the first line of an error for the table, without paths of this machine."""
    if isinstance(error, StrictDataclassClassValidationError) and error.__cause__ is not None:
        error = error.__cause__  # its own first line names the check, not what is wrong
    lines = str(error).strip().splitlines() or [""]
    kind = "" if isinstance(error, MoRecError) else f"{type(error).__name__}: "
    message = _OWNER.sub("", f"{kind}{lines[0]}").partition(" If the size is the reason")[0]
    library = _LIBRARY.search(message)
    if library:
        return f"needs the {library[1]} library, which is not installed here"
    return _MODULE.sub(r"\1", message)[:240] or type(error).__name__


def run_member(member: Member, folder: Path) -> ItemEncoder:
    """Build the member with random weights, encode two items and go backward.

    Raises:
        AssertionError: no finite vectors ``[2, d]``, a trained parameter without gradient, or an
            item whose vector depends on the other.
    """
    torch.manual_seed(0)
    dataset = SimpleNamespace(item_tokens=["[PAD]", "a", "b"], item_num=3, folder=folder)
    encoder = _build(member, dataset)
    encoder.train()
    content = sample_content(encoder)
    vectors = encoder(content)
    assert vectors.shape == (2, DIM), f"item vectors of shape {tuple(vectors.shape)}"
    assert vectors.isfinite().all(), "item vectors that are not finite"
    vectors.sum().backward()
    without = [n for n, p in encoder.named_parameters() if p.requires_grad and p.grad is None]
    assert not without, f"no gradient reaches {', '.join(without[:3])}"
    encoder.eval()
    with torch.no_grad():
        tokens, mask = encoder.tokens(content)
        assert tokens.shape[:2] == (2, tokens.shape[1]), f"tokens of shape {tuple(tokens.shape)}"
        assert mask is None or mask.shape == tokens.shape[:2], "a mask that does not fit"
        both = encoder(content)
        first = encoder({name: value[:1] for name, value in content.items()})
    assert torch.allclose(both[:1], first, rtol=1e-2, atol=1e-4), "items influence each other"
    return encoder


@torch.no_grad()
def padding_matters(encoder: ItemEncoder) -> bool:
    """Whether a text's vector changes with the padding after it."""
    content = sample_content(encoder)
    if "text_mask" not in content:
        return False
    length = int(content["text_mask"][1].sum())
    short = {"text_ids": content["text_ids"][1:, :length]}
    short["text_mask"] = content["text_mask"][1:, :length]
    return not torch.allclose(encoder(content)[1:], encoder(short), rtol=1e-2, atol=1e-4)


def rebuild(encoder: ItemEncoder, folder: Path) -> ItemEncoder:
    """Build the encoder again from its :meth:`~ItemEncoder.architecture`, with its weights."""
    dataset = SimpleNamespace(item_tokens=["[PAD]", "a", "b"], item_num=3, folder=folder)
    config = {
        "item_encoder": encoder.name,
        "embedding_size": DIM,
        "activation": "none",
        "item_encoder_architecture": json.loads(json.dumps(encoder.architecture())),
    }
    again = build_item_encoder(config, dataset, load_weights=False)
    again.load_state_dict(encoder.state_dict())
    return again


def _build(member: Member, dataset: Any) -> ItemEncoder:
    architecture = None
    arguments = member.changes
    if member.library == "transformers":
        architecture = {"config": transformers_values(member)}
        arguments = {}
    settings = read_settings(
        {"embedding_size": DIM, "image_size": member.size, "activation": "none"},
        member.reads,
        load_weights=False,
        architecture=architecture,
    )
    card = EncoderCard(
        member.encoder,
        member.reads,
        member.library,
        member.name if member.library == "timm" else None,
        arguments,
        pretrained=False,
    )
    if architecture is not None:
        config = load_config(card, architecture)
        _check_count(config, member)
    return builder_of(card)(card, settings, dataset)


def _check_count(config: Any, member: Member) -> None:
    """Refuse a model that is too large for a trial, counting what would be built."""
    from transformers import MODEL_MAPPING

    part = tower_config(config, member.reads)
    built = part if type(part) in MODEL_MAPPING else config
    with torch.device("meta"):
        model = model_class(built, member.family)(built)
    count = sum(p.numel() for p in model.parameters())
    assert count < LARGEST, f"{count / 1e6:.0f} million parameters even when shrunk"


def transformers_values(member: Member) -> dict[str, Any]:
    """Return the values of the tiny config of a ``transformers`` model type."""
    from transformers import CONFIG_MAPPING

    config_class = CONFIG_MAPPING[member.family]
    return {"model_type": member.family, **tiny_values(config_class, member.changes)}


def sample_content(encoder: ItemEncoder) -> dict[str, Tensor]:
    """Content of two items for any encoder: noise images, two short texts."""
    content: dict[str, Tensor] = {"items": torch.tensor([1, 2])}
    for need in encoder.needs:
        if isinstance(need, ImageNeed):
            generator = torch.Generator().manual_seed(0)
            shape = (2, 3, need.size, need.size)
            content["image"] = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        else:
            tokens = need.tokenizer(list(TEXTS), padding=True, return_tensors="pt")
            content["text_ids"] = tokens["input_ids"]
            content["text_mask"] = tokens["attention_mask"].bool()
    return content


def write_tokenizer(folder: Path) -> None:
    """Write a tokenizer of ten words to ``folder/tokenizer``."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    target = folder / "tokenizer"
    target.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(target / "tokenizer.json"))
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]"}
    special |= {"sep_token": "[SEP]", "tokenizer_class": "PreTrainedTokenizerFast"}
    (target / "tokenizer_config.json").write_text(json.dumps(special), encoding="utf-8")
