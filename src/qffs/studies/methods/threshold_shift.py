"""TS: the largest activation is the threshold, and half a threshold is added to the potential over the run."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, fx, nn

from qffs.spiking.network import SpikingNetwork
from qffs.studies.methods.method import RATE, Activation, Batches, Method, observed, rates


class ThresholdReLU(nn.Module):
    """The function ``clip(x, 0, Θ)``; Θ is not trained: it is the largest activation of the first batch.

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
        """Set Θ to the largest activation."""
        self.height.fill_(x.max().clamp(1e-6, self.clip))

    def forward(self, x: Tensor) -> Tensor:
        """Return the clipped ReLU."""
        return torch.minimum(torch.relu(x), self.height)


def spiking(network: fx.GraphModule, batches: Batches, steps: int) -> SpikingNetwork:
    """Return the spiking network whose θ is the largest activation.

    The shift, θ / 2T per step, is added before the first step instead: its sum over the run is the same.
    """
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
