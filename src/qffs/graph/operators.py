"""Writes by index, ``x[index] = value``, as a function: the tensor afterwards, a new one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qffs.errors import InvalidArgument


def write(x: Tensor, value: Any, index: Any) -> Tensor:
    """``x`` with ``value`` in the places that ``index`` names, as indexing with it reads them; x stays as it is.

    It is linear in x and value together: what x had in these places is gone, and value is nowhere else.

    >>> write(torch.zeros(2, 3), torch.tensor([1.0, 2.0]), (..., 1))
    tensor([[0., 1., 0.],
            [0., 2., 0.]])
    """
    return write_(x.clone(), value, index)


def write_(x: Tensor, value: Any, index: Any) -> Tensor:
    """The same in place: x itself."""
    x[index] = value
    return x


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


def expect(value: Any, known: Any, where: str) -> None:
    """Raise `InvalidArgument` where ``value`` is not what it was on the example.

    >>> expect(8, 8, "net.py, line 3")
    """
    if value != known:
        raise InvalidArgument(
            f"the code of this network decided on sizes when it was read ({where or 'within torch'}: {known!r}), and "
            f"would decide otherwise here ({value!r}): quantize it on an example of this size"
        )
