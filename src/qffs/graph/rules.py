"""The one table: what every operator becomes in a spiking network.

An edge of the network carries increments, and their sum over time is the quantised network's value. So an operator is

- **linear**: applied to each increment as it comes; its constant part is charged with the input;
- **spiking**: a neuron, at every activation quantiser;
- **differenced**: ``g(X_t) - g(X_{t-1})`` on the accumulated input;

or it is folded into its neighbour before, or not a signal at all (shapes, constants), or refused with a reason.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from qffs.nn.neuron import Neuron
from qffs.nn.quantizer import Quantizer


class Kind(StrEnum):
    """What a node is in the spiking network."""

    INPUT = "input"
    PLAIN = "plain"
    LINEAR = "linear"
    SUM = "sum"
    JOIN = "join"
    SPIKING = "spiking"
    DIFFERENCED = "differenced"
    FOLDED = "folded"
    OUTPUT = "output"
    REFUSED = "refused"


@dataclass(frozen=True)
class Rule:
    """A kind and, in words, what that means for the operator."""

    kind: Kind
    why: str


LINEAR = Rule(Kind.LINEAR, "applied to every increment")
SUM = Rule(Kind.SUM, "increments are added, constants are charged with the input")
JOIN = Rule(Kind.JOIN, "increments are joined, constants are charged with the input")
SPIKING = Rule(Kind.SPIKING, "a ReLU becomes a quantiser, then a neuron")
CLIPPED = Rule(Kind.SPIKING, "a clipped ReLU becomes a quantiser whose levels at first end at the clip, then a neuron")
QUANTISED = Rule(Kind.SPIKING, "a quantiser becomes a neuron")
DIFFERENCED = Rule(Kind.DIFFERENCED, "g(X_t) - g(X_{t-1}) on the accumulated input")
NONLINEAR = Rule(Kind.DIFFERENCED, "stays as it is, of the accumulated input: sends values, not single spikes")
FOLDED = Rule(Kind.FOLDED, "folded into its neighbour, or the identity, outside training")
PLAIN = Rule(Kind.PLAIN, "a shape or a constant, the same at every step")

_DIMENSIONS = (1, 2, 3)


def _modules(*patterns: str) -> list[type[nn.Module]]:
    """The classes of torch.nn of these names, with {} standing for 1, 2 and 3."""
    names = [pattern.format(d) for pattern in patterns for d in (_DIMENSIONS if "{}" in pattern else (0,))]
    return [getattr(nn, name) for name in names if hasattr(nn, name)]


MODULES: dict[type[nn.Module], Rule] = {
    **dict.fromkeys(_modules("Conv{}d", "ConvTranspose{}d", "Linear"), LINEAR),
    **dict.fromkeys(_modules("AvgPool{}d", "AdaptiveAvgPool{}d"), LINEAR),
    **dict.fromkeys(_modules("Flatten", "Unflatten", "ZeroPad{}d", "PixelShuffle", "PixelUnshuffle"), LINEAR),
    **dict.fromkeys(_modules("BatchNorm{}d", "Dropout", "Dropout{}d", "Identity"), FOLDED),
    **dict.fromkeys(_modules("MaxPool{}d", "AdaptiveMaxPool{}d"), DIFFERENCED),
    **dict.fromkeys(_modules("LeakyReLU", "PReLU", "ELU", "CELU", "SELU", "SiLU", "GELU", "Mish"), NONLINEAR),
    **dict.fromkeys(_modules("Sigmoid", "Tanh", "Softplus", "Softsign", "Hardsigmoid", "Hardswish"), NONLINEAR),
    **dict.fromkeys(_modules("Softmax", "LogSoftmax", "LayerNorm", "GroupNorm"), NONLINEAR),
    nn.Hardtanh: NONLINEAR,
    nn.ReLU: SPIKING,
    Quantizer: QUANTISED,
    Neuron: QUANTISED,
}

FUNCTIONS: dict[Any, Rule] = {
    **dict.fromkeys((operator.add, torch.add, operator.sub, torch.sub), SUM),
    **dict.fromkeys((operator.mul, torch.mul, operator.truediv, torch.div, operator.neg, torch.neg), LINEAR),
    **dict.fromkeys((torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.squeeze), LINEAR),
    **dict.fromkeys((torch.cat, torch.concat, torch.stack), JOIN),
    **dict.fromkeys((torch.unsqueeze, operator.getitem), LINEAR),
    **dict.fromkeys((torch.mean, torch.sum, torch.split, torch.chunk, F.pad), LINEAR),
    **dict.fromkeys((F.avg_pool1d, F.avg_pool2d, F.avg_pool3d), LINEAR),
    **dict.fromkeys((F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d), LINEAR),
    **dict.fromkeys((F.max_pool1d, F.max_pool2d, F.max_pool3d), DIFFERENCED),
    **dict.fromkeys((torch.max_pool1d, torch.max_pool2d, torch.max_pool3d), DIFFERENCED),
    **dict.fromkeys((F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d), DIFFERENCED),
    **dict.fromkeys((torch.matmul, torch.bmm, operator.matmul), LINEAR),
    **dict.fromkeys((F.leaky_relu, F.prelu, F.elu, F.celu, F.selu, F.silu, F.gelu, F.mish), NONLINEAR),
    **dict.fromkeys(
        (torch.sigmoid, torch.tanh, F.softplus, F.softsign, F.hardsigmoid, F.hardswish, F.hardtanh), NONLINEAR
    ),
    **dict.fromkeys((torch.softmax, F.softmax, F.log_softmax, F.layer_norm, F.group_norm), NONLINEAR),
    F.scaled_dot_product_attention: NONLINEAR,
    getattr: PLAIN,
}

METHODS: dict[str, Rule] = {
    **dict.fromkeys(("add", "sub"), SUM),
    **dict.fromkeys(("mul", "div", "neg", "mean", "sum", "chunk", "split"), LINEAR),
    **dict.fromkeys(("flatten", "view", "reshape", "permute", "transpose", "squeeze", "unsqueeze"), LINEAR),
    **dict.fromkeys(("contiguous", "matmul", "bmm"), LINEAR),
    **dict.fromkeys(("sigmoid", "tanh", "softmax", "log_softmax"), NONLINEAR),
    **dict.fromkeys(("size", "dim"), PLAIN),
}

PRODUCTS: tuple[Any, ...] = (operator.mul, torch.mul, "mul", torch.matmul, torch.bmm, operator.matmul, "matmul", "bmm")
"""Linear while one factor is a signal and the other is not; of two signals, differenced."""

QUOTIENTS: tuple[Any, ...] = (operator.truediv, torch.div, "div")
"""Linear while the divisor is no signal."""

SHAPES = ("shape", "ndim", "dtype", "device")
"""The attributes of a signal that are the same at every step."""


def label(node: fx.Node, root: nn.Module) -> str:
    """How the operator of a node is called in messages and plans: ``Conv2d``, ``max_pool2d``, ``.view``."""
    if node.op == "call_module":
        return type(root.get_submodule(str(node.target))).__name__
    if node.op == "call_method":
        return f".{node.target}"
    return str(getattr(node.target, "__name__", node.target))


def signals(node: fx.Node) -> list[fx.Node]:
    """The arguments of a node that carry a signal, in order, each as often as it is read."""
    found: list[fx.Node] = []

    def visit(argument: Any) -> None:
        if isinstance(argument, fx.Node):
            if argument.meta["signal"]:
                found.append(argument)
        elif isinstance(argument, (list, tuple)):
            for each in argument:
                visit(each)
        elif isinstance(argument, dict):
            visit(list(argument.values()))

    visit([*node.args, *node.kwargs.values()])
    return found


def _lookup(node: fx.Node, root: nn.Module) -> Rule:
    unknown = Rule(Kind.REFUSED, f"there is no rule for {label(node, root)}")
    if node.op == "call_module":
        return MODULES.get(type(root.get_submodule(str(node.target))), unknown)
    table: dict[Any, Rule] = FUNCTIONS if node.op == "call_function" else METHODS
    return table.get(node.target, unknown)


def _decide(node: fx.Node, root: nn.Module) -> Rule:
    """The rule of a node whose arguments have been classified."""
    if node.op == "placeholder":
        return Rule(Kind.INPUT, "analog, charged by the schedule")
    if node.op == "output":
        return _decide_output(node)
    read = signals(node)
    if not read:
        return PLAIN
    reason = _exception(node, root, read)
    if reason:
        return Rule(Kind.REFUSED, reason)
    if node.op == "call_module" and getattr(root.get_submodule(str(node.target)), "min_val", None) == 0:
        return CLIPPED
    return NONLINEAR if node.target in PRODUCTS and len(read) > 1 else _lookup(node, root)


def _decide_output(node: fx.Node) -> Rule:
    leaves: list[Any] = []

    def visit(argument: Any) -> None:
        if isinstance(argument, (list, tuple)):
            for each in argument:
                visit(each)
        elif isinstance(argument, dict):
            visit(list(argument.values()))
        else:
            leaves.append(argument)

    visit(node.args[0])
    for leaf in leaves:
        if not isinstance(leaf, fx.Node) or not leaf.meta["signal"] or leaf.meta.get("shape", ()) is None:
            return Rule(Kind.REFUSED, f"the network returns {leaf}, which is no tensor computed from the input")
    return Rule(Kind.OUTPUT, "read out at every step")


def _exception(node: fx.Node, root: nn.Module, read: list[fx.Node]) -> str | None:
    """Why the arguments of this call take it out of the table's rule, if they do."""
    if node.op == "call_module":
        return _exceptional_module(root.get_submodule(str(node.target)))
    if node.target in QUOTIENTS and (len(read) > 1 or node.args[0] not in read):
        return "a quotient with a signal below is not finite before that signal has arrived"
    if node.kwargs.get("rounding_mode") is not None:
        return "a rounded quotient is not linear"
    if node.target is F.pad and _option(node, 2, "mode", "constant") != "constant":
        return "only padding with zeros has a rule"
    if node.target is F.pad and _option(node, 3, "value", None) not in {None, 0}:
        return "only padding with zeros has a rule: another value is not linear"
    if node.target is getattr and node.args[1] not in SHAPES:
        return f"the attribute {node.args[1]} has no rule"
    return None


def _exceptional_module(module: nn.Module) -> str | None:
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
        return "batch norm without running statistics depends on the other images of the batch"
    if getattr(module, "return_indices", False):
        return "the indices of a max pooling are not a signal"
    return None


def _option(node: fx.Node, position: int, name: str, default: Any) -> Any:
    return node.kwargs.get(name, node.args[position] if len(node.args) > position else default)


def annotate(traced: fx.GraphModule) -> list[tuple[fx.Node, Rule]]:
    """Decide every node, set its ``meta["kind"]`` and ``meta["signal"]``, and return each with its rule, in order.

    A node that reads no signal is plain. ``meta["signal"]`` says whether a node's value changes over time.
    """
    decided = []
    for node in traced.graph.nodes:
        rule = _decide(node, traced)
        node.meta["kind"] = rule.kind
        node.meta["signal"] = rule.kind is not Kind.PLAIN
        decided.append((node, rule))
    return decided
