"""Functions of this library that stand in graphs: writing by index, raising a precision, and checking a size."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qffs.errors import InvalidArgument


class DoesNotRun(Exception):
    """The error of an operator that fails on the example."""


def write(x: Tensor, value: Any, index: Any) -> Tensor:
    """Return a copy of ``x`` after ``x[index] = value``; x itself is not changed.

    The function is linear in x and value together: each element of the result is an element of x or one of value.

    >>> write(torch.zeros(2, 3), torch.tensor([1.0, 2.0]), (..., 1))
    tensor([[0., 1., 0.],
            [0., 2., 0.]])
    """
    return write_(x.clone(), value, index)


def write_(x: Tensor, value: Any, index: Any) -> Tensor:
    """Write ``x[index] = value`` in place, and return x."""
    x[index] = value
    return x


def at_least(x: Tensor, dtype: torch.dtype, like: Tensor | None = None) -> Tensor:
    """Return ``x`` in ``dtype``, or in the type of ``like`` where that has the higher precision.

    like: a tensor of the type in which the network computes now; by default x itself.

    A model calls ``x.float()`` before a softmax or a norm for its 16-bit form. In a float64 network that call would
    round a sum and its increments differently, so that the spiking network would no longer be exact.

    >>> at_least(torch.ones(1, dtype=torch.bfloat16), torch.float32).dtype
    torch.float32
    >>> at_least(torch.ones(1, dtype=torch.float64), torch.float32).dtype
    torch.float64
    >>> at_least(torch.ones(1, dtype=torch.float64), torch.float32, like=torch.ones(1)).dtype
    torch.float32
    """
    return x.to(torch.promote_types((x if like is None else like).dtype, dtype))


def expect(value: Any, expected: Any, where: str) -> None:
    """Raise `InvalidArgument` unless ``value``, a size, is ``expected``, its value on the example.

    where: the line of the network's code that read the size, or "" for code of torch.

    >>> expect(8, 8, "net.py, line 3")
    """
    if value != expected:
        raise InvalidArgument(
            "the code of this network decided on sizes when it was read "
            f"({where or 'within torch'}: {expected!r}), and would decide differently here ({value!r}): "
            "quantize it on an example of this size"
        )
