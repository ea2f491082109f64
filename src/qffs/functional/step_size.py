"""Step sizes from a sample of activations: that of least squared error, and that of a percentile.

The activations have shape ``[N, G]``: N of each of G groups that have a step size each. The result has shape ``[G]``;
it is 0 where no activation of a group is above 0. LSQ's first step size is `qffs.functional.lsq.first_step_size`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qffs.functional import lsq

FRACTIONS = 64
"""The number of step sizes that `squared_error` tries, from ``max(x) / n`` down in equal steps."""
SHARE = 0.999
"""The share of the activations above 0 that `percentile` does not clip."""


def squared_error(x: Tensor, highest: int, offset: float = lsq.NEAREST) -> Tensor:
    """Return the step size with the least ``sum((Q(x) - max(x, 0))^2)`` among `FRACTIONS`; highest: n.

    >>> squared_error(torch.tensor([[0.0], [0.5], [1.0], [1.5], [1.5], [-3.0]]), 3)
    tensor([0.5000])
    """
    most = x.amax(0).clamp_min(0)
    scaled = (x / most.where(most > 0, 1)).clamp_min(0)  # so that squares are no numbers too small, whatever the units
    best, least = torch.ones_like(most), torch.full_like(most, torch.inf)
    for number in range(FRACTIONS, 0, -1):
        fraction = torch.tensor(number / FRACTIONS, dtype=x.dtype, device=x.device)
        step_size = fraction / highest
        error = (lsq.level(scaled, step_size, highest, offset).mul_(step_size) - scaled).square_().sum(0)
        best, least = torch.where(error < least, fraction, best), torch.minimum(error, least)
    return best * most / highest


def percentile(x: Tensor, highest: int, _: float = lsq.NEAREST) -> Tensor:
    """Return the step size whose highest level is no less than `SHARE` of the activations above 0, for any offset.

    >>> percentile(torch.arange(2001.0)[:, None], 1)
    tensor([1998.])
    """
    ordered, above = x.sort(0).values, (x > 0).sum(0, keepdim=True)
    number = len(x) - above + (above.double() * SHARE).ceil().long() - 1
    return ordered.gather(0, number.clamp(0, len(x) - 1)).squeeze(0).clamp_min(0) / highest
