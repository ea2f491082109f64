"""Weights of synapses in rows of a block of neurons, as the compiled function reads them: whole, or as two digits.

Of two digits a weight is ``unit (coarse + fine / 2^15)``, with a power of two as its neuron's unit and two whole
numbers of 16 bits, and so known to within 2^-30 of the neuron's largest. What is summed is nearly always the first
digit alone, which is half as long to read as float32; see weights.c. Weights of few bits, multiples of a power of two,
are exact in it. Others are rounded up or down at random, with odds that leave nothing out on average (stochastic
rounding): errors of equal weights are then as independent as any, and those of a sum grow with the root of their
number.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

COARSE = 2**15 - 1
FINE = 2**15
LANES = 16
PAIRED = 4 * LANES
"""Neurons of a block from which on the rows of two vectors lie by turns, as in weights.c."""
MOST_INPUTS = 2**16 - 1
"""The most inputs of a neuron, so that 32 bits hold any sum of first digits."""
SMALL = 2**-10
"""Half of a neuron's weights have to be larger than this share of its largest."""
LEAST = 1e-30
"""The smallest that a neuron's largest weight may be, for its second digits to be numbers of float32."""


class Weights(NamedTuple):
    """Rows of blocks, ``[blocks, rows, neurons of a block]``; of two digits also what layer.h says."""

    rows: Tensor
    fine: Tensor | None = None
    unit: Tensor | None = None
    left: Tensor | None = None


def divisible(kernel: Tensor) -> bool:
    """Return whether two digits are as exact as float32 for sums of a kernel ``[C_out, ...]``: weights of like sizes.

    >>> divisible(torch.tensor([[1.0, 0.3, -0.02]])), divisible(torch.tensor([[1e6, 0.3, -0.02]]))
    (True, False)
    """
    sizes = kernel.detach().abs().flatten(1)
    if kernel.dtype != torch.float32 or not 0 < sizes.shape[1] <= MOST_INPUTS:
        return False
    most = sizes.amax(1, keepdim=True)
    known = most.isfinite() & ((most >= LEAST) | (most == 0))
    small = (sizes > 0) & (sizes < most * SMALL)
    return bool(known.all()) and bool((2 * small.sum(1) <= (sizes > 0).sum(1)).all())


def in_digits(rows: Tensor) -> Weights:
    """Return the weights of blocks as two digits.

    ``left`` of the result is the root mean square of what the first digits leave out, of the weights that lose any.

    >>> rows, fine, unit, left = in_digits(torch.tensor([1.0, 0.3]).expand(16, 2).T[None])
    >>> [round(w, 6) for w in (unit[0] * (rows[0, :, 0] + fine[0, 0, :, 0] / 2**15)).tolist()]
    [1.0, 0.3]
    >>> rows[0, 0].unique().tolist(), rows[0, 1].unique().tolist()  # 0.3 is 4915.2 units
    ([16384], [4915, 4916])
    """
    largest = rows.abs().amax(1, keepdim=True)
    exponent = torch.frexp(largest / COARSE).exponent
    unit = torch.ldexp(torch.ones_like(largest), torch.where(largest > 0, exponent, 0))
    exact = rows / unit
    below = exact.floor()
    share = ((exact - below) * FINE).round()
    chance = torch.Generator(rows.device).manual_seed(0)
    draws = torch.randint(FINE, rows.shape, generator=chance, dtype=rows.dtype, device=rows.device)
    up = draws < share
    coarse, fine = below + up, share - FINE * up
    some = (fine != 0).sum(1).clamp_min(1)
    left = unit.squeeze(1) * (fine.square().sum(1) / some).sqrt() / FINE
    first = coarse.to(torch.int16)
    if rows.shape[-1] >= PAIRED:
        first = first.unflatten(-1, (-1, 2, LANES)).transpose(-1, -2)
    second = fine.to(torch.int16).unflatten(-1, (-1, LANES)).transpose(1, 2)
    return Weights(first.contiguous(), second.contiguous(), unit.flatten(), left.flatten())
