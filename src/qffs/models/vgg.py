"""The plain convolutional network of 16 layers, for images of 32 x 32 pixels."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from qffs.models.residual import halved

STAGES = ((2, 1), (2, 2), (3, 4), (3, 8), (3, 8))
"""The number of convolutions before each pooling, and their channels in units of the width."""


class CifarVGG(nn.Module):
    """A network of 13 convolutions with batch norm in five stages, and one linear layer.

    Each stage ends with pooling, "max" or "average", that halves height and width.

    Configuration D of Simonyan, Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR
    2015, as is usual on CIFAR-10: with batch norm, and without the two wide linear layers.
    """

    def __init__(self, classes: int = 10, channels: int = 3, width: int = 64, pooling: str = "max") -> None:
        super().__init__()
        self.image_shape = (channels, 32, 32)
        self.features = nn.Sequential(*_layers(channels, width, pooling))
        self.classify = nn.Linear(STAGES[-1][1] * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits ``[B, classes]`` of images ``[B, channels, 32, 32]``."""
        logits: Tensor = self.classify(self.features(x).flatten(1))
        return logits


def _layers(inputs: int, width: int, pooling: str) -> Iterator[nn.Module]:
    for count, factor in STAGES:
        for _ in range(count):
            yield nn.Conv2d(inputs, factor * width, 3, 1, 1, bias=False)
            yield nn.BatchNorm2d(factor * width)
            yield nn.ReLU()
            inputs = factor * width
        yield halved(pooling)
