"""TCL: a trainable clip at every ReLU, whose height is the threshold."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from qffs.spiking.network import SpikingNetwork
from qffs.studies.methods.method import Activation, Batches, Method, rates
from qffs.studies.methods.thresholds import heights


class Clip(nn.Module):
    """The function ``clip(x, 0, λ)`` with one λ per layer; the gradient of λ is 1 where ``x >= λ``, else 0.

    >>> clip = Clip(2.0)
    >>> clip(torch.tensor([-1.0, 0.5, 3.0]))
    tensor([0.0000, 0.5000, 2.0000], grad_fn=<MinimumBackward0>)
    """

    def __init__(self, height: float) -> None:
        super().__init__()
        self.height = nn.Parameter(torch.tensor(float(height)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the clipped ReLU."""
        return torch.minimum(torch.relu(x), self.height)


def spiking(network: fx.GraphModule, _: Batches, steps: int) -> SpikingNetwork:
    """Return the spiking network with θ = λ."""
    return rates(network, heights(network), steps)


TCL = Method(
    "tcl",
    "TCL",
    "Ho, Chang, DAC 2021",
    "trains a clip at every ReLU together with the weights; the clip is the threshold",
    Activation(
        "trained clip",
        lambda clip: Clip(4.0 if clip is None else min(4.0, clip)),
        penalty=lambda clips: 5e-4 / 2 * torch.stack([clip.height.square() for clip in clips]).sum(),
    ),
    spiking,
)
