"""What a linear operator is as a convolution or a matrix, found by trying: single units tell, others confirm it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qffs.errors import NotConvertible

Apply = Callable[[Tensor], Tensor]
Window = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Kernel, stride, padding and dilation, by dimension."""

NUMBERS = 1 << 26
"""The most numbers that a matrix is written with."""

TOGETHER = 1 << 21
"""About how many numbers are tried at a time."""


@dataclass(frozen=True)
class Flatten:
    """``[C, ...]`` as ``[N]``."""

    shape: tuple[int, ...]


@dataclass(frozen=True)
class Matrix:
    """``weight @ x``, ``[M, N]``."""

    weight: Tensor


@dataclass(frozen=True)
class Convolution:
    """A convolution in one dimension or two, ``weight`` ``[M, C, ...]``, of inputs ``[C, *size]``."""

    weight: Tensor
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    size: tuple[int, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """Apply it to ``[B, C, ...]``."""
        convolve: Any = F.conv1d if x.dim() == 3 else F.conv2d
        result: Tensor = convolve(x, self.weight, None, self.stride, self.padding, self.dilation)
        return result


Form = Flatten | Matrix | Convolution


def linear_form(apply: Apply, shape: tuple[int, ...], windows: list[Window], pools: bool = False) -> list[Form]:
    """A linear operator on ``[B, *shape]`` as forms one after the other, none for the identity.

    windows: those to be tried first. pools: the operator takes the largest in windows, and what is looked for is the
    one that adds up instead. Raises `NotConvertible` where it has none of these forms.
    """
    x = torch.rand((3, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x if pools else x - 0.5
    y = apply(x)
    if y.dim() == 2:
        before: list[Form] = [Flatten(shape)] if len(shape) > 1 else []
        return before if torch.equal(y, x.flatten(1)) else [*before, _matrix(apply, shape, y.shape[1])]
    if torch.equal(y, x):
        return []
    if y.dim() == x.dim() and x.dim() in {3, 4}:
        into, out = tuple(shape[1:]), tuple(y.shape[2:])
        for window in (*windows, *_guesses(into, out)):
            if all(map(_fits, into, out, *window)):
                found = Convolution(_kernel(apply, shape, out, window), *window[1:], into)
                if _pools_alike(found, apply, shape) if pools else torch.allclose(found(x), y, rtol=1e-9, atol=1e-12):
                    return [found]
    raise NotConvertible("it is neither a convolution of one or two dimensions nor a matrix")


def _matrix(apply: Apply, shape: tuple[int, ...], out: int) -> Matrix:
    count = math.prod(shape)
    if count * out > NUMBERS:
        raise NotConvertible(f"as a matrix of {count:,} x {out:,} it is too large, with more than {NUMBERS:,} numbers")
    return Matrix(torch.cat([apply(units.view(-1, *shape)) for units in _single(count)]).t().contiguous())


def _single(count: int) -> Iterator[Tensor]:
    """Every unit alone, ``[B, N]``, some at a time."""
    step = max(1, TOGETHER // count)
    for start in range(0, count, step):
        units = torch.zeros((min(step, count - start), count), dtype=torch.float64)
        units.diagonal(start).fill_(1.0)
        yield units


def _pools_alike(found: Convolution, apply: Apply, shape: tuple[int, ...]) -> bool:
    """Whether a sum and a largest are of the same windows: each place reaches the same of them, of all channels."""
    for units in _single(math.prod(shape[1:])):
        x = units.view(len(units), 1, *shape[1:]).expand(len(units), *shape)
        for part in x.split(max(1, TOGETHER // math.prod(shape))):
            if not torch.equal((found(part) > 0).double(), apply(part.contiguous())):
                return False
    return True


def _guesses(into: tuple[int, ...], out: tuple[int, ...]) -> Iterator[Window]:
    """Windows that give the right size, of what says of itself none: a choice of places, poolings, usual kernels."""
    one, none = (1,) * len(into), (0,) * len(into)
    stride = tuple(max(1, -(-size // after)) for size, after in zip(into, out, strict=True))
    yield one, stride, none, one
    yield stride, stride, none, one
    for kernel in (2, 3, 5, 7):
        for padding in dict.fromkeys((kernel // 2, 0)):
            yield (kernel,) * len(into), stride, (padding,) * len(into), one
    yield into, one, none, one


def _fits(size: int, after: int, kernel: int, stride: int, padding: int, dilation: int) -> bool:
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 == after


def _kernel(apply: Apply, shape: tuple[int, ...], out: tuple[int, ...], window: Window) -> Tensor:
    """The weights ``[M, C, ...]``: what comes of each place of a window, where the window holds it."""
    kernel, stride, padding, dilation = window
    weights: Tensor | None = None
    for place in product(*map(range, kernel)):
        found = [
            next(((o, a) for o in range(n) if 0 <= (a := o * s - p + k * d) < size), None)
            for n, size, s, p, k, d in zip(out, shape[1:], stride, padding, place, dilation, strict=True)
        ]
        if None in found:  # a place that only padding is at
            continue
        middle = [o for o, _ in filter(None, found)]
        at = [a for _, a in filter(None, found)]
        x = torch.zeros((shape[0], *shape), dtype=torch.float64)
        _at(x, at).copy_(torch.eye(shape[0], dtype=torch.float64))
        arrived = _at(apply(x), middle).t()
        weights = arrived.new_zeros((*arrived.shape, *kernel)) if weights is None else weights
        _at(weights, place).copy_(arrived)
    assert weights is not None
    return weights


def _at(x: Tensor, place: Sequence[int]) -> Tensor:
    """``x[:, :, *place]``."""
    for at in place:
        x = x.select(2, at)
    return x
