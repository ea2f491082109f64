"""TS: the largest activation is the threshold, and half a threshold comes on top over the run."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, fx, nn

from qffs.spiking.network import SpikingNetwork
from qffs.studies.methods.method import RATE, Activation, Batches, Method, observed, rates


class ThresholdReLU(nn.Module):
    """``clip(x, 0, Θ)``, with a Θ that is not trained: the largest activation of the first batch.

    >>> layer = ThresholdReLU()
    >>> layer.start(torch.tensor([1.0, 2.0]))
    >>> layer(torch.tensor([-1.0, 0.5, 3.0]))
    tensor([0.0000, 0.5000, 2.0000])
    """

    def __init__(self, clip: float | None = None) -> None:
        super().__init__()
        self.clip = clip
        self.height: Tensor
        self.register_buffer("height", torch.tensor(torch.inf))

    def start(self, x: Tensor) -> None:
        """Take the largest activation."""
        self.height.fill_(x.max().clamp(1e-6, self.clip))

    def forward(self, x: Tensor) -> Tensor:
        """The clipped ReLU."""
        return torch.minimum(torch.relu(x), self.height)


def spiking(network: fx.GraphModule, batches: Batches, steps: int) -> SpikingNetwork:
    """θ is the largest activation; the shift of θ / 2T a step is there before the first: it is the same in the end."""
    return rates(network, observed(network, batches, torch.max), steps, replace(RATE, precharge=0.5))


TS = Method(
    "ts",
    "TS",
    "Deng, Gu, ICLR 2021",
    "trains with a fixed clip; the threshold is the largest activation, and half of it is added over the run",
    Activation("fixed clip", ThresholdReLU, lambda module, x: module.start(x)),
    spiking,
    notes="the shift is a potential before the first step; the largest activation is taken from 256 images",
)
