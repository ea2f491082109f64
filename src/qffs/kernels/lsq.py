"""`qffs.functional.lsq.quantize` in one compiled pass forward and one backward, with a byte per activation or less.

The reference keeps its input for the backward pass and takes several passes over memory. Here the forward pass
writes the result and, for the backward pass, a code of the input: below the range, above the range, or within, and then
its residual ``floor(v + offset) - v``, rounded to ``1 / STEPS`` of a level. In float32 a code takes a byte. In bfloat16
two codes share a byte: v itself has a precision of 1/128 of a level near 3, and of 1/32 near 15.

The result and the gradient of x are those of the reference, bit for bit. The gradient of s is within
``sum(abs(g)) / (2 * STEPS) / sqrt(N * n)`` of LSQ's, and usually far closer: rounding errors cancel.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from qffs.functional import lsq

STEPS = {torch.float32: 252, torch.bfloat16: 12}
"""The steps into which a code divides a level, by the type of x: code k is the residual ``offset - 1 + k / STEPS``.

The next two codes stand for activations below the range and above it: 252 + 2 fits into a byte, 12 + 2 into half of it.
"""

SMALLEST = lsq.smallest_step_size(torch.float32)

ROUNDED_DIVISION = "eager_numerics.division_rounding"
"""PyTorch's option for a division that is rounded as in eager mode. Without it, Triton's may miss a tie by an ulp."""


def _forward(x: Tensor, step_size: Tensor, highest: int, offset: float, steps: int) -> tuple[Tensor, Tensor]:
    """Return the quantized activations, and their codes as bytes."""
    step = lsq.along_channels(step_size, x.shape).float().clamp_min(SMALLEST)
    level = lsq.level(x, step_size, highest, offset)
    residual = level - x.float() / step
    code = ((residual - (offset - 1)) * steps).round().clamp(0, steps)
    outside = torch.where(x > 0, steps + 2.0, steps + 1.0)
    return (level * step).to(x.dtype), torch.where(lsq.inside(x, step, highest), code, outside).to(torch.uint8)


def _backward(
    gradient: Tensor, code: Tensor, step_size: Tensor, highest: int, offset: float, steps: int
) -> tuple[Tensor, Tensor]:
    """Return the gradient of x, and the gradient of s before it is scaled."""
    wide = code.float()  # comparisons of bytes would not be vectorized
    inside = wide <= steps
    residual = wide * (1 / steps) + (offset - 1)
    of_step = torch.where(inside, residual, torch.where(wide > steps + 1, float(highest), 0.0))
    return torch.where(inside, gradient, 0.0), lsq.total(gradient.float() * of_step, step_size, torch.float32)


def _packed(code: Tensor) -> Tensor:
    """Return codes below 16, two in a byte: the first half of the codes is in the lower bits."""
    code = code.flatten()
    low, high = (F.pad(code, (0, 1)) if code.numel() % 2 else code).chunk(2)
    return torch.add(low, high, alpha=16)


def _unpacked(packed: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the codes that `_packed` packed, one in a byte."""
    return torch.cat([packed & 15, packed >> 4])[: math.prod(shape)].view(shape)


@cache
def _compiled(body: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    """Compile a body: one kernel for all sizes and levels, for each type and number of dimensions."""
    has_option = ROUNDED_DIVISION in torch._inductor.list_options()
    return torch.compile(body, dynamic=True, options={ROUNDED_DIVISION: True} if has_option else {})


def _run(body: Callable[..., tuple[Tensor, Tensor]], *arguments: Any) -> tuple[Tensor, Tensor]:
    """Call the kernel of a body on plain tensors without gradients: other tensors and modes would compile it again."""
    plain = [each.detach().contiguous() if isinstance(each, Tensor) else each for each in arguments]
    with torch.no_grad(), torch.autocast(plain[0].device.type, enabled=False):
        return _compiled(body)(*plain)


class _Quantize(torch.autograd.Function):
    """`quantize` on activations in memory order: ``[N]``, or ``[outer, C, inner]`` with a step size per channel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step_size: Tensor, highest: int, offset: float, scale: float) -> Tensor:
        ctx.arguments, ctx.scale, ctx.shape = (highest, offset, STEPS[x.dtype]), scale, x.shape
        result, code = _run(_forward, x, step_size, *ctx.arguments)
        ctx.save_for_backward(_packed(code) if STEPS[x.dtype] + 2 < 16 else code, step_size)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        code, step_size = ctx.saved_tensors
        if code.shape != ctx.shape:
            code = _unpacked(code, ctx.shape)
        of_x, of_step = _run(_backward, gradient, code, step_size, *ctx.arguments)
        return of_x, (of_step * ctx.scale).to(step_size.dtype), None, None, None


def _laid_out(x: Tensor, order: Sequence[int], by_channel: bool) -> Tensor:
    """Return the activations in memory order: ``[N]``; by channel, ``[outer, C]`` or ``[outer, C, inner]``."""
    x = x.permute(*order)
    if not by_channel:
        return x.reshape(-1)
    at = order.index(1)
    inner = math.prod(x.shape[at + 1 :])
    return x.reshape(-1, x.shape[at], *((inner,) if inner > 1 else ()))


def quantize(x: Tensor, step_size: Tensor, highest: int, offset: float = lsq.NEAREST) -> Tensor:
    """Return what `qffs.functional.lsq.quantize` returns, from the same arguments; only the gradient of s is rounded.

    The reference is used for all that is not covered: types other than float32 and bfloat16, offsets outside
    ``[0, 1)``, empty tensors, and everything on a machine where nothing can be compiled (`available`). The same tensors
    give the same gradients, bit for bit, as long as the number of threads is the same.
    """
    covered = x.dtype in STEPS and 0 <= offset < 1 and x.numel() > 0
    if not (covered and available(x.device.type)):
        return lsq.quantize(x, step_size, highest, offset)
    order = sorted(range(x.dim()), key=x.stride, reverse=True)
    flat = _laid_out(x, order, by_channel=step_size.dim() > 0)
    scale = lsq.gradient_scale(x.shape, step_size, highest)
    result: Tensor = _Quantize.apply(flat, step_size, highest, offset, scale)  # type: ignore[no-untyped-call]
    return result.view([x.shape[i] for i in order]).permute(sorted(range(x.dim()), key=order.__getitem__))


@cache
def available(device: str) -> bool:
    """Return whether LSQ can be compiled for a type of device, with the levels of the reference; tried once.

    Where it cannot, a warning says why. The first trial takes some seconds, unless the kernel is in PyTorch's cache on
    disk.
    """
    ties = (torch.arange(8192, device=device) - 2048) * 0.46875
    step_size, highest = torch.tensor(0.9375, device=device), 2000
    try:
        result, code = _run(_forward, ties, step_size, highest, lsq.NEAREST, 252)
        _run(_backward, ties, code, step_size, highest, lsq.NEAREST, 252)
        reason = None if torch.equal(result, lsq.quantize(ties, step_size, highest)) else "its levels are wrong"
    except Exception as error:  # a compiler may fail in any way, and training continues without it
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
    if reason is not None:
        warnings.warn(f"LSQ is not fused on {device}, and trains slower: compiled, it fails ({reason})", stacklevel=2)
    return reason is None
