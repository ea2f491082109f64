"""Learned step size quantization (LSQ) of activations: the quantizer, its gradients, its first step size.

Source: Esser, McKinstry, Bablani, Appuswamy, Modha, "Learned step size quantization", ICLR 2020, for gradients and
first step size; Li, Ma, Furber, "Quantization framework for fast spiking neural networks", 2022, eq. 13, for the
quantizer. Ties are rounded upward, as a neuron does that is pre-charged to half its threshold;
`torch.round` rounds ties to even and would disagree with the neuron.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

NEAREST = 0.5
"""The offset that makes ``floor(x / s + offset)`` round to the nearest level."""


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type for sums and comparisons: float32 for 16-bit floats, else ``dtype`` itself.

    >>> accumulation_dtype(torch.bfloat16), accumulation_dtype(torch.float64)
    (torch.float32, torch.float64)
    """
    return torch.promote_types(dtype, torch.float32)


def smallest_step_size(dtype: torch.dtype) -> float:
    """Return the least step size in a type, ``2^32`` times the smallest normal number of the type for sums.

    It is used in the place of a step size that training has pushed below it. It is far below the activations of a
    network in any units, and products of a step size and a gradient above it still have all their digits.

    >>> f"{smallest_step_size(torch.float32):.1e}, {smallest_step_size(torch.float64):.1e}"
    '5.0e-29, 9.6e-299'
    """
    return torch.finfo(accumulation_dtype(dtype)).tiny * 2.0**32


def along_channels(step_size: Tensor, shape: Sequence[int]) -> Tensor:
    """Return a step size that multiplies activations of ``shape``: a scalar unchanged, ``[C]`` along dimension 1.

    Batch norm reads channels in dimension 1 too. Raises `RuntimeError` where that dimension has not C channels.

    >>> along_channels(torch.ones(3), (8, 3, 5, 5)).shape, along_channels(torch.ones(()), (8, 3)).shape
    (torch.Size([3, 1, 1]), torch.Size([]))
    """
    return step_size.view(shape[1], *(1,) * (len(shape) - 2)) if step_size.dim() else step_size


def total(x: Tensor, step_size: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the sum of x over all activations that share a step size: shape ``[]``, or ``[C]`` with one s per channel.

    >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> total(x, torch.tensor(0.5), x.dtype), total(x, torch.tensor([0.5, 0.5]), x.dtype)
    (tensor(10.), tensor([4., 6.]))
    """
    shared = [dimension for dimension in range(x.dim()) if dimension != 1] if step_size.dim() else None
    return x.sum(shared, dtype=dtype)


def position(x: Tensor, step_size: Tensor, offset: float = NEAREST) -> Tensor:
    """Return the position of each activation between the levels, ``x / s + offset``: a whole number is a tie.

    x: any shape; step_size: a scalar tensor, or ``[C]`` along dimension 1 of x. The result has the shape of x and the
    type `accumulation_dtype` of x.

    >>> position(torch.tensor([0.24, 0.25, 9.0]), torch.tensor(0.5))
    tensor([ 0.9800,  1.0000, 18.5000])
    """
    wide = accumulation_dtype(x.dtype)
    scaled = x.to(wide) / along_channels(step_size, x.shape).to(wide).clamp_min(smallest_step_size(wide))
    return scaled.add_(offset)


def level(x: Tensor, step_size: Tensor, highest: int, offset: float = NEAREST) -> Tensor:
    """Return the level of each activation, ``clip(floor(x / s + offset), 0, n)``, as whole numbers in a float tensor.

    x and step_size: as in `position`, and the result is like its result; highest: n.

    >>> level(torch.tensor([-1.0, 0.24, 0.25, 0.75, 9.0]), torch.tensor(0.5), 3)
    tensor([0., 0., 1., 2., 3.])
    """
    return position(x, step_size, offset).floor_().clamp_(0, highest)


def inside(x: Tensor, step: Tensor, highest: int) -> Tensor:
    """Return whether ``0 < x < n s``, elementwise: there the gradient passes.

    step: s in a shape that multiplies x (`along_channels`). The comparison is done in the type of ``step``.

    >>> inside(torch.tensor([-1.0, 0.2, 1.5]), torch.tensor(0.5), 3)
    tensor([False,  True, False])
    """
    return (x > 0) & (x.to(step.dtype) < highest * step)


def gradient_scale(shape: Sequence[int], step_size: Tensor, highest: int) -> float:
    """Return ``1 / sqrt(N * n)``, where N activations of one image of ``[B, ...]`` share a step size.

    >>> gradient_scale((8, 4, 2, 2), torch.tensor(0.5), 1), gradient_scale((8, 4, 2, 2), torch.ones(4), 1)
    (0.25, 0.5)
    """
    return 1 / math.sqrt(max(1, math.prod(shape[1:]) // step_size.numel()) * highest)


class _Quantize(torch.autograd.Function):
    """`quantize` with the gradients of LSQ. It saves its input and its result (which the next layer saves too)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step_size: Tensor, highest: int, offset: float) -> Tensor:
        wide = accumulation_dtype(x.dtype)
        step = along_channels(step_size, x.shape).to(wide).clamp_min(smallest_step_size(wide))
        result = level(x, step, highest, offset).mul_(step).to(x.dtype)
        ctx.save_for_backward(x, step, result)
        ctx.highest, ctx.dtype = highest, step_size.dtype
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor, None, None]:
        x, step, result = ctx.saved_tensors
        (gradient,) = gradients
        passes = inside(x, step, ctx.highest)
        # The gradient of s, times s: level - v inside, n above, 0 below.
        deviation = torch.where(passes, result - x, (x > 0) * (ctx.highest * step))
        of_step = total(deviation.mul_(gradient), step, step.dtype)
        of_step = of_step / step.view_as(of_step) * gradient_scale(x.shape, step, ctx.highest)
        return gradient * passes, of_step.to(ctx.dtype), None, None


def quantize(x: Tensor, step_size: Tensor, highest: int, offset: float = NEAREST) -> Tensor:
    """Return the quantized activation ``Q(x) = s * clip(floor(x / s + offset), 0, n)``, differentiable by LSQ's rules.

    x: ``[B, ...]``; step_size: a scalar tensor s > 0, or ``[C]``, one s for each channel of x ``[B, C, ...]``;
    highest: n; offset: 1/2 rounds to nearest, ties upward. The result has the shape, type and units of x.

    Gradients, with ``v = x / s``: of x, 1 where 0 < v < n and else 0; of s, ``floor(v + offset) - v`` where
    0 < v < n, n where v >= n, 0 where v <= 0, summed over the activations that share s and times
    ``1 / sqrt(N * n)``. N is the number of these activations in one image: so, with a loss that is a mean over the
    batch, the gradient depends neither on the batch size nor on the number of processes.

    >>> x, s = torch.tensor([[0.2, 0.8, 7.0]], requires_grad=True), torch.tensor(0.5, requires_grad=True)
    >>> quantize(x, s, 3)
    tensor([[0.0000, 1.0000, 1.5000]], grad_fn=<_QuantizeBackward>)
    """
    result: Tensor = _Quantize.apply(x, step_size, highest, offset)  # type: ignore[no-untyped-call]
    return result


def first_step_size(mean_magnitude: Tensor, highest: int) -> Tensor:
    """Return LSQ's first step size, ``2 * mean(abs(x)) / sqrt(n)``, from the mean magnitude of the activations.

    >>> first_step_size(torch.tensor(0.5), 4)
    tensor(0.5000)
    """
    return 2 * mean_magnitude / math.sqrt(highest)
