"""Linear operators as convolutions or matrices: single units give the weights, and random inputs confirm them."""

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
"""Kernel size, stride, padding and dilation, each with one number per dimension."""

NUMBERS = 1 << 26
"""The largest number of weights in a matrix."""

TOGETHER = 1 << 21
"""The approximate number of values in one batch of inputs."""


@dataclass(frozen=True)
class Flatten:
    """The form that flattens ``[C, ...]`` to ``[N]``."""

    shape: tuple[int, ...]


@dataclass(frozen=True)
class Matrix:
    """The form ``weight @ x`` with ``weight`` ``[M, N]``."""

    weight: Tensor


@dataclass(frozen=True)
class Convolution:
    """The form of a convolution in one or two dimensions, ``weight`` ``[M, C, ...]``, for inputs ``[C, *size]``."""

    weight: Tensor
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    size: tuple[int, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """Return the convolution of ``x`` ``[B, C, ...]``."""
        convolve: Any = F.conv1d if x.dim() == 3 else F.conv2d
        result: Tensor = convolve(x, self.weight, None, self.stride, self.padding, self.dilation)
        return result


Form = Flatten | Matrix | Convolution


def linear_form(apply: Apply, shape: tuple[int, ...], windows: list[Window], pools: bool = False) -> list[Form]:
    """Return a linear operator on ``[B, *shape]`` as a sequence of forms; empty for the identity.

    apply: the operator. windows: the windows to test first. pools: the operator takes the largest value of each window,
    and the convolution that adds up the same windows is returned. Raises `NotConvertible` if the operator has none of
    these forms.
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
                guess = Convolution(_kernel(apply, shape, out, window), *window[1:], into)
                if _pools_alike(guess, apply, shape) if pools else torch.allclose(guess(x), y, rtol=1e-9, atol=1e-12):
                    return [guess]
    raise NotConvertible("it is neither a convolution of one or two dimensions nor a matrix")


def _matrix(apply: Apply, shape: tuple[int, ...], out: int) -> Matrix:
    count = math.prod(shape)
    if count * out > NUMBERS:
        raise NotConvertible(f"as a matrix of {count:,} x {out:,} it is too large, with more than {NUMBERS:,} numbers")
    return Matrix(torch.cat([apply(units.view(-1, *shape)) for units in _single(count)]).t().contiguous())


def _single(count: int) -> Iterator[Tensor]:
    """Yield the unit vectors in batches ``[B, N]``."""
    step = max(1, TOGETHER // count)
    for start in range(0, count, step):
        units = torch.zeros((min(step, count - start), count), dtype=torch.float64)
        units.diagonal(start).fill_(1.0)
        yield units


def _pools_alike(convolution: Convolution, apply: Apply, shape: tuple[int, ...]) -> bool:
    """Return whether a convolution adds up the same windows of which ``apply`` takes the largest value.

    They are the same if each position, with 1 in all channels, reaches the same outputs in both.
    """
    for units in _single(math.prod(shape[1:])):
        x = units.view(len(units), 1, *shape[1:]).expand(len(units), *shape)
        for part in x.split(max(1, TOGETHER // math.prod(shape))):
            if not torch.equal((convolution(part) > 0).double(), apply(part.contiguous())):
                return False
    return True


def _guesses(into: tuple[int, ...], out: tuple[int, ...]) -> Iterator[Window]:
    """Yield windows that could be those of an operator without such arguments.

    They are a selection of positions, poolings without overlap, usual kernel sizes, and the whole input.
    """
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
    """Return the weights ``[M, C, ...]`` of a convolution, each from an output whose window contains the position."""
    kernel, stride, padding, dilation = window
    weights: Tensor | None = None
    for position in product(*map(range, kernel)):
        pairs = [
            next(((o, a) for o in range(n) if 0 <= (a := o * s - p + k * d) < size), None)
            for n, size, s, p, k, d in zip(out, shape[1:], stride, padding, position, dilation, strict=True)
        ]
        if None in pairs:  # only padding is at this position of the window
            continue
        output = [o for o, _ in filter(None, pairs)]
        source = [a for _, a in filter(None, pairs)]
        x = torch.zeros((shape[0], *shape), dtype=torch.float64)
        _at(x, source).copy_(torch.eye(shape[0], dtype=torch.float64))
        arrived = _at(apply(x), output).t()
        weights = arrived.new_zeros((*arrived.shape, *kernel)) if weights is None else weights
        _at(weights, position).copy_(arrived)
    assert weights is not None
    return weights


def _at(x: Tensor, position: Sequence[int]) -> Tensor:
    """Return ``x[:, :, *position]``."""
    for index in position:
        x = x.select(2, index)
    return x
