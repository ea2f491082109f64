"""A ReLU that stays computes what the ReLU computed, gradients included."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from qffs.nn.quantizer import FullPrecision


@pytest.mark.parametrize(("clip", "original"), [(None, nn.ReLU()), (6.0, nn.ReLU6()), (0.5, nn.Hardtanh(0, 0.5))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_it_is_the_relu(clip: float | None, original: nn.Module, dtype: torch.dtype) -> None:
    x = torch.tensor([-math.inf, -1, -0.0, 0, 0.25, 0.5, 3, 6, 7, math.inf], dtype=dtype, requires_grad=True)
    ours, theirs = FullPrecision(clip)(x), original(x)
    assert torch.equal(ours, theirs)
    assert torch.equal(*(torch.autograd.grad(y.sum(), x)[0] for y in (ours, theirs)))
    assert ours.dtype == dtype
