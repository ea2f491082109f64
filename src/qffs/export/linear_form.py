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

Apply = Callable[[Tensor], Tensor]
Window = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Kernel, stride, padding and dilation, by dimension."""

UNITS = 1 << 14
"""The most units that a matrix is written for: it has as many numbers as the square of this, or fewer."""


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


def linear_form(apply: Apply, shape: tuple[int, ...], windows: list[Window], pools: bool = False) -> list[Form] | None:
    """A linear operator on ``[B, *shape]`` as forms one after the other, none for the identity; None where it has none.

    windows: those to be tried first. pools: the operator takes the largest in windows, and what is looked for is the
    one that adds up instead.
    """
    x = torch.rand((3, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = (x > 0.8).double() if pools else x - 0.5
    y = apply(x)
    if y.shape == x.shape and torch.equal(y, x) and not pools:
        return []
    if y.dim() == 2:
        before: list[Form] = [Flatten(shape)] if len(shape) > 1 else []
        if math.prod(shape) > UNITS:
            return None
        matrix = Matrix(_matrix(apply, shape))
        return before if torch.equal(matrix.weight, torch.eye(matrix.weight.shape[1])) else [*before, matrix]
    if y.dim() != x.dim() or x.dim() not in {3, 4}:
        return None
    into, out = tuple(shape[1:]), tuple(y.shape[2:])
    for window in (*windows, *_guesses(into, out)):
        if all(map(_fits, into, out, *window)):
            found = Convolution(_kernel(apply, shape, out, window), *window[1:], into)
            again = (found(x) > 0).double() if pools else found(x)
            if torch.allclose(again, y, rtol=1e-9, atol=1e-12):
                return [found]
    return None


def _matrix(apply: Apply, shape: tuple[int, ...]) -> Tensor:
    count = math.prod(shape)
    rows = [apply(part.reshape(-1, *shape)) for part in torch.eye(count, dtype=torch.float64).split(64)]
    return torch.cat(rows).t().contiguous()


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
