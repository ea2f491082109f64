"""An activation that stays as it was: the ReLU where a quantizer would stand."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FullPrecision(nn.Module):
    """A ReLU kept in full precision, or a ReLU clipped at ``clip``; in a spiking network it sends values, not spikes.

    A module of its own, because an `nn.ReLU` in a graph is where a quantizer goes.

    >>> FullPrecision(clip=6.0)(torch.tensor([-1.0, 2.5, 9.0]))
    tensor([0.0000, 2.5000, 6.0000])
    """

    def __init__(self, clip: float | None = None) -> None:
        super().__init__()
        self.clip = None if clip is None else float(clip)

    def forward(self, x: Tensor) -> Tensor:
        """``max(x, 0)``, or ``min(max(x, 0), clip)``, in the shape, type and units of x."""
        return torch.relu(x) if self.clip is None else F.hardtanh(x, 0.0, self.clip)

    def extra_repr(self) -> str:
        """What `print` shows between the parentheses."""
        return f"clip={self.clip}"
