"""Stand-ins that the code of a network has kept, after the tracing: each becomes the value that it stood for."""

from __future__ import annotations

import copy
import functools
import gc
import math
import operator
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import BuiltinFunctionType, CellType, FrameType
from typing import Any

from torch import Tensor, fx


class Leftover:
    """A stand-in after the tracing: whatever is done with it is done with its value.

    So nobody has to find what holds it, as slots, generators and arrays of NumPy do. It keeps nothing else of the
    tracing alive: neither the graph nor other values.
    """

    value: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["value"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.value, name, value)

    def __hash__(self) -> int:
        return object.__hash__(self) if isinstance(self.value, Tensor) else hash(self.value)  # as that of the stand-in

    def __reduce_ex__(self, _: Any) -> Any:
        return copy.copy, (self.value,)

    def __fx_create_arg__(self, tracer: fx.Tracer) -> Any:
        return tracer.create_arg(self.value)

    @classmethod
    def __torch_function__(cls, function: Callable[..., Any], _: Any, args: Any = (), kwargs: Any = None) -> Any:
        return function(*_plain(args), **_plain(kwargs or {}))


BUILT_IN = {name: each for name, each in vars(operator).items() if isinstance(each, BuiltinFunctionType)} | {
    f"__{each.__name__}__": each
    for each in (
        *(bool, int, float, complex, len, iter, reversed, divmod, round, repr, str, format),
        *(math.ceil, math.floor, math.trunc),
    )
}
"""By the name of a method of Python, the function that calls it."""

BOTH_SIDES = (
    *("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "divmod", "pow"),
    *("lshift", "rshift", "and", "xor", "or"),
)
"""The operators that have a method for the value on the right too."""


def _plain(value: Any) -> Any:
    """Return a value, or nested values, with the plain ones in the place of leftovers."""
    return fx.node.map_aggregate(value, lambda each: each.value if isinstance(each, Leftover) else each)


def _method(function: Callable[..., Any], turned: bool) -> Callable[..., Any]:
    def method(*args: Any) -> Any:
        return function(*_plain(args[::-1] if turned else args))

    return method


for _name, _function in BUILT_IN.items():
    if _name.startswith("__"):
        setattr(Leftover, _name, _method(_function, turned=False))
for _name in BOTH_SIDES:
    setattr(Leftover, f"__r{_name}__", _method(BUILT_IN[f"__{_name}__"], turned=True))


def settle(stand_ins: Sequence[fx.Proxy], values: Mapping[fx.Node, Any]) -> None:
    """Let stand-ins that outlive the tracing be their values: first each for itself, then in what holds them.

    values: the value of every node on the example.
    """
    plain = [_value(each, values) for each in stand_ins]
    for each, value in zip(stand_ins, plain, strict=True):
        vars(each).clear()
        vars(each)["value"] = value
        each.__class__ = Leftover  # type: ignore[assignment]
    _put_back(stand_ins, plain)


def _value(stand_in: fx.Proxy, values: Mapping[fx.Node, Any]) -> Any:
    if isinstance(stand_in, fx.proxy.Attribute):  # a method
        return getattr(values.get(stand_in.root.node), stand_in.attr, None)
    return values.get(stand_in.node)


def _put_back(leftovers: Sequence[Any], plain: Sequence[Any]) -> None:
    """Put the values into the usual containers that hold their leftovers.

    So what the code of a network keeps for later (in a list, in a cache of `functools`, in a global) is what it would
    have kept when it ran on the example, of the right type too.
    """
    old, new = list(leftovers), list(plain)
    while old:
        by_id = {id(each): value for each, value in zip(old, new, strict=True)}
        holders = [each for each in gc.get_referrers(*old) if each is not old and each is not leftovers]
        old, new = [], []
        for holder in holders:
            if isinstance(holder, tuple):  # its own holders come next
                parts = [by_id.get(id(part), part) for part in holder]
                old.append(holder)
                new.append(holder._make(parts) if hasattr(holder, "_make") else tuple(parts))
            else:
                _replace_in(holder, by_id)
        del holders


def _replace_in(holder: Any, by_id: Mapping[int, Any]) -> None:
    """Replace in a container, a cache or the attributes of an object the values that ``by_id`` has new ones for."""
    if isinstance(holder, (list, deque)):
        for position, value in enumerate(holder):
            if id(value) in by_id:
                holder[position] = by_id[id(value)]
    elif isinstance(holder, dict):
        for key, value in list(holder.items()):
            if id(key) in by_id:  # a table by size, also within `functools.cache`: a later reading starts without it
                del holder[key]
            elif id(value) in by_id:
                holder[key] = by_id[id(value)]
    elif isinstance(holder, set):
        for value in [each for each in holder if id(each) in by_id]:
            holder.remove(value)
            holder.add(by_id[id(value)])
    elif isinstance(holder, CellType):
        holder.cell_contents = by_id.get(id(holder.cell_contents), holder.cell_contents)
    elif isinstance(holder, functools._lru_cache_wrapper):  # it does not show what it holds
        holder.cache_clear()
    elif not isinstance(holder, FrameType) and hasattr(holder, "__dict__"):
        _replace_in(vars(holder), by_id)
