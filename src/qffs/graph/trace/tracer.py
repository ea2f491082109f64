"""The tracer: it runs the code of a network on stand-ins and records a graph, with an example for all sizes.

`torch.fx` reads a network by running its Python code on stand-ins. Here every stand-in also has its value on the
example. So code may decide on shapes (``if x.shape[-1] % 2``, ``B, N, C = x.shape``, ``range(depth)``): the graph
follows the example, and a guard in the graph raises an error where the network runs on other sizes. Code that decides
on the data is refused.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from qffs.graph.nested import tensors
from qffs.graph.operators import DoesNotRun, expect, write_
from qffs.graph.paths import free_path
from qffs.graph.rules import is_leaf, registered_functions
from qffs.graph.site import described, note, source
from qffs.graph.trace.proxy import Isolated, StandIn, Unreadable
from qffs.graph.trace.same import find_aliases, names
from qffs.nn.inspect import listed

TYPE_READS = (
    *("dtype", "device", "layout", "is_floating_point", "is_complex", "is_signed", "is_sparse", "is_cuda"),
    *("get_device", "element_size", "is_contiguous"),
)
"""The attributes, methods and functions of a tensor that depend neither on its data nor on its shape."""

SIZE_READS = ("shape", "size", "dim", "ndimension", "numel", "nelement", "stride", *TYPE_READS)
"""The attributes, methods and functions of a tensor that do not depend on its data."""

HOOKS = ("register_hook", "register_post_accumulate_grad_hook", "retain_grad")
"""The methods that attach to a tensor what happens in the backward pass."""


OTHER_WEIGHTS = "its code calls a module with other weights (torch.func.functional_call): use torch.nn.functional"
"""The reason against weights that a module has for one call."""


class Tracer(Isolated):
    """A tracer that records a graph while it runs the network on an example.

    After `trace`, ``values`` holds the value of every node, and the record of each node holds ``source``, ``in_place``,
    and a ``problem`` where a write in place cannot be part of a graph (`qffs.graph.site.Site`).
    """

    proxy_buffer_attributes = True

    def __init__(self, inputs: tuple[Tensor, ...], placeholders: list[str]) -> None:
        super().__init__((), registered_functions())
        self.inputs, self._placeholders = inputs, placeholders
        self.values: dict[fx.Node, Any] = {}
        self._writes: list[tuple[fx.Node, list[Tensor]]] = []
        self._fixed: set[fx.Node] = set()
        self._of_data: set[fx.Node] = set()
        self._of_sizes: set[fx.Node] = set()
        self._guarded: set[fx.Node] = set()
        self._plain: set[int] = set()  # the memory of tensors that are neither weights nor buffers
        self._without_grad: set[fx.Node] = set()
        self._detached: dict[fx.Node, Any] = {}

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """Return the graph of a network, as it runs on the example.

        No stand-in outlives the tracing: where the code has put one into a list, a cache or an attribute, its value on
        the example takes its place. Other threads may use torch and other networks meanwhile.
        """
        self._weights = {module: dict(module._parameters) for module in root.modules()}
        with self.apart(root), torch.enable_grad():
            graph = super().trace(root, concrete_args)
            self._detached.clear()
        find_aliases(graph, self.values, self._writes, self.inputs)
        return graph

    def create_args_for_root(self, root_fn: Callable[..., Any], *_: Any, **__: Any) -> tuple[Any, list[Any]]:
        """Return the code of the network and its arguments: itself, and a stand-in for each input of the example."""
        own = getattr(vars(self.root).get("forward"), "__func__", root_fn)

        def read(*args: Any) -> Any:
            with self.patched():
                return own(*args)

        return read, [self.root, *(self.create_proxy("placeholder", name, (), {}) for name in self._placeholders)]

    @property
    def where(self) -> str:
        """The path of the module whose code runs, as the end of a message."""
        return f", in {self.scope.module_path}" if self.scope.module_path else ""

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
            assert isinstance(self.root, nn.Module)
            if mod.state_dict() or any(isinstance(value, fx.Proxy) for value in vars(mod).values()):
                kept = listed(self.root, mod)
                advice = "run it once first" if mod in set(self.root.modules()) else "make it in __init__"
                why = f"its code makes a {type(mod).__name__} with weights of its own{self.where}: {advice}"
                raise Unreadable(f"{kept}: use torch.nn.ModuleList" if kept else why) from None
            scope = f"{self.scope.module_path}." if self.scope.module_path else ""
            path = free_path(self.root, f"{scope}{type(mod).__name__.lower()}")
            parent, _, name = path.rpartition(".")
            self.root.get_submodule(parent).add_module(name, mod)
            return path

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Record a call of a module; while a node runs on values, and in other threads, call the module."""
        if self.records and any(m._parameters[name] is not own for name, own in self._weights.get(m, {}).items()):
            raise Unreadable(f"{OTHER_WEIGHTS}{self.where}")
        return super().call_module(m, forward, args, kwargs) if self.records else forward(*args, **kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Return an attribute of a module: a stand-in where it is a parameter or a buffer."""
        return super().getattr(attr, attr_val, parameter_proxy_cache) if self.records else attr_val

    def create_arg(self, a: Any) -> Any:
        """Return what stands in a node for an argument: for a table that has not changed, the call that made it."""
        try:
            return super().create_arg(self.recorded_table(a))
        except NameError:
            kept = listed(self.root, a)
            why = f"{kept}: use torch.nn.ParameterList" if kept else "its code reads a weight that is no part of it"
            raise Unreadable(f"{why}{self.where}") from None

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **options: Any) -> Any:
        """Record a node, run it on the example, store its value, and return its stand-in."""
        self._refuse_modes()
        if kind == "call_method" and target in HOOKS:
            raise Unreadable(f"its code calls {target} on a tensor, which a graph cannot hold{self.where}")
        if (kind, target) == ("call_method", "numpy"):
            raise TypeError(f"its code leaves PyTorch (numpy){self.where}")
        if torch.is_grad_enabled() and self._without_grad:
            args, kwargs = fx.node.map_aggregate((args, kwargs), self._without_gradient)
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **options)
        node = proxy.node
        if not torch.is_grad_enabled() and node.all_input_nodes and not _in_function():
            self._without_grad.add(node)
        note(node, source=source())
        read = [self._value(each) for each in node.all_input_nodes]
        versions = [x._version for x in tensors(read)]
        self.values[node] = self._run(node)
        changed = [x for x, version in zip(tensors(read), versions, strict=True) if x._version != version]
        if target is write_:
            x, _, index = self._arguments(node)[0]
            changed = [x[index] if _memory(x[index]) == _memory(x) else x]
        note(node, in_place=bool(changed))
        if changed and (isinstance((args or (None,))[0], Tensor) or self._plain & set(map(_memory, changed))):
            raise Unreadable(f"its code writes values of the network into a plain tensor, as a constant is{self.where}")
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

    def _refuse_modes(self) -> None:
        """Raise `Unreadable` in a context whose effect on the operators a graph does not hold."""
        if torch.is_inference_mode_enabled():
            raise Unreadable(f"its code runs in torch.inference_mode, in which nothing can be trained{self.where}")
        devices = {"cpu", "cuda", *(x.device.type for x in self.inputs)} - {"meta"}
        if not self.running and any(map(torch.is_autocast_enabled, devices)):
            raise Unreadable(f"its code turns torch.autocast on, which a graph cannot hold{self.where}")

    def _without_gradient(self, value: Any) -> Any:
        """Return the stand-in through which code with gradients reads a value that was computed under no_grad."""
        if not isinstance(value, StandIn) or value.node not in self._without_grad:
            return value
        computed = self.values[value.node]
        if not isinstance(computed, Tensor) or not computed.is_floating_point():
            return value
        if value.node not in self._detached:
            self._without_grad.remove(value.node)  # else reading it here would never end
            self._detached[value.node] = self.create_proxy("call_method", "detach", (value,), {})
            self._without_grad.add(value.node)
        return self._detached[value.node]

    def write(self, x: fx.Proxy, value: Any, index: Any) -> None:
        """Record ``x[index] = value``."""
        self.create_proxy("call_function", write_, (x, value, index), {})

    def _run(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            position = sum(n.op == "placeholder" for n in self.values)
            return self.inputs[position] if position < len(self.inputs) else (node.args or (None,))[0]
        args, kwargs = self._arguments(node)
        self.running = True
        try:
            return self._call(node, args, kwargs)
        except Exception as error:
            raise DoesNotRun(f"{error} (at {node.target}{described(node)})") from error
        finally:
            self.running = False

    @torch.no_grad()
    def _call(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        """Run a node on its arguments."""
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(self.root)
        if node.op == "call_module":
            return self.root.get_submodule(str(node.target))(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]

    def _arguments(self, node: fx.Node) -> Any:
        """Return the positional and the named arguments of a node, on the example."""
        return fx.node.map_arg((node.args, node.kwargs), self._value)

    def _value(self, node: fx.Node) -> Any:
        if node not in self.values:
            self.values[node] = self._run(node)  # a tensor of the network that became a node as an argument
            kept = (*self.root.parameters(), *self.root.buffers())
            self._plain.update(_memory(x) for x in tensors(self.values[node]) if all(x is not each for each in kept))
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
        name = getattr(name, "__name__", name)
        if any(n in self._of_data for n in read) or (of_tensors and name not in SIZE_READS):
            self._of_data.add(node)
        if any(n in self._of_sizes for n in read) or (of_tensors and name not in TYPE_READS):
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


def _memory(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


def _in_function() -> bool:
    """Return whether a `torch.autograd.Function` runs, in which gradients are off without a meaning."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code is not torch.autograd.Function.apply.__func__.__code__:  # type: ignore[attr-defined]
        frame = frame.f_back  # type: ignore[assignment]
    return frame is not None
