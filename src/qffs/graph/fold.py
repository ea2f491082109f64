"""Folding: batch norm goes into weights, and biases become sums. Then every linear operator maps 0 to 0."""

from __future__ import annotations

import copy
import operator
from collections import Counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from qffs.graph.call import option, replace_argument
from qffs.graph.paths import free_path
from qffs.graph.rules import name_of
from qffs.graph.site import Kind, note, site, tensor_shape

Weighted = (nn.modules.conv._ConvNd, nn.Linear)
"""Modules with a weight and perhaps a bias: convolutions, transposed ones too, and linear layers."""

WEIGHTED = frozenset(("linear", *(f"{name}{d}d" for name in ("conv", "conv_transpose") for d in (1, 2, 3))))
"""Functions whose arguments 1 and 2 are a weight and perhaps a bias."""

CONSTANT_PADDING = tuple(getattr(nn, f"ConstantPad{d}d") for d in (1, 2, 3))


@torch.no_grad()
def fold(network: fx.GraphModule) -> None:
    """Fold a classified network in place, for inference.

    Values that do not depend on the input are computed once. Dropout and identities are removed. Batch norm with
    running statistics, ``y = scale * x + shift`` with ``scale = gamma / sqrt(var + eps)``, goes into the weights of the
    convolution or linear layer before it, where nothing else reads the result of that call; else it becomes a product
    and a sum. A layer that is called more than once is folded into one copy for each call. Last, every bias, and the
    value of every constant padding, becomes a sum, so that the schedule can charge it.
    """
    _compute_constants(network)
    _shape_anywhere(network)
    _fold_batch_norms(network)
    for node in list(network.graph.nodes):
        if site(node).kind is Kind.FOLDED:
            node.replace_all_uses_with(node.args[0])
            network.graph.erase_node(node)
    _split_biases(network)
    _split_functional_biases(network)
    _split_padding(network)
    network.delete_all_unused_submodules()
    network.graph.lint()
    network.recompile()


@torch.no_grad()
def fold_batch_norms(network: fx.GraphModule) -> None:
    """Fold only the batch norms of a classified network, in place, for training that continues without them."""
    _fold_batch_norms(network)
    network.delete_all_unused_submodules()
    network.recompile()
    network.requires_grad_()


def _fold_batch_norms(network: fx.GraphModule) -> None:
    for node in list(network.graph.nodes):
        norm = batch_norm(network, node) if site(node).kind is Kind.FOLDED else None
        if norm is not None:
            _fold_batch_norm(network, node, norm)


def _shape_anywhere(network: fx.GraphModule) -> None:
    """Replace ``view`` by ``reshape``, for any memory layout, and let ``squeeze`` keep a batch of one image."""
    for node in network.graph.nodes:
        if site(node).kind is not Kind.LINEAR:
            continue
        if node.op == "call_method" and node.target in {"view", "view_as"}:
            node.target = {"view": "reshape", "view_as": "reshape_as"}[node.target]
        if name_of(node) == "squeeze" and len(node.args) == 1 and not node.kwargs:
            source = site(node.args[0])
            ones = tuple(d for d, size in enumerate(source.shape or ()) if size == 1 and d != source.batch[0])
            node.args = (*node.args, ones)


def batch_norm(network: fx.GraphModule, node: fx.Node) -> nn.modules.batchnorm._BatchNorm | None:
    """Return the batch norm that a node calls, as a module; None where the node calls something else."""
    if node.op == "call_module":
        module = network.get_submodule(str(node.target))
        return module if isinstance(module, nn.modules.batchnorm._BatchNorm) else None
    if name_of(node) != "batch_norm":
        return None
    names = ("running_mean", "running_var", "weight", "bias")
    mean, var, weight, bias = (_value(network, option(node, position, name)) for position, name in enumerate(names, 1))
    assert mean is not None
    norm = nn.BatchNorm1d(len(mean), eps=option(node, 7, "eps", 1e-5), affine=weight is not None or bias is not None)
    norm.running_mean, norm.running_var = mean, var
    if norm.affine:
        norm.weight = nn.Parameter(torch.ones_like(mean) if weight is None else weight)
        norm.bias = nn.Parameter(torch.zeros_like(mean) if bias is None else bias)
    return norm


def _value(network: fx.GraphModule, constant: fx.Node | None) -> Tensor | None:
    return None if constant is None else operator.attrgetter(str(constant.target))(network)


def scale_and_shift(norm: nn.modules.batchnorm._BatchNorm, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return ``gamma / sqrt(var + eps)`` and ``beta - mean * scale`` for each channel, computed in a type."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.to(dtype) + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight.to(dtype)
    shift = -norm.running_mean.to(dtype) * scale
    return scale, shift if norm.bias is None else shift + norm.bias.to(dtype)


def _fold_batch_norm(network: fx.GraphModule, node: fx.Node, norm: nn.modules.batchnorm._BatchNorm) -> None:
    scale, shift = scale_and_shift(norm, torch.float64)
    source = node.args[0]
    assert isinstance(source, fx.Node)
    before = layer_before(network, node)
    if before is not None:
        calls = Counter(n.target for n in network.graph.nodes if n.op == "call_module")
        folded = copy.deepcopy(before)
        folded.weight, folded.bias = (nn.Parameter(x, requires_grad=False) for x in scaled(before, scale, shift))
        path = str(source.target) if calls[source.target] == 1 else free_path(network, str(source.target))
        network.set_submodule(path, folded) if path == source.target else network.add_submodule(path, folded)
        source.target = path
        node.replace_all_uses_with(source)
    else:
        dtype = norm.running_mean.dtype if norm.running_mean is not None else torch.float32
        dimensions = len(tensor_shape(node)) - 2
        path = str(node.target) if node.op == "call_module" else node.name
        product = _constant(network, node, operator.mul, f"{path}_scale", _column(scale.to(dtype), dimensions))
        total = _constant(network, product, operator.add, f"{path}_shift", _column(shift.to(dtype), dimensions))
        node.replace_all_uses_with(total, delete_user_cb=lambda user: user is not product)
        product.replace_input_with(node, source)
    network.graph.erase_node(node)


def layer_before(network: fx.GraphModule, node: fx.Node) -> Any:
    """Return the module of `Weighted` whose result only a batch norm reads, the call ``node``; None where none is."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    module = network.get_submodule(str(source.target)) if source.op == "call_module" else None
    if not isinstance(module, Weighted) or len(source.users) > 1:
        return None
    # Batch norm reads channels in dimension 1, where a linear layer has its own only in a matrix.
    return module if not isinstance(module, nn.Linear) or len(tensor_shape(source)) == 2 else None


def scaled(layer: Any, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weight and bias with which a layer returns ``scale * layer(x) + shift``, computed in scale's type."""
    weight = layer.weight.to(scale.dtype)
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):  # weight: [in, out / groups, ...]
        grouped = weight.unflatten(0, (layer.groups, -1))
        rows = scale.view(layer.groups, 1, -1, *(1,) * (weight.dim() - 2))
        weight = (grouped * rows).flatten(0, 1)
    else:
        weight = weight * _column(scale, weight.dim() - 1)
    bias = shift if layer.bias is None else layer.bias.to(scale.dtype) * scale + shift
    return weight.to(layer.weight.dtype), bias.to(layer.weight.dtype)


def _column(values: Tensor, dimensions: int) -> Tensor:
    return values.reshape(-1, *(1,) * dimensions)


def _constant(network: fx.GraphModule, after: fx.Node, function: Any, path: str, value: Tensor) -> fx.Node:
    """Add a node ``function(after, value)``, with the value as a buffer of the network, and return it."""
    path = free_path(network, path)
    parent, _, name = path.rpartition(".")
    network.get_submodule(parent).register_buffer(name, value.detach().clone())
    with network.graph.inserting_after(after):
        return _called(function, after, network.graph.get_attr(path))


def _called(function: Any, first: fx.Node, second: fx.Node) -> fx.Node:
    """Add a node ``function(first, second)`` behind the second, with the shape of the first, and return it."""
    with second.graph.inserting_after(second):
        result = second.graph.call_function(function, (first, second))
    note(result, shape=site(first).shape, batch=site(first).batch)
    return result


def _split_biases(network: fx.GraphModule) -> None:
    biases: dict[int, Tensor] = {}
    for node in list(network.graph.nodes):
        if node.op != "call_module":
            continue
        module = network.get_submodule(node.target)
        if not isinstance(module, Weighted):
            continue
        if module.bias is not None:
            biases[id(module)] = module.bias
            module.bias = None
        if id(module) in biases:
            dimensions = 0 if isinstance(module, nn.Linear) else len(tensor_shape(node)) - 2
            _add(network, node, f"{node.target}_bias", _column(biases[id(module)], dimensions))


def _split_functional_biases(network: fx.GraphModule) -> None:
    for node in list(network.graph.nodes):
        bias = option(node, 2, "bias") if name_of(node) in WEIGHTED else None
        if bias is None or site(node).kind is not Kind.LINEAR:
            continue
        node.args = tuple(None if argument is bias else argument for argument in node.args)
        node.kwargs = {name: argument for name, argument in node.kwargs.items() if name != "bias"}
        dimensions = 0 if name_of(node) == "linear" else len(tensor_shape(node)) - 2
        with network.graph.inserting_after(node):  # reshape in the graph: the bias may be computed from sizes
            column = network.graph.call_function(torch.reshape, (bias, (-1, *(1,) * dimensions)))
        note(column, kind=Kind.PLAIN)
        _replace_uses(node, _called(operator.add, node, column))


def _split_padding(network: fx.GraphModule) -> None:
    """Replace padding with another value than zero: pad with zeros, then add the value where the padding is."""
    for node in list(network.graph.nodes):
        if site(node).kind is not Kind.LINEAR:
            continue
        module = network.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, CONSTANT_PADDING):
            padding, value = module.padding, module.value
        elif name_of(node) == "pad" and option(node, 2, "mode", "constant") == "constant":
            padding, value = option(node, 1, "pad"), option(node, 3, "value") or 0
        else:
            continue
        if value == 0:
            continue
        source = node.args[0]
        assert isinstance(source, fx.Node)
        node.op, node.target, node.args, node.kwargs = "call_function", F.pad, (source, padding), {}
        with network.graph.inserting_after(node):  # in the graph: the padding may be computed from sizes
            zeros = network.graph.call_function(torch.zeros_like, (source,))
        with network.graph.inserting_after(zeros):
            border = network.graph.call_function(F.pad, (zeros, padding), {"value": value})
        for plain, like in ((zeros, source), (border, node)):
            note(plain, kind=Kind.PLAIN, shape=site(like).shape)
        _replace_uses(node, _called(operator.add, node, border))


def _add(network: fx.GraphModule, node: fx.Node, path: str, value: Tensor) -> None:
    """Let all readers of ``node`` read ``node`` plus a constant instead."""
    _replace_uses(node, _constant(network, node, operator.add, path, value))


def _replace_uses(node: fx.Node, total: fx.Node) -> None:
    """Let all readers of ``node`` read ``total`` instead, except ``total``, which is computed from ``node``."""
    node.replace_all_uses_with(total, delete_user_cb=lambda user: user is not total)


def _compute_constants(network: fx.GraphModule) -> None:
    """Replace every value that does not depend on the input, and every number in a sum, by a buffer or a literal.

    Then folding may change every module, and all operands of a sum are nodes.
    """
    values: dict[fx.Node, Any] = {}
    runner = fx.Interpreter(network)
    runner.extra_traceback = False
    for node in list(network.graph.nodes):
        if node.op in {"placeholder", "output"} or not all(read in values for read in node.all_input_nodes):
            continue
        runner.env = values
        values[node] = runner.run_node(node)
    for node, value in values.items():
        readers = [user for user in node.users if user not in values]
        if not readers:
            continue
        with network.graph.inserting_before(node):
            constant = _buffer(network, f"{node.name}_constant", value) if isinstance(value, Tensor) else value
        for reader in readers:
            replace_argument(reader, node, constant)
    for node in reversed(values):
        if not node.users:
            network.graph.erase_node(node)
    for node in list(network.graph.nodes):
        if site(node).kind in {Kind.SUM, Kind.JOIN}:
            _name_numbers(network, node)


def _name_numbers(network: fx.GraphModule, node: fx.Node) -> None:
    operands = {"where": (1, 2), "write": (0, 1)}  # the operands of other joins are tensors
    positions = range(len(node.args)) if site(node).kind is Kind.SUM else operands.get(str(name_of(node)), ())
    for position in positions:
        argument = node.args[position]
        if isinstance(argument, (int, float)):
            with network.graph.inserting_before(node):
                value = torch.tensor(argument, dtype=torch.float64 if isinstance(argument, float) else None)
                node.update_arg(position, _buffer(network, f"{node.name}_constant", value))
        elif isinstance(argument, fx.Node) and not site(argument).signal and site(argument).shape is None:
            with network.graph.inserting_before(node):  # a size: a number that the graph computes
                named = network.graph.call_function(torch.full, ((), argument), {"dtype": torch.float64})
            note(named, kind=Kind.PLAIN, shape=())
            node.update_arg(position, named)


def _buffer(network: fx.GraphModule, path: str, value: Tensor) -> fx.Node:
    path = free_path(network, path)
    network.register_buffer(path, value.detach().clone())
    constant = network.graph.get_attr(path)
    note(constant, kind=Kind.PLAIN, shape=tuple(value.shape))
    return constant
