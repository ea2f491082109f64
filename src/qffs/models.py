"""Networks that come with the library, by name. Ordinary PyTorch: nothing in them knows of spikes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from qffs.errors import InvalidArgument


class Block(nn.Module):
    """A residual block of two 3 x 3 convolutions whose shortcut has no parameters.

    Where the block halves the resolution, the shortcut takes every second row and column and pads the new channels
    with zeros (option A of He, Zhang, Ren, Sun, "Deep residual learning for image recognition", CVPR 2016).
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.new_channels = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        """``relu(shortcut(x) + branch(x))``, ``[B, outputs, H / stride, W / stride]``."""
        branch = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:
            half = self.new_channels // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.new_channels - half))
        return F.relu(branch + x)


class CifarResNet(nn.Module):
    """The three-stage residual network of He et al. 2016 for 32 x 32 images, of depth ``6 * blocks + 2``."""

    def __init__(self, blocks: int, classes: int = 10, channels: int = 3) -> None:
        super().__init__()
        self.image_shape = (channels, 32, 32)
        self.conv1 = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks, 1)
        self.layer2 = self._stage(16, 32, blocks, 2)
        self.layer3 = self._stage(32, 64, blocks, 2)
        self.linear = nn.Linear(64, classes)

    @staticmethod
    def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
        rest = (Block(outputs, outputs, 1) for _ in range(blocks - 1))
        return nn.Sequential(Block(inputs, outputs, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, classes]`` of images ``[B, channels, H, W]``."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


class DigitsNet(nn.Module):
    """A small residual network with max pooling for 8 x 8 images: five layers of neurons."""

    def __init__(self, classes: int = 10, channels: int = 1, width: int = 32) -> None:
        super().__init__()
        self.image_shape = (channels, 8, 8)
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.block1 = Block(width, width, 1)
        self.pool = nn.MaxPool2d(2)
        self.block2 = Block(width, 2 * width, 2)
        self.classify = nn.Linear(2 * width * 4, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, classes]`` of images ``[B, channels, 8, 8]``."""
        x = self.block2(self.pool(self.block1(self.stem(x))))
        logits: Tensor = self.classify(x.flatten(1))
        return logits


MODELS: Mapping[str, Callable[[], nn.Module]] = {
    "digits_net": DigitsNet,
    **{f"cifar_resnet{depth}": partial(CifarResNet, (depth - 2) // 6) for depth in (20, 32, 44, 56, 110)},
}
"""What each name builds, untrained; ``image_shape`` is the shape of an image it takes."""


def build(name: str) -> nn.Module:
    """The untrained network of a name in `MODELS`; raises `InvalidArgument`, listing them, on any other.

    >>> sum(parameter.numel() for parameter in build("cifar_resnet20").parameters())
    269722
    """
    if name not in MODELS:
        raise InvalidArgument(f"there is no model {name!r}; there are {', '.join(MODELS)}")
    return MODELS[name]()
