"""Image encoders: any timm image model, and the vision models of ``transformers``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from recbole_morec.errors import ConfigError
from recbole_morec.item_encoders.backbone import BackboneEncoder, flatten_map
from recbole_morec.item_encoders.base import Content, ImageNeed, Reserved
from recbole_morec.item_encoders.registry import EncoderCard, register_source
from recbole_morec.item_encoders.settings import EncoderSettings
from recbole_morec.item_encoders.timm_models import MadeModel, make_timm_model

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_PAPER = (0.5, 0.5, 0.5)
CHUNK_PIXELS = 2**19  # of one chunk on a CPU: 10 images of 224 x 224, 512 of 32 x 32
_MODEL_ERRORS = (
    *(RuntimeError, ValueError, AssertionError, IndexError, KeyError, TypeError, AttributeError),
)


class ImageEncoder(BackboneEncoder):
    """Normalises uint8 images on the device and gives them to a vision backbone.

    ``transform: native`` normalises by the model's own mean and standard deviation;
    ``transform: paper`` by 0.5 for every model, as PixelRec, MoRec and NineRec do. Images that
    are already floating point are taken as normalised.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        card: EncoderCard,
        backbone: nn.Module,
        settings: EncoderSettings,
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
    ):
        # Convolutions run faster with channels last, on CPUs and on GPUs.
        self._memory_format = torch.contiguous_format
        if _takes_channels_last(backbone):
            self._memory_format = torch.channels_last
            backbone = backbone.to(memory_format=torch.channels_last)
        super().__init__(card, backbone, settings)
        self.size = size
        self.needs = [ImageNeed(size, settings.resize)]
        self.own_mean, self.own_std = tuple(mean), tuple(std)
        if settings.transform == "paper":
            mean = std = _PAPER
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def pixels(self, content: Content) -> Tensor:
        """Return normalised images ``[n, 3, H, W]`` in the dtype of mean and std.

        Beside stored states nothing looks at them: zeros that take no memory.
        """
        if self.states_key in content:
            n = len(content[self.states_key])
            return self.mean.new_zeros(1).expand(n, 3, self.size, self.size)
        images = content["image"].contiguous(memory_format=self._memory_format)
        if images.is_floating_point():
            return images
        return (images.to(self.mean.dtype) / 255.0 - self.mean) / self.std

    def normalised(self, content: Content) -> Content:
        """Return the content with its images as floating point."""
        return {**content, "image": self.pixels(content)}

    def reserved(self, kind: Reserved) -> Content:
        """A blank image as published: zeros for padding, ones for a mask, both normalised."""
        value = 0.0 if kind == "pad" else 1.0
        image = self.mean.new_full((1, 3, self.size, self.size), value)
        return {"items": torch.zeros(1, dtype=torch.long), "image": image}

    def forward(self, content: Content) -> Tensor:
        """Return item vectors ``[n, d]``, of images in :meth:`parts`."""
        vectors = [super(ImageEncoder, self).forward(part) for part in self.parts(content)]
        return vectors[0] if len(vectors) == 1 else torch.cat(vectors)

    def parts(self, content: Content) -> list[Content]:
        """A CPU takes images in chunks whose activations stay in its caches.

        That changes no vector, since an image knows nothing of the others (``batch_dependent``
        encoders, where it does, take all at once). Stored states are not cut.
        """
        images = content.get("image")
        chunk = max(1, CHUNK_PIXELS // self.size**2)
        if images is None or len(images) <= chunk:
            return [content]
        if images.device.type != "cpu" or self.batch_dependent:
            return [content]
        return [{"image": part} for part in images.split(chunk)]

    def probe_content(self) -> Content:
        """One black image of the size that the encoder will be given."""
        shape = (1, 3, self.size, self.size)
        return {"image": torch.zeros(shape, dtype=torch.uint8, device=self._device)}

    def sample_content(self) -> Content:
        """Three images of noise."""
        generator = torch.Generator().manual_seed(0)
        shape = (3, 3, self.size, self.size)
        noise = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        return {"image": noise.to(self._device)}

    def finish(self, settings: EncoderSettings) -> None:
        """As in the base class; a size that the backbone cannot take is a ConfigError."""
        try:
            super().finish(settings)
        except _MODEL_ERRORS as error:
            raise ConfigError(
                f"item_encoder {self.name!r}: {type(self.backbone).__name__} does not run on "
                f"images of {self.size} x {self.size} pixels ({type(error).__name__}: {error}). "
                "If the size is the reason, leave image_size empty for the size that the model "
                "was made for, or try a multiple of 32."
            ) from error


def _takes_channels_last(backbone: nn.Module) -> bool:
    """PyTorch refuses it for weights of five dimensions (patches of several frames). In a pointwise
    convolution with a stride on pixels (FastViT's stem) oneDNN then writes beyond its memory."""
    if any(parameter.ndim == 5 for parameter in backbone.parameters()):
        return False
    return not any(
        isinstance(m, nn.Conv2d) and m.in_channels == 3 and m.kernel_size == (1, 1) != m.stride
        for m in backbone.modules()
    )


class TimmImageEncoder(ImageEncoder):
    """A timm model without its classifier.

    ``pooling: default`` and ``pooler`` are timm's ``forward_head(pre_logits=True)``, or the whole
    head where the card keeps one (``num_classes``: the last map of CLIP's ResNets); ``cls`` and
    ``mean`` work on the tokens of ``forward_features`` (feature maps are flattened).
    """

    def __init__(self, card: EncoderCard, made: MadeModel, settings: EncoderSettings):
        own = {**made.model.pretrained_cfg, **(settings.architecture or {})}
        super().__init__(
            card,
            made.model,
            settings,
            made.size,
            mean=card.mean or own.get("mean") or IMAGENET_MEAN,
            std=card.std or own.get("std") or IMAGENET_STD,
        )
        self.made_from = {"model": made.name, "arguments": dict(made.arguments)}
        self.finish(settings)

    @property
    def has_class_token(self) -> bool:
        """Whether the first token is a class token."""
        return getattr(self.backbone, "cls_token", None) is not None

    def own_pooling(self, content: Content) -> Tensor:
        """timm's pooling head without classifier, ``[n, D]``."""
        return self._head(self._features(content))

    def _features(self, content: Content) -> Any:
        with self.resumed(content):
            return self.backbone.forward_features(self.pixels(content))

    def _head(self, features: Any) -> Tensor:
        whole = bool(self.made_from["arguments"].get("num_classes"))
        pooled = self.backbone.forward_head(features, pre_logits=not whole)
        if isinstance(pooled, list | tuple):  # distilled and multi-branch heads
            pooled = torch.cat([part.flatten(1) for part in pooled], dim=-1)
        return pooled.flatten(1)

    def tokens(self, content: Content) -> tuple[Tensor, Tensor | None]:
        """``[n, T, D]``; models whose features are no single map give their pooled vector."""
        stored = self.stored_tokens(content)
        if stored is not None:
            return stored
        features = self._features(content)
        if not isinstance(features, Tensor):
            return self._head(features).unsqueeze(1), None
        layout = str(getattr(self.backbone, "output_fmt", "NCHW"))
        width = getattr(self.backbone, "num_features", None)
        return flatten_map(features, width, layout), None

    def architecture(self) -> dict[str, Any]:
        """The timm name and arguments, and the normalisation."""
        return {
            "name": self.name,
            "modality": "image",
            "source": "timm",
            **self.made_from,
            "image_size": self.size,
            "mean": list(self.own_mean),
            "std": list(self.own_std),
        }


@register_source("timm")
def build_timm_image(card: EncoderCard, settings: EncoderSettings, dataset: Any) -> ImageEncoder:
    """Build an image encoder from a timm model name or ``local-dir:`` folder."""
    return TimmImageEncoder(card, make_timm_model(card, settings), settings)
