"""The seam between item content and recommender: what an item encoder needs and gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from recbole_morec.errors import ConfigError
from recbole_morec.item_encoders.freezing import batch_norms, frozen_modules

Content = dict[str, Tensor]
Reserved = Literal["pad", "mask"]


@dataclass(frozen=True)
class ImageNeed:
    """Images that an encoder reads: ``content["image"]``, uint8 ``[n, 3, size, size]``.

    ``resize`` is ``squash`` (ignore the aspect ratio, as published), ``crop`` or ``pad``.
    """

    size: int
    resize: str = "squash"


@dataclass(frozen=True)
class TextNeed:
    """Text that an encoder reads: ``content["text_ids"]`` and ``content["text_mask"]``, ``[n, T]``.

    With ``apart``, each field is a text of its own: ``[n, F, T]``.

    ``fields`` names the text fields of ``.content`` in reading order; empty means all of them.
    ``max_length`` counts tokens of a text, special ones included. ``tokenizer`` is a
    ``transformers`` fast tokenizer with a padding token.
    """

    tokenizer: Any
    fields: tuple[str, ...]
    max_length: int
    apart: bool = False


class ItemEncoder(nn.Module):
    """Content of ``n`` items -> item vectors ``[n, d]``.

    Subclasses set ``backbone``, ``projection``, ``needs`` and write :meth:`tokens` and
    :meth:`forward`. Checkpoints and transfer rely on the module names ``backbone`` and
    ``projection``.

    Attributes:
        name: the name it was asked for by.
        dim: size ``d`` of an item vector.
        needs: :class:`ImageNeed` and :class:`TextNeed` objects; empty if item ids are enough.
        backbone: the encoder proper, or None (``id``, ``features``).
        projection: the part from the encoder's width to ``d``.
        train_batch_norm: whether BatchNorm statistics follow the batches (see ``batch_norm``).
    """

    def __init__(self, name: str, dim: int):
        super().__init__()
        self.name = name
        self.dim = dim
        self.needs: list[ImageNeed | TextNeed] = []
        self.backbone: nn.Module | None
        self.register_module("backbone", None)  # before the projection in every listing
        self.projection: nn.Module = nn.Identity()
        self.train_batch_norm = False

    def tokens(self, content: Content) -> tuple[Tensor, Tensor | None]:
        """Return all tokens ``[n, T, D]`` and a bool mask ``[n, T]`` of the real ones (or None)."""
        raise NotImplementedError

    def forward(self, content: Content) -> Tensor:
        """Return item vectors ``[n, d]``."""
        raise NotImplementedError

    def normalised(self, content: Content) -> Content:
        """Return content that the encoder reads as it is, so that reserved rows can join it."""
        return content

    def reserved(self, kind: Reserved) -> Content:
        """Return the content of one row that is no item: padding, or BERT4Rec's mask.

        Such rows are encoded where ``pad_vector`` or ``mask_vector`` is ``encoded``. Here: id 0.

        Raises:
            ConfigError: the encoder reads nothing that could stand for a mask.
        """
        if kind == "mask":
            raise ConfigError(
                f"mask_vector: {self.name} reads no content, so that a mask cannot be encoded; use "
                "mask_vector: learned."
            )
        return {"items": torch.zeros(1, dtype=torch.long)}

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the trainable parameters of the backbone (an optimizer group of their own)."""
        if self.backbone is not None:
            yield from (p for p in self.backbone.parameters() if p.requires_grad)

    @property
    def batch_dependent(self) -> bool:
        """Whether an item's training vector depends on the other items of its batch.

        True with ``batch_norm: train`` and a BatchNorm outside the frozen parts.
        """
        if not self.train_batch_norm or self.backbone is None:
            return False
        still = {m for frozen in frozen_modules(self.backbone) for m in frozen.modules()}
        return any(norm not in still for norm in batch_norms(self.backbone))

    def train(self, mode: bool = True) -> ItemEncoder:
        """Switch to training, except frozen parts and (by default) BatchNorm statistics."""
        super().train(mode)
        if mode and self.backbone is not None:
            for module in frozen_modules(self.backbone):
                module.eval()
            if not self.train_batch_norm:
                for module in batch_norms(self.backbone):
                    module.eval()
        return self

    def architecture(self) -> dict[str, Any]:
        """Return what rebuilds the same modules without any download, as JSON-able values.

        Save it with a checkpoint and give it back as ``item_encoder_architecture``.
        """
        return {"name": self.name}
