"""Batch norm into weights, biases out of modules: afterwards every linear operator of the graph maps 0 to 0."""

from __future__ import annotations

import copy
import operator
from collections import Counter
from typing import Any

import torch
from torch import Tensor, fx, nn

from qffs.graph.rules import Kind
from qffs.graph.trace import free_path

Weighted = (nn.modules.conv._ConvNd, nn.Linear)
"""Modules with a weight and perhaps a bias, an output channel a row."""


@torch.no_grad()
def fold(network: fx.GraphModule) -> None:
    """Fold an annotated network in place, for inference.

    Dropout and identities vanish. Batch norm with running statistics, ``y = scale * x + shift`` with
    ``scale = gamma / sqrt(var + eps)``, goes into the weights of the convolution or linear layer before it where
    that layer feeds nothing else at this call, and else becomes a product and a sum of its own. A layer that is
    called more than once is folded into a copy for each call. Last, every bias becomes a sum of its own, so that
    the schedule can charge it.
    """
    _name_constants(network)
    for node in list(network.graph.nodes):
        if node.meta.get("kind") is not Kind.FOLDED:
            continue
        module = network.get_submodule(node.target)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            _fold_batch_norm(network, node, module)
        else:
            node.replace_all_uses_with(node.args[0])
            network.graph.erase_node(node)
    _split_biases(network)
    network.delete_all_unused_submodules()
    network.graph.lint()
    network.recompile()


def _scale_and_shift(norm: nn.modules.batchnorm._BatchNorm) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -norm.running_mean.double() * scale
    if norm.weight is not None:
        scale, shift = scale * norm.weight.double(), shift * norm.weight.double()
    return scale, shift if norm.bias is None else shift + norm.bias.double()


def _fold_batch_norm(network: fx.GraphModule, node: fx.Node, norm: nn.modules.batchnorm._BatchNorm) -> None:
    scale, shift = _scale_and_shift(norm)
    source = node.args[0]
    assert isinstance(source, fx.Node)
    before = network.get_submodule(str(source.target)) if source.op == "call_module" else None
    if isinstance(before, Weighted) and len(source.users) == 1 and _channels_first(before, source):
        calls = Counter(n.target for n in network.graph.nodes if n.op == "call_module")
        folded = _scaled(before, scale, shift)
        path = str(source.target) if calls[source.target] == 1 else free_path(network, str(source.target))
        network.set_submodule(path, folded) if path == source.target else network.add_submodule(path, folded)
        source.target = path
        node.replace_all_uses_with(source)
    else:
        dtype = norm.running_mean.dtype if norm.running_mean is not None else torch.float32
        dimensions = len(node.meta["shape"]) - 2
        product = _constant(network, node, operator.mul, f"{node.target}_scale", _column(scale.to(dtype), dimensions))
        total = _constant(network, product, operator.add, f"{node.target}_shift", _column(shift.to(dtype), dimensions))
        node.replace_all_uses_with(total, delete_user_cb=lambda user: user is not product)
        product.replace_input_with(node, source)
    network.graph.erase_node(node)


def _channels_first(module: nn.Module, call: fx.Node) -> bool:
    """Whether dimension 1 of the result holds the module's output channels, as batch norm reads them."""
    return not isinstance(module, nn.Linear) or len(call.meta["shape"]) == 2


def _scaled(module: Any, scale: Tensor, shift: Tensor) -> nn.Module:
    """A copy of a weighted module whose result is ``scale * module(x) + shift`` by output channel."""
    folded = copy.deepcopy(module)
    weight = module.weight.double()
    if isinstance(module, nn.modules.conv._ConvTransposeNd):  # weight: [in, out / groups, ...]
        grouped = weight.unflatten(0, (module.groups, -1))
        rows = scale.view(module.groups, 1, -1, *(1,) * (weight.dim() - 2))
        weight = (grouped * rows).flatten(0, 1)
    else:
        weight = weight * _column(scale, weight.dim() - 1)
    bias = shift if module.bias is None else module.bias.double() * scale + shift
    folded.weight = nn.Parameter(weight.to(module.weight.dtype), requires_grad=False)
    folded.bias = nn.Parameter(bias.to(module.weight.dtype), requires_grad=False)
    return folded  # type: ignore[no-any-return]


def _column(values: Tensor, dimensions: int) -> Tensor:
    return values.reshape(-1, *(1,) * dimensions)


def _constant(network: fx.GraphModule, after: fx.Node, function: Any, path: str, value: Tensor) -> fx.Node:
    """A new node ``function(after, value)``, the value a buffer of the network."""
    path = free_path(network, path)
    parent, _, name = path.rpartition(".")
    network.get_submodule(parent).register_buffer(name, value.detach().clone())
    with network.graph.inserting_after(after):
        attribute = network.graph.get_attr(path)
    with network.graph.inserting_after(attribute):
        result = network.graph.call_function(function, (after, attribute))
    result.meta["shape"] = after.meta.get("shape")
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
            dimensions = 0 if isinstance(module, nn.Linear) else len(node.meta["shape"]) - 2
            total = _constant(
                network, node, operator.add, f"{node.target}_bias", _column(biases[id(module)], dimensions)
            )
            (attribute,) = (a for a in total.all_input_nodes if a is not node)
            node.replace_all_uses_with(total, delete_user_cb=lambda user, total=total: user is not total)
            assert attribute.op == "get_attr"


def _name_constants(network: fx.GraphModule) -> None:
    """What the code reads of a module's tensors, and numbers in sums, become buffers of their own.

    So folding may change every module, and a sum has nothing but nodes to add.
    """
    for node in list(network.graph.nodes):
        if node.op == "get_attr":
            value = operator.attrgetter(node.target)(network).detach().clone()
            node.target = free_path(network, f"{node.name}_constant")
            network.register_buffer(node.target, value)
        elif node.meta["kind"] is Kind.SUM:
            for position, argument in enumerate(node.args):
                if isinstance(argument, (int, float)):
                    path = free_path(network, f"{node.name}_constant")
                    network.register_buffer(path, torch.tensor(argument, dtype=torch.float64))
                    with network.graph.inserting_before(node):
                        node.update_arg(position, network.graph.get_attr(path))
