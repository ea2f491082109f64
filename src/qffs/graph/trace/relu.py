"""The spellings of a ReLU: calls, comparisons and sums that compute ``max(x, 0)``, clipped from above or not."""

from __future__ import annotations

import math
import operator
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from qffs.graph.call import option
from qffs.graph.rules import QUOTIENTS, name_of

RELU_CALLS: tuple[Any, ...] = (F.relu, torch.relu, "relu")
CLAMPS = ("clamp", "clip", "clamp_min", "hardtanh", "threshold")
CASTS = ("float", "double", "bfloat16", "to", "type_as", "at_least")
ABOVE, BELOW = ("gt", "ge"), ("lt", "le")
FULL = {"full": 1, "full_like": 1, "new_full": 2}
"""The functions that make a tensor of one number, with the position of the number."""


@dataclass(frozen=True)
class Spellings:
    """The question which nodes of a traced network compute a ReLU.

    network: the network; weights: the names of its tensors that training or loading may change.
    """

    network: nn.Module
    weights: Collection[str]

    def relu(self, node: fx.Node) -> tuple[nn.Module, fx.Node] | None:
        """Return a new module that computes what a node computes, a ReLU, and its input; None for any other node."""
        if node.op not in {"call_module", "call_function", "call_method"}:
            return None
        x = option(node, 0, "input")
        if node.op == "call_module":
            module = _of_module(self.network.get_submodule(str(node.target)))
        else:
            module = self._of_call(node, x)
            x = x if module is not None else self._input(node)
        return (module or nn.ReLU(), x) if isinstance(x, fx.Node) and (module or node.op != "call_module") else None

    def _of_call(self, node: fx.Node, x: Any) -> nn.Module | None:
        """Return the ReLU that a function or method of x by itself computes."""
        name = name_of(node)
        if node.target in RELU_CALLS or (name == "leaky_relu" and option(node, 1, "negative_slope") == 0):
            return nn.ReLU()
        if node.target is F.relu6:
            return nn.Hardtanh(0.0, 6.0)
        if name not in CLAMPS:
            return None
        low = option(node, 1, "min", option(node, 1, "min_val", option(node, 1, "threshold")))
        high = option(node, 2, "max", option(node, 2, "max_val", option(node, 2, "value")))
        if not self._is_zero(low, x):
            return None
        if high is None or (name == "threshold" and high == 0):
            return nn.ReLU()
        is_clipped = isinstance(high, (int, float)) and high > 0 and name != "threshold"
        return _clipped(high) if is_clipped else None

    def _input(self, node: fx.Node) -> Any:
        """Return x where a node computes the ReLU of x from two or three operands, one of them often 0."""
        name, operands = name_of(node), node.args
        if node.kwargs or len(operands) not in {2, 3}:
            return None
        first, second, last = operands[0], operands[1], operands[-1]
        pairs = ((first, last), (last, first))
        match name:
            case "maximum" | "max" if len(operands) == 2 and isinstance(second, fx.Node):
                return next((x for x, other in pairs if self._is_zero(other, x)), None)
            case "where":  # where(x > 0, x, 0), where(x < 0, 0, x)
                ways = ((second, last, ABOVE), (last, second, BELOW))
                return next(
                    (x for x, y, signs in ways if self._compares(first, x, signs) and self._is_zero(y, x)), None
                )
            case "write":  # x[x < 0] = 0
                return first if self._compares(last, first, BELOW) and self._is_zero(second, first) else None
            case "mul" | "multiply" if any(self._compares(_plain(factor), x, ABOVE) for x, factor in pairs):
                return next(x for x, factor in pairs if self._compares(_plain(factor), x, ABOVE))
            case _:  # (x + abs(x)) / 2
                halved = (name in QUOTIENTS and last == 2) or (name in {"mul", "multiply"} and 0.5 in operands)
                return _added(next(iter(node.all_input_nodes), None)) if halved else None

    def _compares(self, condition: Any, x: Any, signs: tuple[str, ...]) -> bool:
        """Return whether a condition is ``x > 0``, for the signs `ABOVE`, or ``x < 0``, in any spelling."""
        if not isinstance(condition, fx.Node) or not isinstance(x, fx.Node) or len(condition.args) != 2:
            return False
        name, (left, right) = name_of(condition), condition.args
        turned = ABOVE if signs is BELOW else BELOW
        forward = name in signs and left is x and self._is_zero(right, x)
        return forward or (name in turned and right is x and self._is_zero(left, x))

    def _is_zero(self, value: Any, x: Any) -> bool:
        """Return whether a value is a constant 0: a number, or a tensor of the shape of x or of one element."""
        value = _plain(value)
        if not isinstance(value, fx.Node):
            return isinstance(value, (int, float)) and value == 0
        name = str(name_of(value))
        if value.op == "get_attr":
            tensor = operator.attrgetter(str(value.target))(self.network)
            is_constant = isinstance(tensor, Tensor) and value.target not in self.weights
            return is_constant and tensor.numel() == 1 and not bool(tensor.any())
        if name in FULL and option(value, FULL[name], "fill_value") != 0:
            return False
        if name in {"zeros_like", "full_like"}:
            return option(value, 0, "input") is x
        sizes = value.args[1:] if name.startswith("new_") else value.args
        sizes = sizes[:1] if name in FULL else sizes
        return (name in FULL or name in {"zeros", "new_zeros"}) and all(
            size in (1, (), (1,), [1], []) for size in sizes
        )


def _of_module(module: nn.Module) -> nn.Module | None:
    if isinstance(module, nn.Hardtanh) and module.min_val == 0:
        return _clipped(module.max_val)
    threshold = type(module) is nn.Threshold and (module.threshold, module.value) == (0, 0)
    leaky = type(module) is nn.LeakyReLU and module.negative_slope == 0
    return nn.ReLU() if type(module) is nn.ReLU or threshold or leaky else None


def _clipped(high: float) -> nn.Module:
    return nn.ReLU() if math.isinf(high) else nn.Hardtanh(0.0, float(high))


def _plain(value: Any) -> Any:
    """Return the value under casts to other types."""
    while isinstance(value, fx.Node) and (value.target if value.op == "call_method" else name_of(value)) in CASTS:
        value = value.args[0]
    return value


def _added(total: fx.Node | None) -> Any:
    """Return x of ``x + abs(x)``."""
    if total is None or name_of(total) != "add" or total.kwargs or len(total.args) != 2:
        return None
    for x, other in (total.args, total.args[::-1]):
        if isinstance(other, fx.Node) and name_of(other) in {"abs", "absolute"} and option(other, 0, "input") is x:
            return x
    return None
