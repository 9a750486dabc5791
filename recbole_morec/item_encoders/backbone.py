"""What image and text encoders share: backbone -> tokens -> pooling -> projection."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from recbole_morec.errors import ConfigError
from recbole_morec.item_encoders.adapters import adapter_dropouts, add_adapter, is_adapter
from recbole_morec.item_encoders.base import Content, ItemEncoder
from recbole_morec.item_encoders.dropout import set_dropout
from recbole_morec.item_encoders.freezing import (
    apply_train_layers,
    batch_norms,
    freeze_unreached,
    record_order,
)
from recbole_morec.item_encoders.pooling import masked_mean
from recbole_morec.item_encoders.prefix import Prefix
from recbole_morec.item_encoders.projection import make_projection
from recbole_morec.item_encoders.quick_gelu import replace_quick_gelu
from recbole_morec.item_encoders.registry import EncoderCard
from recbole_morec.item_encoders.settings import EncoderSettings

logger = logging.getLogger(__name__)


class BackboneEncoder(ItemEncoder):
    """A backbone from a model library, pooled and projected.

    Subclasses set ``self.backbone``, write :meth:`tokens`, :meth:`own_pooling` and
    :meth:`probe_content`, and end their constructor with :meth:`finish`.

    Attributes:
        pooling: one of :data:`~recbole_morec.item_encoders.pooling.POOLINGS`.
        unused_parameters: backbone parameters that the item vectors do not depend on under this
            pooling; they are frozen.
        adapted: whether adapters are what trains; all else of the backbone stays in eval mode.
        prefix: where the backbone is cut while content may carry the states of its frozen part.
    """

    has_class_token = False

    def __init__(self, card: EncoderCard, backbone: nn.Module, settings: EncoderSettings):
        super().__init__(card.name, settings.embedding_size)
        self.card = card
        self.backbone = backbone
        self.pooling = settings.pooling
        if settings.pooling == "default" and card.pooling is not None:
            self.pooling = card.pooling
        self.adapted = is_adapter(settings.train_layers)
        self.train_batch_norm = settings.batch_norm == "train" and not self.adapted
        self.unused_parameters: list[str] = []
        self.prefix: Prefix | None = None

    def own_pooling(self, content: Content) -> Tensor:
        """Return what the encoder's authors pool to, ``[n, D]``."""
        raise NotImplementedError

    def probe_content(self) -> Content:
        """Return the smallest content on which the backbone can be tried."""
        raise NotImplementedError

    def sample_content(self) -> Content:
        """Return content of three items that differ, the same in every call."""
        raise NotImplementedError

    def pooled(self, content: Content) -> Tensor:
        """Return one vector per item before the projection, ``[n, D]``."""
        if self.pooled_key in content:
            return content[self.pooled_key].to(self._dtype)
        if self.pooling in ("default", "pooler"):
            return self.own_pooling(content)
        tokens, mask = self.tokens(content)
        return tokens[:, 0] if self.pooling in ("cls", "first") else masked_mean(tokens, mask)

    @property
    def pooled_key(self) -> str:
        """Under this key content may carry :meth:`pooled` vectors ``[n, D]`` in its own place."""
        return f"{self.card.modality}_pooled"

    @property
    def tokens_key(self) -> str:
        """Under this key content may carry :meth:`tokens` in its own place."""
        return f"{self.card.modality}_tokens"

    @property
    def states_key(self) -> str:
        """Under this key content may carry the states ``[n, T, D]`` of :attr:`prefix`."""
        return f"{self.card.modality}_states"

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.backbone.parameters()).dtype

    @property
    def _device(self) -> torch.device:
        return next(self.backbone.parameters()).device

    def resumed(self, content: Content) -> AbstractContextManager:
        """Where the content carries the prefix's states, the backbone computes its tail only."""
        states = content.get(self.states_key)
        return nullcontext() if states is None else self.prefix.resumed(states)

    def stored_tokens(self, content: Content) -> tuple[Tensor, Tensor | None] | None:
        """Tokens that the content carries, and the mask of the real ones."""
        if self.tokens_key not in content:
            return None
        return content[self.tokens_key].to(self._dtype), content.get(f"{self.tokens_key}_mask")

    def parts(self, content: Content) -> list[Content]:
        """The content in the pieces in which it is best encoded."""
        return [content]

    def read(self, content: Content) -> Tensor:
        """Return what the projection reads: vectors ``[n, D]``, or tokens ``[n, T, D]``."""
        return self.tokens(content)[0] if self.pooling == "project_mean" else self.pooled(content)

    def forward(self, content: Content) -> Tensor:
        """Return item vectors ``[n, d]``."""
        if self.pooling == "project_mean":
            tokens, mask = self.tokens(content)
            return masked_mean(self.projection(tokens), mask)
        return self.projection(self.pooled(content))

    def train(self, mode: bool = True) -> BackboneEncoder:
        """As in the base class; of a backbone with adapters, their dropout alone is switched."""
        super().train(mode)
        if mode and self.adapted:
            self.backbone.eval()
            for dropout in adapter_dropouts(self.backbone):
                dropout.train()
        return self

    def finish(self, settings: EncoderSettings) -> None:
        """Try the backbone once, then add the projection and choose what trains.

        The trial tells the width ``D``, the order in which the modules run and which parameters
        take no part. It runs in eval mode and draws no random number.
        """
        replace_quick_gelu(self.backbone)
        if settings.encoder_dropout is not None:
            set_dropout(self.backbone, settings.encoder_dropout)
        if self.pooling == "cls" and not self.has_class_token:
            raise ConfigError(
                f"pooling: {self.name} has no class token that sees all of an item; use pooling: "
                "mean or default."
            )
        if self.adapted:
            add_adapter(self.backbone, settings, self.name)
        self.backbone.eval()
        with torch.enable_grad(), record_order(self.backbone) as order:
            output = self.pooled(self.probe_content())
        self.projection, self.dim = make_projection(output.shape[-1], settings)
        self.unused_parameters = freeze_unreached(self.backbone, output)
        if not self.adapted:
            apply_train_layers(self.backbone, settings.train_layers, order, self.name)
        if self.unused_parameters:
            logger.info(
                "%s: %d backbone parameters take no part under pooling %s and are frozen: %s",
                self.name,
                len(self.unused_parameters),
                self.pooling,
                ", ".join(self.unused_parameters),
            )
        starts_random = settings.load_weights and not self.card.loads_weights(settings)
        if starts_random and batch_norms(self.backbone) and settings.batch_norm == "frozen":
            logger.warning(
                "%s starts from random weights and has BatchNorm, whose statistics are frozen at "
                "mean 0 and variance 1; set batch_norm: train, or choose a LayerNorm encoder.",
                self.name,
            )
        self.train()


def flatten_map(features: Tensor, width: int | None, layout: str = "NCHW") -> Tensor:
    """Turn a feature map ``[n, C, H, W]`` or ``[n, H, W, C]`` into tokens ``[n, H*W, C]``.

    Args:
        features: the map; tokens ``[n, T, D]`` and vectors ``[n, D]`` pass (as ``[n, 1, D]``).
        width: the number of channels where it is known; it decides the layout if it can.
        layout: the layout where ``width`` does not decide.
    """
    if features.ndim == 2:
        return features.unsqueeze(1)
    if features.ndim == 3:
        return features
    if features.ndim != 4:
        raise ConfigError(f"A backbone gave features of shape {tuple(features.shape)}.")
    if width is not None and features.shape[1] != features.shape[3]:
        layout = "NCHW" if features.shape[1] == width else "NHWC"
    if layout == "NCHW":
        return features.flatten(2).transpose(1, 2)
    return features.flatten(1, 2)


def first_tensor(outputs: Any, ndims: tuple[int, ...]) -> Tensor | None:
    """Return the first tensor of ``outputs`` (a mapping) with one of these dimension counts."""
    for value in outputs.values():
        if isinstance(value, Tensor) and value.ndim in ndims:
            return value
    return None
