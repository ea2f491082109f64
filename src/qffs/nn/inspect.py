"""What a network computes in: its type and its device."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn

from qffs.nn.neuron import Neuron
from qffs.nn.quantizer import Quantizer


def like(network: nn.Module) -> Tensor:
    """An empty tensor of the type that a network computes in, on its device: that of its step sizes or thresholds.

    Of a network without them, that of its first weight. Its constants may be of any type: ``x + 0.25`` holds a float64.

    >>> like(nn.Linear(2, 1).double()).dtype
    torch.float64
    """
    steps = (m.step_size if isinstance(m, Quantizer) else m.threshold for m in network.modules()
             if isinstance(m, Quantizer | Neuron))  # fmt: skip
    floating = (each for each in chain(steps, network.parameters(), network.buffers()) if each.is_floating_point())
    return next(floating, torch.zeros(())).detach().new_empty(0)
