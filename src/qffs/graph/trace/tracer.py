"""The tracer: it runs the code of a network on stand-ins and records a graph, with an example for all sizes.

`torch.fx` reads a network by running its Python code on stand-ins. Here every stand-in also has its value on the
example. So code may decide on shapes (``if x.shape[-1] % 2``, ``B, N, C = x.shape``, ``range(depth)``): the graph
follows the example, and a guard in the graph raises an error where the network runs on other sizes. Code that decides
on the data is refused.
"""

from __future__ import annotations

import contextlib
import operator
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, fx, nn
from torch.fx import _symbolic_trace

from qffs.graph.nested import tensors
from qffs.graph.operators import expect, write_
from qffs.graph.paths import free_path
from qffs.graph.rules import is_leaf, registered_functions
from qffs.graph.site import note, site
from qffs.graph.trace.in_place import find_aliases, names
from qffs.graph.trace.proxy import Recorder, StandIn

_TORCH = str(Path(torch.__file__).parent) + os.sep
_HERE = str(Path(__file__).parents[1]) + os.sep

SIZE_READS = ("shape", "size", "dim", "ndimension", "numel", "nelement", "dtype", "device", "stride", "element_size")
"""The attributes and methods of a tensor that do not depend on its data."""

FACTORIES = ("zeros", "ones", "full", "empty", "arange", "linspace", "eye", "reshape", "broadcast_to")
"""Functions of torch that take sizes and do not look for stand-ins among them: the tracer records their calls."""


class Unreadable(Exception):
    """The error of code that cannot be a static graph."""


class DoesNotRun(Exception):
    """The error of an operator that fails on the example."""


class Tracer(Recorder):
    """A tracer that records a graph while it runs the network on an example.

    After `trace`, ``values`` holds the value of every node, and the record of each node holds ``source``, ``in_place``,
    and a ``problem`` where a write in place cannot be part of a graph (`qffs.graph.site.Site`).
    """

    proxy_buffer_attributes = True

    def __init__(self, inputs: tuple[Tensor, ...]) -> None:
        super().__init__((), registered_functions())  # type: ignore[arg-type]
        self.inputs = inputs
        self.values: dict[fx.Node, Any] = {}
        self._running = False  # true while a node runs on values, when nothing is recorded
        self._writes: list[tuple[fx.Node, list[Tensor]]] = []
        self._fixed: set[fx.Node] = set()
        self._of_data: set[fx.Node] = set()
        self._of_sizes: set[fx.Node] = set()
        self._guarded: set[fx.Node] = set()

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """Return the graph of a network, as it runs on the example."""
        with contextlib.ExitStack() as patched:
            for name in FACTORIES:
                patched.enter_context(mock.patch.object(torch, name, self._recording(getattr(torch, name))))
            patched.enter_context(mock.patch.object(torch, "is_tensor", self._is_tensor))
            # Functions that `torch.fx.wrap` would keep as one step are traced too: they need only sizes.
            patched.enter_context(mock.patch.dict(_symbolic_trace._wrapped_fns_to_patch, clear=True))
            graph = super().trace(root, concrete_args)
        find_aliases(graph, self.values, self._writes, self.inputs)
        return graph

    @property
    def where(self) -> str:
        """The path of the module whose code runs, as the end of a message."""
        return f", in {self.scope.module_path}" if self.scope.module_path else ""

    def _is_tensor(self, value: Any) -> bool:
        return isinstance(self.values[value.node] if isinstance(value, StandIn) else value, Tensor)

    def _recording(self, factory: Callable[..., Any]) -> Callable[..., Any]:
        def record(*args: Any, **kwargs: Any) -> Any:
            if self._running:
                return factory(*args, **kwargs)
            return self.create_proxy("call_function", factory, args, kwargs)

        return record

    # --- recording --------------------------------------------------------------------------------------------------

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002
        """Return whether a call of ``m`` is one node. The code of other modules is traced."""
        return is_leaf(m)

    def path_of_module(self, mod: nn.Module) -> str:
        """Return the path of a module. If the code has just made it, without weights, add it to the network first."""
        try:
            return super().path_of_module(mod)
        except NameError:
            if not is_leaf(mod):  # its code is traced as part of its caller
                return str(self.scope.module_path)
            if mod.state_dict():
                raise Unreadable(f"its code makes a {type(mod).__name__} with weights of its own{self.where}") from None
            assert isinstance(self.root, nn.Module)
            scope = f"{self.scope.module_path}." if self.scope.module_path else ""
            path = free_path(self.root, f"{scope}{type(mod).__name__.lower()}")
            parent, _, name = path.rpartition(".")
            self.root.get_submodule(parent).add_module(name, mod)
            return path

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Record a call of a module; while a node runs on values, call the module."""
        return forward(*args, **kwargs) if self._running else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Return an attribute of a module: a stand-in where it is a parameter or a buffer."""
        return attr_val if self._running else super().getattr(attr, attr_val, parameter_proxy_cache)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Return the stand-in for a node."""
        return StandIn(node, self)

    def create_proxy(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> Any:
        """Record a node, run it on the example, store its value, and return its stand-in."""
        proxy = super().create_proxy(kind, target, *args, **kwargs)
        node = proxy.node
        note(node, source=_source())
        read = [self._value(each) for each in node.all_input_nodes]
        versions = [x._version for x in tensors(read)]
        self.values[node] = self._run(node)
        changed = [x for x, version in zip(tensors(read), versions, strict=True) if x._version != version]
        if target is write_:
            x, _, index = self._arguments(node)[0]
            changed = [x[index] if x[index].untyped_storage().data_ptr() == x.untyped_storage().data_ptr() else x]
        note(node, in_place=bool(changed))
        if changed:
            self._writes.append((node, changed))
        self._note(node)
        part = names(node)[-1]
        if changed and target is not write_ and part.target is operator.getitem:
            whole, index = part.args
            if isinstance(whole, fx.Node) and isinstance(self.values[whole], Tensor):  # the whole has changed too
                stand_in: Any = self.proxy
                self.write(self.proxy(whole), proxy, fx.node.map_arg(index, stand_in))
        return proxy

    def write(self, x: fx.Proxy, value: Any, index: Any) -> None:
        """Record ``x[index] = value``."""
        self.create_proxy("call_function", write_, (x, value, index), {})

    def _run(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            position = sum(n.op == "placeholder" for n in self.values)
            return self.inputs[position] if position < len(self.inputs) else (node.args or (None,))[0]
        args, kwargs = self._arguments(node)
        self._running = True
        try:
            if node.op == "get_attr":
                return operator.attrgetter(str(node.target))(self.root)
            if node.op == "call_module":
                return self.root.get_submodule(str(node.target))(*args, **kwargs)
            if node.op == "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
            return node.target(*args, **kwargs)  # type: ignore[operator]
        except Exception as error:
            raise DoesNotRun(f"{error} (at {node.target}{described(node)})") from error
        finally:
            self._running = False

    def _arguments(self, node: fx.Node) -> Any:
        """Return the positional and the named arguments of a node, on the example."""
        return fx.node.map_arg((node.args, node.kwargs), self._value)

    def _value(self, node: fx.Node) -> Any:
        if node not in self.values:
            self.values[node] = self._run(node)  # a tensor of the network that became a node as an argument
        return self.values[node]

    def _note(self, node: fx.Node) -> None:
        """Note whether the value of a node depends on buffers alone, on sizes, or on the data."""
        if node.op == "get_attr" and not isinstance(self.values[node], nn.Parameter):
            self._fixed.add(node)
        if node.op in {"call_function", "call_method"} and all(n in self._fixed for n in node.all_input_nodes):
            self._fixed.add(node)
        if isinstance(self.values[node], Tensor):
            return
        read = node.all_input_nodes
        of_tensors = any(isinstance(self.values[n], Tensor) for n in read)
        name = node.args[1] if node.target is getattr and len(node.args) > 1 else node.target
        if any(n in self._of_data for n in read) or (of_tensors and name not in SIZE_READS):
            self._of_data.add(node)
        if any(n in self._of_sizes for n in read) or (of_tensors and name not in {"dtype", "device"}):
            self._of_sizes.add(node)

    # --- questions of the code --------------------------------------------------------------------------------------

    def concrete(self, proxy: fx.Proxy) -> Any:
        """Return the value of a stand-in on the example, and add a guard of a size to the graph.

        Raises `Unreadable` where the value depends on the data.
        """
        node = proxy.node
        value = self.values[node]
        if node in self._fixed:
            return value
        if isinstance(value, Tensor) or node in self._of_data:
            raise Unreadable(f"its code depends on the data: it asks for the value of a tensor{self.where}")
        if node in self._of_sizes and node not in self._guarded:
            self._guarded.add(node)
            where = described(node).removeprefix(", ")
            self.create_proxy("call_function", expect, (proxy, value, where), {})
        return value

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Return the truth of a value on the example, where it does not depend on the data."""
        return bool(self.concrete(obj))

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """Yield one stand-in for each element."""
        return iter([obj[position] for position in range(len(obj))])  # type: ignore[index]

    def keys(self, obj: fx.Proxy) -> Any:
        """Return the keys of a dictionary."""
        return self.values[obj.node].keys()


def _source() -> tuple[str, int] | None:
    """Return file and line of the network's own code that runs now; None where only code of torch runs."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code is not fx.Tracer.trace.__code__:
        file = frame.f_code.co_filename
        if not file.startswith((_TORCH, _HERE, "<")):
            return file, frame.f_lineno
        frame = frame.f_back  # type: ignore[assignment]
    return None


def described(node: fx.Node) -> str:
    """Return file name and line of a node in the network's source, as the end of a message; "" where it has none.

    >>> described(fx.Graph().placeholder("x"))
    ''
    """
    source = site(node).source
    return f", {Path(source[0]).name}, line {source[1]}" if source else ""
