"""QCFS: activations that are quantized to L levels and shifted by half a level, with a trained height."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from qffs.spiking.network import SpikingNetwork
from qffs.studies.methods.method import RATE, SOME, Activation, Batches, Method, rates
from qffs.studies.methods.thresholds import best, heights


class _Floor(torch.autograd.Function):
    """The function ``floor``, with the gradient of the identity."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x.floor()

    @staticmethod
    def backward(_: Any, *gradients: Any) -> Any:
        return gradients[0]


class ClipFloorShift(nn.Module):
    """The function ``λ clip(floor(x L / λ + 1/2) / L, 0, 1)``; λ is trained, and floor has the gradient 1.

    >>> ClipFloorShift(4, 2.0)(torch.tensor([-1.0, 0.2, 0.3, 5.0])).tolist()
    [0.0, 0.0, 0.5, 2.0]
    """

    def __init__(self, levels: int, height: float) -> None:
        super().__init__()
        self.levels, self.height = levels, nn.Parameter(torch.tensor(float(height)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the quantized activation."""
        level: Tensor = _Floor.apply(x * (self.levels / self.height) + 0.5)  # type: ignore[no-untyped-call]
        return (level / self.levels).clamp(0, 1) * self.height


def _start(module: Any, x: Tensor) -> None:
    """Set λ to the height with the least error of the quantized activations, because weights are already trained."""
    module.height.data.fill_(min(best(torch.relu(x[:SOME]), LEVELS), module.height.item()))


def spiking(network: fx.GraphModule, _: Batches, steps: int) -> SpikingNetwork:
    """Return the spiking network with θ = λ and a pre-charge of half a threshold."""
    return rates(network, heights(network), steps, replace(RATE, precharge=0.5))


LEVELS = 4

QCFS = Method(
    "qcfs",
    "QCFS",
    "Bu et al., ICLR 2022",
    "trains activations of 4 levels with a trained clip, and starts neurons at half their threshold",
    Activation(
        "quantized clip, floor and shift",
        lambda clip: ClipFloorShift(LEVELS, 8.0 if clip is None else min(8.0, clip)),
        _start,
        penalty=lambda clips: 5e-4 / 2 * torch.stack([clip.height.square() for clip in clips]).sum(),
    ),
    spiking,
    notes="clips start where the activations of a trained network have the least error, and not at 8",
)
