"""The vision models of ``transformers`` as item encoders."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recbole_morec.errors import ConfigError
from recbole_morec.item_encoders.backbone import first_tensor, flatten_map
from recbole_morec.item_encoders.base import Content
from recbole_morec.item_encoders.image import IMAGENET_MEAN, IMAGENET_STD, ImageEncoder
from recbole_morec.item_encoders.packed_patches import USUAL_SIZE, layout_for, round_size
from recbole_morec.item_encoders.pooling import masked_mean
from recbole_morec.item_encoders.pretrained import cached_hub_file
from recbole_morec.item_encoders.registry import EncoderCard, register_source
from recbole_morec.item_encoders.settings import EncoderSettings
from recbole_morec.item_encoders.text import build_text
from recbole_morec.item_encoders.transformers_models import (
    check_inputs,
    has_pooler,
    input_names,
    load_config,
    locate,
    make_model,
    modality_of_config,
    plain_config,
    tower_config,
)

_CLASS_TOKEN = re.compile(r"(^|\.)(cls|class)_?(token|embedding|embed)s?(\.weight)?$")


class TransformersImageEncoder(ImageEncoder):
    """A ``transformers`` vision model, or the image tower of one that reads images and text.

    ``pooling: default`` is the model's pooler output where it has one, else its class token, else
    the mean of its tokens. A masked autoencoder runs unmasked and in patch order. The tower of a
    language model (Qwen-VL) gets its packed patches; its default is the mean of the tokens that
    the language model would read.
    """

    def __init__(
        self,
        card: EncoderCard,
        backbone: nn.Module,
        config: Any,
        settings: EncoderSettings,
        size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ):
        super().__init__(card, backbone, settings, size, mean, std)
        self.config = config
        self._inputs = input_names(type(backbone))
        self._layout = layout_for(backbone.config)
        if self._layout is None:
            check_inputs(backbone, "pixel_values", card.name)
        else:
            self._layout.check_size(size, backbone.config, card.name)
        made_for = _first_int(getattr(backbone.config, "image_size", None))
        self._interpolates = (
            "interpolate_pos_encoding" in self._inputs and made_for is not None and made_for != size
        )
        self.has_class_token = any(
            _CLASS_TOKEN.search(name) for name, _ in backbone.named_parameters()
        )
        self.finish(settings)

    def _run(self, content: Content) -> Any:
        with self.resumed(content):
            return self._run_backbone(self.pixels(content))

    def _run_backbone(self, pixels: Tensor) -> Any:
        if self._layout is not None:
            inputs = self._layout.inputs(pixels, self.backbone)
            return self.backbone(**inputs, return_dict=True)
        inputs: dict[str, Any] = {"pixel_values": pixels}
        if self._interpolates:
            inputs["interpolate_pos_encoding"] = True
        patch = getattr(self.backbone.config, "patch_size", None)
        if "noise" in self._inputs and isinstance(patch, int):  # a masked autoencoder's patch order
            count = (pixels.shape[-1] // patch) * (pixels.shape[-2] // patch)
            steps = torch.arange(count, device=pixels.device, dtype=pixels.dtype)
            inputs["noise"] = steps.expand(len(pixels), count)
        return self.backbone(**inputs, return_dict=True)

    def _tokens(self, outputs: Any, n: int) -> Tensor:
        states = outputs.get("last_hidden_state")
        if self._layout is not None:
            return self._layout.tokens(states, n)
        if states is None:
            states = first_tensor(outputs, (3, 4))
        if states is None:
            maps = outputs.get("feature_maps")
            if not maps:
                raise ConfigError(f"item_encoder {self.name!r} gives no image tokens.")
            states = maps[-1]
        pooled = outputs.get("pooler_output")
        width = None if pooled is None else pooled.flatten(1).shape[-1]
        if width is None or width not in (states.shape[1], states.shape[-1]):
            width = getattr(self.backbone.config, "hidden_size", None)
        if width not in (states.shape[1], states.shape[-1]):
            width = None
        tokens = flatten_map(states, width)
        if len(tokens) == 1 < n:  # images packed one after another into one sequence (Pixtral)
            tokens = tokens.reshape(n, -1, tokens.shape[-1])
        return tokens

    def tokens(self, content: Content) -> tuple[Tensor, Tensor | None]:
        """Last hidden states, ``[n, T, D]``; feature maps are flattened."""
        stored = self.stored_tokens(content)
        if stored is not None:
            return stored
        return self._tokens(self._run(content), _count(content)), None

    def own_pooling(self, content: Content) -> Tensor:
        """Pooler output, else class token, else the mean of the tokens, ``[n, D]``."""
        outputs = self._run(content)
        pooled, n = outputs.get("pooler_output"), _count(content)
        if self._layout is not None:
            pooled = self._layout.pooled(pooled, n)
        if pooled is not None:
            return pooled.flatten(1)
        if self.pooling == "pooler":
            raise ConfigError(f"pooling: {self.name} has no pooler; use cls or mean.")
        tokens = self._tokens(outputs, n)
        return tokens[:, 0] if self.has_class_token else masked_mean(tokens, None)

    def architecture(self) -> dict[str, Any]:
        """The model's config, the image size and the normalisation."""
        return {
            "name": self.name,
            "modality": "image",
            "source": "transformers",
            "config": plain_config(self.config),
            "pooler": has_pooler(self.backbone),
            "image_size": self.size,
            "mean": list(self.own_mean),
            "std": list(self.own_std),
        }


@register_source("transformers")
def build_transformers(card: EncoderCard, settings: EncoderSettings, dataset: Any) -> Any:
    """Build a text or image encoder from a hub id, a local folder or a card's sizes."""
    pretrained = card.loads_weights(settings)
    config = load_config(card, settings.architecture)
    modality = card.modality or modality_of_config(config, card.name)
    if modality == "text":
        return build_text(card, settings, dataset, config)
    part = tower_config(config, "image")
    if getattr(part, "num_channels", 3) != 3:
        raise ConfigError(
            f"item_encoder {card.name!r} reads images of {part.num_channels} channels, not RGB."
        )
    preprocessor = _preprocessor(card, settings)
    size = settings.image_size or card.input_size or _own_size(part, preprocessor)
    if not pretrained and isinstance(getattr(part, "image_size", None), int):
        part.image_size = size
    model = make_model(card, settings, config)
    return TransformersImageEncoder(
        card,
        model,
        config,
        settings,
        size,
        card.mean or preprocessor.get("mean") or IMAGENET_MEAN,
        card.std or preprocessor.get("std") or IMAGENET_STD,
    )


def _preprocessor(card: EncoderCard, settings: EncoderSettings) -> dict[str, Any]:
    """Return image size, mean and std as saved, or as ``preprocessor_config.json`` says."""
    saved = settings.architecture
    if saved is not None:
        return {"size": saved.get("image_size"), "mean": saved.get("mean"), "std": saved.get("std")}
    if card.model is None:
        return {}
    place = locate(card)
    file = Path(place.path) / "preprocessor_config.json"
    if not file.is_file():
        local = Path(place.path).is_dir()
        cached = None if local else cached_hub_file(place.path, (file.name,))
        if cached is None:
            return {}
        file = Path(cached)
    values = json.loads(file.read_text(encoding="utf-8"))
    if values.get("do_normalize") is False:
        return {"size": values.get("size"), "mean": (0.0,) * 3, "std": (1.0,) * 3}
    return {
        "size": values.get("crop_size") or values.get("size"),
        "mean": values.get("image_mean"),
        "std": values.get("image_std"),
    }


def _own_size(config: Any, preprocessor: dict[str, Any]) -> int:
    layout = layout_for(config)
    if layout is not None and layout.any_size:  # what their files name is a number of pixels
        saved = preprocessor.get("size")
        return saved if isinstance(saved, int) else round_size(USUAL_SIZE, config)
    for value in (getattr(config, "image_size", None), preprocessor.get("size")):
        size = _first_int(value)
        if size is not None:
            return size
    return 224


def _count(content: Content) -> int:
    """n, of images or of what stands in their place."""
    return len(next(iter(content.values())))


def _first_int(value: Any) -> int | None:
    """Return the height that ``224``, ``[224, 224]`` or ``{height: 224, ..}`` means."""
    if isinstance(value, dict):
        value = value.get("height") or value.get("shortest_edge")
    if isinstance(value, list | tuple) and value:
        value = value[0]
    return value if isinstance(value, int) else None
