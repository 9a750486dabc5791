"""The tiny image encoders that stand for real ones in the published runs, under our seams."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_morec.item_encoders import EncoderCard, registry
from recbole_morec.item_encoders.image import ImageEncoder


class StandIn(nn.Module):
    """Flatten, then one Linear: what stands for an image encoder in most of PixelRec's goldens."""

    def __init__(self, width: int, image_size: int):
        super().__init__()
        self.lin = nn.Linear(3 * image_size**2, width)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.lin(pixels.flatten(1))


class LikeResNet(nn.Module):
    """Two convolutions with BatchNorm and ReLU, the second with stride 2, averaged over places."""

    def __init__(self, width: int, image_size: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(2 * width)

    def forward(self, pixels: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(pixels)))
        return torch.relu(self.bn2(self.conv2(x))).mean((2, 3))


class Plain(ImageEncoder):
    """An image encoder whose backbone gives one vector."""

    def __init__(self, card, backbone, settings):
        half = (0.5, 0.5, 0.5)
        super().__init__(card, backbone, settings, settings.image_size, half, half)
        self.finish(settings)

    def own_pooling(self, content):
        return self.backbone(self.pixels(content))


def register(name: str, backbone: type[nn.Module]) -> None:
    """Make a stand-in known; its width is that of the dataset that it is built for."""

    @registry.register_item_encoder(EncoderCard(name, "image", source=name, pretrained=False))
    def build(card, settings, dataset):
        return Plain(card, backbone(dataset.width, settings.image_size), settings)
