"""The stand-in for a value while a network is traced: it records the operators that the code applies to it."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from qffs.graph.nested import form
from qffs.graph.operators import write_
from qffs.graph.site import note


class Recorder(fx.Tracer):
    """The part of a tracer that stand-ins use; ``values`` holds the value of every node on the example."""

    values: dict[fx.Node, Any]

    def concrete(self, proxy: fx.Proxy) -> Any:
        """Return the value of a stand-in on the example, where the network's code needs a number."""
        raise NotImplementedError

    def write(self, x: fx.Proxy, value: Any, index: Any) -> None:
        """Record ``x[index] = value``."""
        raise NotImplementedError

    def create_arg(self, a: Any) -> Any:
        """Return an argument as a graph holds it: for a value of a class of its own, the call of it."""
        built = form(a)
        if built is None:
            try:
                return super().create_arg(a)
            except NotImplementedError:
                why = f"its code returns or passes on a {type(a).__name__}, which a graph cannot hold"
                raise NotImplementedError(f"{why}: use a tuple or a dict") from None
        kind, args, kwargs = built
        problem = None
        try:
            kind(*args, **kwargs)  # as the code has just done
        except Exception as error:
            if not kwargs:
                return super().create_arg(dict(a))  # a kind of dictionary that is built in another way
            why = f"a {kind.__name__} cannot be put together from its fields ({error}): return a tuple or a dict"
            kind, problem = dict, why
        node = self.create_node("call_function", kind, self.create_arg(args), self.create_arg(kwargs))
        note(node, problem=problem)
        return node


class StandIn(fx.Proxy):
    """The stand-in for a value of the network while it is traced."""

    tracer: Recorder

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the value: a method that is recorded, a stand-in, or a plain constant."""
        whole = self.tracer.values[self.node]
        value = getattr(whole, name)  # AttributeError as the real thing would raise it
        fields = getattr(type(whole), "__match_args__", ()) if isinstance(whole, tuple) else ()
        if name in fields:
            return self[fields.index(name)]  # type: ignore[index]
        if callable(value):
            return super().__getattr__(name)
        if isinstance(value, (Tensor, torch.Size, torch.dtype, torch.device)):
            return self.tracer.create_proxy("call_function", getattr, (self, name), {})
        return value  # such as the number of dimensions

    def __index__(self) -> int:
        return operator.index(self.tracer.concrete(self))

    def __int__(self) -> int:
        return int(self.tracer.concrete(self))

    def __float__(self) -> float:
        return float(self.tracer.concrete(self))

    def __round__(self, *digits: int) -> Any:
        return round(self.tracer.concrete(self), *digits)

    def __ceil__(self) -> int:
        return -int(-self.tracer.concrete(self) // 1)

    def __floor__(self) -> int:
        return int(self.tracer.concrete(self) // 1)

    def __len__(self) -> int:
        value = self.tracer.values[self.node]
        return int(self.shape[0]) if isinstance(value, Tensor) else len(value)

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __setitem__(self, index: Any, value: Any) -> None:
        last = next(iter(reversed(self.tracer.graph.nodes)))
        written = tuple(map(self.tracer.create_arg, (self, value, index)))
        if (last.target, last.args) != (write_, written):  # else the tracer has just recorded this write
            self.tracer.write(self, value, index)

    def _in_place(self, form: Callable[..., Any], plain: Callable[..., Any], other: Any) -> Any:
        written = isinstance(self.tracer.values[self.node], Tensor)
        return self.tracer.create_proxy("call_function", form if written else plain, (self, other), {})

    def __iadd__(self, other: Any) -> Any:
        return self._in_place(operator.iadd, operator.add, other)

    def __isub__(self, other: Any) -> Any:
        return self._in_place(operator.isub, operator.sub, other)

    def __imul__(self, other: Any) -> Any:
        return self._in_place(operator.imul, operator.mul, other)

    def __itruediv__(self, other: Any) -> Any:
        return self._in_place(operator.itruediv, operator.truediv, other)
