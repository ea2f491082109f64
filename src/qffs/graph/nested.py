"""Nested values, as networks return them: tuples, lists, dictionaries and dataclasses of tensors and other values."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.fx.immutable_collections import immutable_dict

Nested: TypeAlias = Any
"""A tensor, or tuples, lists, dictionaries and dataclasses of tensors; they may hold numbers, sizes and types too."""

Form: TypeAlias = tuple[type, tuple[Any, ...], dict[str, Any]]
"""A class, and the arguments from which it builds a value."""


def form(value: Any) -> Form | None:
    """Return how a value of a class of the network's own is built: a named tuple, a dataclass or a kind of dictionary.

    Return None for all other values, plain tuples and dictionaries too.

    >>> from collections import namedtuple, OrderedDict
    >>> form(namedtuple("Pair", "a b")(1, 2))[1:], form(OrderedDict(a=1))
    (((1, 2), {}), (<class 'collections.OrderedDict'>, ({'a': 1},), {}))
    """
    kind = type(value)
    if dataclasses.is_dataclass(kind):
        return kind, (), {field.name: getattr(value, field.name) for field in dataclasses.fields(kind)}
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        return kind, tuple(value), {}
    if isinstance(value, dict) and kind not in {dict, immutable_dict}:
        return kind, (dict(value),), {}
    return None


def plain_key(key: Any) -> Any:
    """Return what is equal to the key of a dictionary and can be written down; None where nothing is.

    >>> from enum import Enum, IntEnum
    >>> plain_key((IntEnum("Head", "FIRST").FIRST, "a", None)), plain_key(Enum("Head", "FIRST").FIRST)
    ((1, 'a', None), None)
    """
    if isinstance(key, tuple):
        return tuple(map(plain_key, key))
    if isinstance(key, str):
        return str.__str__(key)
    if isinstance(key, bool):
        return key
    return int(key) if isinstance(key, int) else float(key) if isinstance(key, float) else None


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
    built = form(value)
    if built is not None:
        return beside(built[1:], (form(other) or built)[1:])
    if isinstance(value, dict):
        return [pair for key in value for pair in beside(value[key], other[key])]
    if isinstance(value, (tuple, list)):
        return [pair for one, two in zip(value, other, strict=True) for pair in beside(one, two)]
    return []


def nested(value: Any, leaves: Iterable[Any]) -> Any:
    """Return ``value`` with its tensors replaced by ``leaves``, in order."""
    following = iter(leaves)
    return mapped(value, lambda _: next(following))


def mapped(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """Return ``value`` with ``change`` applied to its tensors, in order."""
    if isinstance(value, Tensor):
        return change(value)
    built = form(value)
    if built is not None:
        kind, args, kwargs = built
        return kind(*mapped(args, change), **mapped(kwargs, change))
    if isinstance(value, dict):
        return {key: mapped(each, change) for key, each in value.items()}
    if isinstance(value, (tuple, list)):
        return (tuple if isinstance(value, tuple) else list)(mapped(each, change) for each in value)
    return value


def joined(parts: Sequence[Any], d: int) -> Any:
    """Join values of the same nesting to one value: their tensors are joined in dimension d.

    >>> joined([{"y": torch.zeros(1, 2)}, {"y": torch.ones(1, 1)}], 1)
    {'y': tensor([[0., 0., 1.]])}
    """
    leaves = zip(*map(tensors, parts), strict=True)
    return parts[0] if len(parts) == 1 else nested(parts[0], (torch.cat(each, d) for each in leaves))


def same(computed: Any, expected: Any, coarse: float = 0.0) -> bool:
    """Return whether two nested values hold the same tensors, up to rounding."""
    mine, other = tensors(computed), tensors(expected)
    return len(mine) == len(other) and all(close(a, b, coarse) for a, b in zip(mine, other, strict=True))


def close(a: Tensor, b: Tensor, coarse: float = 0.0, rounding: float = 0.0) -> bool:
    """Return whether two tensors are equal up to rounding, which may depend on the batch size.

    coarse: the precision of a coarser type through which the values have passed, or 0; rounding: how far values may
    differ in any case. The types must be the same, but where values passed through another one, a may have kept a
    higher precision than b.
    """
    if a.shape != b.shape:
        return False
    if a.dtype != b.dtype:
        if not coarse or not b.is_floating_point() or torch.promote_types(a.dtype, b.dtype) != a.dtype:
            return False
        a = a.to(b.dtype)
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    if not a.is_floating_point():
        return bool(torch.equal(a, b))
    finite = b[b.isfinite()]
    scale = float(finite.abs().max()) if finite.numel() else 0.0
    fine = a.dtype in {torch.float32, torch.float64} and coarse < torch.finfo(torch.bfloat16).eps / 10
    tolerance = 1000 * max(torch.finfo(a.dtype).eps, coarse) if fine else 0.05
    return bool(torch.allclose(a, b, rtol=0, atol=tolerance * scale + rounding, equal_nan=True))
