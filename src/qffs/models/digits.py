"""The small network for the digits that are shipped with the library."""

from __future__ import annotations

from torch import Tensor, nn

from qffs.models.residual import Block, halved


class DigitsNet(nn.Module):
    """A small residual network with five ReLU layers for images of 8 x 8 pixels; its pooling is "max" or "average"."""

    def __init__(self, classes: int = 10, channels: int = 1, width: int = 32, pooling: str = "max") -> None:
        super().__init__()
        self.image_shape = (channels, 8, 8)
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.block1 = Block(width, width, 1)
        self.pool = halved(pooling)
        self.block2 = Block(width, 2 * width, 2)
        self.classify = nn.Linear(2 * width * 4, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits ``[B, classes]`` of images ``[B, channels, 8, 8]``."""
        x = self.block2(self.pool(self.block1(self.stem(x))))
        logits: Tensor = self.classify(x.flatten(1))
        return logits
