"""Residual networks for images of 32 x 32 pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """A residual block of two 3 x 3 convolutions, from ``inputs`` to ``outputs`` channels.

    A block with stride 2 halves the resolution. With ``projection`` its shortcut is a 1 x 1 convolution with batch
    norm. Without, the shortcut has no parameters: it takes every second row and column and pads the new channels with
    zeros (options B and A of He, Zhang, Ren, Sun, "Deep residual learning for image recognition", CVPR 2016).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, projection: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.new_channels = stride, outputs - inputs
        self.shortcut: nn.Module | None = None
        if projection and stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``relu(shortcut(x) + branch(x))``, ``[B, outputs, H / stride, W / stride]``."""
        branch = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.shortcut is not None:
            x = self.shortcut(x)
        elif self.stride > 1:
            half = self.new_channels // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.new_channels - half))
        return F.relu(branch + x)


class CifarResNet(nn.Module):
    """A residual network with one stage for each number of ``blocks``.

    From one stage to the next the channels double and the height and width are halved. Three stages of n blocks, width
    16, without projection: the networks of depth 6 n + 2 that He et al. 2016 train on CIFAR-10. Four stages of two
    blocks, width 64, with projection: their ResNet-18, but the first layer is one 3 x 3 convolution without pooling, as
    is usual on CIFAR-10.
    """

    def __init__(
        self, blocks: Sequence[int], projection: bool, classes: int = 10, channels: int = 3, width: int = 16
    ) -> None:
        super().__init__()
        self.image_shape = (channels, 32, 32)
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.stages = tuple(f"layer{number}" for number, _ in enumerate(blocks, 1))
        inputs, outputs = width, width
        for stage, count in zip(self.stages, blocks, strict=True):
            first = Block(inputs, outputs, 1 if stage == "layer1" else 2, projection)
            self.add_module(stage, nn.Sequential(first, *(Block(outputs, outputs, 1) for _ in range(count - 1))))
            inputs, outputs = outputs, 2 * outputs
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits ``[B, classes]`` of images ``[B, channels, H, W]``."""
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


POOLINGS: dict[str, type[nn.MaxPool2d | nn.AvgPool2d]] = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}
"""The poolings by name. Max pooling stays exact in a spiking network; earlier conversions replaced it by averages."""


def halved(pooling: str) -> nn.Module:
    """Return the pooling with a name in `POOLINGS`, over windows of 2 x 2."""
    return POOLINGS[pooling](2)
