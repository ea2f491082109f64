"""Casts that networks write to raise the precision of a step: they raise it, and never lower it."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x`` in ``dtype``, or in its own type where that is the finer one.

    ``x.float()`` before a softmax or a norm is there for networks in 16 bits. In a float64 network it would round to
    half the digits, differently of a sum and of its increments, and exactness would end there.

    >>> at_least(torch.ones(1, dtype=torch.bfloat16), torch.float32).dtype
    torch.float32
    >>> at_least(torch.ones(1, dtype=torch.float64), torch.float32).dtype
    torch.float64
    """
    return x.to(torch.promote_types(x.dtype, dtype))
