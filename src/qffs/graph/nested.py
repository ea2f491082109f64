"""Values of any nesting, as networks return them: tuples, lists and dictionaries of tensors and of what is none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

Nested: TypeAlias = Any
"""A tensor, or tuples, lists and dictionaries of tensors; beside signals, numbers, sizes and types as well."""


def tensors(value: Any) -> list[Tensor]:
    """The tensors of a value, in order.

    >>> tensors({"logits": torch.ones(1), "more": (None, [torch.zeros(2)], 5)})
    [tensor([1.]), tensor([0., 0.])]
    """
    return [tensor for tensor, _ in beside(value, value)]


def beside(value: Any, other: Any) -> list[tuple[Tensor, Any]]:
    """The tensors of a value, in order, each with what stands in its place in another of the same nesting."""
    if isinstance(value, Tensor):
        return [(value, other)]
    if isinstance(value, dict):
        return [pair for key in value for pair in beside(value[key], other[key])]
    if isinstance(value, (tuple, list)):
        return [pair for each, there in zip(value, other, strict=True) for pair in beside(each, there)]
    return []


def nested(value: Any, leaves: Iterable[Any]) -> Any:
    """A structure of the nesting of ``value``, with these leaves in the place of its tensors, in order."""
    following = iter(leaves)
    return fx.node.map_aggregate(value, lambda leaf: next(following) if isinstance(leaf, Tensor) else leaf)


def joined(parts: Sequence[Any], d: int) -> Any:
    """Values of one nesting as one, their tensors joined in dimension d.

    >>> joined([{"y": torch.zeros(1, 2)}, {"y": torch.ones(1, 1)}], 1)
    {'y': tensor([[0., 0., 1.]])}
    """
    leaves = zip(*map(tensors, parts), strict=True)
    return parts[0] if len(parts) == 1 else nested(parts[0], (torch.cat(each, d) for each in leaves))
