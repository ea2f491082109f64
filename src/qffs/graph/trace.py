"""model -> graph: every call of an activation its own module, in-place forms made plain, shapes on every node."""

from __future__ import annotations

import copy
import operator
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from qffs.errors import InvalidArgument, NotConvertible, NotTraceable
from qffs.nn.modes import evaluating

Example = Tensor | tuple[Tensor, ...]

PLAIN: dict[Any, Any] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    "add_": "add",
    "sub_": "sub",
    "mul_": "mul",
    "div_": "div",
    "relu_": "relu",
    "clamp_": "clamp",
    F.relu_: F.relu,
    torch.relu_: torch.relu,
}
"""In-place forms and the plain form each becomes: a graph's edges are read more than once."""

_VIEW_NAMES = (
    *("chunk", "contiguous", "expand", "flatten", "narrow", "permute", "reshape", "split", "squeeze", "transpose"),
    *("unbind", "unflatten", "unsqueeze", "view"),
)
VIEWS: frozenset[Any] = frozenset(
    [getattr, operator.getitem, *(getattr(torch, name) for name in _VIEW_NAMES if hasattr(torch, name)), *_VIEW_NAMES]
)
"""Operators whose result may be another name for their argument's memory."""

RELU_CALLS: tuple[Any, ...] = (F.relu, torch.relu, "relu")


def trace(model: nn.Module, example: Example) -> fx.GraphModule:
    """The graph of ``model`` in eval mode, with the model's own (copied) modules and state-dict keys.

    example: a batch (or a tuple of batches, one an input) of the shape and type the network takes.
    Each node's ``meta["shape"]`` is the shape of what it returns on the example. Every call of a ReLU, whatever
    its form, becomes a call of an `nn.ReLU` of its own; functional dropout becomes a module, so that it still
    follows train and eval mode. ``model`` itself is not touched. Raises `NotTraceable` where the model's Python
    code depends on the data, `InvalidArgument` where it cannot run on the example.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    if not all(isinstance(x, Tensor) for x in inputs):
        raise InvalidArgument("example must be a tensor, or a tuple of tensors, one for each input of the network")
    model = copy.deepcopy(model)
    training = {path: module.training for path, module in model.named_modules()}
    with evaluating(model):
        traced = fx.GraphModule(model, _symbolic(model))
        for node in traced.graph.nodes:
            node.type = None  # an annotation that is a string, as under `annotations`, cannot be pickled
        _make_plain(traced)
        _own_activations(traced)
        traced.graph.lint()
        traced.recompile()
        traced.eval()
        _record_shapes(traced, inputs)
    for path, module in traced.named_modules():
        module.training = training.get(path, model.training)
    return traced


def _symbolic(model: nn.Module) -> fx.Graph:
    try:
        return fx.Tracer().trace(model)
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "torch" not in Path(f.filename).parts]
        last = frames[-1]
        raise NotTraceable(
            f"{type(model).__name__} cannot be read as a static graph: {error} "
            f"(in {last.name}, {Path(last.filename).name}, line {last.lineno}: {last.line})"
        ) from error


def _make_plain(traced: fx.GraphModule) -> None:
    """In-place calls become plain ones; what later reads the changed value then reads the call's result."""
    order = {node: position for position, node in enumerate(traced.graph.nodes)}
    for node in list(traced.graph.nodes):
        if not _in_place(node, traced):
            continue
        (changed, *_) = node.all_input_nodes
        neighbours = [n for n in (*changed.users, *changed.all_input_nodes) if n is not node]
        aliases = [n for n in neighbours if _may_share(n, changed, traced)]
        if any(order[user] > order[node] for alias in aliases for user in alias.users):
            raise NotConvertible(
                f"this network cannot be converted: {node.target} at {owner(node) or node.name} changes a value in "
                "place that is also read through a view; write the plain form instead"
            )
        node.target = PLAIN.get(node.target, node.target)
        node.kwargs = {key: value for key, value in node.kwargs.items() if key != "inplace"}
        for user in list(changed.users):
            if order[user] > order[node]:
                user.replace_input_with(changed, node)


def _in_place(node: fx.Node, traced: nn.Module) -> bool:
    if node.op == "call_module":
        return bool(getattr(traced.get_submodule(str(node.target)), "inplace", False))
    if node.op == "call_method":
        return str(node.target).endswith("_") and not str(node.target).endswith("__")
    return node.op == "call_function" and (node.target in PLAIN or bool(node.kwargs.get("inplace")))


def _may_share(node: fx.Node, with_: fx.Node, traced: nn.Module) -> bool:
    """Whether one of two neighbours in the graph may be a view of the other's memory."""
    call = node if with_ in node.all_input_nodes else with_
    if call.op == "call_module":
        return isinstance(traced.get_submodule(str(call.target)), (nn.Flatten, nn.Identity, nn.Dropout))
    return call.op in {"call_function", "call_method"} and call.target in VIEWS


def owner(node: fx.Node) -> str:
    """The path of the module in whose ``forward`` the node was called; "" for the model itself."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0]) if stack else ""


def free_path(traced: nn.Module, path: str) -> str:
    """``path``, or the first of ``path_2, path_3, ...`` that no attribute of ``traced`` has."""
    candidate, number = path, 1
    while _has(traced, candidate):
        number += 1
        candidate = f"{path}_{number}"
    return candidate


def _has(module: nn.Module, path: str) -> bool:
    parent, _, name = path.rpartition(".")
    try:
        return hasattr(module.get_submodule(parent), name)
    except AttributeError:
        return False


def _is_relu(node: fx.Node) -> bool:
    if node.target not in RELU_CALLS and node.target not in {torch.clamp, "clamp"}:
        return False
    if node.target in RELU_CALLS:
        return True
    limits = {**dict(zip(("min", "max"), node.args[1:], strict=False)), **node.kwargs}
    return bool(limits.get("min") == 0) and limits.get("max") is None


def _own_activations(traced: fx.GraphModule) -> None:
    seen: set[str] = set()
    for node in list(traced.graph.nodes):
        prefix = f"{owner(node)}." if owner(node) else ""
        if node.op == "call_module" and isinstance(traced.get_submodule(str(node.target)), nn.ReLU):
            if node.target in seen:
                _call(traced, node, str(node.target), nn.ReLU)
            else:
                traced.set_submodule(str(node.target), nn.ReLU())  # never in place: edges are read more than once
            seen.add(str(node.target))
        elif node.op in {"call_function", "call_method"} and _is_relu(node):
            _call(traced, node, prefix + "relu", nn.ReLU)
        elif node.op == "call_function" and node.target is F.dropout:
            probability = node.kwargs.get("p", node.args[1] if len(node.args) > 1 else 0.5)
            _call(traced, node, prefix + "dropout", partial(nn.Dropout, probability))


def _call(traced: fx.GraphModule, node: fx.Node, path: str, build: Callable[[], nn.Module]) -> None:
    """Make ``node`` a call of a new module, ``build()``, on its first argument."""
    path = free_path(traced, path)
    traced.add_submodule(path, build())
    node.op, node.target = "call_module", path
    node.args, node.kwargs = (node.args[0] if node.args else node.kwargs["input"],), {}


class _Shapes(fx.Interpreter):
    def run_node(self, n: fx.Node) -> Any:
        try:
            result = super().run_node(n)
        except Exception as error:
            raise InvalidArgument(
                f"the network does not run on an example of shape {self.shapes}: {error} (at {n.target})"
            ) from error
        n.meta["shape"] = tuple(result.shape) if isinstance(result, Tensor) else None
        return result

    shapes: str = ""


@torch.no_grad()
def _record_shapes(traced: fx.GraphModule, inputs: tuple[Tensor, ...]) -> None:
    interpreter = _Shapes(traced)
    interpreter.shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
    interpreter.extra_traceback = False
    interpreter.run(*inputs)
