"""Writes by index, ``x[index] = value``, as a function: the tensor afterwards, a new one."""

from __future__ import annotations

from typing import Any

from torch import Tensor


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
