"""A small network as methods train it, without training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qffs.studies.methods import Method, placed, started
from qffs.studies.methods.qcfs import ClipFloorShift
from qffs.studies.methods.tcl import Clip


def network() -> nn.Module:
    torch.manual_seed(0)
    one, two = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
    return nn.Sequential(one, nn.ReLU(), nn.AvgPool2d(2), two, nn.ReLU(), nn.Flatten(), nn.Linear(128, 10)).double()


def images(count: int = 16) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def trained(method: Method, model: nn.Module, x: Tensor) -> Any:
    """A network as if it had been trained: with clips that its activations reach.

    Those of direct training are left as they begin, and are no ANN.
    """
    made = started(placed(model, x[:2], method.activation), method.activation, x).eval()
    for module in made.modules():
        if isinstance(module, Clip | ClipFloorShift):
            module.height.data.fill_(0.7)
    return made
