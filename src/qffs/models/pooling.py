"""Poolings that halve a picture, by name."""

from __future__ import annotations

from torch import nn

POOLINGS: dict[str, type[nn.MaxPool2d | nn.AvgPool2d]] = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}
"""Max pooling stays exact in a spiking network; average pooling is what earlier conversions put in its place."""


def halved(pooling: str) -> nn.Module:
    """The pooling of a name in `POOLINGS`, over windows of 2 x 2."""
    return POOLINGS[pooling](2)
