"""Residual networks for images of 32 x 32 pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""The statistics by which qffs normalizes photographs, those of `qffs.data.photographs`, by channel."""


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


class MLPerfResNet8(nn.Module):
    """MLPerf Tiny's reference network for CIFAR-10: a convolution, three residual units, and one linear layer.

    Its trained weights read pixels from 0 to 255, so the network first undoes the normalization of the data,
    ``255 (std x + mean)`` by channel, before it pads with zeros. For another number of channels than three, mean and
    std are the averages of the three. The second and the third unit have stride 2, with the padding that TensorFlow
    calls SAME: zeros at the right and below only. The convolutions have biases, and batch norm an epsilon of 0.001.

    Banbury et al., "MLPerf Tiny benchmark", NeurIPS Datasets and Benchmarks 2021; ``conv``, ``bn`` and ``fc`` are the
    names of its weights, in the order of computation. The convolution of a shortcut comes after those of its branch.
    """

    def __init__(self, classes: int = 10, channels: int = 3, width: int = 16) -> None:
        super().__init__()
        self.image_shape = (channels, 32, 32)
        self.mean, self.std = (each if channels == 3 else channels * (sum(each) / 3,) for each in (MEAN, STD))
        wide, wider = 2 * width, 4 * width
        self.conv = nn.ModuleList(
            [
                nn.Conv2d(channels, width, 3, 1, 1),
                *(nn.Conv2d(width, width, 3, 1, 1) for _ in range(2)),
                *_halving(width, wide),
                *_halving(wide, wider),
            ]
        )
        sizes = (*3 * (width,), *2 * (wide,), *2 * (wider,))
        self.bn = nn.ModuleList(nn.BatchNorm2d(size, eps=1e-3) for size in sizes)
        self.fc = nn.Linear(wider, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits ``[B, classes]`` of normalized images ``[B, channels, 32, 32]``."""
        # Numbers of the graph and no buffers, which would be weights that the file does not have.
        statistics = zip(x.split(1, 1), self.std, self.mean, strict=True)
        x = torch.cat([255 * (std * channel + mean) for channel, std, mean in statistics], 1)
        x = F.relu(self.bn[0](self.conv[0](x)))
        x = F.relu(x + self.bn[2](self.conv[2](F.relu(self.bn[1](self.conv[1](x))))))
        for conv, bn in ((3, 3), (6, 5)):
            branch = F.relu(self.bn[bn](self.conv[conv](F.pad(x, (0, 1, 0, 1)))))
            x = F.relu(self.conv[conv + 2](x) + self.bn[bn + 1](self.conv[conv + 1](branch)))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def _halving(inputs: int, outputs: int) -> tuple[nn.Conv2d, nn.Conv2d, nn.Conv2d]:
    """Return the convolutions of a unit with stride 2: two of its branch, whose input is padded, and its shortcut."""
    return nn.Conv2d(inputs, outputs, 3, 2), nn.Conv2d(outputs, outputs, 3, 1, 1), nn.Conv2d(inputs, outputs, 1, 2)


POOLINGS: dict[str, type[nn.MaxPool2d | nn.AvgPool2d]] = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}
"""The poolings by name. Max pooling stays exact in a spiking network; earlier conversions replaced it by averages."""


def halved(pooling: str) -> nn.Module:
    """Return the pooling with a name in `POOLINGS`, over windows of 2 x 2."""
    return POOLINGS[pooling](2)
