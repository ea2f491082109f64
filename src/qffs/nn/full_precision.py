"""The activation that is not quantized: a ReLU in the place of a quantizer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FullPrecision(nn.Module):
    """A ReLU in full precision, clipped at ``clip`` unless that is None; it sends values, not spikes.

    It is not an `nn.ReLU`, because every `nn.ReLU` of a graph is replaced by a quantizer.

    >>> FullPrecision(clip=6.0)(torch.tensor([-1.0, 2.5, 9.0]))
    tensor([0.0000, 2.5000, 6.0000])
    """

    def __init__(self, clip: float | None = None) -> None:
        super().__init__()
        self.clip = None if clip is None else float(clip)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``max(x, 0)``, or ``min(max(x, 0), clip)``, in the shape, type and units of x."""
        return torch.relu(x) if self.clip is None else F.hardtanh(x, 0.0, self.clip)

    def extra_repr(self) -> str:
        """Return the text that `print` shows between the parentheses."""
        return f"clip={self.clip}"
