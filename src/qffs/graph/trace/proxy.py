"""Stand-ins for the values of a network while it is traced, and what keeps them apart from the rest of the process.

A stand-in records the operators that the code applies to it. What tracing replaces in torch, it replaces in its own
thread only, and no stand-in outlives the tracing: not in a cache, nor in a global, nor in the network itself.
"""

from __future__ import annotations

import contextlib
import functools
import math
import operator
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor, fx, nn
from torch.fx import _symbolic_trace

from qffs.graph.call import flat
from qffs.graph.nested import form, plain_key
from qffs.graph.operators import write_

FACTORIES = ("zeros", "ones", "full", "empty", "reshape", "broadcast_to")
"""Functions of torch that take sizes and do not look for stand-ins among them: the tracer records their calls."""

TABLES = ("arange", "linspace", "eye")
"""Functions of torch that make tables, which code may keep: their results are plain tensors, unless a size is one of
the network."""


SIZED = ("__getitem__", "narrow", "expand")
"""Methods of a tensor that do not look for stand-ins among their sizes: the tracer records them for plain tensors."""

_SET_ATTRIBUTE = nn.Module.__setattr__
_ONE = threading.RLock()  # torch.fx replaces functions of torch, so one network is traced at a time


class Unreadable(Exception):
    """The error of code that cannot be a static graph."""


class Recorder(fx.Tracer):
    """The part of a tracer that stand-ins use; ``values`` holds the value of every node on the example."""

    values: dict[fx.Node, Any]
    running: bool = False
    """True while a node runs on values, when nothing is recorded."""

    def kept_apart(self, stand_in: fx.Proxy) -> fx.Proxy:
        """Return a stand-in, and see to it that it does not outlive the tracing."""
        raise NotImplementedError

    def concrete(self, proxy: fx.Proxy) -> Any:
        """Return the value of a stand-in on the example, where the network's code needs a number."""
        raise NotImplementedError

    def write(self, x: fx.Proxy, value: Any, index: Any) -> None:
        """Record ``x[index] = value``."""
        raise NotImplementedError

    def create_arg(self, a: Any) -> Any:
        """Return an argument as a graph holds it: for a value of a class of its own, the call of it."""
        built = form(a)
        if built is not None:
            from qffs.graph.trace.assembly import assembled  # imported here because few networks need it

            return assembled(self, a, built)
        try:
            return super().create_arg({self._key(k): v for k, v in a.items()} if isinstance(a, dict) else a)
        except NotImplementedError:
            why = f"its code returns or passes on a {type(a).__name__}, which a graph cannot hold"
            raise NotImplementedError(f"{why}: use a tuple or a dict") from None

    def _key(self, key: Any) -> Any:
        key = fx.node.map_aggregate(key, lambda each: self.concrete(each) if isinstance(each, fx.Proxy) else each)
        plain = plain_key(key)
        if plain != key:
            raise Unreadable(f"its code returns or passes on a dictionary with the key {key!r}: use a string")
        return plain


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
            return self.tracer.kept_apart(super().__getattr__(name))
        if isinstance(value, (Tensor, torch.Size, torch.dtype, torch.device)):
            return self.tracer.create_proxy("call_function", getattr, (self, name), {})
        return value  # such as the number of dimensions

    def __hash__(self) -> int:
        """Return the hash of the value, so that the same size is one key; tensors are keys by identity."""
        is_tensor = isinstance(self.tracer.values[self.node], Tensor)
        return object.__hash__(self) if is_tensor else hash(self.tracer.concrete(self))

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


def _as_number(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, *digits: function(self.tracer.concrete(self), *digits)


def _in_place(name: str) -> Callable[..., Any]:
    def record(self: StandIn, other: Any) -> Any:
        written = isinstance(self.tracer.values[self.node], Tensor)  # a number is a new one
        function = getattr(operator, f"i{name}" if written else name)
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return record


for _function in (operator.index, int, float, round, math.ceil, math.floor):
    setattr(StandIn, f"__{_function.__name__}__", _as_number(_function))
for _name in ("add", "sub", "mul", "truediv"):
    setattr(StandIn, f"__i{_name}__", _in_place(_name))


@dataclass
class _Table:
    """A table that the code has made without a stand-in, and the call that made it."""

    made: Tensor
    factory: Callable[..., Any]
    args: Any
    kwargs: Any
    call: Any = None


class Isolated(Recorder):
    """The part of a tracer that keeps it apart from the rest of the process."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._tables: dict[int, _Table] = {}
        self._stand_ins: list[weakref.ref[fx.Proxy]] = []
        self._thread = threading.get_ident()

    @property
    def records(self) -> bool:
        """Whether what is called now is to be recorded: neither a node that runs on values nor another thread."""
        return not self.running and threading.get_ident() == self._thread

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Return the stand-in for a node."""
        return self.kept_apart(StandIn(node, self))

    def kept_apart(self, stand_in: fx.Proxy) -> fx.Proxy:
        """Return a stand-in, and see to it that it does not outlive the tracing."""
        self._stand_ins.append(weakref.ref(stand_in))
        return stand_in

    @contextlib.contextmanager
    def apart(self, root: nn.Module) -> Iterator[None]:
        """Trace one network at a time, and leave no stand-in behind (`qffs.graph.trace.leftovers`).

        At the end the modules of the network have the attributes and buffers that they had before, and the constants
        that the graph reads.
        """
        before = [(module, dict(vars(module)), dict(module._buffers)) for module in root.modules()]
        try:
            # Functions that `torch.fx.wrap` would keep as one step are traced too: they need only sizes.
            with _ONE, mock.patch.dict(_symbolic_trace._wrapped_fns_to_patch, clear=True):
                yield
        finally:
            constants = {str(node.target) for node in self.graph.find_nodes(op="get_attr")}
            for module, attributes, buffers in before:
                new = [name for name in vars(module) if name not in attributes]
                for name in new:
                    if module is not root or name not in constants:
                        del vars(module)[name]
                vars(module).update(attributes)
                module._buffers.update(buffers)
            self._tables.clear()
            kept = [stand_in for each in self._stand_ins if (stand_in := each()) is not None]
            if kept:
                from qffs.graph.trace.leftovers import settle  # imported here because few networks need it

                settle(kept, self.values)

    @contextlib.contextmanager
    def patched(self) -> Iterator[None]:
        """Replace in this thread what the code of a network calls. `torch.fx` itself replaces it in all threads."""
        with contextlib.ExitStack() as stack:
            for name in FACTORIES:
                stack.enter_context(patched_here(torch, name, self._recording(getattr(torch, name))))
            for name in TABLES:
                stack.enter_context(patched_here(torch, name, self._table(getattr(torch, name))))
            # torch lists the methods of a tensor at the first question: here, before some are replaced.
            torch.overrides.is_tensor_method_or_property(torch.relu)
            for name in SIZED:
                stack.enter_context(patched_here(Tensor, name, self._sized(name, getattr(Tensor, name))))
            stack.enter_context(patched_here(torch, "narrow", self._sized("narrow", torch.narrow)))
            stack.enter_context(patched_here(torch, "is_tensor", self._is_tensor))
            stack.enter_context(patched_here(nn.Module, "__setattr__", self._set_attribute))
            for name in ("call", "getattr"):
                by_fx, original = f"__{name}__", getattr(_symbolic_trace, f"_orig_module_{name}")
                stack.enter_context(patched_here(nn.Module, by_fx, getattr(nn.Module, by_fx), original))
            # All threads see this flag, and a compiled network does not run while it is set.
            stack.enter_context(mock.patch.object(_symbolic_trace, "_is_fx_tracing_flag", False))
            yield

    def recorded_table(self, a: Any) -> Any:
        """Return the stand-in for a table that the code made and has not changed; any other value as it is."""
        table = self._tables.get(id(a))
        if table is None or table.made._version:
            return a
        table.call = table.call or self.create_proxy("call_function", table.factory, table.args, table.kwargs)
        return table.call

    def _is_tensor(self, value: Any) -> bool:
        return isinstance(self.values[value.node] if isinstance(value, StandIn) else value, Tensor)

    def _recording(self, factory: Callable[..., Any]) -> Callable[..., Any]:
        def record(*args: Any, **kwargs: Any) -> Any:
            if self.running:
                return factory(*args, **kwargs)
            return self.create_proxy("call_function", factory, args, kwargs)

        return record

    def _table(self, factory: Callable[..., Any]) -> Callable[..., Any]:
        recorded = self._recording(factory)

        def table(*args: Any, **kwargs: Any) -> Any:
            if self.running or any(isinstance(each, fx.Proxy) for each in (*args, *kwargs.values())):
                return recorded(*args, **kwargs)
            made = factory(*args, **kwargs)
            self._tables[id(made)] = _Table(made, factory, args, kwargs)
            return made

        return table

    def _sized(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        """Return a method that is recorded where it is called with sizes of the network, and runs otherwise."""

        def sized(x: Tensor, *args: Any, **kwargs: Any) -> Any:
            if self.running or not any(isinstance(each, fx.Proxy) for each in flat((x, args, kwargs))):
                return method(x, *args, **kwargs)
            if name == "__getitem__":
                return self.create_proxy("call_function", operator.getitem, (x, *args), {})
            return self.create_proxy("call_method", name, (x, *args), kwargs)

        return sized

    def _set_attribute(self, module: nn.Module, name: str, value: Any) -> None:
        """Set an attribute of a module. A stand-in that the code puts in the place of a buffer hides the buffer."""
        if isinstance(value, fx.Proxy) and name in module._buffers:
            object.__setattr__(module, name, value)
        else:
            if name in module._buffers:
                vars(module).pop(name, None)
            _SET_ATTRIBUTE(module, name, value)


@contextlib.contextmanager
def patched_here(home: Any, name: str, here: Callable[..., Any], elsewhere: Any = None) -> Iterator[None]:
    """Replace a function in this thread. Other threads call ``elsewhere``, by default the function that was there.

    So does whoever keeps the replacement for later, as a module does that is imported meanwhile, and a cache of torch.
    """
    original = elsewhere or getattr(home, name)
    in_thread = {threading.get_ident(): here}

    @functools.wraps(original)
    def dispatch(*args: Any, **kwargs: Any) -> Any:
        return in_thread.get(threading.get_ident(), original)(*args, **kwargs)

    with mock.patch.object(home, name, dispatch):
        try:
            yield
        finally:
            in_thread.clear()
