"""Nested values, as networks return them: tuples, lists and dictionaries of tensors and other values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

Nested: TypeAlias = Any
"""A tensor, or tuples, lists and dictionaries of tensors; they may hold numbers, sizes and types too."""


def tensors(value: Any) -> list[Tensor]:
    """Return the tensors of a value, in order.

    >>> tensors({"logits": torch.ones(1), "more": (None, [torch.zeros(2)], 5)})
    [tensor([1.]), tensor([0., 0.])]
    """
    return [tensor for tensor, _ in beside(value, value)]


def beside(value: Any, other: Any) -> list[tuple[Tensor, Any]]:
    """Return the tensors of a value in order, each with the item at the same position of ``other``.

    other: a value of the same nesting, with any items in the place of the tensors.
    """
    if isinstance(value, Tensor):
        return [(value, other)]
    if isinstance(value, dict):
        return [pair for key in value for pair in beside(value[key], other[key])]
    if isinstance(value, (tuple, list)):
        return [pair for one, two in zip(value, other, strict=True) for pair in beside(one, two)]
    return []


def nested(value: Any, leaves: Iterable[Any]) -> Any:
    """Return ``value`` with its tensors replaced by ``leaves``, in order."""
    following = iter(leaves)
    return fx.node.map_aggregate(value, lambda leaf: next(following) if isinstance(leaf, Tensor) else leaf)


def joined(parts: Sequence[Any], d: int) -> Any:
    """Join values of the same nesting to one value: their tensors are joined in dimension d.

    >>> joined([{"y": torch.zeros(1, 2)}, {"y": torch.ones(1, 1)}], 1)
    {'y': tensor([[0., 0., 1.]])}
    """
    leaves = zip(*map(tensors, parts), strict=True)
    return parts[0] if len(parts) == 1 else nested(parts[0], (torch.cat(each, d) for each in leaves))
