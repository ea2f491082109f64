"""model -> graph: every call of an activation its own module, in-place forms made plain, shapes on every node."""

from __future__ import annotations

import copy
import inspect
import traceback
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from qffs.errors import InvalidArgument, NotConvertible, NotTraceable
from qffs.graph.check import check
from qffs.nn.modes import evaluating

Example = Tensor | tuple[Tensor, ...]

IN_PLACE: dict[Any, Any] = {
    **{name + "_": name for name in ("add", "sub", "mul", "div", "neg", "relu", "clamp", "clip")},
    F.relu_: F.relu,
    torch.relu_: torch.relu,
}
"""In-place forms and the plain form each becomes: an edge of a graph may be read more than once."""

RELU_CALLS: tuple[Any, ...] = (F.relu, torch.relu, "relu")
CLAMP_CALLS: tuple[Any, ...] = (torch.clamp, torch.clip, "clamp", "clip", F.hardtanh)


def trace(model: nn.Module, example: Example) -> fx.GraphModule:
    """The graph of ``model`` in eval mode, with the model's own (copied) modules and state-dict keys.

    example: a batch (or a tuple of batches, one an input) of the shape and type the network takes, the batch in
    dimension 0. Each node's ``meta["shape"]`` is the shape of what it returns on the example. Every call of a ReLU,
    whatever its form, becomes a call of an `nn.ReLU` of its own; functional dropout becomes a module, so that it still
    follows train and eval mode. ``model`` itself is not touched. Raises `NotTraceable` where the model's Python
    code depends on the data or its graph computes something else, `InvalidArgument` where it cannot run on the
    example, `NotConvertible` where an image's result depends on its batch.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    _refuse_wrapped(model)
    if not inputs or not all(isinstance(x, Tensor) for x in inputs):
        raise InvalidArgument("example must be a tensor, or a tuple of tensors, one for each input of the network")
    _refuse_hooks(model)
    model = copy.deepcopy(model)
    training = {path: module.training for path, module in model.named_modules()}
    with evaluating(model):
        traced = fx.GraphModule(model, _symbolic(model, len(inputs)))
        _keep_unused(traced, model)
        _make_plain(traced)
        _own_activations(traced)
        traced.graph.lint()
        traced.recompile()
        traced.eval()
        check(traced, model, inputs)
    for path, module in traced.named_modules():
        module.training = training.get(path, model.training)
    return traced


def _refuse_wrapped(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise InvalidArgument(f"the model must be a torch.nn.Module, not a {type(model).__name__}")
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise InvalidArgument("the model is wrapped for parallel training: pass model.module")
    if hasattr(model, "_orig_mod"):
        raise InvalidArgument("the model is compiled: pass the network that was given to torch.compile")
    if type(model).__module__.startswith("torch.jit"):
        raise NotTraceable("a TorchScript module cannot be read: pass the network it was made from")
    if any(tensor.dtype == torch.float16 for tensor in model.state_dict().values()):
        raise InvalidArgument("float16 has no rule here: use float32, float64 or bfloat16")


def _refuse_hooks(model: nn.Module) -> None:
    for path, module in model.named_modules():
        if module._forward_hooks or module._forward_pre_hooks:
            raise NotConvertible(
                f"this network cannot be converted: {path or 'the model'} has forward hooks, which a graph cannot "
                "hold; remove them first (prune.remove, remove_weight_norm, hook.remove())"
            )


def _symbolic(model: nn.Module, inputs: int) -> fx.Graph:
    name, parameters = type(model).__name__, list(inspect.signature(model.forward).parameters.values())
    if any(p.kind in {p.VAR_POSITIONAL, p.VAR_KEYWORD} for p in parameters[:inputs]):
        raise NotTraceable(f"the inputs of {name} must have names: its forward takes any number of them")
    missing = [p.name for p in parameters[inputs:] if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    if missing or len(parameters) < inputs:
        raise InvalidArgument(f"the example has {inputs} inputs, but {name} takes {[p.name for p in parameters]}")
    defaults = {p.name: p.default for p in parameters[inputs:] if p.default is not p.empty}
    try:
        graph = fx.Tracer().trace(model, concrete_args=defaults or None)
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "torch" not in Path(f.filename).parts]
        last = frames[-1]
        raise NotTraceable(
            f"{name} cannot be read as a static graph: {error} "
            f"(in {last.name}, {Path(last.filename).name}, line {last.lineno}: {last.line})"
        ) from error
    for node in graph.nodes:
        node.type = None  # an annotation that is a string, as under `annotations`, cannot be pickled
    for node in list(graph.find_nodes(op="placeholder"))[inputs:]:
        _erase(graph, node)  # an input with a default, which is now part of the graph
    return graph


def _erase(graph: fx.Graph, node: fx.Node) -> None:
    """Erase a node and all that reads it: the assertions that an input has its default."""
    for user in list(node.users):
        _erase(graph, user)
    graph.erase_node(node)


def _keep_unused(traced: fx.GraphModule, model: nn.Module) -> None:
    """Give the graph module also what its graph never reads, so that every key of the state dict is kept."""
    for path, module in model.named_modules(remove_duplicate=False):
        if path and not _has(traced, path):
            traced.add_submodule(path, module)
    for path, tensor in [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]:
        parent, _, name = path.rpartition(".")
        home = traced.get_submodule(parent)
        if not hasattr(home, name):
            home.register_parameter(name, tensor) if isinstance(tensor, nn.Parameter) else home.register_buffer(
                name, tensor
            )


def _make_plain(traced: fx.GraphModule) -> None:
    """Arguments by position; in-place calls become plain, and who reads the value later reads the call's result."""
    order = {node: position for position, node in enumerate(traced.graph.nodes)}
    for node in list(traced.graph.nodes):
        _positional(node)
        if not _in_place(node, traced):
            continue
        (changed, *_) = node.all_input_nodes
        node.target = IN_PLACE.get(node.target, node.target)
        node.kwargs = {key: value for key, value in node.kwargs.items() if key != "inplace"}
        for user in list(changed.users):
            if order[user] > order[node]:
                user.replace_input_with(changed, node)


def _positional(node: fx.Node) -> None:
    """Give a call its first operands by position, as every other pass reads them."""
    operands, named = list(node.args), dict(node.kwargs)
    for position, name in enumerate(("input", "other")):
        if name in named and len(operands) == position:
            operands.append(named.pop(name))
    node.args, node.kwargs = tuple(operands), named


def _in_place(node: fx.Node, traced: nn.Module) -> bool:
    if node.op == "call_module":
        return bool(getattr(traced.get_submodule(str(node.target)), "inplace", False))
    if node.op == "call_method":
        return str(node.target).endswith("_") and not str(node.target).endswith("__")
    return node.op == "call_function" and (node.target in IN_PLACE or bool(node.kwargs.get("inplace")))


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


def _relu(node: fx.Node, traced: fx.GraphModule) -> nn.Module | None:
    """The ReLU that a call is, clipped from above or not, as a module of its own; None where it is something else."""
    if node.op == "call_module":
        module = traced.get_submodule(str(node.target))
        if isinstance(module, nn.Hardtanh) and module.min_val == 0:
            return nn.Hardtanh(0.0, module.max_val)
        return nn.ReLU() if isinstance(module, nn.ReLU) else None
    if node.op not in {"call_function", "call_method"}:
        return None
    if node.target in RELU_CALLS:
        return nn.ReLU()
    if node.target is F.relu6:
        return nn.Hardtanh(0.0, 6.0)
    if node.target not in CLAMP_CALLS:
        return None
    given = [*node.args[1:3], None, None]
    low = node.kwargs.get("min", node.kwargs.get("min_val", given[0]))
    high = node.kwargs.get("max", node.kwargs.get("max_val", given[1]))
    if isinstance(low, (int, float)) and low == 0 and (high is None or (isinstance(high, (int, float)) and high > 0)):
        return nn.ReLU() if high is None else nn.Hardtanh(0.0, float(high))
    return None


def _own_activations(traced: fx.GraphModule) -> None:
    """Every call of a ReLU or of functional dropout becomes a call of a module of its own."""
    seen: set[str] = set()
    for node in list(traced.graph.nodes):
        prefix = f"{owner(node)}." if owner(node) else ""
        relu = _relu(node, traced)
        if relu is not None and node.op == "call_module" and node.target not in seen:
            traced.set_submodule(str(node.target), relu)  # a new one: never in place, edges are read more than once
            seen.add(str(node.target))
        elif relu is not None:
            _call(traced, node, str(node.target) if node.op == "call_module" else prefix + "relu", relu)
        elif node.op == "call_function" and node.target is F.dropout:
            probability = node.kwargs.get("p", node.args[1] if len(node.args) > 1 else 0.5)
            _call(traced, node, prefix + "dropout", nn.Dropout(probability))


def _call(traced: fx.GraphModule, node: fx.Node, path: str, module: nn.Module) -> None:
    """Make ``node`` a call of ``module``, new at a path like this one, on its first argument."""
    path = free_path(traced, path)
    traced.add_submodule(path, module)
    node.op, node.target = "call_module", path
    node.args, node.kwargs = (node.args[0] if node.args else node.kwargs["input"],), {}
