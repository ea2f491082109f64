"""Normalizing a traced graph: every call gets one form. No call is in place, and every activation is a module."""

from __future__ import annotations

import copy
import inspect
import math
import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from qffs.graph.call import arguments, assembles, option
from qffs.graph.operators import at_least, expect, write, write_
from qffs.graph.paths import free_path, has, owner
from qffs.graph.rules import MODULES, name_of
from qffs.graph.site import note, site
from qffs.graph.trace.relu import SPELLED, Spellings

IN_PLACE: dict[Any, Any] = {
    write_: write,
    **{getattr(operator, f"i{name}"): getattr(operator, name) for name in ("add", "sub", "mul", "truediv")},
    **{
        getattr(home, f"{name}_"): getattr(home, name)
        for home in (torch, F)
        for name in dir(home)
        if not name.startswith("_") and callable(getattr(home, f"{name}_", None))
    },
}
"""In-place functions, each with its plain form: an edge of a graph may be read more than once."""

FILLS: dict[Any, Any] = {"zero_": torch.zeros_like, "fill_": torch.full_like}
"""In-place methods whose plain form has another name."""

RELU_CALLS: tuple[Any, ...] = (F.relu, torch.relu, "relu", F.relu6)
DROPOUTS: dict[str | None, type[nn.Module]] = {
    "dropout": nn.Dropout,
    "dropout1d": nn.Dropout1d,
    "dropout2d": nn.Dropout2d,
    "dropout3d": nn.Dropout3d,
    "alpha_dropout": nn.AlphaDropout,
    "feature_alpha_dropout": nn.FeatureAlphaDropout,
}
WHERE = {"call_function": ("condition", "input", "other"), "call_method": ("input", "condition", "other")}
"""The names of the operands of ``where`` in its two forms, in order."""


def normalize(traced: fx.GraphModule, model: nn.Module) -> None:
    """Bring every call into the form that the table of rules has, in place; ``model``: the traced model."""
    _replace_batch_norms(traced, model)
    _make_plain(traced)
    _replace_activations(traced, Spellings(traced, model.state_dict().keys()))
    _replace_casts(traced, model)
    _erase_unused(traced.graph)


def hide_constants(traced: fx.GraphModule, model: nn.Module) -> None:
    """Leave the tensors that the state dict of the model does not hold out of that of its graph, in place.

    They are tensors that its code makes, attributes, and buffers that are not persistent. They become buffers that are
    not persistent; those of the model itself move to a module, because a copy of a graph saves all its own buffers.
    """
    saved, place = model.state_dict().keys(), free_path(traced, "constants")
    read = [node for node in traced.graph.find_nodes(op="get_attr") if node.target not in saved]
    for target in dict.fromkeys(str(node.target) for node in read):
        parent, _, name = target.rpartition(".")
        home = traced.get_submodule(parent)
        value = getattr(home, name)
        if not isinstance(value, Tensor):  # a scripted module, which is refused
            continue
        delattr(home, name)
        if not parent and not has(traced, place):
            traced.add_submodule(place, nn.Module())
        traced.get_submodule(parent or place).register_buffer(name, value, persistent=False)
        for node in read:
            if node.target == target and not parent:
                node.target = f"{place}.{name}"
    traced.recompile()


def _replace_batch_norms(traced: fx.GraphModule, model: nn.Module) -> None:
    """Replace a functional batch norm of a class derived from a batch norm of torch by a call of that batch norm.

    The parameters, buffers and submodules stay. So the statistics are still learned in train mode; the functional form,
    traced in eval mode, would not learn them.
    """
    for node in traced.graph.nodes:
        path = owner(node)
        norm = model.get_submodule(path)
        if name_of(node) != "batch_norm" or not isinstance(norm, nn.modules.batchnorm._BatchNorm):
            continue
        if not path:  # the model itself: there is no place for the batch norm of torch
            why = "in training it would not learn its statistics: give qffs a model that contains it (nn.Sequential)"
            note(node, problem=None if type(norm) in MODULES else why)
            continue
        kind = next(kind for kind in type(norm).__mro__ if kind in MODULES)
        plain = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        plain._parameters, plain._buffers = norm._parameters, norm._buffers
        plain._modules = traced.get_submodule(path)._modules
        traced.set_submodule(path, plain)
        node.op, node.target, node.args, node.kwargs = "call_module", path, (node.args[0],), {}


def _make_plain(traced: fx.GraphModule) -> None:
    """Give operands by position, and replace in-place calls by plain ones, whose result all later nodes read."""
    for path, module in list(traced.named_modules()):
        if getattr(module, "inplace", False) is True:
            plain = copy.copy(module)  # the model keeps its module: the checks compare with it
            plain.inplace = False
            traced.set_submodule(path, plain)
    order = {node: position for position, node in enumerate(traced.graph.nodes)}
    for node in list(traced.graph.nodes):
        _positional(node)
        if not site(node).in_place:
            continue
        if not _without_in_place(node):
            why = "it changes a tensor in place, which a static graph cannot hold"
            note(node, problem=site(node).problem or why)
        (changed, *_) = node.all_input_nodes
        for user in list(changed.users):
            if order[user] > order[node]:
                user.replace_input_with(changed, node)


def _without_in_place(node: fx.Node) -> bool:
    """Replace an in-place call by its plain form, and return whether there is one."""
    if node.op == "call_method" and node.target in FILLS:
        node.op, node.target = "call_function", FILLS[node.target]
        return True
    if node.op != "call_function":
        plain = str(node.target).removesuffix("_")
        if node.op == "call_method" and hasattr(Tensor, plain):
            node.target = plain
        return node.op == "call_module" or node.target == plain
    if node.target in IN_PLACE:
        node.target = IN_PLACE[node.target]
        return True
    parameters = list(inspect.signature(node.target).parameters) if inspect.isfunction(node.target) else []
    if "inplace" not in parameters:
        return False
    position = parameters.index("inplace")
    node.args = tuple(False if index == position else argument for index, argument in enumerate(node.args))
    node.kwargs = {name: argument for name, argument in node.kwargs.items() if name != "inplace"}
    return True


def _positional(node: fx.Node) -> None:
    """Give the first operands of a call by position, where all other passes expect them."""
    if assembles(node):
        return
    operands, named = list(node.args), dict(node.kwargs)
    names = WHERE[node.op] if name_of(node) == "where" else ("input", "other")
    for position, name in enumerate(names):
        if name in named and len(operands) == position:
            operands.append(named.pop(name))
    node.args, node.kwargs = tuple(operands), named
    if node.op == "call_method" and name_of(node) == "where":
        x, condition, other = operands
        node.op, node.target, node.args = "call_function", torch.where, (condition, x, other)


def _erase_unused(graph: fx.Graph) -> None:
    """Erase calls whose result is not read. Calls of modules, guards and calls with a problem stay."""
    for node in reversed(list(graph.nodes)):
        idle = node.op in {"get_attr", "call_function", "call_method"} and node.target not in (torch._assert, expect)
        if idle and not node.users and not site(node).problem:
            graph.erase_node(node)


def _relu(node: fx.Node, traced: fx.GraphModule, spellings: Spellings) -> tuple[nn.Module, Any] | None:
    """Return a new module for a node that computes a ReLU, clipped from above or not, and its input; else None."""
    module: nn.Module | None
    if node.op == "call_module":
        module, x = traced.get_submodule(str(node.target)), option(node, 0, "input")
    elif node.op in {"call_function", "call_method"} and node.target in RELU_CALLS:
        module, x = nn.Hardtanh(0.0, 6.0) if node.target is F.relu6 else nn.ReLU(), option(node, 0, "input")
    elif name_of(node) in SPELLED:
        module, x = spellings.relu(node) or (None, None)
    else:
        return None
    if isinstance(module, nn.Hardtanh) and module.min_val == 0 and math.isfinite(module.max_val):
        return nn.Hardtanh(0.0, module.max_val), x
    endless = isinstance(module, nn.Hardtanh) and (module.min_val, module.max_val) == (0, math.inf)
    threshold = type(module) is nn.Threshold and (module.threshold, module.value) == (0, 0)
    leaky = type(module) is nn.LeakyReLU and module.negative_slope == 0
    return (nn.ReLU(), x) if type(module) is nn.ReLU or endless or threshold or leaky else None


def _replace_activations(traced: fx.GraphModule, spellings: Spellings) -> None:
    """Replace every call of a ReLU or of functional dropout by a call of a new module, one module for each call."""
    seen: set[str] = set()
    for node in list(traced.graph.nodes):
        prefix = f"{owner(node)}." if owner(node) else ""
        if name_of(node) == "masked_fill":
            x, mask, value = (option(node, position, name) for position, name in enumerate(("input", "mask", "value")))
            node.op, node.target, node.args, node.kwargs = "call_function", torch.where, (mask, value, x), {}
        relu, x = _relu(node, traced, spellings) or (None, None)
        if relu is not None and node.op == "call_module" and node.target not in seen:
            traced.set_submodule(str(node.target), relu)  # a new module, never in place: edges are read more than once
            seen.add(str(node.target))
        elif relu is not None:
            _call(traced, node, str(node.target) if node.op == "call_module" else prefix + "relu", relu, x)
        elif name_of(node) in DROPOUTS and not _drops(node):
            dropout = DROPOUTS[name_of(node)]
            _call(
                traced, node, f"{prefix}{name_of(node)}", dropout(option(node, 1, "p", 0.5)), option(node, 0, "input")
            )


def _drops(node: fx.Node) -> bool:
    """Return whether a functional dropout draws random numbers outside training too."""
    default = "alpha" not in str(name_of(node))
    return bool(option(node, 2, "training", option(node, 2, "train", default)))


CASTS = {"float": torch.float32, "double": torch.float64, "half": torch.float16, "bfloat16": torch.bfloat16}


def _replace_casts(traced: fx.GraphModule, model: nn.Module) -> None:
    """Replace casts to a floating type by `at_least`, which never reduces a value below the type of the weights."""
    casts = {node: CASTS[name] for name in CASTS for node in traced.graph.find_nodes(op="call_method", target=name)}
    for node in traced.graph.find_nodes(op="call_method", target="to"):
        dtypes = [argument for argument in arguments(node)[1:] if isinstance(argument, torch.dtype)]
        if len(arguments(node)) == 2 and dtypes and dtypes[0].is_floating_point:
            casts[node] = dtypes[0]
    types = [weight.dtype for weight in model.parameters() if weight.dim() and weight.is_floating_point()]
    path = free_path(traced, "like")
    if casts and types:
        traced.register_buffer(path, torch.zeros((), dtype=types[0]), persistent=False)
    for node, dtype in casts.items():
        node.op, node.target, node.args, node.kwargs = "call_function", at_least, (node.args[0], dtype), {}
        if types:  # a constant that changes its type when the network does, as in model.double()
            with traced.graph.inserting_before(node):
                node.args = (*node.args, traced.graph.get_attr(path))


def _call(traced: fx.GraphModule, node: fx.Node, path: str, module: nn.Module, x: Any) -> None:
    """Add ``module`` at ``path`` or the next free path, and make ``node`` a call of it on ``x``."""
    path = free_path(traced, path)
    traced.add_submodule(path, module)
    node.op, node.target, node.args, node.kwargs = "call_module", path, (x,), {}
